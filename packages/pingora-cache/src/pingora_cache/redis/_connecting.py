"""A client of Redis that suits a cache."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

__all__ = ["connect"]


def connect(url: str, *, timeout: float = 1.0) -> Redis:
    """Make a client that tries once more, on a new connection, and does not wait for long.

    A connection that was idle may have been closed by a server or a firewall. Anything else than
    that the storage knows better what to do about. The client connects when it is first used, so it
    can be made before a fork.

    Args:
        url: Where Redis is: ``redis://host:port/0``, ``rediss://...``, ``unix://...``.
        timeout: Seconds to connect, and to wait for an answer.

    Returns:
        The client; close it with ``aclose``.
    """
    return Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 1),
        retry_on_error=[RedisConnectionError],
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        socket_keepalive=True,
    )
