"""A proxy that takes no more than it can serve, and a page that shows how full it is.

Connections are limited in all and for each client address; requests are refused with 503 once more are
in flight than the latency of the upstream allows::

    python examples/admission.py 127.0.0.1:8081 --max-connections 10000 --per-address 50
    curl http://127.0.0.1:6189/

Health checks always pass, and the last tenth is for what customers pay with.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pingora_core import HttpPeer, HttpServer, Opt, Response, ServeHttp, Server, Service
from pingora_core.apps import GradientLimit, LoadShedder, Priority
from pingora_core.listeners import ConnectionLimits, per_worker
from pingora_proxy import ProxyHttp, Session, http_proxy_service

if TYPE_CHECKING:
    from pingora_core import ServerSession
    from pingora_http import RequestHeader


class Gateway(ProxyHttp[None]):
    """Sends everything to one upstream."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return HttpPeer(self.upstream)


def classify(request: RequestHeader) -> Priority:
    """Say how important a request is.

    Args:
        request: Its head.

    Returns:
        Its priority.
    """
    if request.path == "/healthz":
        return Priority.EXEMPT
    if request.path.startswith("/checkout"):
        return Priority.HIGH
    return Priority.LOW if request.path.startswith("/export") else Priority.NORMAL


class Status(ServeHttp):
    """Shows how full it is."""

    def __init__(self, limits: ConnectionLimits, shedder: LoadShedder) -> None:
        self.limits = limits
        self.shedder = shedder

    async def response(self, session: ServerSession) -> Response:
        limits, shedder = self.limits, self.shedder
        page = {
            "connections": limits.current,
            "client addresses": limits.clients,
            "connections refused": limits.rejected,
            "times full": limits.held,
            "requests in flight": shedder.in_flight,
            "requests in flight, limit": shedder.limit,
            "requests admitted": shedder.admitted,
            "requests refused": shedder.shed,
        }
        return Response.json(200, page)


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A proxy that takes no more than it can serve.")
    parser.add_argument(
        "upstream", nargs="?", default="127.0.0.1:8000", help="address of the upstream"
    )
    parser.add_argument("--listen", default="127.0.0.1:6188", help="address to listen on")
    parser.add_argument("--status", default="127.0.0.1:6189", help="address of the status page")
    parser.add_argument("--max-connections", type=int, default=10_000, help="of the whole server")
    parser.add_argument("--per-address", type=int, default=100, help="connections of one client")
    parser.add_argument("--in-flight", type=int, help="fixed limit of requests; else adaptive")
    args = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    conf = server.configuration
    # Each worker process counts for itself.
    limits = ConnectionLimits(
        max_connections=per_worker(args.max_connections, conf.worker_count),
        max_per_address=args.per_address,
    )
    in_flight = args.in_flight
    shedder = LoadShedder(
        per_worker(in_flight, conf.worker_count) if in_flight else GradientLimit(),
        classify=classify,
    )

    proxy = http_proxy_service(conf, Gateway(args.upstream), load_shedder=shedder)
    proxy.add_tcp(args.listen)
    proxy.set_connection_limits(limits)
    server.add_service(proxy)
    # A service of its own, without limits, so that it can be asked when the other is full.
    status = Service("status", HttpServer(Status(limits, shedder)))
    status.add_tcp(args.status)
    server.add_service(status)
    server.run_forever()


if __name__ == "__main__":
    main()
