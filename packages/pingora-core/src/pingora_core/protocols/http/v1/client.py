"""The upstream side of HTTP/1: send one request, read the response to it.

Theory of operation: ``next_task`` is a small state machine over the bytes that the stream has
already buffered and never waits; ``read_task`` drives it and waits for bytes when it must. All
errors leave here with source Upstream, save the one given to ``fail``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pingora_core.protocols.http.task import BodyTask, HeaderTask, TrailerTask, UpgradedBodyTask
from pingora_core.protocols.http.v1._send_side import SendSide
from pingora_core.protocols.http.v1.body_reader import BodyReader
from pingora_core.protocols.http.v1.framing import (
    UNTIL_CLOSE,
    check_response_head,
    has_no_body,
    wants_keepalive,
)
from pingora_core.protocols.http.v1.limits import STRICT
from pingora_core.protocols.http.v1.parser import (
    DEFAULT_LIMITS,
    check_incomplete_head,
    loosen_response_head,
)
from pingora_error import Error, ErrorType, RetryType

if TYPE_CHECKING:
    from pingora_core.protocols.digest import Digest
    from pingora_core.protocols.http.task import HttpTask
    from pingora_core.protocols.http.v1.body_writer import BodyWriter
    from pingora_core.protocols.http.v1.limits import FramingOptions
    from pingora_core.protocols.http.v1.parser import HeadLimits, Http1Parser
    from pingora_core.protocols.interfaces import Stream
    from pingora_http import ResponseHeader

__all__ = ["HttpSession"]

# 1xx heads before the final one; nothing else ends a response that never comes to its point.
_MAX_INFORMATIONAL = 64


# Seconds that an upstream may take to end its direction once this side has ended the exchange.
_LINGER = 1.0

# What the next bytes of the upstream are. Plain numbers: looking an enum's member up costs more
# than the comparison, and there are several for each piece.
_HEAD, _BODY, _TRAILERS, _UPGRADED, _DONE = range(5)

# The two tasks of which every response is made are made without their constructors, which cost as
# much again (2026-11).
_new = object.__new__


class _PeerOptions(Protocol):
    """What is looked at when the session is taken back.

    Attributes:
        idle_timeout: How long the connection is kept, seconds; None for as long as there is room.
    """

    idle_timeout: float | None


class HttpSession(SendSide):
    """One HTTP/1 exchange on an upstream connection.

    Args:
        stream: The connection; owned by the session until the connector takes it back.
        parser: Engine for the response heads.
        limits: Limits on the response heads.
        options: Which strictness of the framing is loosened.

    Attributes:
        stream: The connection.
        peer_options: How its peer is treated; set by the connector that takes the session back.
    """

    peer_options: _PeerOptions
    # A session is made for each exchange; most of them never use this.
    _scanned = 0
    _informational = 0
    _response: ResponseHeader | None = None
    _remaining = -1

    def __init__(
        self,
        stream: Stream,
        parser: Http1Parser,
        limits: HeadLimits = DEFAULT_LIMITS,
        options: FramingOptions = STRICT,
    ) -> None:
        # What every exchange reads is set here and not in the class: reading what only the class
        # has takes three times as long as reading what the object has (2026-11). The constructor
        # of the sending half is not called: all is in one.
        self.stream = stream
        self._writer: BodyWriter | None = None
        self._request_done = False
        self._failure: Error | None = None
        self._state = _HEAD
        self._reader: BodyReader | None = None
        self._keepalive = False
        self._received = 0
        self._early = b""
        self._parser = parser
        self._limits = limits
        self._options = options

    # ------------------------------------------------------------------ about

    @property
    def digest(self) -> Digest:
        """What is known of the connection below."""
        return self.stream.digest

    @property
    def id(self) -> int:
        """File descriptor of the connection."""
        return self.stream.id

    @property
    def response_header(self) -> ResponseHeader | None:
        """The final response head (or the 101)."""
        return self._response

    @property
    def body_bytes_received(self) -> int:
        """Payload bytes of the response so far."""
        return self._received

    @property
    def response_done(self) -> bool:
        """Whether the whole response has been read."""
        return self._state == _DONE

    @property
    def can_reuse(self) -> bool:
        """Whether the connection may carry another exchange.

        Only after a complete exchange that both sides agreed to keep alive, whose end was told
        by framing and not by close, with not a byte too many (RFC 9112 section 9.3).
        """
        return (
            self._keepalive
            and self._state == _DONE
            and self._request_done
            and self._failure is None
        )

    # ---------------------------------------------------------------- reading

    def next_task(self) -> HttpTask | None:
        """Return the next piece of the response if its bytes are here already.

        Returns:
            The piece, or None when more bytes must arrive first.

        Raises:
            Error: What makes the response malformed.
        """
        state = self._state
        if state <= _BODY:
            stream = self.stream
            data = self._early
            if data:
                self._early = b""
            elif stream.buffered:
                data = stream.take()
            else:
                return None
            try:
                if state == _HEAD:
                    return self._next_head(data)
                reader = self._reader
                return (
                    self._next_counted_body(data)
                    if reader is None
                    else self._next_body(data, reader)
                )
            except Error as error:
                raise self._blame(error) from error.cause
        if state == _TRAILERS:
            self._state = _DONE
            return TrailerTask(None if self._reader is None else self._reader.trailers)
        if state == _UPGRADED:
            data = self.stream.take()
            return UpgradedBodyTask(data, end=False) if data else None
        return BodyTask(None, end=True)

    async def wait_task(self) -> HttpTask:
        """Wait for the next piece, after :meth:`next_task` has found none.

        Returns:
            The piece.

        Raises:
            Error: ``READ_TIMEDOUT``, ``READ_ERROR``, ``CONNECTION_CLOSED``, or what makes the
                response malformed; or the error given to :meth:`fail`.
        """
        while True:
            try:
                more = await self.stream.fill(self.read_timeout)
            except Error as error:
                if self._state == _HEAD and error.etype is not ErrorType.READ_TIMEDOUT:
                    self._mark_stale(error)
                raise self._blame(error) from error.cause
            if not more:
                return self._end_of_stream()
            task = self.next_task()
            if task is not None:
                return task

    def _next_head(self, data: bytes) -> HttpTask | None:
        stream = self.stream
        end = data.find(b"\r\n\r\n", self._scanned) + 4
        if end < 4:
            stream.unread(data)
            check_incomplete_head(data, self._limits, self._scanned)
            self._scanned = max(0, len(data) - 3)
            return None
        self._scanned = 0
        rest = b""
        if end != len(data):
            rest = data[end:]
            data = data[:end]
        options = self._options
        if options is not STRICT:
            data = loosen_response_head(data, options)
        response = self._parser.parse_response(data)
        length = check_response_head(data, response, self._limits, options)
        status = response.status
        usual = self._method == b"GET" and status == 200
        if length != 0 and not usual and has_no_body(status, self._method):
            length = 0
        if status < 200 and status != 101:
            self._informational += 1
            if self._informational > _MAX_INFORMATIONAL:
                raise Error(ErrorType.H1_ERROR, "too many informational responses")
            self._early = rest
            return HeaderTask(response, end=False)
        self._response = response
        if status == 101 or (self._method == b"CONNECT" and status < 300):
            stream.unread(rest)
            return self._switch(response)
        self._keepalive = length != UNTIL_CLOSE and wants_keepalive(response)
        if length == 0:
            stream.unread(rest)
            self._finish_response()
            return HeaderTask(response, end=True)
        self._state = _BODY
        # Taken by the next call, and not given back to the stream in between (2026-11).
        self._early = rest
        if length > 0:
            self._remaining = length
        else:
            self._reader = BodyReader(length)
        task = _new(HeaderTask)
        task.header = response
        task.end = False
        return task

    def _switch(self, response: ResponseHeader) -> HttpTask:
        if not self._expect_upgrade:
            raise Error(ErrorType.INVALID_HTTP_HEADER, "101 to a request that did not ask for it")
        self._state = _UPGRADED
        return HeaderTask(response, end=False)

    def _next_body(self, data: bytes, reader: BodyReader) -> HttpTask | None:
        payload = reader.feed(data)
        if payload:
            self._received += len(payload)
        if not reader.is_done:
            return BodyTask(payload, end=False) if payload else None
        if reader.excess:
            self.stream.unread(reader.excess)
        if reader.trailers is not None:
            self._finish_response()
            self._state = _TRAILERS
            return BodyTask(payload, end=False) if payload else self.next_task()
        self._finish_response()
        return BodyTask(payload, end=True)

    def _next_counted_body(self, data: bytes) -> HttpTask:
        # What BodyReader does, without one: most bodies have a length, and most of those have
        # arrived whole.
        remaining = self._remaining
        size = len(data)
        if size < remaining:
            self._remaining = remaining - size
            self._received += size
            return BodyTask(data, end=False)
        if size > remaining:
            self.stream.unread(data[remaining:])
            data = data[:remaining]
        self._remaining = 0
        self._received += remaining
        self._state = _DONE
        stream = self.stream
        if stream.buffered or stream.at_eof:
            self._keepalive = False  # as in `_finish_response`, which is not called for speed
        task = _new(BodyTask)
        task.data = data
        task.end = True
        return task

    def _finish_response(self) -> None:
        self._state = _DONE
        if self.stream.buffered or self.stream.at_eof:
            # Bytes behind the end belong to no request: whatever they are, they must never be
            # taken for the answer to the next one.
            self._keepalive = False

    def _end_of_stream(self) -> HttpTask:
        if self._state == _UPGRADED:
            self._state = _DONE
            return UpgradedBodyTask(None, end=True)
        if self._state == _HEAD:
            error = Error.up(ErrorType.CONNECTION_CLOSED, "closed before the response header")
            self._mark_stale(error)
            raise error
        try:
            if self._reader is None:
                raise Error(
                    ErrorType.CONNECTION_CLOSED,
                    f"closed within the body, {self._remaining} bytes before its end",
                )
            self._reader.feed_eof()
        except Error as error:
            raise self._blame(error) from error.cause
        self._state = _DONE
        return BodyTask(None, end=True)

    def _mark_stale(self, error: Error) -> None:
        # Not a byte of an answer: on a reused connection the upstream most likely closed it
        # before it saw this request.
        if error is not self._failure and not self.stream.buffered:
            error.retry = RetryType.REUSED_ONLY

    # ----------------------------------------------------------------- ending

    def shutdown(self) -> None:
        """Give the exchange up and close the connection at once."""
        self._keepalive = False
        if not self.stream.is_closed:
            self.stream.abort()

    def close(self) -> None:
        """End the exchange and close the connection with a FIN, not with a reset."""
        self._keepalive = False
        self.stream.close(discard_input=True, linger=_LINGER)
