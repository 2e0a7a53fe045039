"""A sketch of times: some rows of cells, where the least of a key's cells is its time or later.

The sibling of ``_sketch`` for numbers that are set rather than added. A cell whose time has passed
is empty by itself. Rules of this file: hashes come in, no key does; no I/O, no clock.
"""

from __future__ import annotations

import math
from array import array
from typing import Final, final

__all__ = ["Deadlines"]

_LOW: Final = 0xFFFF_FFFF


@final
class Deadlines:
    """Rows of times.

    Args:
        hashes: Rows, at least 1.
        slots: Times in each row, at least 1.

    Attributes:
        last: The latest time in it.
    """

    __slots__ = ("_cells", "_rows", "_slots", "last")

    def __init__(self, hashes: int, slots: int) -> None:
        self.last = -math.inf
        self._slots = slots
        self._rows = range(0, hashes * slots, slots)
        self._cells = array("d", [-math.inf]) * (hashes * slots)

    @property
    def memory(self) -> int:
        """Bytes that the times take."""
        return self._cells.itemsize * len(self._cells)

    def get(self, hashed: int) -> float:
        """Tell the time of a key.

        Args:
            hashed: The hash of the key.

        Returns:
            Its time, or a later one; minus infinity if it has none.
        """
        cells, slots = self._cells, self._slots
        column, step = (hashed & _LOW) % slots, (hashed >> 32) % slots or 1
        deadline = math.inf
        for row in self._rows:
            if column >= slots:
                column -= slots
            if cells[row + column] < deadline:  # noqa: PLR1730 - min takes four times as long
                deadline = cells[row + column]
            column += step
        return deadline

    def put_off(self, hashed: int, deadline: float) -> None:
        """Let the time of a key be this one at the earliest.

        Args:
            hashed: The hash of the key.
            deadline: The time.
        """
        cells, slots = self._cells, self._slots
        column, step = (hashed & _LOW) % slots, (hashed >> 32) % slots or 1
        self.last = max(self.last, deadline)
        for row in self._rows:
            if column >= slots:
                column -= slots
            if cells[row + column] < deadline:  # noqa: PLR1730 - as above
                cells[row + column] = deadline
            column += step
