"""Counts of keys in intervals, for one process, with the clock that moves them on."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from pingora_limits._intervals import Intervals

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_limits._tally import Geometry

__all__ = ["Counters"]


@final
class Counters(Intervals):
    """What ``SlidingWindow`` counts with.

    Args:
        interval: Length of an interval in seconds, above 0.
        geometry: How large each tally is.
        clock: Seconds that only grow.
    """

    __slots__ = ("_clock",)

    def __init__(self, interval: float, geometry: Geometry, clock: Callable[[], float]) -> None:
        super().__init__(interval, geometry)
        self._clock = clock

    def get(self, hashed: int, /) -> tuple[int, int, float]:
        """Tell what was counted.

        Args:
            hashed: The hash of the key.

        Returns:
            The count of the key in the interval before and in this one, and the seconds since this
            one began.
        """
        now = self._clock()
        if not self.start <= now < self.end:
            self.turn(now)
        return self.previous.get(hashed), self.current.get(hashed), now - self.start

    def add(self, hashed: int, amount: int, /) -> int:
        """Count in the interval that ``get`` was last asked in.

        Args:
            hashed: The hash of the key.
            amount: How much.

        Returns:
            The count of the key in that interval.
        """
        return self.current.add(hashed, amount)
