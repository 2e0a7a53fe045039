"""A program that needs pingora-pool: it keeps database connections, say."""

from __future__ import annotations

from pingora_pool import ConnectionMeta, ConnectionPool


class Connection:
    """Anything that can be closed."""

    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        """Close it."""
        self.is_closed = True


def main() -> None:
    """Put one connection too many, take one back."""
    pool: ConnectionPool[str, Connection] = ConnectionPool(2)
    connections = [Connection() for _ in range(3)]
    for number, connection in enumerate(connections):
        evicted: Connection | None = pool.put(ConnectionMeta("db", number), connection)
        if evicted is not None:
            evicted.close()
    assert [connection.is_closed for connection in connections] == [True, False, False]
    assert pool.get("db") is connections[2]
    assert pool.get("cache") is None
    assert pool.drain() == [connections[1]]


if __name__ == "__main__":
    main()
