"""The log of purges, which all processes share: a file that only grows, until it is rewritten.

Theory of operation: whoever purges locks the log, reads what it does not know yet, adds a record
and unlocks it. Everybody else reads what was added, and a look at the size of the file (a
microsecond) tells whether there is anything. When the log has become long, whoever adds to it
writes a new one with what still matters, and puts it in its place; who has the old one open sees
that it has no name any more.

A log that is damaged, or has been deleted, is replaced by one of another *epoch*: what was purged
is not known then, so all objects with tags from before count as purged. What looks damaged is read
once more with the lock: it may be the torn end of a process that has died, over which another one
is just writing. A process that was stopped may hold the lock for ever; nobody waits without end.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final, final

from pingora_cache.disk._purge_records import (
    LOG_HEAD,
    LogHead,
    Purges,
    Record,
    read_records,
)
from pingora_cache.disk._tree import make_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from pingora_cache.disk._purge_records import (
        Kind,
    )

__all__ = ["PurgeLog"]

_logger = logging.getLogger(__name__)

_MOST: Final = 4 << 20
_AT_ONCE: Final = 64 * 1024
_TRIES: Final = 8
# How often the lock is tried, and seconds in between: it is held for microseconds.
_LOCK_TRIES: Final = 1000
_REPAIR_TRIES: Final = 200
_PAUSE: Final = 0.002
_GIVEN_UP: Final = "the log of purges in {} is replaced or damaged all the time"


_ALONE: Final = nullcontext()


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@final
class PurgeLog:
    """The log, as it is read and added to. For one thread at a time.

    Args:
        path: Where it is.
        most: Bytes beyond which it is rewritten.

    Attributes:
        purges: What has been read so far.
    """

    __slots__ = ("_at", "_fd", "_most", "_path", "purges")

    def __init__(self, path: str, *, most: int = _MOST) -> None:
        self._path = path
        self._most = most
        self._fd = -1
        self._at = 0
        self.purges = Purges(LogHead(0))

    def open(self) -> None:
        """Open the log, and read all of it; make it if it is not there or is damaged.

        Raises:
            OSError: If that fails.
        """
        for _ in range(_TRIES):
            try:
                if self._try_open():
                    return
            except FileNotFoundError:
                self._create(over=False)
            else:
                if self._repair():
                    return
        raise OSError(_GIVEN_UP.format(self._path))

    @classmethod
    def opened(cls, path: str) -> PurgeLog:
        """Make one, and open it.

        Args:
            path: Where it is.

        Returns:
            It.

        Raises:
            OSError: If that fails; nothing is left open then.
        """
        log = cls(path)
        try:
            log.open()
        except OSError:
            log.close()
            raise
        return log

    def close(self) -> None:
        """Close it; nothing on the second call."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def refresh(self) -> bool:
        """Read what was added, if that is little.

        Returns:
            Whether it was; otherwise ``catch_up`` is due, which may take milliseconds.

        Raises:
            OSError: If it cannot be read.
        """
        if self._fd < 0:
            return False
        status = os.fstat(self._fd)
        if status.st_size == self._at and status.st_nlink:
            return True
        new = status.st_size - self._at
        return bool(status.st_nlink) and 0 <= new <= _AT_ONCE and self._read()

    def catch_up(self) -> None:
        """Read what was added, whatever has become of the log.

        Raises:
            OSError: If that fails.
        """
        if not self.refresh():
            self.open()

    # -------------------------------------------------------------------------- reading

    def _try_open(self) -> bool:
        fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        self.close()
        self._fd = fd
        return self._read_all()

    def _read_all(self) -> bool:
        fd = self._fd
        head = LogHead.unpack(os.pread(fd, LOG_HEAD, 0))
        if head is None:
            return False
        if head.epoch == self.purges.epoch and head.start <= self.purges.position:
            self._at = head.known_end
        else:
            self._at = LOG_HEAD
            self.purges = Purges(head)
        return self._read()

    def _read(self) -> bool:
        # A record that is not all there is being written; or was, by a process that has died.
        rest = b""
        while data := os.pread(self._fd, _AT_ONCE, self._at + len(rest)):
            batch = read_records(rest + data)
            for record in batch.records:
                self.purges.add(record)
            self._at += batch.size
            if batch.damaged:
                return False
            rest = (rest + data)[batch.size :]
        return True

    def _repair(self) -> bool:
        # Whether the log that was opened is in order after all; if not, there is another one.
        fd = self._fd
        for _ in range(_REPAIR_TRIES):
            if _try_lock(fd):
                break
            time.sleep(_PAUSE)
        try:
            if not os.fstat(fd).st_nlink:
                return False
            if self._read_all():
                return True
            _logger.warning("the log of purges is damaged, and begun anew: %s", self._path)
            self._create(over=True)
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
        return False

    # -------------------------------------------------------------------------- writing

    def add(
        self,
        kind: Kind,
        name: bytes,
        when: float,
        *,
        among: AbstractContextManager[object] = _ALONE,
    ) -> None:
        """Purge.

        Args:
            kind: What is to be done.
            name: The tag, or the hash of the key.
            when: Wall clock seconds.
            among: Held while this is used, and not while another process is waited for.

        Raises:
            OSError: If that fails; it may have been done all the same.
            ValueError: If the tag has more than 65,535 bytes.
        """
        for _ in range(_LOCK_TRIES):
            with among:
                if self._try_locked(lambda: self._add(kind, name, when)):
                    return
            time.sleep(_PAUSE)
        msg = f"locked all the time: {self._path}"
        raise OSError(msg)

    def _try_locked(self, do: Callable[[], None]) -> bool:
        # Whether it was done; False if another process has the lock.
        for _ in range(_TRIES):
            if self._fd < 0:
                self.open()
            fd = self._fd
            if not _try_lock(fd):
                return False
            try:
                if os.fstat(fd).st_nlink and self._read():
                    do()
                    return True
            finally:
                fcntl.flock(fd, fcntl.LOCK_UN)
            # It was replaced while this waited, or is damaged.
            self.open()
        raise OSError(_GIVEN_UP.format(self._path))

    def _add(self, kind: Kind, name: bytes, when: float) -> None:
        if os.fstat(self._fd).st_size > self._at:
            os.ftruncate(self._fd, self._at)  # the torn end that a process left which has died
        data = Record(self.purges.position + 1, when, kind, name).pack()
        if os.write(self._fd, data) < len(data):
            os.ftruncate(self._fd, self._at)
            msg = "no room for a record in the log of purges"
            raise OSError(msg)
        self._read()
        if self._at > self._most:
            self._compact()

    # ---------------------------------------------------------------------------- making

    def _create(self, *, over: bool) -> None:
        # Two at once, over one that is damaged: the later replaces that of the earlier. What was
        # written into it meanwhile goes with its epoch, and that purges all that it could mean.
        self._write(LogHead(secrets.randbits(63) | 1).pack(), over=over)

    def _compact(self) -> None:
        purges = self.purges
        records = b"".join(record.pack() for record in sorted(purges.records()))
        tag_floor, key_floor = purges.tag_floor, purges.key_floor
        if len(records) > self._most // 2:
            records, tag_floor, key_floor = b"", purges.position, purges.position
        head = LogHead(purges.epoch, purges.position, tag_floor, key_floor, LOG_HEAD + len(records))
        self._write(head.pack() + records, over=True)

    def _write(self, data: bytes, *, over: bool) -> None:
        path = f"{self._path}.{secrets.token_hex(8)}"
        make_folder(os.path.dirname(path))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if os.write(fd, data) < len(data):
                msg = "no room for the log of purges"
                raise OSError(msg)
            if over:
                os.rename(path, self._path)
            else:
                with contextlib.suppress(FileExistsError):
                    os.link(path, self._path)
        finally:
            os.close(fd)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
