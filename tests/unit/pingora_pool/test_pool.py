"""The pool keeps idle connections by group, up to its size, and gives back what must be closed."""

from __future__ import annotations

import pytest

from pingora_pool import ConnectionMeta, ConnectionPool


def _pool(size: int = 3) -> ConnectionPool[str, str]:
    return ConnectionPool(size)


def _fill(pool: ConnectionPool[str, str], *names: str) -> None:
    """Put connections named like "a1": group "a", id 1."""
    for name in names:
        assert pool.put(_meta(name), name) is None


def _meta(name: str) -> ConnectionMeta[str]:
    return ConnectionMeta(name[0], int(name[1:]))


def test_lookup() -> None:
    """A connection is found by its group, once."""
    pool = _pool()
    _fill(pool, "a1", "b2")

    assert pool.get("b") == "b2"
    assert pool.get("b") is None
    assert pool.get("a") == "a1"
    assert pool.get("a") is None
    assert pool.get("never seen") is None


def test_lookup_takes_the_one_released_last() -> None:
    """Within a group, reuse is last in, first out, so that surplus connections can expire."""
    pool = _pool()
    _fill(pool, "a1", "a2", "a3")

    assert [pool.get("a") for _ in range(3)] == ["a3", "a2", "a1"]


def test_pop() -> None:
    """A connection that ended leaves; its neighbours stay."""
    pool = _pool()
    _fill(pool, "a1", "a2", "b3")

    assert pool.pop_closed(_meta("a1")) == "a1"

    assert pool.pop_closed(_meta("a1")) is None
    assert pool.get("a") == "a2"
    assert pool.get("b") == "b3"


def test_pop_of_what_was_taken_is_harmless() -> None:
    """The watcher of a connection may come too late."""
    pool = _pool()
    _fill(pool, "a1")
    pool.get("a")

    assert pool.pop_closed(_meta("a1")) is None


def test_pop_minds_the_group() -> None:
    """An id that was given to a connection of another group meanwhile is not confused with it."""
    pool = _pool()
    _fill(pool, "b1")

    assert pool.pop_closed(_meta("a1")) is None
    assert pool.get("b") == "b1"


def test_eviction() -> None:
    """A full pool gives back the connection released longest ago, of whatever group."""
    pool = _pool(3)
    _fill(pool, "a1", "b2", "a3")

    assert pool.put(_meta("c4"), "c4") == "a1"
    assert pool.put(_meta("c5"), "c5") == "b2"

    assert len(pool) == 3
    assert [pool.get("a"), pool.get("b"), pool.get("c"), pool.get("c")] == ["a3", None, "c5", "c4"]


def test_eviction_counts_from_the_last_release() -> None:
    """A connection that was used in between is young again."""
    pool = _pool(2)
    _fill(pool, "a1", "b2")
    assert pool.get("a") == "a1"
    _fill(pool, "a1")

    assert pool.put(_meta("c3"), "c3") == "b2"


def test_eviction_from_the_group_that_is_put_into() -> None:
    """The last of a group makes room for the next of the same group."""
    pool = _pool(1)
    _fill(pool, "a1")

    assert pool.put(_meta("a2"), "a2") == "a1"
    assert pool.get("a") == "a2"


def test_same_id_twice_is_misuse() -> None:
    """Two connections cannot share an id, in whatever groups; the pool is unchanged."""
    pool = _pool(1)
    _fill(pool, "a1")

    for name in ("a1", "b1"):
        with pytest.raises(ValueError, match="connection 1 is in the pool already"):
            pool.put(_meta(name), name)

    assert pool.get("b") is None
    assert pool.get("a") == "a1"


@pytest.mark.parametrize("size", [0, -1])
def test_size_below_one_is_misuse(size: int) -> None:
    """A pool that cannot hold anything is a mistake."""
    with pytest.raises(ValueError, match="at least 1 connection"):
        _pool(size)


def test_empty_node_removed_after_get_last_connection() -> None:
    """Taking the last connection of a group forgets the group."""
    pool = _pool()
    _fill(pool, "a1", "a2")

    pool.get("a")
    assert pool.group_count == 1
    pool.get("a")
    assert pool.group_count == 0


def test_empty_node_removed_after_pop_closed() -> None:
    """Removing the last connection of a group forgets the group."""
    pool = _pool()
    _fill(pool, "a1", "b2")

    pool.pop_closed(_meta("a1"))

    assert pool.group_count == 1


def test_empty_node_removed_after_eviction() -> None:
    """Evicting the last connection of a group forgets the group."""
    pool = _pool(1)
    _fill(pool, "a1")

    pool.put(_meta("b2"), "b2")

    assert pool.group_count == 1


def test_empty_node_is_not_made_by_a_lookup() -> None:
    """Asking for an unknown group leaves no trace."""
    pool = _pool()

    pool.get("a")
    pool.pop_closed(_meta("a1"))

    assert pool.group_count == 0


def test_empty_node_comes_back() -> None:
    """A group that was forgotten can be used again."""
    pool = _pool()
    for _ in range(3):
        _fill(pool, "a1")
        assert pool.get("a") == "a1"


def test_drain() -> None:
    """Draining gives everything back, oldest first, and the pool keeps nothing afterwards."""
    pool = _pool()
    _fill(pool, "a1", "b2", "a3")

    assert pool.drain() == ["a1", "b2", "a3"]

    assert pool.is_drained
    assert len(pool) == pool.group_count == 0
    assert pool.put(_meta("a1"), "again") == "again"
    assert len(pool) == 0
    assert pool.drain() == []


def test_state_can_be_seen() -> None:
    """The pool shows its fill and its groups, and answers whether it holds a connection."""
    pool = _pool(3)
    _fill(pool, "a1", "b2")

    assert pool.size == 3
    assert len(pool) == 2
    assert _meta("a1") in pool
    assert _meta("a2") not in pool
    assert _meta("b1") not in pool
    assert repr(pool) == "<ConnectionPool 2 of 3 in 2 groups>"
    pool.get("a")
    assert repr(pool) == "<ConnectionPool 1 of 3 in 1 group>"
    pool.drain()
    assert repr(pool) == "<ConnectionPool 0 of 3 in 0 groups, drained>"
