"""Descriptors that are closed when the last who uses them is done, and reading through them."""

from __future__ import annotations

import fcntl
import os
import threading
from typing import Final, final

from pingora_cache.disk._layout import FRONT

__all__ = ["READ_FLAGS", "Cold", "Descriptor", "Reader", "is_alive"]

# A folder or a pipe that somebody has put there must not make us wait; a link leads elsewhere.
READ_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@final
class Descriptor:
    """A descriptor with its users: a read that goes on in a thread keeps it open.

    Args:
        fd: The descriptor; owned from now on, with one user.

    Attributes:
        fd: The descriptor.
    """

    __slots__ = ("_lock", "_users", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._users = 1
        self._lock = threading.Lock()

    def hold(self) -> Descriptor:
        """Add a user.

        Returns:
            This.
        """
        with self._lock:
            self._users += 1
        return self

    def release(self) -> None:
        """Take a user away, and close it if that was the last."""
        with self._lock:
            self._users -= 1
            if self._users or self.fd < 0:
                return
            fd, self.fd = self.fd, -1
        os.close(fd)


class Cold(Exception):  # noqa: N818  # it says what the bytes are
    """What is to be read is not in memory: a thread has to wait for it."""


@final
class Reader:
    """Reads on the loop what is in memory, and refuses what the disk would have to be waited for.

    Whether it is in memory can be asked for (``RWF_NOWAIT``, preadv2(2)) in most file systems. In
    those where it cannot, tmpfs above all, everything is read on the loop.

    Args:
        inline: False to refuse everything.
    """

    __slots__ = ("_front", "_inline", "_probe", "_scratch")

    def __init__(self, *, inline: bool) -> None:
        self._inline = inline
        self._scratch = bytearray(FRONT)
        self._front = [self._scratch]
        self._probe: list[bytearray] | None = [bytearray(1)]

    def front(self, fd: int) -> bytes:
        """Read the beginning of a file.

        Args:
            fd: The file.

        Returns:
            ``FRONT`` bytes; fewer if the file is shorter, or the rest is not in memory.

        Raises:
            Cold: If it is not in memory.
            OSError: If it cannot be read.
        """
        if not self._inline:
            raise Cold
        if self._probe is None:
            return os.pread(fd, FRONT, 0)
        try:
            size = os.preadv(fd, self._front, 0, os.RWF_NOWAIT)
        except BlockingIOError:
            raise Cold from None
        except OSError:
            if self._still_probes(fd):
                raise
            return os.pread(fd, FRONT, 0)
        return bytes(memoryview(self._scratch)[:size])

    def read(self, fd: int, size: int, at: int) -> bytes:
        """Read from a file.

        Args:
            fd: The file.
            size: Bytes, at least 1.
            at: Where.

        Returns:
            So many bytes; fewer if the file ends before.

        Raises:
            Cold: If it is not in memory, as far as its first and last byte tell.
            OSError: If it cannot be read.
        """
        if not self._inline:
            raise Cold
        probe = self._probe
        if probe is not None:
            try:
                os.preadv(fd, probe, at + size - 1, os.RWF_NOWAIT)
                if size > 1:
                    os.preadv(fd, probe, at, os.RWF_NOWAIT)
            except BlockingIOError:
                raise Cold from None
            except OSError:
                if self._still_probes(fd):
                    raise
        return os.pread(fd, size, at)

    def _still_probes(self, fd: int) -> bool:
        # Not known here, or really in trouble? Without the flag only trouble remains.
        os.pread(fd, 1, 0)
        if self._probe is None:
            return False
        try:
            os.preadv(fd, self._probe, 0, os.RWF_NOWAIT)
        except BlockingIOError:
            return True
        except OSError:
            self._probe = None
            return False
        return True


def is_alive(fd: int) -> bool:
    """Tell whether a write has a writer.

    Args:
        fd: Its file.

    Returns:
        Whether somebody has locked it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False
