"""One face of a downstream exchange over all HTTP versions.

Rules of this file: nothing here knows a version. ``send_*`` only hands bytes to the transport
and never waits; after it, a caller that sees ``needs_drain`` awaits ``drain()``. The coroutines
with Pingora's names do both.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from pingora_core.protocols.http._error_answering import ErrorAnswering
from pingora_core.protocols.http._summary import summary_of
from pingora_error import Error, ErrorSource, HTTPStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.digest import Digest
    from pingora_core.protocols.http.prepared_head import PreparedHead
    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_http import HeaderMap, RequestHeader, ResponseHeader

__all__ = ["ServerSession"]


class ServerSession(ErrorAnswering):
    """One request of a client and the response to it.

    The settings are attributes with class-level defaults, so that a request that changes none
    costs nothing.

    Attributes:
        request: The request head. Before it was read, and for heads that could not be parsed,
            a placeholder with method and target ``-``.
        read_timeout: Seconds that one wait for request-body bytes may take; None for no limit.
        write_timeout: Seconds that one wait for room in the send buffer may take, or None.
        min_send_rate: Bytes per second a client must take; overrides ``write_timeout`` with
            ``max(1, waiting / rate)`` seconds. None to switch off.
        total_drain_timeout: Seconds spent on reading the rest of a request body that nobody
            wanted, before the connection is given up.
        abort_on_close: Whether a client that closes (even only its sending direction) after its
            request gives the request up.
        close_on_response_before_downstream_finish: Whether a response that starts before the
            request body was read announces ``Connection: close``; otherwise the body is drained
            so that the connection can be reused.
        auto_continue: Whether reading the body answers ``Expect: 100-continue``; off in proxies.
        ignore_info_resp: Whether 1xx heads are dropped, save 101, and 100 that was asked for.
        connection_context: What the application left on the connection; None at first.
        shutdown_watch: Tells when the server stops, and when exchanges without an end of their
            own should end; None where no server is behind the session.
    """

    request: RequestHeader
    read_timeout: float | None = 60.0
    write_timeout: float | None = 60.0
    min_send_rate: int | None = None
    total_drain_timeout: float = 5.0
    abort_on_close: bool = True
    close_on_response_before_downstream_finish: bool = True
    auto_continue: bool = True
    ignore_info_resp: bool = False
    connection_context: object | None = None
    shutdown_watch: ShutdownWatch | None = None

    # ------------------------------------------------------------------ about

    @property
    def req_header(self) -> RequestHeader:
        """The request head, under Pingora's name."""
        return self.request

    @property
    @abstractmethod
    def digest(self) -> Digest:
        """What is known of the connection below."""

    @property
    @abstractmethod
    def client_addr(self) -> SocketAddress | None:
        """Address of the client; None when unknown (an unnamed Unix socket)."""

    @property
    @abstractmethod
    def server_addr(self) -> SocketAddress | None:
        """Local address on which the request came in."""

    @property
    @abstractmethod
    def response_written(self) -> ResponseHeader | None:
        """The final response head (or the 101) that was sent, None before that."""

    @property
    @abstractmethod
    def body_bytes_read(self) -> int:
        """Payload bytes of the request read so far."""

    @property
    @abstractmethod
    def body_bytes_sent(self) -> int:
        """Payload bytes of the response sent so far."""

    @property
    def is_process_shutting_down(self) -> bool:
        """Whether the server has begun to stop."""
        watch = self.shutdown_watch
        return watch is not None and watch.is_shutting_down

    def request_summary(self) -> str:
        """Say in one line which request this is, for logs.

        Returns:
            ``METHOD path, Host: host``. The query is left out: it may hold secrets. What is longer
            than 256 characters is cut, and what cannot be printed is escaped.
        """
        return summary_of(self.request)

    # ---------------------------------------------------------------- reading

    @abstractmethod
    async def read_request(self) -> bool:
        """Read the request head.

        Returns:
            False when the client closed, or stayed idle, before sending one.

        Raises:
            Error: From downstream: ``READ_TIMEDOUT``, ``CONNECTION_CLOSED`` within the head,
                or what makes the head malformed; an ``HTTPStatus`` kind names the answer.
        """

    @property
    @abstractmethod
    def is_body_empty(self) -> bool:
        """Whether the request has no body at all."""

    @property
    @abstractmethod
    def is_body_done(self) -> bool:
        """Whether the whole request body has been read."""

    @property
    @abstractmethod
    def is_upgrade_request(self) -> bool:
        """Whether the client asks for another protocol."""

    @abstractmethod
    def next_request_body(self) -> bytes | None:
        """Return request-body bytes that are here already.

        Returns:
            A piece of the body; None when more bytes must arrive first or the body is done.

        Raises:
            Error: From downstream, when the body is malformed.
        """

    @abstractmethod
    async def read_request_body(self) -> bytes | None:
        """Wait for the next piece of the request body.

        Returns:
            The piece; None at the end of the body.

        Raises:
            Error: From downstream: ``READ_TIMEDOUT``, ``CONNECTION_CLOSED``, or what makes the
                body malformed.
        """

    async def read_whole_body(self, limit: int) -> bytes:
        """Wait for all that is left of the request body.

        Args:
            limit: Bytes that it may have.

        Returns:
            The bytes.

        Raises:
            Error: As ``read_request_body`` does; ``HTTPStatus(413)`` if it is longer.
        """
        body = bytearray()
        while (piece := await self.read_request_body()) is not None:
            body += piece
            if len(body) > limit:
                msg = f"the body has more than {limit} bytes"
                raise Error(HTTPStatus(413), msg, source=ErrorSource.DOWNSTREAM)
        return bytes(body)

    @property
    @abstractmethod
    def request_trailers(self) -> HeaderMap | None:
        """Trailer fields of the request, once its body is done."""

    @abstractmethod
    async def read_upgraded(self) -> bytes:
        """Wait for raw bytes of the client after a 101.

        Returns:
            The bytes; empty when the client has closed its direction.
        """

    @abstractmethod
    def enable_retry_buffering(self, limit: int = 65536) -> None:
        """Keep the raw request body so that a failed attempt can be replayed.

        Args:
            limit: Bytes to keep at most; a longer body makes the buffer truncated.
        """

    @property
    @abstractmethod
    def retry_buffer(self) -> bytes:
        """What was kept of the request body so far."""

    @property
    @abstractmethod
    def retry_buffer_truncated(self) -> bool:
        """Whether the body was longer than the retry buffer, so that no replay is possible."""

    @abstractmethod
    def watch_disconnect(self, callback: Callable[[], None] | None) -> None:
        """Be told when the client goes away.

        Args:
            callback: Called once, at once when the client has gone already; None to stop.
        """

    # ---------------------------------------------------------------- writing

    @abstractmethod
    def send_response_header(self, header: ResponseHeader, *, end: bool = False) -> None:
        """Send a response head.

        Args:
            header: Informational or final. A second final head is dropped with a warning.
            end: Whether the message ends here.

        Raises:
            Error: ``WRITE_ERROR`` when the client is gone.
        """

    def send_prepared_head(self, head: PreparedHead, age: int, body: bytes = b"") -> None:
        """Send a final response head that was written before, and tell how old the response is.

        Args:
            head: The head.
            age: Seconds.
            body: All of the body; nothing where it follows, or is empty.

        Raises:
            Error: ``WRITE_ERROR`` when the client is gone.
        """
        self.send_response_header(head.complete(age), end=not head.length)
        if body:
            self.send_response_body(body, end=True)

    @abstractmethod
    def send_response_body(self, data: bytes | None, *, end: bool = False) -> None:
        """Send a piece of the response body.

        Args:
            data: Payload bytes; nothing is sent for None or empty bytes.
            end: Whether the message ends here.

        Raises:
            Error: ``WRITE_ERROR`` when the client is gone; ``PREMATURE_BODY_END`` when the body
                ends before its Content-Length.
        """

    @abstractmethod
    def send_response_trailers(self, trailers: HeaderMap | None) -> None:
        """Send the trailer section and end the message.

        Args:
            trailers: The fields; dropped where the framing has no place for them.
        """

    @abstractmethod
    def send_upgraded(self, data: bytes) -> None:
        """Send raw bytes after a 101.

        Args:
            data: The bytes.
        """

    @property
    @abstractmethod
    def needs_drain(self) -> bool:
        """Whether the send buffer is above its high-water mark."""

    @abstractmethod
    async def drain(self) -> None:
        """Wait until the send buffer has room.

        Raises:
            Error: ``WRITE_TIMEDOUT`` or ``WRITE_ERROR``, from downstream.
        """

    async def write_response_header(self, header: ResponseHeader, *, end: bool = False) -> None:
        """Send a response head and wait for room.

        Args:
            header: Informational or final.
            end: Whether the message ends here.
        """
        self.send_response_header(header, end=end)
        if self.needs_drain:
            await self.drain()

    async def write_response_body(self, data: bytes | None, *, end: bool = False) -> None:
        """Send a piece of the response body and wait for room.

        Args:
            data: Payload bytes.
            end: Whether the message ends here.
        """
        self.send_response_body(data, end=end)
        if self.needs_drain:
            await self.drain()

    async def write_response_trailers(self, trailers: HeaderMap | None) -> None:
        """Send the trailer section and wait for room.

        Args:
            trailers: The fields.
        """
        self.send_response_trailers(trailers)
        if self.needs_drain:
            await self.drain()

    # ----------------------------------------------------------------- ending

    @abstractmethod
    def set_keepalive(self, timeout: float | None) -> None:
        """Decide whether the connection is kept after this exchange.

        Args:
            timeout: None closes it; 0 keeps it without an idle limit; otherwise seconds it may
                stay idle. A client that asked to close is never overruled.
        """

    def finish_now(self) -> bool | None:
        """End the exchange, if that can be done without waiting: HOT.

        Returns:
            What :meth:`finish` would return; None if that must be awaited instead.

        Raises:
            Error: When the response cannot be completed.
        """
        return None

    @abstractmethod
    async def finish(self) -> bool:
        """End the exchange: complete the response, drain what is left of the request.

        Returns:
            Whether the connection can carry another exchange.

        Raises:
            Error: When the response cannot be completed.
        """

    @abstractmethod
    def shutdown(self) -> None:
        """Give the exchange up; the client must notice that the response is not complete."""
