"""Runs the services of a graph in the current event loop: one task each, from start to end.

Theory of operation: all tasks are made at once, in the order of the graph, and each waits for
its dependencies to be ready. The runner never decides that the server stops; it keeps what has
happened (`is_ready`, `failure`, `has_ended`) and calls ``on_change`` whenever that may differ.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, final

from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services.service import (
    STOP_SERVER,
    Restart,
    ServiceContext,
    ServiceReadyNotifier,
    StopServer,
)
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.conf import ServerConf
    from pingora_core.listeners.fds import ListenFds
    from pingora_core.services.graph import ServiceGraph, ServiceHandle
    from pingora_core.services.service import Service

__all__ = ["ServiceRunner"]

_logger = logging.getLogger(__name__)


@final
class ServiceRunner:
    """The services of a server while they run.

    Args:
        graph: What to run.
        conf: Handed to the services.
        fds: Handed to the services.
        on_change: Called when the runner's properties may have changed.

    Attributes:
        failure: Why the server has to stop; None as long as it has not. The first one stays.
    """

    def __init__(
        self,
        graph: ServiceGraph,
        conf: ServerConf,
        fds: ListenFds,
        on_change: Callable[[], None],
    ) -> None:
        self.failure: Error | None = None
        self._conf = conf
        self._fds = fds
        self._on_change = on_change
        self._switch = ShutdownSwitch()
        # In the order of start.
        self._ready = {
            handle: ServiceReadyNotifier(partial(self._is_now_ready, handle))
            for handle in graph.start_order()
        }
        self._tasks: dict[asyncio.Task[None], ServiceHandle] = {}
        self._not_ready = set(self._ready)
        self._is_cancelling = False

    # ------------------------------------------------------------------------- state

    @property
    def is_ready(self) -> bool:
        """Whether every service has been ready."""
        return not self._not_ready

    @property
    def has_ended(self) -> bool:
        """Whether no service runs any more."""
        return not self._tasks

    @property
    def running(self) -> list[str]:
        """The names of the services that run."""
        return [handle.name for handle in self._tasks.values()]

    # ----------------------------------------------------------------------- control

    def start(self) -> None:
        """Start all services."""
        for handle in self._ready:
            task = asyncio.create_task(self._run(handle), name=f"service {handle.name}")
            self._tasks[task] = handle
            task.add_done_callback(self._ended)

    def begin_shutdown(self) -> None:
        """Tell all services to finish what is in flight and end."""
        self._switch.start()

    def cancel(self) -> None:
        """Break off the services that still run."""
        self._is_cancelling = True
        for task in self._tasks:
            task.cancel()

    # ------------------------------------------------------------------- one service

    async def _run(self, handle: ServiceHandle) -> None:
        try:
            await self._wait_for_dependencies(handle)
            await self._run_until_done(handle)
        finally:
            self._ready[handle].notify_ready()

    async def _wait_for_dependencies(self, handle: ServiceHandle) -> None:
        if not handle.dependencies:
            return
        clock = asyncio.get_running_loop().time
        began = clock()
        for dependency in handle.dependencies:
            await self._ready[dependency].wait()
        handle.service.on_startup_delay(clock() - began)

    async def _run_until_done(self, handle: ServiceHandle) -> None:
        clock = asyncio.get_running_loop().time
        delay = 0.0
        while not self._is_shutting_down() and self.failure is None:
            started = clock()
            error = await self._attempt(handle)
            if error is None:
                return
            if self._is_shutting_down():
                _logger.error("%s, while the server stops", error, exc_info=error)
                return
            was_ready = handle not in self._not_ready
            match handle.service.on_failure if was_ready else STOP_SERVER:
                case StopServer():
                    self._fail(error, is_start=not was_ready)
                    return
                case Restart() as policy:
                    delay = policy.next_delay(delay, clock() - started)
                    _logger.error("%s; next try in %.1f s", error, delay, exc_info=error)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(delay):
                            await self._switch.watch.wait()

    def _is_shutting_down(self) -> bool:
        return self._switch.watch.is_shutting_down

    async def _attempt(self, handle: ServiceHandle) -> Error | None:
        # One run of a service; why it failed, or None if it ended as it should.
        service = handle.service
        ready = self._ready[handle]
        _logger.info("service %r starts", service.name)
        if not service.notifies_ready:
            ready.notify_ready()
        context = ServiceContext(
            shutdown=self._switch.watch, ready=ready, conf=self._conf, fds=self._fds
        )
        try:
            await service.start_service(context)
        except asyncio.CancelledError as error:
            if self._is_cancelling:
                raise
            # Nobody asked for it: something inside was cancelled and let it through.
            return _failed(service, error)
        except Exception as error:  # noqa: BLE001 - told by the caller, with its traceback
            return _failed(service, error)
        _logger.info("service %r has ended", service.name)
        return None

    # ------------------------------------------------------------------------ events

    def _is_now_ready(self, handle: ServiceHandle) -> None:
        self._not_ready.discard(handle)
        self._on_change()

    def _fail(self, error: Error, *, is_start: bool) -> None:
        # A service that cannot start for a known reason needs no traceback: whoever runs the
        # server is given the error itself.
        is_known = is_start and isinstance(error.root_cause, Error | OSError)
        if self.failure is not None or not is_known:
            _logger.error("%s", error, exc_info=error)
        if self.failure is None:
            self.failure = error
        self._on_change()

    def _ended(self, task: asyncio.Task[None]) -> None:
        handle = self._tasks.pop(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            # Not from the service, whose failures are values by now: from one of its hooks.
            self._fail(_failed(handle.service, error), is_start=False)
        self._on_change()


def _failed(service: Service, error: BaseException) -> Error:
    context = f"service {service.name!r} failed"
    if isinstance(error, Error):
        return error.more_context(context)
    return Error(ErrorType.INTERNAL_ERROR, context, source=ErrorSource.INTERNAL, cause=error)
