"""TinyUFO as an eviction manager."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from pingora_cache.eviction._accounts import Accounts, grown
from pingora_cache.eviction._keys import key_of, name_of
from pingora_cache.tinyufo._queues import Queues
from pingora_cache.tinyufo._sketch import Sketch

if TYPE_CHECKING:
    from array import array
    from collections.abc import Collection, Iterator

    from pingora_cache.key import CompactCacheKey

__all__ = ["TinyUfoEviction"]

_LEAST_KEYS = 1024


@final
class TinyUfoEviction(Accounts):
    """Keeps what is asked for often, by the rules of ``pingora_cache.tinyufo``.

    Of all managers it has the most hits, and the cheapest. It may refuse an object: if room for it
    would cost one that has been asked for more often, ``admit`` returns the new one's key.

    Args:
        limit: What all objects may come to together, bytes.
        expected_items: How many objects there will be, if that is known. With more, or without it,
            the table that counts requests grows as they come, for up to a million. It takes 16
            bytes for each.

    Raises:
        ValueError: If one of them is below 1.

    Examples:
        >>> from pingora_cache.key import CompactCacheKey
        >>> manager = TinyUfoEviction(1000)
        >>> logo, page = CompactCacheKey(b"logo" * 4), CompactCacheKey(b"page" * 4)
        >>> manager.admit(logo, 800, fresh_until=0.0)
        []
        >>> [key == logo for key in manager.admit(page, 300, fresh_until=0.0)]
        [True]
        >>> manager.total_size
        300

    Source: tinyufo/src/lib.rs, there for memory caches only.
    """

    __slots__ = ("_queues", "_sketch")

    _FILE = "tinyufo.data"

    def __init__(self, limit: int, *, expected_items: int = _LEAST_KEYS) -> None:
        if expected_items < 1:
            msg = f"at least 1 object is expected, not {expected_items}"
            raise ValueError(msg)
        self._queues = Queues(limit)
        super().__init__(limit, self._queues.slots)
        self._sketch = Sketch(max(expected_items, _LEAST_KEYS))

    @property
    def total_size(self) -> int:
        """What the objects come to together, bytes."""
        return self._queues.small_weight + self._queues.main_weight

    def admit(self, key: CompactCacheKey, size: int, fresh_until: float) -> list[CompactCacheKey]:  # noqa: ARG002
        """Account for an object that was stored, or stored anew.

        Args:
            key: Its key.
            size: What it counts for, bytes.
            fresh_until: Not used.

        Returns:
            The keys to remove from the store. ``key`` itself is among them if the object is larger
            than the limit, or was asked for less often than what would have to go.
        """
        name = name_of(key)
        weight = max(size, 1)
        slot = self._keys.find(name)
        if slot is None:
            return self._admit_new(name, weight)
        return self._weigh(name, slot, weight)

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
            The keys to remove from the store.

        Raises:
            ValueError: If ``delta`` is negative.
        """
        name = name_of(key)
        slot = self._keys.find(name)
        if slot is None:
            return self._admit_new(name, grown(0, delta, max_weight))
        weight = grown(self._slots.weights[slot], delta, max_weight)
        return self._weigh(name, slot, weight)

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
        slot = self._keys.shards[hash(name) >> 48 & 255].get(name)
        if slot is None:
            self._add(name, max(size, 1))
            return False
        queues = self._queues
        states = queues.states
        states[slot] = queues.used[states[slot]]
        return True

    def evict_to(self, size: int) -> list[CompactCacheKey]:
        """Make room beyond what the limit asks for.

        Args:
            size: What the objects may come to, bytes; they are evicted until they do.

        Returns:
            The keys to remove from the store, some hundreds at most.
        """
        evicted = self._queues.evict(size)
        return self._drop(evicted) if evicted else []

    def _admit_new(self, name: bytes, weight: int) -> list[CompactCacheKey]:
        queues, sketch = self._queues, self._sketch
        count = sketch.add(hash(name))
        if weight > self._limit:
            return [key_of(name), *self.evict_to(self._limit)]
        # What ``access`` added may have passed the limit: then something has to go in any case.
        within = self.total_size <= self._limit
        evicted = queues.evict(self._limit - weight)
        if within and len(evicted) == 1 and sketch.get(hash(self._keys.name(evicted[0]))) > count:
            queues.put_back(evicted[0])
            return [key_of(name)]
        gone = self._drop(evicted) if evicted else []
        self._add(name, weight)
        return gone

    def _add(self, name: bytes, weight: int) -> int:
        slot = self._queues.add(weight)
        self._keys.add(name, slot)
        self._items += 1
        if self._items > self._sketch.keys:
            self._sketch.grow(self._items)
        return slot

    def _weigh(self, name: bytes, slot: int, weight: int) -> list[CompactCacheKey]:
        self._sketch.add(hash(name))
        if weight > self._limit:
            self._forget(name, slot)
            return [key_of(name), *self.evict_to(self._limit)]
        self._queues.use(slot)
        self._queues.weigh(slot, weight)
        return self.evict_to(self._limit)

    def _forget(self, name: bytes, slot: int) -> None:
        self._keys.remove(name, slot)
        self._queues.unlink(slot)
        self._slots.give_back(slot)
        self._items -= 1

    def _walk(self, links: array[int]) -> Iterator[int]:
        return Queues.walk(links)

    def _states(self, slots: Collection[int]) -> bytes:
        return bytes(map(self._queues.states.__getitem__, slots))

    def _restore(self, name: bytes, weight: int, state: int) -> None:
        self._queues.restore(self._add(name, weight), state)

    def _drop(self, slots: list[int]) -> list[CompactCacheKey]:
        gone = []
        places, keys = self._slots, self._keys
        for slot in slots:
            name = keys.name(slot)
            keys.remove(name, slot)
            self._evicted_size += places.weights[slot]
            places.give_back(slot)
            gone.append(key_of(name))
        self._items -= len(slots)
        self._evicted_items += len(slots)
        return gone
