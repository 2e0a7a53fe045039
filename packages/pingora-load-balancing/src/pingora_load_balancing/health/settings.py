"""How often backends are checked, and what follows from the results."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from pingora_load_balancing.backend import Backend

__all__ = ["HealthChanged", "HealthSettings", "InitialHealth"]

HealthChanged: TypeAlias = Callable[[Backend, bool], Awaitable[None] | None]
"""Called with a backend and whether it is healthy now."""


class InitialHealth(Enum):
    """What a backend counts as before it was checked.

    Attributes:
        HEALTHY: It gets requests at once, and until enough checks have failed.
        UNHEALTHY: It gets requests once enough checks have succeeded.
        FIRST_CHECK: It gets requests once it was checked, and the first result alone decides.
    """

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    FIRST_CHECK = "first check"


@dataclass(kw_only=True, eq=False)
class HealthSettings:
    """The settings of a `HealthChecker`, which has them as its own attributes.

    Attributes:
        frequency: Seconds from the end of one check of a backend to the next.
        frequency_when_unhealthy: The same for an unhealthy backend; None for the same time.
        jitter: Share of the frequency, 0 to 1, by which each wait is longer or shorter at random,
            so that the checks of many processes do not stay in step.
        initial: What a backend counts as before it was checked.
        parallelism: Most checks at the same time. More that are due wait for their turn.
        consecutive_success: Checks in a row that make an unhealthy backend healthy.
        consecutive_failure: Checks in a row that make a healthy backend unhealthy.
        max_check_time: Seconds after which a check is cancelled and counts as a failure, whatever
            deadline it has of its own.
        health_changed: Called after each change; may be a coroutine function. What it raises is
            logged.
        summary: What the log calls a backend.
        uniform: Gives a random number, 0 to 1, for the jitter.

    Raises:
        ValueError: If a setting makes no sense.
    """

    frequency: float = 5.0
    frequency_when_unhealthy: float | None = None
    jitter: float = 0.1
    initial: InitialHealth = InitialHealth.HEALTHY
    parallelism: int = 128
    consecutive_success: int = 1
    consecutive_failure: int = 1
    max_check_time: float = 30.0
    health_changed: HealthChanged | None = None
    summary: Callable[[Backend], str] = str
    uniform: Callable[[], float] = random.random  # noqa: S311 - spreads load

    def __post_init__(self) -> None:
        wanted = ""
        if not self.frequency > 0:
            wanted = "frequency more than 0 seconds"
        elif self.frequency_when_unhealthy is not None and not self.frequency_when_unhealthy > 0:
            wanted = "frequency_when_unhealthy more than 0 seconds, or None"
        elif not 0 <= self.jitter <= 1:
            wanted = "jitter in 0..1"
        elif self.parallelism < 1:
            wanted = "parallelism at least 1"
        elif self.consecutive_success < 1 or self.consecutive_failure < 1:
            wanted = "consecutive_success and consecutive_failure at least 1"
        elif not self.max_check_time > 0:
            wanted = "max_check_time more than 0 seconds"
        if wanted:
            msg = f"health checks: wanted {wanted}"
            raise ValueError(msg)

    def next_wait(self, *, healthy: bool) -> float:
        """Choose how long to wait for the next check of a backend.

        Args:
            healthy: Whether it is healthy.

        Returns:
            Seconds.
        """
        wait = self.frequency
        if not healthy and self.frequency_when_unhealthy is not None:
            wait = self.frequency_when_unhealthy
        return wait * (1.0 + self.jitter * (2.0 * self.uniform() - 1.0))
