"""The reading half of a downstream HTTP/2 session: the request and its body.

All errors leave here with source Downstream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_core.protocols.http.client_request import ClientRequest
from pingora_core.protocols.http.v1.server import placeholder_request
from pingora_core.protocols.http.v2._frames import ErrorCode
from pingora_core.protocols.http.v2.headers import decode_trailers
from pingora_error import Error
from pingora_http import Version

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.protocols.digest import Digest
    from pingora_core.protocols.http.v2._stream import Http2Stream
    from pingora_core.protocols.http.v2.headers import DecodedRequest
    from pingora_http import HeaderMap, RequestHeader

__all__ = ["RequestSide"]


class RequestSide(ClientRequest):
    """What reading one request needs; see :class:`ServerSession` for the meanings.

    Args:
        stream: The stream.
        decoded: The request; None when it was refused.
        error: Why it was refused.

    Attributes:
        stream: The stream.
        body_bytes_read: Payload bytes of the request read so far.
    """

    body_bytes_read: int = 0
    _trailers: HeaderMap | None = None
    _continue_pending = False

    def __init__(
        self, stream: Http2Stream, decoded: DecodedRequest | None, *, error: Error | None = None
    ) -> None:
        self.stream = stream
        self._error = error
        self._protocol: bytes | None = None
        self._body_done = True
        if decoded is None:
            self.request: RequestHeader = placeholder_request()
            self.request.version = Version.HTTP_20
            self._upgrade_request = False
            self._has_body = False
            return
        self.request = request = decoded.header
        self._protocol = decoded.protocol
        self._upgrade_request = decoded.protocol is not None or request.raw_method == b"CONNECT"
        self._has_body = not (
            self._upgrade_request or stream.is_receive_closed or decoded.content_length == 0
        )
        self._body_done = not self._has_body
        if self._has_body:
            expect = request.get_raw(b"expect")
            self._continue_pending = expect is not None and expect.lower() == b"100-continue"

    # ------------------------------------------------------------------ about

    @property
    def digest(self) -> Digest:
        """What is known of the connection below."""
        return self.stream.connection.stream.digest

    @property
    def is_refused(self) -> bool:
        """Whether the head could not be read or accepted."""
        return self._error is not None

    @property
    def is_body_empty(self) -> bool:
        """Whether the request has no body at all."""
        return not self._has_body

    @property
    def is_body_done(self) -> bool:
        """Whether the whole request body has been read."""
        return self._body_done

    @property
    def is_upgrade_request(self) -> bool:
        """Whether the client asks for another protocol (or a tunnel)."""
        return self._upgrade_request

    @property
    def request_trailers(self) -> HeaderMap | None:
        """Trailer fields of the request, once its body is done."""
        return self._trailers

    # ---------------------------------------------------------------- reading

    async def read_request(self) -> bool:
        """Read the request head, which is here already.

        Returns:
            True.

        Raises:
            Error: Why the request was refused.
        """
        if self._error is not None:
            raise self._error
        return True

    def next_request_body(self) -> bytes | None:
        """Return request-body bytes that are here already.

        Returns:
            A piece of the body; None when more bytes must arrive first or the body is done.

        Raises:
            Error: From downstream, when the trailers are malformed.
        """
        if self._body_done:
            return None
        stream = self.stream
        piece = stream.take_body()
        if stream.is_receive_closed and not stream.buffered:
            self._end_request()
        if piece is None:
            return None
        self._continue_pending = False
        self.body_bytes_read += len(piece)
        if self._retry is not None:
            self._keep_for_retry(piece)
        return piece

    def _end_request(self) -> None:
        if self.stream.error is not None:
            return
        self._body_done = True
        head = self.stream.next_head()
        if head is None:
            return
        try:
            self._trailers = decode_trailers(head.fields)
        except Error as error:
            self.stream.reset(ErrorCode.PROTOCOL_ERROR)
            raise error.as_down() from error.cause

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
            if self._body_done:
                return None
            if self._continue_pending and self.auto_continue:
                self.write_continue_response()
            try:
                await self.stream.wait(self.read_timeout)
            except Error as error:
                raise error.as_down() from error.cause

    def write_continue_response(self) -> None:
        """Tell the client to send the body (RFC 9110 section 10.1.1).

        Raises:
            Error: ``WRITE_ERROR`` when the client is gone.
        """
        self._continue_pending = False
        try:
            self.stream.send_headers([(b":status", b"100")], end=False)
        except Error as error:
            raise error.as_down() from error.cause

    async def read_upgraded(self) -> bytes:
        """Wait for raw bytes of the client after a 101.

        Returns:
            The bytes; empty when the client has closed its direction.

        Raises:
            Error: From downstream, when the client has given the stream up.
        """
        stream = self.stream
        while True:
            data = stream.take_body()
            if data is not None:
                self.body_bytes_read += len(data)
                return data
            if stream.is_receive_closed and stream.error is None:
                return b""
            try:
                await stream.wait(None)
            except Error as error:
                raise error.as_down() from error.cause

    def watch_disconnect(self, callback: Callable[[], None] | None) -> None:
        """Be told when the client gives the stream up or goes away.

        Args:
            callback: Called once, at once when it has happened already; None to stop.
        """
        self.stream.set_on_disconnect(callback)
