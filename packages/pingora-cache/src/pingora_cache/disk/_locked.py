"""Locks on the files of finished objects.

Theory of operation: whoever changes, replaces or removes the file that has an object's name locks
it first (flock), and then looks whether it has that name still. So nobody removes what has been put
in the place of what he looked at, and the name is never free for a moment in between.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import Final

from pingora_cache.disk._descriptor import Descriptor
from pingora_cache.disk._tree import is_same

__all__ = ["TRIES", "open_locked", "try_lock"]

_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

TRIES: Final = 50
"""How often a lock is tried before it counts as held for ever: it is held for microseconds."""

_PAUSE: Final = 0.01


def try_lock(fd: int, kind: int) -> bool:
    """Lock an object; in a thread, since it waits for a moment if that is not to be had.

    Args:
        fd: Its file.
        kind: How.

    Returns:
        Whether it is locked.
    """
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(_PAUSE)
        return False
    return True


def open_locked(path: str) -> Descriptor | None:
    """Lock the file that has a name, in a thread.

    Args:
        path: The name.

    Returns:
        The file, which nobody else changes, replaces or removes until it is released; None if
        there is none.

    Raises:
        OSError: If that fails, or somebody else has it locked all the time.
    """
    for _ in range(TRIES):
        try:
            descriptor = Descriptor(os.open(path, _FLAGS))
        except FileNotFoundError:
            return None
        try:
            if try_lock(descriptor.fd, fcntl.LOCK_EX) and is_same(path, descriptor.fd):
                return descriptor.hold()
        finally:
            descriptor.release()
    msg = f"locked all the time: {path}"
    raise OSError(msg)
