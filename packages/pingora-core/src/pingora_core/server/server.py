"""The server: everything a program runs, from its command line to its exit code."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Final, NoReturn, final

from pingora_core.conf import Opt
from pingora_core.server.checks import check_before_start
from pingora_core.server.live_conf import LiveConfiguration
from pingora_core.server.logs import configure_logging
from pingora_core.server.phases import ExecutionPhase, PhaseAnnouncer
from pingora_core.server.process import exit_on_error, leave, say
from pingora_core.server.server_run import ServerRun
from pingora_core.services.graph import ServiceGraph
from pingora_core.services.service import Service

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from pingora_core.conf import ServerConf
    from pingora_core.server.lifecycle import Lifecycle
    from pingora_core.server.phases import PhaseWatch
    from pingora_core.server.signals import ShutdownSignalWatch
    from pingora_core.services.graph import ServiceHandle
    from pingora_core.services.service import ServiceContext

__all__ = ["Server"]

_READY_PHASES: Final = frozenset({
    ExecutionPhase.RUNNING,
    ExecutionPhase.GRACEFUL_UPGRADE_TRANSFERRING_FDS,
    ExecutionPhase.GRACEFUL_UPGRADE_CLOSE_TIMEOUT,
})  # fmt: skip


class Server:
    """Runs services until it is told to stop.

    A server that is given its ``opt`` speaks for a program: a mistake in the configuration file
    or the options ends it with one line on standard error and exit code 2. Without ``opt`` the
    same mistakes are raised.

    Args:
        opt: The command line; None for none.
        conf: The configuration; None for the one that ``opt`` names, or the defaults.

    Attributes:
        options: As given, or all defaults.

    Raises:
        Error: ``CONFIG_ERROR`` if the configuration is wrong, or asks for something that is not
            available, and there is no ``opt``.
        SystemExit: 2 if so and there is one.

    Source: pingora-core/src/server/mod.rs.
    """

    def __init__(self, opt: Opt | None = None, conf: ServerConf | None = None) -> None:
        self.options: Opt = Opt() if opt is None else opt
        self._graph = ServiceGraph()
        self._phases = PhaseAnnouncer()
        self._is_bootstrapped = False
        self._bootstrap_service: ServiceHandle | None = None
        self._has_run = False
        with nullcontext() if opt is None else exit_on_error():
            self._conf = LiveConfiguration(self.options, conf)
        self._run = ServerRun(self._graph, self._conf, self._phases, self.options)

    # ---------------------------------------------------------------------- services

    @property
    def configuration(self) -> ServerConf:
        """What the server runs with; a reload replaces it."""
        return self._conf.current

    def add_service(self, service: Service) -> ServiceHandle:
        """Add a service, to be started by `run`.

        Args:
            service: A service that was not added before.

        Returns:
            Its handle, to declare what it depends on.

        Raises:
            RuntimeError: If the server has started.
            ValueError: If it was added before.
        """
        if self._has_run:
            msg = f"service {service.name!r} comes too late: the server has started"
            raise RuntimeError(msg)
        return self._graph.add(service)

    def add_services(self, services: Iterable[Service]) -> list[ServiceHandle]:
        """Add several services.

        Args:
            services: Services that were not added before.

        Returns:
            Their handles, in the same order.
        """
        return [self.add_service(service) for service in services]

    async def start_service(
        self, service: Service, *, dependencies: Iterable[ServiceHandle] = ()
    ) -> ServiceHandle:
        """Add a service while the server runs, and start it; in the server's event loop.

        With workers this is about the worker that it is called in.

        Args:
            service: A service that does not run.
            dependencies: Services that run, and that it needs.

        Returns:
            Its handle, when it is ready.

        Raises:
            Error: Why it could not start; then it is not part of the server.
            RuntimeError: If the server does not run, or stops.
            ValueError: If it runs already, or a dependency does not.
        """
        life = self._running_life(f"service {service.name!r} cannot be started")
        handle = self._graph.add(service)
        try:
            handle.add_dependencies(dependencies)
        except ValueError:
            self._graph.remove(handle)
            raise
        await life.add(handle)
        return handle

    async def stop_service(self, handle: ServiceHandle, timeout: float | None = None) -> None:
        """Stop a service while the server runs; what it has in flight may end.

        Args:
            handle: Which one; no other service may depend on it.
            timeout: When what is still in flight is broken off, seconds; None for the grace
                period.

        Raises:
            RuntimeError: If the server does not run.
            ValueError: If another service depends on it.
        """
        life = self._running_life(f"service {handle.name!r} cannot be stopped")
        await life.remove(handle, timeout)

    def _running_life(self, what: str) -> Lifecycle:
        life = self._run.life
        if life is None:
            msg = f"{what}: the server does not run in this process"
            raise RuntimeError(msg)
        return life

    # ------------------------------------------------------------------------ reload

    def on_reload(self, callback: Callable[[ServerConf], Awaitable[None]]) -> None:
        """Have a function called when the configuration was loaded anew (SIGHUP).

        It is called in every process that runs services, before the services are told, with a
        configuration that is valid as far as the server knows; `configuration` is still the one
        in use. It should check its own sections first and change something only then: if it
        raises, the reload has failed and the rest stays as it was.

        Args:
            callback: Awaited in the server's event loop.
        """
        self._conf.callbacks.append(callback)

    # ------------------------------------------------------------------------ phases

    @property
    def phase(self) -> ExecutionPhase:
        """Where the server is in its life."""
        return self._phases.phase

    @property
    def is_ready(self) -> bool:
        """Whether new work should be sent here: for a readiness probe.

        False until all services are ready, and from the first moment of a graceful stop on, while
        the listeners still accept for ``lame_duck_seconds``.
        """
        return self._phases.phase in _READY_PHASES

    def watch_execution_phase(self) -> PhaseWatch:
        """Watch the phases that the server enters from now on.

        Returns:
            Something to iterate with ``async for`` in the server's event loop; it ends after
            ``TERMINATED``.
        """
        return self._phases.watch()

    def on_execution_phase(self, callback: Callable[[ExecutionPhase], None]) -> Callable[[], None]:
        """Have a function called with each phase that the server enters from now on.

        Args:
            callback: Called in the server's thread; must not block; what it raises is logged.

        Returns:
            A function that takes the subscription back.
        """
        return self._phases.subscribe(callback)

    # --------------------------------------------------------------------------- run

    def bootstrap(self) -> None:
        """Check everything that can be checked before anything starts; once.

        `run` does it if the program has not. With ``-t`` this is all that `run` does.

        Raises:
            Error: ``CONFIG_ERROR`` if a service is not set up as it should be.
        """
        if self._is_bootstrapped:
            return
        self._is_bootstrapped = True
        self._phases.enter(ExecutionPhase.BOOTSTRAP)
        services = [handle.service for handle in self._graph]
        check_before_start(self.configuration, self.options, services)
        if self.configuration.is_supervised:
            self._graph.check_placement()
        self._phases.enter(ExecutionPhase.BOOTSTRAP_COMPLETE)

    def bootstrap_as_a_service(self) -> ServiceHandle:
        """Do the bootstrap as a service, so that it can wait for others and others for it.

        Returns:
            The handle of that service.

        Raises:
            RuntimeError: If the bootstrap was done, or the server has started.
        """
        if self._is_bootstrapped:
            msg = "the bootstrap is done already"
            raise RuntimeError(msg)
        if self._bootstrap_service is None:
            self._bootstrap_service = self.add_service(_BootstrapService(self))
        return self._bootstrap_service

    def run(self, shutdown_signal: ShutdownSignalWatch | None = None) -> None:
        """Run the services until the server is told to stop.

        They run in an event loop in this process; with ``workers``, in as many processes that
        are forked from it. With ``-d`` the process that calls this ends and another one returns.

        Args:
            shutdown_signal: Where that is told; None for the signals of the operating system,
                see `UnixShutdownSignalWatch`.

        Raises:
            Error: If a service failed and made the server stop, or is not set up as it should
                be (``CONFIG_ERROR``).
            RuntimeError: If the server has run before.
        """
        if self._prepare():
            self._run.run(shutdown_signal)

    async def serve(self, shutdown_signal: ShutdownSignalWatch | None = None) -> None:
        """Run the services in the current event loop until the server is told to stop.

        Cancelling it is a fast shutdown. There are no workers, no background and no taking over:
        these need a process, which `run` has.

        Args:
            shutdown_signal: As for `run`.

        Raises:
            Error: As `run` does; ``CONFIG_ERROR`` if the configuration asks for what needs a
                process.
            RuntimeError: As `run` does.
        """
        if self._prepare():
            await self._run.serve(shutdown_signal)

    def run_forever(self, shutdown_signal: ShutdownSignalWatch | None = None) -> NoReturn:
        """Run the services until the server is told to stop, then end the process.

        The exit code is 0 after a shutdown that was asked for; 1 if a service made the server
        stop; 2 if the configuration is wrong. What is wrong is one line on standard error.

        Args:
            shutdown_signal: As for `run`.

        Raises:
            SystemExit: Always.
        """
        with exit_on_error():
            self.run(shutdown_signal)
        if self.options.test:
            say(f"configuration is valid: {self.configuration.source}")
        leave(self.configuration.graceful_shutdown_timeout)

    def _prepare(self) -> bool:
        # False if there is nothing to run.
        if self._has_run:
            msg = "a server runs once"
            raise RuntimeError(msg)
        self._has_run = True
        configure_logging(self.configuration)
        if self._bootstrap_service is None or self.options.test:
            self.bootstrap()
        return not self.options.test


@final
class _BootstrapService(Service):
    notifies_ready = True

    def __init__(self, server: Server) -> None:
        super().__init__("Bootstrap")
        self._server = server

    async def start_service(self, context: ServiceContext) -> None:
        self._server.bootstrap()
        context.ready.notify_ready()
