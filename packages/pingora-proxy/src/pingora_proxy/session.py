"""What the callbacks of a proxy see of one request."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pingora_core.protocols.http.error_page import generate_error
from pingora_core.protocols.http.subrequest import SubrequestSession

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pingora_core.apps.load_shedding import RequestPermit
    from pingora_core.modules.chain import HttpModuleCtx, HttpModules
    from pingora_core.modules.module import Answer
    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.digest import Digest
    from pingora_core.protocols.http.client import ClientSession
    from pingora_core.protocols.http.compression import ResponseCompressionCtx
    from pingora_core.protocols.http.server import ServerSession
    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_error import Error
    from pingora_http import HeaderMap, RequestHeader, ResponseHeader
    from pingora_proxy.subrequest import SubrequestSpawner

__all__ = ["ProxyModules", "Session"]


class ProxyModules(NamedTuple):
    """The modules of a service.

    Attributes:
        downstream: Those that see requests and responses of clients.
        upstream: Those that see responses as they come from upstreams.
    """

    downstream: HttpModules
    upstream: HttpModules


class Session:
    """One request in a proxy: the client's side of it and what the proxy adds.

    The ``write_*`` methods send to the client through the downstream modules; ``respond_error``
    answers with an error page. ``downstream_session`` has the raw client side.

    Args:
        downstream_session: The client's side.
        modules: The modules of the service.
        shutdown: Tells when the server stops.
        load_permit: Its place among the requests in flight, where the service sheds load.

    Attributes:
        downstream_session: The client's side, whatever its HTTP version.
        load_permit: As given.
        phase: Name of the callback or step that runs now; for logs.
        shutdown_note: What the proxy has ended before its time, though properly, because the
            server stops; for logs. None where it has not.
        shutdown_watch: Tells when the server stops.
        subrequest_spawner: Starts subrequests, where ``allow_spawning_subrequest`` has allowed
            it; else None.
    """

    __slots__ = (
        "_modules",
        "_modules_ctx",
        "_page_filter",
        "_upstream_compression",
        "_upstream_modules_ctx",
        "_upstream_session",
        "downstream_session",
        "load_permit",
        "phase",
        "shutdown_note",
        "shutdown_watch",
        "subrequest_spawner",
    )

    def __init__(
        self,
        downstream_session: ServerSession,
        modules: ProxyModules,
        shutdown: ShutdownWatch,
        load_permit: RequestPermit | None = None,
    ) -> None:
        self.downstream_session = downstream_session
        self.load_permit = load_permit
        self.phase = "new_ctx"
        self._modules = modules
        downstream, upstream = modules
        self._modules_ctx: HttpModuleCtx | None = (
            downstream.build_ctx(downstream_session) if downstream.has_eager else None
        )
        self._upstream_modules_ctx: HttpModuleCtx | None = (
            upstream.build_ctx(downstream_session) if upstream.has_eager else None
        )
        self.shutdown_watch = shutdown
        self.shutdown_note: str | None = None
        self.subrequest_spawner: SubrequestSpawner | None = None
        self._page_filter: Callable[[ResponseHeader], Awaitable[None]] | None = None
        self._upstream_compression: ResponseCompressionCtx | None = None
        self._upstream_session: ClientSession | None = None

    # ------------------------------------------------------------------ about

    @property
    def req_header(self) -> RequestHeader:
        """The client's request head; changes to it show in every later phase."""
        return self.downstream_session.request

    @property
    def response_written(self) -> ResponseHeader | None:
        """The final response head that was sent to the client, None before that."""
        return self.downstream_session.response_written

    @property
    def client_addr(self) -> SocketAddress | None:
        """Address of the client; None when unknown (an unnamed Unix socket)."""
        return self.downstream_session.client_addr

    @property
    def server_addr(self) -> SocketAddress | None:
        """Local address on which the request came in."""
        return self.downstream_session.server_addr

    @property
    def digest(self) -> Digest:
        """What is known of the client's connection."""
        return self.downstream_session.digest

    @property
    def upstream_digest(self) -> Digest | None:
        """What is known of the last upstream connection, None before there was one."""
        upstream = self._upstream_session
        return None if upstream is None else upstream.digest

    @property
    def has_upstream(self) -> bool:
        """Whether an upstream connection was made for this request."""
        return self._upstream_session is not None

    @property
    def upstream_body_bytes_received(self) -> int:
        """Payload bytes of the response that the last upstream sent so far."""
        upstream = self._upstream_session
        return 0 if upstream is None else upstream.body_bytes_received

    @property
    def is_process_shutting_down(self) -> bool:
        """Whether the server has begun to stop."""
        return self.shutdown_watch.is_shutting_down

    @property
    def is_subrequest(self) -> bool:
        """Whether the request has no client but was made by the proxy itself."""
        return isinstance(self.downstream_session, SubrequestSession)

    @property
    def downstream_modules_ctx(self) -> HttpModuleCtx:
        """The module instances of this request."""
        ctx = self._modules_ctx
        if ctx is None:
            ctx = self._modules_ctx = self._modules.downstream.build_ctx(self.downstream_session)
        return ctx

    @property
    def upstream_modules_ctx(self) -> HttpModuleCtx:
        """The instances of this request of the modules on the upstream's side."""
        ctx = self._upstream_modules_ctx
        if ctx is None:
            ctx = self._modules.upstream.build_ctx(self.downstream_session)
            self._upstream_modules_ctx = ctx
        return ctx

    @property
    def active_upstream_modules(self) -> HttpModuleCtx | None:
        """The module instances on the upstream's side, if there are any."""
        return self._upstream_modules_ctx

    @property
    def active_modules(self) -> HttpModuleCtx | None:
        """The module instances if there are any, so that nobody walks an empty list."""
        return self._modules_ctx

    @property
    def upstream_compression(self) -> ResponseCompressionCtx:
        """(De)compression of the upstream's response, before the cache; off by default."""
        ctx = self._upstream_compression
        if ctx is None:
            # Imported when used: most proxies never load the codecs.
            from pingora_core.protocols.http.compression import (  # noqa: PLC0415
                ResponseCompressionCtx,
            )

            ctx = self._upstream_compression = ResponseCompressionCtx(0)
        return ctx

    @property
    def active_upstream_compression(self) -> ResponseCompressionCtx | None:
        """The upstream (de)compression if somebody asked for it."""
        return self._upstream_compression

    # ---------------------------------------------------------------- reading

    async def read_request_body(self) -> bytes | None:
        """Read a piece of the request body; what is read here is not proxied later.

        To look at the body and still proxy it, call
        ``downstream_session.enable_retry_buffering(limit)`` first: what fits into the buffer is
        replayed to the upstream.

        Returns:
            The piece; None at the end.
        """
        return await self.downstream_session.read_request_body()

    def interrupt(self, error: Error) -> None:
        """End the exchange with the upstream now, wherever it waits: for timers and the like.

        Nothing happens before there is an upstream; limit the time to connect with the peer's
        ``options.total_connection_timeout``.

        Args:
            error: What the request fails with.
        """
        if self._upstream_session is not None:
            self._upstream_session.fail(error)

    # ---------------------------------------------------------------- writing

    async def write_response_header(self, header: ResponseHeader, *, end: bool = False) -> None:
        """Send a response head to the client, through the modules.

        Args:
            header: Informational or final.
            end: Whether the message ends here.
        """
        modules = self._modules_ctx
        if modules is not None:
            await modules.response_header_filter(header, end)
        await self.downstream_session.write_response_header(header, end=end)

    async def write_response_body(self, data: bytes | None, *, end: bool = False) -> None:
        """Send a piece of the response body to the client, through the modules.

        Args:
            data: Payload bytes.
            end: Whether the message ends here.
        """
        modules = self._modules_ctx
        if modules is not None:
            data = modules.response_body_filter(data, end)
            if end and (done := modules.response_done_filter()):
                data = (data or b"") + done
        await self.downstream_session.write_response_body(data, end=end)

    async def write_response_trailers(self, trailers: HeaderMap) -> None:
        """Send the trailers to the client, through the modules, and end the message.

        Args:
            trailers: The fields.
        """
        modules = self._modules_ctx
        if modules is not None:
            data = modules.response_trailer_filter(trailers)
            if data:
                await self.downstream_session.write_response_body(data)
        # Without fields if a module has put them elsewhere.
        await self.downstream_session.write_response_trailers(trailers or None)

    async def respond_error(self, code: int, body: bytes = b"") -> None:
        """Answer with an error page; the connection is closed afterwards.

        The page passes ``response_filter``, so that clients see the same fields as on any other
        response, and the modules' ``error_page_filter``. Nothing is sent when a final head was sent
        already.

        Args:
            code: The status.
            body: The page; empty by default.
        """
        header = generate_error(code)
        if body:
            header.set_content_length(len(body))
        downstream = self.downstream_session
        if downstream.response_written is None:
            if self._page_filter is not None:
                await self._page_filter(header)
            if self._modules_ctx is not None:
                self._modules_ctx.error_page_filter(header)
        await downstream.write_error_response(header, body)

    # -------------------------------------------------- for the proxy, not for callbacks

    async def write_answer(self, answer: Answer) -> None:
        """Send what a module has answered, through ``response_filter`` and the modules.

        Args:
            answer: The response.
        """
        header, body = answer
        if self._page_filter is not None:
            await self._page_filter(header)
        await self.write_response_header(header, end=not body)
        if body:
            await self.write_response_body(body, end=True)

    def set_page_filter(
        self, page_filter: Callable[[ResponseHeader], Awaitable[None]] | None
    ) -> None:
        """Say what error pages pass through.

        Args:
            page_filter: Called with the head; None to send pages as they are.
        """
        self._page_filter = page_filter

    def set_upstream_session(self, upstream: ClientSession) -> None:
        """Say which upstream exchange is the current one.

        Args:
            upstream: The exchange.
        """
        self._upstream_session = upstream
