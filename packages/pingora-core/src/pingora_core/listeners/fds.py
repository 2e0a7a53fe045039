"""The listening sockets of the process, filed by address.

An endpoint does not make its socket, it asks the table for it: the table holds what was inherited
from a predecessor or a parent, or makes it. So the first start and every later one take the same
path, services that listen on the same address share one socket, and the table is what is handed
to a successor.
"""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pingora_core.listeners.l4 import DEFAULT_RETRY, bind

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from pingora_core.listeners.l4 import BindRetry, ServerAddress

__all__ = ["ListenFds"]


@dataclass(slots=True)
class _Entry:
    sock: socket.socket
    file: _SocketFile | None
    users: int = 0


@dataclass(frozen=True, slots=True)
class _SocketFile:
    # The identity tells our file from one that somebody else has put in its place.
    path: str
    device: int
    inode: int

    @classmethod
    def find(cls, sock: socket.socket) -> _SocketFile | None:
        path: object = sock.getsockname()
        if not isinstance(path, str) or not path:
            return None
        try:
            found = os.lstat(path)
        except OSError:
            return None
        return cls(path, found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None

    def remove(self) -> None:
        try:
            found = os.lstat(self.path)
        except OSError:
            return
        if (found.st_dev, found.st_ino) == (self.device, self.inode):
            Path(self.path).unlink(missing_ok=True)


class ListenFds:
    """Listening sockets by address.

    A socket is closed, and the file of a Unix socket removed, when its last user releases it.

    Args:
        inherited: Sockets that listen already, by address key; the table owns them from now on.
        retry: What to do about an address in use.
    """

    def __init__(
        self,
        inherited: Mapping[str, socket.socket] | None = None,
        retry: BindRetry = DEFAULT_RETRY,
    ) -> None:
        self._retry = retry
        self._owns_files = True
        self._locks: dict[str, asyncio.Lock] = {}
        self._entries: dict[str, _Entry] = {}
        for key, sock in (inherited or {}).items():
            sock.settimeout(0)
            self._entries[key] = _Entry(sock, _SocketFile.find(sock))

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    @property
    def sockets(self) -> dict[str, socket.socket]:
        """All sockets by address key: what a successor is given. They stay the table's."""
        return {key: entry.sock for key, entry in self._entries.items()}

    async def acquire(self, address: ServerAddress) -> socket.socket:
        """Adopt the socket of an address, or make it.

        Args:
            address: Where to listen. Options do not change a socket that exists already.

        Returns:
            A duplicate, listening and non-blocking; the caller's to close, who then calls
            `release`.

        Raises:
            Error: ``BIND_ERROR`` naming the address.
        """
        key = address.key
        # Two services that start at once with the same address must not both bind it.
        async with self._locks.setdefault(key, asyncio.Lock()):
            entry = self._entries.get(key)
            if entry is None:
                sock = await bind(address, self._retry)
                entry = self._entries[key] = _Entry(sock, _SocketFile.find(sock))
        duplicate = entry.sock.dup()
        duplicate.settimeout(0)
        entry.users += 1
        return duplicate

    def release(self, address: ServerAddress) -> None:
        """Say that one user of an address has closed its duplicate.

        Args:
            address: As given to `acquire`. Unknown, or all users gone already: nothing happens.
        """
        entry = self._entries.get(address.key)
        if entry is None:
            return
        entry.users -= 1
        if entry.users <= 0:
            del self._entries[address.key]
            self._close(entry)

    def disown_files(self) -> None:
        """Leave the files of Unix sockets alone from now on: a successor or parent has them."""
        self._owns_files = False

    def close(self) -> None:
        """Close all sockets, those that nobody has adopted included."""
        entries = list(self._entries.values())
        self._entries.clear()
        for entry in entries:
            self._close(entry)

    def _close(self, entry: _Entry) -> None:
        # The file first: nobody finds a path that refuses to connect.
        if self._owns_files and entry.file is not None:
            entry.file.remove()
        entry.sock.close()
