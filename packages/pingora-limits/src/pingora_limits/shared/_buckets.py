"""Token buckets that all worker processes see, each of which writes only to its own slot.

Theory of operation: as in ``pingora_limits._buckets``, a bucket is the time T at which it will be
full again, in tokens, and taking c tokens at v makes it max(T, v) + c. Written out over all that
was taken since the start of an epoch,

    T = X + M,    X = everything taken,    M = max(T at the start, v - X just before, each time),

which no longer depends on the order of things: X is a sum over the processes and M a maximum, so
each can keep its own share of them. A cell holds what its process took; its companion the greatest
M that this process knows of. Time counts from the start of the epoch. Who finds no M yet in an epoch
starts from the T of the epoch before; an epoch lasts at least as long as a bucket takes to fill, so
nothing older matters.

Keys that share a sketch have an X and an M that are too great if anything, and so is their sum: the
estimate of a key grows by no less than what was taken since.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, final

from pingora_limits._buckets import SLACK, Buckets
from pingora_limits._sketch import HASHES, cells_of
from pingora_limits._tally import Geometry
from pingora_limits.limiter import Decision
from pingora_limits.shared._epochs import EpochTables
from pingora_limits.shared._tables import INSTEAD_OF_NONE, MARKS, MOST, find, mark_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_limits.shared._epochs import Tables

__all__ = ["SharedBuckets"]

_SHORTEST_EPOCH: Final = 1.0  # seconds
_EPOCH_START: Final = 1.0  # in tokens: an M of 0 is none


@final
class SharedBuckets(EpochTables):
    """Token buckets of one size.

    Args:
        rate: Tokens that flow into each bucket per second, above 0 and at most 4 Gi.
        burst: Tokens that a bucket holds, at least 1.
        processes: Processes that take tokens at the same time, at least 1.
        expected_keys: Keys for which a process has room in an epoch, at least 1.
        clock: Seconds that only grow, the same in all processes.

    Attributes:
        burst: Tokens that a bucket holds.
        rate: Tokens per second.

    Raises:
        ValueError: If a number is out of range.
    """

    __slots__ = ("_alone", "_floors", "burst", "rate")

    def __init__(
        self,
        rate: float,
        burst: int,
        *,
        processes: int,
        expected_keys: int,
        clock: Callable[[], float],
    ) -> None:
        if not 0 < rate <= 2**32:  # or what is taken in an epoch might not fit into a cell
            msg = f"tokens flow at a rate above 0 and up to 4 Gi per second, not {rate}"
            raise ValueError(msg)
        self.rate = rate
        self.burst = burst
        super().__init__(
            max(burst / rate, _SHORTEST_EPOCH),
            processes=processes,
            expected_keys=expected_keys,
            clock=clock,
            has_companions=True,
        )
        self._floors = self._slots.floats

    def forget(self) -> None:
        """Own no slot: a process that was forked has to take its own."""
        super().forget()
        self._alone: Buckets | None = None  # what this process counts with if it has no slot

    def decide(self, hashed: int, cost: int, /, *, takes: bool) -> Decision:
        """Decide whether a bucket holds enough.

        Args:
            hashed: The hash of the key.
            cost: Tokens, at least 1.
            takes: Whether to take the tokens if it does.

        Returns:
            The decision; if tokens were taken, as things are after that.
        """
        now = self._clock()
        if self._cells[0] != self._roll or not self._start <= now < self._end:
            self._turn(now)
        if self._is_alone:
            return self._decide_alone(hashed, cost, takes=takes)
        rate, burst = self.rate, self.burst
        instant = _EPOCH_START + max(0.0, (now - self._start) * rate)
        taken, floor = self._read(self._current, hashed)
        if not floor and (self._previous.exact or self._previous.crowded):
            floor = sum(self._read(self._previous, hashed)) - self.interval * rate
        if instant - taken > floor:  # noqa: PLR1730 - max takes four times as long
            floor = instant - taken
        debt = taken + floor - instant
        if debt > burst:
            debt = float(burst)
        after = debt + cost
        is_allowed = after <= burst + SLACK
        wait = 0.0
        if not is_allowed:
            wait = math.inf if cost > burst else (after - burst) / rate
        elif takes:
            debt = after
            self._take(hashed, cost, floor)
        return Decision(is_allowed, burst, int(burst - debt + SLACK), wait, debt / rate)

    def _read(self, tables: Tables, hashed: int) -> tuple[int, float]:
        # X and M of a key; M is 0 if there is none.
        cells, floors, offset = self._cells, self._floors, self._companions
        size = self._table_size
        mark = hashed & MARKS or INSTEAD_OF_NONE
        home = hashed & (size - 1)
        taken, floor = 0, 0.0
        for table in tables.exact:
            at = table + home
            count = cells[at] ^ mark
            if count > MOST:
                if count == mark:
                    continue  # empty: the key is not there
                at, count = find(cells, table, size, hashed)
                if count < 0:
                    continue
            taken += count
            if floors[at + offset] > floor:  # noqa: PLR1730 - as above
                floor = floors[at + offset]
        if tables.crowded:
            crowd_taken, crowd_floor = self._read_crowded(tables.crowded, hashed)
            return taken + crowd_taken, max(floor, crowd_floor)
        return taken, floor

    def _read_crowded(self, pairs: tuple[tuple[int, int], ...], hashed: int) -> tuple[int, float]:
        cells, floors, offset = self._cells, self._floors, self._companions
        taken, floor = 0, 0.0
        for table, sketch in pairs:
            at, count = find(cells, table, self._table_size, hashed)
            if count >= 0:
                taken += count
                floor = max(floor, floors[at + offset])
            else:
                mine = cells_of(hashed, HASHES, self._columns, sketch)
                taken += min(map(cells.__getitem__, mine))
                floor = max(floor, min(floors[cell + offset] for cell in mine))
        return taken, floor

    def _take(self, hashed: int, cost: int, floor: float) -> None:
        # M before X: in between the bucket looks no emptier than it was.
        cells, floors, offset = self._cells, self._floors, self._companions
        mark = hashed & MARKS or INSTEAD_OF_NONE
        at = self._table + (hashed & (self._table_size - 1))
        count = cells[at] ^ mark
        if count > MOST:  # not at home
            at, count = self._place(hashed)
            mark = mark_at(self._table, self._table_size, hashed, at)
        if at:
            floors[at + offset] = floor
            cells[at] = mark | min(MOST, count + cost)
            return
        mine = self._sketch_cells(hashed)
        count = min(map(cells.__getitem__, mine)) + cost
        for cell in mine:
            floors[cell + offset] = max(floors[cell + offset], floor)
            cells[cell] = max(cells[cell], count)

    def _decide_alone(self, hashed: int, cost: int, *, takes: bool) -> Decision:
        if self._alone is None:
            self._alone = Buckets(self.rate, self.burst, Geometry(self._capacity), self._clock)
        return self._alone.decide(hashed, cost, takes=takes)
