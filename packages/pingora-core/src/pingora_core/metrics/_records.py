"""Records of bytes, one for each process that was forked from the same one, that outlive it.

Theory of operation: a file without a name, in memory, made before the fork. Each process has a place
in it, and holds a lock on that place which the kernel releases when the process ends, however it
does. A place has two halves, of which one is valid: the other one is written, then the head of the
place is, with check sums. So a process that is killed leaves what it has written last, and a reader
that meets a writer tries again.

Source: memfd_create(2); the record locks of fcntl_locking(2), which belong to a process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import weakref
from struct import Struct
from typing import Final, final
from zlib import crc32

from pingora_error import Error, ErrorSource, ErrorType

__all__ = ["MOST", "Records"]

_HEAD: Final = Struct("<QIII")
"""Sequence number, length, check sum of the content, check sum of the head."""

_PAGE: Final = 4096
_HALF: Final = 8 << 20
_PLACE: Final = _PAGE + 2 * _HALF
"""Bytes; where nothing was written the file has none."""

MOST: Final = 4096
"""How many places there are."""

_TRIES: Final = 100


@final
class Records:
    """Numbered places for bytes, shared with the processes that are forked later.

    Raises:
        Error: ``INTERNAL_ERROR`` if the system gives no file.
    """

    __slots__ = ("__weakref__", "_fd", "close")

    def __init__(self) -> None:
        try:
            self._fd = os.memfd_create("pingora-metrics")
        except OSError as error:
            context = "no memory to share with workers"
            raise Error(
                ErrorType.INTERNAL_ERROR, context, source=ErrorSource.INTERNAL, cause=error
            ) from error
        #: Lets go of the file; what is called later fails.
        self.close = weakref.finalize(self, os.close, self._fd)

    def __len__(self) -> int:
        return min(-(-os.fstat(self._fd).st_size // _PLACE), MOST)

    def try_lock(self, place: int) -> bool:
        """Take a place, until `unlock` or the end of this process.

        Args:
            place: Which. One that this process has taken already it gets again.

        Returns:
            Whether no other process has it.

        Raises:
            Error: ``INTERNAL_ERROR`` if the system cannot tell.
        """
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except OSError as error:
            if error.errno in {errno.EACCES, errno.EAGAIN}:
                return False
            raise Error(
                ErrorType.INTERNAL_ERROR, "no lock", source=ErrorSource.INTERNAL, cause=error
            ) from error
        return True

    def unlock(self, place: int) -> None:
        """Give a place back.

        Args:
            place: Which.
        """
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, place)

    def write(self, place: int, content: bytes) -> None:
        """Replace the content of a place, which this process has taken.

        Args:
            place: Which.
            content: What.

        Raises:
            Error: ``INTERNAL_ERROR`` if there is no room; then the place has what it had.
        """
        if len(content) > _HALF:
            context = f"metrics of {len(content)} bytes are too much for {_HALF}"
            raise Error(ErrorType.INTERNAL_ERROR, context, source=ErrorSource.INTERNAL)
        base = place * _PLACE
        sequence = self._sequence(place) + 1
        try:
            self._write(content, base + _PAGE + (sequence & 1) * _HALF)
            head = _HEAD.pack(sequence, len(content), crc32(content), 0)
            checked = _HEAD.pack(sequence, len(content), crc32(content), crc32(head))
            self._write(checked, base)
        except OSError as error:
            context = "metrics cannot be shared"
            raise Error(
                ErrorType.INTERNAL_ERROR, context, source=ErrorSource.INTERNAL, cause=error
            ) from error

    def _write(self, content: bytes, offset: int) -> None:
        view = memoryview(content)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written

    def _sequence(self, place: int) -> int:
        head = self._head(place)
        return 0 if head is None else head[0]

    def _head(self, place: int) -> tuple[int, int, int] | None:
        raw = os.pread(self._fd, _HEAD.size, place * _PLACE)
        if not any(raw):
            return 0, 0, 0  # nothing was written there, or it is beyond the end
        sequence, length, content_sum, head_sum = _HEAD.unpack(raw)
        if crc32(_HEAD.pack(sequence, length, content_sum, 0)) != head_sum:
            return None
        return sequence, length, content_sum

    def read(self, place: int) -> bytes:
        """Tell the content of a place.

        Args:
            place: Which; anybody's.

        Returns:
            What was written last; nothing if nothing was.

        Raises:
            Error: ``INTERNAL_ERROR`` if the system fails.
        """
        try:
            for _ in range(_TRIES):
                head = self._head(place)
                if head is None:
                    continue
                sequence, length, content_sum = head
                offset = place * _PLACE + _PAGE + (sequence & 1) * _HALF
                content = os.pread(self._fd, length, offset)
                if crc32(content) == content_sum:
                    return content
        except OSError as error:
            context = "shared metrics cannot be read"
            raise Error(
                ErrorType.INTERNAL_ERROR, context, source=ErrorSource.INTERNAL, cause=error
            ) from error
        return b""
