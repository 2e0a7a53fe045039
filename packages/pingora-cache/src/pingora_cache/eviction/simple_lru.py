"""The plainest eviction manager: what was not used for the longest time goes first."""

from __future__ import annotations

from typing import final

from pingora_cache.eviction._recency import Recency

__all__ = ["SimpleLru"]


@final
class SimpleLru(Recency):
    """Evicts what was not used for the longest time, in exactly that order.

    Args:
        limit: What all objects may come to together, bytes.
        watermark: How many objects there may be; None for any number.

    Raises:
        ValueError: If one of them is below 1.

    Examples:
        >>> from pingora_cache.key import CompactCacheKey
        >>> manager = SimpleLru(1000)
        >>> logo, page = CompactCacheKey(b"logo" * 4), CompactCacheKey(b"page" * 4)
        >>> manager.admit(logo, 800, fresh_until=0.0)
        []
        >>> [key == logo for key in manager.admit(page, 300, fresh_until=0.0)]
        [True]

    Source: pingora-cache/src/eviction/simple_lru.rs.
    """

    __slots__ = ()

    _FILE = "simple_lru.data"

    def __init__(self, limit: int, watermark: int | None = None) -> None:
        super().__init__(limit, 1, watermark, None)
