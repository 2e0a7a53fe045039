"""Counts by key and interval that all worker processes see: sums over the slots of ``_epochs``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from pingora_limits._intervals import Intervals
from pingora_limits._sketch import HASHES, cells_of
from pingora_limits._tally import Geometry
from pingora_limits.shared._epochs import EpochTables
from pingora_limits.shared._tables import INSTEAD_OF_NONE, MARKS, MOST, find, mark_at, sum_up

if TYPE_CHECKING:
    from pingora_limits.shared._epochs import Tables

__all__ = ["SharedCounters"]

_FULL: Final = 2**64 - 1


@final
class SharedCounters(EpochTables):
    """What ``SharedRate`` and ``SharedSlidingWindow`` count with."""

    __slots__ = ("_alone",)

    def forget(self) -> None:
        """Own no slot: a process that was forked has to take its own."""
        super().forget()
        self._alone: Intervals | None = None  # what this process counts with if it has no slot

    def add(self, hashed: int, amount: int) -> int:
        """Count.

        Args:
            hashed: The hash of the key.
            amount: How much, from 0 to 4 Gi.

        Returns:
            The count of the key in this epoch over all processes.
        """
        now = self._clock()
        cells, size = self._cells, self._table_size
        if cells[0] != self._roll or not self._start <= now < self._end:
            self._turn(now)
        mark = hashed & MARKS or INSTEAD_OF_NONE
        home = hashed & (size - 1)
        count = cells[self._table + home] ^ mark
        if count > MOST:  # not at home
            count = self._add_elsewhere(hashed, amount, now)
        else:
            count = min(MOST, count + amount)
            cells[self._table + home] = mark | count
        if self._others:
            count += sum_up(cells, self._others, size, hashed)
        if self._crowded_others:
            count += self._sum_up_crowded(self._crowded_others, hashed)
        return count

    def get(self, hashed: int) -> tuple[int, int, float]:
        """Tell what was counted.

        Args:
            hashed: The hash of the key.

        Returns:
            The count of the key in the epoch before and in this one, over all processes, and the
            seconds since this epoch began.
        """
        now = self._clock()
        if self._cells[0] != self._roll or not self._start <= now < self._end:
            self._turn(now)
        current = self._sum_up(self._current, hashed)
        previous = self._sum_up(self._previous, hashed)
        if self._is_alone:
            alone = self._turn_alone(now)
            current += alone.current.get(hashed)
            previous += alone.previous.get(hashed)
        return previous, current, min(self.interval, max(0.0, now - self._start))

    def _add_elsewhere(self, hashed: int, amount: int, now: float) -> int:
        # To a key that is not in its home cell; returns what this process has counted of it.
        if self._is_alone:
            return self._turn_alone(now).current.add(hashed, amount)
        at, count = self._place(hashed)
        if not at:
            return self._add_to_sketch(hashed, amount)
        count = min(MOST, count + amount)
        self._cells[at] = mark_at(self._table, self._table_size, hashed, at) | count
        return count

    def _add_to_sketch(self, hashed: int, amount: int) -> int:
        cells, mine = self._cells, self._sketch_cells(hashed)
        count = min(_FULL, min(map(cells.__getitem__, mine)) + amount)
        for cell in mine:
            if cells[cell] < count:  # noqa: PLR1730 - as in Sketch.raise_by
                cells[cell] = count
        return count

    def _sum_up(self, tables: Tables, hashed: int) -> int:
        total = sum_up(self._cells, tables.exact, self._table_size, hashed)
        return total + self._sum_up_crowded(tables.crowded, hashed) if tables.crowded else total

    def _sum_up_crowded(self, pairs: tuple[tuple[int, int], ...], hashed: int) -> int:
        cells = self._cells
        total = 0
        for table, sketch in pairs:
            _, count = find(cells, table, self._table_size, hashed)
            if count < 0:
                mine = cells_of(hashed, HASHES, self._columns, sketch)
                count = min(map(cells.__getitem__, mine))
            total += count
        return total

    def _turn_alone(self, now: float) -> Intervals:
        alone = self._alone
        if alone is None:
            alone = self._alone = Intervals(self.interval, Geometry(self._capacity))
        if not alone.start <= now < alone.end:
            alone.turn(now)
        return alone
