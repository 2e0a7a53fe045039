"""The server: everything a program runs, from its command line to its exit code."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING, NoReturn, final

from pingora_core.conf import CONFIG_ERROR, Opt, ServerConf
from pingora_core.listeners.fds import ListenFds
from pingora_core.protocols.tls.openssl import find_fips_problem
from pingora_core.server.lifecycle import Lifecycle
from pingora_core.server.phases import ExecutionPhase, PhaseAnnouncer
from pingora_core.server.process import exit_on_error, leave, run_in_event_loop, say
from pingora_core.server.signals import UnixShutdownSignalWatch
from pingora_core.services.graph import ServiceGraph
from pingora_core.services.service import Service
from pingora_error import Error, ErrorSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pingora_core.server.phases import PhaseWatch
    from pingora_core.server.signals import ShutdownSignalWatch
    from pingora_core.services.graph import ServiceHandle
    from pingora_core.services.service import ServiceContext

__all__ = ["Server"]

_logger = logging.getLogger(__name__)


class Server:
    """Runs services in the foreground until it is told to stop.

    A server that is given its ``opt`` speaks for a program: a mistake in the configuration file
    or the options ends it with one line on standard error and exit code 2. Without ``opt`` the
    same mistakes are raised.

    Args:
        opt: The command line; None for none.
        conf: The configuration; None for the one that ``opt`` names, or the defaults.

    Attributes:
        options: As given, or all defaults.
        configuration: What the server runs with.

    Raises:
        Error: ``CONFIG_ERROR`` if the configuration is wrong, or asks for something that is not
            available, and there is no ``opt``.
        SystemExit: 2 if so and there is one.

    Source: pingora-core/src/server/mod.rs.
    """

    def __init__(self, opt: Opt | None = None, conf: ServerConf | None = None) -> None:
        self.options = Opt() if opt is None else opt
        self._graph = ServiceGraph()
        self._phases = PhaseAnnouncer()
        self._fds = ListenFds()
        self._is_bootstrapped = False
        self._bootstrap_service: ServiceHandle | None = None
        self._has_run = False
        with nullcontext() if opt is None else exit_on_error():
            self.configuration = self._configure(conf)

    def _configure(self, conf: ServerConf | None) -> ServerConf:
        if conf is None:
            conf = ServerConf.from_opt(self.options)
        else:
            if self.options.conf is not None:
                _logger.warning("-c %s is ignored: a configuration was given", self.options.conf)
            conf = conf.merge_with_opt(self.options)
            conf.validate()
        _refuse_unavailable(self.options, conf)
        conf.check_files()
        return conf

    # ---------------------------------------------------------------------- services

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

    # ------------------------------------------------------------------------ phases

    @property
    def phase(self) -> ExecutionPhase:
        """Where the server is in its life."""
        return self._phases.phase

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
        for handle in self._graph:
            handle.service.check()
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
        """Run the services in an event loop of their own until the server is told to stop.

        Args:
            shutdown_signal: Where that is told; None for SIGINT (fast), SIGTERM (graceful).

        Raises:
            Error: If a service failed and made the server stop, or is not set up as it should
                be (``CONFIG_ERROR``).
            RuntimeError: If the server has run before.
        """
        if self._prepare():
            run_in_event_loop(lambda: self._serve(shutdown_signal), self.configuration)

    async def serve(self, shutdown_signal: ShutdownSignalWatch | None = None) -> None:
        """Run the services in the current event loop until the server is told to stop.

        Cancelling it is a fast shutdown.

        Args:
            shutdown_signal: As for `run`.

        Raises:
            Error: As `run` does.
            RuntimeError: As `run` does.
        """
        if self._prepare():
            await self._serve(shutdown_signal)

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
        if self._bootstrap_service is None or self.options.test:
            self.bootstrap()
        return not self.options.test

    async def _serve(self, shutdown_signal: ShutdownSignalWatch | None) -> None:
        life = Lifecycle(self._graph, self.configuration, self._fds, self._phases)
        try:
            if shutdown_signal is not None:
                await life.run(shutdown_signal)
                return
            with UnixShutdownSignalWatch() as signals:
                await life.run(signals)
        finally:
            # Sockets of services that were left behind, and their files.
            self._fds.close()


@final
class _BootstrapService(Service):
    notifies_ready = True

    def __init__(self, server: Server) -> None:
        super().__init__("Bootstrap")
        self._server = server

    async def start_service(self, context: ServiceContext) -> None:
        self._server.bootstrap()
        context.ready.notify_ready()


def _refuse_unavailable(opt: Opt, conf: ServerConf) -> None:
    problem = ""
    if opt.upgrade:
        problem = "option -u: taking over from a running server is not available yet"
    elif opt.daemon:
        problem = "option -d: running in the background is not available yet"
    elif conf.daemon:
        problem = f"{conf.source}: daemon: got true, allowed: false, the only mode available yet"
    elif conf.workers != 1:
        got = f"{conf.source}: workers: got {conf.workers}"
        problem = f"{got}, allowed: 1, the only number of processes available yet"
    elif conf.fips and (reason := find_fips_problem()):
        problem = f"{conf.source}: fips: got true, allowed: false, because {reason}"
    if problem:
        raise Error(CONFIG_ERROR, problem, source=ErrorSource.INTERNAL)
