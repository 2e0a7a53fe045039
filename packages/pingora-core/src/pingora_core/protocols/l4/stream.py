"""The stream over a TCP or Unix socket, on the transports of uvloop and asyncio.

Theory of operation. The transport calls back with bytes, which are kept in one bytes object; at
most one future waits for them. A wait is `fill`, which returns that future itself, so waiting
costs neither a coroutine nor a task. Reading pauses while more than the read buffer lies unread
and nobody waits; writing beyond the write buffer raises `needs_drain`. Deadlines are coarse and
made when first used.

Ends and failures are flags that `fill`, `drain` and `write` look at; the `Error` is made by whoever
asks. FIN ends reading only: the owner may go on writing and decides when to close.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import sys
import termios
import time
from typing import TYPE_CHECKING, Final, cast

from pingora_core.protocols.l4._transport import TransportStream
from pingora_core.runtime.timers import Deadline, get_timers
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DEFAULT_LINGER", "DEFAULT_READ_BUFFER", "DEFAULT_WRITE_BUFFER", "L4Stream"]

_logger = logging.getLogger(__name__)

DEFAULT_READ_BUFFER: Final = 65536
"""Bytes; listeners/l4.rs, and asyncio's own limit."""

DEFAULT_WRITE_BUFFER: Final = 65536
"""Bytes; asyncio's high-water mark."""

DEFAULT_LINGER: Final = 5.0
"""Seconds; nginx's lingering_timeout."""

_NO_BYTES: Final = bytes(4)


