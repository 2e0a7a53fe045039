"""Whatever is done to the pool, it behaves as a plain list in order of release would."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pingora_pool import ConnectionMeta, ConnectionPool

_KEYS = st.sampled_from("abc")
_IDS = st.integers(0, 7)


class PoolMachine(RuleBasedStateMachine):
    """Drives a pool and a list side by side."""

    pool: ConnectionPool[str, object]
    model: list[tuple[ConnectionMeta[str], object]]
    size: int
    is_drained: bool

    @initialize(size=st.integers(1, 5))
    def start(self, size: int) -> None:
        """Begin with an empty pool."""
        self.pool = ConnectionPool(size)
        self.model = []
        self.size = size
        self.is_drained = False

    @rule(key=_KEYS, id_=_IDS)
    def put(self, key: str, id_: int) -> None:
        """Release a connection into the pool."""
        meta = ConnectionMeta(key, id_)
        connection = object()
        if any(known.id == id_ for known, _ in self.model):
            try:
                self.pool.put(meta, connection)
            except ValueError:
                return
            raise AssertionError("an id was taken twice")
        evicted = self.pool.put(meta, connection)
        if self.is_drained:
            assert evicted is connection
            return
        expected = self.model.pop(0)[1] if len(self.model) == self.size else None
        self.model.append((meta, connection))
        assert evicted is expected

    @rule(key=_KEYS)
    def get(self, key: str) -> None:
        """Take the youngest connection of a group."""
        found = [entry for entry in self.model if entry[0].key == key]
        if found:
            self.model.remove(found[-1])
        assert self.pool.get(key) is (found[-1][1] if found else None)

    @rule(key=_KEYS, id_=_IDS)
    def pop_closed(self, key: str, id_: int) -> None:
        """Take one connection, or try to take one that is not there."""
        meta = ConnectionMeta(key, id_)
        found = [entry for entry in self.model if entry[0] == meta]
        assert (meta in self.pool) is bool(found)
        if found:
            self.model.remove(found[0])
        assert self.pool.pop_closed(meta) is (found[0][1] if found else None)

    @rule(chance=st.integers(0, 9))
    def drain(self, chance: int) -> None:
        """Now and then, end the pool."""
        if chance:
            return
        assert self.pool.drain() == [connection for _, connection in self.model]
        self.model.clear()
        self.is_drained = True

    @invariant()
    def counts_agree(self) -> None:
        """The pool never holds more than its size, nor a group without a connection."""
        if not hasattr(self, "pool"):
            return
        assert len(self.pool) == len(self.model) <= self.size
        assert self.pool.group_count == len({meta.key for meta, _ in self.model})
        assert all(meta in self.pool for meta, _ in self.model)


TestPoolAgainstModel = PoolMachine.TestCase
TestPoolAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
