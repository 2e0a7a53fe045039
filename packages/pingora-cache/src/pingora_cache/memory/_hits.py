"""Readers: of a finished object, and of one that is still being written."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Final, final

from pingora_cache._handlers import WRITE_FAILED, HitHandler
from pingora_cache.memory._body import PIECE
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from pingora_cache.memory._body import Body
    from pingora_cache.memory._records import Entry

__all__ = ["LargeHit", "PartialHit", "SmallHit"]

_SHIFT: Final = PIECE.bit_length() - 1
_MASK: Final = PIECE - 1


_CLOSED: Final = "the reader has been closed"


class _Seekable(HitHandler):
    """What both kinds of readers of finished objects do alike: they know a range."""

    __slots__ = ("_end", "_position")

    _position: int
    _end: int

    @property
    @abstractmethod
    def body_size(self) -> int:
        """Bytes of the whole body."""

    @property
    @abstractmethod
    def _is_closed(self) -> bool:
        """Whether the reader has been closed."""

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
        if self._is_closed:
            raise RuntimeError(_CLOSED)
        if start < 0 or (end is not None and end <= start):
            msg = f"{start} to {end} is no range"
            raise ValueError(msg)
        size = self.body_size
        if start >= size:
            msg = f"seek to {start} in a body of {size} bytes"
            raise Error(ErrorType.INTERNAL_ERROR, msg, source=ErrorSource.INTERNAL)
        self._position = start
        self._end = size if end is None else min(end, size)


@final
class SmallHit(_Seekable):
    """Reads a finished object whose body lies in its record.

    Args:
        entry: The object.
    """

    __slots__ = ("_entry",)

    def __init__(self, entry: Entry) -> None:
        self._entry: Entry | None = entry
        self._position = 0
        self._end = entry.size

    async def read_body(self) -> bytes | None:
        """Read all that is left.

        Returns:
            It; None at the end.

        Raises:
            RuntimeError: If the reader has been closed.
        """
        entry = self._entry
        if entry is None:
            raise RuntimeError(_CLOSED)
        position, end = self._position, self._end
        if position >= end:
            return None
        self._position = end
        at = entry.body_at
        return entry.data[at + position : at + end]

    def whole_body(self) -> bytes | None:
        """Return the body; reading goes on where it was.

        Returns:
            It; None after `close`.
        """
        entry = self._entry
        if entry is None:
            return None
        at = entry.body_at
        return entry.data[at : at + entry.size]

    def close(self) -> None:
        """Let go of the body; nothing on the second call."""
        self._entry = None

    @property
    def _is_closed(self) -> bool:
        return self._entry is None

    @property
    def body_size(self) -> int:
        """Bytes of the whole body."""
        return 0 if self._entry is None else self._entry.size

    @property
    def eviction_weight(self) -> int:
        """Bytes that the object counts for."""
        return 0 if self._entry is None else self._entry.weight


@final
class LargeHit(_Seekable):
    """Reads a finished object that is too large to be forgotten about while somebody reads it.

    Args:
        body: The body.
        weight: Bytes that the object counts for.
        release: Told when this reader is done with the body.
    """

    __slots__ = ("_body", "_release", "_weight")

    def __init__(self, body: Body, weight: int, release: Callable[[Body], None]) -> None:
        self._body: Body | None = body
        self._weight = weight
        self._release = release
        self._position = 0
        self._end = body.size
        body.readers += 1

    async def read_body(self) -> bytes | None:
        """Read on, a piece at a time, without copying unless a range cuts it.

        Returns:
            The next piece; None at the end.

        Raises:
            RuntimeError: If the reader has been closed.
        """
        body = self._body
        if body is None:
            raise RuntimeError(_CLOSED)
        position = self._position
        left = self._end - position
        if left <= 0:
            return None
        piece = body.pieces[position >> _SHIFT]
        offset = position & _MASK
        if offset or left < len(piece):
            piece = piece[offset : offset + left]
        self._position = position + len(piece)
        return piece

    def close(self) -> None:
        """Let go of the body; nothing on the second call."""
        body = self._body
        if body is not None:
            self._body = None
            self._release(body)

    def __del__(self) -> None:
        self.close()

    @property
    def _is_closed(self) -> bool:
        return self._body is None

    @property
    def body_size(self) -> int:
        """Bytes of the whole body."""
        return 0 if self._body is None else self._body.size

    @property
    def eviction_weight(self) -> int:
        """Bytes that the object counts for."""
        return self._weight


@final
class PartialHit(HitHandler):
    """Follows a write that goes on.

    Args:
        body: What is written.
        release: Told when this reader is done with the body.
    """

    __slots__ = ("_body", "_position", "_release", "_waiter")

    def __init__(self, body: Body, release: Callable[[Body], None]) -> None:
        self._body: Body | None = body
        self._release = release
        self._position = 0
        self._waiter: asyncio.Future[None] | None = None
        body.readers += 1

    async def read_body(self) -> bytes | None:
        """Read on, or wait for the writer.

        Returns:
            What was written next; None at the end.

        Raises:
            Error: If the write has failed or stalled, or the reader was closed meanwhile.
            RuntimeError: If the reader has been closed.
        """
        body = self._body
        if body is None:
            raise RuntimeError(_CLOSED)
        while True:
            piece = body.take(self._position)
            if piece is not None:
                self._position += len(piece)
                return piece
            if body.failure is not None:
                raise Error(*body.failure, source=ErrorSource.INTERNAL)
            if body.complete:
                return None
            await self._more(body)

    async def _more(self, body: Body) -> None:
        waiter = self._waiter = body.wait()
        try:
            await waiter
        finally:
            self._waiter = None
            body.leave(waiter)
        if self._body is None:
            raise Error.internal(WRITE_FAILED, "the reader was closed while it waited")

    def close(self) -> None:
        """Let go of the body; nothing on the second call."""
        body = self._body
        if body is not None:
            self._body = None
            waiter = self._waiter
            if waiter is not None and not waiter.done() and not waiter.get_loop().is_closed():
                waiter.set_result(None)
            self._release(body)

    def __del__(self) -> None:
        self.close()

    @property
    def body_size(self) -> int | None:
        """Bytes of the whole body; None until the last is written."""
        body = self._body
        return body.size if body is not None and body.complete else None

    @property
    def is_partial(self) -> bool:
        """Always."""
        return True
