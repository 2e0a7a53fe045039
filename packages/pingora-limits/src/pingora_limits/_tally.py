"""Counts by key: exact for the first so many keys, estimated for those that come after them.

Theory of operation: a key is either in the dict, where its count is the truth, or in the sketch,
where it is never too low; the decision falls when the key is first seen and stands until the tally
is cleared. The sketch thus carries only what the dict had no room for, and is not even there
before. Rules of this file: hashes come in, no key does; no I/O, no clock.
"""

from __future__ import annotations

import sys
from typing import Final, final

from pingora_limits._sketch import HASHES, SLOTS_PER_KEY, Sketch

__all__ = ["Geometry", "Tally", "check_amount"]

# A dict takes up to 60 bytes a key just after it has grown, and two integers 64.
_BYTES_A_KEY: Final = 124
_LARGEST_AMOUNT: Final = 2**32


def check_amount(amount: int, least: int = 0) -> None:
    """Refuse an amount that would break the counts.

    Args:
        amount: What is to be added.
        least: The smallest that makes sense.

    Raises:
        ValueError: If it is smaller, or above 4 Gi.
    """
    if not least <= amount <= _LARGEST_AMOUNT:
        msg = f"an amount to count is between {least} and {_LARGEST_AMOUNT}, not {amount}"
        raise ValueError(msg)


@final
class Geometry:
    """How large a tally is.

    Args:
        expected_keys: Keys that are expected at the same time, at least 1.
        exact_keys: Keys counted exactly; None for as many as are expected.
        hashes: Rows of the sketch for the others.
        slots: Counters in each row; None for two for each expected key.

    Attributes:
        exact_keys: Keys counted exactly.
        hashes: Rows of the sketch.
        slots: Counters in each row of it.

    Raises:
        ValueError: If a number is out of range.
    """

    __slots__ = ("exact_keys", "hashes", "slots")

    def __init__(
        self,
        expected_keys: int,
        exact_keys: int | None = None,
        hashes: int = HASHES,
        slots: int | None = None,
    ) -> None:
        if expected_keys < 1:
            msg = f"at least 1 key is expected, not {expected_keys}"
            raise ValueError(msg)
        self.exact_keys = expected_keys if exact_keys is None else exact_keys
        self.hashes = hashes
        self.slots = SLOTS_PER_KEY * expected_keys if slots is None else slots
        if self.exact_keys < 0:
            msg = f"the number of keys to count exactly is not negative ({exact_keys})"
            raise ValueError(msg)
        if hashes < 1 or self.slots < 1:
            msg = f"a sketch has at least 1 row and 1 slot, not {hashes} and {slots}"
            raise ValueError(msg)

    @property
    def max_memory(self) -> int:
        """Bytes that a tally of this size takes at most."""
        return 256 + _BYTES_A_KEY * self.exact_keys + 8 * self.hashes * self.slots


@final
class Tally:
    """Counts that only grow, until all of them are cleared.

    Args:
        geometry: How large it is.
    """

    __slots__ = ("_capacity", "_counts", "_geometry", "_sketch")

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._capacity = geometry.exact_keys
        self._counts: dict[int, int] = {}
        self._sketch: Sketch | None = None

    @property
    def memory(self) -> int:
        """Bytes that it takes now."""
        sketch = 0 if self._sketch is None else self._sketch.memory
        return sys.getsizeof(self._counts) + 64 * len(self._counts) + sketch

    @property
    def error_bound(self) -> float:
        """By how much a count is too high at most; 0 while all are exact."""
        return 0.0 if self._sketch is None else self._sketch.error_bound

    def add(self, hashed: int, amount: int) -> int:
        """Add to the count of a key.

        Args:
            hashed: The hash of the key.
            amount: How much, not negative.

        Returns:
            Its count now, or more.
        """
        counts = self._counts
        count = counts.get(hashed)
        if count is not None:
            counts[hashed] = count = count + amount
            return count
        if len(counts) < self._capacity:
            counts[hashed] = amount
            return amount
        if self._sketch is None:
            self._sketch = Sketch(self._geometry.hashes, self._geometry.slots)
        return self._sketch.raise_by(hashed, amount)

    def get(self, hashed: int) -> int:
        """Tell the count of a key.

        Args:
            hashed: The hash of the key.

        Returns:
            Its count, or more.
        """
        count = self._counts.get(hashed)
        if count is not None:
            return count
        return 0 if self._sketch is None else self._sketch.get(hashed)

    def clear(self) -> None:
        """Forget everything, and give the memory back."""
        self._counts = {}
        self._sketch = None
