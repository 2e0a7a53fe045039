"""What limiters look like from outside, whichever way they keep their numbers.

Rules of this file: no I/O and no clock; those who keep the numbers have one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pingora_limits._hashing import hash_key
from pingora_limits._tally import check_amount
from pingora_limits._weighing import weigh

if TYPE_CHECKING:
    from pingora_limits._hashing import Key
    from pingora_limits.limiter import Decision

__all__ = ["BucketKeeper", "BucketLimiter", "CountKeeper", "WindowLimiter"]


class _Keeper(Protocol):
    """Keeps numbers of keys."""

    @property
    def memory(self) -> int:
        """Bytes that they take now."""

    @property
    def max_memory(self) -> int:
        """Bytes that they take at most."""


class BucketKeeper(_Keeper, Protocol):
    """Keeps a bucket for each key."""

    @property
    def rate(self) -> float:
        """Tokens that flow into each bucket per second."""

    @property
    def burst(self) -> int:
        """Tokens that a bucket holds."""

    def decide(self, hashed: int, cost: int, /, *, takes: bool) -> Decision:
        """Decide whether the bucket of a key holds enough.

        Args:
            hashed: The hash of the key.
            cost: Tokens, at least 1.
            takes: Whether to take the tokens if it does.

        Returns:
            The decision; if tokens were taken, as things are after that.
        """


class CountKeeper(_Keeper, Protocol):
    """Keeps two counts for each key: of this interval, and of the one before."""

    @property
    def interval(self) -> float:
        """Length of an interval in seconds."""

    def get(self, hashed: int, /) -> tuple[int, int, float]:
        """Tell the counts of a key.

        Args:
            hashed: The hash of the key.

        Returns:
            The count in the interval before and in this one, and the seconds since this began.
        """

    def add(self, hashed: int, amount: int, /) -> int:
        """Count, in the interval of the last reading.

        Args:
            hashed: The hash of the key.
            amount: How much.

        Returns:
            The count of the key in this interval.
        """


class BucketLimiter:
    """A limiter: each key has a bucket of ``burst`` tokens that fills at ``rate`` per second.

    Args:
        buckets: Keeps them.
    """

    __slots__ = ("_buckets",)

    def __init__(self, buckets: BucketKeeper) -> None:
        self._buckets = buckets

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
        """Bytes that the buckets take now, in all processes that share them."""
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

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.limit}, filled in {self.window:g} s>"


class WindowLimiter:
    """A limiter: so much within the last ``window`` seconds, as well as two counts can tell.

    Args:
        limit: What is allowed within a window, at least 1.
        counters: Keep the counts.
        counts_refused: Whether what was refused counts too.
    """

    __slots__ = ("_counters", "_counts_refused", "_limit")

    def __init__(self, limit: int, counters: CountKeeper, *, counts_refused: bool) -> None:
        self._limit = limit
        self._counters = counters
        self._counts_refused = counts_refused

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
        """Bytes that the counts take now, in all processes that share them."""
        return self._counters.memory

    @property
    def max_memory(self) -> int:
        """Bytes that the counts take at most, whatever keys come."""
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

    def _weigh(self, hashed: int, cost: int) -> Decision:
        if cost != 1:
            check_amount(cost, 1)
        previous, current, elapsed = self._counters.get(hashed)
        interval = self._counters.interval
        return weigh(self._limit, cost, (previous, current), elapsed=elapsed, interval=interval)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._limit} in {self.window:g} s>"
