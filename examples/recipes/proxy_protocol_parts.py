"""The PROXY protocol on both sides: the snippets of docs/how-to/proxy-protocol.md."""

from __future__ import annotations

# --8<-- [start:imports]
from pingora_core.listeners import ProxyProtocolSettings

# --8<-- [end:imports]

# isort: split
from pingora_core import HttpPeer, Service
from pingora_core.protocols.address import SocketAddress
from pingora_core.protocols.proxy_protocol import ProxyHeader, TlvType
from pingora_proxy import ProxyHttp, Session
from pingora_proxy.proxy import HttpProxy


class DenyList:
    """Lets nobody in from 203.0.113.0/24."""

    async def should_accept(self, addr: SocketAddress | None, /) -> bool:
        return not str(addr).startswith("203.0.113.")


def accept(service: Service[HttpProxy[None]]) -> None:
    """Believe the balancers."""
    # --8<-- [start:accept]
    balancers = ProxyProtocolSettings(["10.0.0.0/8", "2001:db8::/32"])
    service.add_tcp("0.0.0.0:80", proxy_protocol=balancers)
    service.add_tls("0.0.0.0:443", "site.pem", "site.key", proxy_protocol=balancers)
    service.add_uds("/run/proxy.sock", proxy_protocol=ProxyProtocolSettings(trust_unix=True))
    # --8<-- [end:accept]


def accept_some(service: Service[HttpProxy[None]], address: str) -> None:
    """Believe the balancers, and refuse some of the clients that they announce."""
    # --8<-- [start:filter]
    settings = ProxyProtocolSettings(["10.0.0.0/8"], client_filter=DenyList())
    # --8<-- [end:filter]
    service.add_tcp(address, proxy_protocol=settings)


class Announcing(ProxyHttp[None]):
    """Tells the origin who asks."""

    def new_ctx(self) -> None:
        return None

    # --8<-- [start:send]
    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        peer = HttpPeer("10.0.0.9:443", tls=True, sni="origin.example")
        peer.options.send_proxy_protocol = ProxyHeader.from_digest(session.digest)
        return peer

    # --8<-- [end:send]


def header_for(session: Session, request_id: bytes) -> ProxyHeader:
    """Say more than who asks."""
    # --8<-- [start:tlvs]
    return ProxyHeader.from_digest(session.digest, tlvs=[(TlvType.UNIQUE_ID, request_id)])
    # --8<-- [end:tlvs]
