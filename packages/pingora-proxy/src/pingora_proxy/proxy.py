"""`HttpProxy`: runs the phases of a `ProxyHttp` for each request, with retries and failure paths.

Theory of operation: ``process_new_http`` reads the head and then always comes to the same end:
an error, if there was one, is answered by ``fail_to_proxy`` and logged; ``logging`` is told;
the connection is kept or closed. In between, ``_run_phases`` walks the phase chart and
``_proxy_with_retries`` makes attempts until one succeeds or none is allowed.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Generic

from pingora_core.apps.http_app import HttpServerApp
from pingora_core.connectors.http.connector import Connector
from pingora_core.modules.chain import HttpModules
from pingora_core.protocols.http.subrequest import SubrequestSession
from pingora_error import Error, ErrorType, HTTPStatus, RetryType
from pingora_proxy._exchange import Exchange
from pingora_proxy._overrides import Overrides
from pingora_proxy._user_errors import as_error
from pingora_proxy.hooks import CTX
from pingora_proxy.outcome import FailToProxy
from pingora_proxy.session import ProxyModules, Session
from pingora_proxy.status import default_status
from pingora_proxy.subrequest import SubrequestSpawner

if TYPE_CHECKING:
    from pingora_core.apps.http_app import HttpServerOptions
    from pingora_core.apps.load_shedding import LoadShedder, RequestPermit
    from pingora_core.modules.chain import HttpModuleCtx
    from pingora_core.protocols.http.client import ClientSession
    from pingora_core.protocols.http.server import ServerSession
    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_core.upstreams.peer import HttpPeer
    from pingora_http import ResponseHeader
    from pingora_proxy.hooks import ProxyHttp

__all__ = ["HttpProxy"]

logger = logging.getLogger(__name__)

# RFC 9110 section 9.2.2.
_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})


class HttpProxy(HttpServerApp, Generic[CTX]):
    """The application behind a proxy service.

    Args:
        app: The user's object.
        connector: Where upstream connections come from; closed when the service ends.
        server_options: How the service speaks HTTP to its clients.
        max_retries: Attempts per request at most (Pingora's ``max_retries``).
        retry_buffer_size: Bytes of a request body that are kept for a replay.
        load_shedder: Refuses requests that are too many; None lets all of them in.

    Attributes:
        app: The user's object.
        connector: Where upstream connections come from.
        downstream_modules: The modules that see requests and responses of clients.
        upstream_modules: The modules that see responses as they come from upstreams.
    """

    def __init__(
        self,
        app: ProxyHttp[CTX],
        *,
        connector: Connector | None = None,
        server_options: HttpServerOptions | None = None,
        max_retries: int = 16,
        retry_buffer_size: int = 65536,
        load_shedder: LoadShedder | None = None,
    ) -> None:
        self.app = app
        self.load_shedder = load_shedder
        self.connector = connector or Connector()
        if server_options is not None:
            self.server_options = server_options
        self.max_retries = max_retries
        self.retry_buffer_size = retry_buffer_size
        self.downstream_modules = HttpModules()
        app.init_downstream_modules(self.downstream_modules)
        self.upstream_modules = HttpModules()
        app.init_upstream_modules(self.upstream_modules)
        self._modules = ProxyModules(self.downstream_modules, self.upstream_modules)
        self._subrequests = SubrequestSpawner(self.process_new_http)
        self._overrides = Overrides(app)
        self._is_plain = not self._overrides.acts_before_upstream

    async def cleanup(self) -> None:
        """End subrequests and idle upstream connections; the service calls this at its end."""
        await self._subrequests.close()
        await self.connector.close()

    # ------------------------------------------------------------ one request

    async def process_new_http(self, session: ServerSession, shutdown: ShutdownWatch) -> bool:
        """Serve one request through the callbacks.

        Args:
            session: The client's side, nothing read yet.
            shutdown: Tells when the server stops.

        Returns:
            Whether the connection can carry another request.
        """
        error: Error | None = None
        permit: RequestPermit | None = None
        try:
            if not await session.read_request():
                return False
        except Error as bad_request:
            error = bad_request
        shedder = self.load_shedder
        if shedder is not None and error is None and not isinstance(session, SubrequestSession):
            permit = shedder.admit(session.request)
            if permit is None:
                return await shedder.refuse(session)
        try:
            own = Session(session, self._modules, shutdown, permit)
            ctx = self.app.new_ctx()
            if self._overrides.response_filter:
                self._filter_pages(own, ctx)
            if error is None:
                try:
                    # Where nothing happens before the upstream is chosen, no coroutine is made for it.
                    if (
                        self._is_plain
                        and own.active_modules is None
                        and session.request.raw_method != b"CONNECT"
                    ) or not await self._before_upstream(own, ctx):
                        await self._proxy_with_retries(own, ctx)
                except Error as failure:
                    error = failure
                except Exception as failure:  # noqa: BLE001 - a callback may raise anything
                    error = as_error(failure, own.phase)
            alive = error is None or await self._fail(own, error, ctx)
            if self._overrides.logging:
                await self._log(own, error, ctx)
            return alive and await self._finish(own, ctx)
        finally:
            if permit is not None:
                permit.release(session.response_written)

    async def _before_upstream(self, session: Session, ctx: CTX) -> bool:
        # The phases before an upstream is chosen; says whether one of them answered.
        app = self.app
        overrides = self._overrides
        downstream = session.downstream_session
        if overrides.on_connection_reuse and downstream.connection_context is not None:
            app.on_connection_reuse(session, ctx, downstream.connection_context)
        if (
            downstream.request.raw_method == b"CONNECT"
            and not self.server_options.allow_connect_method_proxying
        ):
            raise Error.down(HTTPStatus(405), "CONNECT is not allowed")
        if overrides.early_request_filter:
            session.phase = "early_request_filter"
            await app.early_request_filter(session, ctx)
        if overrides.allow_spawning_subrequest:
            session.phase = "allow_spawning_subrequest"
            if await app.allow_spawning_subrequest(session, ctx):
                session.subrequest_spawner = self._subrequests
        modules = session.active_modules
        if modules is not None and await _answered(session, modules):
            return True
        if overrides.request_filter:
            session.phase = "request_filter"
            if await app.request_filter(session, ctx):
                return True
        if overrides.proxy_upstream_filter:
            session.phase = "proxy_upstream_filter"
            if not await app.proxy_upstream_filter(session, ctx):
                if downstream.response_written is None:
                    await session.respond_error(502)
                return True
        return False

    # --------------------------------------------------------------- attempts

    async def _proxy_with_retries(self, session: Session, ctx: CTX) -> None:
        downstream = session.downstream_session
        if not downstream.is_body_empty:
            downstream.enable_retry_buffering(self.retry_buffer_size)
        tries = 0
        while True:
            session.phase = "upstream_peer"
            peer = await self.app.upstream_peer(session, ctx)
            tries += 1
            try:
                await self._attempt(session, peer, ctx)
                return
            except Error as error:
                if (
                    not error.should_retry
                    or tries >= self.max_retries
                    or downstream.response_written is not None
                    or (downstream.body_bytes_read > 0 and downstream.retry_buffer_truncated)
                ):
                    raise
                if not self.app.suppress_error_log(session, ctx, error):
                    logger.warning(
                        "Fail to proxy: %s, tries: %d, retry: true, %s",
                        error,
                        tries,
                        self.app.request_summary(session, ctx),
                    )

    async def _attempt(self, session: Session, peer: HttpPeer, ctx: CTX) -> None:
        connector = self.connector  # a reload may put another one in its place meanwhile
        upgrade = session.downstream_session.is_upgrade_request
        upstream: ClientSession | None = connector.reused_http_session(peer, upgrade=upgrade)
        reused = upstream is not None
        if upstream is None:
            upstream = await self._connect(connector, session, peer, ctx)
        session.set_upstream_session(upstream)
        try:
            if self._overrides.connected_to_upstream:
                session.phase = "connected_to_upstream"
                await self.app.connected_to_upstream(session, reused, peer, upstream.digest, ctx)
            await Exchange(self.app, self._overrides, session, upstream, peer=peer, ctx=ctx).run()
        except Exception as error:  # noqa: BLE001 - a callback may raise anything
            phase = session.phase
            own = as_error(error, phase)
            _forbid_unsafe_replay(own, session, upstream)
            session.phase = "error_while_proxy"
            judged = await self.app.error_while_proxy(peer, session, own, ctx, reused)
            session.phase = phase
            raise judged from judged.cause
        finally:
            connector.release_http_session(upstream, peer)

    async def _connect(
        self, connector: Connector, session: Session, peer: HttpPeer, ctx: CTX
    ) -> ClientSession:
        session.phase = "connect"
        try:
            return await connector.new_http_session(
                peer, upgrade=session.downstream_session.is_upgrade_request
            )
        except Error as error:
            session.phase = "fail_to_connect"
            judged = await self.app.fail_to_connect(session, peer, ctx, error.as_up())
            session.phase = "connect"
            raise judged from judged.cause

    # ------------------------------------------------------------- the ending

    async def _fail(self, session: Session, error: Error, ctx: CTX) -> bool:
        # Answers and logs an error; says whether the response to it can be finished.
        downstream = session.downstream_session
        phase = session.phase
        truncated = downstream.response_written is not None
        session.phase = "fail_to_proxy"
        try:
            outcome = await self.app.fail_to_proxy(session, error, ctx)
        except Exception as second:
            logger.error("fail_to_proxy failed: %s", second, exc_info=second)
            session.set_page_filter(None)
            outcome = await self._plain_page(session, error)
        if not self.app.suppress_error_log(session, ctx, error):
            self._log_error(session, error, outcome.error_code, ctx, phase=phase)
        if outcome.response_completed:
            truncated = False
        if truncated or outcome.error_code == 0 or downstream.response_written is None:
            downstream.shutdown()
            return False
        if session.has_upstream or not outcome.can_reuse_downstream:
            downstream.set_keepalive(None)
        return True

    async def _plain_page(self, session: Session, error: Error) -> FailToProxy:
        code = default_status(error) or 500
        try:
            await session.respond_error(code)
        except Error:
            return FailToProxy(error_code=0)
        return FailToProxy(error_code=code)

    def _log_error(
        self, session: Session, error: Error, status: int, ctx: CTX, *, phase: str
    ) -> None:
        # A client that went away is nobody's fault here, and common.
        level = logging.ERROR if status else logging.INFO
        if not logger.isEnabledFor(level):
            return
        logger.log(
            level,
            "Fail to proxy: %s, status: %d, retry: false, phase: %s, %s",
            error,
            status,
            phase,
            self.app.request_summary(session, ctx),
            exc_info=error.root_cause if error.root_etype is ErrorType.INTERNAL_ERROR else None,
        )

    async def _log(self, session: Session, error: Error | None, ctx: CTX) -> None:
        session.phase = "logging"
        try:
            await self.app.logging(session, error, ctx)
        except Exception as second:
            logger.error("logging failed: %s", second, exc_info=second)

    async def _finish(self, session: Session, ctx: CTX) -> bool:
        downstream = session.downstream_session
        try:
            reusable = await downstream.finish()
        except Error as late:
            logger.debug("a response could not be completed: %s", late)
            downstream.shutdown()
            return False
        if reusable and self._overrides.persist_connection_context:
            downstream.connection_context = self.app.persist_connection_context(session, ctx)
        return reusable

    # ---------------------------------------------------------------- helpers

    def _filter_pages(self, session: Session, ctx: CTX) -> None:
        async def filter_page(header: ResponseHeader) -> None:
            await self.app.response_filter(session, header, ctx)

        session.set_page_filter(filter_page)


async def _answered(session: Session, modules: HttpModuleCtx) -> bool:
    # Sends the request head through the modules; says whether one of them has answered.
    session.phase = "modules' request_header_filter"
    answer = await modules.request_header_filter(session.req_header)
    if answer is None:
        return False
    session.phase = "a module's answer"
    await session.write_answer(answer)
    return True


def _forbid_unsafe_replay(error: Error, session: Session, upstream: ClientSession) -> None:
    """Let a dead reused connection be retried only where a second execution does no harm."""
    if (
        error.retry is RetryType.REUSED_ONLY
        and upstream.request_sent
        and session.req_header.raw_method not in _IDEMPOTENT
    ):
        error.set_retry(False)
