"""Coarse deadlines that many waiters share: cheap to set, cheaper to clear.

Theory of operation. A connection sets and clears its deadline with every wait and hardly any
deadline ever fires. So `Deadline.set` only stores the new expiry: as long as the deadline already
sits in a bucket that fires no later, nothing else happens. When the bucket fires and the expiry
has moved on, the deadline is put into the bucket of its new expiry. A bucket holds all deadlines
of the same tick (10 ms by default) and is one timer of the event loop. Buckets that lie further
ahead than 4 seconds are 25 ticks wide: connections come and go, and each empty bucket they leave
behind costs a timer until it fires.

A deadline fires never early and at most one granularity late, or 25 of them when it was set for
longer than 4 seconds (plus what the loop is late).

Source: pingora-timeout/src/fast_timeout.rs, timer.rs.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING, Final, Protocol, TypeVar
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = [
    "DEFAULT_GRANULARITY",
    "Deadline",
    "Scheduler",
    "Timers",
    "get_timers",
    "sleep",
    "timeout",
]

_logger = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULT_GRANULARITY: Final = 0.01
"""Seconds; pingora-timeout's RESOLUTION_MS."""

# Seconds ahead from which buckets are wider, and how many ticks wide they are then.
_FAR: Final = 4.0
_FAR_WIDTH: Final = 25

# uvloop rounds timers to the nearest millisecond, so half of one early is possible.
_LOOP_EARLINESS: Final = 0.0005


class Scheduler(Protocol):
    """What `Timers` needs of an event loop; a test's fake has just this."""

    def time(self) -> float:
        """Return the monotonic time, seconds."""

    def call_at(self, when: float, callback: Callable[[int], None], tick: int, /) -> object:
        """Call a function at a time.

        Args:
            when: Monotonic time, seconds.
            callback: What to call.
            tick: Its argument.
        """


