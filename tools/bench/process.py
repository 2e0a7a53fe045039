"""A server process and what the kernel knows about it and its children."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BenchError", "Running", "free_port"]

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
_START_SECONDS = 15.0
_STOP_SECONDS = 10.0


class BenchError(Exception):
    """A measurement cannot be taken; the text says why."""


def free_port() -> int:
    """Find a TCP port for a server that cannot choose one itself.

    Returns:
        A port of 127.0.0.1 that was free a moment ago.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Running:
    """A server with all its children, its output kept in a file.

    Attributes:
        name: What messages call it.
        port: The port of 127.0.0.1 it listens on.
    """

    def __init__(self, name: str, command: Sequence[str], *, port: int, log: Path) -> None:
        """Start it and wait until it listens.

        Args:
            name: What messages call it.
            command: The command line.
            port: The port of 127.0.0.1 it will listen on.
            log: File for its output.

        Raises:
            BenchError: It is not there, ends at once, or does not listen in time.
        """
        self.name = name
        self.port = port
        self._log = log
        with log.open("wb") as file:
            try:
                # A session of its own: Ctrl-C reaches only the benchmark, which stops them all.
                self._process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
            except FileNotFoundError:
                raise BenchError(f"{name}: {command[0]} is not installed") from None
        try:
            self._wait_until_it_listens()
        except BaseException:
            self.stop()
            raise

    def cpu_seconds(self) -> float:
        """Add up the processor time of the whole tree.

        Returns:
            User and system time so far in seconds, ended and reaped children included.
        """
        ticks = 0
        for pid in self._tree():
            with contextlib.suppress(OSError):
                # utime, stime, cutime and cstime; the name before them may hold anything.
                fields = _read(pid, "stat").rpartition(")")[2].split()
                ticks += sum(int(field) for field in fields[11:15])
        return ticks / _TICKS_PER_SECOND

    def rss_kib(self) -> int:
        """Add up the resident memory of the whole tree.

        Returns:
            Its size in KiB.
        """
        pages = 0
        for pid in self._tree():
            with contextlib.suppress(OSError):
                pages += int(_read(pid, "statm").split()[1])
        return pages * _PAGE_KIB

    def check_alive(self) -> None:
        """Complain if it has ended.

        Raises:
            BenchError: It has ended; the text holds the end of its output.
        """
        code = self._process.poll()
        if code is not None:
            raise BenchError(f"{self.name} ended with exit code {code}\n{self._output()}")

    def stop(self) -> None:
        """End it, gently first; what is left of its process group then goes with it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            self.check_alive()
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise BenchError(f"{self.name} does not listen on {self.port}\n{self._output()}")

    def _output(self) -> str:
        return self._log.read_text(errors="replace")[-4000:].rstrip()

    def _tree(self) -> list[int]:
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    parent = int(_read(int(entry.name), "stat").rpartition(")")[2].split()[1])
                    children.setdefault(parent, []).append(int(entry.name))
        tree = [self._process.pid]
        for pid in tree:
            tree.extend(children.get(pid, ()))
        return tree


def _read(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()
