"""The generations of a server, and what the kernel and their logs tell of them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.support.load.site import ProxyProcess
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.support.load.site import Site

__all__ = ["Generations", "descendants", "files_of", "resident_kib", "slow_steps_in", "warnings_in"]

_PATIENCE = 60.0
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
_SUCCESSOR = re.compile(r"started successor (\d+)")
_SLOW_STEP = re.compile(r"Executing <.* took (\d+\.\d+) seconds")
_TRACEBACK = "Traceback"
_WARNING = re.compile(
    r"never awaited|was destroyed|never retrieved|[Uu]nclosed|ResourceWarning"
    r"|RuntimeWarning|Traceback|Unhandled|exception calling callback|Fatal Python error"
)


class Generations:
    """A server and its successors, one at a time; an async context manager.

    Attributes:
        pid: The process of the generation that serves.
        log: Its log.
    """

    def __init__(self, site: Site, environment: Mapping[str, str]) -> None:
        """Prepare.

        Args:
            site: What is served.
            environment: More variables of the environment.
        """
        self._site = site
        self._environment = environment
        self._stack = contextlib.AsyncExitStack()
        self._current: ProxyProcess | None = None
        self._runs = 0
        self.pid = 0

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self._current = await stack.enter_async_context(self._make())
            await self._current.running()
            self.pid = self._current.pid
            self._runs = 1
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def log(self) -> ProxyProcess:
        """The process whose log the current generation writes to."""
        assert self._current is not None
        return self._current

    def lines(self, keep: Path | None) -> list[str]:
        """Read all logs so far.

        Args:
            keep: Folder that they are copied to; None not to.

        Returns:
            Their lines.
        """
        logs = sorted(self._site.log_directory.glob("log-*"))
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            for log in logs:
                shutil.copy(log, keep / f"{self._site.log_directory.name}-{log.name}")
        return [line for log in logs for line in log.read_text(errors="replace").splitlines()]

    async def upgrade_by_hand(self) -> None:
        """Start a successor with ``-u`` and tell the server of it."""
        old = self.pid
        self._current = await self._stack.enter_async_context(self._make("-u"))
        os.kill(old, signal.SIGQUIT)
        await self._current.running()
        self.pid = self._current.pid
        self._runs = 1
        await self._gone(old)

    async def upgrade_itself(self) -> None:
        """Have the server start its successor."""
        old = self.pid
        os.kill(old, signal.SIGUSR2)
        self._runs += 1
        await eventually(
            lambda: self.log.count("phase Running") >= self._runs,
            f"the successor of {old}",
            timeout=_PATIENCE,
        )
        started = [match for line in self.log.lines() if (match := _SUCCESSOR.search(line))]
        self.pid = int(started[-1].group(1))
        await self._gone(old)

    async def reload(self, version: str) -> None:
        """Have the server take over its configuration file.

        Args:
            version: The version that it has afterwards.
        """
        self._site.configure(version)
        loaded = "configuration loaded"
        before = self.log.count(loaded)
        os.kill(self.pid, signal.SIGHUP)
        await self.log_says(loaded, before + 1)

    async def log_says(self, text: str, times: int) -> None:
        """Wait for lines of the log.

        Args:
            text: Part of them.
            times: How many there have to be.
        """
        await eventually(
            lambda: self.log.count(text) >= times, f"{times} lines with {text!r}", timeout=_PATIENCE
        )

    async def stop(self) -> None:
        """Stop the server gracefully."""
        os.kill(self.pid, signal.SIGTERM)
        await self._gone(self.pid)

    def _make(self, *arguments: str) -> ProxyProcess:
        return ProxyProcess(self._site, *arguments, environment=self._environment)

    @staticmethod
    async def _gone(pid: int) -> None:
        await eventually(lambda: _is_gone(pid), f"the end of process {pid}", timeout=_PATIENCE)


def _is_gone(pid: int) -> bool:
    # One that nobody has waited for yet is gone too.
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return text.rpartition(")")[2].split()[0] == "Z"


def descendants(pid: int) -> list[int]:
    """Find a process and all below it.

    Args:
        pid: The process.

    Returns:
        Their numbers, its own first.
    """
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, task.read_text().split())
    return found


def resident_kib(pids: Iterable[int]) -> int:
    """Add up resident memory.

    Args:
        pids: Of these processes.

    Returns:
        KiB; what processes share counts for each of them.
    """
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_KIB for pid in pids)


def files_of(pids: Iterable[int]) -> int:
    """Count open files.

    Args:
        pids: Of these processes.

    Returns:
        How many.
    """
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)


def warnings_in(lines: Sequence[str]) -> list[str]:
    """Find what the event loop and the interpreter warn of.

    Args:
        lines: Of logs.

    Returns:
        Those lines; of a traceback also its last.
    """
    found = []
    for number, line in enumerate(lines):
        if not _WARNING.search(line):
            continue
        found.append(line)
        if line.startswith(_TRACEBACK):
            # Around it: what was being done, and what came of it.
            end = number + 1
            while end < len(lines) and lines[end].startswith((" ", "\t")):
                end += 1
            found[-1] = " / ".join([*lines[max(number - 1, 0) : number], *lines[end - 2 : end + 1]])
    return found


def slow_steps_in(lines: Iterable[str]) -> str:
    """Tell of the steps that the event loop finds slow in its debug mode.

    Args:
        lines: Of logs.

    Returns:
        A line for the results. It is no verdict: a step is as long as the machine makes it.
    """
    took = [float(match.group(1)) for line in lines if (match := _SLOW_STEP.search(line))]
    return f"steps of the loop over 0.1 s: {len(took)}, the longest {max(took, default=0):.2f} s"
