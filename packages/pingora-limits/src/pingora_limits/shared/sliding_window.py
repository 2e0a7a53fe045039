"""At most so much within a window of time, over all worker processes of a server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, final

from pingora_limits._hashing import hash_key
from pingora_limits._tally import check_amount
from pingora_limits._weighing import weigh
from pingora_limits.shared._counters import SharedCounters

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_limits._hashing import Key
    from pingora_limits.limiter import Decision

__all__ = ["SharedSlidingWindow"]


@final
class SharedSlidingWindow:
    """``SlidingWindow`` over all processes that are forked after it was made.

    How it counts is told in ``SharedRate``. Two processes that decide at the same moment do not see
    each other's decision: each worker beyond the first may thus allow one too many.

    Args:
        limit: What is allowed within a window in all processes together, at least 1.
        window: Length of the window in seconds, above 0.
        processes: Processes that count at the same time at most.
        expected_keys: Keys that a process is expected to see within a window, at least 1.
        counts_refused: Whether what was refused counts too.
        clock: Seconds that only grow, the same in all processes.

    Raises:
        ValueError: If a number is out of range.
    """

    __slots__ = ("_counters", "_counts_refused", "_limit")

    def __init__(
        self,
        limit: int,
        window: float,
        *,
        processes: int = 64,
        expected_keys: int = 10_000,
        counts_refused: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_amount(limit, 1)
        self._limit = limit
        self._counts_refused = counts_refused
        self._counters = SharedCounters(
            window, processes=processes, expected_keys=expected_keys, clock=clock
        )

    @property
    def limit(self) -> int:
        """What is allowed within a window."""
        return self._limit

    @property
    def window(self) -> float:
        """Length of the window in seconds."""
        return self._counters.interval

    @property
    def memory(self) -> int:
        """Bytes that the counts take now, in all processes together."""
        return self._counters.memory

    @property
    def max_memory(self) -> int:
        """Bytes that the counts take at most, in all processes together."""
        return self._counters.max_memory

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
            self._counters.add(hashed, cost)
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

    def close(self) -> None:
        """Give the memory back; nothing can be counted in this process any more."""
        self._counters.close()

    def _weigh(self, hashed: int, cost: int) -> Decision:
        if cost != 1:
            check_amount(cost, 1)
        previous, current, elapsed = self._counters.get(hashed)
        return weigh(
            self._limit,
            cost,
            (previous, current),
            elapsed=elapsed,
            interval=self._counters.interval,
        )
