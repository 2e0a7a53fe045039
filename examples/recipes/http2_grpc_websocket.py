"""More time for streams that are silent for long: docs/how-to/http2-grpc-websocket.md."""

from __future__ import annotations

from pingora_core import HttpPeer
from pingora_proxy import ProxyHttp, Session


class Streams(ProxyHttp[None]):
    """Waits for the next event for an hour, and for anything else as usual."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        peer = HttpPeer(self.upstream)
        if session.req_header.path.startswith("/events"):
            # --8<-- [start:silence]
            peer.options.read_timeout = 3600.0
            # --8<-- [end:silence]
        return peer
