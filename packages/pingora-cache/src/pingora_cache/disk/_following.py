"""Writes that go on, as readers see them: those of other processes too.

Theory of operation: the file of another process's write is looked at again and again, soon after
something came and less and less often while nothing comes, once for all readers in this process.
When nothing came for a while the lock tells whether the writer lives: if it can be had, the writer
has finished, which STATE says, or has died.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final, final

from pingora_cache._handlers import WRITE_FAILED, WRITE_STALLED, HitHandler
from pingora_cache.disk._descriptor import READ_FLAGS, Cold, Descriptor, is_alive
from pingora_cache.disk._format import STATE_AT, STATE_SIZE, read_front, read_state
from pingora_cache.disk._io import Blocks
from pingora_cache.disk._layout import (
    BLOCK,
    BLOCK_SHIFT,
    FRONT,
    SUM,
    Damaged,
    is_in_table,
    sum_place,
)
from pingora_cache.disk._progress import Progress
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_cache.disk._io import Io
    from pingora_cache.disk._layout import Front, State

    _Write = tuple[Front, Descriptor, bytes]

__all__ = ["PartialHit", "RemoteProgress", "find_write"]

_SOON: Final = 0.002
_SELDOM: Final = 0.1
_QUIET: Final = 0.05

_CLOSED_MEANWHILE: Final = "the reader was closed while it waited"


def find_write(io: Io, path: str, slot: bytes, tag: bytes) -> _Write | None:
    """Look at a write of another process.

    Args:
        io: Where it is read.
        path: Where it is.
        slot: The hash of its key.
        tag: Its tag.

    Returns:
        What is in front of its file, the file, and its meta; None if it is over, or has just begun.
        One that is complete is not over before it has the name of an object, unless its writer has
        died.

    Raises:
        OSError: If it cannot be read.
    """
    try:
        descriptor = Descriptor(os.open(path, READ_FLAGS))
    except FileNotFoundError:
        return None
    fd = descriptor.fd
    try:
        try:
            data = io.reader.front(fd)
        except Cold:
            data = os.pread(fd, FRONT, 0)  # written a moment ago
        front = read_front(data)
        start, end = front.pointer.at, front.pointer.at + front.pointer.length
        meta = data[start:end] if end <= len(data) else os.pread(fd, end - start, start)
        # An object that is just being removed has another name than its own.
        if (front.slot, front.tag) == (slot, tag) and is_alive(fd):
            return front, descriptor.hold(), meta
    except Damaged:
        pass  # not written yet
    finally:
        descriptor.release()
    return None


@final
class RemoteProgress(Progress):
    """A write of another process.

    Args:
        io: Where its file is read.
        descriptor: Its file; taken over.
        front: What is in front of it.
        stall_timeout: Seconds without progress after which those who wait give up.
        on_over: Told when nobody follows it any more.
    """

    __slots__ = (
        "_blocks",
        "_descriptor",
        "_front",
        "_io",
        "_on_over",
        "_pause",
        "_state",
    )

    def __init__(
        self,
        io: Io,
        descriptor: Descriptor,
        front: Front,
        *,
        stall_timeout: float,
        on_over: Callable[[], None],
    ) -> None:
        super().__init__(stall_timeout)
        self._io = io
        self._descriptor = descriptor
        self._front = front
        self._blocks = Blocks(io, descriptor, None, body_at=front.layout.body_at, seed=front.seed)
        self._on_over = on_over
        self._pause = _SOON
        self._state = front.state
        self.size = front.state.size
        self.complete = front.state.complete

    # -------------------------------------------------------------------------- looking

    def _when(self, now: float) -> float:
        return now + self._pause

    def _look(self) -> None:
        self._watch = None
        try:
            self._refresh()
        except OSError as error:
            self.fail(WRITE_FAILED, f"the file of the write cannot be read: {error}")
        if self._waiting:
            # Nothing came.
            self._pause = min(2 * self._pause, _SELDOM)
            super()._look()

    def _refresh(self) -> None:
        quiet = asyncio.get_running_loop().time() - self._moved > _QUIET
        # In this order: what is not complete although nobody writes it never will be.
        died = quiet and not is_alive(self._descriptor.fd)
        state = read_state(os.pread(self._descriptor.fd, STATE_SIZE, STATE_AT), self._front.seed)
        if state is None:
            return
        if state != self._state:
            self._state = state
            self.size = state.size
            self.complete = state.complete
            self._pause = _SOON
            self._move()
            self._wake()
        elif died:
            self.fail(WRITE_FAILED, "its writer is gone")

    def _on_stall(self) -> None:
        self.fail(WRITE_STALLED, f"no progress in {self._stall_timeout} s")

    # -------------------------------------------------------------------------- reading

    async def take(self, position: int) -> bytes | None:
        """Get what follows a position.

        Args:
            position: Bytes from the beginning of the body.

        Returns:
            A piece; None if there is nothing yet, or its sum is not known any more until the
            write is complete.

        Raises:
            Error: If it cannot be read.
        """
        try:
            if position >= self._state.size and self.failure is None:
                self._refresh()
            return await self._take(position, self._state)
        except OSError as error:
            raise self._io.failed(error, ErrorType.FILE_READ_ERROR, "a write") from error

    async def _take(self, position: int, state: State) -> bytes | None:
        if position >= state.size:
            return None
        number = position >> BLOCK_SHIFT
        start = number << BLOCK_SHIFT
        size = min(BLOCK, state.size - start)
        expected = state.last_sum if size < BLOCK else await self._sum(number)
        if expected is None:
            return None
        return (await self._blocks.block(number, size, expected))[position - start :]

    async def _sum(self, number: int) -> int | None:
        front = self._front._replace(state=self._state)
        if front.state.complete:
            at: int | None = front.sums_at + SUM.size * number
        elif is_in_table(front.layout, number, front.blocks):
            at = sum_place(front.layout, number)
        else:
            at = None
        if at is None:
            return None
        data = await self._blocks.bytes_at(at, SUM.size)
        if not front.state.complete:
            # The writer may have come round the ring while this was reading.
            self._refresh()
            if not is_in_table(front.layout, number, self._state.size >> BLOCK_SHIFT):
                return None
        return int.from_bytes(data, "little")

    def release(self) -> None:
        """Note that a reader is done."""
        self.readers -= 1
        if not self.readers:
            self._blocks.close()
            self._on_over()


class PartialHit(HitHandler):
    """Follows a write that goes on.

    Args:
        progress: What is written.
    """

    __slots__ = ("_position", "_progress", "_waiter")

    def __init__(self, progress: Progress) -> None:
        self._progress: Progress | None = progress
        self._position = 0
        self._waiter: asyncio.Future[None] | None = None
        progress.readers += 1

    async def read_body(self) -> bytes | None:
        """Read on, or wait for the writer.

        Returns:
            What was written next; None at the end.

        Raises:
            Error: If the write has failed or stalled, cannot be read, or the reader was closed
                meanwhile.
            RuntimeError: If the reader has been closed.
        """
        progress = self._progress
        if progress is None:
            msg = "the reader has been closed"
            raise RuntimeError(msg)
        while True:
            piece = await progress.take(self._position)
            if self._progress is None:
                raise Error(WRITE_FAILED, _CLOSED_MEANWHILE, source=ErrorSource.INTERNAL)
            if piece is not None:
                self._position += len(piece)
                return piece
            if progress.failure is not None:
                raise Error(*progress.failure, source=ErrorSource.INTERNAL)
            if progress.complete and self._position >= progress.size:
                return None
            if progress.failure is None:
                await self._more(progress)

    async def _more(self, progress: Progress) -> None:
        waiter = self._waiter = progress.wait()
        try:
            await waiter
        finally:
            self._waiter = None
            progress.leave(waiter)
        if self._progress is None:
            raise Error(WRITE_FAILED, _CLOSED_MEANWHILE, source=ErrorSource.INTERNAL)

    def close(self) -> None:
        """Let go of the write; nothing on the second call."""
        progress = self._progress
        if progress is not None:
            self._progress = None
            waiter = self._waiter
            if waiter is not None and not waiter.done() and not waiter.get_loop().is_closed():
                waiter.set_result(None)
            progress.release()

    def __del__(self) -> None:
        # A constructor that failed leaves nothing to close.
        if hasattr(self, "_waiter"):
            self.close()

    @property
    def body_size(self) -> int | None:
        """Bytes of the whole body; None until the last is written."""
        progress = self._progress
        return progress.size if progress is not None and progress.complete else None

    @property
    def is_partial(self) -> bool:
        """Always."""
        return True
