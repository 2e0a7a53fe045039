"""One lock of one key, seen from its two sides: the permit to write, and the wait to read.

Part of ``pingora_cache.lock``, which tells how it works.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["LockCore", "LockStatus", "ReadLock", "Scheduler", "TimerHandle", "WritePermit"]

logger = logging.getLogger(__name__)

# Waiters that wake in one turn of the loop. Each does a lookup and begins an answer, which takes
# some 50 to 100 us, so that a turn stays at a few milliseconds.
_BATCH: Final = 64


class LockStatus(Enum):
    """How a lock stands, and what those who waited for it are told.

    Attributes:
        WAITING: The writer is at it.
        DONE: The object can be looked up.
        TRANSIENT_ERROR: The writer failed; somebody else may be luckier.
        GIVE_UP: There will be no object; do not wait for another writer.
        DANGLING: The writer went away without a word.
        WAIT_TIMEOUT: The reader has waited as long as it may.
        AGE_TIMEOUT: The writer takes too long.

    Source: enum LockStatus in pingora-cache/src/lock.rs.
    """

    WAITING = 0
    DONE = 1
    TRANSIENT_ERROR = 2
    GIVE_UP = 3
    DANGLING = 4
    WAIT_TIMEOUT = 5
    AGE_TIMEOUT = 6


class TimerHandle(Protocol):
    """A call that was put off."""

    def cancel(self) -> None:
        """Do not call."""


class Scheduler(Protocol):
    """What a lock needs of an event loop; a test's fake has just this."""

    def time(self) -> float:
        """Return the monotonic time, seconds."""

    def call_at(self, when: float, callback: Callable[[], object], /) -> TimerHandle:
        """Call a function at a time.

        Args:
            when: Monotonic time, seconds.
            callback: What to call.

        Returns:
            A handle to call it off.
        """


class LockTable(Protocol):
    """Where a lock is found as long as it is held."""

    @property
    def scheduler(self) -> Scheduler:
        """What tells the time."""

    def forget(self, core: LockCore, /) -> None:
        """Let a lock not be found any more.

        Args:
            core: The lock; it may have been replaced before.
        """

    def enter(self) -> bool:
        """Count one more that waits.

        Returns:
            False if there are too many already.
        """

    def leave(self) -> None:
        """Count one less that waits."""


@final
class LockCore:
    """What both sides share.

    Args:
        table: Where it is found.
        key: Under which key.
        deadline: Until when the writer may hold others, monotonic time, seconds.

    Attributes:
        key: The key.
        status: How it stands.
    """

    __slots__ = ("_deadline", "_table", "_timer", "_waiters", "key", "status")

    def __init__(self, table: LockTable, key: bytes, deadline: float) -> None:
        self.key: bytes = key
        self.status: LockStatus = LockStatus.WAITING
        self._table = table
        self._deadline = deadline
        self._timer: TimerHandle | None = None
        # A dict for its order: who came first wakes first, and becomes the next writer.
        self._waiters: dict[asyncio.Future[LockStatus], None] = {}

    def look(self) -> LockStatus:
        """Tell the status, after a look at the clock.

        Returns:
            The status; ``AGE_TIMEOUT``, for all, if the writer has had its time.
        """
        if self.status is LockStatus.WAITING and self._table.scheduler.time() >= self._deadline:
            self.settle(LockStatus.AGE_TIMEOUT)
        return self.status

    def settle(self, status: LockStatus) -> None:
        """Tell those who wait, unless they have been told something before.

        Args:
            status: What to tell.
        """
        if self.status is not LockStatus.WAITING:
            return
        self.status = status
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiters:
            self._wake()

    def release(self, status: LockStatus) -> None:
        """Give the lock back.

        Args:
            status: What to tell those who wait.
        """
        self._table.forget(self)
        self.settle(status)

    def drop(self) -> None:
        """Give the lock back as ``DANGLING``, from whatever thread collects garbage."""
        self._table.forget(self)
        if self.status is LockStatus.WAITING:
            waiter = next(iter(self._waiters), None)
            if waiter is None:
                self.status = LockStatus.DANGLING
            else:
                # The loop may be closed, and those who waited gone with it.
                with contextlib.suppress(RuntimeError):
                    waiter.get_loop().call_soon_threadsafe(self.settle, LockStatus.DANGLING)

    async def wait(self, timeout: float | None) -> LockStatus:
        """Wait until the lock is given back or has aged.

        Args:
            timeout: How long at most, seconds; None for as long as it takes.

        Returns:
            The status, or ``WAIT_TIMEOUT``; ``GIVE_UP`` at once if too many wait.
        """
        status = self.look()
        if status is not LockStatus.WAITING:
            return status
        if timeout is not None and timeout <= 0:
            return LockStatus.WAIT_TIMEOUT
        table = self._table
        if not table.enter():
            return LockStatus.GIVE_UP
        scheduler = table.scheduler
        if self._timer is None:
            self._timer = scheduler.call_at(self._deadline, self._grow_old)
        waiter: asyncio.Future[LockStatus] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        timer: TimerHandle | None = None
        if timeout is not None and (until := scheduler.time() + timeout) < self._deadline:
            timer = scheduler.call_at(until, lambda: self._give_up(waiter))
        try:
            return await waiter
        finally:
            table.leave()
            self._waiters.pop(waiter, None)
            if timer is not None:
                timer.cancel()

    def _grow_old(self) -> None:
        self._timer = None
        self.settle(LockStatus.AGE_TIMEOUT)

    def _give_up(self, waiter: asyncio.Future[LockStatus]) -> None:
        if not waiter.done():
            # It may be settled, and this one's batch not have come yet.
            settled = self.status
            waiter.set_result(LockStatus.WAIT_TIMEOUT if settled is LockStatus.WAITING else settled)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, {}
        self._wake_batch(iter(waiters))

    def _wake_batch(self, waiters: Iterator[asyncio.Future[LockStatus]]) -> None:
        waiter = None
        for waiter in islice(waiters, _BATCH):
            if not waiter.done():
                waiter.set_result(self.status)
        if waiter is not None:
            waiter.get_loop().call_soon(self._wake_batch, waiters)


