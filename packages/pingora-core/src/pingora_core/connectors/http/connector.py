"""Upstream HTTP sessions, whatever the version: from the pools or over a new connection.

Theory of operation. Which version a peer is spoken to in is its own choice where its options leave
one: over TLS it is negotiated (ALPN), in clear HTTP/2 is spoken only to peers that are known to
(prior knowledge). A peer that has proved not to speak HTTP/2 well is asked in HTTP/1.1 for a while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_core.connectors.http.v2 import Http2Connector
from pingora_core.connectors.transport import ConnectorOptions, TransportConnector
from pingora_core.protocols.http.v1.client import HttpSession as Http1Session
from pingora_core.protocols.http.v1.limits import STRICT, FramingOptions
from pingora_core.protocols.http.v1.parser import DEFAULT_LIMITS, get_parser
from pingora_core.protocols.http.v2._client_stream import ClientStream
from pingora_core.protocols.http.v2.client import HttpSession as Http2Session
from pingora_core.protocols.tls.alpn import ALPN

if TYPE_CHECKING:
    from pingora_core.protocols.http.client import ClientSession
    from pingora_core.protocols.http.v1.parser import HeadLimits
    from pingora_core.protocols.http.v2.options import EngineName
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.upstreams.options import PeerOptions
    from pingora_core.upstreams.peer import HttpPeer

__all__ = ["Connector"]

_LENIENT_LENGTH = FramingOptions(allow_invalid_response_content_length=True)
# Bound here: looking a member up in its enum costs 60 ns (2026-11).
_H1, _H2, _H2H1 = ALPN.H1, ALPN.H2, ALPN.H2H1


class Connector:
    """Where a proxy's upstream sessions come from and go back to.

    Args:
        options: How connections are made and pooled; None for the defaults.
        http1_parser: Engine for HTTP/1 heads: ``httptools`` or ``h11``.
        http2_engine: Library that drives HTTP/2: ``h2`` or ``jh2``.
        limits: Limits on response heads.

    Attributes:
        transport: The connections below, and the pool of those that speak HTTP/1.
        http2: The connections that speak HTTP/2.
    """

    def __init__(
        self,
        options: ConnectorOptions | None = None,
        *,
        http1_parser: str = "httptools",
        http2_engine: EngineName = "h2",
        limits: HeadLimits = DEFAULT_LIMITS,
    ) -> None:
        if options is None:
            options = ConnectorOptions()
        self.transport: TransportConnector = TransportConnector(options)
        self.http2: Http2Connector = Http2Connector(
            self.transport, pool_size=options.keepalive_pool_size, engine=http2_engine
        )
        self._parser = get_parser(http1_parser)
        self._limits = limits

    # ---------------------------------------------------------------- getting

    def reused_http_session(self, peer: HttpPeer, *, upgrade: bool = False) -> ClientSession | None:
        """Take a place on a connection to a peer that there is. HOT.

        Args:
            peer: Where to.
            upgrade: Whether the request will ask for another protocol, which not every HTTP/2
                upstream can do (RFC 8441) and every HTTP/1.1 one may.

        Returns:
            A session on a connection that is alive as far as can be seen; None when there is
            none.
        """
        options = peer.options
        alpn = options.alpn
        if alpn is _H2 or (alpn is _H2H1 and peer.is_tls):
            stream = self.http2.reused_stream(peer)
            if stream is not None:
                if alpn is _H2 or not upgrade or stream.carrier.peer_allows_extended_connect:
                    return self._http2_session(stream, peer)
                stream.reset()
            if alpn is _H2:
                return None
        connection = self.transport.reused_stream(peer)
        return None if connection is None else self._http1_session(connection, options)

    async def new_http_session(self, peer: HttpPeer, *, upgrade: bool = False) -> ClientSession:
        """Connect to a peer.

        Args:
            peer: Where to.
            upgrade: As for :meth:`reused_http_session`.

        Returns:
            A session on a new connection; one of HTTP/2 may be shared from the start.

        Raises:
            Error: From upstream, why there is no connection; ``H2_ERROR`` or
                ``HANDSHAKE_ERROR`` for a peer that is to be spoken to in HTTP/2 only, and does
                not speak it.
        """
        alpn = peer.options.alpn
        if alpn is _H2H1 and peer.is_tls and upgrade:
            stream = await self.transport.new_stream(peer, alpn=_H1)
            return self._http1_session(stream, peer.options)
        if alpn is _H2 or (alpn is _H2H1 and peer.is_tls):
            made = await self.http2.connect(peer)
            if isinstance(made, ClientStream):
                return self._http2_session(made, peer)
            return self._http1_session(made, peer.options)
        return self._http1_session(await self.transport.new_stream(peer), peer.options)

    async def get_http_session(
        self, peer: HttpPeer, *, upgrade: bool = False
    ) -> tuple[ClientSession, bool]:
        """Take a session from the pools, or connect.

        Args:
            peer: Where to.
            upgrade: As for :meth:`reused_http_session`.

        Returns:
            The session, and whether its connection was reused.

        Raises:
            Error: As :meth:`new_http_session`.
        """
        session = self.reused_http_session(peer, upgrade=upgrade)
        if session is not None:
            return session, True
        return await self.new_http_session(peer, upgrade=upgrade), False

    # ------------------------------------------------------------- giving back

    def release_http_session(self, session: ClientSession, peer: HttpPeer) -> None:
        """Give a session back.

        Args:
            session: The session. Of HTTP/1, its connection is pooled if it can be reused, else
                closed; of HTTP/2, its stream is reset unless it has ended, and the place on the
                connection is free again.
            peer: The peer it was got for; its ``idle_timeout`` bounds the time in the pool.
        """
        # The common kind first, and by its type: asking an abstract class for its instances costs
        # 0.1 us (2026-11).
        if type(session) is Http1Session and session.can_reuse:
            # Not of the peer: a property on a hot path (2026-11).
            self.transport.release_stream(
                session.stream, peer.reuse_key(), session.peer_options.idle_timeout
            )
        elif isinstance(session, Http2Session):
            self.http2.pool.set_idle_timeout(session.stream.carrier, peer.options.idle_timeout)
            session.shutdown()
            if session.wants_h1:
                self.transport.prefer_h1(peer)
                self.http2.retire(peer)
        else:
            session.shutdown()

    def _http1_session(self, stream: Stream, options: PeerOptions) -> Http1Session:
        framing = _LENIENT_LENGTH if options.allow_h1_response_invalid_content_length else STRICT
        session = Http1Session(stream, self._parser, self._limits, framing)
        session.read_timeout = options.read_timeout
        session.write_timeout = options.write_timeout
        session.peer_options = options
        return session

    def _http2_session(self, stream: ClientStream, peer: HttpPeer) -> Http2Session:
        options = peer.options
        session = Http2Session(
            stream,
            scheme=b"https" if peer.is_tls else b"http",
            allows_h1=options.alpn is not _H2,
            limits=self._limits,
        )
        session.read_timeout = options.read_timeout
        session.write_timeout = options.write_timeout
        return session

    def retire(self) -> None:
        """Close what idles and keep no connection for another request from now on.

        Sessions that are in use, or are just being made, go on. For a connector whose place
        another one takes; `close` it later.
        """
        self.http2.pool.drain()
        self.transport.retire()

    async def close(self) -> None:
        """Close the pooled connections and stop what works in the background."""
        await self.http2.close()
        await self.transport.close()
