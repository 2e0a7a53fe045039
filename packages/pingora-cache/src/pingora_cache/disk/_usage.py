"""What is used, as the manager has counted it, and how much more each process may write.

Theory of operation: the manager counts now and then, and writes down what it has counted with a
number that grows each time. Between two counts a process may write no more than its *allowance*,
so that what is not counted yet stays small. What it wrote shortly before a count may not be part of
that, so it counts in full until the count after.
"""

from __future__ import annotations

import os
from struct import Struct
from typing import Final, NamedTuple, final

from xxhash import xxh3_64_intdigest

__all__ = ["Allowance", "Usage", "UsageFile"]

_RECORD: Final = Struct("<QQQQ?7xQ")
_CHECK: Final = Struct("<Q")
_SHARE: Final = 8


class Usage(NamedTuple):
    """A count.

    Attributes:
        number: Which one it is.
        used: Bytes of finished objects.
        filling: Bytes of those that are being written.
        objects: Finished objects.
        is_last: Whether the next count will take a moment, since the manager saves its state.
    """

    number: int
    used: int
    filling: int
    objects: int
    is_last: bool = False


@final
class UsageFile:
    """Where the counts are written down. For one thread at a time.

    Args:
        path: Where it is.
    """

    __slots__ = ("_fd", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def open(self) -> None:
        """Open it; again if it has been deleted.

        Raises:
            OSError: If that fails.
        """
        if self._fd >= 0:
            if os.fstat(self._fd).st_nlink:
                return
            self.close()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._path, flags, 0o600)

    def close(self) -> None:
        """Close it; nothing on the second call."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self) -> Usage | None:
        """Read the last count.

        Returns:
            It; None if there is none, or it is being written just now.

        Raises:
            OSError: If it cannot be read.
        """
        data = os.pread(self._fd, _RECORD.size, 0)
        if len(data) < _RECORD.size:
            return None
        *fields, check = _RECORD.unpack(data)
        if check != xxh3_64_intdigest(data[: -_CHECK.size]):
            return None
        return Usage(*fields)

    def write(self, usage: Usage) -> None:
        """Write a count down.

        Args:
            usage: The count.

        Raises:
            OSError: If that fails.
        """
        data = _RECORD.pack(*usage, 0)[: -_CHECK.size]
        os.pwrite(self._fd, data + _CHECK.pack(xxh3_64_intdigest(data)), 0)


@final
class Allowance:
    """How much this process may write.

    An eighth of what is free, so that eight processes that know nothing of one another stay within
    the limit; and at least one piece, however large, between two counts.

    Args:
        limit: What all may come to, bytes.

    Attributes:
        usage: The last count.
    """

    __slots__ = ("_before", "_limit", "_since", "usage")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._before = 0
        self._since = 0
        self.usage = Usage(0, 0, 0, 0)

    def update(self, usage: Usage) -> None:
        """Take note of a count.

        Args:
            usage: The count.
        """
        if usage.number != self.usage.number:
            self._before = self._since
            self._since = 0
        self.usage = usage

    def spend(self, size: int) -> bool:
        """Ask for room.

        Args:
            size: Bytes that are to be written.

        Returns:
            Whether they may be; if so, they are counted.
        """
        uncounted = self._before + self._since
        free = self._limit - self.usage.used - self.usage.filling
        if uncounted + size > free or (uncounted and uncounted + size > free // _SHARE):
            return False
        self._since += size
        return True
