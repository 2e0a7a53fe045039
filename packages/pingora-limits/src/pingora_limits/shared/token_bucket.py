"""A steady rate with a bounded burst, over all worker processes of a server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, final

from pingora_limits._hashing import hash_key
from pingora_limits._tally import check_amount
from pingora_limits.shared._buckets import SharedBuckets

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_limits._hashing import Key
    from pingora_limits.limiter import Decision

__all__ = ["SharedTokenBucket"]


@final
class SharedTokenBucket:
    """``TokenBucket`` over all processes that are forked after it was made.

    Make it before the server forks its workers, and use it in them. Each process keeps in memory of
    its own what it took, and all others read it; what a process took before it died stays taken.
    Two processes that decide at the same moment do not see each other's decision: each worker
    beyond the first may thus allow one too many.

    A process has room for ``expected_keys`` keys within the time that a bucket takes to fill;
    further ones share a sketch, where a bucket may look emptier than it is, but never fuller. A
    process that finds no slot free has buckets for itself alone, and says so in the log.

    When the clock goes back, buckets are full again at the latest after twice the time that an
    empty one takes to fill.

    Args:
        rate: Tokens per second in all processes together, above 0 and at most 4 Gi.
        burst: Tokens that a bucket holds, at least 1.
        processes: Processes that take tokens at the same time at most. A slot that was never used
            costs no memory.
        expected_keys: Keys that a process is expected to see within the time that a bucket takes
            to fill, at least 1.
        clock: Seconds that only grow, the same in all processes.

    Raises:
        ValueError: If a number is out of range.
    """

    __slots__ = ("_buckets",)

    def __init__(
        self,
        rate: float,
        burst: int,
        *,
        processes: int = 64,
        expected_keys: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_amount(burst, 1)
        self._buckets = SharedBuckets(
            rate, burst, processes=processes, expected_keys=expected_keys, clock=clock
        )

    @property
    def limit(self) -> int:
        """Tokens that a bucket holds."""
        return self._buckets.burst

    @property
    def window(self) -> float:
        """Seconds that an empty bucket takes to fill."""
        return self._buckets.burst / self._buckets.rate

    @property
    def memory(self) -> int:
        """Bytes that the buckets take now, in all processes together."""
        return self._buckets.memory

    @property
    def max_memory(self) -> int:
        """Bytes that the buckets take at most, in all processes together."""
        return self._buckets.max_memory

    def acquire(self, key: Key, cost: int = 1, /) -> Decision:
        """Ask, and take what is asked for if it is allowed.

        Args:
            key: Who asks.
            cost: For how many tokens, from 1 to 4 Gi.

        Returns:
            The answer.

        Raises:
            TypeError: If the key is of another type.
            ValueError: If the cost is out of range.
        """
        if cost != 1:
            check_amount(cost, 1)
        return self._buckets.decide(hash_key(key), cost, takes=True)

    def peek(self, key: Key, cost: int = 1, /) -> Decision:
        """Ask without taking.

        Args:
            key: Who asks.
            cost: For how many tokens, from 1 to 4 Gi.

        Returns:
            The answer.

        Raises:
            TypeError: If the key is of another type.
            ValueError: If the cost is out of range.
        """
        if cost != 1:
            check_amount(cost, 1)
        return self._buckets.decide(hash_key(key), cost, takes=False)

    def close(self) -> None:
        """Give the memory back; no token can be taken in this process any more."""
        self._buckets.close()
