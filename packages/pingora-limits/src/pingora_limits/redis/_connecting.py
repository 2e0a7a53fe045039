"""A client of Redis that suits limits."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

__all__ = ["connect"]


def connect(url: str, *, timeout: float = 1.0) -> Redis:
    """Make a client that neither retries nor waits for long.

    The limits here know what to do when Redis does not answer; a client that tries again by itself
    would only be late. It connects when it is first used, so it can be made before a fork.

    Args:
        url: Where Redis is: ``redis://host:port/0``, ``rediss://...``, ``unix://...``.
        timeout: Seconds to connect, and to wait for an answer.

    Returns:
        The client; close it with ``aclose``.
    """
    return Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        socket_keepalive=True,
    )
