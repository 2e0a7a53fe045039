"""Signs of life for systemd, which restarts a service that gives none."""

from __future__ import annotations

import math
from typing import final

from pingora_core.server.system import systemd

__all__ = ["SystemdWatchdog"]


@final
class SystemdWatchdog:
    """Tells systemd from time to time that the process is alive, if it wants to know."""

    def __init__(self) -> None:
        self._interval = systemd.watchdog_interval() or math.inf
        self._next = -math.inf

    @property
    def interval(self) -> float:
        """Longest time between two calls of `feed`, seconds; infinite if nobody listens."""
        return self._interval

    @property
    def is_wanted(self) -> bool:
        """Whether systemd watches."""
        return self._interval < math.inf

    def feed(self, now: float) -> None:
        """Tell it, if it is time.

        Args:
            now: Seconds of a monotonic clock.
        """
        if now < self._next or not self.is_wanted:
            return
        systemd.notify("WATCHDOG=1")
        # Called more often than that, by whatever else keeps time.
        self._next = now + self._interval / 2
