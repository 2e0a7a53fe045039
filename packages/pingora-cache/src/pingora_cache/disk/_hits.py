"""Readers of finished objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pingora_cache._handlers import WRITE_FAILED, HitHandler
from pingora_cache.disk._layout import BLOCK, BLOCK_SHIFT, SUM
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from pingora_cache.disk._io import Blocks
    from pingora_cache.disk._layout import Front

__all__ = ["DiskHit", "SmallHit"]

_MASK: Final = BLOCK - 1
_CLOSED: Final = "the reader has been closed"
_CLOSED_MEANWHILE: Final = "the reader was closed while it waited"
# Sums that are read at once: those of 128 MiB.
_SUMS: Final = 512


class _Hit(HitHandler):
    # What readers of small and of large objects have in common: a range.

    __slots__ = ("_end", "_is_open", "_position", "_size", "_weight")

    def __init__(self, size: int, weight: int) -> None:
        self._size = size
        self._weight = weight
        self._position = 0
        self._end = size
        self._is_open = True

    @property
    def can_seek(self) -> bool:
        """Always."""
        return True

    def seek(self, start: int, end: int | None = None) -> None:
        """Go on reading at ``start``, up to ``end``.

        Args:
            start: Bytes from the beginning of the body.
            end: Where to end, exclusive; None or beyond the body for its end.

        Raises:
            Error: If ``start`` is not inside the body.
            RuntimeError: If the reader has been closed.
            ValueError: If ``start`` is negative or ``end`` is not above it.
        """
        if not self._is_open:
            raise RuntimeError(_CLOSED)
        if start < 0 or (end is not None and end <= start):
            msg = f"{start} to {end} is no range"
            raise ValueError(msg)
        if start >= self._size:
            msg = f"seek to {start} in a body of {self._size} bytes"
            raise Error(ErrorType.INTERNAL_ERROR, msg, source=ErrorSource.INTERNAL)
        self._position = start
        self._end = self._size if end is None else min(end, self._size)

    @property
    def body_size(self) -> int:
        """Bytes of the whole body."""
        return self._size

    @property
    def eviction_weight(self) -> int:
        """Bytes that the object takes on the disk."""
        return self._weight


class SmallHit(_Hit):
    """Reads an object that was read and checked as a whole.

    Args:
        body: The body.
        weight: Bytes that the object takes on the disk.
    """

    __slots__ = ("_body",)

    def __init__(self, body: bytes, weight: int) -> None:
        super().__init__(len(body), weight)
        self._body = body

    async def read_body(self) -> bytes | None:
        """Read on, all of it.

        Returns:
            The body, or the range of it; None at the end.

        Raises:
            RuntimeError: If the reader has been closed.
        """
        if not self._is_open:
            raise RuntimeError(_CLOSED)
        position, end = self._position, self._end
        if position >= end:
            return None
        self._position = end
        body = self._body
        return body if end - position == len(body) else body[position:end]

    def close(self) -> None:
        """Let go of the body; nothing on the second call."""
        self._is_open = False
        self._body = b""


class DiskHit(_Hit):
    """Reads an object block by block.

    Args:
        front: What is in front of its file.
        blocks: Its body; taken over.
        sums: The sums of its whole blocks, if they have been read.
        weight: Bytes that the object takes on the disk.
    """

    __slots__ = ("_blocks", "_first_sum", "_front", "_sums")

    def __init__(self, front: Front, blocks: Blocks, sums: bytes, weight: int) -> None:
        super().__init__(front.state.size, weight)
        self._front = front
        self._blocks = blocks
        self._sums = sums
        self._first_sum = 0

    async def read_body(self) -> bytes | None:
        """Read on, up to the end of a block, after checking all of it.

        Returns:
            The next piece; None at the end.

        Raises:
            Error: If the object cannot be read or is damaged, or the reader was closed meanwhile.
            RuntimeError: If the reader has been closed before.
        """
        if not self._is_open:
            raise RuntimeError(_CLOSED)
        position, end = self._position, self._end
        if position >= end:
            return None
        number = position >> BLOCK_SHIFT
        start = number << BLOCK_SHIFT
        size = min(BLOCK, self._size - start)
        data = await self._blocks.block(number, size, await self._sum(number))
        if not self._is_open:
            raise Error(WRITE_FAILED, _CLOSED_MEANWHILE, source=ErrorSource.INTERNAL)
        stop = min(end, start + size)
        self._position = stop
        return data if stop - position == size else data[position - start : stop - start]

    async def _sum(self, number: int) -> int:
        front = self._front
        if number == front.blocks:
            return front.state.last_sum
        at = (number - self._first_sum) * SUM.size
        if not 0 <= at < len(self._sums):
            first = number - number % _SUMS
            size = min(_SUMS, front.blocks - first) * SUM.size
            sums = await self._blocks.bytes_at(front.sums_at + first * SUM.size, size)
            # If the file ends before, no sum will fit.
            self._sums = sums.ljust(size, b"\0")
            self._first_sum = first
            at = (number - first) * SUM.size
        value: int = SUM.unpack_from(self._sums, at)[0]
        return value

    def close(self) -> None:
        """Close the file, as soon as nothing is read from it; nothing on the second call."""
        if self._is_open:
            self._is_open = False
            self._blocks.close()

    def __del__(self) -> None:
        # A constructor that failed leaves nothing to close.
        if hasattr(self, "_sums"):
            self.close()
