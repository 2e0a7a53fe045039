"""What surrounds the services of a process: nothing, an operating system, or a supervisor."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.conf import ServerConf
    from pingora_core.server.signals import ShutdownSignal

__all__ = ["LifecycleHost"]


class LifecycleHost:
    """Told what becomes of the services, and asked for what they cannot do themselves.

    This one is for services with nothing around them.
    """

    def running(self) -> None:
        """Be told that every service is ready."""

    def stopping(self, how: ShutdownSignal) -> None:
        """Be told that the stop begins.

        Args:
            how: In which way.
        """

    def resigned(self) -> None:
        """Be told that the services that run in one worker only have ended."""

    def lame_duck(self, conf: ServerConf) -> float:
        """Tell how long to go on accepting, while not ready, at a graceful stop.

        Args:
            conf: The configuration.

        Returns:
            Seconds.
        """
        return conf.lame_duck_seconds

    def reopen_logs(self) -> None:
        """Close the log files and open them anew."""

    async def reload(self) -> None:
        """Load the configuration again and have everything take it on.

        Raises:
            Error: If it is wrong; then nothing has changed.
        """
        self._refuse("a reload")

    async def upgrade(self, on_transferred: Callable[[], None], *, start_successor: bool) -> None:
        """Hand the listening sockets to a successor; return when it is ready.

        Args:
            on_transferred: Called when it has them.
            start_successor: Whether to start it first.

        Raises:
            Error: If that failed; then everything is as before.
        """
        del on_transferred, start_successor
        self._refuse("an upgrade")

    def _refuse(self, what: str) -> NoReturn:
        context = f"{what} needs a server that runs in a process of its own"
        raise Error(ErrorType.INTERNAL_ERROR, context, source=ErrorSource.INTERNAL)
