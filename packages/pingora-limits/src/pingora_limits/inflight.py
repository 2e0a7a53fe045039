"""How much of something is going on right now, by key; what has ended is subtracted by itself.

Theory of operation: a key has its count in a dict for as long as something of it is in flight, so
that the dict is as large as what is going on. Beyond its bound, keys share a sketch. A guard
remembers on which of the two sides it was counted, and its amount leaves from there; a key can be
on both after the dict had been full for a while, and then its estimate is the sum.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, Protocol, Self, final

from pingora_limits._hashing import hash_key
from pingora_limits._sketch import HASHES, SLOTS_PER_KEY, Sketch
from pingora_limits._tally import check_amount

if TYPE_CHECKING:
    from pingora_limits._hashing import Key

__all__ = ["Guard", "Inflight"]

_BYTES_A_KEY: Final = 124


class _Side(Protocol):
    """Where an amount is counted."""

    def add(self, hashed: int, amount: int, /) -> int: ...


class _Counter(Protocol):
    """What knows the sum of all sides."""

    def count(self, hashed: int) -> int: ...


@final
class _Exact:
    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}

    def add(self, hashed: int, amount: int, /) -> int:
        # No call in here: a garbage collection could come with it, and release another guard of
        # the same key in between.
        counts = self.counts
        if hashed not in counts:
            counts[hashed] = count = amount
            return count
        count = counts[hashed] + amount
        if count:
            counts[hashed] = count
        else:
            del counts[hashed]
        return count


@final
class Inflight:
    """Counts by key of what is going on.

    Keys are counted exactly up to ``expected_keys`` of them at a time; those beyond share a sketch
    of fixed size, where a count is never too low. Not for use from several threads at once; over
    worker processes use ``SharedInflight``.

    Args:
        expected_keys: Keys that are in flight at the same time and counted exactly, at least 1.

    Raises:
        ValueError: If no keys are expected.

    Examples:
        >>> inflight = Inflight()
        >>> guard, count = inflight.incr("10.0.0.1")
        >>> with guard:
        ...     inflight.get("10.0.0.1")
        1
        >>> inflight.get("10.0.0.1")
        0

    Source: pingora-limits/src/inflight.rs.
    """

    __slots__ = ("_capacity", "_exact", "_sketch")

    def __init__(self, expected_keys: int = 10_000) -> None:
        if expected_keys < 1:
            msg = f"at least 1 key is expected, not {expected_keys}"
            raise ValueError(msg)
        self._capacity = expected_keys
        self._exact = _Exact()
        self._sketch: Sketch | None = None

    @property
    def memory(self) -> int:
        """Bytes that the counts take now."""
        counts = self._exact.counts
        sketch = 0 if self._sketch is None else self._sketch.memory
        return sys.getsizeof(counts) + 64 * len(counts) + sketch

    @property
    def max_memory(self) -> int:
        """Bytes that the counts take at most, whatever keys come; guards not included."""
        return 256 + (_BYTES_A_KEY + 8 * HASHES * SLOTS_PER_KEY) * self._capacity

    @property
    def error_bound(self) -> float:
        """By how much a count is too high at most; 0 while all are exact."""
        return 0.0 if self._sketch is None else self._sketch.error_bound

    def incr(self, key: Key, value: int = 1) -> tuple[Guard, int]:
        """Count something that begins.

        Args:
            key: What it belongs to.
            value: How much it is, from 1 to 4 Gi.

        Returns:
            A guard to release when it ends, and the count of the key with this included. The count
            falls also when the guard is dropped.

        Raises:
            TypeError: If the key is of another type.
            ValueError: If the value is out of range; nothing was counted.
        """
        if value != 1:
            check_amount(value, 1)
        hashed = hash_key(key)
        exact = self._exact
        counts = exact.counts
        if hashed not in counts and len(counts) >= self._capacity:
            sketch = self._need_sketch()
            return Guard(self, sketch, hashed, value), sketch.add(hashed, value)
        count = exact.add(hashed, value)
        if self._sketch is not None and self._sketch.total:
            count += self._sketch.get(hashed)
        return Guard(self, exact, hashed, value), count

    def get(self, key: Key) -> int:
        """Tell what is in flight.

        Args:
            key: The key.

        Returns:
            Its count.
        """
        return self.count(hash_key(key))

    def count(self, hashed: int) -> int:
        """Tell what is in flight of a key of which only the hash is known.

        Args:
            hashed: The hash of the key.

        Returns:
            Its count.
        """
        count = self._exact.counts.get(hashed, 0)
        if self._sketch is not None and self._sketch.total:
            count += self._sketch.get(hashed)
        return count

    def _need_sketch(self) -> Sketch:
        if self._sketch is None:
            self._sketch = Sketch(HASHES, SLOTS_PER_KEY * self._capacity)
        return self._sketch

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self._exact.counts)} keys, {self.memory} bytes>"


@final
class Guard:
    """What is in flight until this is released, or left as a context manager, or dropped.

    The amount is subtracted exactly once, whichever comes first. `Inflight.incr` makes it.

    Args:
        counter: What counts.
        side: The part of it that the amount was added to.
        hashed: The key, hashed.
        amount: What was added.

    Source: pingora-limits/src/inflight.rs. Unlike there, what ``incr`` adds is subtracted too.
    """

    __slots__ = ("_amount", "_counter", "_hashed", "_side")

    def __init__(self, counter: _Counter, side: _Side, hashed: int, amount: int) -> None:
        self._counter = counter
        self._side: _Side | None = side
        self._hashed = hashed
        self._amount = amount

    @property
    def amount(self) -> int:
        """What this guard holds; 0 after its release."""
        return self._amount

    def incr(self, value: int = 1) -> int:
        """Count more of the same; the release gives back all of it.

        Args:
            value: How much more, from 1 to 4 Gi.

        Returns:
            The count of the key now.

        Raises:
            RuntimeError: If the guard was released.
            ValueError: If the value is out of range.
        """
        check_amount(value, 1)
        if self._side is None:
            msg = "this guard was released already"
            raise RuntimeError(msg)
        self._side.add(self._hashed, value)
        self._amount += value
        return self._counter.count(self._hashed)

    def get(self) -> int:
        """Tell what is in flight of the key of this guard.

        Returns:
            Its count.
        """
        return self._counter.count(self._hashed)

    def release(self) -> None:
        """Subtract what this guard holds; does nothing the second time."""
        side = self._side
        if side is not None:
            self._side = None
            side.add(self._hashed, -self._amount)
            self._amount = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._amount}>"
