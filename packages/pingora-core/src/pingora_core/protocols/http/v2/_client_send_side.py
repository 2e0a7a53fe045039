"""The sending half of an upstream HTTP/2 session: the request head, its body, and upgrades.

An upgrade is asked for as HTTP/2 does it, with an extended CONNECT (RFC 8441), and its answer is
presented as the 101 that the rest of the program knows from HTTP/1.

Nothing here waits, save ``drain``. All errors leave with source Upstream, save the one given to
``fail``.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from typing import TYPE_CHECKING, Final

from pingora_core.protocols.http.client import ClientSession
from pingora_core.protocols.http.v1.framing import connection_tokens, request_body_length
from pingora_core.protocols.http.v1.limits import DEFAULT_LIMITS
from pingora_core.protocols.http.v2.headers import encode_request, encode_trailers
from pingora_error import PREMATURE_BODY_END, Error, ErrorSource, ErrorType, RetryType
from pingora_http import Version

if TYPE_CHECKING:
    from pingora_core.protocols.http.v1.limits import HeadLimits
    from pingora_core.protocols.http.v2._client_stream import ClientStream
    from pingora_http import HeaderMap, RequestHeader, ResponseHeader

__all__ = ["RequestSender"]

logger = logging.getLogger(__name__)

# RFC 6455 section 1.3.
_WEBSOCKET_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class RequestSender(ClientSession):
    """What sending one request needs; see :class:`ClientSession` for the meanings.

    Args:
        stream: The stream, on which nothing was sent.
        scheme: ``https`` over TLS, else ``http``.
        allows_h1: Whether the same upstream may be asked in HTTP/1.1 instead.
        limits: Limits on the response heads.

    Attributes:
        stream: The stream.
    """

    # A session is made for each exchange; most of them never change most of this.
    _method = b""
    _protocol: bytes | None = None
    _websocket_key: bytes | None = None
    _promised = -1
    _sent = 0
    _request_sent = False
    _request_done = False
    _is_tunnel = False
    _failure: Error | None = None

    def __init__(
        self,
        stream: ClientStream,
        *,
        scheme: bytes,
        allows_h1: bool,
        limits: HeadLimits = DEFAULT_LIMITS,
    ) -> None:
        self.stream = stream
        self._scheme = scheme
        self._allows_h1 = allows_h1
        self._limits = limits

    @property
    def version(self) -> Version:
        """HTTP/2."""
        return Version.HTTP_20

    @property
    def body_bytes_sent(self) -> int:
        """Payload bytes of the request so far."""
        return self._sent

    @property
    def request_sent(self) -> bool:
        """Whether anything of the request may have reached the upstream."""
        return self._request_sent

    def send_request_header(self, header: RequestHeader) -> None:
        """Send the request head.

        Args:
            header: The head, as for HTTP/1: its framing fields say whether a body follows.

        Raises:
            Error: ``WRITE_ERROR`` when the connection is gone or takes no more streams,
                retryable since nothing was sent; ``INVALID_HTTP_HEADER`` when the framing fields
                contradict each other, or HTTP/2 cannot express the head; ``H2_DOWNGRADE`` for
                an upgrade that the upstream cannot do in HTTP/2.
        """
        length = request_body_length(header)
        self._method = header.raw_method
        self._is_tunnel = self._method == b"CONNECT"
        if not self._is_tunnel and length == 0:
            self._protocol = self._wanted_protocol(header)
            self._is_tunnel = self._protocol is not None
        stream = self.stream
        fields = encode_request(
            header,
            scheme=self._scheme,
            protocol=self._protocol,
            never_indexed=stream.carrier.sensitive,
        )
        # Some servers want the end on a frame of its own (test_req_content_length_eq_0...).
        end = length == 0 and not self._is_tunnel and header.send_end_stream is not False
        try:
            stream.send_headers(fields, end=end)
        except Error as error:
            if error.retry is not RetryType.RETRY:
                error.retry = RetryType.REUSED_ONLY
            raise error.as_up() from error.cause
        self._request_sent = True
        self._request_done = end
        self._promised = length

    def _wanted_protocol(self, header: RequestHeader) -> bytes | None:
        upgrade = header.get_raw(b"upgrade")
        if upgrade is None or b"upgrade" not in connection_tokens(header):
            return None
        protocol = upgrade.partition(b",")[0].strip(b" \t").lower()
        if protocol == b"h2c":
            return None
        if not self.stream.carrier.peer_allows_extended_connect:
            retry = RetryType.RETRY if self._allows_h1 else RetryType.NO_RETRY
            msg = "the upstream does not do upgrades over HTTP/2 (RFC 8441)"
            raise Error.up(ErrorType.H2_DOWNGRADE, msg, retry=retry)
        self._websocket_key = header.get_raw(b"sec-websocket-key")
        return protocol

    def _present_as_upgrade(self, response: ResponseHeader) -> None:
        """Make the 101 of HTTP/1 out of the 2xx that answers an extended CONNECT."""
        protocol = self._protocol
        if protocol is None:
            return
        response.set_status(101)
        response.remove_headers((b"content-length",))
        response.insert_header(b"Connection", b"Upgrade")
        response.insert_header(b"Upgrade", protocol)
        key = self._websocket_key
        if protocol == b"websocket" and key is not None:
            digest = hashlib.sha1(key + _WEBSOCKET_GUID, usedforsecurity=False).digest()
            response.insert_header(b"Sec-WebSocket-Accept", base64.b64encode(digest))

    def send_request_body(self, data: bytes) -> None:
        """Send a piece of the request body.

        Args:
            data: Payload bytes; those beyond Content-Length are dropped.

        Raises:
            Error: ``WRITE_ERROR`` when the stream or the connection is gone.
        """
        if self._request_done or self._is_tunnel:
            return
        if self._promised >= 0:
            room = self._promised - self._sent
            if len(data) > room:
                logger.warning("%d bytes beyond Content-Length were dropped", len(data) - room)
                data = data[:room]
        if not data:
            return
        self._sent += len(data)
        # The last piece is not known to be the last; END_STREAM costs a frame of its own.
        self._send(data, end=False)

    def finish_request_body(self, trailers: HeaderMap | None = None) -> None:
        """End the request body; of an upgrade, which has none, nothing ends.

        Args:
            trailers: Fields to send after the body.

        Raises:
            Error: ``PREMATURE_BODY_END`` when less was sent than Content-Length promised;
                ``WRITE_ERROR`` when the stream or the connection is gone.
        """
        if self._request_done or self._is_tunnel:
            return
        if self._sent < self._promised:
            # It is this side that promised more: a filter, not the upstream.
            msg = f"{self._sent} of {self._promised} bytes were written"
            raise Error(PREMATURE_BODY_END, msg, source=ErrorSource.INTERNAL)
        fields = []
        if trailers is not None:
            fields = encode_trailers(trailers, never_indexed=self.stream.carrier.sensitive)
        if not fields:
            self._send(b"", end=True)
        else:
            try:
                self.stream.send_trailers(fields)
            except Error as error:
                raise error.as_up() from error.cause
        self._request_done = True

    def send_upgraded(self, data: bytes) -> None:
        """Send raw bytes after a 101.

        Args:
            data: The bytes.

        Raises:
            Error: ``WRITE_ERROR`` when the stream or the connection is gone.
        """
        self._sent += len(data)
        self._send(data, end=False)

    def finish_upgraded(self) -> bool:
        """Close the sending direction of an upgraded stream.

        Returns:
            True: a stream's directions end one by one.
        """
        self._end_tunnel()
        return True

    def _end_tunnel(self) -> None:
        if not self._request_done:
            self._request_done = True
            self._send(b"", end=True)

    def _send(self, data: bytes, *, end: bool) -> None:
        try:
            self.stream.send_data(data, end=end)
        except Error as error:
            raise error.as_up() from error.cause

    @property
    def needs_drain(self) -> bool:
        """Whether more waits for a window than is good."""
        return self.stream.needs_drain

    async def drain(self) -> None:
        """Wait until the upstream has taken most of what waits.

        Raises:
            Error: ``WRITE_TIMEDOUT`` or ``WRITE_ERROR``.
        """
        try:
            await self.stream.drain(self.write_timeout)
        except Error as error:
            if error is self._failure:
                raise
            raise error.as_up() from error.cause

    # ----------------------------------------------------------------- ending

    def fail(self, error: Error) -> None:
        """Interrupt whoever waits for this session.

        Args:
            error: What the waiting call, and each later one, raises.
        """
        if self._failure is None:
            self._failure = error
            self.stream.fail(error)
