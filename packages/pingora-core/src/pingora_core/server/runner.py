"""Runs the services of a graph in the current event loop: one task each, from start to end.

Theory of operation: all tasks are made at once, in the order of the graph, and each waits for
its dependencies to be ready; a service that is meant for one worker is started only where and when
`ServiceRunner.lead` was called. The runner never decides that the server stops; it keeps what has
happened (`is_ready`, `failure`, `has_ended`) and calls ``on_change`` whenever that may differ.

A service that is added while the runner runs belongs to whoever added it until it is ready: until
then its failure is theirs, not the server's.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Final, final

from pingora_core.server.service_run import ServiceRun, failure_of
from pingora_core.services.service import ServiceState
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.conf import ServerConf
    from pingora_core.listeners.fds import ListenFds
    from pingora_core.services.graph import ServiceGraph, ServiceHandle

__all__ = ["ServiceRunner"]

_logger = logging.getLogger(__name__)

_RELOAD_TIMEOUT: Final = 60.0
_STREAM_END: Final = 3.0
"""Least time for streams to be closed in order before a service is broken off, seconds."""


@final
class ServiceRunner:
    """The services of a server while they run.

    Args:
        graph: What to run. From `start` on it changes by `add` and `remove` only, but for the
            handle that is given to `add`.
        conf: Handed to the services.
        fds: Handed to the services.
        on_change: Called when the runner's properties may have changed.
        is_leader: Whether the services that are for one worker run here from the start.
        uniform: Gives random numbers, 0 to 1, for the pauses before restarts.

    Attributes:
        conf: As given, or what `reload` was given since.
        fds: As given.
        failure: Why the server has to stop; None as long as it has not. The first one stays.
        uniform: As given.
    """

    def __init__(
        self,
        graph: ServiceGraph,
        conf: ServerConf,
        fds: ListenFds,
        on_change: Callable[[], None],
        *,
        is_leader: bool = True,
        uniform: Callable[[], float] = random.random,  # noqa: S311 - spreads load
    ) -> None:
        self.conf: ServerConf = conf
        self.fds: ListenFds = fds
        self.failure: Error | None = None
        self.uniform: Callable[[], float] = uniform
        self._graph = graph
        self._on_change = on_change
        self._is_leader = is_leader
        self._has_peers = not is_leader
        self._has_started = False
        self._is_shutting_down = False
        # Every service that is in the graph, and those that were removed and have not ended.
        self._runs: dict[ServiceHandle, ServiceRun] = {}
        # What the server is not ready without; empty for good once it is.
        self._awaited: set[ServiceRun] = set()
        # Whose failures are told to the callers of `add`; None until there is one.
        self._adding: dict[ServiceRun, Error | None] = {}

    # ------------------------------------------------------------------------- state

    @property
    def is_ready(self) -> bool:
        """Whether every service that was there at the start has been ready, or has ended.

        Services that are for one worker, which is another one, do not count.
        """
        return self._has_started and not self._awaited

    @property
    def has_ended(self) -> bool:
        """Whether no service runs any more."""
        return not any(run.is_running for run in self._runs.values())

    @property
    def has_resigned(self) -> bool:
        """Whether a shutdown has begun and no service runs here that is for one worker."""
        return self._is_shutting_down and not any(
            run.is_led and run.is_running for run in self._runs.values()
        )

    @property
    def running(self) -> list[str]:
        """The names of the services that run."""
        return [run.handle.name for run in self._runs.values() if run.is_running]

    @property
    def states(self) -> dict[str, ServiceState]:
        """Where each service is in its life, by name; the second of a name gets ``#2`` behind."""
        states: dict[str, ServiceState] = {}
        counts: dict[str, int] = {}
        for run in self._runs.values():
            name = run.handle.name
            count = counts[name] = counts.get(name, 0) + 1
            states[name if count == 1 else f"{name} #{count}"] = run.state
        return states

    # ----------------------------------------------------------------------- control

    def start(self) -> None:
        """Start all services but those that are for one worker, if that is another one."""
        self._has_started = True
        for handle in self._graph.start_order():
            self._make_run(handle)
        ours = [run for run in self._runs.values() if self._is_ours(run)]
        self._awaited.update(ours)
        for run in ours:
            run.start()

    def lead(self) -> None:
        """Run the services that are for one worker here from now on; again does nothing.

        Without effect once a shutdown has begun.
        """
        if self._is_leader or self._is_shutting_down:
            return
        self._is_leader = True
        if not self._has_started:
            return
        led = [run for run in self._in_order() if run.is_led and not run.has_started]
        if not self.is_ready:
            self._awaited.update(led)
        for run in led:
            _logger.info("service %r is for one worker, which is this one", run.handle.name)
            run.start()

    def begin_shutdown(self) -> None:
        """Tell all services to finish what is in flight and end, dependents first."""
        self._is_shutting_down = True
        for run in reversed(self._in_order()):
            run.begin_shutdown()
        self._on_change()

    def end_streams(self) -> None:
        """Tell all services, which were told to end, to end their long-lived exchanges too."""
        for run in list(self._runs.values()):
            run.end_streams()

    def cancel(self) -> None:
        """Break off the services that still run."""
        for run in list(self._runs.values()):
            run.cancel()

    async def reload(self, conf: ServerConf) -> None:
        """Have every service take over what has changed in the configuration, one at a time.

        Args:
            conf: The new configuration; services that start later get it too.

        Raises:
            CancelledError: If this was cancelled.
            Error: If some services failed to, which are named; all others have done it.
        """
        self.conf = conf
        failed: dict[str, Error] = {}
        for run in self._in_order():
            if run.is_stopping or run.ended.is_set():
                continue
            try:
                async with asyncio.timeout(_RELOAD_TIMEOUT):
                    await run.service.reload(conf)
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                failed[run.handle.name] = failure_of(run.service, error)
            except Exception as error:  # noqa: BLE001 - told at the end, all at once
                failed[run.handle.name] = failure_of(run.service, error)
        for each in failed.values():
            _logger.error("reload: %s", each, exc_info=each)
        if failed:
            names = ", ".join(map(repr, failed))
            context = f"these services did not take over the new configuration: {names}"
            first = next(iter(failed.values()))
            raise Error(ErrorType.INTERNAL_ERROR, context, source=ErrorSource.INTERNAL, cause=first)

    # -------------------------------------------------------------- while it is running

    async def add(self, handle: ServiceHandle) -> None:
        """Start one more service and wait until it is ready.

        If that fails the service is out of the graph again, with those that depend on it, when
        this raises; so it is when this is cancelled. From then on its failures are the server's.
        A service that is for one worker, which is another one, waits for its turn instead.

        Args:
            handle: In the graph already, with its dependencies declared.

        Raises:
            CancelledError: If this was cancelled.
            Error: Why the service failed to start, whatever its policy; ``CONFIG_ERROR`` if it
                is not set up as it should be.
            RuntimeError: If the runner does not run, or stops before the service is ready, or the
                service object still runs under another handle.
            ValueError: If the handle is not in the graph, or something that it depends on does
                not run; or it runs already, which it then goes on doing.
        """
        if handle in self._runs:
            msg = f"service {handle.name!r} runs already"
            raise ValueError(msg)
        try:
            self._admit(handle)
            handle.service.check()
        except BaseException:
            self._take_out(handle)
            raise
        run = self._make_run(handle)
        if not self._is_ours(run):
            run.is_on_probation = False
            return
        self._adding[run] = None
        run.start()
        try:
            await run.settled.wait()
        except asyncio.CancelledError:
            self._take_out(handle)
            raise
        finally:
            failure = self._adding.pop(run)
        if failure is not None:
            # Its task is about to end: the service may be added again at once.
            await run.ended.wait()
            raise failure
        if not run.has_been_ready and (run.is_stopping or self.failure is not None):
            self._take_out(handle)
            msg = f"service {handle.name!r} was told to end before it was ready"
            raise RuntimeError(msg)
        run.is_on_probation = False

    def _admit(self, handle: ServiceHandle) -> None:
        if handle not in self._graph:
            msg = f"service {handle.name!r} is not in this server"
            raise ValueError(msg)
        if not self._has_started or self._is_shutting_down or self.failure is not None:
            why = "stops" if self._has_started else "has not started"
            msg = f"service {handle.name!r} cannot be started: the server {why}"
            raise RuntimeError(msg)
        service = handle.service
        if any(run.service is service and not run.ended.is_set() for run in self._runs.values()):
            msg = f"service {handle.name!r} was removed but has not ended"
            raise RuntimeError(msg)
        missing = [repr(each.name) for each in handle.dependencies if each not in self._runs]
        if missing:
            names = ", ".join(missing)
            msg = f"service {handle.name!r} depends on {names}, which was not started"
            raise ValueError(msg)
        if self._has_peers:
            self._graph.check_placement()

    async def remove(self, handle: ServiceHandle, timeout: float | None = None) -> None:
        """End one service: gracefully within a time, then by breaking it off.

        It is out of the graph at once and may be added again after this. Being cancelled breaks
        the service off. A service must not wait for its own removal: it would not end before
        ``timeout``.

        Args:
            handle: The service, whether it runs, waits or has ended.
            timeout: What is in flight may take this long, seconds; None for the grace period.

        Raises:
            CancelledError: If this was cancelled.
            Error: If it would not end even when it was cancelled; it is left behind.
            ValueError: If it is not in the graph, or others depend on it, which are named.
        """
        self._graph.remove(handle)
        run = self._runs.get(handle)
        if run is None:
            return
        run.begin_shutdown()
        self._forget_if_over(run)
        try:
            if await self._drained(run, self.conf.grace_period if timeout is None else timeout):
                return
        except asyncio.CancelledError:
            run.cancel()
            raise
        _logger.warning("breaking off what is still in flight in: %s", handle.name)
        run.cancel()
        if not await run.ended_within(self.conf.graceful_shutdown_timeout):
            context = f"service {handle.name!r} would not end and is left behind"
            raise Error(ErrorType.INTERNAL_ERROR, context, source=ErrorSource.INTERNAL)

    async def _drained(self, run: ServiceRun, timeout: float) -> bool:
        drain = self.conf.stream_drain_seconds
        until_streams_end = timeout if drain is None else min(drain, timeout)
        if await run.ended_within(until_streams_end):
            return True
        run.end_streams()
        return await run.ended_within(max(timeout - until_streams_end, min(timeout, _STREAM_END)))

    # ------------------------------------------------------------------ told by its runs

    def run_is_ready(self, run: ServiceRun) -> None:
        """Be told that a service is ready.

        Args:
            run: Which one.
        """
        if run not in self._adding:
            run.is_on_probation = False
        self._awaited.discard(run)
        self._on_change()

    def run_has_failed(self, run: ServiceRun, error: Error, *, is_start: bool) -> None:
        """Be told that a service failed and is not started again.

        Args:
            run: Which one.
            error: Why.
            is_start: Whether it was not ready yet.
        """
        if run in self._adding:
            self._adding[run] = error
            self._take_out(run.handle)
            return
        # A service that cannot start for a known reason needs no traceback: whoever runs the
        # server is given the error itself.
        is_known = is_start and isinstance(error.root_cause, Error | OSError)
        if self.failure is not None or not is_known:
            _logger.error("%s", error, exc_info=error)
        if self.failure is None:
            self.failure = error
        self._on_change()

    def run_has_ended(self, run: ServiceRun) -> None:
        """Be told that nothing of a service runs any more.

        Args:
            run: Which one.
        """
        self._awaited.discard(run)
        self._forget_if_over(run)
        self._on_change()

    # ------------------------------------------------------------------------- helpers

    def _make_run(self, handle: ServiceHandle) -> ServiceRun:
        dependencies = tuple(self._runs[each] for each in handle.dependencies)
        run = self._runs[handle] = ServiceRun(handle, dependencies, self)
        return run

    def _is_ours(self, run: ServiceRun) -> bool:
        return self._is_leader or not run.is_led

    def _in_order(self) -> list[ServiceRun]:
        return [self._runs[each] for each in self._graph.start_order() if each in self._runs]

    def _take_out(self, handle: ServiceHandle) -> None:
        # With what depends on it, none of which can have started without it.
        for each in (*self._graph.dependents(handle), handle):
            if each in self._graph:
                self._graph.remove(each)
            run = self._runs.get(each)
            if run is None or run.state is ServiceState.FAILED:
                continue
            if run in self._adding and each is not handle:
                context = f"service {each.name!r} failed: it depends on {handle.name!r}"
                self._adding[run] = Error(
                    ErrorType.INTERNAL_ERROR, context, source=ErrorSource.INTERNAL
                )
            run.cancel()
            self._forget_if_over(run)

    def _forget_if_over(self, run: ServiceRun) -> None:
        if run.ended.is_set() and run.handle not in self._graph:
            self._runs.pop(run.handle, None)
