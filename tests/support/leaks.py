"""Counting what a test may have left behind: file descriptors, tasks, memory."""

from __future__ import annotations

import asyncio
import gc
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.support.waiting import eventually

__all__ = [
    "LeakCheck",
    "Snapshot",
    "open_files",
    "open_sockets",
    "resident_memory",
    "running_tasks",
]

_DESCRIPTORS = Path("/proc/self/fd")
# The event loop opens these for itself when it first needs them. /dev/null is a spare descriptor
# of libuv, and so is / where it could not open /dev/null while descriptors had run out.
_NOT_COUNTED = ("socket:", "anon_inode:", "/dev/null")
_SPARE = "/"


def open_files() -> dict[int, str]:
    """Return what each open file descriptor of this process stands for.

    Returns:
        Number to target, such as ``socket:[4711]``.
    """
    files: dict[int, str] = {}
    for entry in os.listdir(_DESCRIPTORS):  # noqa: PTH208 - Path.iterdir would hold one itself
        try:
            files[int(entry)] = os.readlink(_DESCRIPTORS / entry)  # noqa: PTH115 - not a real path
        except OSError:
            continue
    return files


def _counted_files() -> list[str]:
    """Return the targets of the files and pipes that a test answers for."""
    return sorted(
        target
        for target in open_files().values()
        if not target.startswith(_NOT_COUNTED) and target != _SPARE
    )


def open_sockets() -> int:
    """Return how many sockets this process holds."""
    return sum(target.startswith("socket:") for target in open_files().values())


def running_tasks() -> set[asyncio.Task[object]]:
    """Return the unfinished tasks of the running loop, the current one left out."""
    return asyncio.all_tasks() - {asyncio.current_task()}


def resident_memory() -> int:
    """Return the resident memory of this process, in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the process held at one moment.

    Attributes:
        files: Targets of the open files and pipes, sorted.
        sockets: Open sockets.
        tasks: Unfinished tasks of the running loop.
        memory: Resident memory, in bytes.
    """

    files: tuple[str, ...]
    sockets: int
    tasks: int
    memory: int

    @classmethod
    def take(cls, *, collect: bool = True) -> Self:
        """Look now.

        Args:
            collect: Whether to collect garbage first, which takes tens of milliseconds.

        Returns:
            What there is.
        """
        if collect:
            gc.collect()
        files = tuple(_counted_files())
        return cls(files, open_sockets(), len(running_tasks()), resident_memory())


class LeakCheck:
    """Async context manager: what was opened within is closed by its end, or soon after.

    Attributes:
        before: What there was at the start.
    """

    def __init__(
        self, *, memory: int | None = None, timeout: float = 60.0, collect: bool = True
    ) -> None:
        """Prepare.

        Args:
            memory: Bytes by which resident memory may grow; None not to look.
            timeout: Seconds to wait for the last ends.
            collect: Whether to collect garbage before looking.
        """
        self._collect = collect
        self._memory = memory
        self._timeout = timeout
        self.before = Snapshot((), 0, 0, 0)

    async def __aenter__(self) -> Self:
        self.before = Snapshot.take(collect=self._collect)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        await self.settled()

    async def settled(self) -> None:
        """Wait until no more is held than at the start.

        Raises:
            AssertionError: If that does not happen in time; it says what is left.
        """
        before = self.before
        try:
            await eventually(
                lambda: (
                    open_sockets() <= before.sockets
                    and len(running_tasks()) <= before.tasks
                    and len(_counted_files()) <= len(before.files)
                ),
                timeout=self._timeout,
            )
        except AssertionError:
            left = [repr(task) for task in running_tasks()]
            msg = f"left behind: {before} became {Snapshot.take()}; tasks: {left}"
            raise AssertionError(msg) from None
        if self._memory is not None:
            growth = Snapshot.take(collect=self._collect).memory - before.memory
            assert growth <= self._memory, f"resident memory grew by {growth} bytes"
