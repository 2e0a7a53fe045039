"""How often a thing may be logged that strangers can make happen as often as they like; no I/O."""

from __future__ import annotations

import math

__all__ = ["LogLimit"]


class LogLimit:
    """A token bucket for lines of a log, which counts those that it swallows.

    Args:
        rate: Lines a second in the long run.
        burst: Lines at once.

    Raises:
        ValueError: If the rate is not positive, or the burst less than 1.

    Examples:
        >>> limit = LogLimit(rate=1.0, burst=1)
        >>> [limit.admit(now) for now in (0.0, 0.1, 0.2, 1.5)]
        [0, None, None, 2]
    """

    __slots__ = ("_burst", "_level", "_rate", "_suppressed", "_updated")

    def __init__(self, rate: float = 1.0, burst: int = 10) -> None:
        if not 0 < rate < math.inf:
            raise ValueError(f"rate must be positive and finite, not {rate}")
        if burst < 1:
            raise ValueError(f"burst must be at least 1, not {burst}")
        self._rate = rate
        self._burst = burst
        self._level = float(burst)
        self._updated = -math.inf
        self._suppressed = 0

    def admit(self, now: float) -> int | None:
        """Ask for one more line.

        Args:
            now: A clock that does not go back, seconds.

        Returns:
            None if it is not to be written; else how many were not since the last one that was.
        """
        refilled = self._level + (now - self._updated) * self._rate
        self._level = min(float(self._burst), refilled)
        self._updated = now
        if self._level < 1.0:
            self._suppressed += 1
            return None
        self._level -= 1.0
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed
