"""The pipe between a daemon and the process that was started, which waits for it.

Each line of the pipe is a word and what belongs to it: ``pid N`` when the daemon is on its own,
then ``ready`` or ``failed CODE WHY``. The end of the pipe without an answer is the daemon's death.
"""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn, final

from pingora_core.server.process import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_core.conf import ServerConf

__all__ = ["NO_PIPE", "ReadyPipe", "Waiter"]

# Below PIPE_BUF, so a line arrives whole.
_MAX_LINE: Final = 4000
_PARTING_TIMEOUT: Final = 1.0
_PARTING_POLL: Final = 0.002
_PID: Final = "pid"
_READY: Final = "ready"
_FAILED: Final = "failed"


@final
class ReadyPipe:
    """Tells the process that was started how the daemon fares; the first answer counts.

    A process that is forked from the daemon should close its copy, or the daemon's death is
    noticed only when that process ends too.

    Args:
        fd: The writing end, owned from now on; None if nobody waits.
        waiting: The parent, if it is the one who waits and its end is to be seen before anything
            else happens; None if it does not matter when it ends.
    """

    __slots__ = ("_fd", "_waiting")

    def __init__(self, fd: int | None = None, *, waiting: int | None = None) -> None:
        self._fd = fd
        self._waiting = waiting

    def say_ready(self) -> None:
        """Let the process that was started end with exit code 0."""
        self._answer(_READY)

    def say_next_step(self, what: str) -> None:
        """Let the process that was started end with exit code 0, though there is more to come.

        For a daemon that takes over from a running server (``-u``) and has its upgrade socket
        open: whoever has started it goes on to tell the running server.

        Args:
            what: One line for the terminal: what the daemon waits for.
        """
        self._answer(f"{_READY} {what}")

    def say_failed(self, why: str, exit_code: int = 1) -> None:
        """Let the process that was started fail.

        The daemon itself writes the reason to its standard error, as it would in the foreground;
        here it is for the terminal, which has it already if there is no error log.

        Args:
            why: One line.
            exit_code: What the process that was started ends with.
        """
        self._answer(f"{_FAILED} {exit_code} {why}")

    def close(self) -> None:
        """Say no more; without an answer before it is taken for the death of the daemon."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def say_detached(self) -> None:
        """Tell the id of this process; for `daemonize`, as soon as it is on its own."""
        self._write(f"{_PID} {os.getpid()}")

    def _answer(self, line: str) -> None:
        self._write(line)
        self.close()
        deadline = time.monotonic() + _PARTING_TIMEOUT
        while self._waiting == os.getppid() and time.monotonic() < deadline:
            time.sleep(_PARTING_POLL)

    def _write(self, line: str) -> None:
        if self._fd is None:
            return
        data = " ".join(line.split()).encode(errors="replace")[:_MAX_LINE] + b"\n"
        with suppress(OSError):  # nobody waits any more
            os.write(self._fd, data)


NO_PIPE: Final = ReadyPipe()
"""For a server in the foreground: nobody waits."""


@final
@dataclass(frozen=True, slots=True)
class Waiter:
    """The process that was started, after the fork.

    Attributes:
        conf: Whether and how long to wait.
        reader: The reading end of the pipe.
        child: The first child.
        pid: The daemon, as far as it is known.
    """

    conf: ServerConf
    reader: int
    child: int
    pid: str = "?"

    def leave(self) -> NoReturn:
        """Wait for the answer and end."""
        exit_code = 1
        try:
            # The program's own handlers are the daemon's business.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            exit_code = self._exit_code()
        finally:
            # No clean-up of the program's: all that it has is the daemon's now.
            os._exit(exit_code)

    def _exit_code(self) -> int:
        limit = self.conf.daemon_ready_timeout_seconds
        pid = self.pid
        try:
            for line in self._lines(time.monotonic() + limit):
                word, _, said = line.partition(" ")
                if word == _READY:
                    if said:
                        say(said)
                    return 0
                if word == _FAILED:
                    code, _, why = said.partition(" ")
                    if self.conf.error_log is not None:
                        say(f"error: {why}")
                    return int(code)
                pid = said
                with suppress(ChildProcessError):  # it is told, so the first child ends
                    os.waitpid(self.child, 0)
                if not self.conf.daemon_wait_for_ready:
                    return 0
        except TimeoutError:
            return self._failed(f"process {pid} is not ready after {limit:g} s, it is left running")
        return self._failed("the background process ended before it was ready")

    def _lines(self, deadline: float) -> Iterator[str]:
        poll = select.poll()
        poll.register(self.reader, select.POLLIN)
        buffer = b""
        while True:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            piece = os.read(self.reader, _MAX_LINE)
            if not piece:
                return
            *lines, buffer = (buffer + piece).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)

    def _failed(self, why: str) -> int:
        log = self.conf.error_log
        say(f"error: {why}" if log is None else f"error: {why}; see {log}")
        return 1
