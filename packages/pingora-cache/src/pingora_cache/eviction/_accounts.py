"""What the eviction managers have in common: keys, sums, and the way to the disk."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from array import array
from bisect import bisect_right
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from pingora_cache.eviction._file import BLOCK, Block, read, write
from pingora_cache.eviction._keys import Keys, name_of
from pingora_cache.eviction.manager import EvictionManager

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from pingora_cache._slots import Slots
    from pingora_cache.key import CompactCacheKey

__all__ = ["Accounts", "checked_limit", "grown"]

# Entries that are added in one turn of the loop: a millisecond.
_AT_ONCE: Final = 128
# After so many steps, a millisecond, a thread pauses for so many seconds.
_UNPACED: Final = 4096
_PAUSE: Final = 0.0001


def checked_limit(limit: int) -> int:
    """Check the limit of a manager.

    Args:
        limit: The limit, bytes.

    Returns:
        The same.

    Raises:
        ValueError: If it is below 1.
    """
    if limit < 1:
        msg = f"a limit is at least 1 byte, not {limit}"
        raise ValueError(msg)
    return limit


def grown(weight: int, delta: int, most: int | None) -> int:
    """Tell the weight of an entry that has grown.

    Args:
        weight: What it was.
        delta: What was added.
        most: What it may become; None for any weight.

    Returns:
        Its weight, at least 1 and not below what it was.

    Raises:
        ValueError: If ``delta`` is negative.
    """
    if delta < 0:
        msg = f"a weight is incremented by at least 0, not {delta}"
        raise ValueError(msg)
    after = weight + delta
    if most is not None and after > most:
        after = max(most, weight)
    return max(after, 1)


class Accounts(EvictionManager):
    """The part of a manager that does not depend on what it evicts."""

    __slots__ = ("_evicted_items", "_evicted_size", "_items", "_keys", "_limit", "_slots")

    _FILE: ClassVar[str]

    def __init__(self, limit: int, slots: Slots) -> None:
        self._limit = checked_limit(limit)
        self._keys = Keys()
        self._slots = slots
        self._items = 0
        self._evicted_size = 0
        self._evicted_items = 0

    @property
    def limit(self) -> int:
        """What the objects may come to together, bytes."""
        return self._limit

    @property
    def total_items(self) -> int:
        """How many objects there are."""
        return self._items

    @property
    def evicted_size(self) -> int:
        """What all objects evicted so far came to, bytes."""
        return self._evicted_size

    @property
    def evicted_items(self) -> int:
        """How many objects have been evicted so far."""
        return self._evicted_items

    def peek(self, key: CompactCacheKey) -> bool:
        """Tell whether an object is known. It does not count as a use.

        Args:
            key: Its key.

        Returns:
            Whether it is.
        """
        return self._keys.find(name_of(key)) is not None

    # ------------------------------------------------------------------------- saving

    async def save(self, directory: str | Path) -> None:
        """Write the state to a file, all or nothing.

        The loop is held up for a millisecond at a time; what happens meanwhile may be in the file
        or not.

        Args:
            directory: Where; it is made if it is not there.

        Raises:
            Error: If that fails; what was saved before is still there then.
        """
        links = array("I")
        links.frombytes(self._slots.next.cast("B"))
        # By shard, as they come: one list of all would be copied again and again as it grows.
        names: list[list[bytes]] = []
        starts: list[int] = []
        slots, weights, states = array("I"), array("Q"), bytearray()
        for shard in self._keys.shards:
            names.append(list(shard))
            starts.append(len(slots))
            slots.extend(shard.values())
            weights.extend(map(self._slots.weights.__getitem__, shard.values()))
            states += self._states(shard.values())
            await asyncio.sleep(0)
        places = len(self._slots.next)

        def blocks() -> Iterator[Block]:
            order = _positions(self._walk(links), slots, places)
            for start in range(0, len(order), BLOCK):
                block = order[start : start + BLOCK]
                yield Block(
                    [_name(names, starts, at) for at in block],
                    [weights[at] for at in block],
                    bytes([states[at] for at in block]),
                )

        def work() -> None:
            try:
                write(Path(directory) / self._FILE, blocks())
            finally:
                # Bit by bit, since that holds up the interpreter too.
                while names:
                    names.pop()

        await asyncio.to_thread(work)

    async def load(self, directory: str | Path) -> int:
        """Add what was saved to what is known, as used the longest ago.

        Without a file, or with one that is damaged, nothing is added. Nothing is evicted either:
        if that is more than the limit, the next ``admit`` begins to.

        Args:
            directory: Where it was saved.

        Returns:
            How many objects were added.

        Raises:
            Error: If the file is there and cannot be read.
        """
        blocks = await asyncio.to_thread(read, Path(directory) / self._FILE)
        blocks.reverse()
        added = 0
        while blocks:
            block = blocks.pop()
            for start in range(0, len(block.names), _AT_ONCE):
                added += self._add_saved(block.part(start, start + _AT_ONCE))
                await asyncio.sleep(0)
        return added

    def _add_saved(self, block: Block) -> int:
        added = 0
        for name, weight, state in zip(*block, strict=True):
            if self._keys.find(name) is None:
                self._restore(name, weight, state)
                added += 1
        return added

    @abstractmethod
    def _walk(self, links: array[int]) -> Iterator[int]:
        """Tell the order of the places, by a copy of the links, in another thread."""

    @abstractmethod
    def _restore(self, name: bytes, weight: int, state: int) -> None:
        """Add an entry behind all others."""

    def _states(self, slots: Collection[int]) -> bytes:
        return bytes(len(slots))


def _positions(order: Iterator[int], slots: array[int], places: int) -> array[int]:
    """Sort entries by the order of their places.

    Args:
        order: The places in order.
        slots: The place of each entry.
        places: How many places there are.

    Returns:
        The positions of the entries; those that have come since the order was taken are first.
    """
    entry_at = array("I", (0,)) * places
    for position, slot in enumerate(_paced(slots), 1):
        entry_at[slot] = position
    old, new = array("I"), array("I")
    for slot in _paced(order):
        position = entry_at[slot]
        if position:
            entry_at[slot] = 0
            old.append(position - 1)
    for slot in _paced(slots):
        position = entry_at[slot]
        if position:
            entry_at[slot] = 0
            new.append(position - 1)
    new.extend(old)
    return new


def _paced(slots: Iterable[int]) -> Iterator[int]:
    # In a thread, which hands the interpreter over every five milliseconds only, unless it waits.
    for count, slot in enumerate(slots, 1):
        if count % _UNPACED == 0:
            time.sleep(_PAUSE)
        yield slot


def _name(names: list[list[bytes]], starts: list[int], at: int) -> bytes:
    shard = bisect_right(starts, at) - 1
    return names[shard][at - starts[shard]]
