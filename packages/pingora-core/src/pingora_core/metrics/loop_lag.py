"""How late the event loop is: what blocks it delays every request of the process."""

from __future__ import annotations

import asyncio
import time
import weakref
from typing import TYPE_CHECKING, Final, final

from pingora_core.metrics.description import Description, OverWorkers
from pingora_core.metrics.snapshot import Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pingora_core.metrics.registry import Registry

__all__ = ["DESCRIPTIONS", "LoopLag"]

LAG: Final = Description.histogram(
    "pingora.event_loop.lag",
    "How late a timer of the event loop was, four times a second.",
    bounds=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
WORST: Final = Description.gauge(
    "pingora.event_loop.lag.worst",
    "The longest delay of the event loop in the last 10 to 20 seconds.",
    unit="s",
    over=OverWorkers.EACH,
)

DESCRIPTIONS: Final = (LAG, WORST)

_INTERVAL: Final = 0.25
_WINDOW: Final = 10.0


@final
class LoopLag:
    """Measures it.

    Args:
        registry: Where it is counted.
        interval: From one look to the next, seconds.
        clock: Monotonic time, seconds; that of the loop may be a little old.
    """

    __slots__ = (
        "__weakref__",
        "_before",
        "_clock",
        "_interval",
        "_lag",
        "_since",
        "_timer",
        "_worst",
    )

    def __init__(
        self,
        registry: Registry,
        *,
        interval: float = _INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._lag = registry.add_histogram(LAG).labels()
        self._interval = interval
        self._worst = self._before = 0.0
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        registry.add_source(self._read)

    def start(self) -> None:
        """Begin to measure the running event loop; again does nothing."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._since = self._clock()
            self._expect(loop)

    def stop(self) -> None:
        """Measure no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def forked(self) -> None:
        """Forget the parent's event loop, in a process that was just forked."""
        self._timer = None
        self._worst = self._before = 0.0

    def _expect(self, loop: asyncio.AbstractEventLoop) -> None:
        due = self._clock() + self._interval
        self._timer = loop.call_later(self._interval, _tick, weakref.ref(self), loop, due)

    def look(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        """Note how late it is; the timer calls this.

        Args:
            loop: The event loop.
            due: When this was to be called.
        """
        now = self._clock()
        late = max(0.0, now - due)
        self._lag.observe(late)
        if now - self._since > _WINDOW:
            self._before, self._worst, self._since = self._worst, 0.0, now
        self._worst = max(self._worst, late)
        self._expect(loop)

    def _read(self) -> Iterator[Reading]:
        yield Reading(WORST, max(self._worst, self._before))


def _tick(lag: weakref.ref[LoopLag], loop: asyncio.AbstractEventLoop, due: float) -> None:
    # Whoever forgets to stop it must not keep it going for ever.
    measured = lag()
    if measured is not None:
        measured.look(loop, due)
