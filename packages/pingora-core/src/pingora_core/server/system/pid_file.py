"""The file that tells the process id of a server in the background.

Theory of operation
-------------------
The file is written beside its place under a name that nobody can guess and moved there when it is
whole, so that a reader finds all of it or none. What was there before is moved to ``<path>.old``:
during an upgrade that is where the predecessor can still be found. Moving replaces or takes away a
symbolic link itself, never what it points to; nothing here is opened through one.

A file that a crash has left names a process that is gone, or another one to which the system has
given the number since. The latter is told by its age: it began after the file was written.

At the end the file is removed if it is still ours, and ``<path>.old`` if our file has become that:
so a ``.old`` is there as long as the predecessor is. If that is still alive then, because this server
was started by mistake or could not take over, it gets its place back. A server that has become another user may not
be allowed to remove it from a directory of root's; it empties the file then.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from pingora_core.server.system.privileges import Identity

__all__ = ["PidFile"]

_logger = logging.getLogger(__name__)

_MODE: Final = 0o644
_MAX_SIZE: Final = 64
# The start of a process is known to a hundredth of a second, the time of a file to a clock tick.
_TOLERANCE: Final = 1.0


@final
class PidFile:
    """The pid file of this process.

    Args:
        path: Where it is; absolute, or the working directory must not change.

    Attributes:
        path: As given.
    """

    __slots__ = ("_identity", "_moved", "_pid", "path")

    def __init__(self, path: str) -> None:
        self.path: Final = path
        self._pid: int | None = None
        self._identity: tuple[int, int] | None = None
        self._moved: tuple[int, int] | None = None  # of the file of a living predecessor

    @property
    def old_path(self) -> str:
        """Where the file of a predecessor is moved to."""
        return f"{self.path}.old"

    def write(self, owner: Identity | None = None) -> None:
        """Write the id of this process; keep what was there as ``<path>.old``.

        A process that the old file names and that is alive gets a warning in the log and no more:
        it may be the predecessor that is about to hand over.

        Args:
            owner: Who this process is going to be, for the file to belong to; None for who it is.

        Raises:
            Error: ``FILE_CREATE_ERROR`` naming the file; then what was there is there still, or at
                ``<path>.old``.
        """
        pid = os.getpid()
        try:
            self._keep_old(pid)
            self._identity = _write_whole(self.path, f"{pid}\n", owner)
        except OSError as error:
            raise Error(
                ErrorType.FILE_CREATE_ERROR,
                f"pid file {self.path}: {error.strerror or error}",
                source=ErrorSource.INTERNAL,
                cause=error,
            ) from error
        self._pid = pid

    def remove(self) -> None:
        """Remove the file if it is the one that this very process has written; never fails.

        A predecessor that is still alive gets its file back.
        """
        if self._pid is None or self._pid != os.getpid():
            return  # not written, or written by the process that this one was forked from
        for path in (self.path, self.old_path):
            content, identity = _read(path)
            if identity == self._identity and content == str(self._pid):
                _remove_or_empty(path)
        self._pid = None
        self._give_back()

    def _give_back(self) -> None:
        content, identity = _read(self.old_path)
        if identity is None or identity != self._moved or os.path.lexists(self.path):
            return
        try:
            if _is_alive_since(_pid_in(content), Path(self.old_path).stat().st_mtime):
                Path(self.old_path).rename(self.path)
        except OSError as error:
            _logger.warning("pid file %s: cannot be moved back: %s", self.path, error.strerror)

    def _keep_old(self, ours: int) -> None:
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        content, identity = _read(self.path)
        pid = _pid_in(content)
        if identity is None:
            _logger.warning("pid file %s: is no file; moved to %s.old", self.path, self.path)
        elif pid != ours and _is_alive_since(pid, found.st_mtime):
            self._moved = identity
            _logger.warning(
                "pid file %s: names process %d, which is alive; moved to %s.old",
                self.path,
                pid,
                self.path,
            )
        else:
            _logger.info("pid file %s: is stale (%r); moved to .old", self.path, content)
        Path(self.path).rename(self.old_path)


# ------------------------------------------------------------------------------------- files


def _write_whole(path: str, text: str, owner: Identity | None) -> tuple[int, int]:
    # Returns device and inode, which tell the file from one that is put in its place.
    target = Path(path)
    fd, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        os.write(fd, text.encode())
        if owner is not None:
            os.fchown(fd, owner.uid, owner.gid)
        os.fchmod(fd, _MODE)
        written = os.fstat(fd)
        Path(temporary).rename(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    return written.st_dev, written.st_ino


def _read(path: str) -> tuple[str, tuple[int, int] | None]:
    # What a regular file says, and what it is; ("", None) of anything else.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return "", None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return "", None
        content = os.read(fd, _MAX_SIZE).decode(errors="replace").strip()
    except OSError:
        return "", None
    finally:
        os.close(fd)
    return content, (found.st_dev, found.st_ino)


def _remove_or_empty(path: str) -> None:
    try:
        Path(path).unlink(missing_ok=True)
    except PermissionError:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW)
        except OSError as error:
            _logger.warning("pid file %s: cannot be removed: %s", path, error.strerror)
        else:
            os.close(fd)
    except OSError as error:
        _logger.warning("pid file %s: cannot be removed: %s", path, error.strerror)


# --------------------------------------------------------------------------------- processes


def _pid_in(content: str) -> int:
    return int(content) if content.isascii() and content.isdecimal() else 0


def _is_alive_since(pid: int, written: float) -> bool:
    # Whether a process is there and has been since a moment of the wall clock.
    if pid == 0:
        return False  # would stand for our own process group
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # there, and somebody else's
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True  # hidden from us, or gone this moment
    # proc(5): the name, in parentheses, may hold anything; field 3 is the state, 22 the start.
    fields = line.rpartition(")")[2].split()
    if fields[0] in {"Z", "X"}:
        return False
    since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    began = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot
    return began <= written + _TOLERANCE
