"""Numbered places in doubly linked lists, with a weight each: what orders the entries of a cache.

Theory of operation: everything about an entry but its key is in arrays, at the number of its
place. A million entries take some megabytes that way, and nothing of it is an object that the
garbage collector of Python would walk: linked nodes, or ordered dictionaries, stop the process
for hundreds of milliseconds now and then. Arrays grow in steps, and are never copied for it; see
``_room``.

The first places are the heads of the lists, each of which is a ring: the head's next is the
front, its previous one is the back.
"""

from __future__ import annotations

from typing import Final, final

from pingora_cache._room import Numbers

__all__ = ["Slots"]

_LEAST_GROWTH: Final = 64
_MOST_GROWTH: Final = 65536


@final
class Slots:
    """Places in lists.

    The arrays are for reading from outside, and ``weights`` for writing too; ``take`` may put others
    in their place.

    Args:
        lists: How many lists, at least 1; their heads are the numbers from 0.

    Attributes:
        next: The number of what comes behind each place, towards the back.
        previous: The number of what comes before each place, towards the front.
        weights: The weight of each place.
    """

    __slots__ = ("_all", "_free", "_unused", "next", "previous", "weights")

    next: memoryview[int]
    previous: memoryview[int]
    weights: memoryview[int]

    def __init__(self, lists: int) -> None:
        self._all = (Numbers("I", lists), Numbers("I", lists), Numbers("Q", lists))
        self._refresh()
        for head in range(lists):
            self.next[head] = self.previous[head] = head
        # The first of the places that were given back, linked by ``next``; 0, a head, for none.
        self._free = 0
        # The first of those that were never taken.
        self._unused = lists

    def _refresh(self) -> None:
        self.next, self.previous, self.weights = (each.items for each in self._all)

    @property
    def memory(self) -> int:
        """Bytes that the arrays take."""
        return sum(each.memory for each in self._all)

    def take(self, weight: int) -> int:
        """Take a free place; it is in no list yet.

        Args:
            weight: Its weight.

        Returns:
            Its number.
        """
        slot = self._free
        if slot:
            self._free = self.next[slot]
        else:
            slot = self._unused
            if slot == len(self.next):
                self._grow()
            self._unused = slot + 1
        self.weights[slot] = weight
        return slot

    def give_back(self, slot: int) -> None:
        """Give a place back that is in no list.

        Args:
            slot: Its number.
        """
        self.next[slot] = self._free
        self._free = slot

    def push_front(self, head: int, slot: int) -> None:
        """Put a place at the front of a list.

        Args:
            head: The list.
            slot: The place, in no list.
        """
        following = self.next
        front = following[head]
        following[slot] = front
        self.previous[front] = slot
        following[head] = slot
        self.previous[slot] = head

    def push_back(self, head: int, slot: int) -> None:
        """Put a place at the back of a list.

        Args:
            head: The list.
            slot: The place, in no list.
        """
        self.push_front(self.previous[head], slot)

    def unlink(self, slot: int) -> None:
        """Take a place out of its list.

        Args:
            slot: The place.
        """
        behind, before = self.next[slot], self.previous[slot]
        self.next[before] = behind
        self.previous[behind] = before

    def move_to_front(self, head: int, slot: int) -> None:
        """Put a place that is in a list at the front of a list.

        Args:
            head: The list to put it in.
            slot: The place.
        """
        following, previous = self.next, self.previous
        front = following[head]
        if front == slot:
            return
        behind, before = following[slot], previous[slot]
        following[before] = behind
        previous[behind] = before
        following[slot] = front
        previous[front] = slot
        following[head] = slot
        previous[slot] = head

    def _grow(self) -> None:
        count = min(max(len(self.next) // 8, _LEAST_GROWTH), _MOST_GROWTH)
        for each in self._all:
            each.extend(count)
        self._refresh()
