"""The downstream side of HTTP/1: one request of a client and the response to it.

Rules of this file: how the body of a response is delimited is decided here and only here, after
every filter has run (RFC 9112 section 6). Head and body are written apart; the stream sends what
is small and written in one turn of the loop together.
"""

from __future__ import annotations

import asyncio
import logging
from time import time
from typing import TYPE_CHECKING

from pingora_core.protocols.http.v1._lengths import known_length, to_length
from pingora_core.protocols.http.v1._request_side import (
    Http1Options,
    RequestSide,
    placeholder_request,
)
from pingora_core.protocols.http.v1.body_writer import BodyWriter
from pingora_core.protocols.http.v1.framing import CHUNKED, UNTIL_CLOSE, connection_tokens
from pingora_core.protocols.l4.stream import DEFAULT_WRITE_BUFFER
from pingora_error import PREMATURE_BODY_END, Error, ErrorType
from pingora_http import Version
from pingora_http.date import format_http_date

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pingora_core.protocols.http.prepared_head import PreparedHead
    from pingora_http import HeaderMap, ResponseHeader

__all__ = ["Http1Options", "HttpSession", "placeholder_request"]

_logger = logging.getLogger(__name__)

_KEEP_ALIVE = b"Connection: keep-alive\r\n\r\n"
_CLOSE = b"Connection: close\r\n\r\n"
_CONNECTION_FIELDS = frozenset({b"connection", b"keep-alive"})
_FRAMING_FIELDS = frozenset({b"content-length", b"transfer-encoding"})
# Looking an enum's member up costs as much as the rest of a comparison.
_HTTP_10 = Version.HTTP_10
_HTTP_11 = Version.HTTP_11


