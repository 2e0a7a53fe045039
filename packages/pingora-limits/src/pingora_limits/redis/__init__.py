"""Counters and limiters over many machines, through Redis or Valkey: the extra ``redis``."""

from pingora_limits.redis._connecting import connect
from pingora_limits.redis._link import RedisClient
from pingora_limits.redis.inflight import RedisInflight
from pingora_limits.redis.rate import RedisRate
from pingora_limits.redis.sliding_window import RedisSlidingWindow
from pingora_limits.redis.token_bucket import RedisTokenBucket

__all__ = [
    "RedisClient",
    "RedisInflight",
    "RedisRate",
    "RedisSlidingWindow",
    "RedisTokenBucket",
    "connect",
]
