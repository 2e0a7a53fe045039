"""What balancers and what guards them count, for metrics.

Each function makes a source for ``Registry.add_source`` of ``pingora_core.metrics``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pingora_core.metrics import Description, Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pingora_load_balancing.backends import Backends
    from pingora_load_balancing.circuit_breaker import CircuitBreaker
    from pingora_load_balancing.outlier import OutlierDetector
    from pingora_load_balancing.retry import RetryBudget

__all__ = [
    "DESCRIPTIONS",
    "backends_source",
    "circuit_breaker_source",
    "outlier_source",
    "retry_budget_source",
]

_POOL: Final = ("pool",)

BACKENDS: Final = Description.gauge(
    "pingora.balancer.backends",
    "Backends that are ready, unhealthy, disabled, ejected, or refused by the breaker.",
    "pool",
    "state",
)
IN_FLIGHT: Final = Description.gauge(
    "pingora.balancer.in_flight",
    "Requests on their way to backends, where leases are used.",
    *_POOL,
    unit="{request}",
)
PANIC: Final = Description.gauge(
    "pingora.balancer.panic",
    "Workers in which so few backends are fit for use that all are used.",
    *_POOL,
)
EJECTIONS: Final = Description.counter(
    "pingora.outlier.ejections",
    "How often a backend was ejected, or spared because too many were.",
    "pool",
    "outcome",
)
BREAKER_REFUSED: Final = Description.counter(
    "pingora.circuit_breaker.refused", "Requests that were refused.", *_POOL, unit="{request}"
)
BREAKER_OPEN: Final = Description.gauge(
    "pingora.circuit_breaker.open",
    "Backends for which requests would be refused now, in each worker added up.",
    *_POOL,
)
RETRY_BUDGET: Final = Description.counter(
    "pingora.retry_budget.retries",
    "Retries that were granted or refused.",
    "pool",
    "decision",
    unit="{request}",
)
RETRY_REQUESTS: Final = Description.counter(
    "pingora.retry_budget.requests",
    "Requests that the budget is counted from.",
    *_POOL,
    unit="{request}",
)

DESCRIPTIONS: Final = (
    BACKENDS,
    IN_FLIGHT,
    PANIC,
    EJECTIONS,
    BREAKER_REFUSED,
    BREAKER_OPEN,
    RETRY_BUDGET,
    RETRY_REQUESTS,
)


def backends_source(pool: Backends, name: str) -> Callable[[], Iterator[Reading]]:
    """Make a source of the states of backends.

    Args:
        pool: The backends; ``LoadBalancer.pool``.
        name: Value of the label ``pool``.

    Returns:
        The source.
    """

    def read() -> Iterator[Reading]:
        counts = dict.fromkeys(("ready", "unhealthy", "disabled", "ejected", "open"), 0)
        for state in pool.states.values():
            counts["ready"] += state.is_ready
            counts["unhealthy"] += not state.is_healthy
            counts["disabled"] += not state.is_enabled
            counts["ejected"] += state.is_ejected
            counts["open"] += state.is_open
        for word, count in counts.items():
            yield Reading(BACKENDS, count, (name, word))
        yield Reading(IN_FLIGHT, pool.totals.in_flight, (name,))
        yield Reading(PANIC, pool.is_in_panic, (name,))

    return read


def outlier_source(detector: OutlierDetector, name: str) -> Callable[[], Iterator[Reading]]:
    """Make a source of what an outlier detector counts.

    Args:
        detector: The detector.
        name: Value of the label ``pool``.

    Returns:
        The source.
    """

    def read() -> Iterator[Reading]:
        yield Reading(EJECTIONS, detector.ejections, (name, "ejected"))
        yield Reading(EJECTIONS, detector.spared, (name, "spared"))

    return read


def circuit_breaker_source(breaker: CircuitBreaker, name: str) -> Callable[[], Iterator[Reading]]:
    """Make a source of what a circuit breaker counts.

    Args:
        breaker: The breaker.
        name: Value of the label ``pool``.

    Returns:
        The source.
    """

    def read() -> Iterator[Reading]:
        yield Reading(BREAKER_REFUSED, breaker.refused, (name,))
        yield Reading(BREAKER_OPEN, breaker.open, (name,))

    return read


def retry_budget_source(budget: RetryBudget, name: str) -> Callable[[], Iterator[Reading]]:
    """Make a source of what a retry budget counts.

    Args:
        budget: The budget.
        name: Value of the label ``pool``.

    Returns:
        The source.
    """

    def read() -> Iterator[Reading]:
        yield Reading(RETRY_BUDGET, budget.retries, (name, "granted"))
        yield Reading(RETRY_BUDGET, budget.refused, (name, "refused"))
        yield Reading(RETRY_REQUESTS, budget.requests, (name,))

    return read