class Timers:
    """All coarse deadlines of one event loop.

    Args:
        scheduler: The event loop, or a fake.
        granularity: Width of a bucket, seconds; deadlines are rounded up to it.
        clock: Monotonic time, seconds; None for the scheduler's own.
    """

    __slots__ = ("__weakref__", "_buckets", "clock", "granularity", "scheduler")

    def __init__(
        self,
        scheduler: Scheduler,
        granularity: float = DEFAULT_GRANULARITY,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if not granularity > 0:
            raise ValueError(f"granularity must be positive, not {granularity}")
        self.scheduler: Scheduler = scheduler
        self.granularity: float = granularity
        self.clock: Callable[[], float] = clock if clock is not None else scheduler.time
        self._buckets: dict[int, set[Deadline]] = {}

    def arm(self, deadline: Deadline, expiry: float) -> tuple[set[Deadline], float]:
        """Put a deadline into the bucket of its expiry; `Deadline` calls this, nobody else.

        Args:
            deadline: A deadline that sits in no bucket.
            expiry: By the clock, seconds.

        Returns:
            The bucket, and the earliest expiry that this bucket serves in time.
        """
        granularity = self.granularity
        tick = math.floor(expiry / granularity) + 1
        width = 1
        if expiry - self.clock() > _FAR:
            width = _FAR_WIDTH
            tick += -tick % width
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = set()
            self.scheduler.call_at(tick * granularity + _LOOP_EARLINESS, self._fire, tick)
        bucket.add(deadline)
        return bucket, (tick - width) * granularity

    @property
    def buckets(self) -> int:
        """How many buckets wait to fire: an upper bound of the loop timers in use."""
        return len(self._buckets)

    def _fire(self, tick: int) -> None:
        bucket = self._buckets.pop(tick)
        now = self.clock()
        # A callback may cancel deadlines of this very bucket, so it is not iterated over.
        while bucket:
            bucket.pop().expire(now)


class Deadline:
    """One deadline that is set, cleared and set again over the life of its owner.

    Args:
        timers: Of the running loop.
        callback: Called when it expires; must not block. What it raises is logged.
    """

    __slots__ = ("_armed_from", "_bucket", "_callback", "_clock", "_expiry", "_timers")

    def __init__(self, timers: Timers, callback: Callable[[], None]) -> None:
        self._timers = timers
        self._callback = callback
        self._clock = timers.clock
        self._expiry = math.inf
        self._bucket: set[Deadline] | None = None
        # Earliest expiry that the bucket it sits in serves in time.
        self._armed_from = math.inf

    @property
    def is_set(self) -> bool:
        """Whether it will fire unless cleared."""
        return self._expiry != math.inf

    def set(self, seconds: float) -> None:
        """Let it fire after a while from now, instead of what was set before.

        Args:
            seconds: From now; zero or less fires at the next tick, infinity never.
        """
        clock = self._clock  # calling it where it lies takes twice as long (2026-11)
        self._expiry = expiry = clock() + seconds
        if expiry < self._armed_from:
            if self._bucket is not None:
                self._bucket.discard(self)
            self._bucket, self._armed_from = self._timers.arm(self, expiry)

    def clear(self) -> None:
        """Do not fire. It may stay in a bucket until that one fires; setting again is cheap."""
        self._expiry = math.inf

    def cancel(self) -> None:
        """Do not fire, and be forgotten by the timers at once; for the end of the owner's life."""
        self._expiry = math.inf
        if self._bucket is not None:
            self._bucket.discard(self)
            self._bucket = None
            self._armed_from = math.inf

    def expire(self, now: float) -> None:
        """Handle the firing of the bucket it sat in; `Timers` calls this, nobody else.

        Args:
            now: By the clock, seconds.
        """
        self._bucket = None
        self._armed_from = math.inf
        expiry = self._expiry
        if expiry > now:
            if expiry != math.inf:
                self._bucket, self._armed_from = self._timers.arm(self, expiry)
            return
        self._expiry = math.inf
        try:
            self._callback()
        except Exception:
            _logger.exception("a deadline's callback failed: %r", self._callback)


# By identity of the loop, and weak: deadlines and pending buckets keep their timers alive, and a
# loop that is gone leaves nothing behind.
_by_loop: Final[WeakValueDictionary[int, Timers]] = WeakValueDictionary()


def get_timers() -> Timers:
    """Find the shared timers of the running event loop.

    Returns:
        Always the same object while anything uses it.

    Raises:
        RuntimeError: If no event loop is running.
    """
    loop = asyncio.get_running_loop()
    timers = _by_loop.get(id(loop))
    if timers is None or timers.scheduler is not loop:
        # Not loop.time: uvloop's stands still during one turn, which would let deadlines that
        # are set late in a long turn fire early. Both are the system's monotonic clock.
        timers = _by_loop[id(loop)] = Timers(loop, clock=time.monotonic)
    return timers


async def sleep(seconds: float) -> None:
    """Wait on the coarse timers.

    Args:
        seconds: How long at least; zero or less only lets other tasks run.
    """
    if seconds <= 0:
        await asyncio.sleep(0)
        return
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    deadline = Deadline(get_timers(), wake)
    deadline.set(seconds)
    try:
        await waiter
    finally:
        deadline.cancel()


async def timeout(seconds: float | None, awaitable: Awaitable[T]) -> T:
    """Wait for something with a coarse deadline.

    Args:
        seconds: How long at most; None for no limit.
        awaitable: What to wait for; cancelled when the deadline passes.

    Returns:
        Its result.

    Raises:
        TimeoutError: If the deadline has passed first.
        CancelledError: If the caller was cancelled.
        RuntimeError: If called outside of a task.
    """
    if seconds is None:
        return await awaitable
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("timeout() must be used inside a task")
    cancelling = task.cancelling()
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        task.cancel()

    deadline = Deadline(get_timers(), expire)
    deadline.set(seconds)
    try:
        return await awaitable
    except asyncio.CancelledError as error:
        # Only our own cancellation becomes a timeout; one from outside goes on (asyncio.timeout).
        if expired and task.cancelling() == cancelling + 1:
            raise TimeoutError(f"not done within {seconds} s") from error
        raise
    finally:
        deadline.cancel()
        if expired:
            task.uncancel()
