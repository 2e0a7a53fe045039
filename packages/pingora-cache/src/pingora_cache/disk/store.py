"""The store: objects in files, found by name, shared by all processes of a machine.

Theory of operation
-------------------
Every object is a file, named after the hash of its key, and put in its place in one step when it is
complete (``_format`` tells what is in it). So a lookup is: open a file by name, read its beginning,
compare checksums. No index stands between, so none can be wrong, and a start needs no scan.

- *Reading.* What the system has in its memory is read on the loop, everything else in a thread. A
  small object takes one read; a large one is read and checked block by block as it is asked for.
- *Writing* goes through memory and threads (``_fill``), to a file that others can follow while it
  grows (``_following``). Its lock tells whether its writer lives.
- *Purging.* Files go at once. A log that all processes share (``_purge_log``) meets the writes
  that go on, and the objects of a tag, of which there is no list.
- *Room.* One process counts and evicts for all (``_manager``). The others tell it where to look
  (``_journal``), and wait for it before they write more than it can know of (``_usage``).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, final

from pingora_cache._handlers import STORAGE_CLOSED
from pingora_cache.disk import _changes
from pingora_cache.disk._fill import DiskMiss
from pingora_cache.disk._fills import Fills
from pingora_cache.disk._finding import Finder
from pingora_cache.disk._forking import abandon_after_fork
from pingora_cache.disk._io import DiskStats, Io
from pingora_cache.disk._keeper import Keeper
from pingora_cache.disk._purge_records import Kind
from pingora_cache.disk._shop import Limits, Shop
from pingora_cache.disk._tree import Tree
from pingora_cache.eviction import TinyUfoEviction
from pingora_cache.storage import PurgeAction, PurgeKind, PurgeResult, Storage
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from pingora_cache._handlers import HitHandler, MissHandler
    from pingora_cache.eviction import EvictionManager
    from pingora_cache.key import CacheKey, CompactCacheKey
    from pingora_cache.meta import CacheMeta

__all__ = ["DiskStats", "DiskStorage"]


_INHERITED: Final = "a store on disk is to be opened after the process was forked"


@final
class DiskStorage(Storage):
    """Keeps responses in a directory, for all processes of a machine that use it.

    What counts towards the limit is what the files take: bodies and metas, in whole blocks of the
    file system. It is bounded as the module ``_usage`` says: a sixteenth of it, up to 256 MiB, is
    kept free for what is not counted yet.

    Nothing that is found is trusted before its checksum was seen. What is damaged is removed, and
    is a miss. So is what cannot be read; ``stats`` count why.

    Nothing is forced onto the medium (``fsync``) unless ``sync`` says so: after a power failure
    some of the last objects are damaged, which costs a miss each. A process that is killed takes
    nothing with it but what it was writing.

    Open it in the process and on the loop that uses it: after the workers were forked. Without
    ``open`` the first call does it. A process that is forked from one that has it open cannot use
    it; it may make another one.

    Args:
        path: The directory; made if it is not there. Local: not on a network file system. It is
            for the store alone.
        max_bytes: The limit, the same in all processes; at least 64 KiB.
        max_object_size: Bytes of a body at most; None for whatever fits into ``max_bytes``.
        eviction: Decides what is removed to make room, and owns nobody else's keys; made by each
            process, and used by the one that is the manager. None for ``TinyUfoEviction``.
        stall_timeout: Seconds that readers wait for a writer without progress; above 0.
        sync: Whether an object is on the medium before it can be found. Costs a trip to the disk
            for each.
        read_inline: Whether what the system has in its memory is read on the loop, which takes a
            tenth of the time of a trip to a thread. What would have to be waited for never is.
        threads: How many threads do what may take long; at least 2.
        ready_objects: Of how many objects, those asked for last, the meta is kept ready to use.
        clock: Wall clock seconds, which tell what is fresh.
        monotonic: Seconds that only grow.

    Raises:
        ValueError: If a number is out of range.

    Examples:
        >>> storage = DiskStorage("/var/cache/pingora", max_bytes=10 * 1024**3)
        >>> storage.stats.objects
        0
    """

    __slots__ = (
        "__weakref__",
        "_clock",
        "_closing",
        "_fills",
        "_finder",
        "_io",
        "_is_inherited",
        "_is_open",
        "_keeper",
        "_opening",
        "_shop",
        "_tree",
    )

    def __init__(  # noqa: PLR0913  # each has a default that will do
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int,
        max_object_size: int | None = None,
        eviction: EvictionManager | None = None,
        stall_timeout: float = 60.0,
        sync: bool = False,
        read_inline: bool = True,
        threads: int = 4,
        ready_objects: int = 4096,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_bytes < 65_536 or threads < 2 or ready_objects < 1 or stall_timeout <= 0:
            msg = "max_bytes is at least 64 KiB, threads 2, ready_objects 1; stall_timeout above 0"
            raise ValueError(msg)
        if max_object_size is not None and max_object_size < 0:
            msg = f"max_object_size is not negative ({max_object_size})"
            raise ValueError(msg)
        limits = Limits(max_bytes, max_object_size)
        self._tree = Tree(path)
        self._io = Io(self._tree, threads=threads, inline=read_inline)
        self._shop = Shop(self._tree, self._io, limits, stall_timeout=stall_timeout, sync=sync)
        manager = TinyUfoEviction(limits.capacity) if eviction is None else eviction
        self._keeper = Keeper(self._shop, manager, monotonic)
        self._fills = Fills(self._shop, clock)
        self._io.on_removed = self._shop.change
        self._finder = Finder(self._shop, ready_objects)
        self._clock = clock
        self._opening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        # Without a look at the two.
        self._is_open = False
        self._is_inherited = False
        abandon_after_fork(self)

    # ------------------------------------------------------------------------- opening

    async def open(self) -> None:
        """Make the directory if it is not there, and begin to take part in counting.

        Raises:
            Error: If that cannot be done, or the store has been closed.
            RuntimeError: If it was opened before this process was forked.
        """
        if self._is_inherited:
            raise RuntimeError(_INHERITED)
        if self._closing is not None:
            raise Error(STORAGE_CLOSED, "the store on disk", source=ErrorSource.INTERNAL)
        if self._opening is None:
            self._opening = self._io.spawn(self._open())
        await asyncio.shield(self._opening)

    async def _open(self) -> None:
        try:
            await self._io.run(self._shop.open)
            self._keeper.start()
        except OSError as error:
            await self._io.run(self._shop.close)
            self._opening = None  # the next call tries again
            context = f"the cache in {self._tree.root}"
            raise self._io.failed(error, ErrorType.FILE_OPEN_ERROR, context) from error
        self._is_open = self._closing is None

    async def close(self) -> None:
        """Let go of everything, also if who waits for it is cancelled.

        What was used is told to the manager, or saved if this process is it. Writes that go on
        fail. Readers of finished objects read on.
        """
        if self._is_inherited:
            return
        if self._closing is None:
            self._shop.is_closing = True
            self._is_open = False
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._fills.close()
        if self._opening is not None:
            await asyncio.wait([self._opening])
            await self._keeper.stop()
        await self._io.close()
        self._shop.close()

    def abandon(self) -> None:
        """Close what a forked process has inherited; called there.

        Its threads are not there, and its locks are the parent's, which must not outlive it there.
        """
        if self._opening is not None:
            self._is_inherited = True
            self._is_open = False
            self._fills.abandon()
            self._keeper.abandon()
            self._shop.abandon()

    @property
    def path(self) -> str:
        """The directory."""
        return self._tree.root

    @property
    def stats(self) -> DiskStats:
        """What has happened so far."""
        return self._io.stats

    # ------------------------------------------------------------------------- reading

    async def lookup(self, key: CacheKey) -> tuple[CacheMeta, HitHandler] | None:
        """Find the object of a key.

        Args:
            key: The key.

        Returns:
            Its meta and a reader; None if there is nothing, or nothing that can be read.

        Raises:
            Error: If the store cannot be opened, or has been closed.
        """
        if not self._is_open:
            await self.open()
        slot = key.combined_hash
        found: tuple[CacheMeta, HitHandler] | None = await self._finder.find(slot)
        if found is None or not found[0].is_fresh(self._clock()):
            write = await self._fills.join(slot)
            if write is not None:
                if found is not None:
                    found[1].close()
                found = write
            elif found is None:
                # A write of another process may have become an object between the two looks.
                found = await self._finder.find(slot)
        if found is None:
            self._io.stats.misses += 1
            return None
        self._io.stats.hits += 1
        return found

    async def lookup_streaming_write(
        self, key: CacheKey, tag: bytes | None
    ) -> tuple[CacheMeta, HitHandler] | None:
        """Find the very write that has a tag, of this process.

        Args:
            key: The key that is written.
            tag: The tag; None for whatever ``lookup`` finds.

        Returns:
            Its meta and a reader; None if it has ended.

        Raises:
            Error: If the store cannot be opened, or has been closed.
        """
        if tag is None:
            return await self.lookup(key)
        if not self._is_open:
            await self.open()
        found = self._fills.tagged(key.combined_hash, tag)
        if found is None:
            self._io.stats.misses += 1
        else:
            self._io.stats.hits += 1
        return found

    @property
    def supports_streaming_partial_write(self) -> bool:
        """Always; between processes too."""
        return True

    # ------------------------------------------------------------------------- writing

    async def get_miss_handler(self, key: CacheKey, meta: CacheMeta) -> MissHandler:
        """Begin to write an object.

        Args:
            key: The key.
            meta: What is known about the response.

        Returns:
            The writer.

        Raises:
            Error: If the meta cannot be kept, or the store cannot be opened or has been closed.
        """
        if not self._is_open:
            await self.open()
        with self._io.telling(ErrorType.FILE_READ_ERROR, "the purges"):
            await self._shop.refresh_log()
        return DiskMiss(self._fills.begin(key.combined_hash, meta))

    async def update_meta(self, key: CacheKey, meta: CacheMeta) -> bool:
        """Replace what is known about the finished object of a key.

        Args:
            key: The key.
            meta: The new one, with the ``created`` of the one that it replaces.

        Returns:
            Whether it was replaced.

        Raises:
            Error: If the meta cannot be kept, the file cannot be written, or the store cannot be
                opened or has been closed.
        """
        if not self._is_open:
            await self.open()
        slot = key.combined_hash
        shop = self._shop
        with self._io.telling(ErrorType.FILE_WRITE_ERROR, "a meta"):
            await shop.refresh_log()
            purges = shop.log.purges
            epoch, position = purges.epoch, purges.position
            try:
                return await self._io.run(
                    lambda: _changes.replace_meta(shop, slot, meta, epoch=epoch, position=position)
                )
            finally:
                shop.change(slot)

    # ------------------------------------------------------------------------- purging

    async def purge(
        self,
        key: CompactCacheKey,
        *,
        kind: PurgeKind = PurgeKind.INVALIDATION,
        action: PurgeAction = PurgeAction.DELETE,
    ) -> PurgeResult:
        """Remove the object of a key, or make it expire, in all processes.

        Args:
            key: The key.
            kind: Why.
            action: What is to be done. What a process that was stopped has locked is removed.

        Returns:
            What it came to.

        Raises:
            Error: If it cannot be done, or the store cannot be opened or has been closed.
        """
        if not self._is_open:
            await self.open()
        slot = key.combined_hash
        is_filling = kind is PurgeKind.INVALIDATION and self._fills.is_filling(slot)
        purge = _changes.Purge(slot, kind, action, self._clock())
        with self._io.telling(ErrorType.FILE_WRITE_ERROR, "a purge"):
            try:
                met = await self._io.run(lambda: _changes.purge(self._shop, purge))
            finally:
                self._shop.change(slot)
        if not met and not is_filling:
            return PurgeResult.NOT_FOUND
        self._io.stats.purges += 1
        return PurgeResult.PURGED if action is PurgeAction.DELETE else PurgeResult.EXPIRED

    async def purge_tag(
        self, tag: bytes, *, action: PurgeAction = PurgeAction.DELETE
    ) -> int | None:
        """Purge all objects that carry a tag, in all processes, in one step.

        What is purged takes room until it is looked for, or evicted.

        Args:
            tag: The tag.
            action: What is to be done with each.

        Returns:
            None: how many there are is not known.

        Raises:
            Error: If it cannot be done, or the store cannot be opened or has been closed.
        """
        if not self._is_open:
            await self.open()
        kind = Kind.DELETE_TAG if action is PurgeAction.DELETE else Kind.EXPIRE_TAG
        now = self._clock()
        with self._io.telling(ErrorType.FILE_WRITE_ERROR, "a purge"):
            await self._io.run(lambda: self._shop.purge(kind, tag, now))
        self._io.stats.purges += 1
        return None
