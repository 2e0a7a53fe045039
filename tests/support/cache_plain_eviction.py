"""A small eviction manager for tests of what uses one: first in, first out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_cache.eviction import EvictionManager

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_cache.key import CompactCacheKey

__all__ = ["PlainEviction"]


class PlainEviction(EvictionManager):
    """Evicts what was admitted first, one object in each call.

    Args:
        limit: What the objects may come to together, bytes.

    Attributes:
        sizes: What it knows.
        calls: What was called, in order.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.sizes: dict[CompactCacheKey, int] = {}
        self.calls: list[str] = []
        self._evicted: list[int] = []

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def total_size(self) -> int:
        return sum(self.sizes.values())

    @property
    def total_items(self) -> int:
        return len(self.sizes)

    @property
    def evicted_size(self) -> int:
        return sum(self._evicted)

    @property
    def evicted_items(self) -> int:
        return len(self._evicted)

    def admit(self, key: CompactCacheKey, size: int, fresh_until: float) -> list[CompactCacheKey]:
        self.calls.append("admit")
        self.sizes.pop(key, None)
        self.sizes[key] = size
        return self.evict_to(self._limit)

    def increment_weight(
        self, key: CompactCacheKey, delta: int, max_weight: int | None = None
    ) -> list[CompactCacheKey]:
        self.calls.append("increment_weight")
        self.sizes[key] = self.sizes.get(key, 0) + delta
        return self.evict_to(self._limit)

    def remove(self, key: CompactCacheKey) -> bool:
        self.calls.append("remove")
        return self.sizes.pop(key, None) is not None

    def access(self, key: CompactCacheKey, size: int, fresh_until: float) -> bool:
        self.calls.append("access")
        is_known = key in self.sizes
        self.sizes.setdefault(key, size)
        return is_known

    def peek(self, key: CompactCacheKey) -> bool:
        return key in self.sizes

    def evict_to(self, size: int) -> list[CompactCacheKey]:
        if self.total_size <= size:
            return []
        first = next(iter(self.sizes))
        self._evicted.append(self.sizes.pop(first))
        return [first]

    async def save(self, directory: str | Path) -> None:
        del directory

    async def load(self, directory: str | Path) -> int:
        del directory
        return 0
