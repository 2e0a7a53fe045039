"""From the first service to the last: starting, running, and stopping without breaking things off.

Theory of operation: one coroutine (`Lifecycle.run`) goes through the phases, and looks for a stop
among its `Orders`. What surrounds the services, a process of its own or a supervisor, is a
`LifecycleHost`.

Rules of a stop: listeners close at once, or after the lame duck period; what is in flight may
end, up to the grace period; streams that would never end by themselves are closed in order a
while before; the server leaves as soon as nothing is left; then what is left is cancelled and may
clean up under one deadline. A signal that comes meanwhile skips to the next step.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

from pingora_core.server.host import LifecycleHost
from pingora_core.server.orders import Orders
from pingora_core.server.phases import ExecutionPhase
from pingora_core.server.runner import ServiceRunner
from pingora_core.server.signals import ShutdownSignal
from pingora_error import Error

if TYPE_CHECKING:
    from pingora_core.conf import ServerConf
    from pingora_core.listeners.fds import ListenFds
    from pingora_core.server.phases import PhaseAnnouncer
    from pingora_core.server.signals import ShutdownSignalWatch
    from pingora_core.services.graph import ServiceGraph, ServiceHandle

__all__ = ["Lifecycle"]

_logger = logging.getLogger(__name__)

_STREAM_END: Final = 3.0
"""Least time for streams to be closed in order at the end of the grace period, seconds."""


@final
class Lifecycle:
    """One run of a server's services in the current event loop.

    Args:
        graph: The services.
        conf: The configuration.
        fds: The listening sockets.
        phases: Told what phase is entered.
        host: What surrounds the services; None for nothing.
        is_leader: Whether the services that run in one worker only run here from the start.

    Attributes:
        conf: The configuration that a stop heeds; replaced by a reload.
    """

    def __init__(
        self,
        graph: ServiceGraph,
        conf: ServerConf,
        fds: ListenFds,
        phases: PhaseAnnouncer,
        *,
        host: LifecycleHost | None = None,
        is_leader: bool = True,
    ) -> None:
        self.conf: ServerConf = conf
        self._phases = phases
        self._host = LifecycleHost() if host is None else host
        self._fds = fds
        self._changed = asyncio.Event()
        self._runner = ServiceRunner(graph, conf, fds, self._changed.set, is_leader=is_leader)
        self._orders = Orders(self._host, phases, self._changed.set)
        self._failure: Error | None = None
        self._is_forced = False
        self._is_unasked = False
        self._has_resigned = False

    async def run(self, signals: ShutdownSignalWatch) -> None:
        """Run the services until the server is told to stop or a service makes it stop.

        Args:
            signals: Where that is told; its handlers are in place already.

        Raises:
            CancelledError: If this was cancelled; after a fast shutdown.
            Error: Why the server stopped, if nobody told it to.
        """
        self._orders.start(signals)
        try:
            self._runner.start()
            how = await self._serve()
            self._orders.operate_no_more()
            await self._stop(how)
        except asyncio.CancelledError:
            # From whoever embeds the server: there is no time to be graceful in.
            await self._stop(ShutdownSignal.FAST_SHUTDOWN)
            raise
        finally:
            await self._orders.end()
        failure = self._find_failure()
        if failure is not None:
            raise failure

    # ---------------------------------------------------------------------- running

    async def add(self, handle: ServiceHandle) -> None:
        """Start one more service.

        Args:
            handle: In the graph already.

        Raises:
            Error: Why it could not start.
            RuntimeError: If the server is stopping.
        """
        await self._runner.add(handle)

    async def remove(self, handle: ServiceHandle, timeout: float | None = None) -> None:
        """Stop a service without breaking off what it has in flight.

        Args:
            handle: Which one.
            timeout: After which it is broken off, seconds; None for the grace period.

        Raises:
            ValueError: If others depend on it.
        """
        await self._runner.remove(handle, self.conf.grace_period if timeout is None else timeout)

    async def reload(self, conf: ServerConf) -> None:
        """Have all services take on a configuration.

        Args:
            conf: The new one, valid.

        Raises:
            Error: Naming the services that refused it; the others have it.
        """
        self.conf = conf
        await self._runner.reload(conf)

    def lead(self) -> None:
        """Run the services that run in one worker only, here, from now on."""
        self._runner.lead()

    async def _serve(self) -> ShutdownSignal:
        # Until the server has to stop; how.
        is_running = False
        while True:
            if self._find_failure() is not None:
                # Before it is running it has nothing in flight that deserves a grace period,
                # unless it has accepted what its predecessor would have served.
                graceful = ShutdownSignal.GRACEFUL_TERMINATE
                self._is_unasked = True
                has_clients = is_running or self._fds.is_lent
                return graceful if has_clients else ShutdownSignal.FAST_SHUTDOWN
            if self._orders.shutdowns:
                return self._orders.shutdowns.popleft()
            if self._runner.is_ready and not is_running:
                is_running = True
                self._phases.enter(ExecutionPhase.RUNNING)
                try:
                    self._host.running()
                except Error as error:
                    self._failure = error
                continue  # a callback may have changed something
            await self._wait_for_change()

    def _find_failure(self) -> Error | None:
        return self._runner.failure or self._failure or self._orders.failure

    async def _wait_for_change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    # --------------------------------------------------------------------- stopping

    async def _stop(self, how: ShutdownSignal) -> None:
        is_graceful = how is not ShutdownSignal.FAST_SHUTDOWN
        self._host.stopping(how)
        if how is ShutdownSignal.GRACEFUL_TERMINATE:
            self._phases.enter(ExecutionPhase.GRACEFUL_TERMINATE)
            if self._runner.failure is None:
                await self._ended_within(self._host.lame_duck(self.conf))
        self._phases.enter(ExecutionPhase.SHUTDOWN_STARTED)
        self._runner.begin_shutdown()
        if is_graceful:
            self._phases.enter(ExecutionPhase.SHUTDOWN_GRACE_PERIOD)
            await self._drain()
        self._phases.enter(ExecutionPhase.SHUTDOWN_RUNTIMES)
        self._runner.cancel()
        if not await self._ended_within(self.conf.graceful_shutdown_timeout):
            names = ", ".join(self._runner.running)
            _logger.error("these services would not end and are left behind: %s", names)
        self._phases.enter(ExecutionPhase.TERMINATED)

    async def _drain(self) -> None:
        grace = self.conf.grace_period
        before_streams_end = min(self.conf.stream_drain, grace)
        if self._is_forced or await self._ended_within(before_streams_end):
            return
        if not self._is_forced:
            self._runner.end_streams()
            rest = max(grace - before_streams_end, min(grace, _STREAM_END))
            if await self._ended_within(rest):
                return
        names = ", ".join(self._runner.running)
        _logger.warning("breaking off what is still in flight in: %s", names)

    async def _ended_within(self, limit: float) -> bool:
        # False too if another signal came first.
        if limit <= 0:
            return self._runner.has_ended
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while not self._runner.has_ended:
                    if self._orders.is_told_to_hurry(began_unasked=self._is_unasked):
                        self._is_forced = True
                        break
                    self._tell_resignation()
                    await self._wait_for_change()
        self._tell_resignation()
        return self._runner.has_ended

    def _tell_resignation(self) -> None:
        if self._runner.has_resigned and not self._has_resigned:
            self._has_resigned = True
            self._host.resigned()
