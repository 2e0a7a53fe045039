"""The listening sockets of the process, filed by address.

An endpoint does not make its socket, it asks the table for it: the table holds what was inherited
from a predecessor or a parent, or makes it, or gets it from a supervisor. So the first start and
every later one take the same path, services that listen on the same address share one socket, and
the table is what is handed to a successor.

Theory of operation. An entry is claimed when somebody has asked for its address. What was
inherited is found by the key that it was given with, or else, as long as it is unclaimed, by what
it is bound to: that is how sockets of systemd are found, which knows nothing of our keys, and those
of a predecessor that wrote the same address in another way. A claimed entry has users; when the
last one releases it, it is gone.

Who closes an address for good may be the last who can accept what the kernel has completed for it
already, and these connections would be reset. So `retire` hands the socket back to be emptied,
unless others go on to accept from it: other workers, a successor, or systemd.
"""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn
from weakref import WeakValueDictionary

from pingora_core.listeners._entry import Entry, SocketSource
from pingora_core.listeners._inherited import adopt, apply_permissions, is_bound_to, is_fit
from pingora_core.listeners._sockets import refuse_new
from pingora_core.listeners.l4 import (
    DEFAULT_RETRY,
    UdsServerAddress,
    bind,
    bind_blocking,
    resolve,
    resolve_blocking,
)
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection, Mapping, Sequence

    from pingora_core.listeners.l4 import BindRetry, ServerAddress
    from pingora_core.protocols.address import SocketAddress

__all__ = ["ListenFds", "SocketSource"]


