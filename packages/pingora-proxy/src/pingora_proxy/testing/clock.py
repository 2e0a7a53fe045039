"""A clock that moves only when a test says so."""

from __future__ import annotations

__all__ = ["FakeClock"]


class FakeClock:
    """Stands in for ``time.monotonic`` or ``time.time``: call it to read it.

    Args:
        now: Its first reading, in seconds.

    Attributes:
        now: Its reading, in seconds.

    Examples:
        >>> clock = FakeClock(100.0)
        >>> clock.advance(2.5)
        >>> clock()
        102.5
    """

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now: float = now

    def __call__(self) -> float:
        """Read it.

        Returns:
            Seconds.
        """
        return self.now

    def advance(self, seconds: float) -> None:
        """Move on.

        Args:
            seconds: By how much; not negative.

        Raises:
            ValueError: If it is negative.
        """
        if seconds < 0:
            msg = f"a clock does not go back ({seconds} s)"
            raise ValueError(msg)
        self.now += seconds
