"""At most so much within a window of time, over many machines."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, final

from pingora_limits._tally import check_amount
from pingora_limits._weighing import weigh
from pingora_limits.redis._counters import RedisCounters
from pingora_limits.redis._running import Running

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_limits._hashing import Key
    from pingora_limits.limiter import Decision
    from pingora_limits.redis._link import RedisClient

__all__ = ["RedisSlidingWindow"]


@final
class RedisSlidingWindow(Running):
    """``SlidingWindow`` over all machines that use the same Redis and the same name.

    It decides at once, by what is known here, as ``RedisRate`` tells. Beyond the limit may come
    what all machines together allow within one flush interval. When Redis is away, each machine
    allows the whole limit by itself. For exact decisions, at the price of a round trip before each,
    there is ``RedisTokenBucket``.

    Args:
        client: A client of Redis; ``connect`` makes one.
        limit: What is allowed within a window on all machines together, at least 1.
        window: Length of the window in seconds.
        name: What is limited; the same on all machines that count together.
        expected_keys: Keys that are exchanged in a window, at least 1; those that come after them
            are counted on this machine only, by estimates.
        flush_interval: Seconds between two flushes, less than the window.
        timeout: Seconds that Redis may take to answer.
        clock: Seconds that only grow.

    Raises:
        ValueError: If a number is out of range.
    """

    __slots__ = ("_counters", "_limit")

    def __init__(
        self,
        client: RedisClient,
        limit: int,
        window: float,
        *,
        name: str,
        expected_keys: int = 10_000,
        flush_interval: float = 0.1,
        timeout: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        check_amount(limit, 1)
        self._limit = limit
        self._counters = RedisCounters(
            client,
            window,
            name=name,
            expected_keys=expected_keys,
            flush_interval=flush_interval,
            timeout=timeout,
            clock=clock,
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
    def max_memory(self) -> int:
        """Bytes that the counts take at most, whatever keys come."""
        return self._counters.max_memory

    @property
    def is_away(self) -> bool:
        """Whether Redis has failed since it last answered."""
        return self._counters.link.is_away

    @property
    def failures(self) -> int:
        """How often Redis did not answer as it should."""
        return self._counters.link.failures

    @property
    def staleness(self) -> float:
        """Seconds since Redis last answered; infinite if it never has."""
        return self._counters.staleness

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
        decision = self._weigh(key, cost)
        if decision.is_allowed:
            self._counters.add(key, cost)
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
        decision = self._weigh(key, cost)
        if decision.is_allowed:
            decision.remaining += cost
        return decision

    async def run(self) -> None:
        """Exchange counts until cancelled, and then once more."""
        await self._counters.run()

    async def flush(self) -> None:
        """Exchange counts now."""
        await self._counters.flush()

    def _weigh(self, key: Key, cost: int) -> Decision:
        if cost != 1:
            check_amount(cost, 1)
        previous, current, elapsed = self._counters.get(key)
        counts, interval = (previous, current), self._counters.interval
        return weigh(self._limit, cost, counts, elapsed=elapsed, interval=interval)
