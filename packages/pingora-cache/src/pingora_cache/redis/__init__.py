"""A cache that many machines share, in Redis or Valkey: the extra ``redis``."""

from pingora_cache.redis._connecting import connect
from pingora_cache.redis._link import REDIS_AWAY, REDIS_REFUSED, RedisClient
from pingora_cache.redis._shared import RedisTuning
from pingora_cache.redis.storage import RedisStorage

__all__ = [
    "REDIS_AWAY",
    "REDIS_REFUSED",
    "RedisClient",
    "RedisStorage",
    "RedisTuning",
    "connect",
]
