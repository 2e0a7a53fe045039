"""Rates over many machines."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar, final

from pingora_limits._tally import check_amount
from pingora_limits.rate import RateComponents
from pingora_limits.redis._counters import RedisCounters
from pingora_limits.redis._running import Running

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_limits._hashing import Key
    from pingora_limits.redis._link import RedisClient

__all__ = ["RedisRate"]

T = TypeVar("T")


@final
class RedisRate(Running):
    """``Rate``, counted over all machines that use the same Redis and the same name.

    No call waits for Redis. Each machine counts for itself and exchanges counts with Redis every
    ``flush_interval`` in a background task: run this as an async context manager, or its ``run``.
    What a call returns is what this machine has counted until now, plus what all others had when
    the key was last exchanged. A key that comes again after a pause is thus judged by an older
    number until the next flush. When Redis is away, the machine counts for itself alone; what was
    not told to Redis within about an interval counts in ``lost`` and never there.

    Round trips: one for every 1,000 keys that were observed since the last flush, none if there
    were none.

    Args:
        client: A client of Redis; ``connect`` makes one.
        interval: Length of an interval in seconds.
        name: What is counted; the same on all machines that count together.
        expected_keys: Keys that are exchanged in an interval, at least 1; those that come after
            them are counted on this machine only, by estimates.
        flush_interval: Seconds between two flushes, less than the interval.
        timeout: Seconds that Redis may take to answer.
        clock: Seconds that only grow.

    Raises:
        ValueError: If a number is out of range.
    """

    __slots__ = ("_counters",)

    def __init__(
        self,
        client: RedisClient,
        interval: float,
        *,
        name: str,
        expected_keys: int = 10_000,
        flush_interval: float = 0.1,
        timeout: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._counters = RedisCounters(
            client,
            interval,
            name=name,
            expected_keys=expected_keys,
            flush_interval=flush_interval,
            timeout=timeout,
            clock=clock,
        )

    @property
    def interval(self) -> float:
        """Length of an interval in seconds."""
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
    def lost(self) -> int:
        """Events that were never told to Redis, since it was away for too long."""
        return self._counters.lost

    @property
    def staleness(self) -> float:
        """Seconds since Redis last answered; infinite if it never has."""
        return self._counters.staleness

    def observe(self, key: Key, events: int = 1) -> int:
        """Count events.

        Args:
            key: What they belong to.
            events: How many, from 0 to 4 Gi.

        Returns:
            The events of this key in the current interval, these included, as far as known here.

        Raises:
            TypeError: If the key is of another type.
            ValueError: If the number of events is out of range; nothing was counted.
        """
        if events != 1:
            check_amount(events)
        return self._counters.add(key, events)

    def rate(self, key: Key) -> float:
        """Tell the average rate in the latest completed interval.

        Args:
            key: The key.

        Returns:
            Events per second, as far as known here.
        """
        return self._counters.get(key)[0] / self._counters.interval

    def rate_with(self, key: Key, estimate: Callable[[RateComponents], T]) -> T:
        """Tell the rate as a function of the caller's sees it.

        Args:
            key: The key.
            estimate: Gets what is known; ``proportional_rate_estimate``, for example.

        Returns:
            What that function returns.
        """
        interval = self._counters.interval
        previous, current, elapsed = self._counters.get(key)
        return estimate(RateComponents(previous, current, interval, elapsed / interval))

    async def run(self) -> None:
        """Exchange counts until cancelled, and then once more."""
        await self._counters.run()

    async def flush(self) -> None:
        """Exchange counts now."""
        await self._counters.flush()
