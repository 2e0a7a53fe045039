"""Runs a long walk in small steps between other work."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Sweeper"]

# A tenth of the time at most, and never long enough for others to notice.
_STEP: Final = 0.002
_PAUSE: Final = 0.02
_BATCH: Final = 32


@final
class Sweeper:
    """Runs a walk whenever it was asked to since the last one began.

    Args:
        walk: Begins a walk; each item is a small step of it.
    """

    __slots__ = ("_again", "_begin", "_timer", "_walk")

    def __init__(self, walk: Callable[[], Iterator[None]]) -> None:
        self._begin = walk
        self._walk: Iterator[None] | None = None
        self._again = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Whether a walk is under way."""
        return self._walk is not None

    def start(self) -> None:
        """Ask for a walk that begins after this call."""
        if self._walk is not None:
            self._again = True
            return
        self._walk = self._begin()
        self._arm()

    def close(self) -> None:
        """Stop; nothing on the second call."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._walk = None

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_PAUSE, self._step)

    def _step(self) -> None:
        walk = self._walk
        if walk is None:
            return
        end = time.perf_counter() + _STEP
        done = object()
        while time.perf_counter() < end:
            for _ in range(_BATCH):
                if next(walk, done) is done:
                    self._finish()
                    return
        self._arm()

    def _finish(self) -> None:
        self._walk = None
        self._timer = None
        if self._again:
            self._again = False
            self.start()
