"""Drawing from those backends that are ready, kept up to date change by change.

Theory of operation: the backends that are ready are in classes, those of weight 1, of 2 and 3, of 4
to 7 and so on. A draw chooses a class by the sum of its weights, then one of it by chance, and
accepts that with the share that its weight is of the most that the class has room for: at least one
half. So a backend is drawn exactly as often as its weight says, and one that becomes ready or ceases
to be costs the same in a list of ten and of a hundred thousand.
"""

from __future__ import annotations

from itertools import islice
from random import random
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pingora_load_balancing.backend import Backend
    from pingora_load_balancing.state import BackendState, PoolTotals

__all__ = ["ReadyDraws"]


@final
class ReadyDraws:
    """Those of some backends that are ready; empty until it follows for the first time.

    Args:
        backends: The backends, all with a weight.
        states: Their states.
        totals: The sums of their pool.

    Attributes:
        backends: As given.
        states: As given.
    """

    __slots__ = (
        "_classes",
        "_indices",
        "_places",
        "_seen",
        "_sums",
        "_totals",
        "_weights",
        "backends",
        "states",
    )

    def __init__(
        self, backends: Sequence[Backend], states: Sequence[BackendState], totals: PoolTotals
    ) -> None:
        self.backends: Sequence[Backend] = backends
        self.states: Sequence[BackendState] = states
        self._totals = totals
        # How many changes of the pool are taken into account; -1: nothing at all.
        self._seen = -1
        # By the length of the weight in bits: who is in the class, and the sum of their weights.
        self._classes: dict[int, list[int]] = {}
        self._sums: dict[int, int] = {}
        # Where those that are ready stand in their class, and how many there are of each weight.
        self._places: dict[int, int] = {}
        self._weights: dict[int, int] = {}
        # Made when the first change is followed.
        self._indices: dict[BackendState, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    def follow(self) -> None:
        """Take all changes into account that there were since the last time."""
        totals = self._totals
        missed = totals.changes - self._seen
        if not missed:
            return
        changed = totals.changed
        if self._seen < 0 or missed > len(changed):
            self._begin_anew()
        else:
            indices = self._indices
            if not indices:
                indices = {state: index for index, state in enumerate(self.states)}
                self._indices = indices
            for state in islice(reversed(changed), missed):
                index = indices.get(state)
                if index is not None and state.is_ready is not (index in self._places):
                    if state.is_ready:
                        self._add(index)
                    else:
                        self._remove(index)
        self._seen = totals.changes

    def draw(self) -> tuple[int, int]:
        """Draw two.

        Returns:
            Their numbers among all backends: two different ones if the weights are equal and
            there are two. If none is listed, two of all.
        """
        if not self._places:
            count = len(self.backends)
            return (int(random() * count), int(random() * count))  # noqa: S311  # no secret
        if len(self._weights) > 1:
            return (self._one(), self._one())
        [members] = self._classes.values()
        count = len(members)
        one = int(random() * count)  # noqa: S311  # no secret
        other = int(random() * (count - 1))  # noqa: S311
        return (members[one], members[other + 1 if other >= one and count > 1 else other])

    def _one(self) -> int:
        target = random() * sum(self._sums.values())  # noqa: S311  # no secret
        bits = 0
        for bits, weight in self._sums.items():  # noqa: B007  # the last one if none is enough
            target -= weight
            if target < 0.0:
                break
        members = self._classes[bits]
        while True:
            place = random() * len(members)  # noqa: S311
            index = members[int(place)]
            if place % 1.0 * (1 << bits) < self.backends[index].weight:
                return index

    def _begin_anew(self) -> None:
        for record in (self._classes, self._sums, self._places, self._weights):
            record.clear()
        for index, state in enumerate(self.states):
            if state.is_ready:
                self._add(index)

    def _add(self, index: int) -> None:
        weight = self.backends[index].weight
        bits = weight.bit_length()
        members = self._classes.get(bits)
        if members is None:
            members = self._classes[bits] = []
        self._places[index] = len(members)
        members.append(index)
        self._sums[bits] = self._sums.get(bits, 0) + weight
        self._weights[weight] = self._weights.get(weight, 0) + 1

    def _remove(self, index: int) -> None:
        weight = self.backends[index].weight
        bits = weight.bit_length()
        members = self._classes[bits]
        # The last one takes its place.
        last = members.pop()
        place = self._places.pop(index)
        if last != index:
            members[place] = last
            self._places[last] = place
        self._sums[bits] -= weight
        if not members:
            del self._classes[bits], self._sums[bits]
        self._weights[weight] -= 1
        if not self._weights[weight]:
            del self._weights[weight]
