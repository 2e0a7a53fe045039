"""A bounded pool of idle connections, in groups, with least-recently-used eviction.

Rules of this file: no I/O, no clock, no callback. Whatever leaves the pool other than by
``get`` is returned to the caller, who closes it. Liveness and idle time are the caller's business
too: it watches what it has put in, and takes out with ``pop_closed`` what has ended.

Theory of operation: each group is a dict from id to connection, whose order is the order of
release; ``popitem`` takes from its young end. One ``OrderedDict`` over all groups, from id to group
key, is the list of eviction candidates; it is used for its linked list, which a plain dict lacks:
finding the *oldest* key of a dict costs a walk over the slots of those removed before it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING, Generic, TypeVar, final

if TYPE_CHECKING:
    from pingora_pool.meta import ConnectionMeta

__all__ = ["ConnectionPool"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@final
class ConnectionPool(Generic[K, T]):
    """Idle connections, kept for reuse. All operations but ``drain`` are O(1).

    Not for use from several threads at once.

    Args:
        size: The most connections to keep, over all groups, at least 1.

    Raises:
        ValueError: If the size is below 1.

    Examples:
        >>> from pingora_pool import ConnectionMeta
        >>> pool: ConnectionPool[str, str] = ConnectionPool(2)
        >>> pool.put(ConnectionMeta("origin", 7), "first")
        >>> pool.put(ConnectionMeta("origin", 8), "second")
        >>> pool.put(ConnectionMeta("other", 9), "third")  # one too many: the coldest falls out
        'first'
        >>> pool.get("origin")
        'second'
        >>> pool
        <ConnectionPool 1 of 2 in 1 group>

    Source: pingora-pool/src/connection.rs. Unlike there, the size is that of the whole pool rather
    than of each thread, and the connection released last is reused first.
    """

    __slots__ = ("_groups", "_is_drained", "_release_order", "_size")

    def __init__(self, size: int) -> None:
        if size < 1:
            msg = f"a connection pool holds at least 1 connection, not {size}"
            raise ValueError(msg)
        self._size = size
        self._is_drained = False
        self._groups: dict[K, dict[int, T]] = {}
        self._release_order: OrderedDict[int, K] = OrderedDict()

    @property
    def size(self) -> int:
        """The most connections that the pool keeps."""
        return self._size

    @property
    def group_count(self) -> int:
        """The number of groups that have a connection in the pool."""
        return len(self._groups)

    @property
    def is_drained(self) -> bool:
        """Whether ``drain`` was called, so that the pool takes nothing any more."""
        return self._is_drained

    def put(self, meta: ConnectionMeta[K], connection: T) -> T | None:
        """Keep a connection that was released.

        Args:
            meta: Its group and id.
            connection: The connection, not None.

        Returns:
            The connection that the caller must close now: the one released longest ago if the
            pool was full, the given one if the pool is drained, None if there was room.

        Raises:
            ValueError: If a connection of that id is in the pool; nothing has changed then.
        """
        connection_id = meta.id
        order = self._release_order
        if connection_id in order:
            msg = f"connection {connection_id} is in the pool already"
            raise ValueError(msg)
        if self._is_drained:
            return connection
        evicted: T | None = None
        if len(order) >= self._size:
            evicted = self._remove(*order.popitem(last=False))
        order[connection_id] = key = meta.key
        group = self._groups.get(key)
        if group is None:
            self._groups[key] = {connection_id: connection}
        else:
            group[connection_id] = connection
        return evicted

    def get(self, key: K) -> T | None:
        """Take a connection of a group out, for use.

        The one released last comes first. It is the least likely to have been closed by the other
        side in the meantime, and after a burst the connections that are not needed any more stay
        at rest until they expire; in turns, each would be used just often enough to stay.

        Args:
            key: The group.

        Returns:
            The connection, or None if the group has none.
        """
        group = self._groups.get(key)
        if group is None:
            return None
        connection_id, connection = group.popitem()
        if not group:
            del self._groups[key]
        del self._release_order[connection_id]
        return connection

    def pop_closed(self, meta: ConnectionMeta[K]) -> T | None:
        """Take out one connection that has ended or has idled for too long.

        Args:
            meta: Its group and id, as given to ``put``.

        Returns:
            The connection, or None if it is not in the pool (any more).
        """
        if meta not in self:
            return None
        del self._release_order[meta.id]
        return self._remove(meta.id, meta.key)

    def drain(self) -> list[T]:
        """Take all connections out, and from now on keep none.

        Returns:
            The connections, the one released longest ago first.
        """
        self._is_drained = True
        connections = [self._groups[key][id_] for id_, key in self._release_order.items()]
        self._groups.clear()
        self._release_order.clear()
        return connections

    def __len__(self) -> int:
        return len(self._release_order)

    def __contains__(self, meta: ConnectionMeta[K]) -> bool:
        return meta.id in self._groups.get(meta.key, ())

    def __repr__(self) -> str:
        groups = len(self._groups)
        state = ", drained" if self._is_drained else ""
        return (
            f"<{type(self).__name__} {len(self)} of {self._size}"
            f" in {groups} group{'' if groups == 1 else 's'}{state}>"
        )

    def _remove(self, connection_id: int, key: K) -> T:
        # An empty group must go: there are as many keys as peers were ever seen.
        group = self._groups[key]
        connection = group.pop(connection_id)
        if not group:
            del self._groups[key]
        return connection
