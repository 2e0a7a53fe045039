"""One service while it runs: from the wait for its dependencies, over failures, to its end.

Theory of operation: a run is one task. While it waits for dependencies or pauses before a restart
no code of the service runs, and a shutdown just cancels the task; otherwise the shutdown is told
to the service, which ends by itself. What a failure means is decided here by the service's
policy; that the server has to stop is told to the runner, which keeps all runs.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, final

from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services.failure import STOP_SERVER, Restart, RestartHistory, StopServer
from pingora_core.services.service import (
    Placement,
    ServiceContext,
    ServiceReadyNotifier,
    ServiceState,
)
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.conf import ServerConf
    from pingora_core.listeners.fds import ListenFds
    from pingora_core.services.graph import ServiceHandle
    from pingora_core.services.service import Service

__all__ = ["RunHost", "ServiceRun", "failure_of"]

_logger = logging.getLogger(__name__)

_CAN_BE_CUT = frozenset({ServiceState.WAITING, ServiceState.RESTARTING})


class RunHost(Protocol):
    """What a run needs of its runner."""

    @property
    def conf(self) -> ServerConf:
        """The configuration for the next start."""

    @property
    def fds(self) -> ListenFds:
        """The listening sockets."""

    @property
    def failure(self) -> Error | None:
        """Why the server has to stop; None as long as it has not."""

    @property
    def uniform(self) -> Callable[[], float]:
        """Random numbers from 0 to 1."""

    def run_is_ready(self, run: ServiceRun) -> None:
        """Be told that a service is ready, again after each restart.

        Args:
            run: Its run.
        """

    def run_has_failed(self, run: ServiceRun, error: Error, *, is_start: bool) -> None:
        """Be told that a service failed and is not started again.

        Args:
            run: Its run.
            error: Why it failed.
            is_start: Whether it was not ready yet.
        """

    def run_has_ended(self, run: ServiceRun) -> None:
        """Be told that nothing of a service runs any more.

        Args:
            run: Its run.
        """


@final
class ServiceRun:
    """A service of a runner.

    Args:
        handle: The service.
        dependencies: The runs of what it depends on.
        host: The runner.

    Attributes:
        handle: As given.
        state: Where the service is in its life.
        settled: Set as soon as the service has been ready or has ended: its dependents may start.
        ended: Set when nothing of it runs and nothing will.
        has_been_ready: Whether the service has said that it is ready.
        is_on_probation: Whether a failure is final, whatever the service's policy; the host
            decides when that is over.
    """

    __slots__ = (
        "_dependencies",
        "_history",
        "_host",
        "_is_cancelling",
        "_switch",
        "_task",
        "ended",
        "handle",
        "has_been_ready",
        "is_on_probation",
        "settled",
        "state",
    )

    def __init__(
        self, handle: ServiceHandle, dependencies: tuple[ServiceRun, ...], host: RunHost
    ) -> None:
        self.handle: ServiceHandle = handle
        self.state: ServiceState = ServiceState.WAITING
        self.settled: asyncio.Event = asyncio.Event()
        self.ended: asyncio.Event = asyncio.Event()
        self.has_been_ready: bool = False
        self.is_on_probation: bool = True
        self._dependencies = dependencies
        self._host = host
        self._switch = ShutdownSwitch()
        self._history = RestartHistory(host.uniform)
        self._task: asyncio.Task[None] | None = None
        self._is_cancelling = False

    # ------------------------------------------------------------------------- state

    @property
    def service(self) -> Service:
        """The service."""
        return self.handle.service

    @property
    def has_started(self) -> bool:
        """Whether `start` was called."""
        return self._task is not None

    @property
    def is_running(self) -> bool:
        """Whether `start` was called and the end has not come."""
        return self._task is not None and not self.ended.is_set()

    @property
    def is_led(self) -> bool:
        """Whether it is for one worker only."""
        return self.service.placement is Placement.ONE_WORKER

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to end."""
        return self._switch.watch.is_shutting_down

    # ----------------------------------------------------------------------- control

    def start(self) -> None:
        """Start the service, as soon as its dependencies are ready; once."""
        self._task = asyncio.create_task(self._run(), name=f"service {self.handle.name}")
        self._task.add_done_callback(self._done)

    def begin_shutdown(self) -> None:
        """Tell the service to finish what is in flight and end; again does nothing."""
        if self.is_stopping:
            return
        can_be_cut = self.state in _CAN_BE_CUT
        if self.state is not ServiceState.FAILED and not self.ended.is_set():
            self.state = ServiceState.STOPPING
        self._switch.start()
        if self._task is None:
            self._end()
        elif can_be_cut:
            self.cancel()

    def end_streams(self) -> None:
        """Tell the service, which was told to end, to end its long-lived exchanges too."""
        if not self.ended.is_set():
            self._switch.end_streams()

    def cancel(self) -> None:
        """Break off whatever of it still runs, and tell it to end if nobody has."""
        self._is_cancelling = True
        self.begin_shutdown()
        if self._task is not None:
            self._task.cancel()

    async def ended_within(self, limit: float) -> bool:
        """Wait for the end.

        Args:
            limit: How long, seconds.

        Returns:
            Whether it came.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self.ended.wait()
        return self.ended.is_set()

    # --------------------------------------------------------------------------- run

    async def _run(self) -> None:
        await self._wait_for_dependencies()
        while not self.is_stopping and self._host.failure is None:
            pause = await self._attempt()
            if pause is None:
                return
            self.state = ServiceState.RESTARTING
            await asyncio.sleep(pause)

    async def _wait_for_dependencies(self) -> None:
        if not self._dependencies:
            return
        clock = asyncio.get_running_loop().time
        began = clock()
        for dependency in self._dependencies:
            await dependency.settled.wait()
        if self._host.failure is None:
            self.service.on_startup_delay(clock() - began)

    async def _attempt(self) -> float | None:
        # One run of the service; how long to pause before the next, or None if there is none.
        clock = asyncio.get_running_loop().time
        started = clock()
        self.state = ServiceState.STARTING
        _logger.info("service %r starts", self.handle.name)
        try:
            await self._start_service()
        except asyncio.CancelledError as error:
            if self._is_cancelling:
                raise
            # Nobody asked for it: something inside was cancelled and let it through.
            failure = failure_of(self.service, error)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - told below; SystemExit is one as well
            failure = failure_of(self.service, error)
        else:
            _logger.info("service %r has ended", self.handle.name)
            return None
        return self._decide(failure, started, clock())

    async def _start_service(self) -> None:
        ready = ServiceReadyNotifier(self._is_ready)
        if not self.service.notifies_ready:
            ready.notify_ready()
        context = ServiceContext(
            shutdown=self._switch.watch, ready=ready, conf=self._host.conf, fds=self._host.fds
        )
        await self.service.start_service(context)

    def _decide(self, error: Error, started: float, failed: float) -> float | None:
        if self.is_stopping:
            self.state = ServiceState.FAILED
            _logger.error("%s, while it stops", error, exc_info=error)
            return None
        match STOP_SERVER if self.is_on_probation else self.service.on_failure:
            case StopServer():
                self._fail(error)
                return None
            case Restart() as policy:
                pause = self._history.next_pause(policy, started=started, failed=failed)
                if pause is None:
                    times = f"{policy.max_restarts} restarts in {policy.restart_window:g} s"
                    self._fail(error.more_context(f"given up after {times}"))
                    return None
                _logger.error("%s; next try in %.1f s", error, pause, exc_info=error)
                return pause

    # ------------------------------------------------------------------------ events

    def _is_ready(self) -> None:
        # Not if it was told to end meanwhile, nor if this is what is left of an earlier try.
        if self.state is not ServiceState.STARTING:
            return
        self.state = ServiceState.READY
        self.has_been_ready = True
        self.settled.set()
        self._host.run_is_ready(self)

    def _fail(self, error: Error, *, is_start: bool | None = None) -> None:
        self.state = ServiceState.FAILED
        self._host.run_has_failed(
            self, error, is_start=not self.has_been_ready if is_start is None else is_start
        )

    def _done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            # Not from the service, whose failures are values by now: from one of its hooks.
            self._fail(failure_of(self.service, error), is_start=False)
        self._end()

    def _end(self) -> None:
        if self.state is not ServiceState.FAILED:
            self.state = ServiceState.ENDED
        self.settled.set()
        self.ended.set()
        self._host.run_has_ended(self)


def failure_of(service: Service, error: BaseException) -> Error:
    """Make an error of what a service raised.

    Args:
        service: The service.
        error: What it raised.

    Returns:
        An error that names the service.
    """
    context = f"service {service.name!r} failed"
    if isinstance(error, Error):
        return error.more_context(context)
    return Error.internal(ErrorType.INTERNAL_ERROR, context, cause=error)
