"""An error of a callback that chooses what the client gets: docs/explanation/errors.md."""

from __future__ import annotations

from pingora_core import HttpPeer
from pingora_error import Error, HTTPStatus
from pingora_proxy import ProxyHttp, Session


class Guarded(ProxyHttp[None]):
    """Lets those in who have a key."""

    def __init__(self, upstream: str) -> None:
        self.peer = HttpPeer(upstream)

    def new_ctx(self) -> None:
        return None

    async def request_filter(self, session: Session, ctx: None) -> bool:
        if session.req_header.get("x-key") is None:
            # --8<-- [start:raise]
            raise Error(HTTPStatus(403), "no key")
            # --8<-- [end:raise]
        return False

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return self.peer
