"""The reading half of a downstream HTTP/1 session: the request head and its body.

Rules of this file: bytes that belong to what follows the request (pipelined requests, or the
other protocol after an upgrade) always go back into the stream, so that whoever reads next finds
them in order. All errors leave here with source Downstream.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pingora_core.protocols.http.client_request import ClientRequest
from pingora_core.protocols.http.v1.body_reader import BodyReader
from pingora_core.protocols.http.v1.framing import (
    check_request_head,
    is_upgrade_request,
    wants_keepalive,
)
from pingora_core.protocols.http.v1.parser import (
    DEFAULT_LIMITS,
    check_incomplete_head,
    find_head_end,
    get_parser,
)
from pingora_core.runtime.counters import COUNTERS
from pingora_error import Error, ErrorSource, ErrorType, HTTPStatus
from pingora_http import RequestHeader, Version

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.protocols.digest import Digest
    from pingora_core.protocols.http.v1.body_writer import BodyWriter
    from pingora_core.protocols.http.v1.limits import HeadLimits
    from pingora_core.protocols.http.v1.parser import Http1Parser
    from pingora_core.protocols.interfaces import Stream
    from pingora_http import HeaderMap, ResponseHeader

__all__ = ["Http1Options", "RequestSide", "placeholder_request"]

# RFC 9112 section 2.2 asks to ignore at least one empty line before a request line; more than a
# handful is no client that we know.
_MAX_EMPTY_LINES = 4

_DOWNSTREAM = ErrorSource.DOWNSTREAM
_HTTP_11 = Version.HTTP_11
# Without these, what a client of HTTP/1.1 wants is known.
_DECIDES_PERSISTENCE = frozenset({b"connection", b"upgrade"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Http1Options:
    """What a listener's HTTP/1 sessions have in common.

    Attributes:
        parser: Engine for the request heads.
        limits: Limits on the request heads.
        header_timeout: Seconds from the first byte of a request head to its last, in all: a
            client that sends a byte now and then is not kept (precedent: nginx
            ``client_header_timeout`` 60).
        keepalive_timeout: Seconds that a connection may be idle between requests (precedent:
            Pingora 60, nginx 75); None for no limit.
        max_drain_size: Bytes of an unwanted request body that are read to save the connection.
        max_body_size: Bytes of a request body; more are answered with 413. None for no limit,
            as bodies are streamed and never kept (precedent: Pingora none, nginx 1 MiB).
    """

    parser: Http1Parser = field(default_factory=get_parser)
    limits: HeadLimits = DEFAULT_LIMITS
    header_timeout: float = 60.0
    keepalive_timeout: float | None = 60.0
    max_drain_size: int = 1 << 20
    max_body_size: int | None = None


def placeholder_request() -> RequestHeader:
    """Make what stands for a request whose head could not be read.

    Returns:
        A head with method and target ``-``.
    """
    return RequestHeader.from_wire(b"-", b"-", Version.HTTP_10, [])


class RequestSide(ClientRequest):
    """What reading one request needs; see :class:`ServerSession` for the meanings.

    Attributes:
        stream: The connection.
        is_idle: True while nothing of a request has arrived, so that closing loses nothing.
        is_body_empty: Whether the request has no body at all.
        is_upgrade_request: Whether the client asks for another protocol (or a tunnel).
        is_refused: Whether the head could not be read or accepted, so that nobody knows what of
            the request is still to come.
        last_request: Whether the connection closes after this exchange, whatever the client
            asks for.
        head_size: Bytes of the head.
        body_bytes_read: Payload bytes of the request read so far.
        body_bytes_sent: Payload bytes of the response sent so far.
        digest: What is known of the connection below.
        goes_on: Asked before a response head is sent, whether the connection is to carry another
            request; None to leave that to the client. How a server that stops decides late.
    """

    request: RequestHeader
    is_idle: bool = False
    # For the type's sake, as they take the place of properties; `__init__` sets them again.
    digest: Digest = None  # type: ignore[assignment]
    body_bytes_read: int = 0
    body_bytes_sent: int = 0
    is_body_empty: bool = True
    is_upgrade_request: bool = False
    is_refused: bool = False
    head_size: int = 0
    _continue_pending = False
    _keepalive = False
    _trailers: HeaderMap | None = None

    def __init__(self, stream: Stream, options: Http1Options, digest: Digest | None = None) -> None:
        self.stream = stream
        self._options = options
        # What has a default in the class that is an object of a class in Python is read, and set, at
        # ten times the cost (2026-11): so `request` has none, and that of `digest` is None.
        self.request = PLACEHOLDER
        self.digest = stream.digest if digest is None else digest
        self.idle_timeout: float | None = options.keepalive_timeout
        # What every exchange reads is set here and not in the class: reading what only the class
        # has takes three times as long as reading what the object has, a property six times
        # (2026-11).
        self.is_body_empty = True
        self.is_upgrade_request = False
        self.last_request: bool = False
        self.goes_on: Callable[[], bool] | None = None
        self._body: BodyReader | None = None
        self._response: ResponseHeader | None = None
        self._response_done = False
        self._upgraded = False
        self._writer: BodyWriter | None = None
        self._promised = -1
        self.body_bytes_sent = self.body_bytes_read = 0

    # ------------------------------------------------------------------ about

    @property
    def is_body_done(self) -> bool:
        """Whether the whole request body has been read."""
        return self._body is None

    @property
    def request_trailers(self) -> HeaderMap | None:
        """Trailer fields of the request, once its body is done."""
        return self._trailers

    # ------------------------------------------------------------------- head

    async def read_request(self) -> bool:
        """Read the request head.

        Returns:
            False when the client closed, or stayed idle, before sending a byte of one.

        Raises:
            Error: From downstream: ``READ_TIMEDOUT``, ``CONNECTION_CLOSED`` within the head, or
                what makes the head malformed.
        """
        stream = self.stream
        if not stream.buffered:
            self.is_idle = True
            try:
                if not await stream.fill(self.idle_timeout):
                    return False
            except Error:
                # Idle for too long, reset, or told to go: nothing was asked, nobody to answer.
                return False
            finally:
                self.is_idle = False
        data = stream.take()
        try:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4 or data[0] in b"\r\n":
                data, end = await self._read_rest_of_head(data)
                if end < 0:
                    return False
            COUNTERS.requests += 1
            self._accept_head(data, end)
        except Error as error:
            self.is_refused = True
            if self.request is PLACEHOLDER:
                self.request = placeholder_request()
            raise error.as_down() from error.cause
        return True

    async def _read_rest_of_head(self, data: bytes) -> tuple[bytes, int]:
        stream = self.stream
        limits = self._options.limits
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._options.header_timeout
        empty_lines = 0
        scanned = 0
        while True:
            while data.startswith(b"\r\n"):
                data = data[2:]
                empty_lines += 1
                if empty_lines > _MAX_EMPTY_LINES:
                    raise Error(ErrorType.INVALID_HTTP_HEADER, "empty lines before the request")
            end = find_head_end(data, scanned)
            if end >= 0:
                return data, end
            if data != b"\r":
                check_incomplete_head(data, limits, scanned)
            scanned = max(0, len(data) - 3)
            remaining = deadline - loop.time()
            if remaining <= 0:
                raise Error(ErrorType.READ_TIMEDOUT, "the request header took too long")
            stream.unread(data)
            if not await stream.fill(remaining):
                if not data.strip(b"\r\n"):
                    return b"", -1
                raise Error(ErrorType.CONNECTION_CLOSED, "closed within the request header")
            data = stream.take()

    def _accept_head(self, data: bytes, end: int) -> None:
        options = self._options
        self.head_size = end
        rest = b""
        if end != len(data):
            rest = data[end:]
            data = data[:end]
        request = options.parser.parse_request(data)
        self.request = request
        length = check_request_head(data, request, options.limits)
        if (
            request.version is _HTTP_11
            and _DECIDES_PERSISTENCE.isdisjoint(request.raw_index or request.first_values())
            and request.raw_method != b"CONNECT"
        ):
            self._keepalive = not self.last_request
        else:
            self._keepalive = not self.last_request and wants_keepalive(request)
            self.is_upgrade_request = is_upgrade_request(request)
        if rest:
            self.stream.unread(rest)
        if length != 0:
            if options.max_body_size is not None and length > options.max_body_size:
                raise Error(HTTPStatus(413), f"the request body has {length} bytes")
            self._body = BodyReader(length)
            self.is_body_empty = False
            expect = request.get_raw(b"expect")
            self._continue_pending = (
                expect is not None
                and expect.lower() == b"100-continue"
                and request.version is not Version.HTTP_10
            )

    # ------------------------------------------------------------------- body

    def next_request_body(self) -> bytes | None:
        """Return request-body bytes that are here already.

        Returns:
            A piece of the body; None when more bytes must arrive first or the body is done.

        Raises:
            Error: From downstream, when the body is malformed.
        """
        body = self._body
        if body is None:
            return None
        data = self.stream.take()
        if not data:
            return None
        self._continue_pending = False
        try:
            piece = body.feed(data)
        except Error as error:
            raise error.as_down() from error.cause
        if body.is_done:
            if body.excess:
                self.stream.unread(body.excess)
            self._trailers = body.trailers
            self._body = None
        if not piece:
            return None
        self.body_bytes_read += len(piece)
        limit = self._options.max_body_size
        if limit is not None and self.body_bytes_read > limit:
            raise Error(HTTPStatus(413), "the request body is too large", source=_DOWNSTREAM)
        if self._retry is not None:
            self._keep_for_retry(piece)
        return piece

    async def read_request_body(self) -> bytes | None:
        """Wait for the next piece of the request body.

        Returns:
            The piece; None at the end of the body.

        Raises:
            Error: From downstream: ``READ_TIMEDOUT``, ``CONNECTION_CLOSED``, or what makes the
                body malformed.
        """
        while True:
            piece = self.next_request_body()
            if piece is not None:
                return piece
            body = self._body
            if body is None:
                return None
            if self._continue_pending and self.auto_continue:
                self.write_continue_response()
            try:
                more = await self.stream.fill(self.read_timeout)
                if not more:
                    body.feed_eof()
            except Error as error:
                raise error.as_down() from error.cause

    def write_continue_response(self) -> None:
        """Tell the client to send the body (RFC 9110 section 10.1.1).

        Raises:
            Error: ``WRITE_ERROR`` when the client is gone.
        """
        self._continue_pending = False
        try:
            self.stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        except Error as error:
            raise error.as_down() from error.cause

    async def read_upgraded(self) -> bytes:
        """Wait for raw bytes of the client after a 101.

        Returns:
            The bytes; empty when the client has closed its direction.

        Raises:
            Error: From downstream: ``READ_ERROR``.
        """
        try:
            data = await self.stream.read(None)
        except Error as error:
            raise error.as_down() from error.cause
        self.body_bytes_read += len(data)
        return data

    # ------------------------------------------------------------- disconnect

    def watch_disconnect(self, callback: Callable[[], None] | None) -> None:
        """Be told when the client goes away.

        Args:
            callback: Called once, at once when the client has gone already; None to stop.
        """
        self.stream.set_on_disconnect(callback)


#: Stands in ``request`` until a head was read; never shown to callbacks, never changed.
PLACEHOLDER = placeholder_request()
