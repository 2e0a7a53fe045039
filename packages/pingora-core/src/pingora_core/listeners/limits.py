"""File descriptors: as many as the system allows, and what to do when they run out.

Theory of operation. When accept() finds no descriptor left, libuv sheds load: it accepts with a
spare descriptor and closes at once, so that clients see their connections end without a word; and
when the spare one is gone too, it polls as fast as it can. So it must not come to that. A guard
counts the descriptors in use, once a second and, the fewer are left, the more often as connections
come. When only the reserve is left, listeners stop accepting: clients wait in the kernel's queue,
and those that are there already have the reserve for their upstreams. When enough have gone,
accepting goes on.

asyncio's own servers need no guard: they log, and pause for a second (selector_events.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, final
from weakref import WeakValueDictionary

from pingora_core.runtime.log_limit import LogLimit
from pingora_error import Error

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "AcceptGuard",
    "Pausable",
    "file_limit",
    "get_accept_guard",
    "open_files",
    "raise_file_limit",
    "reserve_of",
]

_logger = logging.getLogger(__name__)

_DESCRIPTORS: Final = "/proc/self/fd"
_NR_OPEN: Final = Path("/proc/sys/fs/nr_open")

# Seconds between two looks, and while nothing is accepted.
_INTERVAL: Final = 1.0
_PAUSED_INTERVAL: Final = 0.1


def raise_file_limit() -> int:
    """Allow this process as many file descriptors as it may allow itself.

    Returns:
        How many it may have from now on; -1 for no limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _highest() if hard == resource.RLIM_INFINITY else hard
    if soft in {wanted, resource.RLIM_INFINITY}:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        _logger.warning("the limit of open files stays %d: %s", soft, error)
        return soft
    _logger.info("the limit of open files is %d, it was %d", wanted, soft)
    return wanted


def _highest() -> int:
    # What even the superuser cannot exceed (proc(5)).
    try:
        return int(_NR_OPEN.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return resource.RLIM_INFINITY


def file_limit() -> int | None:
    """Tell how many file descriptors this process may have.

    Returns:
        The number; None for no limit.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def open_files() -> int:
    """Count the file descriptors of this process.

    Returns:
        How many are in use; 0 if the system does not tell.
    """
    try:
        # Linux 6.2 and later tell it as the size of the directory.
        return os.stat(_DESCRIPTORS).st_size or len(os.listdir(_DESCRIPTORS))  # noqa: PTH116, PTH208
    except FileNotFoundError:
        return 0
    except OSError:
        # There was none left to list them with.
        return file_limit() or 0


def reserve_of(limit: int) -> int:
    """Tell how many file descriptors listeners leave to others.

    Args:
        limit: How many there may be.

    Returns:
        An eighth of them, but no more than a busy proxy needs in a moment.
    """
    return max(1, min(limit // 8, 4096))


class Pausable(Protocol):
    """What accepts, and can be told not to."""

    def pause(self) -> None:
        """Stop accepting; clients wait."""

    async def resume(self) -> None:
        """Accept again.

        Raises:
            OSError: If that is not possible now.
        """


@final
class AcceptGuard:
    """Keeps listeners from accepting what there is no descriptor for; one for each event loop.

    Args:
        loop: The event loop.
        used: Counts the descriptors in use.
        limit: Tells how many there may be; None for no limit.
    """

    __slots__ = (
        "__weakref__",
        "_countdown",
        "_is_paused",
        "_is_told",
        "_limit",
        "_log_limit",
        "_members",
        "_resuming",
        "_timer",
        "_used",
        "loop",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        used: Callable[[], int] = open_files,
        limit: Callable[[], int | None] = file_limit,
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        self._used = used
        self._limit = limit
        self._members: dict[Pausable, None] = {}
        self._countdown = 1
        self._is_paused = False
        self._is_told = False
        self._timer: asyncio.TimerHandle | None = None
        self._resuming: asyncio.Task[None] | None = None
        self._log_limit = LogLimit(rate=0.1, burst=1)

    @property
    def is_paused(self) -> bool:
        """Whether nothing is accepted."""
        return self._is_paused

    def add(self, member: Pausable) -> None:
        """Guard one more listener, which accepts.

        Args:
            member: The listener.
        """
        self._members[member] = None
        if self._is_paused:
            member.pause()
        elif self._timer is None:
            self.look()

    def remove(self, member: Pausable) -> None:
        """Forget a listener.

        Args:
            member: The listener; one that is not guarded changes nothing.
        """
        self._members.pop(member, None)
        if self._members:
            return
        self._is_paused = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def accepted(self) -> None:
        """Note that a connection was accepted."""
        self._countdown -= 1
        if self._countdown <= 0:
            self.look()

    def ended(self) -> None:
        """Note that a connection has ended, or is just about to be closed."""
        if self._is_paused:
            self.look()

    def look(self) -> None:
        """Count, and stop accepting or begin again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._members:
            return
        limit = self._limit()
        used = 0 if limit is None else self._used()
        # Far from a limit there is no need to look before the next second.
        left = 1 << 16 if limit is None else limit - reserve_of(limit) - used
        if self._is_paused:
            # Not at the first one that is free, or it would be a matter of single connections.
            if limit is None or left > reserve_of(limit) // 2:
                self._resume(used)
        elif left <= 0:
            self._pause(used, limit)
        # Each connection may need another descriptor or two.
        self._countdown = max(1, left // 4)
        interval = _PAUSED_INTERVAL if self._is_paused else _INTERVAL
        self._timer = self.loop.call_later(interval, self.look)

    def _pause(self, used: int, limit: int | None) -> None:
        self._is_paused = True
        self._is_told = self._log_limit.admit(time.monotonic()) is not None
        if self._is_told:
            _logger.error(
                "%d of %s file descriptors are in use: new connections wait until some are free; "
                "raise the limit of open files (ulimit -n, or LimitNOFILE= of the systemd unit)",
                used,
                limit,
            )
        for member in self._members:
            member.pause()

    def _resume(self, used: int) -> None:
        if self._resuming is not None:
            return
        if self._is_told:
            _logger.info("%d file descriptors are in use: connections are accepted again", used)
        self._is_paused = False
        self._resuming = self.loop.create_task(self._resume_all())
        self._resuming.add_done_callback(self._resumed)

    async def _resume_all(self) -> None:
        for member in list(self._members):
            if self._is_paused or member not in self._members:
                continue
            try:
                await member.resume()
            except (OSError, Error) as error:
                _logger.warning("accepting again failed: %s", error)
                self._is_paused = True
        if self._is_paused:
            for member in self._members:
                member.pause()

    def _resumed(self, task: asyncio.Task[None]) -> None:
        self._resuming = None
        if not task.cancelled() and task.exception() is not None:
            _logger.error("accepting again failed", exc_info=task.exception())


# By identity of the loop, and weak: listeners keep their guard alive.
_by_loop: Final[WeakValueDictionary[int, AcceptGuard]] = WeakValueDictionary()


def get_accept_guard() -> AcceptGuard:
    """Find the guard of the running event loop.

    Returns:
        Always the same object while any listener uses it.

    Raises:
        RuntimeError: If no event loop is running.
    """
    loop = asyncio.get_running_loop()
    guard = _by_loop.get(id(loop))
    if guard is None or guard.loop is not loop:
        limit = _no_limit if isinstance(loop, asyncio.BaseEventLoop) else file_limit
        guard = _by_loop[id(loop)] = AcceptGuard(loop, limit=limit)
    return guard


def _no_limit() -> int | None:
    return None
