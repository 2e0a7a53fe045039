"""Time and timers of the cache lock, moved by a test."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FakeScheduler", "FakeTimer"]


@dataclass(order=True)
class FakeTimer:
    """A call that was put off.

    Attributes:
        when: At which time, seconds.
        number: In which order among those of the same time.
        callback: What to call.
        is_cancelled: Whether it was called off.
    """

    when: float
    number: int
    callback: Callable[[], object] = field(compare=False)
    is_cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        """Do not call."""
        self.is_cancelled = True


class FakeScheduler:
    """Stands in for the event loop where only its time and timers are used.

    Args:
        now: Its time at the beginning, seconds.
    """

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now
        self._timers: list[FakeTimer] = []
        self._numbers = count()

    def time(self) -> float:
        """Read the time.

        Returns:
            Seconds.
        """
        return self.now

    def call_at(self, when: float, callback: Callable[[], object], /) -> FakeTimer:
        """Call a function at a time.

        Args:
            when: Seconds.
            callback: What to call.

        Returns:
            A handle to call it off.
        """
        timer = FakeTimer(when, next(self._numbers), callback)
        heapq.heappush(self._timers, timer)
        return timer

    @property
    def armed(self) -> int:
        """Timers that wait."""
        return sum(not timer.is_cancelled for timer in self._timers)

    def advance(self, seconds: float) -> None:
        """Move on, and call what is due on the way.

        Args:
            seconds: By how much.
        """
        until = self.now + seconds
        while self._timers and self._timers[0].when <= until:
            timer = heapq.heappop(self._timers)
            self.now = max(self.now, timer.when)
            if not timer.is_cancelled:
                timer.callback()
        self.now = until
