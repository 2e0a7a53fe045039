"""TLS over any stream, with OpenSSL between two memory buffers.

Theory of operation. Ciphertext arrives in the stream below, which calls back; the records that it
completes are decrypted at once. While as much plaintext lies unread as the limit allows, ciphertext
stays in the stream below, which stops reading in turn. What is written leaves at the end of the turn
of the event loop.

How it ends. ``close_notify`` is the end of the stream. An end of the transport without one is a
failure, ``CONNECTION_CLOSED``: somebody may have cut the data short (RFC 9112 section 9.8), and
whoever knows from the framing that a message was complete has no need to read on. It counts as
``at_eof`` and as a disconnect all the same.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Final

from OpenSSL import SSL

from pingora_core.protocols.digest import TimingDigest
from pingora_core.protocols.tls._incoming import RecordReader
from pingora_core.protocols.tls.digest import make_ssl_digest
from pingora_core.protocols.tls.errors import handshake_error, reason_of
from pingora_core.runtime.timers import Deadline, get_timers
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from pingora_core.protocols.interfaces import Stream

__all__ = ["DEFAULT_READ_BUFFER", "TlsStream"]

_logger = logging.getLogger(__name__)

DEFAULT_READ_BUFFER: Final = 65536
"""Bytes of plaintext; the same as of the stream below."""

# Bytes that a peer may send in a handshake; a chain of certificates may have 100 KiB in OpenSSL.
_MAX_HANDSHAKE: Final = 1 << 18


class TlsStream(RecordReader):
    """A TLS connection, as client or as server.

    Args:
        inner: The stream that carries it, which belongs to this object from now on.
        connection: OpenSSL's connection without a socket, its role, names and callbacks set.
        read_buffer: Unread bytes of plaintext at which reading pauses.

    Attributes:
        at_eof: Whether the peer ended its direction or the connection is gone.
        buffered: How many bytes `take` would return now.
        id: The file descriptor of the stream below, or -1.
        on_session: Called after the handshake when the peer has sent something that is no data,
            such as session tickets; it must not close the stream. None when unset.
    """

    __slots__ = (
        "__weakref__",
        "_deadline",
        "_failure",
        "_on_disconnect",
        "at_eof",
    )

    def __init__(
        self,
        inner: Stream,
        connection: SSL.Connection,
        *,
        read_buffer: int = DEFAULT_READ_BUFFER,
    ) -> None:
        super().__init__(inner, connection, read_buffer)
        # Not a property, which takes six times as long.
        self.at_eof: bool = False
        self.buffered: int = 0
        self._deadline: Deadline | None = None
        self._on_disconnect: Callable[[], None] | None = None
        self._failure: Error | None = None

    # -------------------------------------------------------------- handshake

    async def handshake(self, timeout: float | None = None) -> None:
        """Do the handshake; must be awaited before anything else.

        Args:
            timeout: Longest time for all of it, seconds; None for no limit.

        Raises:
            Error: ``TLS_HANDSHAKE_TIMEDOUT``; ``INVALID_CERT`` if the peer's certificate was not
                accepted here; ``TLS_HANDSHAKE_FAILURE`` for all else, also if the peer went
                away. The inner stream is left open, for its owner to close.
        """
        expiry = None if timeout is None else self._loop.time() + timeout
        received = 0
        while not self._handshake_step():
            if received > _MAX_HANDSHAKE:
                msg = f"the peer's part of the handshake is longer than {_MAX_HANDSHAKE} bytes"
                raise Error(ErrorType.TLS_HANDSHAKE_FAILURE, msg)
            remaining = None if expiry is None else max(0.0, expiry - self._loop.time())
            try:
                arrived = self._inner.buffered or await self._inner.fill(remaining)
            except Error as error:
                is_late = error.etype is ErrorType.READ_TIMEDOUT
                etype = (
                    ErrorType.TLS_HANDSHAKE_TIMEDOUT if is_late else ErrorType.TLS_HANDSHAKE_FAILURE
                )
                raise Error(etype, "during the TLS handshake", cause=error) from error
            if not arrived:
                msg = "the peer closed the connection during the TLS handshake"
                raise Error(ErrorType.TLS_HANDSHAKE_FAILURE, msg)
            data = self._inner.take()
            received += len(data)
            self._feed_handshake(data)
        digest = self._inner.digest
        digest.ssl_digest = make_ssl_digest(self._engine.connection)
        digest.timing_digest.append(TimingDigest(time.time()))
        self._read_early_records()
        self._engine.shrink()
        self._inner.on_data = self._decrypt
        self._inner.set_on_disconnect(self._on_inner_end)

    def _handshake_step(self) -> bool:
        try:
            self._engine.connection.do_handshake()
        except SSL.WantReadError:
            self._flush()
            return False
        except SSL.Error as error:
            # The alert that tells the peer why.
            self._flush()
            raise handshake_error(error) from error
        self._flush()
        return True

    # ---------------------------------------------------------------- reading

    def pending_input(self) -> int:
        """Tell how much has arrived that was not taken, ciphertext included.

        Returns:
            Bytes; 0 for none.
        """
        return len(self._buffer) + len(self._fragment) + self._inner.pending_input()

    def take(self) -> bytes:
        """Hand over everything that is buffered.

        Returns:
            The bytes, empty if there are none.
        """
        data = self._buffer
        self._buffer = b""
        self.buffered = 0
        if self._withheld:
            # Not now: the caller has just said that it has enough to do.
            self._loop.call_soon(self._decrypt)
        return data

    def unread(self, data: bytes) -> None:
        """Put bytes back in front of the buffer.

        Args:
            data: Bytes the next `take` returns first.
        """
        self._buffer = data + self._buffer if self._buffer else data
        self.buffered = len(self._buffer)

    def fill(self, timeout: float | None = None) -> asyncio.Future[bool]:
        """Wait until more bytes are buffered than now; see `Stream.fill`. HOT.

        Args:
            timeout: Longest wait, seconds; None for no limit.

        Returns:
            A future: of True when bytes have arrived, of False after the peer's ``close_notify``.

        Raises:
            RuntimeError: If somebody else is already waiting.
        """
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            msg = "another task is already reading this stream"
            raise RuntimeError(msg)
        self._waiter = waiter = self._loop.create_future()
        if self._withheld and self._failure is None:
            self._decrypt()
            if waiter.done():
                return waiter
        if self._halted:
            self._wake()
            return waiter
        deadline = self._deadline
        if timeout is not None:
            if deadline is None:
                deadline = self._deadline = Deadline(get_timers(), self._expired)
            deadline.set(timeout)
        elif deadline is not None:
            # A wait does not clear its deadline, the next one does.
            deadline.clear()
        return waiter

    def _on_inner_end(self) -> None:
        # Nothing can be withheld for long now; what lies below is bounded.
        self._read_limit = sys.maxsize
        self._decrypt()
        self._end()

    def _end(self) -> None:
        """Note that no more plaintext comes, and tell whoever waits."""
        self.at_eof = True
        if self._halted and self._failure is None:
            return
        self._halted = True
        self._drop_deadline()
        try:
            # First, because it may say why with `fail`, or cancel whoever waits.
            self._disconnected()
        finally:
            self._wake()

    def _wake(self) -> None:
        # Tells whoever waits that it waits in vain.
        waiter = self._waiter
        self._waiter = None
        if waiter is None or waiter.done():
            return
        error = self._find_failure()
        if error is None:
            waiter.set_result(False)
        else:
            waiter.set_exception(error)

    def _find_failure(self) -> Error | None:
        """Find out how reading has ended.

        Returns:
            The error; None after the peer's ``close_notify``.
        """
        if self._failure is not None:
            return self._failure
        if self._closed:
            return Error(ErrorType.CONNECTION_CLOSED, "reading after close")
        if self._peer_finished:
            return None
        cause = self._tls_error
        if cause is not None:
            return Error(ErrorType.READ_ERROR, f"TLS: {reason_of(cause)}", cause=cause)
        try:
            # It is at its end, so this does not wait; it raises if the end was a reset.
            next(self._inner.fill(0.0).__await__(), None)
        except Error as error:
            return error
        return Error(ErrorType.CONNECTION_CLOSED, "TLS stream cut off without close_notify")

    def _drop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            # It holds a method of this object: with it goes a circle of references.
            self._deadline = None

    def _expired(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            self._waiter = None
            waiter.set_exception(Error(ErrorType.READ_TIMEDOUT, "TLS stream"))

    # ---------------------------------------------------------------- closing

    def close(self, *, discard_input: bool = False, linger: float | None = None) -> None:
        """Send what was written and ``close_notify``, then close; see `Stream.close`.

        Args:
            discard_input: Whether to read and drop what the peer still sends before closing.
            linger: Longest time for that, seconds; None for the inner stream's own.
        """
        if self._closed:
            return
        self.flush_writes()
        self._detach()
        if self._tls_error is None:
            try:
                self._engine.connection.shutdown()
            except SSL.Error:
                _logger.debug("no close_notify: the handshake has not finished")
            self._flush()
        self._inner.close(discard_input=discard_input, linger=linger)

    def abort(self) -> None:
        """Drop the connection at once, without ``close_notify``."""
        self._detach()
        self._inner.abort()

    def _detach(self) -> None:
        self._closed = self._halted = self._is_over = True
        self._buffer = self._fragment = b""
        self.buffered = 0
        self._outgoing.clear()
        self._outgoing_size = 0
        self._withheld = False
        self._on_disconnect = None
        self._call_nobody()
        # Breaks the circle of references with the inner stream.
        self._inner.on_data = None
        self._inner.set_on_disconnect(None)
        self._drop_deadline()
        self._drop_shrinking()
        self._wake()

    async def wait_closed(self) -> None:
        """Wait until the connection is gone after `close`, `abort` or a loss."""
        await self._inner.wait_closed()
        self.at_eof = True

    @property
    def is_closed(self) -> bool:
        """Whether `close` or `abort` was called or the connection is lost."""
        return self._closed or self._inner.is_closed

    # ---------------------------------------------------------- being watched

    def fail(self, error: Error) -> None:
        """Make the current and all later `fill` and `drain` calls raise an error.

        Args:
            error: What they raise.
        """
        self._failure = error
        self._halted = True
        self._wake()
        self._inner.fail(error)

    def set_on_disconnect(self, callback: Callable[[], None] | None) -> None:
        """Be told once when the peer ends its direction or the connection is lost.

        Args:
            callback: Called at once if it has already happened. None removes the one set.
        """
        self._on_disconnect = callback
        if callback is not None and self.at_eof:
            self._disconnected()

    def _disconnected(self) -> None:
        callback = self._on_disconnect
        if callback is not None:
            self._on_disconnect = None
            callback()
