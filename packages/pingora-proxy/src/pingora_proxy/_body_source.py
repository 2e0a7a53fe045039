"""Where the body of a response comes from that is not simply relayed.

A source may be a reader of the cache's (:class:`pingora_cache.storage.HitHandler`), the upstream
itself, or a pipe between the two.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Generic, Protocol

from pingora_core.protocols.http.task import (
    BodyTask,
    DoneTask,
    FailedTask,
    TrailerTask,
    UpgradedBodyTask,
)
from pingora_error import Error, ErrorType
from pingora_proxy.hooks import CTX

if TYPE_CHECKING:
    from pingora_cache.storage import HitHandler
    from pingora_core.protocols.http.client import ClientSession
    from pingora_proxy._upstream_plane import UpstreamPlane

__all__ = ["BodyPipe", "BodySource", "UpstreamBody"]

# Bytes that a client may lag behind the upstream before it has to read from the store.
_MAX_LAG: Final = 1 << 20


class BodySource(Protocol):
    """The body of one response, read once from its beginning."""

    async def read_body(self) -> bytes | None:
        """Wait for the next piece; None at the end."""

    def close(self) -> None:
        """Let go of it; a read that waits ends with an error."""

    @property
    def body_size(self) -> int | None:
        """Bytes of the whole body; None where that is not known yet."""

    @property
    def can_seek(self) -> bool:
        """Whether reading can go on somewhere else."""

    def seek(self, start: int, end: int | None = None) -> None:
        """Go on at an offset, up to another."""

    @property
    def is_partial(self) -> bool:
        """Whether the body is still arriving."""


class UpstreamBody(Generic[CTX]):
    """The body of an upstream's response, through the filters of the upstream's side.

    Args:
        upstream: The exchange; its final head was read.
        plane: The filters; None for none.
        end: Whether the response has ended with its head.

    Attributes:
        delay: Seconds to pause after the last piece, as a filter has asked for.
    """

    def __init__(
        self, upstream: ClientSession, plane: UpstreamPlane[CTX] | None, *, end: bool
    ) -> None:
        self._upstream = upstream
        self._plane = plane
        self._ended = end
        self._told_end = plane is None or not plane.sees_body
        self.delay = 0.0

    async def read_body(self) -> bytes | None:
        """Wait for the next piece.

        Returns:
            The piece; None at the end. Trailers are dropped.

        Raises:
            Error: From upstream or a filter.
        """
        while True:
            if self.delay > 0:
                await asyncio.sleep(self.delay)
                self.delay = 0.0
            if self._ended:
                return await self._last()
            data = await self._next()
            if data:
                return data

    async def _next(self) -> bytes | None:
        task = self._upstream.next_task()
        if task is None:
            task = await self._upstream.wait_task()
        match task:
            case BodyTask() | UpgradedBodyTask():
                data = task.data
                self._ended = task.end
            case TrailerTask() | DoneTask():
                data = None
                self._ended = True
            case FailedTask():
                raise task.error
            case _:
                raise Error.up(ErrorType.INVALID_HTTP_HEADER, "a second response head")
        if self._told_end or self._plane is None:
            return data
        self._told_end = self._ended
        data, self.delay = await self._plane.body(data, end=self._ended)
        return data

    async def _last(self) -> bytes | None:
        if self._told_end or self._plane is None:
            return None
        self._told_end = True
        data, self.delay = await self._plane.body(None, end=True)
        return data or None

    def close(self) -> None:
        """Break off; the connection is not used again."""
        if not self._ended:
            self._upstream.shutdown()

    @property
    def body_size(self) -> int | None:
        """None: it is still arriving."""
        return None

    @property
    def can_seek(self) -> bool:
        """False: it passes by once."""
        return False

    def seek(self, start: int, end: int | None = None) -> None:
        """Not possible.

        Args:
            start: Of no effect.
            end: Of no effect.

        Raises:
            RuntimeError: Always.
        """
        msg = f"the body of a response cannot go to {start}, {end}"
        raise RuntimeError(msg)

    @property
    def is_partial(self) -> bool:
        """True: it is still arriving."""
        return True


class BodyPipe:
    """Passes a body from the task that receives it to the one that sends it, with a bound.

    A reader that lags behind too far goes on with what a store has kept meanwhile, if there is
    one, at once or after some patience; otherwise the writing end waits for it.

    Args:
        stored: A reader of the same body in a store, at its beginning; None without one.
        max_lag: Bytes that may wait in the pipe.
        patience: Seconds that the writing end waits for the reader altogether, before that goes
            on with the store.

    Attributes:
        has_failed: Whether the reader has got the error of the writing end.
    """

    def __init__(
        self, stored: HitHandler | None = None, max_lag: int = _MAX_LAG, *, patience: float = 0.0
    ) -> None:
        self.has_failed = False
        self._stored = stored
        self._max_lag = max_lag
        self._patience = patience
        self._pieces: deque[bytes] = deque()
        self._waiting = 0
        self._accepted = 0
        self._ended = False
        self._closed = False
        self._error: Error | None = None
        self._has_left = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    # ---------------------------------------------------------------- receiving end

    async def write(self, data: bytes) -> None:
        """Pass a piece on, unless nobody reads it here.

        Args:
            data: The piece.
        """
        if self._closed or self._has_left:
            return
        if self._waiting and self._waiting + len(data) > self._max_lag:
            if self._stored is not None and self._patience <= 0:
                self._has_left = True
                return
            if not await self._make_room():
                return
        self._pieces.append(data)
        self._waiting += len(data)
        self._accepted += len(data)
        self._wake_reader()

    async def _make_room(self) -> bool:
        # Waits for the reader; says whether there still is one here.
        loop = asyncio.get_running_loop()
        began = loop.time()
        limit = None
        if self._stored is not None:
            limit = loop.call_later(self._patience, self._leave)
        try:
            while self._waiting > self._max_lag // 2 and not (self._closed or self._has_left):
                self._writer = loop.create_future()
                await self._writer
        finally:
            if limit is not None:
                limit.cancel()
            self._patience -= loop.time() - began
        return not (self._closed or self._has_left)

    def _leave(self) -> None:
        self._has_left = True
        self._wake_writer()

    def drop_store(self) -> None:
        """Say that the store has failed: from now on the writing end waits for the reader."""
        if self._stored is not None and not self._has_left:
            self._stored.close()
            self._stored = None

    def end(self, error: Error | None = None) -> None:
        """Say that nothing follows.

        Args:
            error: What the reader fails with after what it has; None for a proper end.
        """
        self._ended = True
        self._error = error
        self._wake_reader()

    # ------------------------------------------------------------------ sending end

    async def read_body(self) -> bytes | None:
        """Wait for the next piece.

        Returns:
            The piece; None at the end, and once the pipe is closed.

        Raises:
            Error: What the writing end has failed with.
        """
        while not self._pieces:
            if self._closed:
                return None
            if self._has_left and self._stored is not None:
                return await self._read_stored(self._stored)
            if self._error is not None:
                self.has_failed = True
                raise self._error
            if self._ended:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        data = self._pieces.popleft()
        self._waiting -= len(data)
        self._wake_writer()
        return data

    async def _read_stored(self, stored: HitHandler) -> bytes | None:
        while True:
            data = await stored.read_body()
            if data is None or not self._accepted:
                return data
            # What has come through the pipe.
            skipped = min(self._accepted, len(data))
            self._accepted -= skipped
            if skipped < len(data):
                return data[skipped:]

    def close(self) -> None:
        """Read no more; the writing end is not held up any longer."""
        self._closed = True
        self._pieces.clear()
        self._waiting = 0
        if self._stored is not None:
            self._stored.close()
        self._wake_writer()
        self._wake_reader()

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _wake_writer(self) -> None:
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    @property
    def body_size(self) -> int | None:
        """None: it is still arriving."""
        return None

    @property
    def can_seek(self) -> bool:
        """False: it passes by once."""
        return False

    def seek(self, start: int, end: int | None = None) -> None:
        """Not possible.

        Args:
            start: Of no effect.
            end: Of no effect.

        Raises:
            RuntimeError: Always.
        """
        msg = f"a pipe cannot go to {start}, {end}"
        raise RuntimeError(msg)

    @property
    def is_partial(self) -> bool:
        """True: it is still arriving."""
        return True
