"""Daemons of `tests.support.daemon_program`: started, looked at, and ended by whoever started them."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Daemon", "Facts", "wait_for"]

_PROGRAM = Path(__file__).with_name("daemon_program.py")
_LIMIT = 60.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What a daemon says that it is.

    Attributes:
        pid: Its process id.
        parent: Its parent's.
        session: Its session.
        umask: Its file mode mask.
        cwd: Its working directory.
        user: Real, effective and saved user.
        group: Real, effective and saved group.
        groups: Supplementary groups.
        descriptors: What its descriptors stand for.
        sockets: The sockets it was passed.
        watchdog_pid: Whom the watchdog is meant for.
        problem: Why it could not go on, or "".
    """

    pid: int
    parent: int
    session: int
    umask: int
    cwd: str
    user: tuple[int, int, int]
    group: tuple[int, int, int]
    groups: list[int]
    descriptors: dict[str, str]
    sockets: list[str]
    watchdog_pid: str
    problem: str


class Daemon:
    """One start of the program in the background; the daemon is killed at the end of the context.

    Args:
        directory: Where it is started, and where its files are.
        arguments: Of the program.
        launcher: A program that runs it, with its arguments.
        environment: Variables to set for it.
        passed: Descriptors left open for it.

    Attributes:
        directory: As given.
        exit_code: Of the process that was started.
    """

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        launcher: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        passed: Sequence[int] = (),
    ) -> None:
        self.directory = directory
        self._terminal = directory / f"terminal.{time.monotonic_ns()}"
        self._report = directory / f"report.{time.monotonic_ns()}.json"
        program = [sys.executable, str(_PROGRAM), "--report", str(self._report)]
        self._command = [*launcher, *program, *arguments]
        self._environment = os.environ | (environment or {})
        self._passed = passed
        self._pidfd: int | None = None
        self.exit_code: int | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Start it without waiting.

        Returns:
            The process that was started.
        """
        with self._terminal.open("wb") as terminal:
            return subprocess.Popen(
                self._command,
                cwd=self.directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=terminal,
                stderr=terminal,
                pass_fds=tuple(self._passed),
            )

    def __enter__(self) -> Self:
        with self.start() as process:
            try:
                self.exit_code = process.wait(_LIMIT)
            except BaseException:
                process.kill()
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._report.exists():
            self.kill(signal.SIGKILL)
            self.wait()
        if self._pidfd is not None:
            os.close(self._pidfd)

    @property
    def said(self) -> list[str]:
        """The lines on the terminal so far."""
        return self._terminal.read_text(encoding="utf-8").splitlines()

    @property
    def facts(self) -> Facts:
        """What the daemon is; waits for it to say so."""
        wait_for(self._report.exists, "the report of the daemon")
        raw = json.loads(self._report.read_text(encoding="utf-8"))
        facts = Facts(**raw)
        if self._pidfd is None:
            with suppress(ProcessLookupError):
                self._pidfd = os.pidfd_open(facts.pid)
        return facts

    def kill(self, number: signal.Signals) -> None:
        """Send the daemon a signal; nothing happens if it has ended.

        Args:
            number: Which one.
        """
        _ = self.facts
        if self._pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def wait(self) -> None:
        """Wait until the daemon has ended."""
        _ = self.facts
        if self._pidfd is not None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            assert poll.poll(_LIMIT * 1000), "the daemon would not end"


def wait_for(predicate: Callable[[], object], what: str) -> None:
    """Wait for a condition, without an event loop.

    Args:
        predicate: The condition.
        what: What it is, for the message.

    Raises:
        AssertionError: If it does not come true in time.
    """
    deadline = time.monotonic() + _LIMIT
    while not predicate():
        if time.monotonic() > deadline:
            msg = f"{what} did not come true within {_LIMIT} s"
            raise AssertionError(msg)
        time.sleep(0.005)
