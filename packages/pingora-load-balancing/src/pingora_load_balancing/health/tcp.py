"""The check that a backend accepts connections, over TLS or in clear."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from pingora_core.upstreams.peer import HttpPeer
from pingora_load_balancing.health._network import NetworkCheck

if TYPE_CHECKING:
    from pingora_load_balancing.health._network import Attempt

__all__ = ["TcpHealthCheck"]


@dataclass(eq=False)
class TcpHealthCheck(NetworkCheck):
    """Connects and hangs up; with TLS after a whole handshake.

    Attributes:
        sni: The name to ask for in a TLS handshake and to verify; a name here makes it a TLS
            check.
        tls: Whether to do a TLS handshake. Without a name, the backend's host name or else its IP
            address is verified.
        timeout: Total deadline of one check, seconds.
        port_override: Port to connect to instead of the backend's.
        host_override: Host name or IP address to connect to instead of the backend's.
        reuse_connection: Without effect: connecting is what is checked.
        options: How to connect: authorities, verification, protocols offered, source address.
            ``alpn`` offers ``http/1.1`` by default, which a server of another protocol may refuse:
            name it with `CustomALPN`.
        connector_options: For the connections in general; None for the defaults.

    Examples:
        >>> check = TcpHealthCheck("one.one.one.one", timeout=1.0)
        >>> check.tls
        True

    Source: pingora-load-balancing/src/health_check.rs. The deadline is a total one.
    """

    sni: str = ""
    _: KW_ONLY
    tls: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.tls = self.tls or bool(self.sni)

    async def _check(self, attempt: Attempt) -> None:
        peer = HttpPeer(attempt.address, tls=self.tls, sni=self.sni, options=self._peer_options())
        stream = await self._connections().transport.new_stream(peer)
        stream.close()