@final
class ReadLock:
    """The right to wait for somebody else who fetches the object.

    Source: struct ReadLock in pingora-cache/src/lock.rs.
    """

    __slots__ = ("_core",)

    def __init__(self, core: LockCore) -> None:
        self._core = core

    @property
    def status(self) -> LockStatus:
        """How the lock stands. Who looks notices that the writer has had its time."""
        return self._core.look()

    async def wait(self, timeout: float | None = None) -> LockStatus:
        """Wait until the lock is given back or has aged.

        Args:
            timeout: How long at most, seconds; None for as long as the writer may take.

        Returns:
            The status, never ``WAITING``. ``WAIT_TIMEOUT`` if this took too long, ``GIVE_UP`` at
            once if too many wait already.
        """
        return await self._core.wait(timeout)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._core.status.name}>"


@final
class WritePermit:
    """The right, and the duty, to fetch the object and to release this afterwards.

    Dropped without a release, it frees those who wait as ``DANGLING``.

    Source: struct WritePermit in pingora-cache/src/lock.rs.
    """

    __slots__ = ("_core", "_is_released")

    def __init__(self, core: LockCore) -> None:
        self._core = core
        self._is_released = False

    @property
    def key(self) -> bytes:
        """The combined hash of the key that is locked."""
        return self._core.key

    @property
    def status(self) -> LockStatus:
        """What those who wait know; that the permit has aged, not before one of them notices."""
        return self._core.status

    @property
    def is_released(self) -> bool:
        """Whether it has been given back."""
        return self._is_released

    def release(self, status: LockStatus) -> None:
        """Give the permit back; does nothing the second time.

        Of a permit that has aged nobody is told any more; whoever has replaced it is not touched.

        Args:
            status: What to tell those who wait.

        Raises:
            ValueError: If the status is ``WAITING``.
        """
        if status is LockStatus.WAITING:
            msg = "what is released is not waited for any more"
            raise ValueError(msg)
        if not self._is_released:
            self._is_released = True
            self._core.release(status)

    def __del__(self) -> None:
        if not self._is_released:
            self._is_released = True
            logger.warning("a write permit of the cache lock was dropped, not released")
            self._core.drop()

    def __repr__(self) -> str:
        state = "released" if self._is_released else self._core.status.name
        return f"<{type(self).__name__} {state}>"
