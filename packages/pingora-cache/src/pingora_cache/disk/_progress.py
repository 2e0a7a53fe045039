"""How far a write has come, for those in this process who follow it.

Theory of operation: readers know their position only; they take what follows it, and wait in a list
of futures when there is nothing. A write of this process tells them itself. What it has not put
into the file yet they get from memory, so that a reader who keeps up never waits for the disk.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from bisect import bisect_right
from typing import TYPE_CHECKING, Final, final

from pingora_cache.disk._io import Blocks
from pingora_cache.disk._layout import BLOCK, BLOCK_SHIFT, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_cache.disk._io import Io
    from pingora_cache.disk._writing import WriteFile
    from pingora_error import ErrorKind

__all__ = ["LocalProgress", "Progress"]

# Pieces up to this size are joined: a body sent byte by byte must not become a list of objects each
# of which takes fifty times what it holds.
_SMALL: Final = 4096


class Progress(ABC):
    """A write that goes on.

    Args:
        stall_timeout: Seconds without progress after which those who wait give up.

    Attributes:
        complete: Whether nothing follows.
        failure: Why nothing follows although it is not complete; None if all is well.
        readers: Handlers that are open on it.
        size: Bytes so far.
    """

    __slots__ = (
        "__weakref__",
        "_moved",
        "_stall_timeout",
        "_waiting",
        "_watch",
        "complete",
        "failure",
        "readers",
        "size",
    )

    def __init__(self, stall_timeout: float) -> None:
        self.size = 0
        self.complete = False
        self.failure: tuple[ErrorKind, str] | None = None
        self.readers = 0
        self._stall_timeout = stall_timeout
        self._moved = asyncio.get_running_loop().time()
        self._waiting: list[asyncio.Future[None]] = []
        self._watch: asyncio.TimerHandle | None = None

    @abstractmethod
    async def take(self, position: int) -> bytes | None:
        """Get what follows a position.

        Args:
            position: Bytes from the beginning of the body.

        Returns:
            A piece; None if there is nothing yet.

        Raises:
            Error: If it cannot be read.
        """

    @abstractmethod
    def release(self) -> None:
        """Note that a reader is done."""

    def stalled(self) -> bool:
        """Tell whether it has made no progress for too long.

        Returns:
            Whether.
        """
        return asyncio.get_running_loop().time() - self._moved >= self._stall_timeout

    # ------------------------------------------------------------------------- waiting

    def wait(self) -> asyncio.Future[None]:
        """Wait for progress.

        Returns:
            Done at the next.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiting.append(waiter)
        if self._watch is None:
            self._watch = loop.call_at(self._when(loop.time()), self._look)
        return waiter

    def leave(self, waiter: asyncio.Future[None]) -> None:
        """Wait no more.

        Args:
            waiter: What ``wait`` returned.
        """
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        if not self._waiting and self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _when(self, now: float) -> float:
        # When to look again whether it gets on.
        del now
        return self._moved + self._stall_timeout

    def _look(self) -> None:
        self._watch = None
        if self.stalled():
            self._on_stall()
        elif self._waiting:
            loop = asyncio.get_running_loop()
            self._watch = loop.call_at(self._when(loop.time()), self._look)

    @abstractmethod
    def _on_stall(self) -> None: ...

    def _wake(self) -> None:
        waiting = self._waiting
        if waiting:
            self._waiting = []
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _move(self) -> None:
        self._moved = asyncio.get_running_loop().time()

    def fail(self, etype: ErrorKind, context: str) -> None:
        """Say that what follows never comes; nothing when it is over.

        Args:
            etype: What happened.
            context: The same, for the log.
        """
        if not self.complete and self.failure is None:
            self.failure = (etype, context)
            self._wake()


