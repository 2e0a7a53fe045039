"""The store: finished objects, and the writes that go on, by slot.

Theory of operation: everything that a call does happens in one step of the loop; there is no state
between two awaits that somebody else could see. Finished objects are in ``_objects``, writes that
go on in ``_filling``, which also keeps the two within the limit.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Final, final

from pingora_cache._handlers import STORAGE_CLOSED
from pingora_cache.eviction.tinyufo import TinyUfoEviction
from pingora_cache.memory._filling import Filling, Limits
from pingora_cache.memory._hits import PartialHit
from pingora_cache.memory._miss import MemoryMiss
from pingora_cache.memory._objects import Objects
from pingora_cache.memory._sweeper import Sweeper
from pingora_cache.stats import StorageStats
from pingora_cache.storage import PurgeAction, PurgeKind, PurgeResult, Storage
from pingora_error import Error, ErrorSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_cache._handlers import HitHandler, MissHandler
    from pingora_cache.eviction import EvictionManager
    from pingora_cache.key import CacheKey, CompactCacheKey
    from pingora_cache.memory._writes import Write
    from pingora_cache.meta import CacheMeta

__all__ = ["MemoryStorage"]

_IN_FLIGHT: Final = 16


@final
class MemoryStorage(Storage):
    """Keeps responses in the memory of this process.

    What counts towards the limit is what takes memory: bodies, metas as they are kept, and 384
    bytes for each object; writes that are not finished; and bodies of removed objects for as long
    as somebody reads them. Objects are evicted to make room; when what remains is all in use, a
    write fails with ``STORAGE_FULL``. (Bodies of up to 4 KiB are not counted on after their
    removal; they are no more than the buffers of the connections that read them.)

    Reading costs no copy of a body beyond 4 KiB: each hit hands out the same pieces of 256 KiB.

    Purging by tag takes one step, however many objects carry the tag: they are not found any more
    from then on. Their memory comes back as they are looked for or evicted, and at the latest when
    the store has walked through all objects, in steps of two milliseconds and a tenth of the time.
    ``purge_tag`` does not know how many there are; ``stats.tag_purged`` counts them as they go.

    A write that makes no progress for ``stall_timeout`` while somebody waits for it is given up.

    For one process, and for one loop. Over worker processes each has its own; ``DiskStorage`` is
    one for all of them.

    Args:
        max_bytes: The limit; at least 1.
        eviction: Decides what is removed to make room, and knows no keys of anything else. Its
            own limit is what the finished objects come to at most. None for a ``TinyUfoEviction``
            with 15/16 of ``max_bytes``: as long as the rest is enough for the writes in progress,
            what has to go is decided when they are finished, in favour of what is asked for most.
        max_object_size: Bytes of a body at most; None for whatever fits into ``max_bytes``.
        stall_timeout: Seconds that readers wait for a writer without progress; above 0.
        ready_objects: Of how many objects, those asked for last, the meta is kept ready to use,
            which takes some two to four kilobytes each that are not counted; at least 1. Of any
            other object the meta is read anew for each hit, in some ten microseconds.
        clock: Wall clock seconds, which tell what is fresh.

    Raises:
        ValueError: If a number is out of range.

    Examples:
        >>> storage = MemoryStorage(256 * 1024 * 1024)
        >>> storage.stats.objects
        0

    Source: struct MemCache in pingora-cache/src/memory.rs, which is for tests only: it has no
    limit, and a body that was cut off ends there like one that was not.
    """

    __slots__ = ("_clock", "_closed", "_filling", "_objects", "_stats", "_sweeper", "_writes")

    def __init__(
        self,
        max_bytes: int,
        *,
        eviction: EvictionManager | None = None,
        max_object_size: int | None = None,
        stall_timeout: float = 60.0,
        ready_objects: int = 2048,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if max_bytes < 1 or ready_objects < 1 or stall_timeout <= 0:
            msg = "max_bytes and ready_objects are at least 1, stall_timeout is above 0"
            raise ValueError(msg)
        if max_object_size is not None and max_object_size < 0:
            msg = f"max_object_size is not negative ({max_object_size})"
            raise ValueError(msg)
        largest = max_bytes if max_object_size is None else max_object_size
        self._stats = StorageStats()
        if eviction is None:
            eviction = TinyUfoEviction(max_bytes - max_bytes // _IN_FLIGHT)
        self._objects = Objects(eviction, self._stats, ready_objects)
        limits = Limits(max_bytes, min(max_bytes, eviction.limit), largest, stall_timeout)
        self._filling = Filling(self._objects, limits, self._stats)
        self._writes = self._filling.writes
        self._sweeper = Sweeper(self._objects.sweep)
        self._clock = clock
        self._closed = False

    def _check_open(self) -> None:
        if self._closed:
            raise Error(STORAGE_CLOSED, "the store in memory", source=ErrorSource.INTERNAL)

    # ------------------------------------------------------------------------ reading

    async def lookup(self, key: CacheKey) -> tuple[CacheMeta, HitHandler] | None:
        """Find the object of a key.

        Args:
            key: The key.

        Returns:
            Its meta and a reader; None if there is nothing.

        Raises:
            Error: If the store has been closed.
        """
        if self._closed:
            self._check_open()
        slot = key.combined_hash
        entry = self._objects.get(slot)
        if slot in self._writes and (entry is None or not entry.meta.is_fresh(self._clock())):
            write = self._filling.joinable(slot)
            if write is not None:
                self._stats.hits += 1
                return self._join(write)
        if entry is None:
            self._stats.misses += 1
            return None
        self._stats.hits += 1
        return entry.meta, self._objects.read(slot, entry)

    def _join(self, write: Write) -> tuple[CacheMeta, HitHandler]:
        return write.meta(), PartialHit(write.body, self._objects.release)

    async def lookup_streaming_write(
        self, key: CacheKey, tag: bytes | None
    ) -> tuple[CacheMeta, HitHandler] | None:
        """Find the very write that has a tag.

        Args:
            key: The key that is written.
            tag: The tag; None for whatever ``lookup`` finds.

        Returns:
            Its meta and a reader; None if it has ended.

        Raises:
            Error: If the store has been closed.
        """
        if tag is None:
            return await self.lookup(key)
        self._check_open()
        write = self._filling.tagged(tag)
        if write is None or write.slot != key.combined_hash:
            return None
        return self._join(write)

    @property
    def supports_streaming_partial_write(self) -> bool:
        """Always."""
        return True

    # ------------------------------------------------------------------------ writing

    async def get_miss_handler(self, key: CacheKey, meta: CacheMeta) -> MissHandler:
        """Begin to write an object.

        Args:
            key: The key.
            meta: What is known about the response.

        Returns:
            The writer.

        Raises:
            Error: If there is no room for it, the meta cannot be kept, or the store has been
                closed.
        """
        self._check_open()
        return MemoryMiss(self._filling, self._filling.begin(key, meta))

    async def update_meta(self, key: CacheKey, meta: CacheMeta) -> bool:
        """Replace what is known about the finished object of a key.

        Args:
            key: The key.
            meta: The new one, with the ``created`` of the one that it replaces.

        Returns:
            Whether it was replaced.

        Raises:
            Error: If the meta cannot be kept, or the store has been closed.
        """
        self._check_open()
        updated = self._objects.update(key.combined_hash, meta)
        self._filling.settle()
        return updated

    # ------------------------------------------------------------------------ purging

    async def purge(
        self,
        key: CompactCacheKey,
        *,
        kind: PurgeKind = PurgeKind.INVALIDATION,
        action: PurgeAction = PurgeAction.DELETE,
    ) -> PurgeResult:
        """Remove the object of a key, or make it expire.

        Args:
            key: The key.
            kind: Why.
            action: What is to be done.

        Returns:
            What it came to.

        Raises:
            Error: If the store has been closed.
        """
        self._check_open()
        slot = key.combined_hash
        if action is PurgeAction.DELETE:
            result = PurgeResult.PURGED
            met = self._objects.remove(slot)
            change = _delete
        else:
            result = PurgeResult.EXPIRED
            now = self._clock()
            met = self._objects.expire(slot, now)
            change = partial(_expire, now)
        if kind is PurgeKind.INVALIDATION:
            met |= self._filling.purge(slot, change)
        if not met:
            return PurgeResult.NOT_FOUND
        self._stats.purges += 1
        return result

    async def purge_tag(
        self, tag: bytes, *, action: PurgeAction = PurgeAction.DELETE
    ) -> int | None:
        """Purge all objects that carry a tag, in one step.

        Args:
            tag: The tag.
            action: What is to be done with each.

        Returns:
            None: how many there are is found out later.

        Raises:
            Error: If the store has been closed.
        """
        self._check_open()
        if action is PurgeAction.DELETE:
            self._filling.purge_tag(tag, _delete)
            self._objects.purges.delete(tag)
        else:
            now = self._clock()
            self._filling.purge_tag(tag, partial(_expire, now))
            self._objects.purges.expire(tag, now)
        self._stats.purges += 1
        self._sweeper.start()
        return None

    # --------------------------------------------------------------------------- rest

    async def close(self) -> None:
        """Let go of everything; nothing on the second call.

        Writes that go on fail; readers of finished objects read on.
        """
        if self._closed:
            return
        self._closed = True
        self._sweeper.close()
        self._filling.close()
        parts = self._objects.clear()
        while parts:
            parts.pop().clear()
            await asyncio.sleep(0)

    @property
    def stats(self) -> StorageStats:
        """What has happened so far, and, as of this call, what counts towards the limit."""
        self._stats.used_bytes = self._filling.used
        self._stats.objects = self._objects.count
        return self._stats


def _delete(write: Write) -> None:
    write.deleted = True


def _expire(now: float, write: Write) -> None:
    write.expire(now)
