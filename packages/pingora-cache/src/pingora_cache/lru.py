"""A weighted LRU in shards.

Theory of operation: each shard has a list, the entry used last at its front, and a dictionary that
leads to the places in it. The limits hold for all shards together. To evict, two shards are drawn,
and the longer one gives up its last entry ("power of two choices"), so that the shards stay about
equally long and their last entries about equally old. With one shard it is an exact LRU.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Generic, TypeVar, final

from pingora_cache._entries import CHUNK_SHIFT
from pingora_cache._lru_shards import LruShards
from pingora_cache.evicted import Evicted

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Lru"]

_K = TypeVar("_K")
_V = TypeVar("_V")


@final
class Lru(Generic[_K, _V]):
    """Keeps what was used last, up to a limit of weight.

    Not for several threads at once. Keys need be hashable, and are told apart by equality.

    Args:
        limit: What all values may weigh together, at least 1.
        shards: How many lists, at least 1. With more than one, what goes is not exactly what was
            used the longest ago, and a million entries grow without a noticeable pause.
        watermark: How many values there may be, at least 1; None for any number.
        random: Draws the shards that are compared; None for one of its own.

    Raises:
        ValueError: If one of the numbers is below 1.

    Examples:
        >>> lru = Lru[str, bytes](10)
        >>> lru.admit("a", b"value", 6)
        []
        >>> lru.admit("b", b"other", 6)
        [Evicted(key='a', value=b'value', weight=6)]

    Source: pingora-lru/src/lib.rs. There, keys are hashes, and ``admit`` evicts nothing: that is
    ``insert`` here.
    """

    __slots__ = ("_evicted_len", "_evicted_weight", "_limit", "_shards", "_watermark")

    def __init__(
        self,
        limit: int,
        *,
        shards: int = 1,
        watermark: int | None = None,
        random: Random | None = None,
    ) -> None:
        if limit < 1 or shards < 1 or (watermark is not None and watermark < 1):
            msg = f"at least 1: limit {limit}, shards {shards}, watermark {watermark}"
            raise ValueError(msg)
        self._limit = limit
        self._watermark = watermark
        draws = Random() if random is None else random  # noqa: S311  # no secret
        self._shards = LruShards[_K, _V](shards, draws)
        self._evicted_weight = 0
        self._evicted_len = 0

    # ----------------------------------------------------------------------- counting

    @property
    def limit(self) -> int:
        """What all values may weigh together."""
        return self._limit

    @property
    def weight(self) -> int:
        """What all values weigh together."""
        return self._shards.weight

    @property
    def evicted_weight(self) -> int:
        """What all values evicted so far weighed."""
        return self._evicted_weight

    @property
    def evicted_len(self) -> int:
        """How many values have been evicted so far."""
        return self._evicted_len

    @property
    def shards(self) -> int:
        """How many lists there are."""
        return len(self._shards.counts)

    def shard_of(self, key: _K) -> int:
        """Tell which shard a key belongs to.

        Args:
            key: The key.

        Returns:
            The number of the shard.
        """
        return hash(key) % len(self._shards.counts)

    def shard_len(self, shard: int) -> int:
        """Tell how many values a shard has.

        Args:
            shard: Its number.

        Returns:
            How many.
        """
        return self._shards.counts[shard]

    def shard_weight(self, shard: int) -> int:
        """Tell what the values of a shard weigh.

        Args:
            shard: Its number.

        Returns:
            Their weight together.
        """
        return self._shards.sums[shard]

    def __len__(self) -> int:
        return self._shards.items

    # ------------------------------------------------------------------------ putting

    def admit(self, key: _K, value: _V, weight: int = 1) -> list[Evicted[_K, _V]]:
        """Put a value in as the one used last, and evict down to the limits.

        Args:
            key: Its key.
            value: The value; it replaces the key's old one.
            weight: Its weight; 0 counts as 1.

        Returns:
            What had to go; this very value, and no other, if it is heavier than the limit.

        Raises:
            ValueError: If the weight is negative.
        """
        if weight > self._limit:
            self.remove(key)
            return [Evicted(key, value, weight)]
        self.insert(key, value, weight)
        return self.evict_to_limit()

    def insert(self, key: _K, value: _V, weight: int = 1) -> int:
        """Put a value in as the one used last, and evict nothing.

        Args:
            key: Its key.
            value: The value; it replaces the key's old one.
            weight: Its weight; 0 counts as 1.

        Returns:
            The number of its shard.

        Raises:
            ValueError: If the weight is negative.
        """
        weight = _checked(weight) or 1
        shard, slot = self._shards.find(key)
        if slot is None:
            self._shards.slots.push_front(shard, self._shards.add(shard, key, value, weight))
        else:
            self._shards.entries.values[slot >> CHUNK_SHIFT][slot] = value
            self._shards.weigh(shard, slot, weight)
            self._shards.slots.move_to_front(shard, slot)
        return shard

    def insert_tail(self, key: _K, value: _V, weight: int = 1) -> bool:
        """Put a value in as the one used the longest ago, if its key is not there.

        Args:
            key: Its key.
            value: The value.
            weight: Its weight, which may be 0.

        Returns:
            Whether it was put in.

        Raises:
            ValueError: If the weight is negative.
        """
        shard, slot = self._shards.find(key)
        if slot is not None:
            return False
        self._shards.slots.push_back(shard, self._shards.add(shard, key, value, _checked(weight)))
        return True

    def increment_weight(self, key: _K, delta: int, max_weight: int | None = None) -> int:
        """Make a value heavier and the one used last; this evicts nothing.

        Args:
            key: Its key.
            delta: By how much.
            max_weight: What it weighs at most after that, also if it weighed more before.

        Returns:
            Its weight now; 0 if it is not there.

        Raises:
            ValueError: If ``delta`` is negative.
        """
        shard, slot = self._shards.find(key)
        if slot is None:
            return 0
        weight = self._shards.slots.weights[slot] + _checked(delta)
        if max_weight is not None:
            weight = min(weight, max_weight)
        self._shards.weigh(shard, slot, weight)
        self._shards.slots.move_to_front(shard, slot)
        return weight

    # -------------------------------------------------------------------------- using

    def get(self, key: _K) -> _V | None:
        """Look a value up; it is the one used last from now on.

        Args:
            key: Its key.

        Returns:
            The value; None if it is not there.
        """
        shard, slot = self._shards.find(key)
        if slot is None:
            return None
        self._shards.slots.move_to_front(shard, slot)
        return self._shards.entries.values[slot >> CHUNK_SHIFT][slot]

    def promote(self, key: _K) -> bool:
        """Make a value the one used last.

        Args:
            key: Its key.

        Returns:
            Whether it is there.
        """
        return self.promote_top_n(key, 0)

    def promote_top_n(self, key: _K, top: int) -> bool:
        """Make a value the one used last, unless it is among those used last already.

        Args:
            key: Its key.
            top: How many of its shard count as used last.

        Returns:
            Whether it is there.
        """
        shard, slot = self._shards.find(key)
        if slot is None:
            return False
        following = self._shards.slots.next
        place = shard
        for _ in range(top):
            place = following[place]
            if place in {slot, shard}:
                break
        if place != slot:
            self._shards.slots.move_to_front(shard, slot)
        return True

    def peek(self, key: _K) -> bool:
        """Tell whether a value is there. It does not count as a use.

        Args:
            key: Its key.

        Returns:
            Whether it is.
        """
        return self._shards.find(key)[1] is not None

    __contains__ = peek

    def peek_weight(self, key: _K) -> int | None:
        """Tell what a value weighs. It does not count as a use.

        Args:
            key: Its key.

        Returns:
            Its weight; None if it is not there.
        """
        _, slot = self._shards.find(key)
        return None if slot is None else self._shards.slots.weights[slot]

    def peek_lru(self, shard: int) -> Evicted[_K, _V] | None:
        """Tell which value of a shard is the next to go.

        Args:
            shard: Its number.

        Returns:
            The value, still there; None if the shard is empty, or there is no such shard.
        """
        if not 0 <= shard < len(self._shards.counts) or not self._shards.counts[shard]:
            return None
        return self._shards.entry(self._shards.slots.previous[shard])

    def items(self, shard: int) -> Iterator[Evicted[_K, _V]]:
        """Go through the values of a shard, which must not change meanwhile.

        Args:
            shard: Its number.

        Yields:
            The values, the one used last first.
        """
        slot = self._shards.slots.next[shard]
        while slot != shard:
            yield self._shards.entry(slot)
            slot = self._shards.slots.next[slot]

    # ----------------------------------------------------------------------- removing

    def remove(self, key: _K) -> Evicted[_K, _V] | None:
        """Remove a value.

        Args:
            key: Its key.

        Returns:
            The value; None if it was not there.
        """
        shard, slot = self._shards.find(key)
        return None if slot is None else self._shards.remove(shard, slot)

    def evict_shard(self, shard: int) -> Evicted[_K, _V] | None:
        """Evict the value of a shard that was used the longest ago, limits or not.

        Args:
            shard: Its number.

        Returns:
            The value; None if the shard is empty.
        """
        if not self._shards.counts[shard]:
            return None
        evicted = self._shards.remove(shard, self._shards.slots.previous[shard])
        self._evicted_weight += evicted.weight
        self._evicted_len += 1
        return evicted

    def evict_to_limit(self) -> list[Evicted[_K, _V]]:
        """Evict until the limits hold.

        Returns:
            What had to go, in that order.
        """
        gone: list[Evicted[_K, _V]] = []
        most = self._shards.items if self._watermark is None else self._watermark
        while self._shards.weight > self._limit or self._shards.items > most:
            evicted = self.evict_shard(self._shards.draw())
            if evicted is None:
                break
            gone.append(evicted)
        return gone

    def __repr__(self) -> str:
        weight = f"weight {self._shards.weight}/{self._limit}"
        return f"<{type(self).__name__} of {self._shards.items} values, {weight}>"


def _checked(weight: int) -> int:
    if weight < 0:
        msg = f"a weight is not negative ({weight})"
        raise ValueError(msg)
    return weight
