"""The body of one object while it is written: appended by one writer, followed by readers.

Theory of operation: the bytes lie in pieces of one fixed size, so that a position tells its piece,
and behind them in a short tail of the chunks that came last, which become the next piece when
there are enough of them. Readers know their position only; they take what follows it, as the chunk
that came or as the piece that it became, and wait in a list of futures when there is nothing. The
writer never waits, and wakes those that do.

One timer for each body, and only while somebody waits, looks whether the writer still gets on.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_error import Custom

__all__ = ["PIECE", "Body"]

_SHIFT: Final = 18
_MASK: Final = (1 << _SHIFT) - 1

PIECE: Final = 1 << _SHIFT
"""Bytes of each piece but the last: large enough that a megabyte is a handful of writes to a
socket, small enough that joining one is nothing that others notice."""

# Chunks up to this size are joined at once: a body sent byte by byte must not become a list of
# objects each of which takes fifty times what it holds.
_SMALL: Final = 4096


@final
class Body:
    """The bytes of one object, and who reads them.

    Args:
        slot: Where the object belongs.
        stall_timeout: Seconds without progress after which a reader that waits gives up the write.
        on_stall: What gives it up.

    Attributes:
        slot: Where the object belongs.
        pieces: What is in pieces of ``PIECE`` bytes; when complete, all of it, and the last piece
            may be shorter.
        size: Bytes so far.
        complete: Whether nothing follows.
        failure: Why nothing follows although it is not complete; None if all is well.
        readers: Handlers that are open on it.
        detached: Whether it is in the store no more, and lives only for its readers.
    """

    __slots__ = (
        "_on_stall",
        "_progress",
        "_stall_timeout",
        "_starts",
        "_tail",
        "_waiting",
        "_watch",
        "complete",
        "detached",
        "failure",
        "pieces",
        "readers",
        "size",
        "slot",
    )

    def __init__(
        self, slot: bytes, stall_timeout: float, on_stall: Callable[[], None] | None
    ) -> None:
        self.slot = slot
        self.pieces: list[bytes] = []
        self.size = 0
        self.complete = False
        self.failure: tuple[Custom, str] | None = None
        self.readers = 0
        self.detached = False
        # The chunks behind the pieces, and the position at which each begins.
        self._tail: list[bytes] = []
        self._starts: list[int] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._watch: asyncio.TimerHandle | None = None
        self._stall_timeout = stall_timeout
        self._on_stall = on_stall
        self._progress = asyncio.get_running_loop().time()

    @classmethod
    def whole(cls, slot: bytes, pieces: list[bytes], size: int) -> Body:
        """Make a complete one.

        Args:
            slot: Where the object belongs.
            pieces: All pieces.
            size: Their bytes.

        Returns:
            The body.
        """
        body = cls(slot, 0.0, None)
        body.pieces = pieces
        body.size = size
        body.complete = True
        return body

    # ------------------------------------------------------------------------ writing

    def append(self, data: bytes) -> None:
        """Add what follows.

        Args:
            data: Some bytes; may be none, which still is a sign of life.
        """
        self._progress = asyncio.get_running_loop().time()
        if not data:
            return
        tail = self._tail
        if tail and len(tail[-1]) + len(data) <= _SMALL:
            tail[-1] += data
        else:
            tail.append(data)
            self._starts.append(self.size)
        self.size += len(data)
        if self.size - (len(self.pieces) << _SHIFT) >= PIECE:
            self._cut()
        self._wake()

    def _cut(self) -> None:
        # Whole pieces out of the tail; what is left is the new tail.
        joined = self._tail[0] if len(self._tail) == 1 else b"".join(self._tail)
        end = len(joined) & ~_MASK
        self.pieces += [joined[start : start + PIECE] for start in range(0, end, PIECE)]
        rest = joined[end:]
        self._tail = [rest] if rest else []
        self._starts = [self.size - len(rest)] if rest else []

    def end(self) -> None:
        """Say that nothing follows; nothing on the second call, or after a failure."""
        if self.complete or self.failure is not None:
            return
        self.complete = True
        if self._tail:
            self.pieces.append(self._tail[0] if len(self._tail) == 1 else b"".join(self._tail))
            self._tail.clear()
            self._starts.clear()
        self._settle()

    def fail(self, etype: Custom, context: str) -> None:
        """Say that what follows never comes; nothing when complete.

        Who reads along still gets what there is. If nobody does, the bytes are let go.

        Args:
            etype: What happened.
            context: The same, for the log.
        """
        if self.complete or self.failure is not None:
            return
        self.failure = (etype, context)
        if not self.readers:
            self.pieces = []
            self._tail.clear()
            self._starts.clear()
        self._settle()

    def _settle(self) -> None:
        self._on_stall = None  # which leads back here through the write: no cycle for the collector
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._wake()

    def _wake(self) -> None:
        waiting = self._waiting
        if waiting:
            self._waiting = []
            for waiter in waiting:
                # The loop of an abandoned reader may be closed, and then nobody waits any more.
                if not waiter.done() and not waiter.get_loop().is_closed():
                    waiter.set_result(None)

    # ------------------------------------------------------------------------ reading

    def take(self, position: int) -> bytes | None:
        """Get some of what is there.

        Args:
            position: Bytes from the beginning.

        Returns:
            What follows it, as much as lies in one piece; None if nothing does yet.
        """
        if position >= self.size:
            return None
        index = position >> _SHIFT
        if index < len(self.pieces):
            piece = self.pieces[index]
            offset = position & _MASK
        else:
            index = bisect_right(self._starts, position) - 1
            piece = self._tail[index]
            offset = position - self._starts[index]
        return piece[offset:] if offset else piece

    def wait(self) -> asyncio.Future[None]:
        """Get what is done as soon as there is anything new: bytes, the end, or a failure.

        Returns:
            A future of the caller's own; to be handed back by ``leave`` when it is not awaited to
            its end.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiting.append(waiter)
        if self._watch is None:
            self._watch = loop.call_at(self._progress + self._stall_timeout, self._look)
        return waiter

    def leave(self, waiter: asyncio.Future[None]) -> None:
        """Wait no longer.

        Args:
            waiter: What ``wait`` returned.
        """
        if waiter in self._waiting:
            self._waiting.remove(waiter)

    # ------------------------------------------------------------------------- stalls

    def stalled(self) -> bool:
        """Tell whether the writer has made no progress for too long.

        Returns:
            Whether it is so; never after the end.
        """
        if self.complete or self.failure is not None:
            return False
        return asyncio.get_running_loop().time() - self._progress >= self._stall_timeout

    def _look(self) -> None:
        self._watch = None
        if not self._waiting:
            return
        if not self.stalled():
            loop = asyncio.get_running_loop()
            self._watch = loop.call_at(self._progress + self._stall_timeout, self._look)
        elif self._on_stall is not None:
            self._on_stall()