class HttpSession(RequestSide):
    """One HTTP/1 exchange on a client's connection.

    Args:
        stream: The connection; owned by the application that made the session.
        options: What the sessions of a listener have in common.
        digest: What is known of the connection, if that was looked up before.
    """

    body_bytes_sent: int  # said again in each class that counts: type checkers see a property above
    _prepared: tuple[PreparedHead, int] | None = None
    _until_close = False
    _last_size = 0

    @property
    def response_written(self) -> ResponseHeader | None:
        """The final response head (or the 101) that was sent."""
        if self._prepared is not None:
            head, age = self._prepared
            self._response, self._prepared = head.complete(age), None
        return self._response

    def set_keepalive(self, timeout: float | None) -> None:
        """Decide whether the connection is kept after this exchange.

        Args:
            timeout: None closes it; 0 keeps it without an idle limit; otherwise seconds it may
                stay idle. A client that asked to close is never overruled.
        """
        if timeout is None:
            self._keepalive = False
        else:
            self.idle_timeout: float | None = timeout or None

    # ---------------------------------------------------------------- writing

    def send_response_header(self, header: ResponseHeader, *, end: bool = False) -> None:
        """Send a response head.

        Args:
            header: Informational or final. A second final head is dropped with a warning.
            end: Whether the message ends here.

        Raises:
            Error: ``WRITE_ERROR`` when the client is gone; ``INVALID_HTTP_HEADER`` when the
                Content-Length is malformed.
        """
        if self._response is not None:
            _logger.warning("a second response header (%d) was dropped", header.status)
            return
        status = header.status
        if header.version is not _HTTP_11:
            header.version = _HTTP_11
        if status < 200:
            self._send_informational(header)
            return
        if status < 300 and self.request.raw_method == b"CONNECT":
            self._response = header
            header.remove_headers(_FRAMING_FIELDS)
            self._upgraded = True
            self._write(header.to_wire())
            return
        values = header.raw_index or header.first_values()
        extra = self._decide_framing(header, values, end)
        # Only now: a head that cannot be sent leaves room for an error page.
        self._response = header
        if b"connection" in values:
            if b"close" in connection_tokens(header):
                self._keepalive = False
            header.remove_headers(_CONNECTION_FIELDS)
        if self._body is not None and self.close_on_response_before_downstream_finish:
            self._keepalive = False
        elif self.goes_on is not None and self._keepalive:
            self._keepalive = self.goes_on()
        extra += _KEEP_ALIVE if self._keepalive else _CLOSE
        if b"date" not in values:
            extra = b"Date: %b\r\n%b" % (format_http_date(time()), extra)
        # As `_write` does; so does `send_response_body`. Two calls less per response (2026-11).
        wire = header.to_wire()[:-2] + extra
        try:
            self.stream.write(wire)
        except Error as error:
            raise error.as_down() from error.cause
        self._last_size = len(wire)

    def send_prepared_head(self, head: PreparedHead, age: int, body: bytes = b"") -> None:
        """Send a final response head that was written before.

        Args:
            head: The head.
            age: How old the response is, seconds.
            body: All of the body; nothing where it follows.

        Raises:
            Error: ``WRITE_ERROR`` when the client is gone.
        """
        length = head.length
        if (
            self._response is not None
            or self._body is not None
            or self.request.raw_method != b"GET"
            or (body and len(body) != length)
        ):
            super().send_prepared_head(head, age, body)
            return
        self._response = head.header
        self._prepared = (head, age)  # what was sent is put together for who asks for it
        self._promised = length
        if self.goes_on is not None and self._keepalive:
            self._keepalive = self.goes_on()
        end = _KEEP_ALIVE if self._keepalive else _CLOSE
        # In one write: that of the body for itself costs 3 % of the instructions of a hit (2026-11).
        self._write(b"%bAge: %d\r\n%b%b" % (head.wire, age, end, body))
        self.body_bytes_sent = size = len(body)
        self._response_done = size == length

    def _send_informational(self, header: ResponseHeader) -> None:
        status = header.status
        if status == 101:
            self._response = header
            self._upgraded = True
            header.remove_headers(_FRAMING_FIELDS)
            self._write(header.to_wire())
            return
        if self.request.version is _HTTP_10:
            return  # RFC 9110 section 15.2: never to an HTTP/1.0 client
        asked = status == 100 and self.request.get_raw(b"expect") is not None
        if self.ignore_info_resp and not asked:
            return
        if status == 100:
            self._continue_pending = False
        header.remove_headers(_FRAMING_FIELDS)
        self._write(header.to_wire())

    def _decide_framing(
        self,
        header: ResponseHeader,
        values: Mapping[bytes, bytes],
        end: bool,  # noqa: FBT001 - hot
    ) -> bytes:
        # Chooses how the body is delimited; returns the field that says so, if one is due.
        status = header.status
        if status == 204 or status == 304 or self.request.raw_method == b"HEAD":  # noqa: PLR1714 - a set would be slower
            self._response_done = True
            if status == 204:
                header.remove_headers(_FRAMING_FIELDS)
            return b""
        if b"transfer-encoding" in values:
            header.remove_headers(_FRAMING_FIELDS)
        else:
            length = values.get(b"content-length")
            if length is not None:
                if len(values) != len(header.raw_items):
                    _refuse_repeated_length(header)
                promised = known_length(length)
                if promised and not end:
                    self._promised = promised
                else:
                    self._promise_length(length, end)
                return b""
        if end:
            self._response_done = True
            return b"Content-Length: 0\r\n"
        if self.request.version is _HTTP_10:
            self._writer = BodyWriter(UNTIL_CLOSE)
            self._until_close = True
            self._keepalive = False
            return b""
        self._writer = BodyWriter(CHUNKED)
        return b"Transfer-Encoding: chunked\r\n"

    def _promise_length(self, value: bytes, end: bool) -> None:  # noqa: FBT001 - hot
        length = to_length(value)
        if length is None:
            raise Error.internal(ErrorType.INVALID_HTTP_HEADER, "malformed Content-Length to send")
        if length == 0:
            self._response_done = True
        elif end:
            raise Error.internal(
                ErrorType.INVALID_HTTP_HEADER, "Content-Length promises a body, none follows"
            )
        else:
            self._promised = length

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
        if data:
            writer = self._writer
            if writer is not None:
                out = writer.encode(data)
            else:
                if len(data) > self._promised - self.body_bytes_sent:
                    data = self._keep_promise(data)
                out = data
            self.body_bytes_sent += len(data)
            try:
                self.stream.write(out)
            except Error as error:
                raise error.as_down() from error.cause
            self._last_size = len(out)
        if end:
            if self.body_bytes_sent == self._promised and self._writer is None:
                self._response_done = True  # nothing to send and nothing to complain of
            else:
                self._end_body(None)

    def _keep_promise(self, data: bytes) -> bytes:
        # What BodyWriter does, without one: most responses have a length, and keep to it.
        room = self._promised - self.body_bytes_sent
        _logger.warning("%d bytes beyond Content-Length were dropped", len(data) - room)
        return data[:room]

    def send_response_trailers(self, trailers: HeaderMap | None) -> None:
        """Send the trailer section and end the message.

        Args:
            trailers: The fields; dropped unless the body is chunked.
        """
        if not self._response_done:
            self._end_body(trailers)

    def _end_body(self, trailers: HeaderMap | None) -> None:
        if self._response_done:
            return
        if self.body_bytes_sent < self._promised:
            # The promise is broken on our side of the exchange, not by the client.
            raise Error.internal(
                PREMATURE_BODY_END, f"{self.body_bytes_sent} of {self._promised} bytes were written"
            )
        last = b"" if self._writer is None else self._writer.finish(trailers)
        self._response_done = True
        if last:
            self._write(last)

    def send_upgraded(self, data: bytes) -> None:
        """Send raw bytes after a 101.

        Args:
            data: The bytes.
        """
        self.body_bytes_sent += len(data)
        self._write(data)

    def _write(self, data: bytes) -> None:
        try:
            self.stream.write(data)
        except Error as error:
            raise error.as_down() from error.cause
        self._last_size = len(data)

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
            # What waits is the last piece, and before it less than makes a drain due.
            waiting = DEFAULT_WRITE_BUFFER + self._last_size
            timeout = max(1.0, waiting / self.min_send_rate)
        try:
            await self.stream.drain(timeout)
        except Error as error:
            raise error.as_down() from error.cause

    # ----------------------------------------------------------------- ending

    def finish_now(self) -> bool | None:
        """End the exchange, if that can be done without waiting.

        Returns:
            Whether the connection can carry another exchange; None if the rest of the request
            must be read first, which :meth:`finish` does.

        Raises:
            Error: When the response cannot be completed.
        """
        if self._response is None or self._upgraded:
            return False
        if not self._response_done:
            self._end_body(None)
        if self._keepalive and self._body is not None:
            return None
        return self._keepalive

    async def finish(self) -> bool:
        """End the exchange: complete the response, drain what is left of the request.

        Returns:
            Whether the connection can carry another exchange.

        Raises:
            Error: When the response cannot be completed.
        """
        reusable = self.finish_now()
        return await self.drain_request_body() if reusable is None else reusable

    async def drain_request_body(self) -> bool:
        """Read and drop the rest of the request body, within bounds of time and size.

        Returns:
            Whether the end of the body was reached.
        """
        limit = self.body_bytes_read + self._options.max_drain_size
        self._retry = None
        self.auto_continue = False
        if self._continue_pending:
            return False  # the client waits for a go-ahead that will not come
        try:
            async with asyncio.timeout(self.total_drain_timeout):
                while await self.read_request_body() is not None:
                    if self.body_bytes_read > limit:
                        return False
        except (Error, TimeoutError):
            return False
        return True

    def shutdown(self) -> None:
        """Give the exchange up; the client must notice that the response is not complete."""
        self._keepalive = False
        if self.stream.needs_drain or (self._until_close and not self._response_done):
            # Who takes nothing is not waited for, and a plain close would look like the end of a
            # body that nothing else ends.
            self.stream.abort()
        else:
            self.stream.close()


def _refuse_repeated_length(header: ResponseHeader) -> None:
    if len(header.get_all_raw(b"content-length")) > 1:
        raise Error.internal(ErrorType.INVALID_HTTP_HEADER, "repeated Content-Length to send")
