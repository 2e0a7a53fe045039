"""What surrounds the services of a server without workers: the operating system."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, final

from pingora_core.server.host import LifecycleHost
from pingora_core.server.signals import ShutdownSignal
from pingora_core.server.system.watchdog import SystemdWatchdog
from pingora_core.server.upgrade.upgrade import upgrade

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pingora_core.conf import ServerConf
    from pingora_core.server.launch import Launch
    from pingora_core.server.live_conf import LiveConfiguration

__all__ = ["ForegroundHost"]

_logger = logging.getLogger(__name__)


@final
class ForegroundHost(LifecycleHost):
    """Reloads, upgrades and announces for the services of its own process.

    Args:
        launched: How the process came to be.
        conf: The configuration in use.
        apply: Has the program and its services take on another one.
    """

    def __init__(
        self,
        launched: Launch,
        conf: LiveConfiguration,
        *,
        apply: Callable[[ServerConf], Awaitable[None]],
    ) -> None:
        self._launched = launched
        self._conf = conf
        self._apply = apply
        self._watchdog = SystemdWatchdog()
        self._timer: asyncio.TimerHandle | None = None

    def running(self) -> None:
        """Tell everybody who waits for it that the server serves.

        Raises:
            Error: If a predecessor has lost its patience and goes on serving.
        """
        self._launched.announcer.ready()
        self._launched.fds.take_over()
        for key in self._launched.fds.close_unclaimed():
            _logger.warning("inherited socket %s is closed: nothing listens there", key)

    def feed_watchdog(self) -> None:
        """Tell systemd that the event loop turns, from now on and again in time."""
        loop = asyncio.get_running_loop()
        self._watchdog.feed(loop.time())
        if self._watchdog.is_wanted:
            self._timer = loop.call_later(self._watchdog.interval, self.feed_watchdog)

    def end(self) -> None:
        """Feed the watchdog no more."""
        if self._timer is not None:
            self._timer.cancel()

    def stopping(self, how: ShutdownSignal) -> None:
        """Tell the service manager that the server stops.

        Args:
            how: In which way.
        """
        is_upgrade = how is ShutdownSignal.GRACEFUL_UPGRADE
        self._launched.announcer.stopping(is_upgrade=is_upgrade)

    def reopen_logs(self) -> None:
        """Close the log files and open them anew."""
        self._conf.reopen_logs()

    async def reload(self) -> None:
        """Load the configuration again and have everything take it on.

        Raises:
            Error: If it is wrong; then nothing has changed.
        """
        announcer = self._launched.announcer
        announcer.reloading()
        try:
            await self._apply(self._conf.load())
        finally:
            announcer.reloaded()

    async def upgrade(self, on_transferred: Callable[[], None], *, start_successor: bool) -> None:
        """Hand the listening sockets to a successor; return when it is ready.

        Args:
            on_transferred: Called when it has them.
            start_successor: Whether to start it first.

        Raises:
            Error: If that failed; then everything is as before.
        """
        fds = self._launched.fds
        await upgrade(self._conf.current, fds, on_transferred, start_successor=start_successor)
