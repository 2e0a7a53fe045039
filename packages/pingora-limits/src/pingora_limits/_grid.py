"""Time cut into intervals of equal length, the first of which begins with the first reading.

Rules of this file: no I/O, and the time comes in as an argument.

Theory of operation: whoever counts compares its reading with ``start`` and ``end`` itself, since
nearly always nothing is to be done, and calls ``advance`` when it is outside.

What a clock that jumps does: far ahead looks like a pause. Back before the start of the current
interval, that interval begins anew at the reading, so that nothing lasts longer than one interval
more, however far the clock went.
"""

from __future__ import annotations

import math

__all__ = ["Grid"]


class Grid:
    """The current interval.

    Args:
        interval: Length of an interval in seconds, above 0.

    Attributes:
        end: When the current interval ends, on the clock of the caller.
        interval: Length of an interval in seconds.
        start: When the current interval began; in the future until the first reading.

    Raises:
        ValueError: If the length is no positive number.
    """

    __slots__ = ("end", "interval", "start")

    def __init__(self, interval: float) -> None:
        if not 0 < interval < math.inf:
            msg = f"an interval is longer than 0 seconds and ends, not {interval}"
            raise ValueError(msg)
        self.interval = interval
        self.start = math.inf
        self.end = math.inf

    def advance(self, now: float) -> int:
        """Let the interval of a reading be the current one.

        Args:
            now: The reading, in seconds.

        Returns:
            How many intervals further that is: 0 if it is the same, also after a jump back.
        """
        passed = 0
        if now < self.start:
            self.start = now
        elif now >= self.end:
            passed = max(1, int((now - self.start) // self.interval))
            # Rounding must not put the start into the future: it would look like a jump back.
            self.start = min(now, self.start + passed * self.interval)
            if self.start + self.interval < now:
                # Nor the end into the past: the same reading would move the grid on again.
                passed += 1
                self.start = now
        self.end = self.start + self.interval
        return passed

    def fraction(self, now: float) -> float:
        """Tell how much of the current interval has passed.

        Args:
            now: The reading, in seconds; of the current interval.

        Returns:
            From 0 to 1.
        """
        return min(1.0, max(0.0, (now - self.start) / self.interval))
