"""`HttpProxy`: runs the phases of a `ProxyHttp` for each request, with retries and failure paths.

Theory of operation: ``process_new_http`` reads the head and then always comes to the same end:
an error, if there was one, is answered by ``fail_to_proxy`` and logged; ``logging`` is told;
the connection is kept or closed. In between, ``_run_phases`` walks the phase chart and
``_proxy_with_retries`` makes attempts until one succeeds or none is allowed.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Generic

from pingora_cache.reason import NoCacheReason
from pingora_core.apps.http_app import HttpServerApp
from pingora_core.connectors.http.connector import Connector
from pingora_core.modules.chain import HttpModules
from pingora_core.protocols.http.subrequest import SubrequestSession
from pingora_core.upstreams.peer import HttpPeer
from pingora_error import Error, HTTPStatus
from pingora_proxy._attempt import connect, judge
from pingora_proxy._cache_exchange import exchange_for
from pingora_proxy._cache_lookup import CacheLookup
from pingora_proxy._endings import (
    answer_without_context,
    finish,
    finish_now,
    log_error,
    plain_page,
    refuse,
    tell_logging,
)
from pingora_proxy._exchange import Exchange
from pingora_proxy._hedging import HedgedAttempt, can_be_hedged
from pingora_proxy._misuse import check_peer, tell_of_silence
from pingora_proxy._overrides import Overrides
from pingora_proxy._stored_responses import StoredResponses
from pingora_proxy._user_errors import as_error
from pingora_proxy.hooks import CTX
from pingora_proxy.observe import Observers
from pingora_proxy.session import ServiceParts, Session
from pingora_proxy.subrequest import SubrequestSpawner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pingora_cache.cache import HttpCache
    from pingora_core.apps.http_app import HttpServerOptions
    from pingora_core.apps.load_shedding import LoadShedder, RequestPermit
    from pingora_core.protocols.http.client import ClientSession
    from pingora_core.protocols.http.server import ServerSession
    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_http import ResponseHeader
    from pingora_proxy.hooks import ProxyHttp
    from pingora_proxy.observe import AttemptRecord, ProxyObserver
    from pingora_proxy.outcome import HedgePlan
    from pingora_proxy.subrequest import SubrequestCtx

__all__ = ["HttpProxy"]

_logger = logging.getLogger(__name__)


class HttpProxy(HttpServerApp, Generic[CTX]):
    """The application behind a proxy service.

    Args:
        app: The user's object.
        connector: Where upstream connections come from; closed when the service ends.
        server_options: How the service speaks HTTP to its clients.
        max_retries: Attempts per request at most (Pingora's ``max_retries``).
        retry_buffer_size: Bytes of a request body that are kept for a replay.
        load_shedder: Refuses requests that are too many; None lets all of them in.
        new_cache: Makes the cache of a request, for clocks of your own; None for the usual ones.
        observers: Are told what happens to requests: metrics, access logs, traces.

    Attributes:
        app: The user's object.
        connector: Where upstream connections come from.
        downstream_modules: The modules that see requests and responses of clients.
        observers: Who is told what happens to requests; None if nobody is.
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
        new_cache: Callable[[], HttpCache] | None = None,
        observers: Sequence[ProxyObserver] = (),
    ) -> None:
        self.app: ProxyHttp[CTX] = app
        self.observers: Observers | None = Observers(observers) if observers else None
        self._new_session = Session if self.observers is None else self.observers.new_session
        self.load_shedder = load_shedder
        self.connector: Connector = connector or Connector()
        if server_options is not None:
            self.server_options = server_options
        self.max_retries: int = max_retries
        self.retry_buffer_size: int = retry_buffer_size
        self.downstream_modules: HttpModules = HttpModules()
        app.init_downstream_modules(self.downstream_modules)
        self.upstream_modules: HttpModules = HttpModules()
        app.init_upstream_modules(self.upstream_modules)
        self._parts = ServiceParts(self.downstream_modules, self.upstream_modules, new_cache)
        self._subrequests = SubrequestSpawner(self.process_new_http)
        self._overrides = Overrides(app)
        persists = self._overrides.persist_connection_context
        self._persist = app.persist_connection_context if persists else None
        self._stored = StoredResponses(app, self._overrides)
        self._cache = CacheLookup(app, self._overrides, self._stored, self._subrequests)
        # What is awaited before the upstream is chosen, if neither modules nor CONNECT are in play:
        # nothing, the cache's part alone, or all of it. Each coroutine costs 0.1 us (2026-11).
        self._usually_before = self._before_upstream if self._overrides.acts_before_cache else None
        if self._usually_before is None and self._overrides.request_cache_filter:
            self._usually_before = self._cache.answers
        self._is_prepared = self._overrides.response_filter or self.observers is not None

    async def startup(self) -> None:
        """Have observers and the user's object get ready; the service calls this before it listens."""
        if self.observers is not None:
            await self.observers.startup()
        await self.app.startup()

    async def cleanup(self) -> None:
        """End subrequests, idle upstream connections and observers; the service calls this at last."""
        try:
            await self._subrequests.close()
            await self.connector.close()
            await self.app.cleanup()
        finally:
            if self.observers is not None:
                await self.observers.cleanup()

    # ------------------------------------------------------------ one request

    async def process_new_http(  # noqa: C901, PLR0912 - in one piece: each call would cost every request
        self,
        session: ServerSession,
        shutdown: ShutdownWatch,
        subrequest: SubrequestCtx | None = None,
    ) -> bool:
        """Serve one request through the callbacks.

        Args:
            session: The client's side, nothing read yet.
            shutdown: Tells when the server stops.
            subrequest: What a subrequest was given along.

        Returns:
            Whether the connection can carry another request.
        """
        error: Error | None = None
        permit: RequestPermit | None = None
        own: Session | None = None
        try:
            if not await session.read_request():
                return False
        except Error as bad_request:
            error = bad_request
        shedder = self.load_shedder
        if shedder is not None and error is None and not isinstance(session, SubrequestSession):
            permit = shedder.admit(session.request)
            if permit is None:
                refused = partial(self._new_session, session, self._parts, shutdown)
                return await refuse(shedder, session, self.observers, refused)
        try:
            own = self._new_session(session, self._parts, shutdown, permit)
            own.subrequest_ctx = subrequest
            try:
                ctx = self.app.new_ctx()
            except Exception as failure:  # noqa: BLE001 - it may raise anything
                error = as_error(failure, "new_ctx")
                if self.observers is not None:
                    self.observers.request_started(own)
                return await answer_without_context(own, error)
            if self._is_prepared:
                if self.observers is not None:
                    self.observers.request_started(own)
                if self._overrides.response_filter:
                    self._filter_pages(own, ctx)
            if error is None:
                try:
                    before = (
                        self._usually_before
                        if own.active_modules is None and session.request.raw_method != b"CONNECT"
                        else self._before_upstream
                    )
                    if before is None or not await before(own, ctx):
                        await self._proxy_with_retries(own, ctx)
                except Error as failure:
                    error = failure
                except Exception as failure:  # noqa: BLE001 - a callback may raise anything
                    error = as_error(failure, own.phase)
            alive = error is None or await self._fail(own, error, ctx)
            if self._overrides.logging:
                await tell_logging(self.app, own, error, ctx)
            reusable = alive and finish_now(own, ctx, self._persist)
            return await finish(own, ctx, self._persist) if reusable is None else reusable
        finally:
            if own is not None:
                if permit is not None:
                    permit.release(own.response_written)
                if own.record is not None and self.observers is not None:
                    self.observers.request_ended(own, own.record, error)
                if own.active_cache is not None:
                    own.active_cache.close()

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
        if modules is not None:
            session.phase = "modules' request_header_filter"
            if await session.is_answered_by(modules):
                return True
        if overrides.request_filter:
            session.phase = "request_filter"
            if await app.request_filter(session, ctx):
                if downstream.response_written is None:
                    tell_of_silence(app)
                return True
        if overrides.request_cache_filter and await self._cache.answers(session, ctx):
            return True
        return overrides.proxy_upstream_filter and await self._declines(session, ctx)

    async def _declines(self, session: Session, ctx: CTX) -> bool:
        # Whether the application keeps the request from the upstreams; it is answered then.
        session.phase = "proxy_upstream_filter"
        if await self.app.proxy_upstream_filter(session, ctx):
            return False
        if session.active_cache is not None:
            session.active_cache.disable(NoCacheReason.DECLINED_TO_UPSTREAM)
        if session.response_written is None:
            await session.respond_error(502)
        return True

    # --------------------------------------------------------------- attempts

    async def _proxy_with_retries(self, session: Session, ctx: CTX) -> None:
        downstream = session.downstream_session
        if not downstream.is_body_empty:
            downstream.enable_retry_buffering(self.retry_buffer_size)
        app = self.app
        may_hedge = self._overrides.hedge_request and can_be_hedged(downstream)
        tries = 0
        while True:
            session.phase = "upstream_peer"
            peer = await app.upstream_peer(session, ctx)
            if type(peer) is not HttpPeer:
                check_peer(app, peer)
            tries += 1
            try:
                plan = app.hedge_request(session, peer, ctx) if may_hedge else None
                if plan is not None:
                    await self._hedged_attempt(session, peer, ctx, plan)
                elif self.observers is None:
                    await self._attempt(session, peer, ctx)
                else:
                    # Here, and not in a coroutine around: each step of the attempt would pay.
                    record = self.observers.attempt_started(session, peer)
                    failure: Error | None = None
                    try:
                        await self._attempt(session, peer, ctx, record)
                    except Exception as error:
                        failure = as_error(error, session.phase)
                        raise
                    finally:
                        self.observers.attempt_ended(session, record, failure)
                return
            except Error as error:
                if (
                    not error.should_retry
                    or tries >= self.max_retries
                    or downstream.response_written is not None
                    or (downstream.body_bytes_read > 0 and downstream.retry_buffer_truncated)
                ):
                    if await self._stored.serves_instead(session, ctx, error):
                        return
                    raise
                if not app.suppress_error_log(session, ctx, error):
                    _logger.warning(
                        "Fail to proxy: %s, tries: %d, retry: true, %s",
                        error,
                        tries,
                        app.request_summary(session, ctx),
                    )

    async def _attempt(
        self, session: Session, peer: HttpPeer, ctx: CTX, record: AttemptRecord | None = None
    ) -> None:
        connector = self.connector  # a reload may put another one in its place meanwhile
        upgrade = session.downstream_session.is_upgrade_request
        upstream: ClientSession | None = connector.reused_http_session(peer, upgrade=upgrade)
        reused = upstream is not None
        if upstream is None:
            upstream = await connect(self.app, connector, session, peer=peer, ctx=ctx)
        session.upstream_session = upstream
        if record is not None:
            record.connected = record.started if reused else time.monotonic()
            record.reused = reused
            record.upstream = upstream
        try:
            if self._overrides.connected_to_upstream:
                session.phase = "connected_to_upstream"
                await self.app.connected_to_upstream(session, reused, peer, upstream.digest, ctx)
            kind = Exchange if session.active_cache is None else exchange_for(session)
            exchange = kind(self.app, self._overrides, session, upstream, peer, ctx)
            exchange.record = record
            if record is not None and self.observers is not None and self.observers.sees_requests:
                exchange.show_request = partial(self.observers.upstream_request, session, record)
            await exchange.run()
        except Exception as error:  # noqa: BLE001 - a callback may raise anything
            judged = await judge(
                self.app, session, upstream, error, peer=peer, ctx=ctx, reused=reused
            )
            raise judged from judged.cause
        finally:
            connector.release_http_session(upstream, peer)

    async def _hedged_attempt(
        self, session: Session, peer: HttpPeer, ctx: CTX, plan: HedgePlan
    ) -> None:
        parts = self.app, self._overrides, self.connector
        observers = self.observers
        await HedgedAttempt(
            *parts, session, peer=peer, ctx=ctx, plan=plan, observers=observers
        ).run()

    # ------------------------------------------------------------- the ending

    async def _fail(self, session: Session, error: Error, ctx: CTX) -> bool:
        # Answers and logs an error; says whether the response to it can be finished.
        downstream = session.downstream_session
        phase = session.phase
        truncated = downstream.response_written is not None
        session.phase = "fail_to_proxy"
        if session.record is not None:
            session.record.failed_in = phase
        try:
            outcome = await self.app.fail_to_proxy(session, error, ctx)
        except Exception as second:
            _logger.error("fail_to_proxy failed: %s", second, exc_info=second)
            session.set_page_filter(None)
            outcome = await plain_page(session, error)
        if not self.app.suppress_error_log(session, ctx, error):
            log_error(
                error,
                outcome.error_code,
                phase=phase,
                summary=lambda: self.app.request_summary(session, ctx),
            )
        if outcome.response_completed:
            truncated = False
        if truncated or outcome.error_code == 0 or downstream.response_written is None:
            downstream.shutdown()
            return False
        if session.has_upstream or not outcome.can_reuse_downstream:
            downstream.set_keepalive(None)
        return True

    # ---------------------------------------------------------------- helpers

    def _filter_pages(self, session: Session, ctx: CTX) -> None:
        async def filter_page(header: ResponseHeader) -> None:
            await self.app.response_filter(session, header, ctx)

        session.set_page_filter(filter_page)
