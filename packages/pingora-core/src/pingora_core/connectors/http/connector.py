"""Upstream HTTP sessions, whatever the version: from the pool or over a new connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_core.connectors.transport import TransportConnector
from pingora_core.protocols.http.v1.client import HttpSession as Http1Session
from pingora_core.protocols.http.v1.framing import FramingOptions
from pingora_core.protocols.http.v1.parser import DEFAULT_LIMITS, get_parser
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from pingora_core.connectors.transport import ConnectorOptions
    from pingora_core.protocols.http.client import ClientSession
    from pingora_core.protocols.http.v1.parser import HeadLimits
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.upstreams.peer import HttpPeer

__all__ = ["Connector"]

_STRICT = FramingOptions()
_LENIENT_LENGTH = FramingOptions(allow_invalid_response_content_length=True)


class Connector:
    """Where a proxy's upstream sessions come from and go back to.

    Args:
        options: How connections are made and pooled; None for the defaults.
        http1_parser: Engine for HTTP/1 heads: ``httptools`` or ``h11``.
        limits: Limits on response heads.

    Attributes:
        transport: The connections below, and their pool.
    """

    def __init__(
        self,
        options: ConnectorOptions | None = None,
        *,
        http1_parser: str = "httptools",
        limits: HeadLimits = DEFAULT_LIMITS,
    ) -> None:
        self.transport = TransportConnector(options)
        self._parser = get_parser(http1_parser)
        self._limits = limits

    def reused_http_session(self, peer: HttpPeer) -> ClientSession | None:
        """Take an idle connection to a peer out of the pool.

        Args:
            peer: Where to.

        Returns:
            A session on a connection that is alive as far as can be seen; None when there is
            none.
        """
        stream = self.transport.reused_stream(peer)
        return None if stream is None else self._session(stream, peer)

    async def new_http_session(self, peer: HttpPeer) -> ClientSession:
        """Connect to a peer.

        Args:
            peer: Where to.

        Returns:
            A session on a new connection.

        Raises:
            Error: From upstream, why there is no connection; ``H2_ERROR`` for a peer that is to
                be spoken to in HTTP/2 only, which is not supported yet.
        """
        if peer.options.alpn.min_http_version > 1:
            msg = "HTTP/2 upstreams are not supported yet"
            raise Error(ErrorType.H2_ERROR, msg, source=ErrorSource.UPSTREAM)
        return self._session(await self.transport.new_stream(peer), peer)

    async def get_http_session(self, peer: HttpPeer) -> tuple[ClientSession, bool]:
        """Take a session from the pool, or connect.

        Args:
            peer: Where to.

        Returns:
            The session, and whether its connection was reused.

        Raises:
            Error: As :meth:`new_http_session`.
        """
        session = self.reused_http_session(peer)
        if session is not None:
            return session, True
        return await self.new_http_session(peer), False

    def release_http_session(self, session: ClientSession, peer: HttpPeer) -> None:
        """Give a session back after a complete exchange.

        Args:
            session: The session; its connection is pooled if it can be reused, else closed.
            peer: The peer it was got for; its ``idle_timeout`` bounds the time in the pool.
        """
        if session.can_reuse and isinstance(session, Http1Session):
            self.transport.release_stream(
                session.stream, peer.reuse_key(), peer.options.idle_timeout
            )
        else:
            session.shutdown()

    def _session(self, stream: Stream, peer: HttpPeer) -> Http1Session:
        options = peer.options
        session = Http1Session(
            stream,
            parser=self._parser,
            limits=self._limits,
            options=_LENIENT_LENGTH
            if options.allow_h1_response_invalid_content_length
            else _STRICT,
        )
        session.read_timeout = options.read_timeout
        session.write_timeout = options.write_timeout
        return session

    async def close(self) -> None:
        """Close the pooled connections and stop what works in the background."""
        await self.transport.close()
