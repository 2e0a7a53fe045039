"""What all calls of a store share: its directory, its threads, its logs, and who is told what."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Final, final

from pingora_cache._handlers import STORAGE_CLOSED
from pingora_cache.disk._journal import Journal
from pingora_cache.disk._layout import META_AT
from pingora_cache.disk._purge_log import PurgeLog
from pingora_cache.disk._usage import Allowance, UsageFile
from pingora_error import Error, ErrorSource

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pingora_cache.disk._io import Io
    from pingora_cache.disk._purge_records import Kind, Verdict
    from pingora_cache.disk._tree import Tree
    from pingora_cache.disk._writing import Subject, WriteFile

__all__ = ["Limits", "Shop", "disk_size"]

_BLOCK: Final = 4096
# How long a write waits for the manager to make room, and how often it looks.
_PATIENCE: Final = 1.0
_MORE_PATIENCE: Final = 10.0
_LOOK: Final = 0.01
_REFRESHES: Final = 8
_MOST_TOUCHED: Final = 65_536
_MOST_SPARE: Final = 256 << 20
_LEAST_PORTION: Final = 16 << 10
_MOST_PORTION: Final = 1 << 20


def disk_size(size: int) -> int:
    """Tell what a file counts for.

    Args:
        size: Its bytes.

    Returns:
        Bytes, in whole blocks of the file system.
    """
    return -(-size // _BLOCK) * _BLOCK


@final
class Limits:
    """What a store allows.

    Args:
        max_bytes: Bytes in all.
        max_object_size: Bytes of one body; None for whatever fits.

    Attributes:
        max_bytes: Bytes in all.
        capacity: Bytes that finished objects and writes are brought down to, so that there is
            room for what is not counted yet.
        portion: Bytes that a write puts into its file at once: an eighth of that room, so that
            eight processes find each a place for theirs.
    """

    __slots__ = ("_max_object_size", "capacity", "max_bytes", "portion")

    def __init__(self, max_bytes: int, max_object_size: int | None) -> None:
        self.max_bytes = max_bytes
        spare = min(max_bytes // 16, _MOST_SPARE)
        self.capacity = max_bytes - spare
        self.portion = min(max(spare // 8, _LEAST_PORTION), _MOST_PORTION)
        self._max_object_size = max_object_size

    def largest(self, meta_size: int) -> int:
        """Tell how large a body may be.

        Args:
            meta_size: Bytes of its meta.

        Returns:
            Bytes.
        """
        room = self.capacity - disk_size(META_AT + meta_size) - _BLOCK
        return room if self._max_object_size is None else min(room, self._max_object_size)


@final
class Shop:
    """What is shared. The methods say where they may be called.

    Args:
        tree: The directory.
        io: Threads and counts.
        limits: What is allowed.
        stall_timeout: Seconds that readers wait for a writer without progress.
        sync: Whether objects are to be on the medium before they are published.

    Attributes:
        tree: The directory.
        io: Threads and counts.
        is_closing: Whether nobody is to wait for anything any more.
        journal: What this process tells the manager.
        limits: What is allowed.
        log: The purges, as the loop knows them.
        nudge: Wakes the manager, if it is in this process.
        stall_timeout: Seconds that readers wait for a writer without progress.
        touched: The slots where something was used or changed since the manager was told.
    """

    __slots__ = (
        "_allowance",
        "_lock",
        "_log",
        "_renewing",
        "_sync",
        "_turned",
        "_usage",
        "io",
        "is_closing",
        "journal",
        "limits",
        "log",
        "nudge",
        "stall_timeout",
        "touched",
        "tree",
    )

    def __init__(
        self, tree: Tree, io: Io, limits: Limits, *, stall_timeout: float, sync: bool
    ) -> None:
        self.tree = tree
        self.io = io
        self.limits = limits
        self.stall_timeout = stall_timeout
        self._sync = sync
        self.journal = Journal(tree)
        self.log = PurgeLog(tree.purges)
        # Threads have one of their own, which they use in turns.
        self._log = PurgeLog(tree.purges)
        self._lock = threading.Lock()
        self._renewing: asyncio.Task[None] | None = None
        self._usage = UsageFile(tree.usage)
        self._allowance = Allowance(limits.max_bytes)
        self.touched: dict[bytes, None] = {}
        self.is_closing = False
        self._turned = asyncio.Event()
        self.nudge: Callable[[], None] = _nobody

    def open(self) -> None:
        """Open the files. For a thread.

        Raises:
            OSError: If that fails.
        """
        self.tree.make()
        self.log.open()
        self._log.open()
        self._usage.open()
        self.journal.open()

    def close(self) -> None:
        """Close the files; for a thread, or when nothing goes on any more."""
        with self._lock:
            self._log.close()
        self.log.close()
        self.journal.close()
        self._usage.close()

    def abandon(self) -> None:
        """Close what a forked process has inherited."""
        self._log.close()
        self.log.close()
        self.journal.abandon()
        self._usage.close()

    # ----------------------------------------------------------------------- on the loop

    def use(self, slot: bytes) -> None:
        """Note that an object was used. On the loop.

        Args:
            slot: Which.
        """
        if len(self.touched) < _MOST_TOUCHED:
            self.touched[slot] = None

    def change(self, slot: bytes) -> None:
        """Note that something has changed. On the loop.

        Args:
            slot: Where.
        """
        self.touched[slot] = None

    def touch_again(self, touched: dict[bytes, None]) -> None:
        """Note again what the manager could not be told. On the loop.

        Args:
            touched: What. If it is too much, the next walk of the manager finds it.
        """
        if len(touched) + len(self.touched) <= _MOST_TOUCHED:
            self.touched = touched | self.touched

    def look(self) -> None:
        """Read the last count. On the loop.

        Raises:
            OSError: If it cannot be read.
        """
        try:
            self._usage.open()
        except FileNotFoundError:  # somebody has deleted it all
            self.tree.make()
            self._usage.open()
        usage = self._usage.read()
        if usage is not None:
            self._allowance.update(usage)
            self.io.stats.used_bytes = usage.used + usage.filling
            self.io.stats.objects = usage.objects

    async def reserve(self, size: int) -> bool:
        """Ask for room to write, and wait for it for a moment. On the loop.

        Args:
            size: Bytes.

        Returns:
            Whether there is.

        Raises:
            Error: If the store is being closed.
            OSError: If that cannot be found out.
        """
        loop = asyncio.get_running_loop()
        patience = loop.time() + _PATIENCE
        while True:
            if self.is_closing:
                raise Error(STORAGE_CLOSED, "the store on disk", source=ErrorSource.INTERNAL)
            self.look()
            if self._allowance.spend(size):
                return True
            late = loop.time() - patience
            if late > _MORE_PATIENCE or (late > 0 and not self._allowance.usage.is_last):
                return False
            self.journal.ask(size)
            self.nudge()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._turned.wait()

    def turned(self) -> None:
        """Let those who wait for room look again. On the loop."""
        self._turned.set()
        self._turned = asyncio.Event()

    async def refresh_log(self) -> None:
        """Learn of all purges so far. On the loop.

        Raises:
            OSError: If that fails.
        """
        for _ in range(_REFRESHES):
            if self.log.refresh():
                return
            # It has become long, or is another one: that is read in a thread, once for all who
            # ask. Who came later than that began looks again.
            if self._renewing is None:
                self._renewing = self.io.spawn(self._renew_log())
            await asyncio.shield(self._renewing)
        msg = "the log of purges is replaced all the time"
        raise OSError(msg)

    async def _renew_log(self) -> None:
        try:
            # Another object: nothing is put in the place of what the loop is reading.
            fresh = await self.io.run(lambda: PurgeLog.opened(self.tree.purges))
        finally:
            self._renewing = None
        self.log.close()
        self.log = fresh

    # ------------------------------------------------------------------------ in threads

    def judge(self, subject: Subject) -> Verdict:
        """Tell what purges mean for a write. For a thread.

        Args:
            subject: The write.

        Returns:
            What they mean.

        Raises:
            OSError: If that cannot be found out.
        """
        with self._lock:
            self._log.catch_up()
            return self._log.purges.judge_write(
                subject.slot, subject.tags, subject.epoch, subject.position
            )

    def judge_object(self, tags: Collection[bytes], epoch: int, position: int) -> Verdict:
        """Tell what purges by tag mean for an object. For a thread.

        Args:
            tags: Its tags.
            epoch: The log that its position is of.
            position: What had been purged when it was made.

        Returns:
            What they mean.

        Raises:
            OSError: If that cannot be found out.
        """
        with self._lock:
            self._log.catch_up()
            return self._log.purges.judge_tags(tags, epoch, position)

    def purge(self, kind: Kind, name: bytes, when: float) -> None:
        """Tell all processes of a purge. For a thread.

        Args:
            kind: What is to be done.
            name: The tag, or the hash of the key.
            when: Wall clock seconds.

        Raises:
            OSError: If that fails.
        """
        self._log.add(kind, name, when, among=self._lock)

    def publish(self, file: WriteFile, subject: Subject, pieces: list[bytes]) -> bool:
        """Complete a write, and make an object of it. For a thread.

        Args:
            file: Its file.
            subject: What is written.
            pieces: The last pieces.

        Returns:
            False if it has been purged meanwhile.

        Raises:
            OSError: If that fails.
        """
        file.complete(pieces)
        # Whoever purges tells it first and looks for files then; here it is the other way round,
        # so that one of the two notices.
        verdict = self.judge(subject)
        if verdict.deleted:
            return False
        self.journal.announce(subject.slot)
        try:
            return file.publish(verdict.expired, sync=self._sync)
        finally:
            self.journal.confirm(subject.slot)


def _nobody() -> None:
    """Nobody is to be woken."""
