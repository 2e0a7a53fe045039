"""Eviction managers for tests, and keys for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_cache.eviction import ShardedLru, SimpleLru, TinyUfoEviction
from pingora_cache.key import CacheKey, CompactCacheKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_cache.eviction import EvictionManager

__all__ = ["FRESH", "MANAGERS", "key_for"]

FRESH = 1_000_000.0
"""Some time until which objects are fresh; no manager looks at it."""

MANAGERS: dict[str, Callable[[int], EvictionManager]] = {
    "SimpleLru": SimpleLru,
    "ShardedLru": lambda limit: ShardedLru(4, limit),
    "TinyUfoEviction": TinyUfoEviction,
}
"""Makes a manager with a limit, by the name of its class."""


def key_for(name: str | int, user_tag: str = "1", variance: bytes | None = None) -> CompactCacheKey:
    """Make a key.

    Args:
        name: What it is made of.
        user_tag: Its user tag.
        variance: Its variance, 16 bytes.

    Returns:
        The key, as stores and managers keep it.
    """
    return CompactCacheKey(CacheKey(str(name)).primary_hash, variance, user_tag)
