"""How much of the traffic may be retries.

Theory of operation: retries help when little fails, and bury what is left when much does: with three
attempts each, a failing cluster gets three times its load. A budget, shared by all requests, ends
that: in any window of time there are at most so many retries for so many requests.

The window is cut into slots. The slot that the far edge of the window lies in counts with its
retries, but without its requests, so that the promise holds for every window, wherever it begins.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final, final

from pingora_load_balancing.steady_clock import SteadyClock

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RetryBudget"]

_SLOTS: Final = 20


@final
class RetryBudget:
    """Retries allowed: a share of the requests in a sliding window, and a few in any case.

    Share one between all that send requests to the same upstreams: retries and hedges of all of
    them together stay within it. Not for use from several threads at once.

    Args:
        ratio: Retries per request, at least 0; 0.2 allows one for each five requests.
        min_per_second: Retries that are allowed whatever the traffic, per second of the window.
            They may come all at once. With few requests these alone allow any.
        window: Seconds over which both are counted.
        clock: Tells the time in seconds, monotonically.

    Attributes:
        ratio: As given.
        min_per_second: As given.
        window: As given.
        requests: All requests so far.
        retries: All retries granted so far.
        refused: How often a retry was refused so far.

    Raises:
        ValueError: If a number is negative or not finite, or the window is not positive.

    Examples:
        >>> budget = RetryBudget(0.5, min_per_second=0)
        >>> budget.deposit()
        >>> budget.withdraw()
        False
        >>> budget.deposit()
        >>> budget.withdraw(), budget.withdraw()
        (True, False)

    Source: Finagle, finagle-core/src/main/scala/com/twitter/finagle/service/RetryBudget.scala, whose
    defaults these are. Envoy's ``retry_budget`` (api/envoy/config/cluster/v3/circuit_breaker.proto)
    is a share of the requests on their way instead of those in a window.
    """

    __slots__ = (
        "_clock",
        "_deposits",
        "_epoch",
        "_newest",
        "_requests_in_window",
        "_retries_in_window",
        "_slot",
        "_withdrawals",
        "min_per_second",
        "ratio",
        "refused",
        "requests",
        "retries",
        "window",
    )

    def __init__(
        self,
        ratio: float = 0.2,
        *,
        min_per_second: float = 10.0,
        window: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in (("ratio", ratio), ("min_per_second", min_per_second)):
            if not 0 <= value < math.inf:
                msg = f"{name} must be at least 0, and finite, not {value}"
                raise ValueError(msg)
        if not 0 < window < math.inf:
            msg = f"window must be more than 0 seconds, and finite, not {window}"
            raise ValueError(msg)
        self.ratio: float = ratio
        self.min_per_second: float = min_per_second
        self.window: float = window
        self.requests: int = 0
        self.retries: int = 0
        self.refused: int = 0
        self._clock = SteadyClock(clock)
        self._slot = window / _SLOTS
        self._epoch = self._clock()
        self._newest = 0
        # One slot more than the window has: the one that its far edge lies in.
        self._deposits = [0] * (_SLOTS + 1)
        self._withdrawals = [0] * (_SLOTS + 1)
        self._requests_in_window = 0
        self._retries_in_window = 0

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.retries} retries of {self.requests} requests,"
            f" {self.refused} refused>"
        )

    @property
    def balance(self) -> int:
        """How many retries would be granted now, one after the other."""
        self._move_on()
        return max(math.floor(self._allowed() - self._retries_in_window), 0)

    def deposit(self) -> None:
        """Count a request, of which retries may be a share. HOT: once per request."""
        self._move_on()
        self._deposits[self._newest % (_SLOTS + 1)] += 1
        self._requests_in_window += 1
        self.requests += 1

    def withdraw(self) -> bool:
        """Ask for a retry.

        Returns:
            True if it is granted, and counted; False if the budget is used up.
        """
        self._move_on()
        if self._retries_in_window + 1 > self._allowed():
            self.refused += 1
            return False
        self._withdrawals[self._newest % (_SLOTS + 1)] += 1
        self._retries_in_window += 1
        self.retries += 1
        return True

    def _allowed(self) -> float:
        # Rounded, for 0.1 * 30 is a little more than 3 and 0.7 * 10 a little less than 7.
        return round(self._requests_in_window * self.ratio + self.min_per_second * self.window, 6)

    def _move_on(self) -> None:
        slot = int((self._clock() - self._epoch) / self._slot)
        steps = slot - self._newest
        if not steps:
            return
        deposits, withdrawals = self._deposits, self._withdrawals
        for number in range(slot - min(steps, _SLOTS + 1) + 1, slot + 1):
            place = number % (_SLOTS + 1)
            self._retries_in_window -= withdrawals[place]
            deposits[place] = withdrawals[place] = 0
        self._newest = slot
        # Summed anew rather than corrected: it happens twenty times per window.
        self._requests_in_window = sum(deposits) - deposits[(slot + 1) % (_SLOTS + 1)]
