"""A program that needs pingora-proxy: a gateway with state for each request."""

from __future__ import annotations

from dataclasses import dataclass

from pingora_core import HttpPeer, Server, ServerConf
from pingora_error import Error, HTTPStatus
from pingora_http import RequestHeader, ResponseHeader
from pingora_proxy import ProxyHttp, Session, http_proxy_service


@dataclass
class State:
    """What is known about one request."""

    user: str = "-"


class Gateway(ProxyHttp[State]):
    """Lets in who is known."""

    def new_ctx(self) -> State:
        """Start without a user."""
        return State()

    async def request_filter(self, session: Session, ctx: State) -> bool:
        """Refuse strangers."""
        user: str | None = session.req_header.get("x-user")
        if user is None:
            raise Error.down(HTTPStatus(403), "who is it?")
        ctx.user = user
        return False

    async def upstream_peer(self, session: Session, ctx: State) -> HttpPeer:
        """Send everything to one place."""
        return HttpPeer("127.0.0.1:8080")

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: State
    ) -> None:
        """Tell the origin who it is."""
        upstream_request.insert_header("X-Forwarded-User", ctx.user)

    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: State
    ) -> None:
        """Hide what the origin runs on."""
        upstream_response.remove_header("Server")


def main() -> None:
    """Put the service together; nothing listens before ``run``."""
    server = Server(conf=ServerConf())
    gateway = Gateway()
    service = http_proxy_service(server.configuration, gateway)
    service.add_tcp("127.0.0.1:0")
    server.add_service(service)
    assert gateway.new_ctx() == State()


if __name__ == "__main__":
    main()
