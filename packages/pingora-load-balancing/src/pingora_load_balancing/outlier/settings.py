"""When a backend counts as an outlier, and for how long."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OutlierSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierSettings:
    """The settings of an `OutlierDetector`. None switches a criterion off.

    Attributes:
        consecutive_errors: Failures in a row that eject a backend, at once. After it has come back
            its first failure does, until it has succeeded.
        interval: Seconds over which rates and latencies are gathered, and then compared.
        success_rate_deviations: A backend is ejected whose share of successes lies more than so
            many standard deviations below the mean of all.
        success_rate_backends: How many backends must have enough requests in the interval for
            that. Of fewer than 5 not even one that always fails can lie 1.9 deviations below.
        success_rate_requests: How many requests are enough.
        failure_share: A backend is ejected of whose requests at least this share failed.
        failure_share_requests: How many requests in the interval that takes.
        latency_factor: A backend is ejected whose mean latency is more than so many times the
            median of all.
        latency_floor: Seconds; a mean latency up to this is never too long.
        latency_backends: How many backends must have enough requests in the interval for that.
        latency_requests: How many requests are enough.
        ejection_time: Seconds that the first ejection lasts. Each further one lasts as much longer,
            and each interval without one makes the next one as much shorter again.
        max_ejection_time: Seconds that an ejection lasts at most.
        jitter: Share by which an ejection lasts longer at random, so that not all come back at
            the same moment.
        max_ejected_share: Share of the backends that may be out at the same time; one always may.
        min_remaining: How many backends that are fit for use must be left, whatever the share.
        uniform: Gives a random number, 0 to 1, for the jitter.

    Raises:
        ValueError: If a setting makes no sense.

    Source: Envoy, api/envoy/config/cluster/v3/outlier_detection.proto, with the same defaults. There
    is no latency criterion there, and no probation.
    """

    consecutive_errors: int | None = 5
    interval: float = 10.0
    success_rate_deviations: float | None = 1.9
    success_rate_backends: int = 5
    success_rate_requests: int = 100
    failure_share: float | None = None
    failure_share_requests: int = 50
    latency_factor: float | None = None
    latency_floor: float = 0.1
    latency_backends: int = 3
    latency_requests: int = 20
    ejection_time: float = 30.0
    max_ejection_time: float = 300.0
    jitter: float = 0.1
    max_ejected_share: float = 0.1
    min_remaining: int = 1
    uniform: Callable[[], float] = random.random  # noqa: S311 - spreads load

    def __post_init__(self) -> None:
        counts = (
            self.success_rate_backends,
            self.success_rate_requests,
            self.failure_share_requests,
            self.latency_backends,
            self.latency_requests,
            self.min_remaining,
        )
        factor, deviations = self.latency_factor, self.success_rate_deviations
        wanted = ""
        if self.consecutive_errors is not None and self.consecutive_errors < 1:
            wanted = "consecutive_errors at least 1, or None"
        elif not 0 < self.interval < math.inf:
            wanted = "interval more than 0 seconds"
        elif min(counts) < 1:
            wanted = "numbers of backends and requests at least 1"
        elif deviations is not None and not deviations > 0:
            wanted = "success_rate_deviations more than 0, or None"
        elif self.failure_share is not None and not 0 < self.failure_share <= 1:
            wanted = "failure_share more than 0 and at most 1, or None"
        elif (factor is not None and not factor >= 1) or not self.latency_floor >= 0:
            wanted = "latency_factor at least 1, or None, and latency_floor at least 0 seconds"
        elif not 0 < self.ejection_time <= self.max_ejection_time < math.inf:
            wanted = "ejection_time more than 0 seconds and at most max_ejection_time"
        elif not 0 <= self.jitter <= 1 or not 0 <= self.max_ejected_share <= 1:
            wanted = "jitter and max_ejected_share in 0..1"
        if wanted:
            msg = f"outlier detection: wanted {wanted}"
            raise ValueError(msg)

    def time_out(self, ejections: int) -> float:
        """Choose how long an ejection lasts.

        Args:
            ejections: Its number, from 1.

        Returns:
            Seconds.
        """
        longest = min(self.ejection_time * ejections, self.max_ejection_time)
        return longest * (1.0 + self.jitter * self.uniform())
