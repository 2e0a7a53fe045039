"""From the first service to the last: starting, running, and stopping without breaking things off.

Rules of a stop: listeners close at once; what is in flight may end, up to the grace period; the
server leaves as soon as nothing is; then what is left is cancelled and may clean up under one
deadline. A signal that comes meanwhile skips to the next step.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, final

from pingora_core.server.phases import ExecutionPhase
from pingora_core.server.runner import ServiceRunner
from pingora_core.server.signals import ShutdownSignal
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from pingora_core.conf import ServerConf
    from pingora_core.listeners.fds import ListenFds
    from pingora_core.server.phases import PhaseAnnouncer
    from pingora_core.server.signals import ShutdownSignalWatch
    from pingora_core.services.graph import ServiceGraph

__all__ = ["Lifecycle"]

_logger = logging.getLogger(__name__)


@final
class Lifecycle:
    """One run of a server's services in the current event loop.

    Args:
        graph: The services.
        conf: The configuration.
        fds: The listening sockets.
        phases: Told what phase is entered.
    """

    def __init__(
        self, graph: ServiceGraph, conf: ServerConf, fds: ListenFds, phases: PhaseAnnouncer
    ) -> None:
        self._conf = conf
        self._phases = phases
        self._changed = asyncio.Event()
        self._runner = ServiceRunner(graph, conf, fds, self._changed.set)
        self._signals: deque[ShutdownSignal] = deque()
        self._signal_failure: Error | None = None

    async def run(self, signals: ShutdownSignalWatch) -> None:
        """Run the services until the server is told to stop or a service makes it stop.

        Args:
            signals: Where that is told; its handlers are in place already.

        Raises:
            CancelledError: If this was cancelled; after a fast shutdown.
            Error: Why the server stopped, if nobody told it to.
        """
        listener = asyncio.create_task(self._listen(signals), name="shutdown signals")
        try:
            self._runner.start()
            await self._stop(await self._serve())
        except asyncio.CancelledError:
            # From whoever embeds the server: there is no time to be graceful in.
            await self._stop(ShutdownSignal.FAST_SHUTDOWN)
            raise
        finally:
            listener.cancel()
            await asyncio.wait([listener])
        failure = self._runner.failure or self._signal_failure
        if failure is not None:
            raise failure

    async def _listen(self, signals: ShutdownSignalWatch) -> None:
        while True:
            try:
                received = await signals.recv()
            except Exception as error:  # noqa: BLE001 - whoever stops hears of it
                context = "the watch for shutdown signals failed"
                self._signal_failure = Error(
                    ErrorType.INTERNAL_ERROR, context, source=ErrorSource.INTERNAL, cause=error
                )
                self._changed.set()
                return
            self._signals.append(received)
            self._changed.set()
            # A watch that answers without waiting must not starve what its answer is for.
            await asyncio.sleep(0)

    # ---------------------------------------------------------------------- running

    async def _serve(self) -> ShutdownSignal:
        # Until the server has to stop; how.
        is_running = False
        while True:
            if self._runner.failure is not None or self._signal_failure is not None:
                # Before it is running it has nothing in flight that deserves a grace period.
                graceful = ShutdownSignal.GRACEFUL_TERMINATE
                return graceful if is_running else ShutdownSignal.FAST_SHUTDOWN
            received = self._take_signal()
            if received is not None:
                return received
            if self._runner.is_ready and not is_running:
                is_running = True
                self._phases.enter(ExecutionPhase.RUNNING)
                continue  # a callback may have changed something
            await self._wait_for_change()

    def _take_signal(self) -> ShutdownSignal | None:
        while self._signals:
            received = self._signals.popleft()
            if received is not ShutdownSignal.GRACEFUL_UPGRADE:
                return received
            _logger.error("graceful upgrade is not available yet: the server goes on serving")
        return None

    async def _wait_for_change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    # --------------------------------------------------------------------- stopping

    async def _stop(self, how: ShutdownSignal) -> None:
        is_graceful = how is ShutdownSignal.GRACEFUL_TERMINATE
        if is_graceful:
            self._phases.enter(ExecutionPhase.GRACEFUL_TERMINATE)
        self._phases.enter(ExecutionPhase.SHUTDOWN_STARTED)
        self._runner.begin_shutdown()
        if is_graceful:
            self._phases.enter(ExecutionPhase.SHUTDOWN_GRACE_PERIOD)
            grace = self._conf.grace_period
            if not await self._ended_within(grace):
                names = ", ".join(self._runner.running)
                _logger.warning("breaking off what is still in flight in: %s", names)
        self._phases.enter(ExecutionPhase.SHUTDOWN_RUNTIMES)
        self._runner.cancel()
        if not await self._ended_within(self._conf.graceful_shutdown_timeout):
            names = ", ".join(self._runner.running)
            _logger.error("these services would not end and are left behind: %s", names)
        self._phases.enter(ExecutionPhase.TERMINATED)

    async def _ended_within(self, limit: float) -> bool:
        # False too if another signal came first.
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while not self._runner.has_ended and self._take_signal() is None:
                    await self._wait_for_change()
        return self._runner.has_ended
