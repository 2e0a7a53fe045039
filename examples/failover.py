"""Failover: what one backend cannot answer, another one does, and bad backends get nothing.

Run it against some backends, and look at what it thinks of them::

    python examples/failover.py 127.0.0.1:8001 127.0.0.1:8002 127.0.0.1:8003
    curl 127.0.0.1:6188/
    curl 127.0.0.1:6189/        # who is in use, and what the retries have cost

Stop one of the backends, or let it answer 503: clients do not notice.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pingora_core import HttpPeer, HttpServer, Opt, Response, ServeHttp, Server, Service
from pingora_core.services import background_service
from pingora_load_balancing import (
    Attempts,
    BreakerLimits,
    CircuitBreaker,
    Failover,
    FailoverPhases,
    LeastRequest,
    LoadBalancer,
    OutlierDetector,
    OutlierSettings,
    RetryBudget,
    RetryPolicy,
)
from pingora_proxy import ProxyHttp, Session, http_proxy_service

if TYPE_CHECKING:
    from pingora_core import ServerSession
    from pingora_error import Error


class Gateway(FailoverPhases[Session, Attempts], ProxyHttp[Attempts]):
    """Sends each request to a backend, and to another one if that fails."""

    def __init__(self, failover: Failover) -> None:
        self.failover = failover

    def new_ctx(self) -> Attempts:
        return Attempts(self.failover)

    async def upstream_peer(self, session: Session, ctx: Attempts) -> HttpPeer:
        # Called for each attempt: never the same backend as long as there are others.
        return ctx.prepare(HttpPeer(await ctx.next_backend()))

    def suppress_error_log(self, session: Session, ctx: Attempts, error: Error) -> bool:
        return error.should_retry  # what goes well in the end is not worth a line


class Status(ServeHttp):
    """Tells what is known about the backends."""

    def __init__(self, failover: Failover, detector: OutlierDetector) -> None:
        self.failover = failover
        self.detector = detector

    async def response(self, session: ServerSession) -> Response:
        budget = self.failover.budget
        page = {
            "backends": {
                str(state.backend): "ejected" if state.is_ejected else f"{state.in_flight} requests"
                for state in self.failover.balancer.pool.current.states
            },
            "ejections": self.detector.ejections,
            "requests": budget.requests,
            "retries": budget.retries,
            "retries refused": budget.refused,
            "hedges": self.failover.hedges,
        }
        return Response.json(200, page)


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A proxy that retries, within a budget, and ejects bad backends.")
    parser.add_argument(
        "backends", nargs="*", default=["127.0.0.1:8001", "127.0.0.1:8002"], metavar="ADDRESS"
    )
    parser.add_argument("--listen", default="127.0.0.1:6188", metavar="ADDRESS")
    parser.add_argument("--status", default="127.0.0.1:6189", metavar="ADDRESS")
    parser.add_argument("--attempts", type=int, default=4, help="per request, at most")
    parser.add_argument("--per-try-timeout", type=float, default=0.5, metavar="SECONDS")
    parser.add_argument("--ejection-time", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--hedge-after", type=float, metavar="SECONDS", help="default: never")
    parser.add_argument("--budget", type=float, default=0.2, help="retries per request, at most")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    balancer = LoadBalancer(args.backends, selection=LeastRequest)
    # With so few backends nearly all may be out at once; one always stays.
    outliers = OutlierSettings(
        consecutive_errors=3,
        interval=1.0,
        ejection_time=args.ejection_time,
        max_ejection_time=3 * args.ejection_time,
        max_ejected_share=0.75,
    )
    detector = OutlierDetector(balancer.pool, outliers)
    policy = RetryPolicy(
        statuses=frozenset({500, 502, 503, 504}),
        max_attempts=args.attempts,
        per_try_timeout=args.per_try_timeout,
    )
    failover = Failover(
        balancer,
        policy,
        budget=RetryBudget(args.budget),
        breaker=CircuitBreaker(balancer.pool, BreakerLimits(max_requests=256, max_retries=64)),
        hedge_after=args.hedge_after,  # or a LatencyQuantile(0.95), to find out by itself
    )

    proxy = http_proxy_service(server.configuration, Gateway(failover))
    proxy.add_tcp(args.listen)
    server.add_service(proxy)
    status = Service("Status HTTP", HttpServer(Status(failover, detector)))
    status.add_tcp(args.status)
    server.add_service(status)
    # Readmits in time also when there are no requests.
    server.add_service(background_service("outliers", detector))
    server.run_forever()


if __name__ == "__main__":
    main()
