"""Readers: of a body that came with its meta, and of one in pieces."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import TYPE_CHECKING

from pingora_cache.redis._frames import DamagedError, Kind, unseal
from pingora_cache.redis._scripts import CHUNK
from pingora_cache.storage import HitHandler
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from pingora_cache.redis._frames import Shape
    from pingora_cache.redis._link import Answer
    from pingora_cache.redis._names import ObjectNames
    from pingora_cache.redis._shared import Shared

__all__ = ["ChunkedHit", "InlineHit"]


class _Hit(HitHandler):
    """What both have in common: a range of a body of known size."""

    __slots__ = ("_end", "_is_closed", "_position", "_size", "_weight")

    def __init__(self, size: int, weight: int) -> None:
        self._size = size
        self._weight = weight
        self._position = 0
        self._end = size
        self._is_closed = False

    @abstractmethod
    async def _read(self) -> bytes:
        """Read at the position, which is before the end."""

    async def read_body(self) -> bytes | None:
        """Read on.

        Returns:
            The next piece; None at the end.

        Raises:
            Error: If Redis does not answer in time, or a piece is not there any more or damaged.
            RuntimeError: If the reader has been closed.
        """
        self._check_open()
        if self._position >= self._end:
            return None
        return await self._read()

    def _check_open(self) -> None:
        if self._is_closed:
            msg = "the reader has been closed"
            raise RuntimeError(msg)

    def close(self) -> None:
        """Give up what was read ahead; nothing on the second call."""
        self._is_closed = True

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
        self._check_open()
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
        """Bytes that the object counts for."""
        return self._weight


class InlineHit(_Hit):
    """Reads a body that is here already.

    Args:
        body: The body.
        weight: Bytes that the object counts for.
    """

    __slots__ = ("_body",)

    def __init__(self, body: memoryview, weight: int) -> None:
        super().__init__(len(body), weight)
        self._body = body

    async def _read(self) -> bytes:
        piece = bytes(self._body[self._position : self._end])
        self._position = self._end
        return piece

    def close(self) -> None:
        """Let go of the body; nothing on the second call."""
        super().close()
        self._body = memoryview(b"")


class ChunkedHit(_Hit):
    """Reads a body piece by piece, and one ahead of what is asked for.

    Args:
        shared: What it shares with others.
        names: The keys of the object.
        shape: The shape of the body.
        weight: Bytes that the object counts for.
    """

    __slots__ = ("_ahead", "_ahead_index", "_is_ahead_paid", "_names", "_shape", "_shared")

    def __init__(self, shared: Shared, names: ObjectNames, shape: Shape, weight: int) -> None:
        super().__init__(shape.size, weight)
        self._shared = shared
        self._names = names
        self._shape = shape
        self._ahead: Answer | None = None
        self._ahead_index = -1
        self._is_ahead_paid = False

    async def _read(self) -> bytes:
        size = self._shape.chunk_size
        index, offset = divmod(self._position, size)
        if self._ahead is None or self._ahead_index != index:
            self._drop_ahead()
            self._ahead = self._ask(index)
            self._ahead_index = index
        answer = self._ahead
        if not answer.done():
            # Unlike awaiting it, this leaves it as it is when the caller is cancelled.
            await asyncio.wait([answer])
        self._drop_ahead()
        if self._is_closed:
            msg = "the reader was closed meanwhile"
            raise Error.internal(ErrorType.READ_ERROR, msg)
        chunk = self._open(answer, index)
        piece = bytes(chunk[offset : min(len(chunk), self._end - index * size)])
        self._position += len(piece)
        if self._position < self._end and not self._shared.link.is_closed:
            self._read_ahead(index + 1)
        return piece

    def _read_ahead(self, index: int) -> None:
        if self._shared.budget.take(self._shape.chunk_size):
            self._is_ahead_paid = True
            self._ahead_index = index
            self._ahead = self._ask(index)

    def _ask(self, index: int) -> Answer:
        body = self._names.body(self._shape.write_id)
        # The client has been promised this body: it is worth a try in any case.
        return self._shared.link.run(CHUNK, [body], [index, self._shared.grace], is_committed=True)

    def _open(self, answer: Answer, index: int) -> memoryview:
        try:
            frame = answer.result()
        except Error as error:
            self._shared.count(error)
            raise
        try:
            if frame is None:
                msg = f"the chunk {index} is not there any more"
                raise DamagedError(msg)
            chunk = unseal(frame, Kind.CHUNK, self._shape.write_id, index)
            if len(chunk) != min(
                self._shape.chunk_size, self._size - index * self._shape.chunk_size
            ):
                msg = f"the chunk {index} has {len(chunk)} bytes"
                raise DamagedError(msg)
        except DamagedError as error:
            self._shared.discard(self._names, self._shape.write_id.hex())
            raise Error.internal(ErrorType.READ_ERROR, "a body in Redis", cause=error) from error
        return chunk

    def _drop_ahead(self) -> None:
        answer, self._ahead = self._ahead, None
        if self._is_ahead_paid:
            self._is_ahead_paid = False
            self._shared.budget.give(self._shape.chunk_size)
        if answer is not None and not answer.done() and not answer.get_loop().is_closed():
            answer.cancel()

    def close(self) -> None:
        """Give up what was read ahead; nothing on the second call."""
        super().close()
        self._drop_ahead()

    def __del__(self) -> None:
        self.close()
