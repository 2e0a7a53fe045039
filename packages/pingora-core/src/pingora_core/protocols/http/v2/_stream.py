"""One stream of an HTTP/2 connection: what has arrived on it, and what waits to be sent.

Theory of operation. What arrives is kept until the session takes it; only then is flow-control
credit given back, so that at most one window of bytes lies here. What the session sends goes out
at once as far as the windows allow; the rest waits here, and the connection sends it when there
is room. Nobody locks anything: all of it runs in callbacks of one loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pingora_core.protocols.http.v2._frames import ErrorCode
from pingora_core.runtime.timers import Deadline, get_timers
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from pingora_core.protocols.http.v2._carrier import Carrier, Fields, Head

__all__ = ["Http2Stream"]

# Bytes that wait for a window above which a writer is asked to wait, and below which it goes on.
_HIGH_WATER: Final = 65536
_LOW_WATER: Final = 16384


class Http2Stream:
    """One stream; both kinds of sessions stand on it.

    Args:
        connection: Which carries it.
        stream_id: Its number.

    Attributes:
        id: Its number.
        connection: Which carries it.
        error: Why it failed; None while it has not.
        reset_code: Error code of the peer's RST_STREAM; None if there was none.
        body_received: Payload bytes that have arrived.
        expected: Payload bytes that Content-Length announced; -1 when it did not.
        is_receive_closed: Whether the peer has ended its direction; bytes may lie unread.
        is_send_closed: Whether this side's END_STREAM or RST_STREAM is on its way.
        outgoing: Bytes that wait for a window.
        ends_after_outgoing: Whether END_STREAM follows them.
        trailers_after_outgoing: Trailers that follow them.
        window: Bytes that the peer lets it send, where the library has not been told of it; None
            where the library knows.
        is_answered: Whether its final head was sent; kept only as long as there is a ``window``.
    """

    __slots__ = (
        "__weakref__",
        "_body",
        "_credit",
        "_deadline",
        "_drain_waiter",
        "_heads",
        "_on_disconnect",
        "_waiter",
        "body_received",
        "connection",
        "ends_after_outgoing",
        "error",
        "expected",
        "id",
        "is_answered",
        "is_receive_closed",
        "is_send_closed",
        "outgoing",
        "reset_code",
        "trailers_after_outgoing",
        "window",
    )

    def __init__(self, connection: Carrier[Http2Stream], stream_id: int) -> None:
        self.id: int = stream_id
        self.connection: Carrier[Http2Stream] = connection
        self.error: Error | None = None
        self.reset_code: int | None = None
        self.body_received: int = 0
        self.expected: int = -1
        self.is_receive_closed: bool = False
        self.is_send_closed: bool = False
        self.outgoing: bytes | memoryview | bytearray = b""
        self.ends_after_outgoing: bool = False
        self.trailers_after_outgoing: Fields | None = None
        self.window: int | None = None
        self.is_answered: bool = False
        self._heads: list[Head] = []
        self._body: bytes | bytearray = b""
        self._credit = 0
        self._waiter: asyncio.Future[None] | None = None
        self._drain_waiter: asyncio.Future[None] | None = None
        self._deadline: Deadline | None = None
        self._on_disconnect: Callable[[], None] | None = None

    # -------------------------------------------------------------- receiving

    @property
    def buffered(self) -> int:
        """Payload bytes that lie unread."""
        return len(self._body)

    @property
    def is_receive_ended(self) -> bool:
        """Whether the peer has ended its direction and everything was taken."""
        return self.is_receive_closed and not self._body and not self._heads

    def next_head(self) -> Head | None:
        """Take the next header section.

        Trailers are handed out once the body before them was taken.

        Returns:
            The section; None when none is here.
        """
        heads = self._heads
        if not heads or (self._body and heads[0].kind == "trailers"):
            return None
        return heads.pop(0)

    def take_body(self) -> bytes | None:
        """Take all payload bytes that are here, and let the peer send as many more.

        Returns:
            The bytes; None when there are none.
        """
        body = self._body
        if not body:
            if self._credit:
                self._give_credit()
            return None
        self._body = b""
        self._give_credit()
        return body if type(body) is bytes else bytes(body)

    def _give_credit(self) -> None:
        credit = self._credit
        self._credit = 0
        if credit:
            self.connection.credit(self.id, credit)

    def wait(self, timeout: float | None) -> asyncio.Future[None]:
        """Wait until something more arrives, or the peer ends its direction.

        To be awaited at once.

        Args:
            timeout: Longest wait, seconds; None for no limit.

        Returns:
            A future; it raises the error with which the stream fails, or ``READ_TIMEDOUT``.

        Raises:
            RuntimeError: If somebody else is already waiting.
        """
        if self._waiter is not None and not self._waiter.done():
            raise RuntimeError("another task is already reading this stream")
        waiter: asyncio.Future[None] = self.connection.loop.create_future()
        if self.error is not None:
            raise self.error
        if self.is_receive_closed:
            waiter.set_result(None)
            return waiter
        self._waiter = waiter
        if timeout is not None:
            if self._deadline is None:
                self._deadline = Deadline(get_timers(), self._expired)
            self._deadline.set(timeout)
        elif self._deadline is not None:
            self._deadline.clear()
        return waiter

    def _expired(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            self._waiter = None
            waiter.set_exception(Error(ErrorType.READ_TIMEDOUT, f"HTTP/2 stream {self.id}"))

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    # ----------------------------------------- receiving: the connection's side

    def head_received(self, head: Head) -> None:
        """Keep a header section; the connection calls this.

        Args:
            head: The section.
        """
        self._heads.append(head)
        if head.end:
            self.is_receive_closed = True
        self._wake()

    def data_received(self, data: bytes, flow_length: int, *, end: bool) -> None:
        """Keep payload bytes; the connection calls this.

        Args:
            data: The bytes.
            flow_length: What they took of the window, padding included.
            end: Whether the peer's direction ends here.
        """
        self._credit += flow_length
        if data:
            self.body_received += len(data)
            self._body = _joined(self._body, data) if self._body else data
        if end:
            self.is_receive_closed = True
        self._wake()

    def fail(self, error: Error) -> None:
        """Make all waiting and later waiting calls raise an error.

        Args:
            error: What they raise.
        """
        if self.error is None:
            self.error = error
        for waiter in (self._waiter, self._drain_waiter):
            if waiter is not None and not waiter.done():
                waiter.set_exception(error)
        self._waiter = self._drain_waiter = None

    def lost(self, error: Error) -> None:
        """Note that the peer has given the stream up or is gone; the connection calls this.

        Args:
            error: How.
        """
        self.is_send_closed = True
        self.is_receive_closed = True
        self.outgoing = b""
        self.ends_after_outgoing = False
        self.trailers_after_outgoing = None
        self.fail(error)
        callback = self._on_disconnect
        if callback is not None:
            self._on_disconnect = None
            callback()

    def set_on_disconnect(self, callback: Callable[[], None] | None) -> None:
        """Be told once when the peer gives the stream up or is gone.

        Args:
            callback: Called at once if that has happened already; None removes the one set.
        """
        self._on_disconnect = callback
        if callback is not None and self.error is not None:
            self._on_disconnect = None
            callback()

    def release(self) -> None:
        """Let go of what lies here, its flow-control credit included; for the stream's end."""
        self._body = b""
        self._heads.clear()
        self._on_disconnect = None
        self._give_credit()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._wake()

    # ---------------------------------------------------------------- sending

    @property
    def needs_drain(self) -> bool:
        """Whether more waits for a window than is good; await `drain` before sending more."""
        return len(self.outgoing) > _HIGH_WATER

    @property
    def is_sent(self) -> bool:
        """Whether nothing waits to be sent."""
        return not (
            self.outgoing or self.ends_after_outgoing or self.trailers_after_outgoing is not None
        )

    def send_headers(self, fields: Fields, *, end: bool) -> None:
        """Send a header section.

        Args:
            fields: Its fields.
            end: Whether the stream ends with it.

        Raises:
            Error: Why the stream has failed; ``WRITE_ERROR`` if this side has ended it.
        """
        self._check_sendable()
        self.connection.send_headers(self, fields, end=end)

    def send_data(self, data: bytes, *, end: bool = False) -> None:
        """Send payload bytes, as far as the windows allow now and the rest later.

        Args:
            data: The bytes.
            end: Whether the stream ends with them.

        Raises:
            Error: Why the stream has failed; ``WRITE_ERROR`` if this side has ended it.
        """
        self._check_sendable()
        self.outgoing = _joined(self.outgoing, data) if self.outgoing else data
        if end:
            self.ends_after_outgoing = True
        self.connection.pump(self)

    def send_trailers(self, fields: Fields) -> None:
        """Send trailers after everything that waits, and end the stream.

        Args:
            fields: The trailers.

        Raises:
            Error: Why the stream has failed; ``WRITE_ERROR`` if this side has ended it.
        """
        self._check_sendable()
        self.trailers_after_outgoing = fields
        self.connection.pump(self)

    def _check_sendable(self) -> None:
        if self.error is not None:
            cause = self.error
            raise Error(ErrorType.WRITE_ERROR, cause.context, cause=cause, retry=cause.retry)
        if self.is_send_closed or not self.connection.is_open:
            raise Error(ErrorType.WRITE_ERROR, f"HTTP/2 stream {self.id} is closed")

    async def drain(self, timeout: float | None, *, low: int = _LOW_WATER) -> None:
        """Wait until little waits for a window.

        Args:
            timeout: Longest wait, seconds; None for no limit.
            low: How little, bytes; -1 to wait for END_STREAM too.

        Raises:
            Error: ``WRITE_TIMEDOUT``, or why the stream has failed.
            RuntimeError: If somebody else is already draining.
        """
        if self._drain_waiter is not None:
            raise RuntimeError("another task is already draining this stream")
        loop = self.connection.loop
        late: Deadline | None = None
        if timeout is not None:
            late = Deadline(get_timers(), self._drain_expired)
        try:
            while (len(self.outgoing) > low >= 0) or (low < 0 and not self.is_sent):
                if self.error is not None:
                    raise self.error
                self._drain_waiter = loop.create_future()
                if late is not None and timeout is not None:
                    # Anew with each progress: the limit is on standing still.
                    late.set(timeout)
                await self._drain_waiter
                self._drain_waiter = None
        finally:
            self._drain_waiter = None
            if late is not None:
                late.cancel()

    def _drain_expired(self) -> None:
        waiter = self._drain_waiter
        if waiter is not None and not waiter.done():
            waiter.set_exception(Error(ErrorType.WRITE_TIMEDOUT, f"HTTP/2 stream {self.id}"))

    def progressed(self) -> None:
        """Note that something was sent; the connection calls this."""
        waiter = self._drain_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def reset(self, code: int = ErrorCode.CANCEL) -> None:
        """Give the stream up, unless it has ended in both directions.

        Args:
            code: Why (RFC 9113 section 7).
        """
        self.connection.reset(self, code)


def _joined(buffer: bytes | memoryview | bytearray, data: bytes) -> bytearray:
    # Flat: a list of tiny pieces would be many times their size.
    if type(buffer) is not bytearray:
        buffer = bytearray(buffer)
    buffer += data
    return buffer
