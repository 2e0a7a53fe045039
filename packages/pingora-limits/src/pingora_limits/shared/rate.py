"""Rates over all worker processes of a server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar, final

from pingora_limits._hashing import hash_key
from pingora_limits._tally import check_amount
from pingora_limits.rate import RateComponents
from pingora_limits.shared._counters import SharedCounters

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_limits._hashing import Key

__all__ = ["SharedRate"]

T = TypeVar("T")


@final
class SharedRate:
    """``Rate``, counted over all processes that are forked after it was made.

    Make it before the server forks its workers, and use it in them. Each process counts in memory
    of its own that all others read; what it returns holds everything that any of them had counted
    until then. When a process dies, what it counted stays until its interval is over.

    A process counts ``expected_keys`` keys in an interval exactly, further ones by estimates that
    are never too low. A count in a process ends at 64 Gi. A process that finds no slot free counts
    for itself alone, beside what it reads of the others, and says so in the log.

    A clock that goes back to an earlier interval begins that interval anew.

    Args:
        interval: Length of an interval in seconds, above 0.
        processes: Processes that count at the same time at most. Workers that are being replaced
            count beside their successors. A slot that was never used costs no memory.
        expected_keys: Keys that a process is expected to see within an interval, at least 1.
        clock: Seconds that only grow, the same in all processes.

    Raises:
        ValueError: If a number is out of range.
    """

    __slots__ = ("_counters",)

    def __init__(
        self,
        interval: float,
        *,
        processes: int = 64,
        expected_keys: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counters = SharedCounters(
            interval, processes=processes, expected_keys=expected_keys, clock=clock
        )

    @property
    def interval(self) -> float:
        """Length of an interval in seconds."""
        return self._counters.interval

    @property
    def memory(self) -> int:
        """Bytes that the counts take now, in all processes together."""
        return self._counters.memory

    @property
    def max_memory(self) -> int:
        """Bytes that the counts take at most, in all processes together."""
        return self._counters.max_memory

    def observe(self, key: Key, events: int = 1) -> int:
        """Count events.

        Args:
            key: What they belong to.
            events: How many, from 0 to 4 Gi.

        Returns:
            The events of this key in the current interval in all processes, these included.

        Raises:
            TypeError: If the key is of another type.
            ValueError: If the number of events is out of range; nothing was counted.
        """
        if events != 1:
            check_amount(events)
        return self._counters.add(hash_key(key), events)

    def rate(self, key: Key) -> float:
        """Tell the average rate in the latest completed interval.

        Args:
            key: The key.

        Returns:
            Events per second in all processes.
        """
        return self._counters.get(hash_key(key))[0] / self._counters.interval

    def rate_with(self, key: Key, estimate: Callable[[RateComponents], T]) -> T:
        """Tell the rate as a function of the caller's sees it.

        Args:
            key: The key.
            estimate: Gets what is known; ``proportional_rate_estimate``, for example.

        Returns:
            What that function returns.
        """
        interval = self._counters.interval
        previous, current, elapsed = self._counters.get(hash_key(key))
        return estimate(RateComponents(previous, current, interval, elapsed / interval))

    def close(self) -> None:
        """Give the memory back; nothing can be counted in this process any more."""
        self._counters.close()
