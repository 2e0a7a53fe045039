"""The sending half of an upstream HTTP/1 session: the request head and its body.

Nothing here waits, save ``drain``. All errors leave with source Upstream, save the one given to
``fail``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_core.protocols.http.client import ClientSession
from pingora_core.protocols.http.v1.body_writer import BodyWriter
from pingora_core.protocols.http.v1.framing import is_upgrade_request, request_body_length
from pingora_error import Error, ErrorType, HTTPStatus, RetryType
from pingora_http import Version

if TYPE_CHECKING:
    from pingora_core.protocols.interfaces import Stream
    from pingora_http import HeaderMap, RequestHeader

__all__ = ["SendSide"]


class SendSide(ClientSession):
    """What sending one request needs; see :class:`ClientSession` for the meanings.

    Attributes:
        stream: The connection.
        version: HTTP/1.1.
    """

    # A session is made for each exchange; most of them never change most of this.
    _method = b""
    _expect_upgrade = False
    _request_sent = False
    # A property elsewhere; here it is always the same.
    version: Version = Version.HTTP_11
    # Set by the constructor of the whole session.
    _writer: BodyWriter | None
    _request_done: bool
    _failure: Error | None
    stream: Stream

    @property
    def body_bytes_sent(self) -> int:
        """Payload bytes of the request so far."""
        return 0 if self._writer is None else self._writer.bytes_written

    @property
    def request_sent(self) -> bool:
        """Whether anything of the request may have reached the upstream."""
        return self._request_sent

    def send_request_header(self, header: RequestHeader) -> None:
        """Send the request head.

        Args:
            header: The head; its framing fields decide how the body is delimited.

        Raises:
            Error: ``WRITE_ERROR`` when the connection is gone, retryable when it was a reused
                one; ``INVALID_HTTP_HEADER`` when the framing fields contradict each other.
        """
        values = header.raw_index or header.first_values()
        self._method = method = header.raw_method
        length = 0
        if b"content-length" in values or b"transfer-encoding" in values:
            length = request_body_length(header)
        if b"upgrade" in values or method == b"CONNECT":
            self._expect_upgrade = is_upgrade_request(header)
        try:
            self.stream.write(header.to_wire())
        except Error as error:
            error.retry = RetryType.REUSED_ONLY
            raise error.as_up() from error.cause
        self._request_sent = True
        if length == 0:
            self._request_done = True
        else:
            self._writer = BodyWriter(length)

    def send_request_body(self, data: bytes) -> None:
        """Send a piece of the request body.

        Args:
            data: Payload bytes.

        Raises:
            Error: ``WRITE_ERROR`` when the connection is gone.
        """
        if self._writer is None or not data:
            return
        try:
            self.stream.write(self._writer.encode(data))
        except Error as error:
            raise error.as_up() from error.cause

    def finish_request_body(self, trailers: HeaderMap | None = None) -> None:
        """End the request body.

        Args:
            trailers: Fields to send after a chunked body.

        Raises:
            Error: ``PREMATURE_BODY_END`` when less was sent than Content-Length promised.
        """
        if self._writer is None or self._request_done:
            self._request_done = True
            return
        try:
            last = self._writer.finish(trailers)
        except Error as error:
            # It is this side that promised more: a filter, not the upstream.
            raise error.as_in() from error.cause
        try:
            if last:
                self.stream.write(last)
        except Error as error:
            raise error.as_up() from error.cause
        self._request_done = True

    def send_upgraded(self, data: bytes) -> None:
        """Send raw bytes after a 101.

        Args:
            data: The bytes.

        Raises:
            Error: ``WRITE_ERROR`` when the connection is gone.
        """
        try:
            self.stream.write(data)
        except Error as error:
            raise error.as_up() from error.cause

    def finish_upgraded(self) -> bool:
        """Close the sending direction of an upgraded connection.

        Returns:
            False over TLS, where one direction cannot be closed alone.
        """
        if not self.stream.can_write_eof:
            return False
        self.stream.write_eof()
        return True

    @property
    def needs_drain(self) -> bool:
        """Whether the send buffer is above its high-water mark."""
        return self.stream.needs_drain

    async def drain(self) -> None:
        """Wait until the send buffer has room.

        Raises:
            Error: ``WRITE_TIMEDOUT`` or ``WRITE_ERROR``.
        """
        try:
            await self.stream.drain(self.write_timeout)
        except Error as error:
            raise self._blame(error) from error.cause

    # ----------------------------------------------------------------- ending

    def fail(self, error: Error) -> None:
        """Interrupt whoever waits for this session.

        Args:
            error: What the waiting call, and each later one, raises.
        """
        if self._failure is None:
            self._failure = error
            self.stream.fail(error)

    def _blame(self, error: Error) -> Error:
        if error is self._failure:
            return error
        if isinstance(error.etype, HTTPStatus):
            # The status is for the sender of a bad request; of a bad response it tells nothing.
            error.etype = ErrorType.INVALID_HTTP_HEADER
        return error.as_up()
