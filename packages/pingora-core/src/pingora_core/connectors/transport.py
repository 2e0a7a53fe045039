"""Connections to peers: made when needed, kept while idle, found again.

Theory of operation. An idle connection costs no task. It sits in the pool together with a watcher,
which the stream calls when anything at all arrives: an end or a loss takes the connection out, and so
does data, because a peer has nothing to say before it is asked (over TLS, session tickets do
not count: the TLS stream keeps them to itself). So whatever `reused_stream` finds was alive when the
event loop last looked. The deadline of the watcher ends what idles for too long.

Watchers are kept per file descriptor and used again for the next connection that has it, because a
`Deadline` is cheap to set only if it lives on.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from pingora_core.connectors import l4
from pingora_core.connectors.connect_proxy import connect_through, make_connect_request
from pingora_core.connectors.dns import CachingResolver
from pingora_core.connectors.lookup import DnsLookup
from pingora_core.connectors.options import ConnectorOptions
from pingora_core.connectors.tls import TlsConnector
from pingora_core.protocols.address import HostAddress
from pingora_core.protocols.proxy_protocol import encode_proxy_header
from pingora_core.protocols.tls.alpn import ALPN
from pingora_core.runtime.timers import Deadline, get_timers
from pingora_error import Error, ErrorSource, ErrorType
from pingora_pool import ConnectionMeta, ConnectionPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.connectors.dns import Resolver
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.protocols.tls.alpn import AlpnOffer
    from pingora_core.upstreams.peer import Peer, PeerAddress, ReuseKey

__all__ = ["ConnectorOptions", "TransportConnector"]

_logger = logging.getLogger(__name__)

# How many peers that do not speak HTTP/2 well are remembered, and for how long (seconds): they
# may be upgraded one day.
_MAX_PREFER_H1: Final = 1024
_PREFER_H1_TIME: Final = 600.0


class _Watcher:
    """Watches one idle connection."""

    __slots__ = (
        "_connector",
        "address",
        "deadline",
        "leads_to",
        "meta",
        "on_data",
        "on_disconnect",
        "stream",
    )

    def __init__(self, connector: TransportConnector) -> None:
        self._connector = connector
        self.stream: Stream | None = None
        # Of the last peer that a stream of this number was found to lead to, and that one's key.
        self.address: PeerAddress | None = None
        self.leads_to: ReuseKey | None = None
        self.meta: ConnectionMeta[ReuseKey] | None = None
        self.deadline: Deadline = Deadline(get_timers(), self._ended)
        # Bound once; binding a method for each release costs more than the call.
        self.on_data: Callable[[], None] = self._data
        self.on_disconnect: Callable[[], None] = self._ended

    def _data(self) -> None:
        self._connector.unexpected_data(self)

    def _ended(self) -> None:
        # While the connection is used, its deadline and callback stay and come to nothing: taking
        # them away would cost two calls per request (2026-11).
        if self.stream is not None:
            self._connector.discard(self)

    def release(self) -> Stream:
        """Stop watching.

        Returns:
            The stream that was watched.
        """
        stream = self.stream
        assert stream is not None
        self.stream = None
        stream.on_data = None
        return stream


class TransportConnector:
    """Makes connections to peers, over TCP or Unix sockets, proxies and TLS, and pools them.

    Making one reads the certificate files that the options name. It is used from one event loop.

    Args:
        options: What all connections have in common; None for the defaults.
        resolver: Turns host names into addresses; None for DNS with a cache. It is closed with
            this object.

    Raises:
        Error: ``FILE_READ_ERROR`` or ``TLS_CONFIG_ERROR`` if a file cannot be used.

    Attributes:
        unexpected_data_connection_count: Connections closed because their peer has sent data
            while they were idle.
        connected_count: Connections made.
        reused_count: Connections found in the pool.

    Source: pingora-core/src/connectors/mod.rs.
    """

    def __init__(
        self, options: ConnectorOptions | None = None, *, resolver: Resolver | None = None
    ) -> None:
        self._options = ConnectorOptions() if options is None else options
        self._resolver: Resolver = CachingResolver(DnsLookup()) if resolver is None else resolver
        self._tls = TlsConnector(self._options)
        self._pool: ConnectionPool[ReuseKey, _Watcher] = ConnectionPool(
            self._options.keepalive_pool_size
        )
        self._watchers: dict[int, _Watcher] = {}
        self._anonymous_ids = itertools.count(-2, -1)
        self._prefer_h1: OrderedDict[ReuseKey, float] = OrderedDict()
        self._is_closed = False
        self._is_retired = False
        self.unexpected_data_connection_count: int = 0
        self.connected_count: int = 0
        self.reused_count: int = 0

    # ---------------------------------------------------------------- getting

    async def get_stream(self, peer: Peer) -> tuple[Stream, bool]:
        """Take a connection from the pool, or make one.

        Args:
            peer: Where to.

        Returns:
            The stream, and whether its connection was used before.

        Raises:
            Error: As `new_stream` does.
        """
        stream = self.reused_stream(peer)
        if stream is not None:
            return stream, True
        return await self.new_stream(peer), False

    def reused_stream(self, peer: Peer) -> Stream | None:
        """Take an idle connection out of the pool. HOT.

        Args:
            peer: Where to.

        Returns:
            A connection that is alive as far as is known; None if there is none.

        Raises:
            ValueError: If an option of the peer is out of its range.
        """
        key = peer.reuse_key()
        while True:
            watcher = self._pool.get(key)
            if watcher is None:
                return None
            stream = watcher.release()
            if stream.at_eof or stream.buffered:
                # Only a stream of the user's own making ends without a call to the watcher.
                stream.close()
            elif watcher.leads_to is key:
                # The same object as at the last time was checked at the last time.
                self.reused_count += 1
                return stream
            elif watcher.address is (address := peer.address) or _leads_to(stream, peer):
                watcher.leads_to = key
                watcher.address = address
                self.reused_count += 1
                return stream
            else:
                _logger.error("a pooled connection does not lead to %r; it is closed", peer)
                stream.close()

    async def new_stream(self, peer: Peer, *, alpn: AlpnOffer | None = None) -> Stream:
        """Make a connection.

        Args:
            peer: Where to.
            alpn: What to offer in the TLS handshake instead of what the peer's options say.

        Returns:
            The stream, through the proxy and with TLS as the peer says.

        Raises:
            Error: From upstream, why there is none: ``CONNECT_*``, ``INVALID_CERT``,
                ``TLS_HANDSHAKE_FAILURE``. From this process: ``INTERNAL_ERROR`` if no socket
                could be made as asked for, ``TLS_CONFIG_ERROR``, ``CONNECTION_CLOSED`` after
                `close`.
            ValueError: If an option of the peer is out of its range.
        """
        if self._is_closed:
            msg = "the connector is closed"
            raise Error(ErrorType.CONNECTION_CLOSED, msg, source=ErrorSource.INTERNAL)
        # From here on the options that decide about reuse stay what they are.
        key = peer.reuse_key()
        total = peer.options.total_connection_timeout
        try:
            async with asyncio.timeout(total):
                stream = await self._establish(peer, alpn or self._offer(peer, key))
        except TimeoutError as error:
            raise Error(
                ErrorType.CONNECT_TIMEDOUT,
                f"{peer!r} not reached within {total} s in total",
                source=ErrorSource.UPSTREAM,
            ) from error
        self.connected_count += 1
        return stream

    async def _establish(self, peer: Peer, alpn: AlpnOffer) -> Stream:
        proxy = peer.proxy
        # What can be found wrong without the network is found before it is used.
        request = None if proxy is None else make_connect_request(peer, proxy)
        header = peer.options.send_proxy_protocol
        announcement = None if header is None else encode_proxy_header(header)
        tls = self._tls.prepare(peer, alpn=alpn) if peer.is_tls else None
        stream = await l4.connect(
            peer.address if proxy is None else proxy.next_hop,
            peer.options,
            resolver=self._resolver,
            choose_bind=self._options.choose_bind,
        )
        try:
            if request is not None:
                await connect_through(stream, peer, request)
            if announcement is not None:
                # Behind CONNECT: it is the peer, not the proxy, who is told.
                stream.write(announcement)
            if tls is not None:
                return await self._tls.handshake(stream, peer, tls)
        except Error:
            # Not aborted: an alert that tells the peer why may be on its way.
            stream.close()
            raise
        except BaseException:
            stream.abort()
            raise
        return stream

    # -------------------------------------------------------------- giving back

    def release_stream(
        self, stream: Stream, key: ReuseKey, idle_timeout: float | None = None
    ) -> None:
        """Give a connection back, to be kept for the next request. HOT.

        What cannot be reused is closed: it has ended, or bytes lie unread.

        Args:
            stream: As it came from this connector, with nothing of a message left on it.
            key: Reuse key of the peer it was got for.
            idle_timeout: How long to keep it, seconds; None for as long as there is room, 0 to
                close it.

        Raises:
            ValueError: If it was given back already.
        """
        if stream.buffered:
            self.unexpected_data_connection_count += 1
            stream.close()
            return
        if idle_timeout == 0 or self._is_retired or stream.at_eof or stream.is_closed:
            stream.close()
            return
        number = stream.id
        watcher = self._watchers.get(number)
        if watcher is None:
            watcher = _Watcher(self)
            if number >= 0:
                self._watchers[number] = watcher
            else:
                number = next(self._anonymous_ids)
        meta = watcher.meta
        if meta is None or meta.key is not key:
            meta = watcher.meta = ConnectionMeta(key, number)
        evicted = self._pool.put(meta, watcher)
        watcher.stream = stream
        if idle_timeout is not None:
            watcher.deadline.set(idle_timeout)
        else:
            watcher.deadline.clear()
        stream.on_data = watcher.on_data
        stream.set_on_disconnect(watcher.on_disconnect)
        if evicted is not None:
            evicted.release().close()

    def discard(self, watcher: _Watcher) -> None:
        """Close an idle connection that has ended or idled for too long; its watcher calls this.

        Args:
            watcher: Of the connection.
        """
        assert watcher.meta is not None
        self._pool.pop_closed(watcher.meta)
        watcher.release().close()

    def unexpected_data(self, watcher: _Watcher) -> None:
        """Close an idle connection on which data has arrived; its watcher calls this.

        Args:
            watcher: Of the connection.
        """
        self.unexpected_data_connection_count += 1
        _logger.info("unexpected data on an idle connection: %r", watcher.meta)
        self.discard(watcher)

    # -------------------------------------------------------------------- h1

    def prefer_h1(self, peer: Peer) -> None:
        """Offer only HTTP/1.1 to a peer from now on, for a while.

        Args:
            peer: The peer, which has turned out not to speak HTTP/2 well.
        """
        key = peer.reuse_key()
        self._prefer_h1[key] = time.monotonic() + _PREFER_H1_TIME
        self._prefer_h1.move_to_end(key)
        if len(self._prefer_h1) > _MAX_PREFER_H1:
            self._prefer_h1.popitem(last=False)

    def _offer(self, peer: Peer, key: ReuseKey) -> AlpnOffer:
        offer = peer.options.alpn
        if offer is ALPN.H2H1:
            expiry = self._prefer_h1.get(key)
            if expiry is not None and expiry > time.monotonic():
                return ALPN.H1
        return offer

    # ----------------------------------------------------------------- ending

    @property
    def idle_count(self) -> int:
        """How many idle connections are in the pool."""
        return len(self._pool)

    def retire(self) -> None:
        """Close all idle connections and keep none from now on; others can still be made."""
        self._close_idle()

    def _close_idle(self) -> list[Stream]:
        self._is_retired = True
        streams = [watcher.release() for watcher in self._pool.drain()]
        for stream in streams:
            stream.close()
        return streams

    async def close(self) -> None:
        """Close all idle connections and stop what runs; streams in use are their users'."""
        self._is_closed = True
        streams = self._close_idle()
        for watcher in self._watchers.values():
            watcher.deadline.cancel()
        self._watchers.clear()
        self._tls.close()
        await self._resolver.close()
        for stream in streams:
            await stream.wait_closed()


def _leads_to(stream: Stream, peer: Peer) -> bool:
    """Check that a stream is connected to where a peer is.

    It guards against a stream that was released under another peer's key.

    Args:
        stream: From the pool.
        peer: The peer.

    Returns:
        False if it is connected to somewhere else; True also if that cannot be told.
    """
    if peer.options.custom_l4 is not None:
        return True
    proxy = peer.proxy
    address = peer.address if proxy is None else proxy.next_hop
    if type(address) is HostAddress:
        return True
    digest = stream.digest.socket_digest
    actual = None if digest is None else digest.peer_addr
    return actual is None or actual == address
