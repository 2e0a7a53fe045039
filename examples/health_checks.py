"""A proxy whose upstreams are checked, and a page that shows what the checks found.

Each upstream is asked for ``/healthz``. One that fails twice in a row gets no requests until it
answers 200 again; until the first check it gets none either::

    python examples/health_checks.py 127.0.0.1:8081 127.0.0.1:8082 --status 127.0.0.1:6189
    curl http://127.0.0.1:6189/
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pingora_core import (
    HttpPeer,
    HttpServer,
    Opt,
    Response,
    ServeHttp,
    Server,
    Service,
    background_service,
)
from pingora_error import Error, HTTPStatus
from pingora_load_balancing import LoadBalancer
from pingora_load_balancing.health import HttpHealthCheck, InitialHealth
from pingora_proxy import ProxyHttp, Session, http_proxy_service

if TYPE_CHECKING:
    from pingora_core import ServerSession
    from pingora_load_balancing.health import HealthChecker


class Balanced(ProxyHttp[None]):
    """Sends each request to the next upstream that is well."""

    def __init__(self, upstreams: LoadBalancer) -> None:
        self.upstreams = upstreams

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        upstream = self.upstreams.select(b"", 256)
        if upstream is None:
            raise Error(HTTPStatus(503), "no healthy upstream")
        return HttpPeer(upstream)


class Status(ServeHttp):
    """Shows the results of the checks."""

    def __init__(self, health: HealthChecker) -> None:
        self.health = health

    async def response(self, session: ServerSession) -> Response:
        results = {
            str(record.backend): {
                "healthy": record.is_healthy,
                "successes": record.successes,
                "failures": record.failures,
                "last error": None if record.last_error is None else str(record.last_error),
            }
            for record in self.health.records.values()
        }
        return Response.json(200, results)


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A proxy over upstreams whose health is checked.")
    parser.add_argument(
        "upstreams",
        nargs="*",
        default=["127.0.0.1:8001", "127.0.0.1:8002"],
        help="addresses of the upstreams",
    )
    parser.add_argument("--listen", default="127.0.0.1:6188", help="address to listen on")
    parser.add_argument("--status", default="127.0.0.1:6189", help="address of the status page")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two checks")
    args = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(message)s")

    check = HttpHealthCheck("upstream.internal", path="/healthz", timeout=1.0)
    upstreams = LoadBalancer(args.upstreams, health_check=check, health_check_frequency=args.every)
    health = upstreams.health
    assert health is not None
    health.initial = InitialHealth.FIRST_CHECK
    health.consecutive_failure = 2

    server = Server(Opt.from_namespace(args))
    checks = server.add_service(background_service("upstreams", upstreams))
    proxy = http_proxy_service(server.configuration, Balanced(upstreams))
    proxy.add_tcp(args.listen)
    # It accepts nothing before each upstream was checked once.
    server.add_service(proxy).add_dependency(checks)
    status = Service("status", HttpServer(Status(health)))
    status.add_tcp(args.status)
    server.add_service(status)
    server.run_forever()


if __name__ == "__main__":
    main()
