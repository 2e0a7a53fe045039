"""One connection on its way through the phases of a `StreamProxy`."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

from pingora_core.apps.stream_proxy._tunnel import Tunnel
from pingora_core.apps.stream_proxy.hooks import CTX, StreamProxy
from pingora_core.apps.stream_proxy.session import StreamEnding
from pingora_core.protocols.tls.hello_reader import read_client_hello
from pingora_core.runtime import timers
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    from pingora_core.apps.stream_proxy._tunnel import DataFilter
    from pingora_core.apps.stream_proxy.options import StreamProxyOptions
    from pingora_core.apps.stream_proxy.session import StreamSession
    from pingora_core.connectors.transport import TransportConnector
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.upstreams.peer import Peer

    Callback: TypeAlias = Callable[
        [StreamSession, bytes | None, bool, CTX], Awaitable[bytes | None]
    ]

__all__ = ["Connection", "Overrides", "Setup"]

_logger = logging.getLogger(__name__)


class Overrides:
    """One flag for each optional callback; the names are the callbacks'.

    Args:
        app: The user's object.
    """

    _NAMES = (
        "client_hello_filter",
        "connected_to_upstream",
        "connection_filter",
        "downstream_data_filter",
        "fail_to_connect",
        "logging",
        "upstream_data_filter",
    )

    __slots__ = _NAMES

    client_hello_filter: bool
    connected_to_upstream: bool
    connection_filter: bool
    downstream_data_filter: bool
    fail_to_connect: bool
    logging: bool
    upstream_data_filter: bool

    def __init__(self, app: object) -> None:
        for name in self._NAMES:
            mine: object = getattr(app, name)
            default: object = getattr(StreamProxy, name)
            setattr(self, name, getattr(mine, "__func__", mine) is not default)


@dataclass(frozen=True, slots=True, eq=False)
class Setup(Generic[CTX]):
    """What all connections of a service have in common.

    Attributes:
        app: The user's object.
        overrides: Which of its callbacks are called.
        connector: Makes the connections to upstreams.
        options: The limits.
        max_retries: Attempts to connect that are made at most for one connection.
    """

    app: StreamProxy[CTX]
    overrides: Overrides
    connector: TransportConnector
    options: StreamProxyOptions
    max_retries: int


class Connection(Generic[CTX]):
    """One connection, from the first filter to the end of both directions.

    Args:
        setup: What it has in common with the others.
        session: What the callbacks see.
        ctx: Its context.
    """

    __slots__ = ("_ctx", "_session", "_setup", "_tunnel")

    def __init__(self, setup: Setup[CTX], session: StreamSession, ctx: CTX) -> None:
        self._setup = setup
        self._session = session
        self._ctx = ctx
        self._tunnel: Tunnel | None = None

    @property
    def error(self) -> Error | None:
        """Why forwarding has failed; None if it has not."""
        return None if self._tunnel is None else self._tunnel.error

    def end_in_order(self) -> None:
        """End it in order, because the server stops."""
        if self._tunnel is not None:
            self._tunnel.end_in_order(StreamEnding.SHUTDOWN)
            return
        # Nothing was forwarded yet. What the client is waited for ends at once; what else runs
        # has a deadline.
        self._session.ending = StreamEnding.SHUTDOWN
        msg = "the server stops"
        self._session.downstream.fail(Error.internal(ErrorType.CONNECTION_CLOSED, msg))

    async def run(self) -> Error | None:
        """Go through the phases.

        Returns:
            Why forwarding has failed; None if it has not.

        Raises:
            Error: Why it has not come to that.
        """
        session = self._session
        try:
            if not await self._is_welcome():
                session.ending = session.ending or StreamEnding.REFUSED
                # An alert must not be destroyed by the reset that unread bytes would cause.
                session.downstream.close(discard_input=True)
                return None
            upstream = session.upstream = await self._connect()
        except Error:
            if session.ending is not StreamEnding.SHUTDOWN:
                raise
            session.downstream.close(discard_input=True)
            return None
        try:
            tunnel = self._tunnel = await self._make_tunnel(upstream)
            if tunnel is None:
                upstream.close()
                session.downstream.close(discard_input=True)
            else:
                await tunnel.run()
            await upstream.wait_closed()
        finally:
            # Nothing happens if it is gone already.
            upstream.abort()
        return self.error

    async def _is_welcome(self) -> bool:
        setup, session = self._setup, self._session
        overrides = setup.overrides
        if overrides.connection_filter:
            session.phase = "connection_filter"
            if not await setup.app.connection_filter(session, self._ctx):
                return False
        if overrides.client_hello_filter:
            session.phase = "reading the ClientHello"
            hello = session.client_hello = await read_client_hello(
                session.downstream,
                timeout=setup.options.hello_timeout,
                max_size=setup.options.max_hello_size,
            )
            session.phase = "client_hello_filter"
            return await setup.app.client_hello_filter(session, hello, self._ctx)
        return True

    # ---------------------------------------------------------------- attempts

    async def _connect(self) -> Stream:
        setup, session = self._setup, self._session
        while True:
            session.phase = "upstream_peer"
            peer = session.peer = await setup.app.upstream_peer(session, self._ctx)
            session.attempts += 1
            try:
                return await self._attempt(peer)
            except Error as error:
                if (
                    not error.should_retry
                    or session.attempts >= setup.max_retries
                    or session.downstream.is_closed
                    or session.ending is not None
                ):
                    raise
                if not setup.app.suppress_error_log(session, self._ctx, error):
                    _logger.warning("cannot connect: %s, attempt %d", error, session.attempts)

    async def _attempt(self, peer: Peer) -> Stream:
        setup, session = self._setup, self._session
        session.phase = "connect"
        started = time.monotonic()
        try:
            stream = await self._new_stream(peer)
        except Error as error:
            if not setup.overrides.fail_to_connect:
                raise
            session.phase = "fail_to_connect"
            judged = await setup.app.fail_to_connect(session, peer, self._ctx, error)
            session.phase = "connect"
            raise judged from judged.cause
        session.connect_time = time.monotonic() - started
        return stream

    async def _new_stream(self, peer: Peer) -> Stream:
        limit = self._setup.options.connect_timeout
        try:
            return await timers.timeout(limit, self._setup.connector.new_stream(peer))
        except TimeoutError as error:
            msg = f"{peer!r} not reached within {limit} s"
            raise Error.up(ErrorType.CONNECT_TIMEDOUT, msg, cause=error) from error

    # -------------------------------------------------------------- forwarding

    async def _make_tunnel(self, upstream: Stream) -> Tunnel | None:
        # None: the server has begun to end its connections.
        setup, session = self._setup, self._session
        app, overrides = setup.app, setup.overrides
        if overrides.connected_to_upstream:
            session.phase = "connected_to_upstream"
            assert session.peer is not None
            await app.connected_to_upstream(session, session.peer, upstream.digest, self._ctx)
        if session.ending is not None:
            return None
        session.phase = "forwarding"
        upload = (
            self._bind(app.downstream_data_filter) if overrides.downstream_data_filter else None
        )
        download = self._bind(app.upstream_data_filter) if overrides.upstream_data_filter else None
        return Tunnel(session, upstream, setup.options, (upload, download))

    def _bind(self, callback: Callback[CTX]) -> DataFilter:
        session, ctx = self._session, self._ctx

        async def data_filter(data: bytes | None, is_over: bool) -> bytes | None:  # noqa: FBT001
            try:
                return await callback(session, data, is_over, ctx)
            except Error:
                raise
            except Exception as error:
                msg = f"{type(error).__name__} in {callback.__name__}"
                raise Error.internal(ErrorType.INTERNAL_ERROR, msg, cause=error) from error

        return data_filter
