"""Noticing that files have changed, and taking over what they hold if it is usable.

Theory of operation. What is read from files says so by a `WatchedFiles`: which files, and how to
load them. Loading has two halves. The first blocks (it reads and checks) and runs in a thread; what
it returns is called on the event loop and puts the new things in place in one step. A file counts
as changed when its modification time, size, inode or device did, so that a replaced file, the
target of a moved symbolic link and an edited one are all seen. What was refused is tried again when
the files have changed once more, not before, and is thereby logged once.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol, TypeAlias

from pingora_core.runtime import timers
from pingora_error import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

__all__ = ["Apply", "Stamp", "Watched", "WatchedFiles", "keep_fresh", "reload_now", "stamp_of"]

_logger = logging.getLogger(__name__)

Apply: TypeAlias = "Callable[[], None]"
Stamp: TypeAlias = tuple[tuple[int, int, int, int] | None, ...]


class Watched(Protocol):
    """Something on the disk that is taken over when it changes; its text says what it is."""

    def poll(self, *, force: bool = False) -> list[Apply | Error]:
        """Load what has changed. It blocks.

        Args:
            force: Load what has not changed, too.

        Returns:
            For each change what puts it in place, or the error if it cannot be used.
        """


class WatchedFiles:
    """Files, and how to take over what they hold.

    Args:
        paths: The files.
        load: Reads and checks them, which may block; returns what puts the result in place. Raises
            `Error` if they cannot be used.
    """

    __slots__ = ("_load", "_stamp", "paths")

    def __init__(self, paths: Iterable[Path], load: Callable[[], Apply]) -> None:
        self.paths: tuple[Path, ...] = tuple(paths)
        self._load = load
        self._stamp = self._look()

    def poll(self, *, force: bool = False) -> list[Apply | Error]:
        """Load the files if they have changed. It blocks.

        Args:
            force: Load them whether they have changed or not.

        Returns:
            What puts the result in place, or the error if it cannot be used; empty if nothing has
            changed.
        """
        # Before reading: a change in between is seen next time.
        stamp = self._look()
        if stamp == self._stamp and not force:
            return []
        self._stamp = stamp
        try:
            return [self._load()]
        except Error as error:
            return [error]

    def _look(self) -> Stamp:
        return stamp_of(*self.paths)

    def __str__(self) -> str:
        return ", ".join(map(str, self.paths))


def stamp_of(*paths: Path) -> Stamp:
    """Take down what changes when files do.

    Args:
        paths: The files.

    Returns:
        To be compared with another one.
    """
    return tuple(map(_look_at, paths))


def _look_at(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


async def reload_now(watched: Iterable[Watched], *, force: bool = True) -> list[Error]:
    """Look at files once, and take over what has changed.

    Args:
        watched: The files.
        force: Take over what has not changed, too.

    Returns:
        Why what could not be used was refused; each was logged. What it would have replaced is
        still in place.
    """
    every = tuple(watched)
    outcomes = await asyncio.to_thread(_poll, every, force=force)
    refused: list[Error] = []
    for files, outcome in outcomes:
        if isinstance(outcome, Error):
            _logger.error("%s: refused, the old content stays in use: %s", files, outcome)
            refused.append(outcome)
        else:
            outcome()
            _logger.info("%s: reloaded", files)
    return refused


def _poll(every: tuple[Watched, ...], *, force: bool) -> list[tuple[Watched, Apply | Error]]:
    return [(files, outcome) for files in every for outcome in files.poll(force=force)]


async def keep_fresh(watched: Callable[[], Iterable[Watched]], interval: float) -> None:
    """Look at files again and again, until cancelled.

    Args:
        watched: Asked each time for the files.
        interval: Pause between two looks, seconds.
    """
    while True:
        await timers.sleep(interval)
        try:
            await reload_now(watched(), force=False)
        except Exception:
            # A bug in one loader must not stop the renewal of everything else.
            _logger.exception("looking for changed files failed")
