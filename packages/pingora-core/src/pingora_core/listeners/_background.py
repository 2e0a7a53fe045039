"""What acceptors do in the background, kept alive: started again when it fails."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final, final

from pingora_core.runtime import timers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from pingora_core.listeners.endpoint import BackgroundAcceptor

__all__ = ["BackgroundTasks"]

_logger = logging.getLogger(__name__)

# Seconds: the first pause, the longest, and after how long a run counts as a good one.
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
_GOOD_RUN: Final = 60.0


@final
class BackgroundTasks:
    """One task for each acceptor that has something to do in the background.

    Args:
        sleep: Pauses after a failure.
        clock: Monotonic time, seconds.
    """

    __slots__ = ("_clock", "_ending", "_sleep", "_tasks")

    def __init__(
        self,
        sleep: Callable[[float], Awaitable[None]] = timers.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sleep = sleep
        self._clock = clock
        # By identity: an acceptor may compare as it likes.
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def keep(self, acceptors: Iterable[BackgroundAcceptor]) -> None:
        """Run these and no others.

        Args:
            acceptors: The acceptors; those that run already go on.
        """
        wanted = {id(acceptor): acceptor for acceptor in acceptors}
        for key in self._tasks.keys() - wanted.keys():
            task = self._tasks.pop(key)
            if not task.done():
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)
                task.cancel()
        for key, acceptor in wanted.items():
            if key not in self._tasks:
                self._tasks[key] = asyncio.get_running_loop().create_task(self._run(acceptor))

    async def wait_ended(self) -> None:
        """Wait for those that were told to end."""
        if self._ending:
            await asyncio.wait(self._ending)

    async def _run(self, acceptor: BackgroundAcceptor) -> None:
        task = asyncio.current_task()
        assert task is not None
        pause = 0.0
        while True:
            began = self._clock()
            try:
                await acceptor.run()
            except asyncio.CancelledError as error:
                if task.cancelling():
                    raise
                # Nobody asked for it: something inside was cancelled and let it through.
                failure: BaseException = error
            except Exception as error:  # noqa: BLE001 - logged below
                failure = error
            else:
                return
            is_new = pause == 0.0 or self._clock() - began >= _GOOD_RUN
            pause = _FIRST_PAUSE if is_new else min(pause * 2, _LONGEST_PAUSE)
            _logger.error(
                "%r failed in the background, next try in %.0f s",
                acceptor,
                pause,
                exc_info=failure,
            )
            await self._sleep(pause)
