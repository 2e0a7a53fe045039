"""Counting events by key in a fixed amount of memory, however many keys there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, final

from pingora_limits._hashing import hash_key
from pingora_limits._sketch import HASHES, SLOTS_PER_KEY, Sketch

if TYPE_CHECKING:
    from pingora_limits._hashing import Key

__all__ = ["Estimator"]


@final
class Estimator:
    """A count-min sketch: estimates that are never too low, and seldom much too high.

    Not for use from several threads at once.

    Args:
        hashes: Rows of counters, at least 1. Each makes a wrong estimate rarer, and each call
            slower.
        slots: Counters in each row, at least 1. More make the error smaller.

    Raises:
        ValueError: If one of them is below 1.

    Examples:
        >>> estimator = Estimator.for_keys(1000)
        >>> estimator.incr("10.0.0.1", 2)
        2
        >>> estimator.decr("10.0.0.1", 1)
        >>> estimator.get("10.0.0.1")
        1

    Source: pingora-limits/src/estimator.rs.
    """

    __slots__ = ("_sketch",)

    def __init__(self, hashes: int, slots: int) -> None:
        self._sketch = Sketch(hashes, slots)

    @classmethod
    def for_keys(cls, expected_keys: int) -> Self:
        """Size one so that keys of equal weight are rarely mistaken for each other.

        Args:
            expected_keys: Keys that are counted at the same time, at least 1.

        Returns:
            An estimator of 64 bytes a key in which, with as many equal keys as expected, 1 in 40
            is over-estimated by another key's count or more.

        Raises:
            ValueError: If none are expected.
        """
        return cls(HASHES, SLOTS_PER_KEY * expected_keys)

    @property
    def memory(self) -> int:
        """Bytes that the counters take, now and for ever."""
        return self._sketch.memory

    @property
    def total(self) -> int:
        """The sum of all counts."""
        return self._sketch.total

    @property
    def error_bound(self) -> float:
        """By how much an estimate is too high at most, as things stand.

        The chance that one is above is at most e to the power of minus the number of rows: 1.8 %
        with four rows. It holds as long as no key was decreased below zero.
        """
        return self._sketch.error_bound

    def incr(self, key: Key, value: int = 1) -> int:
        """Increase the count of a key.

        Args:
            key: The key.
            value: By how much.

        Returns:
            The estimate after that.
        """
        return self._sketch.add(hash_key(key), value)

    def decr(self, key: Key, value: int = 1) -> None:
        """Decrease the count of a key that was increased before.

        Args:
            key: The key.
            value: By how much. To take away more than was added makes estimates of other keys
                too low.
        """
        self._sketch.add(hash_key(key), -value)

    def get(self, key: Key) -> int:
        """Estimate the count of a key.

        Args:
            key: The key.

        Returns:
            Its count, or more.
        """
        return self._sketch.get(hash_key(key))

    def reset(self) -> None:
        """Set all counts to zero."""
        self._sketch.clear()

    def __repr__(self) -> str:
        sketch = self._sketch
        return f"<{type(self).__name__} {sketch.hashes} x {sketch.slots}, total {sketch.total}>"
