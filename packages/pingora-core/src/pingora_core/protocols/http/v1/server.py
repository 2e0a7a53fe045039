"""The downstream side of HTTP/1: one request of a client and the response to it.

Rules of this file: how the body of a response is delimited is decided here and only here, after
every filter has run (RFC 9112 section 6). The head is held back until the first piece of the
body, a flush, or the end, so that a small response is one write.
"""

from __future__ import annotations

import asyncio
import logging
from time import time
from typing import TYPE_CHECKING

from pingora_core.protocols.http.v1._request_side import (
    Http1Options,
    RequestSide,
    placeholder_request,
)
from pingora_core.protocols.http.v1.body_writer import BodyWriter
from pingora_core.protocols.http.v1.framing import (
    CHUNKED,
    UNTIL_CLOSE,
    connection_tokens,
    content_length,
)
from pingora_error import Error, ErrorType
from pingora_http import Version
from pingora_http.date import format_http_date

if TYPE_CHECKING:
    from pingora_core.protocols.interfaces import Stream
    from pingora_http import HeaderMap, ResponseHeader

__all__ = ["Http1Options", "HttpSession", "placeholder_request"]

logger = logging.getLogger(__name__)

# A body piece up to this size is joined to the held head: one buffer, one write. Above it the
# copy costs more than the second buffer of a gathered write.
_JOIN_LIMIT = 16384


