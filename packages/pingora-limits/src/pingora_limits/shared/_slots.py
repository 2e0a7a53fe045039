"""Memory that forked processes share, in which each has a slot that nobody else writes to.

Theory of operation: the memory is a memfd, mapped before the first fork. A process takes a slot when
it first counts something, by locking one byte of the file; the kernel gives the lock back when the
process ends, however it ends, and whoever is started in its place takes the slot over. The lock is
of the kind that belongs to a process (fcntl), so a fork does not inherit it. Nothing is ever locked
in order to count or to read: a cell of 8 bytes is written and read at once.

The first cell is the roll: whoever changes what others read of it beyond its counts (a slot taken,
a table begun) writes a random number there afterwards, and who finds another number than last time
looks at the heads of all slots again, 8 cells each. These lie together, so that looking at them
does not make the system give memory for slots that nobody has.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import weakref
from typing import Final, final

__all__ = ["Slots"]

_logger = logging.getLogger(__name__)

_CELL: Final = 8
_ROLL: Final = 0
_HEAD_SIZE: Final = 8  # one cache line, also for the roll


@final
class Slots:
    """The memory.

    Args:
        count: Slots, at least 1: processes that may count at the same time.
        size: Cells in the body of a slot.

    Attributes:
        cells: All of it, in unsigned numbers of 64 bits; the first is the roll.
        count: Slots.
        floats: The same memory, in floating-point numbers.
        size: Cells in the body of a slot.
        void: Where as many cells begin that nobody writes to.

    Raises:
        ValueError: If there are no slots.
    """

    __slots__ = (
        "__weakref__",
        "_bytes",
        "_close",
        "_fd",
        "_map",
        "cells",
        "count",
        "floats",
        "size",
        "void",
    )

    def __init__(self, count: int, size: int) -> None:
        if count < 1:
            msg = f"at least 1 process counts, not {count}"
            raise ValueError(msg)
        self.count = count
        self.size = size
        self._fd = os.memfd_create("pingora-limits", os.MFD_CLOEXEC)
        self._close = weakref.finalize(self, os.close, self._fd)
        os.ftruncate(self._fd, _CELL * self.body(count + 1))
        self._map = mmap.mmap(self._fd, 0)
        self._bytes = memoryview(self._map)
        self.cells = self._bytes.cast("Q")
        self.floats = self._bytes.cast("d")
        self.void = self.body(count)

    @property
    def memory(self) -> int:
        """Bytes that the system has given for it so far."""
        return os.fstat(self._fd).st_blocks * 512

    @property
    def max_memory(self) -> int:
        """Bytes that it takes once every slot is full."""
        return len(self._bytes)

    def head(self, slot: int) -> int:
        """Tell where the head of a slot begins.

        Args:
            slot: Its number.

        Returns:
            The position of its first cell.
        """
        return _HEAD_SIZE * (1 + slot)

    def body(self, slot: int) -> int:
        """Tell where the body of a slot begins.

        Args:
            slot: Its number.

        Returns:
            The position of its first cell.
        """
        return _HEAD_SIZE * (1 + self.count) + slot * self.size

    def take(self) -> int | None:
        """Take a slot that no living process has; what the last one left in it is still there.

        Returns:
            Its number, or None if all are taken.
        """
        for slot in range(self.count):
            if self.lock(slot):
                return slot
        _logger.warning(
            "no slot is left for process %d among %d: it counts for itself alone",
            os.getpid(),
            self.count,
        )
        return None

    def lock(self, slot: int) -> bool:
        """Take a slot if no living process has it; one's own is never free for oneself.

        Args:
            slot: Its number.

        Returns:
            Whether it was free.
        """
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def unlock(self, slot: int) -> None:
        """Give a slot back.

        Args:
            slot: Its number.
        """
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, slot)

    def clear(self, start: int, length: int) -> None:
        """Set cells to zero.

        Args:
            start: Position of the first.
            length: How many.
        """
        self._bytes[_CELL * start : _CELL * (start + length)] = bytes(_CELL * length)

    def announce(self) -> None:
        """Let all processes look at all slots again."""
        self.cells[_ROLL] = int.from_bytes(os.urandom(_CELL))

    def close(self) -> None:
        """Give the memory back; this process cannot count any more."""
        self.cells.release()
        self.floats.release()
        self._bytes.release()
        self._map.close()
        self._close()
