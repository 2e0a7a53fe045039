"""Connections to HTTP/2 upstreams: who has room, who idles, and when one is closed.

Theory of operation. Connections that carry requests and have room for more are tried first and in
the order in which they were made, so that the later ones run empty and can be closed. Those
without requests wait in a pool with the same rules as HTTP/1's: a bound over all peers, a
deadline each. A connection tells by itself when a stream has ended or when it takes no more;
nothing here asks, and no connection costs a task.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from pingora_core.runtime.timers import Deadline, get_timers
from pingora_pool import ConnectionMeta, ConnectionPool

if TYPE_CHECKING:
    from pingora_core.protocols.http.v2._client_connection import ClientConnection
    from pingora_core.protocols.http.v2._client_stream import ClientCarrier, ClientStream
    from pingora_core.upstreams.peer import ReuseKey

__all__ = ["Http2Pool"]


class _Entry:
    """One connection of the pool.

    Attributes:
        connection: The connection.
        meta: Its key and number.
        idle_timeout: How long it may idle, seconds; None for as long as there is room.
        is_idle: Whether it is in the pool of idle ones.
    """

    __slots__ = ("_pool", "connection", "deadline", "idle_timeout", "is_idle", "meta")

    def __init__(
        self, pool: Http2Pool, connection: ClientConnection, meta: ConnectionMeta[ReuseKey]
    ) -> None:
        self._pool = pool
        self.connection: ClientConnection = connection
        self.meta: ConnectionMeta[ReuseKey] = meta
        self.idle_timeout: float | None = None
        self.is_idle: bool = False
        self.deadline: Deadline = Deadline(get_timers(), connection.close)
        connection.on_room = self._has_room
        connection.on_retired = self._is_retired

    def _has_room(self) -> None:
        self._pool.has_room(self)

    def _is_retired(self) -> None:
        self._pool.remove(self)


class Http2Pool:
    """The connections of one connector.

    Args:
        size: Most idle connections kept, at least 1.

    Attributes:
        reused_count: Streams opened on connections that had carried others.
    """

    def __init__(self, size: int) -> None:
        self._entries: dict[ClientCarrier, _Entry] = {}
        # Those in use that may have room, by key, in the order in which they came to have it.
        self._spare: dict[ReuseKey, dict[int, _Entry]] = {}
        self._idle: ConnectionPool[ReuseKey, _Entry] = ConnectionPool(size)
        self._numbers = itertools.count()
        self.reused_count: int = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def idle_count(self) -> int:
        """Connections without requests."""
        return len(self._idle)

    # ----------------------------------------------------------------- taking

    def take(self, key: ReuseKey, idle_timeout: float | None) -> ClientStream | None:
        """Open a stream on a connection that there is. HOT.

        Args:
            key: Of the peer.
            idle_timeout: How long the connection may idle afterwards, seconds.

        Returns:
            The stream, nothing sent; None if there is no connection with room.
        """
        group = self._spare.get(key)
        while group:
            entry = group[next(iter(group))]
            if entry.connection.capacity > 0:
                return self._open(entry, idle_timeout)
            self._is_full(entry)
        while True:
            idle = self._idle.get(key)
            if idle is None:
                return None
            idle.is_idle = False
            idle.deadline.clear()
            if idle.connection.capacity > 0:
                return self._open(idle, idle_timeout)
            # It has come to allow nothing, or does not answer.
            idle.connection.retire()

    def _open(self, entry: _Entry, idle_timeout: float | None) -> ClientStream:
        self.reused_count += 1
        entry.idle_timeout = idle_timeout
        stream = entry.connection.open_stream()
        if entry.connection.capacity > 0:
            self._spare.setdefault(entry.meta.key, {})[entry.meta.id] = entry
        else:
            self._is_full(entry)
        return stream

    def _is_full(self, entry: _Entry) -> None:
        group = self._spare.get(entry.meta.key)
        if group is not None:
            group.pop(entry.meta.id, None)
            if not group:
                del self._spare[entry.meta.key]

    # ----------------------------------------------------------------- giving

    def add(self, key: ReuseKey, connection: ClientConnection, idle_timeout: float | None) -> None:
        """Take a new connection over, once it carries whatever it was made for.

        Args:
            key: Of the peer it leads to.
            connection: The connection, after its handshake.
            idle_timeout: How long it may idle, seconds.
        """
        entry = _Entry(self, connection, ConnectionMeta(key, next(self._numbers)))
        entry.idle_timeout = idle_timeout
        self._entries[connection] = entry
        self.has_room(entry)

    def has_room(self, entry: _Entry) -> None:
        """Note that a connection may have room, or that it carries nothing any more. HOT.

        Args:
            entry: Which; its connection calls this.
        """
        connection = entry.connection
        if connection.in_use:
            if connection.capacity > 0:
                self._spare.setdefault(entry.meta.key, {})[entry.meta.id] = entry
            return
        if entry.is_idle:
            return
        self._is_full(entry)
        timeout = entry.idle_timeout
        if timeout == 0:
            connection.close()
            return
        entry.is_idle = True
        evicted = self._idle.put(entry.meta, entry)
        if timeout is not None:
            entry.deadline.set(timeout)
        if evicted is not None:
            evicted.is_idle = False
            evicted.connection.close()

    def set_idle_timeout(self, connection: ClientCarrier, seconds: float | None) -> None:
        """Say anew how long a connection may idle, after an exchange on it.

        Args:
            connection: Which; one that has left the pool is none of this one's business.
            seconds: How long; None for as long as there is room, 0 to close it.
        """
        entry = self._entries.get(connection)
        if entry is None or entry.idle_timeout == seconds:
            return
        entry.idle_timeout = seconds
        if not entry.is_idle:
            return
        if seconds is None:
            entry.deadline.clear()
        elif seconds == 0:
            entry.connection.close()
        else:
            entry.deadline.set(seconds)

    # ----------------------------------------------------------------- ending

    def remove(self, entry: _Entry) -> None:
        """Forget a connection that takes no more requests.

        Args:
            entry: Which; its connection calls this.
        """
        self._entries.pop(entry.connection, None)
        self._is_full(entry)
        if entry.is_idle:
            entry.is_idle = False
            self._idle.pop_closed(entry.meta)
        entry.deadline.cancel()

    def retire(self, key: ReuseKey) -> None:
        """Begin nothing new on the connections to a peer; what is in flight goes on.

        Args:
            key: Of the peer.
        """
        for entry in [entry for entry in self._entries.values() if entry.meta.key == key]:
            entry.connection.retire()

    def drain(self) -> list[ClientConnection]:
        """Keep nothing from now on: idle connections close, the others after their last request.

        Returns:
            The connections that were idle.
        """
        connections = [entry.connection for entry in self._entries.values()]
        idle = [connection for connection in connections if not connection.in_use]
        for entry in self._idle.drain():
            entry.is_idle = False
        for connection in connections:
            connection.retire()
        return idle
