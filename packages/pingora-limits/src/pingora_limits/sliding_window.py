"""At most so much within any stretch of time of a given length, by key."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, final

from pingora_limits._hashing import hash_key
from pingora_limits._intervals import Intervals
from pingora_limits._tally import Geometry, check_amount
from pingora_limits._weighing import weigh

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_limits._hashing import Key
    from pingora_limits.limiter import Decision

__all__ = ["SlidingWindow"]


@final
class SlidingWindow:
    """A limiter: so much within the last ``window`` seconds, as well as two counts can tell.

    What was allowed in the previous interval is taken for evenly spread over it. Who comes evenly
    is treated exactly; who saved everything for the end of an interval can get up to twice the
    limit within one window, but never more than the limit within one interval. For a bound without
    an exception there is ``TokenBucket``.

    Keys are counted as in ``Rate``: exactly up to a number of them, then by estimates that are
    never too low. Only what was allowed counts. Jumps of the clock are treated as there. Not for
    use from several threads at once.

    Args:
        limit: What is allowed within a window, at least 1.
        window: Length of the window in seconds, above 0.
        expected_keys: Keys that are expected within a window, at least 1.
        exact_keys: Keys counted exactly; None for as many as are expected.
        counts_refused: Whether what was refused counts too, so that who does not slow down stays
            refused (the samples of the original do so).
        clock: Seconds that only grow.

    Raises:
        ValueError: If a number is out of range.

    Examples:
        >>> limiter = SlidingWindow(2, 1.0)
        >>> [limiter.acquire("10.0.0.1").is_allowed for _ in range(3)]
        [True, True, False]
    """

    __slots__ = ("_clock", "_counts_refused", "_intervals", "_limit")

    def __init__(
        self,
        limit: int,
        window: float,
        *,
        expected_keys: int = 10_000,
        exact_keys: int | None = None,
        counts_refused: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_amount(limit, 1)
        self._limit = limit
        self._intervals = Intervals(window, Geometry(expected_keys, exact_keys))
        self._counts_refused = counts_refused
        self._clock = clock

    @property
    def limit(self) -> int:
        """What is allowed within a window."""
        return self._limit

    @property
    def window(self) -> float:
        """Length of the window in seconds."""
        return self._intervals.interval

    @property
    def memory(self) -> int:
        """Bytes that the counts take now."""
        return self._intervals.memory

    @property
    def max_memory(self) -> int:
        """Bytes that the counts take at most, whatever keys come."""
        return self._intervals.max_memory

    def acquire(self, key: Key, cost: int = 1, /) -> Decision:
        """Ask, and take what is asked for if it is allowed.

        Args:
            key: Who asks.
            cost: For how much, from 1 to 4 Gi.

        Returns:
            The answer.

        Raises:
            TypeError: If the key is of another type.
            ValueError: If the cost is out of range.
        """
        hashed = hash_key(key)
        decision = self._weigh(hashed, cost)
        if decision.is_allowed or self._counts_refused:
            self._intervals.current.add(hashed, cost)
        return decision

    def peek(self, key: Key, cost: int = 1, /) -> Decision:
        """Ask without taking.

        Args:
            key: Who asks.
            cost: For how much, from 1 to 4 Gi.

        Returns:
            The answer.

        Raises:
            TypeError: If the key is of another type.
            ValueError: If the cost is out of range.
        """
        decision = self._weigh(hash_key(key), cost)
        if decision.is_allowed:
            decision.remaining += cost
        return decision

    def _weigh(self, hashed: int, cost: int) -> Decision:
        if cost != 1:
            check_amount(cost, 1)
        now = self._clock()
        intervals = self._intervals
        if not intervals.start <= now < intervals.end:
            intervals.turn(now)
        counts = intervals.previous.get(hashed), intervals.current.get(hashed)
        elapsed = now - intervals.start
        return weigh(self._limit, cost, counts, elapsed=elapsed, interval=intervals.interval)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._limit} in {self.window:g} s>"
