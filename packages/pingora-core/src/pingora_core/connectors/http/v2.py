"""Streams to HTTP/2 upstreams: on a connection that there is, or on one that is made.

Theory of operation. A new connection has room for many, so whoever finds none waits for one together
with all others who want the same: connections are made by tasks of their own, no more at a time
than those who wait will fill, as far as is known. A request that is cancelled leaves the others
their connection. What a peer turned out to speak, and how many streams it allows, is remembered,
so that requests to one that speaks HTTP/1.1 do not queue for each other.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, TypeAlias

from pingora_core.connectors.http._http2_pool import Http2Pool
from pingora_core.protocols.http.v2._client_connection import ClientConnection
from pingora_core.protocols.http.v2._client_stream import ClientStream
from pingora_core.protocols.http.v2.options import Http2Options, Http2Stats
from pingora_core.protocols.tls.alpn import ALPN
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from pingora_core.connectors.transport import TransportConnector
    from pingora_core.protocols.http.v2.options import EngineName
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.upstreams.options import PeerOptions
    from pingora_core.upstreams.peer import HttpPeer, ReuseKey

__all__ = ["Http2Connector"]

# Of how many peers it is remembered how many requests one new connection serves.
_MAX_REMEMBERED: Final = 1024
_STREAM_WINDOW: Final = 1 << 20
_CONNECTION_WINDOW: Final = 1 << 24
_LEAST_CONNECTION_WINDOW: Final = 65535
_MAX_FRAME_SIZE: Final = 1 << 16
# Pingora's (connectors/http/v2.rs).
_PING_TIMEOUT: Final = 5.0

_Outcome: TypeAlias = "ClientStream | Stream"
_Waiter: TypeAlias = "asyncio.Future[_Outcome]"


class _Pending:
    """Requests that wait for a connection to the same peer, for equally long.

    Attributes:
        peer: Of one of them.
        waiters: The requests, in the order in which they came.
        tasks: The connections being made.
    """

    __slots__ = ("peer", "tasks", "waiters")

    def __init__(self, peer: HttpPeer) -> None:
        self.peer = peer
        self.waiters: OrderedDict[_Waiter, None] = OrderedDict()
        self.tasks: set[asyncio.Task[None]] = set()

    def next_waiter(self) -> _Waiter | None:
        """Take the one who has waited longest.

        Returns:
            What it waits on; None if nobody does.
        """
        while self.waiters:
            waiter, _ = self.waiters.popitem(last=False)
            if not waiter.done():
                return waiter
        return None


_PendingKey: TypeAlias = "tuple[ReuseKey, float | None, float | None]"


class Http2Connector:
    """Makes connections that may speak HTTP/2, and shares them.

    Args:
        transport: Makes what is below them; not closed by this object.
        pool_size: Most connections without requests that are kept, at least 1.
        engine: The library that drives the frames.

    Attributes:
        pool: The connections.
        stats: What they have seen.
        ping_timeout: Seconds that an upstream may take to answer a PING.
    """

    def __init__(
        self, transport: TransportConnector, *, pool_size: int, engine: EngineName = "h2"
    ) -> None:
        self.pool: Http2Pool = Http2Pool(pool_size)
        self.stats: Http2Stats = Http2Stats()
        self.ping_timeout: float = _PING_TIMEOUT
        self._transport = transport
        self._engine: EngineName = engine
        self._pending: dict[_PendingKey, _Pending] = {}
        self._served_by_one: OrderedDict[ReuseKey, int] = OrderedDict()
        self._is_closed = False

    # ---------------------------------------------------------------- getting

    def reused_stream(self, peer: HttpPeer) -> ClientStream | None:
        """Open a stream on a connection that there is. HOT.

        Args:
            peer: Where to.

        Returns:
            The stream; None if there is no connection with room.
        """
        return self.pool.take(peer.reuse_key(), peer.options.idle_timeout)

    async def connect(self, peer: HttpPeer) -> _Outcome:
        """Wait for a connection, together with others who want the same.

        Args:
            peer: Where to.

        Returns:
            A stream of an HTTP/2 connection; or, if the peer has chosen HTTP/1.1, the bytes of a
            connection that is the caller's alone.

        Raises:
            Error: From upstream: as `TransportConnector.new_stream`, and ``HANDSHAKE_ERROR`` if
                the peer does not speak HTTP/2 although it should, or ``H2_ERROR`` if it allows
                no streams.
            CancelledError: If the caller was cancelled.
        """
        self._check_open()
        options = peer.options
        key = (peer.reuse_key(), options.connection_timeout, options.total_connection_timeout)
        pending = self._pending.get(key)
        if pending is None:
            pending = self._pending[key] = _Pending(peer)
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        pending.waiters[waiter] = None
        self._start_connecting(key, pending)
        try:
            return await waiter
        except asyncio.CancelledError:
            self._abandon(waiter, pending)
            raise

    def _check_open(self) -> None:
        if self._is_closed:
            raise Error(
                ErrorType.CONNECTION_CLOSED,
                "the connector is closed",
                source=ErrorSource.INTERNAL,
            )

    def _abandon(self, waiter: _Waiter, pending: _Pending) -> None:
        pending.waiters.pop(waiter, None)
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            # What it waited for came together with the cancellation.
            outcome = waiter.result()
            if isinstance(outcome, ClientStream):
                outcome.reset()
            else:
                outcome.close()
        if not pending.waiters:
            for task in pending.tasks:
                task.cancel()

    # ------------------------------------------------------------- connecting

    def _start_connecting(self, key: _PendingKey, pending: _Pending) -> None:
        """Make as many connections as those who wait will fill."""
        each = self._served_by_one.get(key[0], pending.peer.options.max_h2_streams)
        wanted = math.ceil(len(pending.waiters) / each) - len(pending.tasks)
        for _ in range(wanted):
            task = asyncio.create_task(self._connect(key, pending), name="h2 connect")
            pending.tasks.add(task)

    async def _connect(self, key: _PendingKey, pending: _Pending) -> None:
        # Makes one connection and hands it out; runs in a task of its own.
        task = asyncio.current_task()
        assert task is not None
        try:
            made = await self._establish(pending.peer)
        except asyncio.CancelledError:
            pending.tasks.discard(task)
            raise
        except Exception as error:  # noqa: BLE001 - a user's hook may raise anything
            pending.tasks.discard(task)
            self._failed(key, pending, error)
        else:
            pending.tasks.discard(task)
            self._succeeded(key, pending, made)
        finally:
            if pending.waiters:
                self._start_connecting(key, pending)
            elif not pending.tasks and self._pending.get(key) is pending:
                del self._pending[key]

    async def _establish(self, peer: HttpPeer) -> ClientConnection | Stream:
        options = peer.options
        loop = asyncio.get_running_loop()
        start = loop.time()
        stream = await self._transport.new_stream(peer)
        digest = stream.digest.ssl_digest
        if digest is None:
            is_http2 = options.alpn.min_http_version == 2
        else:
            is_http2 = digest.alpn == b"h2"
            if not is_http2 and options.alpn is ALPN.H2:
                stream.close()
                raise Error(
                    ErrorType.H2_ERROR,
                    f"{peer!r} has not agreed to HTTP/2 in the TLS handshake",
                    source=ErrorSource.UPSTREAM,
                )
        if not is_http2:
            return stream
        connection = ClientConnection(
            stream, self._options_for(options), max_streams=options.max_h2_streams
        )
        timeout = options.connection_timeout
        total = options.total_connection_timeout
        if total is not None:
            rest = max(0.0, start + total - loop.time())
            timeout = rest if timeout is None else min(rest, timeout)
        await connection.handshake(timeout)
        return connection

    def _options_for(self, options: PeerOptions) -> Http2Options:
        window = options.h2_stream_window_size or _STREAM_WINDOW
        connection_window = options.h2_connection_window_size
        if connection_window is None:
            # Enough for all of them, so that a stalled reader stalls only its own stream.
            connection_window = min(_CONNECTION_WINDOW, window * options.max_h2_streams)
            connection_window = max(connection_window, window)
        return Http2Options(
            engine=self._engine,
            stream_window=window,
            # What a connection begins with cannot be taken back (RFC 9113 section 6.9.2).
            connection_window=max(connection_window, _LEAST_CONNECTION_WINDOW),
            max_frame_size=_MAX_FRAME_SIZE,
            ping_interval=options.h2_ping_interval or None,
            ping_timeout=self.ping_timeout,
            stats=self.stats,
        )

    # ------------------------------------------------------------- handing out

    def _succeeded(
        self, key: _PendingKey, pending: _Pending, made: ClientConnection | Stream
    ) -> None:
        reuse_key = key[0]
        timeout = pending.peer.options.idle_timeout
        if not isinstance(made, ClientConnection):
            self._remember(reuse_key, 1)
            waiter = pending.next_waiter()
            if waiter is None:
                self._transport.release_stream(made, reuse_key, timeout)
            else:
                waiter.set_result(made)
            return
        if made.limit <= 0:
            made.close()
            msg = f"{pending.peer!r} allows no HTTP/2 streams"
            self._failed(key, pending, Error.up(ErrorType.H2_ERROR, msg))
            return
        self._remember(reuse_key, made.limit)
        while made.capacity > 0:
            waiter = pending.next_waiter()
            if waiter is None:
                break
            waiter.set_result(made.open_stream())
        self.pool.add(reuse_key, made, timeout)

    def _failed(self, key: _PendingKey, pending: _Pending, error: Exception) -> None:
        # Those fail for whom the connection was made; the others have theirs on its way.
        each = self._served_by_one.get(key[0], pending.peer.options.max_h2_streams)
        failing = max(1, len(pending.waiters) - each * len(pending.tasks))
        for _ in range(failing):
            waiter = pending.next_waiter()
            if waiter is None:
                return
            waiter.set_exception(_copy(error))

    def _remember(self, key: ReuseKey, served_by_one: int) -> None:
        remembered = self._served_by_one
        remembered[key] = served_by_one
        remembered.move_to_end(key)
        if len(remembered) > _MAX_REMEMBERED:
            remembered.popitem(last=False)

    def retire(self, peer: HttpPeer) -> None:
        """Begin nothing new on the connections to a peer that had better be spoken to in HTTP/1.1.

        Args:
            peer: The peer.
        """
        key = peer.reuse_key()
        self._remember(key, 1)
        self.pool.retire(key)

    # ----------------------------------------------------------------- ending

    async def close(self) -> None:
        """Close what idles, and the rest after its last request; whoever waits fails."""
        self._is_closed = True
        tasks: list[asyncio.Task[None]] = []
        for pending in list(self._pending.values()):
            tasks += pending.tasks
            while (waiter := pending.next_waiter()) is not None:
                waiter.set_exception(
                    Error.internal(ErrorType.CONNECTION_CLOSED, "the connector is closed")
                )
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for connection in self.pool.drain():
            await connection.stream.wait_closed()


def _copy(error: Exception) -> Exception:
    # One for each who is told of it: they change what they raise.
    if not isinstance(error, Error):
        return error
    return Error(
        error.etype, error.context, source=error.esource, cause=error.cause, retry=error.retry
    )