@final
class LocalProgress(Progress):
    """A write of this process.

    Args:
        io: Where its file is read.
        file: Its file.
        stall_timeout: Seconds without progress after which those who wait give it up.
        on_stall: What gives it up.

    Attributes:
        pending: Bytes that are not in the file yet.
    """

    __slots__ = (
        "_blocks",
        "_file",
        "_io",
        "_last",
        "_on_stalled",
        "_starts",
        "_tail",
        "_taken",
        "pending",
    )

    def __init__(
        self, io: Io, file: WriteFile, stall_timeout: float, on_stall: Callable[[], None]
    ) -> None:
        super().__init__(stall_timeout)
        self._io = io
        self._file = file
        self._on_stalled: Callable[[], None] | None = on_stall
        self._blocks: Blocks | None = None
        self._last = State(0, 0, complete=False)
        # What is not in the file yet, and the position at which each piece begins.
        self._tail: list[bytes] = []
        self._starts: list[int] = []
        self._taken = 0
        self.pending = 0

    def append(self, data: bytes) -> None:
        """Add what follows.

        Args:
            data: Some bytes; may be none, which still is a sign of life.
        """
        self._move()
        if not data:
            return
        tail = self._tail
        if len(tail) > self._taken and len(tail[-1]) + len(data) <= _SMALL:
            tail[-1] += data
        else:
            tail.append(data)
            self._starts.append(self.size)
        self.size += len(data)
        self.pending += len(data)
        self._wake()

    def pieces(self, most: int) -> list[bytes]:
        """Get what is to go into the file next.

        Args:
            most: Bytes at most.

        Returns:
            It.
        """
        tail, starts = self._tail, self._starts
        taken = 0
        while taken < len(tail) and most:
            piece = tail[taken]
            if len(piece) > most:
                tail[taken : taken + 1] = piece[:most], piece[most:]
                starts.insert(taken + 1, starts[taken] + most)
            most -= len(tail[taken])
            taken += 1
        self._taken = taken
        return tail[:taken]

    def written(self) -> None:
        """Note that what ``pieces`` returned is in the file."""
        self._move()
        file = self._file
        self._last = State(file.size, file.last_sum, complete=False)
        self.pending -= sum(map(len, self._tail[: self._taken]))
        del self._tail[: self._taken]
        del self._starts[: self._taken]
        self._taken = 0
        if self.failure is not None and self.readers:
            self._open()  # the file is about to be discarded

    def end(self) -> None:
        """Say that nothing follows; nothing on the second call, or after a failure."""
        if not self.complete and self.failure is None:
            self._move()
            self.complete = True
            self._wake()

    def over(self) -> None:
        """Say that nothing will be written any more; the file may be closed after this.

        Who reads along still gets what there is.
        """
        self._on_stalled = None  # which leads back here through the write: no cycle to collect
        if not self.readers:
            self._tail.clear()
            self._starts.clear()
        elif self._file.descriptor is not None:
            self._open()

    async def take(self, position: int) -> bytes | None:
        """Get what follows a position, from memory or from the file.

        Args:
            position: Bytes from the beginning of the body.

        Returns:
            A piece; None if there is nothing yet.

        Raises:
            Error: If it cannot be read.
        """
        if position >= self.size:
            return None
        last = self._last
        if position >= last.size:
            index = bisect_right(self._starts, position) - 1
            piece = self._tail[index]
            offset = position - self._starts[index]
            return piece[offset:] if offset else piece
        number = position >> BLOCK_SHIFT
        start = number << BLOCK_SHIFT
        size = min(BLOCK, last.size - start)
        expected = self._file.sums[number] if size == BLOCK else last.last_sum
        return (await self._open().block(number, size, expected))[position - start :]

    def _open(self) -> Blocks:
        file = self._file
        if self._blocks is None:
            assert file.descriptor is not None
            self._blocks = Blocks(
                self._io,
                file.descriptor.hold(),
                None,
                body_at=file.layout.body_at,
                seed=file.seed,
            )
        return self._blocks

    def release(self) -> None:
        """Note that a reader is done."""
        self.readers -= 1
        if not self.readers and self._blocks is not None:
            self._blocks.close()
            self._blocks = None

    def _on_stall(self) -> None:
        if self._on_stalled is not None:
            self._on_stalled()
