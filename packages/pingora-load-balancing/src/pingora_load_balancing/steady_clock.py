"""A clock that goes on from where it was when the one below it jumps back."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SteadyClock"]


@final
class SteadyClock:
    """Reads another clock; never goes back.

    Deadlines and windows are kept by it. A jump back of the clock below, which would make them last
    for hours, costs at most the time that passes between two readings; after a jump forward they
    are over.

    Args:
        clock: Tells the time in seconds.

    Examples:
        >>> readings = iter([5.0, 7.0, 1.0, 2.0])
        >>> clock = SteadyClock(lambda: next(readings))
        >>> clock(), clock(), clock()
        (7.0, 7.0, 8.0)
    """

    __slots__ = ("_clock", "_last", "_offset")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._offset = 0.0
        self._last = clock()

    def __call__(self) -> float:
        """Read it.

        Returns:
            Seconds; never less than before.
        """
        now = self._clock() + self._offset
        if now < self._last:
            self._offset += self._last - now
            return self._last
        self._last = now
        return now
