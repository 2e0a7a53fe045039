"""An attempt in steps: connection, head, response; one of the two of a hedged attempt."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic

from pingora_proxy._attempt import connect, judge
from pingora_proxy._cache_exchange import exchange_for
from pingora_proxy._exchange import Exchange
from pingora_proxy._user_errors import as_error
from pingora_proxy.hooks import CTX

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.connectors.http.connector import Connector
    from pingora_core.protocols.http.client import ClientSession
    from pingora_core.protocols.http.task import HeaderTask
    from pingora_core.upstreams.peer import HttpPeer
    from pingora_error import Error
    from pingora_proxy._overrides import Overrides
    from pingora_proxy.hooks import ProxyHttp
    from pingora_proxy.observe import Observers
    from pingora_proxy.request_record import AttemptRecord
    from pingora_proxy.session import Session

__all__ = ["Try", "TryContext"]


@dataclass(frozen=True, slots=True)
class TryContext(Generic[CTX]):
    """What the tries of one request share.

    Attributes:
        app: The user's object.
        overrides: Which callbacks it overrides.
        connector: Where the upstream's sides come from.
        session: The request.
        ctx: The user's context.
        observers: Who is told of the tries; None if nobody is.
        watch_client: Has all given up when the client goes away; None for what an exchange does.
    """

    app: ProxyHttp[CTX]
    overrides: Overrides
    connector: Connector
    session: Session
    ctx: CTX
    observers: Observers | None
    watch_client: Callable[[], None] | None = None


class Try(Generic[CTX]):
    """A try: its connection, its exchange, and what has come of it.

    Args:
        shared: What it shares with the other one.
        peer: Where it goes.
        holds_back: Whether informational heads are relayed only when it has won.

    Attributes:
        peer: As given.
        upstream: The upstream's side; None as long as there is none, and after the end.
        head: The final head, once it is there.
        error: What it has failed with, as the callbacks have judged it.
        is_good: Whether the head will do; known only where there were two tries.
    """

    __slots__ = (
        "_exchange",
        "_holds_back",
        "_is_reused",
        "_record",
        "_shared",
        "error",
        "head",
        "is_good",
        "peer",
        "upstream",
    )

    def __init__(
        self, shared: TryContext[CTX], peer: HttpPeer, *, holds_back: bool = False
    ) -> None:
        self._shared = shared
        self.peer = peer
        self.upstream: ClientSession | None = None
        self.head: HeaderTask | None = None
        self.error: Error | None = None
        self.is_good = False
        self._holds_back = holds_back
        self._is_reused = False
        self._exchange: Exchange[CTX] | None = None
        self._record: AttemptRecord | None = None

    def hold_back(self) -> None:
        """Relay no informational head from now on until it has won."""
        self._holds_back = True
        if self._exchange is not None:
            self._exchange.hold_back()

    async def reach_head(self) -> None:
        """Connect, send the request and wait: for the head, or the error that counts."""
        try:
            self.head = await self._reach_head()
        except Exception as error:  # noqa: BLE001 - a callback may raise anything
            self.error = as_error(error, self._shared.session.phase)

    async def _reach_head(self) -> HeaderTask:
        shared = self._shared
        app, session, peer, ctx = shared.app, shared.session, self.peer, shared.ctx
        observers = shared.observers
        record = None
        if observers is not None:
            record = self._record = observers.attempt_started(session, peer)
        upstream = shared.connector.reused_http_session(peer)
        self._is_reused = upstream is not None
        if upstream is None:
            upstream = await connect(app, shared.connector, session, peer=peer, ctx=ctx)
        self.upstream = upstream
        session.upstream_session = upstream
        if record is not None:
            record.connected = time.monotonic()
            record.reused = self._is_reused
            record.upstream = upstream
        try:
            if shared.overrides.connected_to_upstream:
                session.phase = "connected_to_upstream"
                digest = upstream.digest
                await app.connected_to_upstream(session, self._is_reused, peer, digest, ctx)
            kind = Exchange if session.active_cache is None else exchange_for(session)
            self._exchange = exchange = kind(app, shared.overrides, session, upstream, peer, ctx)
            exchange.watcher = shared.watch_client
            if self._holds_back:
                exchange.hold_back()
            if observers is not None and record is not None:
                exchange.show_request = partial(observers.upstream_request, session, record)
            head = await exchange.send_and_await_head()
            if record is not None:
                record.head = time.monotonic()
                record.status = head.header.status
            return head
        except Exception as error:  # noqa: BLE001 - a callback may raise anything
            judged = await self._judge(error, upstream)
            raise judged from judged.cause

    async def relay(self, head: HeaderTask) -> None:
        """Relay the response to its end.

        Args:
            head: Its head; the filters see it now.

        Raises:
            Error: From upstream, downstream or a callback; a response head may have been sent.
        """
        upstream = self.upstream
        assert self._exchange is not None
        assert upstream is not None
        try:
            await self._exchange.relay(head)
        except Exception as error:  # noqa: BLE001 - a callback may raise anything
            judged = self.error = await self._judge(error, upstream)
            raise judged from judged.cause

    async def _judge(self, error: Exception, upstream: ClientSession) -> Error:
        shared = self._shared
        return await judge(
            shared.app,
            shared.session,
            upstream,
            error,
            peer=self.peer,
            ctx=shared.ctx,
            reused=self._is_reused,
        )

    async def end(self) -> None:
        """Give the connection back; what was not read to its end is closed, or reset."""
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            self._shared.connector.release_http_session(upstream, self.peer)
        if self._exchange is not None:
            await self._exchange.abandon()
        record, self._record = self._record, None
        observers = self._shared.observers
        if record is not None and observers is not None:
            observers.attempt_ended(self._shared.session, record, self.error)
