"""Keys and values by the number of their place; the places are those of ``_slots``.

Theory of operation: a list of a million entries is nothing to keep, but something to walk through:
the garbage collector looks at each of them whenever it looks at everything, which stops the program
for 30 ms. A dictionary that holds nothing but numbers and text it leaves out. So there is one for
each few thousand places, which is also as much as moves when one of them grows.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar, final

from pingora_cache.evicted import Evicted

__all__ = ["CHUNK_SHIFT", "Entries"]

_K = TypeVar("_K")
_V = TypeVar("_V")

CHUNK_SHIFT: Final = 12
"""What a place is shifted by to get the number of its chunk."""


@final
class Entries(Generic[_K, _V]):
    """Keys and values, in chunks of some thousand places.

    Attributes:
        keys: The keys of each chunk, by place.
        values: The values of each chunk, by place; for reading, and for replacing one.
    """

    __slots__ = ("keys", "values")

    def __init__(self) -> None:
        self.keys: list[dict[int, _K]] = [{}]
        self.values: list[dict[int, _V]] = [{}]

    def put(self, slot: int, key: _K, value: _V) -> None:
        """Put an entry in a place that has none.

        Args:
            slot: The place: one that was used before, or the first that was not.
            key: The key.
            value: The value.
        """
        chunk = slot >> CHUNK_SHIFT
        if chunk == len(self.keys):
            self.keys.append({})
            self.values.append({})
        self.keys[chunk][slot] = key
        self.values[chunk][slot] = value

    def key(self, slot: int) -> _K:
        """Tell the key in a place.

        Args:
            slot: The place.

        Returns:
            The key.
        """
        return self.keys[slot >> CHUNK_SHIFT][slot]

    def get(self, slot: int, weight: int) -> Evicted[_K, _V]:
        """Tell what is in a place.

        Args:
            slot: The place.
            weight: The weight of its entry.

        Returns:
            Its entry.
        """
        chunk = slot >> CHUNK_SHIFT
        return Evicted(self.keys[chunk][slot], self.values[chunk][slot], weight)

    def clear(self, slot: int) -> None:
        """Let go of what is in a place.

        Args:
            slot: The place.
        """
        chunk = slot >> CHUNK_SHIFT
        del self.keys[chunk][slot], self.values[chunk][slot]
