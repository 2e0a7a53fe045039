"""Two queues decide what is evicted: S3-FIFO's rules, over numbered places.

Theory of operation: what is new goes into the small queue, which has a tenth of the room. At its
end, what was used more than once moves on to the main queue, and the rest is evicted: most of what
is asked for once is never asked for again, and leaves soon. At the end of the main queue, what was
used since then goes round once more for each use, up to three. A use costs one store into an
array; nothing is moved.

An entry that is removed leaves its queue at once. (The original leaves it there; put back in, it
is in the queue twice, and its weight is subtracted twice.)

Uses that have piled up for a million entries could keep one eviction busy for seconds. So a call
moves so many entries at most, and then evicts what is at the end, whatever its uses; and it evicts
so many at most.

Source: struct FiFoQueues in tinyufo/src/lib.rs; Yang and others, "FIFO queues are all you need for
cache eviction" (SOSP 2023).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from pingora_cache._slots import Slots

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator

__all__ = ["Queues"]

# How many of the first places are heads of lists.
_HEADS: Final = 2
_SMALL: Final = 0
_MAIN: Final = 1

# What a call does at most: 2 ms. Whoever has a store removes as many objects from it in the same turn.
_MOST_MOVED: Final = 1024
_MOST_EVICTED: Final = 256

# A state is the uses, 0 to 3, plus 4 in the main queue. What a state is after one more use:
_IN_MAIN: Final = 4
_USED: Final = bytes((1, 2, 3, 3, 5, 6, 7, 7))


@final
class Queues:
    """The queues of a cache.

    Args:
        limit: What all entries may weigh together, at least 1.

    Attributes:
        slots: The places, with their weights.
        states: The uses and the queue of each place.
        used: What a state is after one more use.
        small_weight: What the entries of the small queue weigh.
        main_weight: What those of the main queue weigh.
        limit: As given.
    """

    __slots__ = (
        "_small_limit",
        "limit",
        "main_weight",
        "slots",
        "small_weight",
        "states",
        "used",
    )

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._small_limit = limit // 10 + 1
        self.slots = Slots(_HEADS)
        self.states = bytearray(_HEADS)
        self.used = _USED
        self.small_weight = 0
        self.main_weight = 0

    def add(self, weight: int) -> int:
        """Add a new entry.

        Args:
            weight: Its weight.

        Returns:
            Its place.
        """
        slot = self.slots.take(weight)
        if slot >= len(self.states):
            self.states.extend(bytes(len(self.slots.next) - len(self.states)))
        self.put_back(slot)
        return slot

    def put_back(self, slot: int) -> None:
        """Put an entry that is in no queue into the small one, as if it were new.

        Args:
            slot: Its place.
        """
        self.states[slot] = 0
        self.link(slot)

    def link(self, slot: int) -> None:
        """Put an entry that is in no queue into the one that its state tells.

        Args:
            slot: Its place.
        """
        weight = self.slots.weights[slot]
        if self.states[slot] & _IN_MAIN:
            self.main_weight += weight
            self.slots.push_front(_MAIN, slot)
        else:
            self.small_weight += weight
            self.slots.push_front(_SMALL, slot)

    def restore(self, slot: int, state: int) -> None:
        """Put an entry that has just been added where it was when it was saved.

        Args:
            slot: Its place.
            state: Its state then.
        """
        self.slots.unlink(slot)
        self.states[slot] = state & 7
        if state & _IN_MAIN:
            weight = self.slots.weights[slot]
            self.small_weight -= weight
            self.main_weight += weight
            self.slots.push_back(_MAIN, slot)
        else:
            self.slots.push_back(_SMALL, slot)

    def use(self, slot: int) -> None:
        """Note a use.

        Args:
            slot: The place of the entry.
        """
        states = self.states
        states[slot] = _USED[states[slot]]

    def weigh(self, slot: int, weight: int) -> None:
        """Change the weight of an entry.

        Args:
            slot: Its place.
            weight: Its new weight.
        """
        difference = weight - self.slots.weights[slot]
        self.slots.weights[slot] = weight
        if self.states[slot] & _IN_MAIN:
            self.main_weight += difference
        else:
            self.small_weight += difference

    def evict(self, total: int) -> list[int]:
        """Evict until the entries weigh so much at most, or enough for one call is done.

        Args:
            total: What they may weigh; nothing, if it is negative.

        Returns:
            The places of what is evicted: in no queue any more, and to be given back.
        """
        evicted: list[int] = []
        total = max(total, 0)
        moves = _MOST_MOVED
        previous, states = self.slots.previous, self.states
        while self.small_weight + self.main_weight > total and len(evicted) < _MOST_EVICTED:
            slot = _SMALL
            if self.small_weight >= self._small_limit:
                while (slot := previous[_SMALL]) != _SMALL and states[slot] > 1 and moves:
                    moves -= 1
                    self._promote(slot)
            if slot == _SMALL:
                while (slot := previous[_MAIN]) != _MAIN and states[slot] > _IN_MAIN and moves:
                    moves -= 1
                    states[slot] -= 1
                    self.slots.move_to_front(_MAIN, slot)
            if slot == _MAIN:
                # The small queue is within its share, and there is nothing else.
                slot = previous[_SMALL]
            self.unlink(slot)
            evicted.append(slot)
        return evicted

    @staticmethod
    def walk(links: array[int]) -> Iterator[int]:
        """Tell the places of all entries.

        Args:
            links: What is behind each place, as of ``Slots``.

        Yields:
            Those of the main queue and then those of the small one, from the front to the back.
        """
        for head in (_MAIN, _SMALL):
            slot = links[head]
            while slot != head:
                yield slot
                slot = links[slot]

    def _promote(self, slot: int) -> None:
        weight = self.slots.weights[slot]
        self.small_weight -= weight
        self.main_weight += weight
        self.states[slot] |= _IN_MAIN
        self.slots.move_to_front(_MAIN, slot)

    def unlink(self, slot: int) -> None:
        """Take an entry out of its queue; its place is to be given back.

        Args:
            slot: Its place.
        """
        self.slots.unlink(slot)
        if self.states[slot] & _IN_MAIN:
            self.main_weight -= self.slots.weights[slot]
        else:
            self.small_weight -= self.slots.weights[slot]
