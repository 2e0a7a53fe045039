"""Smooth weighted round robin.

Theory of operation: nginx gives each server a counter; a turn adds to each its weight, takes the
server with the highest counter (the first of several) and subtracts the sum of all weights there.
Weights 5, 1, 1 give "a a b a c a a" and not a burst of five. All counters are back at zero after as
many turns as the weights add up to, so a round is computed once, as it is first used, and
repeated from memory. Servers of one weight take turns among themselves, so one counter
per distinct weight is enough; the result is the same.

A round that is too long to be kept (weights in the thousands without a common divisor) is spread in
another way: in rounds of the length 1, a server of weight w is due at 1/2w, 3/2w, 5/2w …, and a
heap tells who is next, however many servers there are.
"""

from __future__ import annotations

import math
from heapq import heapreplace, merge
from itertools import chain, cycle, islice
from typing import TYPE_CHECKING, Final, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pingora_load_balancing.backend import Backend

__all__ = ["RoundRobin"]

# Half a megabyte of references.
_LONGEST_ROUND_KEPT: Final = 65_536
_SLICE: Final = 1_024

# When it is due, in rounds of the length 1; whose turn it is; how many it has had.
_Turn: TypeAlias = tuple[float, int, int]


@final
class RoundRobin:
    """Takes the backends in turns, each as often as its weight says, evenly spread.

    The key is ignored. If as many turns as there are backends brought none that could be used,
    each backend is offered once more regardless of its weight: those that are passed over may hold
    nearly all of the turns.

    Args:
        backends: The backends; those of weight 0 get no turn.

    Examples:
        >>> from pingora_load_balancing import Backend
        >>> turns = RoundRobin([Backend("a:80", 5), Backend("b:80"), Backend("c:80")])
        >>> " ".join(next(turns.iter(b"")).addr.host for _ in range(7))
        'a a b a c a a'

    Source: nginx, src/http/ngx_http_upstream_round_robin.c (Pingora's own weighted round robin
    comes in bursts).
    """

    __slots__ = ("_count", "_given", "_plain", "_weighted")

    def __init__(self, backends: Sequence[Backend]) -> None:
        self._given: Sequence[Backend] = tuple(backends)
        self._count = 0
        self._plain: Iterator[Backend] = iter(())
        self._weighted: Iterator[Backend] = self._plain

    def prepare(self) -> Iterator[None]:
        """Look at the weights in small steps.

        Yields:
            Nothing, about once a millisecond.
        """
        given = self._given
        active: list[Backend] = []
        divisor = total = 0
        for start in range(0, len(given), _SLICE):
            part = [backend for backend in given[start : start + _SLICE] if backend.weight]
            weights = [backend.weight for backend in part]
            active += part
            divisor = math.gcd(divisor, *weights)
            total += sum(weights)
            yield
        if not active:
            self._given = ()
            return
        plain = cycle(active)
        if total == divisor * len(active):
            weighted: Iterator[Backend] = plain
        elif total // divisor <= _LONGEST_ROUND_KEPT:
            weighted = cycle(_smooth_round(active, divisor))
        else:
            due: list[_Turn] = []
            for turns in _first_turns(active, divisor):
                due += turns
                yield
            weighted = _spread_rounds(active, divisor, due)
        self._count, self._plain, self._weighted = len(active), plain, weighted
        self._given = ()

    def iter(self, key: bytes) -> Iterator[Backend]:  # noqa: ARG002  # turns have no key
        """Take turns, beginning with the one whose turn it is.

        Args:
            key: Ignored.

        Returns:
            Twice as many backends as there are; a turn is used up only when it is taken.
        """
        if self._given:
            for _ in self.prepare():
                pass
        count = self._count
        return chain(islice(self._weighted, count), islice(self._plain, count))


def _smooth_round(backends: Sequence[Backend], divisor: int) -> Iterator[Backend]:
    members: dict[int, list[int]] = {}
    for index, backend in enumerate(backends):
        members.setdefault(backend.weight // divisor, []).append(index)
    weights = list(members)
    groups = list(members.values())
    total = sum(weight * len(group) for weight, group in members.items())
    positions = [0] * len(groups)
    # The counter of the member whose turn is next in each group, and its index in backends.
    counters = [0] * len(groups)
    candidates = [group[0] for group in groups]
    for _ in range(total):
        best = 0
        best_counter = -total
        for number, weight in enumerate(weights):
            counter = counters[number] + weight
            counters[number] = counter
            if counter > best_counter or (
                counter == best_counter and candidates[number] < candidates[best]
            ):
                best = number
                best_counter = counter
        yield backends[candidates[best]]
        position = positions[best] + 1
        if position == len(groups[best]):
            # All members had this turn; the first of them comes next, and paid already.
            position = 0
            counters[best] -= total
        positions[best] = position
        candidates[best] = groups[best][position]


def _first_turns(backends: Sequence[Backend], divisor: int) -> Iterator[Sequence[_Turn]]:
    """Tell the first turn of each, ascending, as a heap is.

    Yields:
        A millisecond's worth of them.
    """
    runs: list[list[_Turn]] = []
    for start in range(0, len(backends), _SLICE):
        part = enumerate(backends[start : start + _SLICE], start=start)
        runs.append(sorted((0.5 * divisor / backend.weight, index, 0) for index, backend in part))
        yield ()
    turns = merge(*runs)
    while batch := list(islice(turns, _SLICE)):
        yield batch


def _spread_rounds(
    backends: Sequence[Backend], divisor: int, due: list[_Turn]
) -> Iterator[Backend]:
    while True:
        _, index, turn = due[0]
        backend = backends[index]
        yield backend
        turn += 1
        heapreplace(due, ((turn + 0.5) * divisor / backend.weight, index, turn))
