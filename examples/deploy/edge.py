"""A proxy as it is deployed: told everything by its file, with probes for who watches it.

Run it by hand and try::

    python examples/deploy/edge.py -c examples/deploy/edge.yaml
    curl http://127.0.0.1:8080/
    curl http://127.0.0.1:9000/readyz

The unit files and the container file beside it run the same program.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from pingora_core import HttpPeer, HttpServer, Opt, Response, ServeHttp, Server, Service
from pingora_core.server import exit_on_error
from pingora_error import Error, HTTPStatus
from pingora_load_balancing import LoadBalancer
from pingora_proxy import ProxyHttp, Session, http_proxy_service

if TYPE_CHECKING:
    from pingora_core import ServerConf, ServerSession


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The section ``edge`` of the file.

    Attributes:
        upstreams: Whom requests are passed on to, in turn.
        listen: Where clients come in.
        unix: A Unix socket for clients on the same machine; None for none.
        probes: Where liveness and readiness are told.
    """

    upstreams: Annotated[tuple[str, ...], Meta(min_length=1, description="a list of HOST:PORT")]
    listen: Annotated[tuple[str, ...], Meta(description="a list of HOST:PORT")] = ("0.0.0.0:8080",)
    unix: Annotated[str | None, Meta(description="the path of a socket")] = None
    probes: str = "127.0.0.1:9000"


class Edge(ProxyHttp[None]):
    """Passes each request on to the next upstream."""

    def __init__(self, upstreams: LoadBalancer) -> None:
        self.upstreams = upstreams

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        upstream = self.upstreams.select(b"", 256)
        if upstream is None:
            raise Error(HTTPStatus(503), "no healthy upstream")
        return HttpPeer(upstream)


class Probes(ServeHttp):
    """Says whether the server lives and whether it wants new work."""

    def __init__(self, server: Server) -> None:
        self.server = server

    async def response(self, session: ServerSession) -> Response:
        match session.request.path:
            case "/livez":
                return Response(200, b"alive\n")
            case "/readyz" if self.server.is_ready:
                return Response(200, b"ready\n")
            case "/readyz":
                return Response(503, b"not ready\n")
            case _:
                return Response(404)


def main() -> None:
    """Serve until told to stop."""
    opt = Opt.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    server = Server(opt)
    with exit_on_error():
        settings = server.configuration.section("edge", Settings)

    edge = Edge(LoadBalancer(settings.upstreams))
    proxy = http_proxy_service(server.configuration, edge)
    for address in settings.listen:
        proxy.add_tcp(address)
    if settings.unix is not None:
        proxy.add_uds(settings.unix, 0o660)
    probes = Service("probes", HttpServer(Probes(server)))
    probes.add_tcp(settings.probes)
    server.add_services([proxy, probes])

    async def take_on(conf: ServerConf) -> None:
        edge.upstreams = LoadBalancer(conf.section("edge", Settings).upstreams)

    server.on_reload(take_on)
    server.run_forever()


if __name__ == "__main__":
    main()
