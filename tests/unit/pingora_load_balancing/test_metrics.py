"""What balancers and what guards them count is in the metrics."""

from __future__ import annotations

from pingora_core.metrics import Registry
from pingora_load_balancing.backends import Backends
from pingora_load_balancing.circuit_breaker import BreakerLimits, CircuitBreaker
from pingora_load_balancing.metrics import (
    backends_source,
    circuit_breaker_source,
    outlier_source,
    retry_budget_source,
)
from pingora_load_balancing.outlier import OutlierDetector
from pingora_load_balancing.retry import RetryBudget
from tests.support.clock import FakeClock


def test_everything_is_read_where_it_is_counted() -> None:
    """States of backends, requests in flight, ejections, refusals, retries."""
    clock = FakeClock()
    pool = Backends(["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"], clock=clock)
    first, second, _ = pool.current.backends
    pool.set_healthy(first.addr, False)
    pool.set_enabled(second.addr, False)
    lease = pool.lease(first)
    detector = OutlierDetector(pool)
    detector.ejections = 4
    breaker = CircuitBreaker(pool, BreakerLimits(max_requests=1))
    permit = breaker.try_acquire(first)
    assert breaker.try_acquire(first) is None
    budget = RetryBudget(min_per_second=0.1, ratio=0, clock=clock)
    budget.deposit()
    granted = [budget.withdraw() for _ in range(3)]
    registry = Registry()
    registry.add_source(backends_source(pool, "web"))
    registry.add_source(outlier_source(detector, "web"))
    registry.add_source(circuit_breaker_source(breaker, "web"))
    registry.add_source(retry_budget_source(budget, "web"))

    families = registry.collect()

    states = families["pingora_balancer_backends"].series
    assert {labels[1]: numbers[0] for labels, numbers in states.items()} == {
        "ready": 1,
        "unhealthy": 1,
        "disabled": 1,
        "ejected": 0,
        "open": 1,
    }
    assert families["pingora_balancer_in_flight"].series == {("web",): [1.0]}
    assert families["pingora_balancer_panic"].series == {("web",): [0.0]}
    ejections = families["pingora_outlier_ejections_total"].series
    assert ejections == {("web", "ejected"): [4.0], ("web", "spared"): [0.0]}
    assert families["pingora_circuit_breaker_refused_total"].series == {("web",): [1.0]}
    assert families["pingora_circuit_breaker_open"].series == {("web",): [1.0]}
    retries = families["pingora_retry_budget_retries_total"].series
    assert retries == {
        ("web", "granted"): [float(granted.count(True))],
        ("web", "refused"): [float(granted.count(False))],
    }
    assert families["pingora_retry_budget_requests_total"].series == {("web",): [1.0]}
    assert permit is not None
    permit.release()
    lease.release()
    detector.close()
