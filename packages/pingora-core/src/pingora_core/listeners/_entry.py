"""One listening socket of the table: whose it is, who uses it, its file; and where it is from."""

from __future__ import annotations

import logging
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from pingora_core.listeners.l4 import ServerAddress

__all__ = ["Entry", "SocketFile", "SocketSource"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SocketFile:
    """The file of a Unix socket. Its identity tells it from one that somebody has put in its place.

    Attributes:
        path: Where it is.
        device: Where it is, for the system.
        inode: Which one it is there.
    """

    path: str
    device: int
    inode: int

    @classmethod
    def find(cls, sock: socket.socket) -> SocketFile | None:
        """Look for the file of a socket.

        Args:
            sock: The socket.

        Returns:
            The file; None if there is none, as for a TCP socket.
        """
        path: object = sock.getsockname()
        if not isinstance(path, str) or not path:
            return None
        try:
            found = os.lstat(path)
        except OSError:
            return None
        return cls(path, found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None

    def remove(self) -> None:
        """Remove the file, unless it is another one by now."""
        try:
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == (self.device, self.inode):
                Path(self.path).unlink(missing_ok=True)
        except FileNotFoundError:
            return
        except OSError as error:
            # Whoever binds the path next finds out that nobody listens, and removes it.
            _logger.warning("%s cannot be removed: %s", self.path, error)


@dataclass(slots=True)
class Entry:
    """A socket in the table.

    Attributes:
        sock: The socket.
        file: Its file; None if it has none.
        users: How many duplicates are in use.
        is_claimed: Whether somebody has asked for its address.
        is_ours: Whether nobody but this table has it.
        is_shared: Whether somebody has it who goes on with it when this server has stopped.
        is_lent: Whether a predecessor has it who goes on with it if this server does not come up.
    """

    sock: socket.socket
    file: SocketFile | None
    users: int = 0
    is_claimed: bool = True
    is_ours: bool = True
    is_shared: bool = False
    is_lent: bool = False

    @classmethod
    def made(cls, sock: socket.socket) -> Self:
        """Hold a socket that this process has made.

        Args:
            sock: The socket.

        Returns:
            The entry.
        """
        return cls(sock, SocketFile.find(sock))

    @classmethod
    def inherited(
        cls, sock: socket.socket, *, is_shared: bool = False, is_lent: bool = False
    ) -> Self:
        """Hold a socket that another process has made.

        Args:
            sock: The socket.
            is_shared: Whether that process keeps it.
            is_lent: Whether that process gives it up when this server has come up.

        Returns:
            The entry, which nobody has claimed.
        """
        sock.settimeout(0)
        file = SocketFile.find(sock)
        return cls(
            sock, file, is_claimed=False, is_ours=False, is_shared=is_shared, is_lent=is_lent
        )

    def is_same(self, sock: socket.socket) -> bool:
        """Decide whether two descriptors stand for one socket.

        Args:
            sock: The other one.

        Returns:
            Whether they do.
        """
        return os.path.sameopenfile(self.sock.fileno(), sock.fileno())

    @property
    def has_queue(self) -> bool:
        """Whether connections wait in it to be accepted."""
        return self.sock.type == socket.SOCK_STREAM


class SocketSource(Protocol):
    """Where a table gets a socket that it does not have: the supervisor, which has all of them."""

    async def obtain(self, address: ServerAddress) -> socket.socket:
        """Get the socket of an address.

        Args:
            address: The address.

        Returns:
            A socket, listening; the table's from now on.

        Raises:
            Error: ``BIND_ERROR`` naming the address.
        """

    def released(self, address: ServerAddress) -> None:
        """Be told that the last user of an address has gone.

        Args:
            address: The address.
        """
