"""Whether files could be made and written to, found out without touching them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["reason_of", "require_creatable", "require_directory", "require_writable"]


def require_directory(path: str, mode: int) -> None:
    """Look for a directory.

    Args:
        path: Where it should be.
        mode: What this process has to be allowed to do there: ``os.W_OK`` and so on.

    Raises:
        OSError: If it is not there, is none, or does not let this process do that.
    """
    if not stat.S_ISDIR(Path(path).stat().st_mode):
        _refuse(errno.ENOTDIR, path)
    _require_access(path, mode)


def require_creatable(path: str, *, is_socket: bool = False) -> None:
    """Look whether a file could be made, or put in the place of one.

    Args:
        path: The file.
        is_socket: Whether nothing but a socket may be replaced.

    Raises:
        OSError: If not.
    """
    require_directory(str(Path(path).absolute().parent), os.W_OK | os.X_OK)
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        _refuse(errno.EISDIR, path)
    if is_socket and not stat.S_ISSOCK(mode):
        _refuse(errno.EEXIST, path, "there is a file that is no socket")


def require_writable(path: str) -> None:
    """Look whether a file could be written to, or made.

    Args:
        path: The file.

    Raises:
        OSError: If not.
    """
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        require_creatable(path)
        return
    if stat.S_ISDIR(mode):
        _refuse(errno.EISDIR, path)
    _require_access(path, os.W_OK)


def reason_of(error: OSError, path: str) -> str:
    """Word a failure.

    Args:
        error: The failure.
        path: What was asked about; what else it is about is named.

    Returns:
        Words such as ``/run/app: No such file or directory``.
    """
    reason = error.strerror or str(error)
    if error.filename is None or str(error.filename) == path:
        return reason
    return f"{error.filename}: {reason}"


def _require_access(path: str, mode: int) -> None:
    # The effective user: what opening goes by.
    if not os.access(path, mode, effective_ids=True):
        _refuse(errno.EACCES, path)


def _refuse(number: int, path: str, reason: str | None = None) -> None:
    raise OSError(number, reason or os.strerror(number), path)