class ListenFds:
    """Listening sockets by address.

    A socket is closed, and the file of a Unix socket removed, when its last user releases it.

    Args:
        inherited: Sockets of a predecessor, by address key; the table owns them from now on.
        retry: What to do about an address in use.
        source: Where sockets come from that are not here; None to make them.
        shared: Keys of the inherited sockets that somebody else keeps and goes on with.
        is_lent: Whether the predecessor has them still, until `take_over`.

    Attributes:
        serves_backlog: Whether who retires an address accepts what is waiting there. Not if others
            do it: other workers or a successor. A worker that stops together with all others may
            set it again.
    """

    def __init__(
        self,
        inherited: Mapping[str, socket.socket] | None = None,
        retry: BindRetry = DEFAULT_RETRY,
        source: SocketSource | None = None,
        shared: Collection[str] = (),
        *,
        is_lent: bool = False,
    ) -> None:
        self.serves_backlog: bool = True
        self._retry = retry
        self._source = source
        self._owns_files = True
        # Weak: a lock is there for as long as somebody holds it or waits for it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        every = {} if inherited is None else inherited
        self._entries = {
            key: Entry.inherited(sock, is_shared=key in shared, is_lent=is_lent)
            for key, sock in every.items()
        }

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    @property
    def sockets(self) -> dict[str, socket.socket]:
        """All sockets by address key: what a successor is given. They stay the table's."""
        return {key: entry.sock for key, entry in self._entries.items()}

    @property
    def shared(self) -> frozenset[str]:
        """The keys of the sockets that somebody keeps who goes on with them, such as systemd."""
        return frozenset(key for key, entry in self._entries.items() if entry.is_shared)

    @property
    def is_lent(self) -> bool:
        """Whether a predecessor has some of them still and goes on if this server fails."""
        return any(entry.is_lent for entry in self._entries.values())

    @property
    def in_use(self) -> frozenset[str]:
        """The keys of the sockets that have users."""
        return frozenset(key for key, entry in self._entries.items() if entry.users)

    def for_worker(self, source: SocketSource) -> ListenFds:
        """Make the table of a worker; to be called in the worker, right after the fork.

        The sockets are then the new table's and this one is of no further use in that process.

        Args:
            source: Where the worker gets sockets from that are not here.

        Returns:
            A table with the same sockets, none of which has users, that leaves files alone.
        """
        table = ListenFds(retry=self._retry, source=source)
        table.disown_files()
        table._entries = {
            key: replace(entry, users=0, is_ours=False) for key, entry in self._entries.items()
        }
        self._entries = {}
        return table

    # ----------------------------------------------------------------- coming

    def adopt(self, key: str, sock: socket.socket, *, is_shared: bool = False) -> None:
        """File a socket that another process has made; nobody has claimed it yet.

        Args:
            key: What to file it under: an address key, or any name. One that is here stays there.
            sock: The socket; the table's from now on.
            is_shared: Whether somebody keeps it who will go on with it when this server has
                stopped, as systemd does: neither is its file removed then, nor its queue emptied.

        Raises:
            ValueError: If there is another one under this key; the socket stays the caller's.
        """
        # A server that systemd has started for an upgrade gets its sockets from both sides.
        for entry in self._entries.values():
            if entry.is_same(sock):
                entry.is_shared = entry.is_shared or is_shared
                sock.close()
                return
        if key in self._entries:
            raise ValueError(f"there is a socket for {key!r} already")
        self._entries[key] = Entry.inherited(sock, is_shared=is_shared)

    async def acquire(self, address: ServerAddress) -> socket.socket:
        """Adopt the socket of an address, or make it, for a user.

        Args:
            address: Where to listen. Options do not change a socket that exists already, but
                permissions do when it is adopted.

        Returns:
            A duplicate, non-blocking and, unless it is for datagrams, listening; the caller's to
            close, who then calls `release` or `retire`.

        Raises:
            Error: ``BIND_ERROR`` naming the address.
        """
        entry = await self._ensure(address)
        try:
            duplicate = entry.sock.dup()
        except OSError as error:
            msg = f"listen on {address.key}"
            raise Error(ErrorType.BIND_ERROR, msg, cause=error) from error
        duplicate.settimeout(0)
        entry.users += 1
        return duplicate

    async def ensure(self, address: ServerAddress) -> None:
        """Adopt the socket of an address, or make it, for users in other processes.

        Args:
            address: Where to listen.

        Raises:
            Error: ``BIND_ERROR`` naming the address.
        """
        await self._ensure(address)

    def acquire_blocking(self, address: ServerAddress) -> None:
        """Adopt the socket of an address, or make it, for users that come later; it blocks.

        Args:
            address: Where to listen.

        Raises:
            Error: ``BIND_ERROR`` naming the address.
        """
        entry = self._entries.get(address.key)
        if entry is None and self._unclaimed():
            entry = self._find(address, resolve_blocking(address))
        if entry is None:
            try:
                sock = bind_blocking(address, self._retry)
            except Error as error:
                self._explain(error)
            entry = self._entries[address.key] = Entry.made(sock)
        self._claim(address, entry)

    async def _ensure(self, address: ServerAddress) -> Entry:
        key = address.key
        # Two services that start at once with the same address must not both bind it.
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            entry = self._entries.get(key)
            if entry is None and self._unclaimed():
                entry = self._find(address, await resolve(address))
            if entry is None:
                entry = self._entries[key] = await self._make(address)
            self._claim(address, entry)
        return entry

    async def _make(self, address: ServerAddress) -> Entry:
        if self._source is not None:
            sock = await self._source.obtain(address)
            sock.settimeout(0)
            return Entry(sock, None, is_ours=False)
        try:
            sock = await bind(address, self._retry)
        except Error as error:
            self._explain(error)
        return Entry.made(sock)

    def _unclaimed(self) -> list[str]:
        return [key for key, entry in self._entries.items() if not entry.is_claimed]

    def _find(self, address: ServerAddress, places: Sequence[SocketAddress]) -> Entry | None:
        for key in self._unclaimed():
            entry = self._entries[key]
            if is_fit(entry.sock, address) and is_bound_to(entry.sock, places):
                # A successor shall find it under the name that is in use.
                self._entries[address.key] = self._entries.pop(key)
                return entry
        return None

    def _claim(self, address: ServerAddress, entry: Entry) -> None:
        if entry.is_claimed and is_fit(entry.sock, address):
            return
        adopt(entry.sock, address, is_shared=entry.is_shared)
        entry.is_claimed = True

    def _explain(self, error: Error) -> NoReturn:
        # The usual reason when a predecessor listens on a part of what is asked for now.
        rest = ", ".join(self._unclaimed())
        if not rest or getattr(error.cause, "errno", None) != errno.EADDRINUSE:
            raise error
        raise error.more_context(f"inherited and not asked for so far: {rest}") from error

    def refresh(self, address: ServerAddress) -> None:
        """Apply to a socket in use what may change while it is: the permissions of its file.

        Args:
            address: With the permissions that are wanted now.

        Raises:
            Error: ``BIND_ERROR`` naming the address, if they cannot be had.
        """
        entry = self._entries.get(address.key)
        if entry is None or not isinstance(address, UdsServerAddress):
            return
        try:
            apply_permissions(entry.sock, address, is_shared=entry.is_shared)
        except OSError as error:
            msg = f"permissions of {address.key}"
            raise Error(ErrorType.BIND_ERROR, msg, cause=error) from error

    # ------------------------------------------------------------------ going

    def release(self, address: ServerAddress) -> None:
        """Say that one user of an address has closed its duplicate.

        Args:
            address: As given to `acquire`. Unknown, or all users gone already: nothing happens.
        """
        entry = self._leave(address)
        if entry is not None:
            self._close(entry)

    def retire(self, address: ServerAddress, *, everywhere: bool = False) -> socket.socket | None:
        """Say as `release` does that a user has gone, who has accepted connections so far.

        Args:
            address: As given to `acquire`.
            everywhere: Whether other workers give the address up, too.

        Returns:
            If nobody else goes on to accept there: the socket, for the caller to accept what is
            waiting and to close. New connections are refused already where that can be done;
            datagrams that come are not.
        """
        entry = self._leave(address)
        if entry is None:
            return None
        if entry.is_shared or not (everywhere or (self.serves_backlog and not entry.is_lent)):
            self._close(entry)
            return None
        self._refuse(entry)
        return entry.sock

    def refuse_connections(self, address: ServerAddress | None = None) -> None:
        """Let no new connection begin; those that are complete can still be accepted.

        For a supervisor whose workers are about to give an address up, all of them and for good,
        and which keeps the socket open until they have. Sockets that somebody else has are left
        alone.

        Args:
            address: Where; None for everywhere.
        """
        for key, entry in self._entries.items():
            if address is None or key == address.key:
                self._refuse(entry)

    def _refuse(self, entry: Entry) -> None:
        # The file first: nobody finds a path that refuses to connect.
        self._remove_file(entry)
        if entry.is_ours and entry.has_queue:
            refuse_new(entry.sock)

    def _leave(self, address: ServerAddress) -> Entry | None:
        entry = self._entries.get(address.key)
        if entry is None:
            return None
        entry.users -= 1
        if entry.users > 0:
            return None
        del self._entries[address.key]
        if self._source is not None:
            self._source.released(address)
        return entry

    def drop(self, key: str) -> None:
        """Close a socket whatever users it has; for a supervisor, whose workers are the users.

        Args:
            key: Its address key. Unknown: nothing happens.
        """
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._close(entry)

    def close_unclaimed(self) -> list[str]:
        """Close what was inherited and nobody has asked for, once everybody has.

        Returns:
            The keys of what was closed.
        """
        keys = self._unclaimed()
        for key in keys:
            self._close(self._entries.pop(key))
        return keys

    def take_over(self) -> None:
        """Own what was lent: the predecessor stops, or others than this process know of it."""
        for entry in self._entries.values():
            entry.is_lent = False

    def mark_transferred(self) -> None:
        """Do nothing to the sockets that others would notice, who have got them, too.

        For a server whose successor has the sockets and is not ready yet, or never will be.
        """
        for entry in self._entries.values():
            entry.is_ours = False

    def disown_files(self) -> None:
        """Leave the files of Unix sockets alone from now on: a successor or parent has them.

        It accepts from the sockets as well, so nobody needs to empty their queues here.
        """
        self.mark_transferred()
        self._owns_files = False
        self.serves_backlog = False

    def close(self) -> None:
        """Close all sockets, those that nobody has adopted included."""
        for key in list(self._entries):
            self.drop(key)

    def _close(self, entry: Entry) -> None:
        self._remove_file(entry)
        entry.sock.close()

    def _remove_file(self, entry: Entry) -> None:
        is_kept = entry.is_shared or entry.is_lent or not self._owns_files
        if entry.file is not None and not is_kept:
            entry.file.remove()
