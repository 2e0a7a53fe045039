"""What balancers and what guards them count, for metrics.

Each function makes a source for ``Registry.add_source`` of ``pingora_core.metrics``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pingora_core.metrics import Description, Kind, Reading

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

BACKENDS: Final = Description(
    otel_name="pingora.balancer.backends",
    kind=Kind.GAUGE,
    help="Backends that are ready, unhealthy, disabled, ejected, or refused by the breaker.",
    labels=("pool", "state"),
)
IN_FLIGHT: Final = Description(
    otel_name="pingora.balancer.in_flight",
    kind=Kind.GAUGE,
    unit="{request}",
    help="Requests on their way to backends, where leases are used.",
    labels=_POOL,
)
PANIC: Final = Description(
    otel_name="pingora.balancer.panic",
    kind=Kind.GAUGE,
    help="Workers in which so few backends are fit for use that all are used.",
    labels=_POOL,
)
EJECTIONS: Final = Description(
    otel_name="pingora.outlier.ejections",
    kind=Kind.COUNTER,
    help="How often a backend was ejected, or spared because too many were.",
    labels=("pool", "outcome"),
)
BREAKER_REFUSED: Final = Description(
    otel_name="pingora.circuit_breaker.refused",
    kind=Kind.COUNTER,
    unit="{request}",
    help="Requests that were refused.",
    labels=_POOL,
)
BREAKER_OPEN: Final = Description(
    otel_name="pingora.circuit_breaker.open",
    kind=Kind.GAUGE,
    help="Backends for which requests would be refused now, in each worker added up.",
    labels=_POOL,
)
RETRY_BUDGET: Final = Description(
    otel_name="pingora.retry_budget.retries",
    kind=Kind.COUNTER,
    unit="{request}",
    help="Retries that were granted or refused.",
    labels=("pool", "decision"),
)
RETRY_REQUESTS: Final = Description(
    otel_name="pingora.retry_budget.requests",
    kind=Kind.COUNTER,
    unit="{request}",
    help="Requests that the budget is counted from.",
    labels=_POOL,
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
