"""Where a process counts what is in flight: a table and a sketch in its own slot.

Both know after a fork, or after the end of the memory, that they are not to be written to any more:
guards that a child inherits are its parent's.

A garbage collection can come with any call, and with it the end of a guard that somebody dropped, so
``add`` can be called in the middle of everything. What is read and written without a call in between
is not disturbed; whoever calls looks at ``_changes`` afterwards.
"""

from __future__ import annotations

from typing import Final, final

from pingora_limits._sketch import HASHES, cells_of
from pingora_limits.shared._tables import (
    INSTEAD_OF_NONE,
    MARKS,
    MOST,
    REACH,
    STEP,
    find,
    mark_at,
)

__all__ = ["OwnSketch", "OwnTable"]

_FULL: Final = 2**64 - 1


@final
class OwnTable:
    """Exact counts.

    A cell whose count has gone back to zero is given back, unless another key is found through it;
    then it stays until that one goes, and may serve a third.

    Args:
        cells: The memory.
        start: Where the table begins; all its cells are empty.
        size: Its cells, a power of two.
        capacity: Keys that it may hold.

    Attributes:
        is_mine: Whether this process may write to it.
    """

    __slots__ = ("_capacity", "_cells", "_changes", "_keys", "_mask", "_start", "is_mine")

    def __init__(self, cells: memoryview, start: int, *, size: int, capacity: int) -> None:
        self._cells = cells
        self._start = start
        self._mask = size - 1
        self._capacity = capacity
        self._keys = 0
        self._changes = 0
        self.is_mine = True

    def put(self, hashed: int, amount: int) -> int:
        """Add to a key, which may be new.

        Args:
            hashed: The hash of the key.
            amount: How much, at least 1.

        Returns:
            Its count now; 0 if there is no room for it, and nothing was added.
        """
        cells, start, mask = self._cells, self._start, self._mask
        mark = hashed & MARKS or INSTEAD_OF_NONE
        place = start + (hashed & mask)
        if cells[place]:  # nearly always it is empty
            changes = self._changes
            place, count = self._search(hashed)
            mark = mark_at(start, mask + 1, hashed, place)
            if changes != self._changes:
                return self.put(hashed, amount)
            if count:
                if count + amount > MOST:
                    return 0
                cells[place] += amount
                return count + amount
        if not place or self._keys >= self._capacity or amount > MOST:
            return 0
        self._keys += 1
        cells[place] = mark | amount
        return amount

    def add(self, hashed: int, amount: int, /) -> int:
        """Add to a key that is there, or take away from it.

        Args:
            hashed: The hash of the key.
            amount: How much; not more is taken away than was added.

        Returns:
            Its count now.

        Raises:
            OverflowError: If it would get above 64 Gi.
        """
        if not self.is_mine:
            return 0
        cells, start, mask = self._cells, self._start, self._mask
        at = home = start + (hashed & mask)
        count = cells[at] ^ (hashed & MARKS or INSTEAD_OF_NONE)
        if count > MOST:  # not at home
            at, count = find(cells, start, mask + 1, hashed)
        if count + amount > MOST:
            msg = f"a process counts up to {MOST} in flight of one key, not {count + amount}"
            raise OverflowError(msg)
        self._changes += 1
        cells[at] += amount
        count = cells[at] & MOST
        if not count:
            self._keys -= 1
            if at == home and not cells[start + ((at - start + 1) & mask)]:
                cells[at] = 0  # nearly always: no neighbour, nobody is found through it
            else:
                self._give_back(at - start)
        return count

    def _search(self, hashed: int) -> tuple[int, int]:
        # The place of a key and its count; if it is not there, the place for it, 0 if none, and 0.
        cells, start, mask = self._cells, self._start, self._mask
        mark = hashed & MARKS or INSTEAD_OF_NONE
        home = hashed & mask
        place = 0
        for index in range(home, home + REACH):
            at = start + (index & mask)
            cell = cells[at]
            if cell ^ mark <= MOST and cell & MOST:
                return at, cell & MOST
            if not place and not cell & MOST:
                place = at
            if not cell:
                break
            mark += STEP
        return place, 0

    def _give_back(self, index: int) -> None:
        # Nearest first: those before it may have been kept for the key that has gone.
        cells, start, mask = self._cells, self._start, self._mask
        distance = cells[start + index] // STEP % REACH
        for before in range(distance + 1):
            at = start + ((index - before) & mask)
            if not cells[at] & MOST and not self._is_needed(index - before):
                cells[at] = 0

    def _is_needed(self, index: int) -> bool:
        # Whether a key further on was looking for a place here first.
        cells, start, mask = self._cells, self._start, self._mask
        for distance in range(1, REACH):
            cell = cells[start + ((index + distance) & mask)]
            if not cell:
                return False
            if cell & MOST and cell // STEP % REACH >= distance:
                return True
        return False


@final
class OwnSketch:
    """Estimates for the keys that the table has no room for.

    Args:
        cells: The memory.
        start: Where the sketch begins; all its cells are zero.
        columns: Cells in each of its rows.

    Attributes:
        is_mine: Whether this process may write to it.
    """

    __slots__ = ("_cells", "_columns", "_start", "is_mine")

    def __init__(self, cells: memoryview, start: int, *, columns: int) -> None:
        self._cells = cells
        self._start = start
        self._columns = columns
        self.is_mine = True

    def add(self, hashed: int, amount: int, /) -> int:
        """Add to a key, or take away from it.

        Args:
            hashed: The hash of the key.
            amount: How much; not more is taken away than was added.

        Returns:
            Its count now, or more.
        """
        if not self.is_mine:
            return 0
        cells = self._cells
        least = _FULL
        for cell in cells_of(hashed, HASHES, self._columns, self._start):
            cells[cell] = count = cells[cell] + amount
            if count < least:  # noqa: PLR1730 - as in Sketch.add
                least = count
        return least
