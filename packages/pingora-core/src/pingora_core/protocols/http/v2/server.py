"""The downstream side of HTTP/2: one request on a stream, and the response to it.

Filters see what they see of HTTP/1. A WebSocket (RFC 8441) comes as the GET with ``Upgrade`` that
HTTP/1 has, and the 101 that answers it leaves as a 200. Nothing here waits, save reading, `drain`
and `finish`.
"""

from __future__ import annotations

import logging
from time import time
from typing import TYPE_CHECKING

from pingora_core.protocols.http.v1.framing import to_length
from pingora_core.protocols.http.v2._frames import ErrorCode
from pingora_core.protocols.http.v2._request_side import RequestSide
from pingora_core.protocols.http.v2.headers import (
    encode_response,
    encode_trailers,
)
from pingora_error import PREMATURE_BODY_END, Error, ErrorType
from pingora_http.date import format_http_date

if TYPE_CHECKING:
    from pingora_http import HeaderMap, ResponseHeader

__all__ = ["HttpSession"]

_logger = logging.getLogger(__name__)


class HttpSession(RequestSide):
    """One HTTP/2 exchange of a client.

    Args:
        stream: The stream.
        decoded: The request; None when it was refused.
        error: Why it was refused.
    """

    _response: ResponseHeader | None = None
    _promised = -1
    _sent = 0
    _response_done = False
    _upgraded = False

    @property
    def response_written(self) -> ResponseHeader | None:
        """The final response head (or the 101) that was sent."""
        return self._response

    @property
    def body_bytes_sent(self) -> int:
        """Payload bytes of the response sent so far."""
        return self._sent

    # ---------------------------------------------------------------- writing

    def send_response_header(self, header: ResponseHeader, *, end: bool = False) -> None:
        """Send a response head.

        Args:
            header: Informational or final. A second final head is dropped with a warning.
            end: Whether the message ends here.

        Raises:
            Error: ``WRITE_ERROR`` when the client is gone; ``INVALID_HTTP_HEADER`` when the
                Content-Length is malformed, or promises a body that does not come.
        """
        if self._response is not None:
            _logger.warning("a second response header (%d) was dropped", header.status)
            return
        status = header.status
        if status < 200:
            self._send_informational(header)
            return
        no_body = status in {204, 304} or self.request.raw_method == b"HEAD"
        if self._upgrade_request and status < 300 and self._protocol is None:
            self._upgraded = True
        elif not no_body:
            self._promise_length(header, end=end)
        end = end or no_body
        date = None if header.get_raw(b"date") is not None else format_http_date(time())
        fields = encode_response(header, date=date, never_indexed=self.stream.connection.sensitive)
        self._response = header
        self._response_done = end
        self._send_fields(fields, end=end)

    def _send_informational(self, header: ResponseHeader) -> None:
        if header.status == 101:
            if self._protocol is None:
                msg = "101 does not exist in HTTP/2 (RFC 9113 section 8.6)"
                raise Error.internal(ErrorType.INVALID_HTTP_HEADER, msg)
            self._response = header
            self._upgraded = True
            switched = header.copy()
            switched.set_status(200)
            switched.remove_headers((b"sec-websocket-accept", b"upgrade", b"connection"))
            self._send_fields(encode_response(switched, date=None), end=False)
            return
        asked = header.status == 100 and self.request.get_raw(b"expect") is not None
        if self.ignore_info_resp and not asked:
            return
        if header.status == 100:
            self._continue_pending = False
        self._send_fields(encode_response(header, date=None), end=False)

    def _promise_length(self, header: ResponseHeader, *, end: bool) -> None:
        value = header.get_raw(b"content-length")
        if value is None:
            return
        if header.has_duplicates and len(header.get_all_raw(b"content-length")) > 1:
            raise Error.internal(ErrorType.INVALID_HTTP_HEADER, "repeated Content-Length to send")
        length = to_length(value)
        if length is None:
            raise Error.internal(ErrorType.INVALID_HTTP_HEADER, "malformed Content-Length to send")
        if length and end:
            msg = "Content-Length promises a body, none follows"
            raise Error.internal(ErrorType.INVALID_HTTP_HEADER, msg)
        self._promised = length

    def _send_fields(self, fields: list[tuple[bytes, bytes]], *, end: bool) -> None:
        try:
            self.stream.send_headers(fields, end=end)
        except Error as error:
            raise error.as_down() from error.cause

    def send_response_body(self, data: bytes | None, *, end: bool = False) -> None:
        """Send a piece of the response body.

        Args:
            data: Payload bytes; nothing is sent for None or empty bytes.
            end: Whether the message ends here.

        Raises:
            Error: ``WRITE_ERROR`` when the client is gone; ``PREMATURE_BODY_END`` when the body
                ends before its Content-Length.
        """
        if self._response_done:
            return
        piece = data or b""
        if self._promised >= 0:
            room = self._promised - self._sent
            if len(piece) > room:
                _logger.warning("%d bytes beyond Content-Length were dropped", len(piece) - room)
                piece = piece[:room]
            if end:
                self._check_promise(len(piece))
        if not piece and not end:
            return
        self._sent += len(piece)
        self._response_done = end
        try:
            self.stream.send_data(piece, end=end)
        except Error as error:
            raise error.as_down() from error.cause

    def _check_promise(self, more: int) -> None:
        if self._sent + more < self._promised:
            raise Error.internal(
                PREMATURE_BODY_END, f"{self._sent + more} of {self._promised} bytes were written"
            )

    def send_response_trailers(self, trailers: HeaderMap | None) -> None:
        """Send the trailer section and end the message.

        Args:
            trailers: The fields.

        Raises:
            Error: As :meth:`send_response_body`.
        """
        fields = (
            []
            if trailers is None
            else encode_trailers(trailers, never_indexed=self.stream.connection.sensitive)
        )
        if not fields:
            self.send_response_body(None, end=True)
            return
        if self._response_done:
            return
        self._check_promise(0)
        self._response_done = True
        try:
            self.stream.send_trailers(fields)
        except Error as error:
            raise error.as_down() from error.cause

    def send_upgraded(self, data: bytes) -> None:
        """Send raw bytes after a 101.

        Args:
            data: The bytes.

        Raises:
            Error: ``WRITE_ERROR`` when the client is gone.
        """
        self._sent += len(data)
        try:
            self.stream.send_data(data)
        except Error as error:
            raise error.as_down() from error.cause

    @property
    def needs_drain(self) -> bool:
        """Whether more waits for a window than is good."""
        return self.stream.needs_drain

    async def drain(self) -> None:
        """Wait until the client has taken most of what waits.

        Raises:
            Error: ``WRITE_TIMEDOUT`` or ``WRITE_ERROR``, from downstream.
        """
        timeout = self.write_timeout
        if self.min_send_rate:
            timeout = max(1.0, len(self.stream.outgoing) / self.min_send_rate)
        try:
            await self.stream.drain(timeout)
        except Error as error:
            raise error.as_down() from error.cause

    # ----------------------------------------------------------------- ending

    def set_keepalive(self, timeout: float | None) -> None:
        """Do nothing: other requests share the connection, which has limits of its own.

        Args:
            timeout: As for HTTP/1.
        """

    async def finish(self) -> bool:
        """End the response, and wait until the client's windows have let it out.

        Returns:
            Whether the exchange is complete.

        Raises:
            Error: When the response cannot be completed.
        """
        if self._response is None:
            return False
        stream = self.stream
        if not self._response_done:
            if self._upgraded:
                self._response_done = True
                if not stream.is_send_closed and stream.error is None:
                    stream.send_data(b"", end=True)
            else:
                self.send_response_body(None, end=True)
        if not stream.is_sent:
            try:
                await stream.drain(self.write_timeout, low=-1)
            except Error as error:
                raise error.as_down() from error.cause
        return True

    def shutdown(self) -> None:
        """Give the exchange up; the client sees a stream error."""
        self.stream.reset(ErrorCode.INTERNAL_ERROR)

    def close(self) -> None:
        """Let go of the stream; the connection calls this when the request was served.

        A response that was not completed becomes a stream error; a request that nobody read to
        its end is told not to go on (RFC 9113 section 8.1).
        """
        stream = self.stream
        if not stream.is_send_closed:
            stream.reset(ErrorCode.INTERNAL_ERROR)
        elif not stream.is_receive_closed:
            stream.reset(ErrorCode.NO_ERROR)
        else:
            stream.release()
