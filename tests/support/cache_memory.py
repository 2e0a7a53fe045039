"""What the tests of the store in memory share: short ways to write and read, and a manager."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from pingora_cache.eviction import EvictionManager
from pingora_cache.memory._body import Body
from pingora_cache.testing.harness import make_key, make_meta

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_cache.key import CompactCacheKey
    from pingora_cache.memory import MemoryStorage
    from pingora_cache.storage import Finished, HitHandler, MissHandler

__all__ = ["MB", "FirstIn", "begin", "bodies", "drain", "find", "read", "used", "write"]

MB = 1_000_000


class FirstIn(EvictionManager):
    """Evicts what was admitted first; refuses what it is told to."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.sizes: dict[CompactCacheKey, int] = {}
        self.refused: set[CompactCacheKey] = set()
        self.accessed: list[CompactCacheKey] = []

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
        return 0

    @property
    def evicted_items(self) -> int:
        return 0

    def admit(self, key: CompactCacheKey, size: int, fresh_until: float) -> list[CompactCacheKey]:
        if key in self.refused:
            self.sizes.pop(key, None)
            return [key]
        self.sizes[key] = size
        return self.evict_to(self._limit)

    def increment_weight(
        self, key: CompactCacheKey, delta: int, max_weight: int | None = None
    ) -> list[CompactCacheKey]:
        raise NotImplementedError

    def remove(self, key: CompactCacheKey) -> bool:
        return self.sizes.pop(key, None) is not None

    def access(self, key: CompactCacheKey, size: int, fresh_until: float) -> bool:
        assert self.sizes[key] == size
        self.accessed.append(key)
        return True

    def peek(self, key: CompactCacheKey) -> bool:
        return key in self.sizes

    def evict_to(self, size: int) -> list[CompactCacheKey]:
        if self.total_size <= size or not self.sizes:
            return []
        # One at a time: a manager need not do all of it at once.
        first = next(iter(self.sizes))
        del self.sizes[first]
        return [first]

    async def save(self, directory: str | Path) -> None:
        raise NotImplementedError

    async def load(self, directory: str | Path) -> int:
        raise NotImplementedError


async def begin(storage: MemoryStorage, name: str = "key") -> MissHandler:
    """Begin to write an object."""
    return await storage.get_miss_handler(make_key(name), make_meta(name))


async def write(storage: MemoryStorage, body: bytes, name: str = "key") -> Finished:
    """Write an object."""
    writer = await begin(storage, name)
    await writer.write_body(body, end=True)
    return await writer.finish()


async def find(storage: MemoryStorage, name: str = "key") -> HitHandler:
    """Begin to read what is there."""
    found = await storage.lookup(make_key(name))
    assert found is not None
    return found[1]


async def drain(reader: HitHandler) -> list[bytes]:
    """Read to the end; tell the pieces."""
    pieces = []
    while (piece := await reader.read_body()) is not None:
        pieces.append(piece)
    await reader.finish()
    return pieces


async def read(storage: MemoryStorage, name: str = "key") -> bytes:
    """Read what is there."""
    return b"".join(await drain(await find(storage, name)))


def bodies(size: int) -> int:
    """Count the bodies of a size that anybody holds."""
    return sum(isinstance(each, Body) and each.size == size for each in gc.get_objects())


def used(storage: MemoryStorage) -> int:
    """Tell what counts towards the limit."""
    return storage.stats.used_bytes