class L4Stream(TransportStream, asyncio.Protocol):
    """A TCP or Unix stream; the protocol factory of ``create_server`` and ``create_connection``.

    Args:
        loop: The running event loop.
        read_buffer: Unread bytes at which reading pauses. Two arrivals, at most 256 KiB each,
            may exceed it, and so may what `fill` is asked for while bytes are left unread.
        write_buffer: Unsent bytes above which `needs_drain` is true; it is false again below a
            quarter of it.
        linger: How long `close` may take to send what was written, seconds.
        on_connected: Called with the stream once it is connected.

    Attributes:
        at_eof: Whether the peer ended its direction or the connection is gone.
        buffered: How many bytes `take` would return now.
        is_closed: Whether `close` or `abort` was called or the connection is lost.
    """

    __slots__ = (
        "__weakref__",
        "_buffer",
        "_closed_waiters",
        "_discarding",
        "_eof",
        "_halted",
        "_linger",
        "_on_connected",
        "_on_disconnect",
        "_paused",
        "_read_deadline",
        "_read_limit",
        "_waiter",
        "_write_limit",
        "at_eof",
        "buffered",
        "is_closed",
        "on_data",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        read_buffer: int = DEFAULT_READ_BUFFER,
        write_buffer: int = DEFAULT_WRITE_BUFFER,
        linger: float = DEFAULT_LINGER,
        on_connected: Callable[[L4Stream], None] | None = None,
    ) -> None:
        super().__init__(loop)
        self._read_limit = read_buffer
        self._write_limit = write_buffer
        self._linger = linger
        self._on_connected = on_connected
        self._buffer = b""
        # Not properties, which take six times as long: all are read several times per request.
        self.buffered: int = 0
        self.at_eof: bool = False
        self.is_closed: bool = False
        self._waiter: asyncio.Future[bool] | None = None
        self._closed_waiters: tuple[asyncio.Future[None], ...] = ()
        self._read_deadline: Deadline | None = None
        self._on_disconnect: Callable[[], None] | None = None
        # True once any of _eof, _closed, _lost, _failure is: what the hot path looks at.
        self._halted = self._eof = False
        self._discarding = False
        self._paused = False
        self.on_data: Callable[[], None] | None = None

    # ------------------------------------------------ called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport; the event loop calls this.

        Args:
            transport: Of this connection.
        """
        # A cast: uvloop's transports do not derive from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        transport = self._transport
        self._established_ts = time.time()
        # Explicit, because uvloop's own low-water mark is 16 bytes (handles/basetransport.pyx).
        transport.set_write_buffer_limits(self._write_limit)
        on_connected = self._on_connected
        if on_connected is not None:
            self._on_connected = None
            on_connected(self)

    def data_received(self, data: bytes) -> None:
        """Keep bytes and wake the reader; the event loop calls this.

        Args:
            data: At least one byte.
        """
        if self._buffer:
            data = self._buffer + data
        self._buffer = data
        self.buffered = size = len(data)
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(True)
                return
        if self._discarding:
            self._buffer = b""
            self.buffered = 0
            return
        if size >= self._read_limit and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        if self.on_data is not None:
            self.on_data()

    def eof_received(self) -> bool:
        """Note that the peer ended its direction; the event loop calls this.

        Returns:
            Whether to keep the connection: the owner may still write.
        """
        if self._discarding:
            return False
        self._eof = self._halted = self.at_eof = True
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(False)
        self._disconnected()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake everybody, with an error where it is one; the event loop calls this.

        Args:
            exc: What broke the connection; None if this side closed it.
        """
        self._lost = self._halted = self._unwritable = self.at_eof = self.is_closed = True
        self._lost_cause = exc
        self.needs_drain = False
        self._discarding = False
        if not self._closed:
            if not self._eof:
                room = max(0, self._read_limit - len(self._buffer))
                self._buffer += self._read_remaining(room)
                self.buffered = len(self._buffer)
            self._disconnected()
        for deadline in (self._read_deadline, self._write_deadline):
            if deadline is not None:
                deadline.cancel()
        # Deadlines point back here; without the circle the stream goes at once, not with the gc.
        self._read_deadline = self._write_deadline = None
        if self._waiter is not None or self._drain_waiter is not None:
            self._wake_with(self._read_failure(), self._write_failure())
        for waiter in self._closed_waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._closed_waiters = ()
        self.on_data = None

    # ---------------------------------------------------------------- reading

    def pending_input(self) -> int:
        """Tell how much has arrived that was not taken, the kernel's buffer included.

        Returns:
            Bytes; 0 for none.
        """
        sock = None if self._eof or self._closed else self._socket()
        if sock is None:
            return self.buffered
        answer = fcntl.ioctl(sock.fileno(), termios.FIONREAD, _NO_BYTES)
        return self.buffered + int.from_bytes(answer, sys.byteorder)

    def take(self) -> bytes:
        """Hand over everything that is buffered, and resume reading if it was paused.

        Returns:
            The bytes, empty if there are none.
        """
        data = self._buffer
        self._buffer = b""
        self.buffered = 0
        if self._paused:
            self._resume_reading()
        return data

    def unread(self, data: bytes) -> None:
        """Put bytes back in front of the buffer.

        Args:
            data: Bytes the next `take` returns first.
        """
        self._buffer = data + self._buffer if self._buffer else data
        self.buffered = len(self._buffer)

    def fill(self, timeout: float | None = None) -> asyncio.Future[bool]:
        """Wait until more bytes are buffered than now; see `Stream.fill`.

        Args:
            timeout: Longest wait, seconds; None for no limit.

        Returns:
            A future: of True when bytes have arrived, of False at the end of the stream.

        Raises:
            RuntimeError: If somebody else is already waiting.
        """
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            raise RuntimeError("another task is already reading this stream")
        waiter = self._loop.create_future()
        if self._halted:
            if self._failure is not None or self._closed or not self._eof:
                raise self._read_failure()
            waiter.set_result(False)
            return waiter
        self._waiter = waiter
        if self._paused:
            self._resume_reading()
        deadline = self._read_deadline
        if timeout is not None:
            if deadline is None:
                deadline = self._read_deadline = Deadline(get_timers(), self._read_expired)
            deadline.set(timeout)
        elif deadline is not None:
            # A wait does not clear its deadline, the next one does: one call less per wait.
            deadline.clear()
        return waiter

    # ---------------------------------------------------------------- closing

    def close(self, *, discard_input: bool = False, linger: float | None = None) -> None:
        """Send what was written, then close; abort after the linger time. See `Stream.close`.

        Args:
            discard_input: Whether to read and drop what the peer still sends before closing.
            linger: Longest time for that, seconds; None for the stream's own.
        """
        if self.is_closed:
            return
        self.flush_writes()
        self._detach_owner()
        transport = self._transport
        if discard_input and not self._eof:
            self._discarding = True
            transport.resume_reading()
            try:
                transport.write_eof()
            except OSError:
                self.abort()
                return
        else:
            transport.close()
            if not transport.get_write_buffer_size():
                return
        self._set_write_deadline(self._linger if linger is None else linger)

    def abort(self) -> None:
        """Drop the connection at once: with a reset on TCP."""
        if self._lost:
            return
        if not self._closed:
            self._detach_owner()
        self._outgoing.clear()
        self._reset_on_close()
        self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the connection is gone after `close`, `abort` or a loss."""
        if self._lost:
            return
        # One future each: several may wait, and one that is cancelled must not take the others
        # with it.
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._closed_waiters = (*self._closed_waiters, waiter)
        await waiter

    # ----------------------------------------------------------- being watched

    def fail(self, error: Error) -> None:
        """Make the current and all later `fill` and `drain` calls raise an error.

        Args:
            error: What they raise.
        """
        self._failure = error
        self._halted = True
        self._wake_with(error, error)

    def set_on_disconnect(self, callback: Callable[[], None] | None) -> None:
        """Be told once when the peer ends its direction or the connection is lost.

        Args:
            callback: Called at once if it has already happened. None removes the one set.
        """
        self._on_disconnect = callback
        if callback is not None and self.at_eof:
            self._disconnected()

    # ---------------------------------------------------------------- private

    def _write_expired(self) -> None:
        if self._discarding and not self._transport.get_write_buffer_size():
            # All is sent, the end of this direction too, and nothing lies unread: no reason for a
            # reset, which a peer that has not read all of it would see instead.
            self._discarding = False
            self._transport.close()
        else:
            super()._write_expired()

    def _resume_reading(self) -> None:
        self._paused = False
        if not (self._eof or self._closed or self._lost):
            self._transport.resume_reading()

    def _detach_owner(self) -> None:
        # What both ways of closing begin with: nobody is called or waits any more.
        self._closed = self._halted = self._unwritable = self.is_closed = True
        self._buffer = b""
        self.buffered = 0
        self.on_data = self._on_disconnect = None
        if self._read_deadline is not None:
            self._read_deadline.cancel()
        if self._waiter is not None or self._drain_waiter is not None:
            self._wake_with(self._read_failure(), self._write_failure())

    def _wake_with(self, read_error: Error, write_error: Error) -> None:
        waiter, drain_waiter = self._waiter, self._drain_waiter
        self._waiter = self._drain_waiter = None
        if waiter is not None and not waiter.done():
            waiter.set_exception(read_error)
        if drain_waiter is not None and not drain_waiter.done():
            drain_waiter.set_exception(write_error)

    def _disconnected(self) -> None:
        callback = self._on_disconnect
        if callback is not None:
            self._on_disconnect = None
            try:
                callback()
            except Exception:
                _logger.exception("a disconnect callback failed: %r", callback)

    def _read_failure(self) -> Error:
        if self._failure is not None:
            return self._failure
        if self._closed:
            return Error(ErrorType.CONNECTION_CLOSED, "reading after close")
        return Error(ErrorType.READ_ERROR, self._describe_peer(), cause=self._lost_cause)

    def _read_expired(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            self._waiter = None
            waiter.set_exception(Error(ErrorType.READ_TIMEDOUT, self._describe_peer()))
