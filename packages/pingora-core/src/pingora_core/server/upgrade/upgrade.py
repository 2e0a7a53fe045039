"""The old server's part of an upgrade: find or start the successor, hand over, or go on.

The successor may be started by whoever upgrades (``-u``), then told of with SIGQUIT; or, with
SIGUSR2, by the running server itself, which starts the program once more with the arguments it
was started with. The second way works where processes must descend from the first one, as below
systemd.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from pingora_core.server.system import systemd
from pingora_core.server.upgrade.transfer import UPGRADE_ERROR, hand_over
from pingora_error import Error, ErrorSource

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pingora_core.conf import ServerConf
    from pingora_core.listeners.fds import ListenFds

__all__ = ["upgrade"]

_logger = logging.getLogger(__name__)

# A relative path on the command line means this folder, even if the server leaves it.
_START_FOLDER: Final = os.getcwd() if Path.cwd().exists() else None  # noqa: PTH109 - as text

_POLL: Final = 0.05
"""How often to look whether the successor lives, seconds."""

_END_TIMEOUT: Final = 2.0
"""How long a successor that has failed may take to end before it is killed, seconds."""


async def upgrade(
    conf: ServerConf,
    fds: ListenFds,
    on_transferred: Callable[[], None],
    *,
    start_successor: bool,
) -> None:
    """Hand the listening sockets over; return when the successor is ready.

    Args:
        conf: Tells the upgrade socket and the deadlines.
        fds: The sockets; their files are the successor's afterwards.
        on_transferred: Called when the successor has them.
        start_successor: Whether to start it first.

    Raises:
        Error: ``UPGRADE_ERROR``; then nothing has changed and no successor is left.
    """

    def transferred() -> None:
        fds.mark_transferred()
        on_transferred()

    successor = _Successor(_command()) if start_successor else None
    # A program takes a while to come as far as its upgrade socket, and is watched meanwhile.
    retries = int(conf.upgrade_ready_timeout_seconds) + 1 if successor else conf.upgrade_retries
    handing = asyncio.ensure_future(
        hand_over(
            conf.upgrade_sock,
            fds.sockets,
            retries=retries,
            ready_timeout=conf.upgrade_ready_timeout_seconds,
            shared=fds.shared,
            on_transferred=transferred,
        )
    )
    try:
        if successor is not None:
            await successor.watch(handing)
        await handing
    except BaseException:
        handing.cancel()
        with suppress(asyncio.CancelledError, Error):
            await handing
        if successor is not None:
            await successor.end()
        raise
    if successor is not None:
        successor.let_go()
    fds.disown_files()


def _command() -> list[str]:
    arguments = sys.orig_argv[1:]
    is_upgrade = "-u" in arguments or "--upgrade" in arguments
    return [sys.executable, *arguments] + ([] if is_upgrade else ["-u"])


@final
class _Successor:
    def __init__(self, command: Sequence[str]) -> None:
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the program that runs already
                command, cwd=_START_FOLDER, env=systemd.environment_of_successor()
            )
        except OSError as error:
            context = f"starting the successor {command[0]}"
            raise Error(UPGRADE_ERROR, context, source=ErrorSource.INTERNAL, cause=error) from error
        _logger.info("started successor %d", self._process.pid)

    async def watch(self, handing: asyncio.Future[None]) -> None:
        # A successor that ends with 0 has gone to the background, as -d asks it to.
        while not handing.done():
            code = self._process.poll()
            if code:
                how = f"exit code {code}" if code > 0 else f"signal {-code}"
                context = f"successor {self._process.pid} ended with {how}"
                raise Error(UPGRADE_ERROR, context, source=ErrorSource.INTERNAL)
            await asyncio.wait([handing], timeout=_POLL)

    async def end(self) -> None:
        clock = asyncio.get_running_loop().time
        patience = clock() + _END_TIMEOUT
        if self._process.poll() is None:
            self._process.terminate()
        while self._process.poll() is None:
            if clock() > patience:
                self._process.kill()
                patience = math.inf
            await asyncio.sleep(_POLL)

    def let_go(self) -> None:
        # It outlives this process, and is nothing that was forgotten.
        if self._process.poll() is None:
            self._process.returncode = 0
