"""The least recently used goes first: what the LRU managers have in common.

Theory of operation: each shard is a list, the one used last at its front; see
``pingora_cache._slots`` for why these are arrays. The limits hold for all shards together. To
evict, two shards are drawn, and the longer one gives up its last entry ("power of two choices"):
the shards stay about equally long, so that their last entries are about equally old.

Source: pingora-lru/src/lib.rs, pingora-cache/src/eviction/lru.rs and simple_lru.rs.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from pingora_cache._slots import Slots
from pingora_cache.eviction._accounts import Accounts, grown
from pingora_cache.eviction._keys import key_of, name_of

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator

    from pingora_cache.key import CompactCacheKey

__all__ = ["Recency"]

# What a call evicts at most: 2 ms. Whoever has the store removes them in the same turn.
_MOST_EVICTED: Final = 256


class Recency(Accounts):
    """An LRU manager of some shards."""

    __slots__ = ("_counts", "_heads", "_random", "_sums", "_total", "_watermark")

    def __init__(
        self, limit: int, shards: int, watermark: int | None, random: Random | None
    ) -> None:
        if shards < 1:
            msg = f"there is at least 1 shard, not {shards}"
            raise ValueError(msg)
        if watermark is not None and watermark < 1:
            msg = f"a watermark is at least 1 object, not {watermark}"
            raise ValueError(msg)
        super().__init__(limit, Slots(shards))
        self._watermark = watermark
        self._heads = shards
        self._counts = [0] * shards
        self._sums = [0] * shards
        self._total = 0
        self._random = Random() if random is None else random  # noqa: S311  # no secret

    @property
    def total_size(self) -> int:
        """What the objects come to together, bytes."""
        return self._total

    def admit(self, key: CompactCacheKey, size: int, fresh_until: float) -> list[CompactCacheKey]:  # noqa: ARG002
        """Account for an object that was stored, or stored anew; it is the one used last.

        Args:
            key: Its key.
            size: What it counts for, bytes.
            fresh_until: Not used.

        Returns:
            The keys to remove from the store: of those not used for the longest time, or ``key``
            itself if the object is larger than the limit.
        """
        name = name_of(key)
        return self._admit(name, self._keys.find(name), max(size, 1))

    def increment_weight(
        self, key: CompactCacheKey, delta: int, max_weight: int | None = None
    ) -> list[CompactCacheKey]:
        """Account for what was added to an object; for one that is not known, account for it.

        Args:
            key: Its key.
            delta: By how much it has grown, bytes.
            max_weight: What it counts for at most, bytes; it does not shrink because of this.
                None for any size.

        Returns:
            The keys to remove from the store, as of ``admit``.

        Raises:
            ValueError: If ``delta`` is negative.
        """
        name = name_of(key)
        slot = self._keys.find(name)
        before = 0 if slot is None else self._slots.weights[slot]
        return self._admit(name, slot, grown(before, delta, max_weight))

    def remove(self, key: CompactCacheKey) -> bool:
        """Forget an object that was removed from the store.

        Args:
            key: Its key.

        Returns:
            Whether it was known.
        """
        name = name_of(key)
        slot = self._keys.find(name)
        if slot is None:
            return False
        self._forget(name, slot)
        return True

    def access(self, key: CompactCacheKey, size: int, fresh_until: float) -> bool:  # noqa: ARG002
        """Note that an object was used; account for it from now on if it is not known.

        Args:
            key: Its key.
            size: What it counts for, bytes, if it is not known.
            fresh_until: Not used.

        Returns:
            Whether it was known.
        """
        name = name_of(key)
        hashed = hash(name)
        slot = self._keys.shards[hashed >> 48 & 255].get(name)
        head = hashed % self._heads
        if slot is None:
            slot = self._add(name, head, max(size, 1))
            self._slots.push_front(head, slot)
            return False
        self._slots.move_to_front(head, slot)
        return True

    def evict_to(self, size: int) -> list[CompactCacheKey]:
        """Make room beyond what the limit asks for.

        Args:
            size: What the objects may come to, bytes; they are evicted until they do.

        Returns:
            The keys to remove from the store, some hundreds at most.
        """
        return self._evict(max(size, 0)) if self._total > size else []

    def _admit(self, name: bytes, slot: int | None, weight: int) -> list[CompactCacheKey]:
        if weight > self._limit:
            # It would evict all the others, and then itself.
            if slot is not None:
                self._forget(name, slot)
            return [key_of(name), *self.evict_to(self._limit)]
        head = hash(name) % self._heads
        if slot is None:
            slot = self._add(name, head, weight)
            self._slots.push_front(head, slot)
        else:
            difference = weight - self._slots.weights[slot]
            self._slots.weights[slot] = weight
            self._sums[head] += difference
            self._total += difference
            self._slots.move_to_front(head, slot)
        watermark = self._watermark
        if self._total > self._limit or (watermark is not None and self._items > watermark):
            return self._evict(self._limit, slot)
        return []

    def _add(self, name: bytes, head: int, weight: int) -> int:
        slot = self._slots.take(weight)
        self._keys.add(name, slot)
        self._items += 1
        self._counts[head] += 1
        self._sums[head] += weight
        self._total += weight
        return slot

    def _forget(self, name: bytes, slot: int) -> int:
        weight = self._slots.weights[slot]
        head = hash(name) % self._heads
        self._keys.remove(name, slot)
        self._slots.unlink(slot)
        self._slots.give_back(slot)
        self._items -= 1
        self._counts[head] -= 1
        self._sums[head] -= weight
        self._total -= weight
        return weight

    def _evict(self, size: int, kept: int = -1) -> list[CompactCacheKey]:
        gone: list[CompactCacheKey] = []
        most = self._items if self._watermark is None else self._watermark
        while (self._total > size or self._items > most) and len(gone) < _MOST_EVICTED:
            head = self._draw()
            slot = self._slots.previous[head]
            if slot == kept:
                # All that its shard has, and there is more in others.
                slot = self._slots.previous[self._following(head)]
            name = self._keys.name(slot)
            self._evicted_size += self._forget(name, slot)
            gone.append(key_of(name))
        self._evicted_items += len(gone)
        return gone

    def _walk(self, links: array[int]) -> Iterator[int]:
        # One of each shard in turn: the shards are about equally long, and the next process will
        # spread the keys over them in another way.
        slots = [links[head] for head in range(self._heads)]
        walking = list(range(self._heads))
        while walking:
            for head in walking:
                if (slot := slots[head]) != head:
                    yield slot
                    slots[head] = links[slot]
            walking = [head for head in walking if slots[head] != head]

    def _restore(self, name: bytes, weight: int, state: int) -> None:  # noqa: ARG002
        head = hash(name) % self._heads
        self._slots.push_back(head, self._add(name, head, weight))

    def _draw(self) -> int:
        """Choose the shard that gives up an entry; there is one.

        Returns:
            One that is not empty.
        """
        heads = self._heads
        if heads == 1:
            return 0
        counts, random = self._counts, self._random.random
        one, other = int(random() * heads), int(random() * heads)
        head = one if counts[one] >= counts[other] else other
        return head if counts[head] else self._following(head)

    def _following(self, head: int) -> int:
        while True:
            head = (head + 1) % self._heads
            if self._counts[head]:
                return head
