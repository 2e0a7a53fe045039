"""What the callbacks of a proxy see of one request."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from pingora_core.protocols.http.subrequest import SubrequestSession
from pingora_proxy._session_writing import SessionWriting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pingora_cache.cache import HttpCache
    from pingora_cache.purger import CachePurger
    from pingora_core.apps.load_shedding import RequestPermit
    from pingora_core.modules.chain import HttpModuleCtx, HttpModules
    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.digest import Digest
    from pingora_core.protocols.http.client import ClientSession
    from pingora_core.protocols.http.compression import ResponseCompressionCtx
    from pingora_core.protocols.http.server import ServerSession
    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_core.upstreams.peer import HttpPeer
    from pingora_error import Error
    from pingora_http import RequestHeader, ResponseHeader
    from pingora_proxy.request_record import RequestRecord
    from pingora_proxy.subrequest import SubrequestCtx, SubrequestSpawner

__all__ = ["ServiceParts", "Session"]


@cache
def _http_cache() -> type[HttpCache]:
    # Imported when used, for most proxies do not cache; and once, for an import statement costs 4 %
    # of the instructions of a hit, though the module is there (2026-11).
    from pingora_cache.cache import HttpCache  # noqa: PLC0415

    return HttpCache


class ServiceParts(NamedTuple):
    """What all requests of a service have in common.

    Attributes:
        downstream: The modules that see requests and responses of clients.
        upstream: The modules that see responses as they come from upstreams.
        new_cache: Makes the cache of a request; None for one with the usual clocks.
    """

    downstream: HttpModules
    upstream: HttpModules
    new_cache: Callable[[], HttpCache] | None = None


class Session(SessionWriting):
    """One request in a proxy: the client's side of it and what the proxy adds.

    The ``write_*`` methods send to the client through the downstream modules; ``respond_error``
    answers with an error page. ``downstream_session`` has the raw client side.

    Args:
        downstream_session: The client's side.
        parts: What it has in common with all requests of the service.
        shutdown: Tells when the server stops.
        load_permit: Its place among the requests in flight, where the service sheds load.
        subrequest_ctx: What a subrequest was given; None for requests of clients.

    Attributes:
        active_cache: The cache of this request if somebody has asked for it; see `cache`.
        active_modules: The module instances if there are any, so that nobody walks an empty list;
            see `downstream_modules_ctx`.
        active_upstream_compression: The upstream (de)compression if somebody has asked for it.
        active_upstream_modules: The module instances on the upstream's side, if there are any.
        downstream_session: The client's side, whatever its HTTP version.
        invalidates: Purges what the request may have changed: where the cache was on, and the
            method is not safe.
        ignore_downstream_range: Whether a response that passed through the cache is sent whole
            even if the client has asked for a range of it.
        load_permit: As given.
        phase: Name of the callback or step that runs now; for logs.
        record: The times of this request, where somebody watches; else None.
        route: A name for requests of this sort, such as ``/users/{id}``, for metrics; one of few.
            Set by a callback; None for none.
        shutdown_note: What the proxy has ended before its time, though properly, because the
            server stops; for logs. None where it has not.
        shutdown_watch: Tells when the server stops.
        subrequest_ctx: As given.
        subrequest_spawner: Starts subrequests, where ``allow_spawning_subrequest`` has allowed
            it; else None.
        upstream_headers_mutated_for_cache: Whether the upstream was asked for a whole response
            because of the cache, so that the client's conditions and ranges are answered here.
        upstream_session: The upstream exchange that is the current or last one, set by the proxy;
            None before there was one.
        upstream_request_time: When the last request was sent for the cache, by its clock.
    """

    __slots__ = (
        "_interrupter",
        "_page_filter",
        "_parts",
        "active_cache",
        "active_modules",
        "active_upstream_compression",
        "active_upstream_modules",
        "downstream_session",
        "ignore_downstream_range",
        "invalidates",
        "load_permit",
        "phase",
        "record",
        "route",
        "shutdown_note",
        "shutdown_watch",
        "subrequest_ctx",
        "subrequest_spawner",
        "upstream_headers_mutated_for_cache",
        "upstream_request_time",
        "upstream_session",
    )

    # Only those who cache have these.
    invalidates: CachePurger | None
    upstream_request_time: float

    def __init__(
        self,
        downstream_session: ServerSession,
        parts: ServiceParts,
        shutdown: ShutdownWatch,
        load_permit: RequestPermit | None = None,
        *,
        subrequest_ctx: SubrequestCtx | None = None,
    ) -> None:
        self.downstream_session: ServerSession = downstream_session
        self.load_permit: RequestPermit | None = load_permit
        self.phase: str = "new_ctx"
        self._parts = parts
        downstream, upstream, _ = parts
        self.active_modules: HttpModuleCtx | None = (
            downstream.build_ctx(downstream_session) if downstream.has_eager else None
        )
        self.active_upstream_modules: HttpModuleCtx | None = (
            upstream.build_ctx(downstream_session) if upstream.has_eager else None
        )
        self.shutdown_watch: ShutdownWatch = shutdown
        self.shutdown_note: str | None = None
        self.subrequest_spawner: SubrequestSpawner | None = None
        self._page_filter: Callable[[ResponseHeader], Awaitable[None]] | None = None
        self.active_upstream_compression: ResponseCompressionCtx | None = None
        self.upstream_session: ClientSession | None = None
        self._interrupter: Callable[[Error, HttpPeer | None], None] | None = None
        self.subrequest_ctx: SubrequestCtx | None = subrequest_ctx
        self.record: RequestRecord | None = None
        self.route: str | None = None
        self.active_cache: HttpCache | None = None
        self.ignore_downstream_range: bool = False
        self.upstream_headers_mutated_for_cache: bool = False

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
        upstream = self.upstream_session
        return None if upstream is None else upstream.digest

    @property
    def has_upstream(self) -> bool:
        """Whether an upstream connection was made for this request."""
        return self.upstream_session is not None

    @property
    def upstream_body_bytes_received(self) -> int:
        """Payload bytes of the response that the last upstream sent so far."""
        upstream = self.upstream_session
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
        ctx = self.active_modules
        if ctx is None:
            ctx = self.active_modules = self._parts.downstream.build_ctx(self.downstream_session)
        return ctx

    @property
    def upstream_modules_ctx(self) -> HttpModuleCtx:
        """The instances of this request of the modules on the upstream's side."""
        ctx = self.active_upstream_modules
        if ctx is None:
            ctx = self._parts.upstream.build_ctx(self.downstream_session)
            self.active_upstream_modules = ctx
        return ctx

    @property
    def upstream_compression(self) -> ResponseCompressionCtx:
        """(De)compression of the upstream's response, before the cache; off by default."""
        ctx = self.active_upstream_compression
        if ctx is None:
            # Imported when used: most proxies never load the codecs.
            from pingora_core.protocols.http.compression import (  # noqa: PLC0415
                ResponseCompressionCtx,
            )

            ctx = self.active_upstream_compression = ResponseCompressionCtx(0)
        return ctx

    @property
    def scheme(self) -> str:
        """``https`` for a request that came over TLS, else ``http``.

        What a balancer in front says of it is not looked at: whoever trusts one overrides the
        callbacks that ask.
        """
        return "http" if self.downstream_session.digest.ssl_digest is None else "https"

    # ---------------------------------------------------------------- caching

    @property
    def cache(self) -> HttpCache:
        """The cache of this request; off until ``request_cache_filter`` enables it."""
        cache = self.active_cache
        if cache is None:
            cache = self.active_cache = (self._parts.new_cache or _http_cache())()
            self.invalidates = None
            self.upstream_request_time = 0.0
        return cache

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

    async def buffer_request_body(self, limit: int) -> bytes:
        """Read the whole request body and keep it: each upstream that is tried gets it from there.

        Call it before anything else has read of the body, in ``request_filter`` for example.

        Args:
            limit: Bytes that it may have.

        Returns:
            The body, empty if there is none.

        Raises:
            Error: ``HTTPStatus(413)`` if it is longer, and as ``read_request_body`` does.
        """
        self.downstream_session.enable_retry_buffering(limit)
        return await self.downstream_session.read_whole_body(limit)

    def interrupt(self, error: Error, *, peer: HttpPeer | None = None) -> None:
        """End the exchange with the upstream now, wherever it waits: for timers and the like.

        Nothing happens before there is an upstream; limit the time to connect with the peer's
        ``options.total_connection_timeout``.

        Args:
            error: What the request fails with.
            peer: Of a hedged attempt: ends only the try that goes there. None ends all there is.
        """
        if self._interrupter is not None:
            self._interrupter(error, peer)
        elif self.upstream_session is not None:
            self.upstream_session.fail(error)

    # -------------------------------------------------- for the proxy, not for callbacks

    def set_page_filter(
        self, page_filter: Callable[[ResponseHeader], Awaitable[None]] | None
    ) -> None:
        """Say what error pages pass through.

        Args:
            page_filter: Called with the head; None to send pages as they are.
        """
        self._page_filter = page_filter

    def set_interrupter(self, interrupter: Callable[[Error, HttpPeer | None], None] | None) -> None:
        """Say what ends the exchange while there may be two.

        Args:
            interrupter: Called instead of the current exchange; None when there is one again.
        """
        self._interrupter = interrupter
