"""One run of a server: in an event loop of this process, or in workers that are forked from it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, final

from pingora_core._version import __version__
from pingora_core.conf import CONFIG_ERROR
from pingora_core.listeners.fds import ListenFds
from pingora_core.metrics.workers import publish_last
from pingora_core.server.announcer import Announcer
from pingora_core.server.foreground import ForegroundHost
from pingora_core.server.launch import Launch, launch
from pingora_core.server.lifecycle import Lifecycle
from pingora_core.server.process import run_in_event_loop
from pingora_core.server.signals import UnixShutdownSignalWatch
from pingora_core.server.workers.supervisor import supervise
from pingora_core.server.workers.worker import WorkerLink, become_worker
from pingora_error import Error, ErrorSource

if TYPE_CHECKING:
    from pingora_core.conf import Opt, ServerConf
    from pingora_core.listeners.l4 import ServerAddress
    from pingora_core.server.live_conf import LiveConfiguration
    from pingora_core.server.phases import PhaseAnnouncer
    from pingora_core.server.signals import ShutdownSignalWatch
    from pingora_core.server.workers.channel import Channel
    from pingora_core.services.graph import ServiceGraph

__all__ = ["ServerRun"]

_logger = logging.getLogger(__name__)


@final
class ServerRun:
    """Runs the services of a server, once.

    Args:
        graph: The services, checked.
        conf: The configuration in use.
        phases: Told what phase is entered.
        opt: The command line.

    Attributes:
        life: The services that run in this process; None while none do.
    """

    def __init__(
        self, graph: ServiceGraph, conf: LiveConfiguration, phases: PhaseAnnouncer, opt: Opt
    ) -> None:
        self.life: Lifecycle | None = None
        self._graph = graph
        self._conf = conf
        self._phases = phases
        self._opt = opt

    def run(self, signals: ShutdownSignalWatch | None) -> None:
        """Run until told to stop, in an event loop of its own or in workers.

        Args:
            signals: Where that is told; None for the operating system's signals.

        Raises:
            Error: Why the server stopped, if nobody told it to, or why it did not start.
        """
        _logger.info("version %s starts", __version__)
        is_supervised = self._conf.current.is_supervised
        launched = launch(
            self._conf.current,
            self._opt,
            find_addresses=self._find_addresses,
            is_supervised=is_supervised,
        )
        self._conf.current = launched.conf
        try:
            if is_supervised:
                self._supervise(launched, signals)
            else:
                run_in_event_loop(lambda: self._serve(launched, signals), launched.conf)
        except Error as error:
            launched.failed(error)
            raise
        finally:
            launched.end()

    async def serve(self, signals: ShutdownSignalWatch | None) -> None:
        """Run until told to stop, in the current event loop.

        Args:
            signals: As for `run`.

        Raises:
            Error: As `run` does; ``CONFIG_ERROR`` if the configuration asks for what needs a
                process of its own.
        """
        conf = self._conf.current
        for key, is_wanted in (
            ("workers", conf.is_supervised),
            ("daemon", conf.daemon),
            ("option -u", self._opt.upgrade),
        ):
            if is_wanted:
                problem = f"{conf.source}: {key}: not available in an event loop of the caller's"
                raise Error(CONFIG_ERROR, problem, source=ErrorSource.INTERNAL)
        await self._serve(Launch(conf, ListenFds(), Announcer()), signals)

    async def _apply(self, conf: ServerConf) -> None:
        await self._conf.apply(conf)
        if self.life is not None:
            await self.life.reload(conf)
        _logger.info("the new configuration is in use")

    def _find_addresses(self) -> list[ServerAddress]:
        return [each for handle in self._graph for each in handle.service.listen_addresses]

    async def _serve(self, launched: Launch, signals: ShutdownSignalWatch | None) -> None:
        host = ForegroundHost(launched, self._conf, apply=self._apply)
        fds = launched.fds
        life = self.life = Lifecycle(self._graph, launched.conf, fds, self._phases, host=host)
        host.feed_watchdog()
        try:
            if signals is not None:
                await life.run(signals)
                return
            with UnixShutdownSignalWatch() as received:
                await life.run(received)
        finally:
            self.life = None
            host.end()
            # Sockets of services that were left behind, and their files.
            fds.close()

    # ----------------------------------------------------------------------- workers

    def _supervise(self, launched: Launch, signals: ShutdownSignalWatch | None) -> None:
        def be_worker(channel: Channel, index: int, is_leader: bool) -> int:  # noqa: FBT001
            # In a process that was just forked.
            conf = self._conf.current
            self._phases.lower_voice()
            become_worker(index, conf)
            link = WorkerLink(channel, conf, launched.fds)
            try:
                run_in_event_loop(lambda: self._work(link, is_leader=is_leader), conf)
            except Error as error:
                link.failed(error)
                return 1
            return 0

        supervise(launched, self._conf, self._phases, be_worker, signals)

    async def _work(self, link: WorkerLink, *, is_leader: bool) -> None:
        conf = self._conf.current
        life = Lifecycle(self._graph, conf, link.fds, self._phases, host=link, is_leader=is_leader)
        link.attach(lead=life.lead, apply=self._apply, reopen=self._conf.reopen_logs)
        try:
            if self._conf.has_changed:
                # The services are still set up as the program did when it was started.
                await self._apply(conf)
                for handle in self._graph:
                    await handle.service.reload(conf)
            self.life = life
            await life.run(link)
        finally:
            self.life = None
            publish_last()
            link.detach()
            link.fds.close()
