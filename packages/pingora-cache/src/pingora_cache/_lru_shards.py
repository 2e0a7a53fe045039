"""The shards of an LRU: places in lists, and the dictionaries that lead to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, final

from pingora_cache._entries import Entries
from pingora_cache._slots import Slots

if TYPE_CHECKING:
    from random import Random

    from pingora_cache.evicted import Evicted

__all__ = ["LruShards"]

_K = TypeVar("_K")
_V = TypeVar("_V")


@final
class LruShards(Generic[_K, _V]):
    """Shards and their sums; the entry used last is at the front of its shard.

    Args:
        shards: How many.
        random: Draws the shards that are compared.

    Attributes:
        counts: How many entries each shard has.
        sums: What the entries of each shard weigh.
        items: How many entries there are.
        weight: What they weigh.
        slots: Their places.
        entries: What is in the places.
    """

    __slots__ = ("_index", "_random", "counts", "entries", "items", "slots", "sums", "weight")

    def __init__(self, shards: int, random: Random) -> None:
        self._index: tuple[dict[_K, int], ...] = tuple({} for _ in range(shards))
        self._random = random
        self.slots = Slots(shards)
        self.entries = Entries[_K, _V]()
        self.counts = [0] * shards
        self.sums = [0] * shards
        self.items = 0
        self.weight = 0

    def find(self, key: _K) -> tuple[int, int | None]:
        """Find an entry.

        Args:
            key: Its key.

        Returns:
            The shard of the key, and the place of the entry; None if there is none.
        """
        shard = hash(key) % len(self._index)
        return shard, self._index[shard].get(key)

    def add(self, shard: int, key: _K, value: _V, weight: int) -> int:
        """Add an entry that is not there, to no list yet.

        Args:
            shard: The shard of the key.
            key: The key.
            value: The value.
            weight: Its weight.

        Returns:
            Its place.
        """
        slot = self.slots.take(weight)
        self._index[shard][key] = slot
        self.entries.put(slot, key, value)
        self.counts[shard] += 1
        self.sums[shard] += weight
        self.items += 1
        self.weight += weight
        return slot

    def weigh(self, shard: int, slot: int, weight: int) -> None:
        """Change the weight of an entry.

        Args:
            shard: Its shard.
            slot: Its place.
            weight: The new weight.
        """
        difference = weight - self.slots.weights[slot]
        self.slots.weights[slot] = weight
        self.sums[shard] += difference
        self.weight += difference

    def remove(self, shard: int, slot: int) -> Evicted[_K, _V]:
        """Remove an entry.

        Args:
            shard: Its shard.
            slot: Its place.

        Returns:
            The entry.
        """
        entry = self.entry(slot)
        del self._index[shard][entry.key]
        self.entries.clear(slot)
        self.slots.unlink(slot)
        self.slots.give_back(slot)
        self.counts[shard] -= 1
        self.sums[shard] -= entry.weight
        self.items -= 1
        self.weight -= entry.weight
        return entry

    def entry(self, slot: int) -> Evicted[_K, _V]:
        """Tell what is in a place.

        Args:
            slot: The place.

        Returns:
            The entry.
        """
        return self.entries.get(slot, self.slots.weights[slot])

    def draw(self) -> int:
        """Draw two shards and choose the longer one.

        Returns:
            Its number. If both are empty, the next one that is not, if there is one.
        """
        counts, random = self.counts, self._random.random
        shards = len(counts)
        if shards == 1:
            return 0
        one, other = int(random() * shards), int(random() * shards)
        shard = one if counts[one] >= counts[other] else other
        for following in range(shard, shard + shards):
            if counts[following % shards]:
                return following % shards
        return shard
