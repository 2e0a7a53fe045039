"""A steady rate with a bounded burst, by key."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, final

from pingora_limits._buckets import Buckets
from pingora_limits._hashing import hash_key
from pingora_limits._tally import Geometry, check_amount

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_limits._hashing import Key
    from pingora_limits.limiter import Decision

__all__ = ["TokenBucket"]


@final
class TokenBucket:
    """A limiter: each key has a bucket of ``burst`` tokens that fills at ``rate`` per second.

    Within any stretch of t seconds at most ``burst + rate * t`` are allowed. It is computed as the
    generic cell rate algorithm (GCRA), which keeps one number for each key. Keys have a number of
    their own up to ``exact_keys`` of them; those that come after share a sketch, where a bucket may
    look emptier than it is, but never fuller. Memory is bounded, whatever keys come. Not for use
    from several threads at once.

    After a jump of the clock ahead buckets are full; after one back, at the latest when an empty
    one would be.

    Args:
        rate: Tokens per second, above 0.
        burst: Tokens that a bucket holds, at least 1.
        expected_keys: Keys that are expected within the time that a bucket takes to fill, at
            least 1.
        exact_keys: Keys with a number of their own; None for as many as are expected.
        clock: Seconds that only grow.

    Raises:
        ValueError: If a number is out of range.

    Examples:
        >>> limiter = TokenBucket(rate=0.5, burst=2)
        >>> [limiter.acquire("10.0.0.1").is_allowed for _ in range(3)]
        [True, True, False]
    """

    __slots__ = ("_buckets", "_clock")

    def __init__(
        self,
        rate: float,
        burst: int,
        *,
        expected_keys: int = 10_000,
        exact_keys: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_amount(burst, 1)
        self._buckets = Buckets(rate, burst, Geometry(expected_keys, exact_keys))
        self._clock = clock

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
        """Bytes that the buckets take now."""
        return self._buckets.memory

    @property
    def max_memory(self) -> int:
        """Bytes that the buckets take at most, whatever keys come."""
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
        return self._buckets.decide(hash_key(key), cost, self._clock(), takes=True)

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
        return self._buckets.decide(hash_key(key), cost, self._clock(), takes=False)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.limit}, filled in {self.window:g} s>"
