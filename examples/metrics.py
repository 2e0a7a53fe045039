"""A proxy whose metrics Prometheus scrapes, added up over its workers.

With workers, and something to ask::

    PINGORA_WORKERS=2 python examples/metrics.py 127.0.0.1:8081
    curl http://127.0.0.1:6188/users/42
    curl http://127.0.0.1:9090/metrics

With ``--otlp http://127.0.0.1:4318/v1/metrics`` an OpenTelemetry collector gets them too.
"""

from __future__ import annotations

import logging

from pingora_core import HttpPeer, Opt, Server, background_service
from pingora_core.metrics import WorkerMetrics
from pingora_core.services.otlp import OtlpMetrics
from pingora_core.services.prometheus import prometheus_service
from pingora_proxy import ProxyHttp, Session, http_proxy_service
from pingora_proxy.metrics import ProxyMetrics


class Gateway(ProxyHttp[None]):
    """Sends everything to one upstream, and counts what it is about."""

    def __init__(self, upstream: str, metrics: WorkerMetrics) -> None:
        self.upstream = upstream
        # A metric of your own.
        self.tenants = metrics.registry.counter(
            "gateway.tenant.requests", "Requests, by tenant.", labels=("tenant",)
        )

    def new_ctx(self) -> None:
        return None

    async def request_filter(self, session: Session, ctx: None) -> bool:
        # One of few: a path with an identifier in it would make a series for each.
        session.route = "/users/{id}" if session.req_header.path.startswith("/users/") else "/"
        self.tenants.labels(session.req_header.get("x-tenant", "none")).inc()
        return False

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return HttpPeer(self.upstream)


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A proxy whose metrics Prometheus scrapes.")
    parser.add_argument("upstream", help="address of the upstream")
    parser.add_argument("--listen", default="127.0.0.1:6188", help="address to listen on")
    parser.add_argument("--metrics", default="127.0.0.1:9090", help="address of the metrics")
    parser.add_argument("--otlp", help="URL of an OpenTelemetry collector")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    conf = server.configuration
    metrics = WorkerMetrics()  # before the workers are forked
    observer = ProxyMetrics(metrics.registry)
    proxy = http_proxy_service(conf, Gateway(args.upstream, metrics), observers=[observer])
    proxy.add_tcp(args.listen)
    observer.watch(proxy)  # pools, connections, TLS, limits: what the service counts anyway
    server.add_services([proxy, prometheus_service(metrics, args.metrics)])
    if args.otlp:
        push = OtlpMetrics(metrics.registry, endpoint=args.otlp, interval=10.0)
        server.add_service(background_service("otlp", push))
    server.run_forever()


if __name__ == "__main__":
    main()
