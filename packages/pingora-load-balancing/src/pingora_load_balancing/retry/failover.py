"""What all requests of a service share that are sent again when they fail."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, final

from pingora_core.runtime import timers
from pingora_load_balancing.retry.budget import RetryBudget
from pingora_load_balancing.retry.policy import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container

    from pingora_load_balancing.circuit_breaker import CircuitBreaker
    from pingora_load_balancing.latency_quantile import LatencyQuantile
    from pingora_load_balancing.selector import Selector

__all__ = ["Failover"]

_SERVER_ERRORS: Final = range(500, 600)


@final
class Failover:
    """Where requests are sent, when they are sent again, and how often at most.

    `Attempts` keep track of one request each.

    Args:
        balancer: Chooses the backends.
        policy: When a request is sent again; None for the defaults.
        budget: How much of the traffic may be retries; None for one of its own with the defaults.
            Share one between services that have the same upstreams.
        breaker: How much each backend is given at a time; None for any amount.
        failure_statuses: Which statuses of responses count as failures of the backend, for outlier
            detection. Which ones are retried is the policy's business.
        max_iterations: How many candidates to look at for each choice.
        sleep: Waits so many seconds.
        hedge_after: Seconds after which a request without a body, whose method the policy allows
            to be sent twice, is sent to a second backend as well, if the budget grants it. A
            `LatencyQuantile` is fed with the latencies of these requests, and tells the time. None
            never does.

    Attributes:
        balancer: As given.
        policy: As given; may be changed.
        budget: As given.
        breaker: As given.
        failure_statuses: As given.
        max_iterations: As given.
        sleep: As given.
        hedge_after: As given; may be changed.
        hedges: How many requests were sent to a second backend so far, side by side.

    Raises:
        ValueError: If ``hedge_after`` is negative or not finite.
    """

    __slots__ = (
        "balancer",
        "breaker",
        "budget",
        "failure_statuses",
        "hedge_after",
        "hedges",
        "max_iterations",
        "policy",
        "sleep",
    )

    def __init__(
        self,
        balancer: Selector,
        policy: RetryPolicy | None = None,
        *,
        budget: RetryBudget | None = None,
        breaker: CircuitBreaker | None = None,
        failure_statuses: Container[int] = _SERVER_ERRORS,
        max_iterations: int = 256,
        sleep: Callable[[float], Awaitable[None]] = timers.sleep,
        hedge_after: float | LatencyQuantile | None = None,
    ) -> None:
        if isinstance(hedge_after, (float, int)) and not 0 <= hedge_after < math.inf:
            msg = f"hedge_after must be at least 0 seconds, and finite, not {hedge_after}"
            raise ValueError(msg)
        self.balancer: Selector = balancer
        self.policy: RetryPolicy = RetryPolicy() if policy is None else policy
        self.budget: RetryBudget = RetryBudget() if budget is None else budget
        self.breaker: CircuitBreaker | None = breaker
        self.failure_statuses: Container[int] = failure_statuses
        self.max_iterations: int = max_iterations
        self.sleep: Callable[[float], Awaitable[None]] = sleep
        self.hedge_after: float | LatencyQuantile | None = hedge_after
        self.hedges: int = 0
