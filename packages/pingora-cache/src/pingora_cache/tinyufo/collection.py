"""A bounded mapping that keeps what is asked for often."""

from __future__ import annotations

from collections.abc import MutableMapping
from itertools import chain
from typing import TYPE_CHECKING, Final, TypeVar, final, overload

from pingora_cache._entries import CHUNK_SHIFT, Entries
from pingora_cache.evicted import Evicted
from pingora_cache.tinyufo._queues import Queues
from pingora_cache.tinyufo._sketch import Sketch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["TinyUfo"]

_K = TypeVar("_K")
_V = TypeVar("_V")
_T = TypeVar("_T")

_SHARDS: Final = 256
_LEAST_KEYS: Final = 1024
_MOST_KEYS: Final = 65536


@final
class TinyUfo(MutableMapping[_K, _V]):
    """A bounded mapping: S3-FIFO decides what goes, and TinyLFU what comes in.

    Where requests are of very different popularity, as they are on the Web, it has clearly more
    hits than an LRU of the same size, and a hit costs less. ``put`` may refuse a newcomer that was
    asked for less often than what would have to go for it; ``force_put`` and ``cache[key] = value``
    never do.

    ``get`` and ``cache[key]`` count as a use; ``in``, ``peek`` and iteration do not. Not for several
    threads at once. Keys need be hashable, and are told apart by equality.

    Args:
        limit: What all values may weigh together; with weights of 1, which is the default, how
            many there may be.
        expected_items: How many there will be. Uses of so many keys are told apart at first; the
            table for that grows as they come. None for the limit, up to 65,536.

    Raises:
        ValueError: If one of them is below 1.

    Examples:
        >>> cache = TinyUfo[str, int](2)
        >>> cache["a"] = 1
        >>> cache["b"] = 2
        >>> cache["a"] + cache["a"]
        2
        >>> cache.put("c", 3)
        [Evicted(key='b', value=2, weight=1)]

    Source: tinyufo/src/lib.rs. There, the hash of a key is its identity, so that two keys can be
    taken for one another.
    """

    __slots__ = (
        "_entries",
        "_index",
        "_items",
        "_queues",
        "_sketch",
        "_states",
        "_used",
        "_values",
    )

    def __init__(self, limit: int, *, expected_items: int | None = None) -> None:
        if limit < 1:
            msg = f"a limit is at least 1, not {limit}"
            raise ValueError(msg)
        if expected_items is None:
            expected_items = min(limit, _MOST_KEYS)
        elif expected_items < 1:
            msg = f"at least 1 key is expected, not {expected_items}"
            raise ValueError(msg)
        self._sketch = Sketch(expected_items)
        self._reset(limit)

    def _reset(self, limit: int) -> None:
        # Split, so that none is so large that its growth would be noticed; see eviction._keys.
        self._index: tuple[dict[_K, int], ...] = tuple({} for _ in range(_SHARDS))
        self._queues = Queues(limit)
        self._states = self._queues.states
        self._used = self._queues.used
        self._entries = Entries[_K, _V]()
        self._values = self._entries.values
        self._items = 0

    @property
    def limit(self) -> int:
        """What all values may weigh together."""
        return self._queues.limit

    @property
    def weight(self) -> int:
        """What all values weigh together, never more than the limit."""
        return self._queues.small_weight + self._queues.main_weight

    # ------------------------------------------------------------------------ reading

    @overload
    def get(self, key: _K, /) -> _V | None: ...
    @overload
    def get(self, key: _K, /, default: _V) -> _V: ...
    @overload
    def get(self, key: _K, /, default: _T) -> _V | _T: ...
    def get(self, key: _K, /, default: _V | _T | None = None) -> _V | _T | None:
        """Look a value up, which counts as a use.

        Args:
            key: The key.
            default: What to return if there is none.

        Returns:
            The value or the default.
        """
        # A hash of a tuple is mixed well; that of an integer is the integer.
        slot = self._index[hash((key,)) >> 48 & 255].get(key)
        if slot is None:
            return default
        states = self._states
        states[slot] = self._used[states[slot]]
        return self._values[slot >> CHUNK_SHIFT][slot]

    @overload
    def peek(self, key: _K, /) -> _V | None: ...
    @overload
    def peek(self, key: _K, /, default: _V) -> _V: ...
    @overload
    def peek(self, key: _K, /, default: _T) -> _V | _T: ...
    def peek(self, key: _K, /, default: _V | _T | None = None) -> _V | _T | None:
        """Look a value up without counting it as a use.

        Args:
            key: The key.
            default: What to return if there is none.

        Returns:
            The value or the default.
        """
        slot = self._find(key)
        return default if slot is None else self._values[slot >> CHUNK_SHIFT][slot]

    def weight_of(self, key: _K) -> int | None:
        """Tell the weight of a value.

        Args:
            key: Its key.

        Returns:
            The weight; None if there is none.
        """
        slot = self._find(key)
        return None if slot is None else self._queues.slots.weights[slot]

    # ------------------------------------------------------------------------ writing

    def put(self, key: _K, value: _V, weight: int = 1) -> list[Evicted[_K, _V]]:
        """Put a value in, if it is worth its room.

        Args:
            key: Its key.
            value: The value.
            weight: Its weight, at least 1.

        Returns:
            What had to go; this very value, if it was refused, or is heavier than the limit.

        Raises:
            ValueError: If the weight is below 1.
        """
        return self._put(key, value, weight, is_forced=False)

    def force_put(self, key: _K, value: _V, weight: int = 1) -> list[Evicted[_K, _V]]:
        """Put a value in, also if it was hardly ever asked for.

        For values that somebody waits for. Many of them cost hits, up to half a point.

        Args:
            key: Its key.
            value: The value.
            weight: Its weight, at least 1.

        Returns:
            What had to go; this very value only if it is heavier than the limit.

        Raises:
            ValueError: If the weight is below 1.
        """
        return self._put(key, value, weight, is_forced=True)

    def remove(self, key: _K) -> _V | None:
        """Remove a value.

        Args:
            key: Its key.

        Returns:
            The value; None if there is none.
        """
        slot = self._find(key)
        if slot is None:
            return None
        self._queues.unlink(slot)
        return self._release(slot).value

    def clear(self) -> None:
        """Remove all values; how often their keys were asked for is not forgotten."""
        self._reset(self.limit)

    def _find(self, key: _K) -> int | None:
        return self._index[hash((key,)) >> 48 & 255].get(key)

    def _put(self, key: _K, value: _V, weight: int, *, is_forced: bool) -> list[Evicted[_K, _V]]:
        if weight < 1:
            msg = f"a weight is at least 1, not {weight}"
            raise ValueError(msg)
        count = self._sketch.add(hash(key))
        slot = self._find(key)
        if weight > self._queues.limit:
            if slot is not None:
                self._queues.unlink(slot)
                self._release(slot)
            return [Evicted(key, value, weight)]
        if slot is not None:
            return self._replace(slot, value, weight, is_forced=is_forced)
        queues = self._queues
        slots = queues.evict(queues.limit - weight)
        if len(slots) == 1 and not is_forced:
            slot = slots[0]
            if self._sketch.get(hash(self._entries.key(slot))) > count:
                queues.put_back(slot)
                return [Evicted(key, value, weight)]
        gone = [self._release(slot) for slot in slots] + self._evict(weight)
        self._add(key, value, weight)
        return gone

    def _add(self, key: _K, value: _V, weight: int) -> None:
        slot = self._queues.add(weight)
        self._index[hash((key,)) >> 48 & 255][key] = slot
        self._entries.put(slot, key, value)
        self._items += 1
        if self._items > self._sketch.keys:
            self._sketch.grow(self._items)

    def _replace(
        self, slot: int, value: _V, weight: int, *, is_forced: bool
    ) -> list[Evicted[_K, _V]]:
        queues = self._queues
        self._values[slot >> CHUNK_SHIFT][slot] = value
        queues.use(slot)
        if not is_forced:
            queues.weigh(slot, weight)
            return self._evict(0)
        # Out of its queue, so that it is not what goes.
        queues.unlink(slot)
        queues.slots.weights[slot] = weight
        gone = self._evict(weight)
        queues.link(slot)
        return gone

    def _evict(self, weight: int) -> list[Evicted[_K, _V]]:
        # All of it, however long that takes: a collection is never above its limit.
        gone: list[Evicted[_K, _V]] = []
        room = self._queues.limit - weight
        while self.weight > room:
            gone += map(self._release, self._queues.evict(room))
        return gone

    def _release(self, slot: int) -> Evicted[_K, _V]:
        slots = self._queues.slots
        entry = self._entries.get(slot, slots.weights[slot])
        del self._index[hash((entry.key,)) >> 48 & 255][entry.key]
        self._entries.clear(slot)
        slots.give_back(slot)
        self._items -= 1
        return entry

    # ------------------------------------------------------------------------ a mapping

    def __getitem__(self, key: _K) -> _V:
        slot = self._find(key)
        if slot is None:
            raise KeyError(key)
        self._queues.use(slot)
        return self._values[slot >> CHUNK_SHIFT][slot]

    def __setitem__(self, key: _K, value: _V) -> None:
        self.force_put(key, value)

    def __delitem__(self, key: _K) -> None:
        slot = self._find(key)
        if slot is None:
            raise KeyError(key)
        self._queues.unlink(slot)
        self._release(slot)

    def __contains__(self, key: object) -> bool:
        return key in self._index[hash((key,)) >> 48 & 255]

    def __iter__(self) -> Iterator[_K]:
        return chain.from_iterable(self._index)

    def __len__(self) -> int:
        return self._items

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} values, weight {self.weight}/{self.limit}>"
