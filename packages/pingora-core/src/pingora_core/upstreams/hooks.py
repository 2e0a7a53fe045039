"""What a user may plug into the way to a peer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pingora_core.protocols.address import HostAddress, SocketAddress
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.protocols.tls.stream import TlsStream
    from pingora_http import RequestHeader, ResponseHeader

__all__ = [
    "L4Connect",
    "ProxyDigestHook",
    "SocketTweakHook",
    "TlsHandshakeHook",
    "Tracer",
]


class L4Connect(Protocol):
    """Makes the connection to a peer in place of the built-in TCP and Unix socket code.

    TLS and HTTP go over the stream it returns. Make one object and share it: it is part of the
    key under which connections are reused, so a new one per request means a new connection each.

    Source: pingora-core/src/connectors/l4.rs.
    """

    async def connect(self, address: SocketAddress | HostAddress) -> Stream:
        """Connect; runs under the peer's ``connection_timeout``.

        Args:
            address: The peer's address, as it was given: a host name is not looked up.

        Returns:
            The connected stream.

        Raises:
            Error: If it cannot connect.
        """


class Tracer(Protocol):
    """Is told about the life of each connection to a peer; must not block nor raise.

    Source: pingora-core/src/protocols/mod.rs (``Tracing``).
    """

    def on_connected(self) -> None:
        """Called when the TCP connection, or the like, is made."""

    def on_disconnected(self) -> None:
        """Called when it is gone, whoever closed it."""


SocketTweakHook: TypeAlias = "Callable[[socket.socket], None]"
"""Sets options on the socket just before it connects; an exception gives the connection up."""

ProxyDigestHook: TypeAlias = "Callable[[RequestHeader, ResponseHeader], object]"
"""Derives ``ProxyDigest.user_data`` from the CONNECT request and the proxy's response."""

TlsHandshakeHook: TypeAlias = "Callable[[TlsStream], object]"
"""Derives ``SslDigest.extension`` from a finished handshake; an `Error` rejects the peer."""
