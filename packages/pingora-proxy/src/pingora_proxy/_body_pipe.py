"""The way of a body from the task that stores it to the one that sends it to a client.

Theory of operation: pieces wait in the pipe, up to a megabyte. A reader that lags behind further goes
on with what the store has kept meanwhile, so that a slow client holds up nobody else. Should the store
fail after that, the reader reads there what there is; from then on the pieces wait here again, and
the writing end waits for the reader. So nothing is lost, and nothing comes twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from pingora_error import Error

if TYPE_CHECKING:
    from pingora_cache.storage import HitHandler

__all__ = ["BodyPipe"]

# Bytes that a client may lag behind the upstream before it has to read from the store.
_MAX_LAG: Final = 1 << 20


class BodyPipe:
    """Passes a body from the task that receives it to the one that sends it, with a bound.

    A reader that lags behind too far goes on with what a store has kept meanwhile, if there is
    one, at once or after some patience; otherwise the writing end waits for it. If the store fails
    later, the reader comes back when it has read what there is.

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
        # Bytes that have come here, and how many of them were read in the store.
        self._passed = 0
        self._position = 0
        # Where a store ends that has failed, what follows there, and what it has said.
        self._store_end: int | None = None
        self._later: deque[bytes] | None = None
        self._lost: Error | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    # ---------------------------------------------------------------- receiving end

    async def write(self, data: bytes) -> None:
        """Pass a piece on, unless nobody reads it here.

        Args:
            data: The piece.
        """
        self._passed += len(data)
        if self._closed or self._reads_store_only():
            if self._lost is not None:
                # The store goes on without those who read along.
                self.end(self._lost)
            return
        if self._waiting and self._waiting + len(data) > self._max_lag:
            if self._stored is not None and self._later is None and self._patience <= 0:
                self._has_left = True
                return
            if not await self._make_room():
                return
        if self._later is None:
            self._pieces.append(data)
            self._accepted += len(data)
        else:
            self._later.append(data)
        self._waiting += len(data)
        self._wake_reader()

    def _reads_store_only(self) -> bool:
        return self._has_left and self._later is None

    async def _make_room(self) -> bool:
        # Waits for the reader; says whether there still is one here.
        loop = asyncio.get_running_loop()
        began = loop.time()
        limit = None
        if self._stored is not None and self._later is None:
            limit = loop.call_later(self._patience, self._leave)
        try:
            while self._waiting > self._max_lag // 2 and not self._is_unread():
                self._writer = loop.create_future()
                await self._writer
        finally:
            if limit is not None:
                limit.cancel()
            self._patience -= loop.time() - began
        return not self._is_unread()

    def _is_unread(self) -> bool:
        return self._closed or self._reads_store_only()

    def _leave(self) -> None:
        self._has_left = True
        self._wake_writer()

    def drop_store(self) -> None:
        """Say that the store has failed: from now on the writing end waits for the reader."""
        if self._stored is None or self._later is not None:
            return
        if self._has_left:
            self._store_end = self._passed
            self._later = deque()
            self._wake_reader()
        else:
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
                data = await self._read_stored(self._stored)
                if data is not None or not self._come_back(self._stored):
                    return data
                continue
            if self._error is not None:
                self.has_failed = True
                raise self._error
            if self._ended:
                return None
            await self._wait()
        data = self._pieces.popleft()
        self._waiting -= len(data)
        self._wake_writer()
        return data

    async def _wait(self) -> None:
        self._reader = asyncio.get_running_loop().create_future()
        await self._reader

    async def _read_stored(self, stored: HitHandler) -> bytes | None:
        # None where the store ends: with the body, or before, if it has failed.
        while self._position != self._store_end:
            try:
                data = await stored.read_body()
            except Error as error:
                await self._confirm_loss(error)
                return None
            if data is None:
                return None
            if self._store_end is not None:
                data = data[: self._store_end - self._position]
            self._position += len(data)
            # What has come through the pipe.
            skipped = min(self._accepted, len(data))
            self._accepted -= skipped
            if skipped < len(data):
                return data[skipped:]
        return None

    async def _confirm_loss(self, error: Error) -> None:
        # The store has failed, and the writing end hears of it with the next piece. All is well if
        # nothing has come here that was not in the store.
        self._lost = error
        while not (self._closed or self._ended or self._store_end is not None):
            await self._wait()
        if self._closed:
            return
        end = self._passed if self._store_end is None else self._store_end
        if self._position != end:
            self.has_failed = True
            raise self._error or error

    def _come_back(self, stored: HitHandler) -> bool:
        # From a store that has failed to what has come since; False at the end of the body.
        if self._store_end is None and self._lost is None:
            return False
        stored.close()
        self._stored = None
        self._pieces = self._later or deque()
        self._later = None
        self._has_left = False
        return True

    def close(self) -> None:
        """Read no more; the writing end is not held up any longer."""
        self._closed = True
        self._pieces.clear()
        self._later = None
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
