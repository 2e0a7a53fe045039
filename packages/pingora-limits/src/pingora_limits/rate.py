"""How often something happens, by key: per second, over the last interval."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, final

from pingora_limits._hashing import hash_key
from pingora_limits._intervals import Intervals
from pingora_limits._sketch import HASHES
from pingora_limits._tally import Geometry, check_amount

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_limits._hashing import Key

__all__ = ["Rate", "RateComponents", "proportional_rate_estimate"]

T = TypeVar("T")


@dataclass(slots=True)
class RateComponents:
    """All that is known about the rate of a key; what an estimate can be made of.

    Attributes:
        prev_samples: Events in the previous, completed interval.
        curr_samples: Events so far in the current interval.
        interval: Length of an interval in seconds.
        current_interval_fraction: How much of the current interval has passed, from 0 to 1.
    """

    prev_samples: int
    curr_samples: int
    interval: float
    current_interval_fraction: float


def proportional_rate_estimate(components: RateComponents) -> float:
    """Estimate the rate over the last ``interval`` seconds up to now.

    It takes the events of the previous interval for evenly spread, and counts the share of them
    that is not yet older than one interval.

    Args:
        components: What is known.

    Returns:
        Events per second.

    Source: PROPORTIONAL_RATE_ESTIMATE_CALC_FN in pingora-limits/src/rate.rs.
    """
    share = 1.0 - components.current_interval_fraction
    weighted = components.prev_samples * share + components.curr_samples
    return weighted / components.interval


@final
class Rate:
    """Counts events by key in intervals, and tells rates.

    Keys are counted exactly up to ``exact_keys`` of them in an interval; those that come after
    share a sketch, where a count is never too low and seldom too high. Memory is bounded, whatever
    keys come. Not for use from several threads at once; over worker processes use ``SharedRate``.

    A clock that jumps ahead looks like a pause. If it jumps back, the current interval begins anew
    and keeps its counts.

    Args:
        interval: Length of an interval in seconds, above 0.
        expected_keys: Keys that are expected within an interval, at least 1.
        exact_keys: Keys counted exactly; None for as many as are expected.
        hashes: Rows of the sketch for the others.
        slots: Counters in each row; None for two for each expected key.
        clock: Seconds that only grow.

    Raises:
        ValueError: If a number is out of range.

    Examples:
        >>> rate = Rate(1.0)
        >>> rate.observe("10.0.0.1", 3)
        3
        >>> rate.observe("10.0.0.1")
        4

    Source: pingora-limits/src/rate.rs. Unlike there, intervals lie on a grid, rather than begin
    with the first call after the last one has ended; the original's size is
    ``Rate(1.0, exact_keys=0, slots=1024)``.
    """

    __slots__ = ("_clock", "_intervals")

    def __init__(
        self,
        interval: float,
        *,
        expected_keys: int = 10_000,
        exact_keys: int | None = None,
        hashes: int = HASHES,
        slots: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        geometry = Geometry(expected_keys, exact_keys, hashes, slots)
        self._intervals = Intervals(interval, geometry)
        self._clock = clock

    @property
    def interval(self) -> float:
        """Length of an interval in seconds."""
        return self._intervals.interval

    @property
    def memory(self) -> int:
        """Bytes that the counts take now."""
        return self._intervals.memory

    @property
    def max_memory(self) -> int:
        """Bytes that the counts take at most, whatever keys come."""
        return self._intervals.max_memory

    @property
    def error_bound(self) -> float:
        """By how much a count of this interval is too high at most; 0 while all are exact.

        The chance that one is above is at most e to the power of minus the number of rows.
        """
        return self._intervals.current.error_bound

    def observe(self, key: Key, events: int = 1) -> int:
        """Count events.

        Args:
            key: What they belong to.
            events: How many, from 0 to 4 Gi.

        Returns:
            The events of this key in the current interval, these included.

        Raises:
            TypeError: If the key is of another type.
            ValueError: If the number of events is out of range; nothing was counted.
        """
        now = self._clock()
        intervals = self._intervals
        if not intervals.start <= now < intervals.end:
            intervals.turn(now)
        if events != 1:
            check_amount(events)
        return intervals.current.add(hash_key(key), events)

    def rate(self, key: Key) -> float:
        """Tell the average rate in the latest completed interval.

        Args:
            key: The key.

        Returns:
            Events per second.
        """
        self._turn()
        intervals = self._intervals
        return intervals.previous.get(hash_key(key)) / intervals.interval

    def rate_with(self, key: Key, estimate: Callable[[RateComponents], T]) -> T:
        """Tell the rate as a function of the caller's sees it.

        Args:
            key: The key.
            estimate: Gets what is known; ``proportional_rate_estimate``, for example.

        Returns:
            What that function returns.
        """
        now = self._turn()
        intervals, hashed = self._intervals, hash_key(key)
        return estimate(
            RateComponents(
                intervals.previous.get(hashed),
                intervals.current.get(hashed),
                intervals.interval,
                intervals.fraction(now),
            )
        )

    def _turn(self) -> float:
        now = self._clock()
        intervals = self._intervals
        if not intervals.start <= now < intervals.end:
            intervals.turn(now)
        return now

    def __repr__(self) -> str:
        return f"<{type(self).__name__} per {self.interval:g} s, {self.memory} bytes>"
