"""The manager: one process of all counts what is there and decides what goes.

Theory of operation
-------------------
Whoever holds the lock is the manager. The list of the eviction manager says what goes first; the
*index* says how large each object is. Both are brought up to date from the journals of all
processes, each record of which means "look there", and from a walk through all folders: once at the
beginning, a folder at a time, and every hour after that. Until the first walk is through, what the
last manager has counted stands for what has not been seen yet. Nobody who looks an object up asks
the manager: what is on the disk is there, whether or not it has been counted.

All this runs in a thread, in steps of some milliseconds. Most of the time goes into system calls,
during which the loop has the interpreter; in between the walk pauses, since a thread that is busy
with the interpreter hands it over only every five milliseconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import stat
import time
from typing import TYPE_CHECKING, Final, final

from pingora_cache.disk._journal import JournalReader, Saying
from pingora_cache.disk._objects import remove_object
from pingora_cache.disk._shop import disk_size
from pingora_cache.disk._tree import LEAVES, leaf_of
from pingora_cache.disk._usage import Usage, UsageFile
from pingora_cache.disk._writes import Writes
from pingora_cache.key import CompactCacheKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pingora_cache.disk._io import DiskStats
    from pingora_cache.disk._shop import Limits
    from pingora_cache.disk._tree import Tree
    from pingora_cache.eviction import EvictionManager

__all__ = ["Manager"]

_logger = logging.getLogger(__name__)

_BUDGET: Final = 0.05
_RESCAN: Final = 3600.0
# After so many objects, about a millisecond, the walk pauses for so many seconds.
_WALKED: Final = 64
_PAUSE: Final = 0.0001
# Others wait for room meanwhile.
_LOCK_TRIES: Final = 3
_LEFT_LOG: Final = re.compile(r"purges\.[0-9a-f]{16}")


@final
class Manager:
    """What the manager does. For one thread at a time.

    Args:
        tree: The directory.
        eviction: The list.
        limits: What is allowed.
        stats: Counts evictions.
        clock: Seconds that only grow.

    Attributes:
        is_busy: Whether there was more to do than the last step has done.
        is_filling: Whether anything is being written.
        used: Bytes of all objects that are known.
        objects: How many these are.
    """

    __slots__ = (
        "_at_start",
        "_clock",
        "_eviction",
        "_failure",
        "_fd",
        "_index",
        "_journals",
        "_last",
        "_limits",
        "_next_scan",
        "_number",
        "_scan",
        "_stats",
        "_tree",
        "_usage",
        "_wanted",
        "_writes",
        "is_busy",
        "is_filling",
        "objects",
        "used",
    )

    def __init__(
        self,
        tree: Tree,
        eviction: EvictionManager,
        *,
        limits: Limits,
        stats: DiskStats,
        clock: Callable[[], float],
    ) -> None:
        self._tree = tree
        self._eviction = eviction
        self._limits = limits
        self._stats = stats
        self._clock = clock
        self._fd = -1
        self._usage = UsageFile(tree.usage)
        self.is_busy = self.is_filling = False
        self._reset()

    def _reset(self) -> None:
        # By folder: small tables grow without a pause, and a walk compares one of them at a time.
        self._index: list[dict[bytes, int]] = [{} for _ in range(LEAVES)]
        self._journals: dict[str, JournalReader] = {}
        self._writes = Writes(self._tree)
        self._scan: Iterator[None] | None = None
        self._next_scan = 0.0
        self._at_start = 0
        self._number = 0
        self._wanted = 0
        self._last = Usage(0, 0, 0, 0)
        self._failure: OSError | None = None
        self.used = self.objects = 0

    # -------------------------------------------------------------------------- the lock

    @property
    def is_elected(self) -> bool:
        """Whether this process is the manager."""
        return self._fd >= 0

    def elect(self) -> bool:
        """Become the manager, unless another process is.

        Returns:
            Whether this process is, since now.

        Raises:
            OSError: If that cannot be found out.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self._tree.manager, flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._usage.open()
            last = self._usage.read()
        except BlockingIOError:
            os.close(fd)
            return False
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        self._reset()
        if last is not None:
            self._number, self._at_start = last.number, last.used
        return True

    def keeps(self) -> bool:
        """Tell whether this process still is the manager; it is not if the lock was deleted.

        Returns:
            Whether.
        """
        with contextlib.suppress(OSError):
            there, held = os.lstat(self._tree.manager), os.fstat(self._fd)
            if (there.st_ino, there.st_dev) == (held.st_ino, held.st_dev):
                return True
        _logger.warning("the cache directory has been replaced: %s", self._tree.root)
        self.resign()
        return False

    def resign(self) -> None:
        """Be the manager no more; nothing if it is not."""
        for reader in self._journals.values():
            reader.close()
        self._journals.clear()
        self._usage.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # ------------------------------------------------------------------------- one step

    def step(self) -> None:
        """Count, evict, and write down what was counted.

        Raises:
            OSError: If something could not be done; the next step tries again.
        """
        end = self._clock() + _BUDGET
        self.is_busy = False
        self._wanted = 0
        self._failure = None
        self._read_journals(end)
        self._walk(end)
        filling = self._writes.count(self._clock())
        self.is_filling = self._writes.are_any
        self._evict(filling, end)
        self._number += 1
        self._usage.open()
        self._last = Usage(self._number, self._counted(), filling, self.objects)
        self._usage.write(self._last)
        if self._failure is not None:
            raise self._failure

    def pause(self) -> None:
        """Say that no step follows for a moment.

        Raises:
            OSError: If that cannot be said.
        """
        self._usage.write(self._last._replace(is_last=True))

    def _counted(self) -> int:
        return max(self.used, self._at_start)

    def _read_journals(self, end: float) -> None:
        names = set(os.listdir(self._tree.journals))
        for name in sorted(names | self._journals.keys()):
            try:
                reader = self._journals.get(name)
                if reader is None:
                    reader = JournalReader(f"{self._tree.journals}/{name}")
                    self._journals[name] = reader
                self._read_journal(name, reader, end)
            except OSError:
                # It has been deleted, or is not a journal.
                _logger.debug("journal %s cannot be read", name, exc_info=True)
            if self._clock() > end:
                self.is_busy = True
                break

    def _read_journal(self, name: str, reader: JournalReader, end: float) -> None:
        while notes := reader.read():
            for saying, slot in notes:
                if saying is Saying.ROOM:
                    self._wanted = max(self._wanted, int.from_bytes(slot, "little"))
                else:
                    self._look(slot, stored=saying is Saying.STORED)
            if self._clock() > end:
                self.is_busy = True
                return
        if reader.is_left():
            for slot in reader.announced:
                self._look(slot, stored=True)
            del self._journals[name]
            reader.delete()

    # -------------------------------------------------------------------------- objects

    def _look(self, slot: bytes, *, stored: bool) -> None:
        size = self._size_of(slot)
        leaf = self._index[leaf_of(slot)]
        known = leaf.get(slot)
        key = CompactCacheKey(slot)
        if size is None:
            self._forget(slot)
            self._eviction.remove(key)
            return
        self._know(leaf, slot, size)
        if stored or (known is not None and known != size):
            self._remove(self._eviction.admit(key, size, 0.0))
        else:
            self._eviction.access(key, size, 0.0)

    def _size_of(self, slot: bytes) -> int | None:
        try:
            status = os.lstat(self._tree.object(slot.hex()))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return disk_size(status.st_size) if stat.S_ISREG(status.st_mode) else None

    def _know(self, leaf: dict[bytes, int], slot: bytes, size: int) -> None:
        known = leaf.get(slot)
        if known is None:
            self.objects += 1
            self.used += size
        else:
            self.used += size - known
        leaf[slot] = size

    def _forget(self, slot: bytes) -> None:
        size = self._index[leaf_of(slot)].pop(slot, None)
        if size is not None:
            self.objects -= 1
            self.used -= size

    def _remove(self, keys: list[CompactCacheKey]) -> None:
        for key in keys:
            slot = key.primary
            size = self._size_of(slot)
            if size is not None:
                try:
                    remove_object(self._tree.object(slot.hex()), tries=_LOCK_TRIES)
                except OSError as error:
                    # It stays, and is counted; the next walk tells the list of it again.
                    self._failure = error
                    continue
                self._at_start = max(self._at_start - size, 0)
                self._stats.evictions += 1
                self._stats.evicted_bytes += size
            self._forget(slot)

    def _evict(self, filling: int, end: float) -> None:
        eviction = self._eviction
        limits = self._limits
        goal = min(limits.capacity, limits.max_bytes - self._wanted)
        while (excess := self._counted() + filling - goal) > 0:
            keys = eviction.evict_to(max(eviction.total_size - excess, 0))
            if not keys:
                # What is left is not known yet, or is being written.
                self.is_busy |= self._scan is not None
                return
            self._remove(keys)
            if self._failure is not None:
                return
            if self._clock() > end:
                self.is_busy = True
                return

    # ------------------------------------------------------------------------ the walk

    def _walk(self, end: float) -> None:
        scan, self._scan = self._scan, None
        if scan is None:
            if self._clock() < self._next_scan:
                return
            scan = self._all_leaves()
        # If it fails, the next step begins another one.
        for _ in scan:
            if self._clock() > end:
                self._scan = scan
                self.is_busy = True
                return
        self._at_start = 0
        self._next_scan = self._clock() + _RESCAN

    def _all_leaves(self) -> Iterator[None]:
        left = self._left_logs()
        known = {number for number, leaf in enumerate(self._index) if leaf}
        for number in sorted(known.union(self._tree.leaves())):
            leaf = self._index[number]
            try:
                self._walk_leaf(number, leaf)
            except OSError as error:
                _logger.warning("folder %03x of the cache cannot be read: %s", number, error)
            yield
        for name in left & self._left_logs():
            with contextlib.suppress(OSError):
                os.unlink(f"{self._tree.root}/{name}")

    def _left_logs(self) -> set[str]:
        return {name for name in os.listdir(self._tree.root) if _LEFT_LOG.fullmatch(name)}

    def _walk_leaf(self, number: int, leaf: dict[bytes, int]) -> None:
        seen = set()
        for count, (slot, entry) in enumerate(self._tree.leaf(number), 1):
            if count % _WALKED == 0:
                time.sleep(_PAUSE)
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(status.st_mode):
                continue
            seen.add(slot)
            size = disk_size(status.st_size)
            self._know(leaf, slot, size)
            key = CompactCacheKey(slot)
            if not self._eviction.peek(key):
                self._eviction.access(key, size, 0.0)
        for slot in leaf.keys() - seen:
            self._look(slot, stored=False)
