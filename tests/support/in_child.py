"""Running a function in a forked child, where it may change what a process cannot change back."""

from __future__ import annotations

import fcntl
import os
import pickle
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HIGH", "NOBODY", "in_child"]

NOBODY = 65534
"""The user, and the group, that owns nothing."""

HIGH = 200
"""A descriptor from which on a function in a child finds its own as they were."""

_MOST_SECONDS = 120

T = TypeVar("T")


def in_child(function: Callable[[], T], *, user: int | None = None) -> T:
    """Call a function in a child of this process.

    Args:
        function: What it returns or raises is handed back, so it has to be plain.
        user: Who the child is; None for who this process is. Another one takes root.

    Returns:
        What the function returned.
    """
    reader, low = os.pipe()
    # The function may want low numbers for itself.
    writer = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, HIGH)
    os.close(low)
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(_MOST_SECONDS)
            outcome: object
            try:
                if user is not None:
                    os.setgroups([])
                    os.setresgid(user, user, user)
                    os.setresuid(user, user, user)
                outcome = (function(), None)
            except Exception as error:  # noqa: BLE001 - the parent raises it
                outcome = (None, _plain(error))
            os.write(writer, pickle.dumps(outcome))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    result, failure = pickle.loads(data)
    if isinstance(failure, Exception):
        raise failure
    answer: T = result
    return answer


def _plain(error: Exception) -> Exception:
    # The chain may hold what cannot be handed over.
    with suppress(Exception):
        pickle.loads(pickle.dumps(error))
        return error
    return AssertionError(repr(error))
