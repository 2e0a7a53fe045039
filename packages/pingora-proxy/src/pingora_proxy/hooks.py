"""`ProxyHttp`: the class a user writes, one callback for each phase of a request.

Theory of operation: one object serves all requests of a service; what belongs to one request
lives in the context that ``new_ctx`` makes and that every callback receives last. A callback
that is not overridden is not called at all: which ones are is looked up once, when the service
is built. The callbacks stand here in the order in which they run.

An error raised by a callback ends the request: ``fail_to_proxy`` answers, ``logging`` is told.
Raise :class:`pingora_error.Error` to choose kind and status; anything else counts as a fault of
the program and becomes a 500.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

from pingora_core.modules.compression import ResponseCompressionBuilder
from pingora_proxy.cache_hooks import CacheHooks
from pingora_proxy.lifecycle_hooks import LifecycleHooks
from pingora_proxy.outcome import FailToProxy
from pingora_proxy.status import default_status

if TYPE_CHECKING:
    from pingora_core.modules.chain import HttpModules
    from pingora_core.protocols.digest import Digest
    from pingora_core.upstreams.peer import HttpPeer
    from pingora_error import Error
    from pingora_http import HeaderMap, RequestHeader, ResponseHeader
    from pingora_proxy.outcome import BodyFilterResult, HedgePlan
    from pingora_proxy.session import Session

__all__ = ["CTX", "ProxyHttp"]

CTX = TypeVar("CTX")


class ProxyHttp(LifecycleHooks, CacheHooks[CTX], ABC, Generic[CTX]):
    """The callbacks of a proxy; subclass it with the type of your per-request context.

    Only :meth:`new_ctx` and :meth:`upstream_peer` must be written.

    Source: Pingora's ``ProxyHttp`` trait; see the list of departures in the documentation.
    """

    # ----------------------------------------------------------- once per service

    def init_downstream_modules(self, modules: HttpModules) -> None:
        """Register the modules that see requests and responses of clients.

        Args:
            modules: Where to add them. The default adds response compression, switched off
                until a filter gives it a level.
        """
        modules.add_module(ResponseCompressionBuilder.enable(0))

    def init_upstream_modules(self, modules: HttpModules) -> None:
        """Register the modules that see responses as they come from upstreams.

        Args:
            modules: Where to add them; none by default.
        """

    # ---------------------------------------------------------------- the request

    @abstractmethod
    def new_ctx(self) -> CTX:
        """Make the context of one request.

        Returns:
            The context, given to every later callback.
        """

    def on_connection_reuse(self, session: Session, ctx: CTX, previous: object) -> None:
        """Take over what an earlier request on the same connection left.

        Args:
            session: The request.
            ctx: Its context.
            previous: What :meth:`persist_connection_context` returned for the one before.
        """

    async def early_request_filter(self, session: Session, ctx: CTX) -> None:
        """Act before any module: tune modules, timeouts and limits.

        Args:
            session: The request.
            ctx: Its context.
        """

    async def allow_spawning_subrequest(self, session: Session, ctx: CTX) -> bool:
        """Decide whether later phases may start subrequests.

        Args:
            session: The request.
            ctx: Its context.

        Returns:
            True to have ``session.subrequest_spawner`` set.
        """
        return False

    async def request_filter(self, session: Session, ctx: CTX) -> bool:
        """Check, rewrite or answer the request.

        Args:
            session: The request.
            ctx: Its context.

        Returns:
            True when a response was written here, so that nothing is proxied.
        """
        return False

    async def proxy_upstream_filter(self, session: Session, ctx: CTX) -> bool:
        """Decide whether the request may go to an upstream.

        Args:
            session: The request.
            ctx: Its context.

        Returns:
            False to stop; a 502 is sent unless a response was written here.
        """
        return True

    # ------------------------------------------------------------ to the upstream

    @abstractmethod
    async def upstream_peer(self, session: Session, ctx: CTX) -> HttpPeer:
        """Choose where the request goes; called at the start of every attempt.

        Args:
            session: The request.
            ctx: Its context.

        Returns:
            The peer. One object may serve many requests.
        """

    def hedge_request(self, session: Session, peer: HttpPeer, ctx: CTX) -> HedgePlan | None:
        """Have an attempt made a second time, beside the first, when that takes too long.

        Asked for each attempt of an idempotent request without a body. The callbacks up to
        :meth:`upstream_request_filter` run for both tries, the later ones for the winner only.

        Args:
            session: The request.
            peer: Where the first try goes.
            ctx: The context.

        Returns:
            When, and where to; None, as by default, to make it once.
        """
        return None

    async def fail_to_connect(
        self, session: Session, peer: HttpPeer, ctx: CTX, error: Error
    ) -> Error:
        """Judge a failed connection; nothing was sent, so trying again is safe.

        Args:
            session: The request.
            peer: What could not be reached.
            ctx: The context.
            error: Why; from upstream.

        Returns:
            The error that counts; after ``error.set_retry(True)`` there is another attempt.
        """
        return error

    async def connected_to_upstream(
        self, session: Session, reused: bool, peer: HttpPeer, digest: Digest, ctx: CTX
    ) -> None:
        """See the connection that will carry the request.

        Args:
            session: The request.
            reused: Whether the connection came from the pool.
            peer: Where it leads.
            digest: What is known of it: addresses, times, TLS.
            ctx: The context.
        """

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: CTX
    ) -> None:
        """Change the request head that is sent; a fresh copy for every attempt.

        Args:
            session: The request.
            upstream_request: The copy, hop-by-hop fields already removed.
            ctx: The context.
        """

    async def request_body_filter(
        self, session: Session, body: bytes | None, end_of_stream: bool, ctx: CTX
    ) -> bytes | None:
        """Change a piece of the request body.

        Called once with ``None`` and ``end_of_stream`` for a request without a body. A replay
        brings the raw bytes again.

        Args:
            session: The request.
            body: The piece; None when only the end is told.
            end_of_stream: Whether it is the last.
            ctx: The context.

        Returns:
            What to send on; None or empty holds it back. Whoever changes the length removes
            Content-Length in :meth:`upstream_request_filter`.
        """
        return body

    # ---------------------------------------------------------- from the upstream

    async def adjust_upstream_modules(
        self, session: Session, upstream_response: ResponseHeader, end_of_stream: bool, ctx: CTX
    ) -> None:
        """Tune ``session.upstream_modules_ctx`` once the upstream's head is known, 1xx included.

        Args:
            session: The request.
            upstream_response: The head, hop-by-hop fields already removed.
            end_of_stream: Whether the message ends with it.
            ctx: The context.
        """

    async def upstream_response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: CTX
    ) -> None:
        """Change a response head as it comes from the upstream, 1xx included.

        Args:
            session: The request.
            upstream_response: The head, hop-by-hop fields already removed.
            ctx: The context.
        """

    async def upstream_response_body_filter(
        self, session: Session, body: bytes | None, end_of_stream: bool, ctx: CTX
    ) -> BodyFilterResult:
        """Change a piece of the response body as it comes from the upstream.

        Args:
            session: The request.
            body: The piece; None when only the end is told.
            end_of_stream: Whether it is the last.
            ctx: The context.

        Returns:
            What to pass on; in a :class:`Delayed` to throttle.
        """
        return body

    async def upstream_response_trailer_filter(
        self, session: Session, upstream_trailers: HeaderMap, ctx: CTX
    ) -> None:
        """Change the trailers as they come from the upstream.

        Args:
            session: The request.
            upstream_trailers: The fields.
            ctx: The context.
        """

    # -------------------------------------------------------------- to the client

    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: CTX
    ) -> None:
        """Change a response head on its way to the client: 1xx and error pages included.

        Args:
            session: The request.
            upstream_response: The head.
            ctx: The context.
        """

    async def response_body_filter(
        self, session: Session, body: bytes | None, end_of_stream: bool, ctx: CTX
    ) -> BodyFilterResult:
        """Change a piece of the response body on its way to the client.

        Args:
            session: The request.
            body: The piece; None when only the end is told.
            end_of_stream: Whether it is the last.
            ctx: The context.

        Returns:
            What to send; in a :class:`Delayed` to throttle. Whoever changes the length removes
            Content-Length in :meth:`response_filter`.
        """
        return body

    async def response_trailer_filter(
        self, session: Session, upstream_trailers: HeaderMap, ctx: CTX
    ) -> bytes | None:
        """Change the trailers on their way to the client.

        Args:
            session: The request.
            upstream_trailers: The fields.
            ctx: The context.

        Returns:
            None, or bytes that are sent as a last piece of the body instead of the trailers.
        """
        return None

    # -------------------------------------------------------------------- the end

    async def error_while_proxy(
        self, peer: HttpPeer, session: Session, error: Error, ctx: CTX, client_reused: bool
    ) -> Error:
        """Judge an error after the connection was made.

        The default allows another attempt when a reused connection turned out to be dead, the
        request is idempotent or nothing of it was sent, and its body can be replayed.

        Args:
            peer: Where the request went.
            session: The request.
            error: What happened, upstream, downstream or in a filter.
            ctx: The context.
            client_reused: Whether the upstream connection came from the pool.

        Returns:
            The error that counts; with a decided retry.
        """
        error = error.more_context(f"Peer: {peer}")
        error.decide_reuse(client_reused and not session.downstream_session.retry_buffer_truncated)
        return error

    async def fail_to_proxy(self, session: Session, error: Error, ctx: CTX) -> FailToProxy:
        """Answer a request that failed for good.

        Args:
            session: The request.
            error: Why.
            ctx: The context.

        Returns:
            What was answered. The default sends an empty page with :func:`default_status`.
        """
        code = default_status(error)
        if code:
            await session.respond_error(code)
        return FailToProxy(error_code=code)

    def suppress_error_log(self, session: Session, ctx: CTX, error: Error) -> bool:
        """Keep an error out of the error log.

        Args:
            session: The request.
            ctx: The context.
            error: What would be logged.

        Returns:
            True to log nothing.
        """
        return False

    def request_summary(self, session: Session, ctx: CTX) -> str:
        """Say in one line which request this is; used in every log line about it.

        Args:
            session: The request.
            ctx: The context.

        Returns:
            The line; ``METHOD path, Host: host`` by default, without the query.
        """
        return session.downstream_session.request_summary()

    async def logging(self, session: Session, error: Error | None, ctx: CTX) -> None:
        """Be told the end of a request: exactly once, whatever the end, malformed ones included.

        Args:
            session: The request.
            error: Why it failed; None when it did not.
            ctx: The context.
        """

    def persist_connection_context(self, session: Session, ctx: CTX) -> object | None:
        """Leave something for the next request on the same connection.

        Args:
            session: The request.
            ctx: The context.

        Returns:
            What :meth:`on_connection_reuse` of the next one receives; None for nothing.
        """
        return None
