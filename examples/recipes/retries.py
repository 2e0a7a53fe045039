"""Retries, budgets, ejections, breakers and hedges: the snippets of docs/how-to/retries.md."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pingora_core import HttpPeer, Server, background_service
from pingora_error import Error, HTTPStatus
from pingora_load_balancing import (
    IDEMPOTENT_METHODS,
    Attempts,
    Backend,
    BreakerLimits,
    CircuitBreaker,
    Failover,
    FailoverPhases,
    LatencyQuantile,
    LoadBalancer,
    OutlierDetector,
    OutlierSettings,
    RetryBudget,
    RetryOn,
    RetryPolicy,
    hedge,
)
from pingora_proxy import ProxyHttp, Session


# --8<-- [start:gateway]
@dataclass
class Context:
    """What belongs to one request."""

    attempts: Attempts
    started: float


class Gateway(FailoverPhases[Session, Context], ProxyHttp[Context]):
    """Asks another backend when one fails."""

    def new_ctx(self) -> Context:
        return Context(Attempts(self.failover), time.monotonic())

    async def upstream_peer(self, session: Session, ctx: Context) -> HttpPeer:
        backend = await ctx.attempts.next_backend(session.req_header.path.encode())
        return ctx.attempts.prepare(HttpPeer(backend, tls=True, sni="origin.example"))

    # --8<-- [end:gateway]

    def __init__(self, failover: Failover) -> None:
        self.failover = failover


# --8<-- [start:policy]
policy = RetryPolicy(
    retry_on=RetryOn.CONNECT_FAILURE | RetryOn.RESET | RetryOn.TIMEOUT | RetryOn.STATUS,
    statuses=frozenset({502, 503, 504}),
    methods=IDEMPOTENT_METHODS,
    max_attempts=3,
    per_try_timeout=0.5,
    backoff=0.025,
    max_backoff=0.25,
)
# --8<-- [end:policy]

# --8<-- [start:budget]
budget = RetryBudget(0.2, min_per_second=10.0, window=10.0)
# --8<-- [end:budget]


def eject(server: Server, balancer: LoadBalancer) -> OutlierDetector:
    """Take backends out that requests fare badly at."""
    # --8<-- [start:outliers]
    settings = OutlierSettings(consecutive_errors=5, latency_factor=4.0)
    detector = OutlierDetector(balancer.pool, settings)
    server.add_service(background_service("outliers", detector))
    # --8<-- [end:outliers]
    return detector


def bound(balancer: LoadBalancer) -> Gateway:
    """Bound what a backend is given at a time."""
    # --8<-- [start:breaker]
    limits = BreakerLimits(max_requests=100, max_pending=20, max_retries=10)
    breaker = CircuitBreaker(balancer.pool, limits)
    failover = Failover(balancer, breaker=breaker)
    # --8<-- [end:breaker]
    return Gateway(failover)


async def send(
    breaker: CircuitBreaker, backend: Backend, connect: Callable[[Backend], Awaitable[None]]
) -> None:
    """Send a request without `Failover`."""
    # --8<-- [start:permit]
    with breaker.acquire(backend) as permit:  # raises Error: 503
        await connect(backend)
        permit.connected()
    # --8<-- [end:permit]


def hedging(balancer: LoadBalancer) -> Gateway:
    """Ask a second backend when the first one takes longer than nearly all do."""
    # --8<-- [start:hedging]
    failover = Failover(balancer, policy, budget=budget, hedge_after=LatencyQuantile(0.95))
    # --8<-- [end:hedging]
    return Gateway(failover)


# --8<-- [start:delay]
delay = LatencyQuantile(0.95)  # the time in which 95 % of the latest requests were answered

# --8<-- [end:delay]


async def hedged(balancer: LoadBalancer, ask: Callable[[Backend], Awaitable[bytes]]) -> str:
    """Ask two backends, the second one only if the first one takes its time."""

    # --8<-- [start:answer]
    async def answer(number: int) -> bytes:
        backend = balancer.select(b"", 256)  # let it be another one each time
        if backend is None:
            raise Error(HTTPStatus(503), "no backend is ready")
        began = time.monotonic()
        body = await ask(backend)
        delay.add(time.monotonic() - began)
        return body

    body = await hedge(answer, delay=delay, budget=budget)
    # --8<-- [end:answer]
    return body.decode()
