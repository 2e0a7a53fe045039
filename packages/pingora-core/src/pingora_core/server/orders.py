"""What a server is told while it runs: a stop is kept for whoever stops, the rest is carried out.

Theory of operation: a listener takes signals in. Shutdowns are put where the server looks for them;
everything that leaves the server serving (reload, reopen logs, upgrade) goes to an operator, which
carries one out after the other, so that a shutdown never waits behind them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, final

from pingora_core.server.phases import ExecutionPhase
from pingora_core.server.signals import ControlSignal, ShutdownSignal
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.server.host import LifecycleHost
    from pingora_core.server.phases import PhaseAnnouncer
    from pingora_core.server.signals import ServerSignal, ShutdownSignalWatch

__all__ = ["Orders"]

_logger = logging.getLogger(__name__)


@final
class Orders:
    """Listens to a watch, in tasks of the running event loop.

    Args:
        host: Carries out what is no shutdown.
        phases: Told of an upgrade; what phase it is decides what is carried out.
        on_change: Called when `shutdowns` or `failure` may have changed.

    Attributes:
        shutdowns: What was asked for and not taken from here yet; a successor that is ready is an
            order, too.
        failure: Why nothing can be heard any more; None as long as it can.
    """

    def __init__(
        self, host: LifecycleHost, phases: PhaseAnnouncer, on_change: Callable[[], None]
    ) -> None:
        self.shutdowns: deque[ShutdownSignal] = deque()
        self.failure: Error | None = None
        self._was_asked = False
        self._host = host
        self._phases = phases
        self._on_change = on_change
        self._requests: asyncio.Queue[ServerSignal] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, signals: ShutdownSignalWatch) -> None:
        """Begin to listen.

        Args:
            signals: Where the server is told what to do; its handlers are in place already.
        """
        self._tasks = [
            asyncio.create_task(self._operate(), name="reloads and upgrades"),
            asyncio.create_task(self._listen(signals), name="signals"),
        ]

    def operate_no_more(self) -> None:
        """Break off what is being carried out and begin nothing new: the server stops."""
        self._tasks[0].cancel()

    def is_told_to_hurry(self, *, began_unasked: bool) -> bool:
        """Take the next shutdown, if there is one, while the server stops.

        Args:
            began_unasked: Whether a failure has begun the stop and nobody has asked for it yet:
                whoever does so then does not ask for a second time.

        Returns:
            Whether it says that the server should not wait any longer.
        """
        if not self.shutdowns:
            return False
        received = self.shutdowns.popleft()
        is_first, self._was_asked = began_unasked and not self._was_asked, True
        return not is_first or received is ShutdownSignal.FAST_SHUTDOWN

    async def end(self) -> None:
        """Listen no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def _listen(self, signals: ShutdownSignalWatch) -> None:
        while True:
            try:
                received = await signals.recv()
            except Exception as error:  # noqa: BLE001 - whoever stops hears of it
                context = "the watch for shutdown signals failed"
                self.failure = Error(
                    ErrorType.INTERNAL_ERROR, context, source=ErrorSource.INTERNAL, cause=error
                )
                self._on_change()
                return
            if received in {ShutdownSignal.FAST_SHUTDOWN, ShutdownSignal.GRACEFUL_TERMINATE}:
                assert isinstance(received, ShutdownSignal)
                self._shut_down(received)
            else:
                self._requests.put_nowait(received)
            # A watch that answers without waiting must not starve what its answer is for.
            await asyncio.sleep(0)

    def _shut_down(self, how: ShutdownSignal) -> None:
        self.shutdowns.append(how)
        self._on_change()

    async def _operate(self) -> None:
        while True:
            request = await self._requests.get()
            if self._phases.phase is not ExecutionPhase.RUNNING and (
                request is not ControlSignal.REOPEN_LOGS
            ):
                _logger.warning("%s is ignored: the server is not running yet", request.value)
                continue
            try:
                await self._carry_out(request)
            except Error as error:
                _logger.error("%s failed, the server goes on as it was: %s", request.value, error)
            except Exception:
                _logger.exception("%s failed", request.value)

    async def _carry_out(self, request: ServerSignal) -> None:
        match request:
            case ControlSignal.REOPEN_LOGS:
                self._host.reopen_logs()
            case ControlSignal.RELOAD:
                await self._host.reload()
            case _:
                await self._upgrade(start_successor=request is ControlSignal.START_SUCCESSOR)

    async def _upgrade(self, *, start_successor: bool) -> None:
        enter = self._phases.enter
        enter(ExecutionPhase.GRACEFUL_UPGRADE_TRANSFERRING_FDS)
        try:
            await self._host.upgrade(
                lambda: enter(ExecutionPhase.GRACEFUL_UPGRADE_CLOSE_TIMEOUT),
                start_successor=start_successor,
            )
        except Exception:
            enter(ExecutionPhase.RUNNING)
            raise
        self._shut_down(ShutdownSignal.GRACEFUL_UPGRADE)
