"""What all eviction managers have in common, and TinyUFO as one."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache.eviction import TinyUfoEviction
from pingora_cache.key import CompactCacheKey
from tests.support.cache_eviction import FRESH, MANAGERS, key_for

if TYPE_CHECKING:
    from pingora_cache.eviction import EvictionManager

A, B, C, D = map(key_for, "abcd")


@pytest.fixture(params=MANAGERS)
def manager(request: pytest.FixtureRequest) -> EvictionManager:
    """Each kind of manager, with a limit of 100."""
    return MANAGERS[request.param](100)


def test_larger_than_the_limit(manager: EvictionManager) -> None:
    """An object that could never stay is named at once, and costs no other its place."""
    manager.admit(A, 40, FRESH)
    manager.admit(B, 40, FRESH)

    assert manager.admit(C, 101, FRESH) == [C]
    assert manager.admit(B, 101, FRESH) == [B]
    assert manager.increment_weight(A, 61) == [A]

    assert (manager.total_size, manager.total_items) == (0, 0)
    assert manager.evicted_items == 0


def test_increment_weight(manager: EvictionManager) -> None:
    """Sizes grow up to a maximum and never shrink; what is not known is tracked."""
    assert manager.increment_weight(A, 10) == []
    assert manager.increment_weight(A, 20) == []
    assert manager.total_size == 30
    manager.increment_weight(A, 20, 35)
    assert manager.total_size == 35
    manager.increment_weight(A, 20, 5)
    assert manager.total_size == 35
    manager.increment_weight(B, 200, 10)
    assert manager.total_size == 45
    with pytest.raises(ValueError, match="at least 0"):
        manager.increment_weight(A, -1)


def test_sizes_are_at_least_one(manager: EvictionManager) -> None:
    """An object of no size counts for one byte, so that their number is bounded too."""
    manager.admit(A, 0, FRESH)
    manager.access(B, 0, FRESH)
    manager.increment_weight(C, 0)

    assert manager.total_size == 3


def test_evict_to(manager: EvictionManager) -> None:
    """Room is made beyond the limit when that is asked for, and everything goes for nothing."""
    for key in (A, B, C, D):
        manager.admit(key, 20, FRESH)

    assert manager.evict_to(80) == []
    assert len(manager.evict_to(50)) == 2
    assert manager.total_size == 40
    assert len(manager.evict_to(-5)) == 2
    assert (manager.total_size, manager.total_items) == (0, 0)
    assert (manager.evicted_size, manager.evicted_items) == (80, 4)
    assert manager.evict_to(-5) == []


def test_much_is_evicted_in_several_calls(manager: EvictionManager) -> None:
    """One object that takes the place of thousands does not stop the loop: they go by and by."""
    manager = MANAGERS[type(manager).__name__](10_000)
    for number in range(10_000):
        manager.access(key_for(number), 1, FRESH)

    gone = manager.admit(A, 9_000, FRESH)

    assert len(gone) == 256
    assert manager.total_size > manager.limit
    calls = 0
    while more := manager.evict_to(manager.limit):
        gone += more
        calls += 1
    assert calls == 35
    assert len(gone) == 9_000
    assert manager.total_size == manager.limit


def test_keys_are_told_apart_by_all_they_have(manager: EvictionManager) -> None:
    """Variants, and the keys of different users, are different objects, and come back whole."""
    keys = [
        key_for("a", ""),
        key_for("a", "ü\ud800"),
        key_for("a", "", b"v" * 16),
        key_for("a", "x", b"v" * 16),
        key_for("a", "", b"w" * 16),
    ]
    for key in keys:
        assert manager.admit(key, 1, FRESH) == []
    assert manager.total_items == 5

    assert sorted(map(str, manager.evict_to(0))) == sorted(map(str, keys))
    assert not any(map(manager.peek, keys))


def test_nothing_for_the_garbage_collector(manager: EvictionManager) -> None:
    """Entries are no objects that a collection would walk: a million would take it very long."""
    manager = MANAGERS[type(manager).__name__](100_000)
    names = [key_for(number).primary for number in range(5000)]
    gc.collect()
    before = len(gc.get_objects())

    for name in names:
        manager.admit(CompactCacheKey(name), 1, FRESH)
    gc.collect()

    assert manager.total_items == 5000
    assert len(gc.get_objects()) - before < 600


_OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["admit", "grow", "access", "remove", "evict"]),
        st.integers(0, 15),
        st.integers(0, 60),
    ),
    max_size=60,
)


@pytest.mark.parametrize("name", MANAGERS)
@settings(max_examples=60, deadline=None)
@given(_OPERATIONS)
def test_sums_are_the_sums(name: str, operations: list[tuple[str, int, int]]) -> None:
    """Whatever is done, the totals are what is known, and admission keeps the limit."""
    manager = MANAGERS[name](100)
    sizes: dict[CompactCacheKey, int] = {}
    evicted_size = evicted_items = 0
    for what, number, size in operations:
        key = key_for(number, "tag" if number % 3 else "", b"v" * 16 if number % 2 else None)
        before, evicted = dict(sizes), []
        match what:
            case "admit":
                sizes[key] = max(size, 1)
                evicted = manager.admit(key, size, FRESH)
                assert manager.total_size <= 100
            case "grow":
                sizes[key] = max(sizes.get(key, 0) + size, 1)
                evicted = manager.increment_weight(key, size)
                assert manager.total_size <= 100
            case "access":
                assert manager.access(key, size, FRESH) is (key in sizes)
                sizes.setdefault(key, max(size, 1))
            case "remove":
                assert manager.remove(key) is (sizes.pop(key, None) is not None)
            case _:
                evicted = manager.evict_to(size)
                assert manager.total_size <= size
        for each in evicted:
            gone = sizes.pop(each)
            # What was refused has not been evicted.
            if not (each == key and (gone > 100 or key not in before)):
                evicted_size += gone
                evicted_items += 1
        assert manager.total_size == sum(sizes.values())
        assert manager.total_items == len(sizes)
        assert all(manager.peek(key) for key in sizes)
        assert (manager.evicted_size, manager.evicted_items) == (evicted_size, evicted_items)


def test_tinyufo_keeps_what_is_used() -> None:
    """Objects that were used twice outlive those that came later and were not."""
    manager = TinyUfoEviction(100)
    for number in range(10):
        manager.admit(key_for(number), 10, FRESH)
    for _ in range(2):
        manager.access(key_for(0), 10, FRESH)

    evicted = [key for number in range(10, 19) for key in manager.admit(key_for(number), 10, FRESH)]

    assert manager.peek(key_for(0))
    assert evicted == [key_for(number) for number in range(1, 10)]


def test_tinyufo_refuses_what_is_asked_for_less() -> None:
    """A newcomer is named itself if what would go for it was admitted more often."""
    manager = TinyUfoEviction(100)
    for _ in range(3):
        manager.admit(A, 100, FRESH)

    assert manager.admit(B, 100, FRESH) == [B]
    assert manager.peek(A)
    assert manager.evicted_items == 0
    for _ in range(3):
        manager.admit(B, 100, FRESH)
    assert manager.peek(B)
    assert manager.evicted_items == 1


def test_what_is_refused_leaves_the_limit_kept(manager: EvictionManager) -> None:
    """What was found in the store may pass the limit: one that is too large makes room all the same."""
    limit = manager.limit
    manager.admit(A, limit, FRESH)
    manager.access(key_for(7), 1, FRESH)
    assert manager.total_size > limit

    assert B in manager.admit(B, limit + 1, FRESH)
    assert manager.total_size <= limit


def test_tinyufo_keeps_its_limit_when_it_could_refuse() -> None:
    """What was found in the store may pass the limit: the next admission makes room all the same."""
    manager = TinyUfoEviction(100)
    for _ in range(2):
        manager.admit(A, 61, FRESH)
    manager.admit(B, 39, FRESH)
    manager.access(key_for(7), 1, FRESH)
    assert manager.total_size == 101

    assert manager.admit(key_for(8), 1, FRESH) == [A]
    assert manager.total_size == 41


def test_tinyufo_remove_and_admit_again() -> None:
    """A key that is removed and admitted again is counted once (hazard H10)."""
    manager = TinyUfoEviction(100)
    for _ in range(20):
        manager.admit(A, 50, FRESH)
        manager.remove(A)
    manager.admit(A, 50, FRESH)
    manager.admit(B, 50, FRESH)

    assert sorted(map(str, manager.evict_to(0))) == sorted(map(str, [A, B]))
    assert (manager.total_size, manager.total_items) == (0, 0)


def test_tinyufo_grows_with_its_objects() -> None:
    """Without a number of objects to expect, the table of requests grows as they come."""
    manager = TinyUfoEviction(10_000)
    for number in range(2500):
        manager.admit(key_for(number), 1, FRESH)

    assert manager._sketch.keys >= 2500
    with pytest.raises(ValueError, match="at least 1 object"):
        TinyUfoEviction(1, expected_items=0)