class HttpSession(RequestSide):
    """One HTTP/1 exchange on a client's connection.

    Args:
        stream: The connection; owned by the application that made the session.
        options: What the sessions of a listener have in common.
    """

    _response: ResponseHeader | None = None
    _writer: BodyWriter | None = None
    _response_done = False
    _upgraded = False
    _until_close = False
    _held: bytes | None = None
    _unsent = 0

    def __init__(self, stream: Stream, options: Http1Options) -> None:
        super().__init__(stream, options)

    @property
    def response_written(self) -> ResponseHeader | None:
        """The final response head (or the 101) that was sent."""
        return self._response

    @property
    def body_bytes_sent(self) -> int:
        """Payload bytes of the response sent so far."""
        return 0 if self._writer is None else self._writer.bytes_written

    @property
    def is_upgraded(self) -> bool:
        """Whether the connection has left HTTP."""
        return self._upgraded

    @property
    def will_keepalive(self) -> bool:
        """Whether, as things stand, the connection is kept after this exchange."""
        return self._keepalive and not self._upgraded

    def set_keepalive(self, timeout: float | None) -> None:
        """Decide whether the connection is kept after this exchange.

        Args:
            timeout: None closes it; 0 keeps it without an idle limit; otherwise seconds it may
                stay idle. A client that asked to close is never overruled.
        """
        if timeout is None:
            self._keepalive = False
        else:
            self.idle_timeout = timeout or None

    # ---------------------------------------------------------------- writing

    def send_response_header(self, header: ResponseHeader, *, end: bool = False) -> None:
        """Send a response head; a final one is held back until something follows.

        Args:
            header: Informational or final. A second final head is dropped with a warning.
            end: Whether the message ends here.

        Raises:
            Error: ``WRITE_ERROR`` when the client is gone; ``INVALID_HTTP_HEADER`` when the
                Content-Length is malformed.
        """
        if self._response is not None:
            logger.warning("a second response header (%d) was dropped", header.status)
            return
        status = header.status
        if header.version is not Version.HTTP_11:
            header.version = Version.HTTP_11
        if status < 200:
            self._send_informational(header)
            return
        self._response = header
        if status < 300 and self.request.raw_method == b"CONNECT":
            header.remove_headers((b"content-length", b"transfer-encoding"))
            self._upgraded = True
            self._write(header.to_wire())
            return
        extra = self._decide_framing(header, end)
        if b"connection" in header.keys_lower():
            if b"close" in connection_tokens(header):
                self._keepalive = False
            header.remove_headers((b"connection", b"keep-alive"))
        if self._body is not None and self.close_on_response_before_downstream_finish:
            self._keepalive = False
        extra += (
            b"Connection: keep-alive\r\n\r\n" if self._keepalive else b"Connection: close\r\n\r\n"
        )
        if header.get_raw(b"date") is None:
            extra = b"Date: %b\r\n%b" % (format_http_date(time()), extra)
        self._held = b"%b%b" % (header.to_wire()[:-2], extra)
        if self._response_done:
            self.flush()

    def _send_informational(self, header: ResponseHeader) -> None:
        status = header.status
        if status == 101:
            self._response = header
            self._upgraded = True
            self._write(header.to_wire())
            return
        if self.request.version is Version.HTTP_10:
            return  # RFC 9110 section 15.2: never to an HTTP/1.0 client
        asked = status == 100 and self.request.get_raw(b"expect") is not None
        if self.ignore_info_resp and not asked:
            return
        if status == 100:
            self._continue_pending = False
        header.remove_headers((b"content-length", b"transfer-encoding"))
        self._write(header.to_wire())

    def _decide_framing(self, header: ResponseHeader, end: bool) -> bytes:  # noqa: FBT001
        """Choose how the body is delimited and return the field that says so, if one is due."""
        keys = header.keys_lower()
        status = header.status
        if status in {204, 304} or self.request.raw_method == b"HEAD":
            self._response_done = True
            if status == 204:
                header.remove_headers((b"content-length", b"transfer-encoding"))
            return b""
        chunked = b"transfer-encoding" in keys
        if not chunked and b"content-length" in keys:
            length = content_length(header)
            if length is None:
                raise Error.down(ErrorType.INVALID_HTTP_HEADER, "malformed Content-Length to send")
            if length == 0:
                self._response_done = True
            elif end:
                raise Error.down(
                    ErrorType.INVALID_HTTP_HEADER, "Content-Length promises a body, none follows"
                )
            else:
                self._writer = BodyWriter(length)
            return b""
        if chunked:
            header.remove_headers((b"content-length", b"transfer-encoding"))
        if end:
            self._response_done = True
            return b"Content-Length: 0\r\n"
        if self.request.version is Version.HTTP_10:
            self._writer = BodyWriter(UNTIL_CLOSE)
            self._until_close = True
            self._keepalive = False
            return b""
        self._writer = BodyWriter(CHUNKED)
        return b"Transfer-Encoding: chunked\r\n"

    def send_response_body(self, data: bytes | None, *, end: bool = False) -> None:
        """Send a piece of the response body.

        Args:
            data: Payload bytes; nothing is sent for None or empty bytes.
            end: Whether the message ends here.

        Raises:
            Error: ``WRITE_ERROR`` when the client is gone; ``PREMATURE_BODY_END`` when the body
                ends before its Content-Length.
        """
        writer = self._writer
        if writer is None:
            if end:
                self.flush()
            return
        if data:
            out = writer.encode(data)
            held = self._held
            if held is None:
                self._write(out)
            else:
                self._held = None
                if len(out) <= _JOIN_LIMIT:
                    self._write(held + out)
                else:
                    self._write(held)
                    self._write(out)
        if end:
            self._end_body(None)

    def send_response_trailers(self, trailers: HeaderMap | None) -> None:
        """Send the trailer section and end the message.

        Args:
            trailers: The fields; dropped unless the body is chunked.
        """
        if self._writer is None:
            self.flush()
        else:
            self._end_body(trailers)

    def _end_body(self, trailers: HeaderMap | None) -> None:
        writer = self._writer
        assert writer is not None
        if self._response_done:
            return
        try:
            last = writer.finish(trailers)
        except Error as error:
            # The promise is broken on our side of the exchange, not by the client.
            raise error.as_in() from None
        self._response_done = True
        if self._held is not None:
            last = self._held + last
            self._held = None
        if last:
            self._write(last)

    def send_upgraded(self, data: bytes) -> None:
        """Send raw bytes after a 101.

        Args:
            data: The bytes.
        """
        self._write(data)

    def flush(self) -> None:
        """Hand over to the transport what was held back."""
        held = self._held
        if held is not None:
            self._held = None
            self._write(held)

    def _write(self, data: bytes) -> None:
        try:
            self.stream.write(data)
        except Error as error:
            raise error.as_down() from None
        self._unsent += len(data)

    @property
    def needs_drain(self) -> bool:
        """Whether the send buffer is above its high-water mark."""
        return self.stream.needs_drain

    async def drain(self) -> None:
        """Wait until the send buffer has room.

        Raises:
            Error: ``WRITE_TIMEDOUT`` or ``WRITE_ERROR``, from downstream.
        """
        timeout = self.write_timeout
        if self.min_send_rate:
            timeout = max(1.0, self._unsent / self.min_send_rate)
        try:
            await self.stream.drain(timeout)
        except Error as error:
            raise error.as_down() from None
        self._unsent = 0

    # ----------------------------------------------------------------- ending

    async def finish(self) -> bool:
        """End the exchange: complete the response, drain what is left of the request.

        Returns:
            Whether the connection can carry another exchange.

        Raises:
            Error: When the response cannot be completed.
        """
        if self._response is None:
            return False
        if self._upgraded:
            return False
        if not self._response_done:
            self._end_body(None)
        self.flush()
        if not self._keepalive:
            return False
        return self._body is None or await self.drain_request_body()

    async def drain_request_body(self) -> bool:
        """Read and drop the rest of the request body, within bounds of time and size.

        Returns:
            Whether the end of the body was reached.
        """
        limit = self._body_read + self._options.max_drain_size
        self._retry_pieces = None
        self.auto_continue = False
        if self._continue_pending:
            return False  # the client waits for a go-ahead that will not come
        try:
            async with asyncio.timeout(self.total_drain_timeout):
                while await self.read_request_body() is not None:
                    if self._body_read > limit:
                        return False
        except (Error, TimeoutError):
            return False
        return True

    def shutdown(self) -> None:
        """Give the exchange up; the client must notice that the response is not complete."""
        self._keepalive = False
        self._held = None
        if self._until_close and not self._response_done:
            # A plain close would look like the end of the body.
            self.stream.abort()
        else:
            self.stream.close()
