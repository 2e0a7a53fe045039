"""Two tallies that take turns: one counts the current interval, the other holds the one before.

Rules of this file: no I/O, and the time comes in as an argument. What a jump of the clock does is
told in ``_grid``: after one ahead both tallies are empty, after one back they keep their counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_limits._grid import Grid
from pingora_limits._tally import Tally

if TYPE_CHECKING:
    from pingora_limits._tally import Geometry

__all__ = ["Intervals"]


class Intervals(Grid):
    """The counts of the current interval and of the one before.

    Args:
        interval: Its length in seconds, above 0.
        geometry: How large each tally is.

    Attributes:
        current: Counts of the current interval.
        previous: Counts of the interval before.
    """

    __slots__ = ("_geometry", "current", "previous")

    def __init__(self, interval: float, geometry: Geometry) -> None:
        super().__init__(interval)
        self.current = Tally(geometry)
        self.previous = Tally(geometry)
        self._geometry = geometry

    @property
    def memory(self) -> int:
        """Bytes that both tallies take now."""
        return self.current.memory + self.previous.memory

    @property
    def max_memory(self) -> int:
        """Bytes that both tallies take at most."""
        return 2 * self._geometry.max_memory

    def turn(self, now: float) -> None:
        """Let the interval of a reading be the current one.

        Args:
            now: The reading, in seconds.
        """
        passed = self.advance(now)
        if passed:
            self.previous.clear()
            if passed > 1:
                self.current.clear()
            self.previous, self.current = self.current, self.previous
