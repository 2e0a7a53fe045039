"""Keys and values by the number of their place; the places are those of ``_slots``."""

from __future__ import annotations

from typing import Generic, TypeVar, final

from pingora_cache.evicted import Evicted

__all__ = ["Entries"]

_K = TypeVar("_K")
_V = TypeVar("_V")


@final
class Entries(Generic[_K, _V]):
    """Two lists.

    Args:
        heads: How many of the first places have no entry.

    Attributes:
        keys: The keys.
        values: The values; for reading, and for replacing one.
    """

    __slots__ = ("keys", "values")

    def __init__(self, heads: int) -> None:
        self.keys: list[_K] = [None] * heads  # type: ignore[list-item]
        self.values: list[_V] = [None] * heads  # type: ignore[list-item]

    def put(self, slot: int, key: _K, value: _V) -> None:
        """Put an entry in a place.

        Args:
            slot: The place: one that was used before, or the first that was not.
            key: The key.
            value: The value.
        """
        if slot == len(self.keys):
            self.keys.append(key)
            self.values.append(value)
        else:
            self.keys[slot] = key
            self.values[slot] = value

    def get(self, slot: int, weight: int) -> Evicted[_K, _V]:
        """Tell what is in a place.

        Args:
            slot: The place.
            weight: The weight of its entry.

        Returns:
            Its entry.
        """
        return Evicted(self.keys[slot], self.values[slot], weight)

    def clear(self, slot: int) -> None:
        """Let go of what is in a place.

        Args:
            slot: The place.
        """
        self.keys[slot] = None  # type: ignore[assignment]
        self.values[slot] = None  # type: ignore[assignment]
