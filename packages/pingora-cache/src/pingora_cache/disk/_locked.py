"""Locks on the files of finished objects.

Theory of operation: whoever changes, replaces or removes the file that has an object's name locks
it first (flock), and then looks whether it has that name still. So nobody removes what has been put
in the place of what he looked at, and the name is never free for a moment in between.

A process that was stopped may hold a lock for ever, so nobody waits for one without end. A lock is
given back before its file is closed: a process that was forked in between has that open too.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import Final

from pingora_cache.disk._descriptor import Descriptor
from pingora_cache.disk._tree import is_same

__all__ = ["TRIES", "AlwaysLockedError", "lock_own", "open_locked", "try_lock", "unlock"]

_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

TRIES: Final = 50
"""How often a lock is tried before it counts as held for ever: it is held for microseconds."""

_PAUSE: Final = 0.01
_ALWAYS: Final = "locked all the time: {}"


class AlwaysLockedError(OSError):
    """Somebody else has a file locked all the time: a process that was stopped."""


def try_lock(fd: int) -> bool:
    """Lock an object; in a thread, since it waits for a moment if that is not to be had.

    Args:
        fd: Its file.

    Returns:
        Whether it is locked.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(_PAUSE)
        return False
    return True


def lock_own(fd: int, path: str) -> None:
    """Lock a file that was just made, in a thread: others look at most whether it is locked.

    Args:
        fd: The file.
        path: Its name.

    Raises:
        AlwaysLockedError: If somebody else has it locked all the time.
        OSError: If that fails.
    """
    for _ in range(TRIES):
        if try_lock(fd):
            return
    raise AlwaysLockedError(_ALWAYS.format(path))


def unlock(descriptor: Descriptor) -> None:
    """Give back a lock, and one use of the file.

    Args:
        descriptor: The file.
    """
    fcntl.flock(descriptor.fd, fcntl.LOCK_UN)
    descriptor.release()


def open_locked(path: str, *, tries: int = TRIES) -> Descriptor | None:
    """Lock the file that has a name, in a thread.

    Args:
        path: The name.
        tries: How often.

    Returns:
        The file, which nobody else changes, replaces or removes until it is given to ``unlock``;
        None if there is none.

    Raises:
        AlwaysLockedError: If somebody else has it locked all the time.
        OSError: If that fails.
    """
    for _ in range(tries):
        try:
            descriptor = Descriptor(os.open(path, _FLAGS))
        except FileNotFoundError:
            return None
        is_ours = False
        try:
            is_ours = try_lock(descriptor.fd) and is_same(path, descriptor.fd)
        finally:
            if not is_ours:
                unlock(descriptor)
        if is_ours:
            return descriptor
    raise AlwaysLockedError(_ALWAYS.format(path))
