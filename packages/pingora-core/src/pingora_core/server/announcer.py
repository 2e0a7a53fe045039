"""Telling whoever waits for it that the server is ready: a shell, systemd, a predecessor."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, final

from pingora_core._version import __version__
from pingora_core.server.system import systemd
from pingora_error import Error

if TYPE_CHECKING:
    from pingora_core.server.system.daemon import ReadyPipe
    from pingora_core.server.upgrade.transfer import Predecessor

__all__ = ["Announcer"]

_logger = logging.getLogger(__name__)


@final
class Announcer:
    """Those who wait, and what they are told.

    Args:
        pipe: To the program that started the daemon; None if this is none.
        predecessor: The server to take over from; None for a first start.
    """

    def __init__(
        self, pipe: ReadyPipe | None = None, predecessor: Predecessor | None = None
    ) -> None:
        self._pipe = pipe
        self._predecessor = predecessor

    def ready(self) -> None:
        """Say that the server serves.

        Raises:
            Error: If a predecessor has lost its patience and goes on serving.
        """
        predecessor, self._predecessor = self._predecessor, None
        if predecessor is not None:
            # Before that one may end: without a main process a service has ended for systemd.
            systemd.notify_main_pid(os.getpid())
            try:
                predecessor.say_ready()
            except Error:
                systemd.notify_main_pid(predecessor.pid)
                raise
        systemd.notify_ready(f"serving, version {__version__}")
        if self._pipe is not None:
            self._pipe.say_ready()
            self._pipe = None

    def reloading(self) -> None:
        """Say that the configuration is read anew."""
        systemd.notify_reloading()

    def reloaded(self) -> None:
        """Say that this is over."""
        systemd.notify_ready(f"serving, version {__version__}")

    def stopping(self, *, is_upgrade: bool) -> None:
        """Say that the server stops.

        Args:
            is_upgrade: Whether a successor serves, for which this is no stop.
        """
        if not is_upgrade:
            systemd.notify_stopping()

    def failed(self, why: str, exit_code: int) -> None:
        """Say that the server will not serve.

        Args:
            why: One line.
            exit_code: What the program ends with, which the one that started the daemon does, too.
        """
        if self._predecessor is not None:
            self._predecessor.say_failed(why)
            self._predecessor = None
        if self._pipe is not None:
            self._pipe.say_failed(why, exit_code)
            self._pipe = None

    def forget(self) -> None:
        """Close this process's copies of the lines; for a worker, whose supervisor speaks."""
        if self._predecessor is not None:
            self._predecessor.close()
            self._predecessor = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
