"""The bounded mapping that keeps what is asked for often."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache.evicted import Evicted
from pingora_cache.lru import Lru
from pingora_cache.tinyufo import TinyUfo
from pingora_cache.tinyufo._queues import Queues

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

SMALL, MAIN = "small", "main"


def queue_of(cache: TinyUfo[int, int], key: int) -> str | None:
    slot = cache._find(key)
    if slot is None:
        return None
    return MAIN if cache._queues.states[slot] & 4 else SMALL


def queues_of(cache: TinyUfo[int, int], *keys: int) -> list[str | None]:
    return [queue_of(cache, key) for key in keys]


@pytest.fixture
def full() -> TinyUfo[int, int]:
    """A cache with room for 5, and the keys 1, 2 and 3 of weight 1, 2 and 2."""
    cache = TinyUfo[int, int](5)
    cache.put(1, 1, 1)
    cache.put(2, 2, 2)
    cache.put(3, 3, 2)
    assert queues_of(cache, 1, 2, 3) == [SMALL] * 3
    assert cache.weight == cache.limit == 5
    return cache


def test_uses() -> None:
    """Uses are counted up to three and down to nothing, apart from the queue."""
    queues = Queues(10)
    slot = queues.add(1)

    for expected in (1, 2, 3, 3, 3):
        queues.use(slot)
        assert queues.states[slot] == expected
    queues._promote(slot)
    assert queues.states[slot] == 4 + 3
    queues.use(slot)
    assert queues.states[slot] == 4 + 3
    queues.add(1)
    assert queues.evict(1) == [slot]
    assert queues.states[slot] == 4


def test_evict_from_small(full: TinyUfo[int, int]) -> None:
    """The small queue gives up what came first, until the new weight fits."""
    assert full.put(4, 4, 3) == [Evicted(1, 1, 1), Evicted(2, 2, 2)]

    assert queues_of(full, 1, 2, 3, 4) == [None, None, SMALL, SMALL]


def test_evict_from_small_to_main(full: TinyUfo[int, int]) -> None:
    """What was used twice moves on to the main queue; the next is evicted."""
    full.get(1)
    full.get(1)

    assert full.put(4, 4, 2) == [Evicted(2, 2, 2)]

    assert queues_of(full, 1, 2, 3, 4) == [MAIN, None, SMALL, SMALL]


def test_evict_reentry(full: TinyUfo[int, int]) -> None:
    """What was evicted and comes again is a newcomer with some fame."""
    assert full.put(4, 4, 1) == [Evicted(1, 1, 1)]
    assert queues_of(full, 1, 2, 3, 4) == [None, SMALL, SMALL, SMALL]

    assert full.put(1, 1, 1) == [Evicted(2, 2, 2)]
    assert queues_of(full, 1, 2, 3, 4) == [SMALL, None, SMALL, SMALL]


def test_evict_entry_denied(full: TinyUfo[int, int]) -> None:
    """A newcomer does not take the place of what was put in more often."""
    for key, weight in ((1, 1), (2, 2), (3, 2)):
        full.put(key, key, weight)

    assert full.put(4, 4, 1) == [Evicted(4, 4, 1)]

    assert queues_of(full, 1, 2, 3, 4) == [SMALL, SMALL, SMALL, None]
    assert full.weight == 5


def test_force_put(full: TinyUfo[int, int]) -> None:
    """A newcomer that is forced takes that place all the same."""
    for key, weight in ((1, 1), (2, 2), (3, 2)):
        full.put(key, key, weight)

    assert full.force_put(4, 4, 1) == [Evicted(1, 1, 1)]

    assert queues_of(full, 1, 2, 3, 4) == [None, SMALL, SMALL, SMALL]


def test_evict_from_main(full: TinyUfo[int, int]) -> None:
    """If all move on, the main queue gives up its first; a newcomer is small again."""
    for key in (1, 1, 2, 2, 3, 3):
        full.get(key)

    assert full.put(4, 4, 1) == [Evicted(1, 1, 1)]
    assert queues_of(full, 1, 2, 3, 4) == [None, MAIN, MAIN, SMALL]

    assert full.put(1, 1, 1) == [Evicted(4, 4, 1)]
    assert queues_of(full, 1, 2, 3, 4) == [SMALL, MAIN, MAIN, None]


def test_remove(full: TinyUfo[int, int]) -> None:
    """Removed values are gone, and their weight with them, also after refills."""
    assert full.remove(1) == 1
    assert full.remove(3) == 3
    assert full.remove(3) is None
    assert full.get(1) is None
    assert full.weight == 2

    for key in (5, 6, 7):
        full.put(key, key, 2)

    assert full.get(1) is None
    assert full.get(3) is None
    assert full.weight <= 5


def test_remove_and_put_again() -> None:
    """A key that is removed and put in again is in one queue once (hazard H10)."""
    cache = TinyUfo[str, int](4)
    for _ in range(10):
        cache.put("a", 1, 2)
        assert cache.remove("a") == 1
    cache.put("a", 1, 2)
    cache.put("b", 2, 2)

    evicted = [each.key for key in "cdefgh" for each in cache.force_put(key, 0, 2)]

    assert len(evicted) == len(set(evicted)) == 6
    assert cache.weight == 4
    assert cache._queues.small_weight >= 0
    assert cache._queues.main_weight >= 0
    assert len(cache._queues.slots.next) < 100


def test_insert_get_remove() -> None:
    """A value is found as long as it is in there."""
    cache = TinyUfo[int, int](10)
    assert cache.get(1) is None
    cache.put(1, 5)
    assert cache.get(1) == 5
    cache.remove(1)
    assert cache.get(1) is None


class SameHash:
    """A key whose hash is that of all others."""

    def __hash__(self) -> int:
        return 7


def test_keys_are_not_their_hashes() -> None:
    """Keys of one hash are kept apart (hazard H11)."""
    one, two = SameHash(), SameHash()
    cache = TinyUfo[SameHash, str](10)

    cache[one] = "one"
    cache[two] = "two"

    assert (cache[one], cache[two]) == ("one", "two")
    del cache[one]
    assert one not in cache
    assert cache[two] == "two"


def test_heavier_than_the_limit(full: TinyUfo[int, int]) -> None:
    """What could never stay is returned at once, and costs nothing else its place."""
    assert full.force_put(4, 4, 6) == [Evicted(4, 4, 6)]
    assert full.put(2, 20, 6) == [Evicted(2, 20, 6)]

    assert sorted(full) == [1, 3]
    assert full.weight == 3


def test_nearly_as_heavy_as_the_limit() -> None:
    """The small queue makes room also within its share, if there is nothing else."""
    cache = TinyUfo[str, int](100)
    cache.put("a", 1, 3)

    assert cache.put("b", 2, 98) == [Evicted("a", 1, 3)]
    assert cache.weight == 98


def test_replace(full: TinyUfo[int, int]) -> None:
    """A new value of a key takes the place of the old one, with its own weight."""
    assert full.put(2, 20, 1) == []
    assert (full.peek(2), full.weight_of(2), full.weight) == (20, 1, 4)

    assert full.put(2, 21, 3) == [Evicted(1, 1, 1)]
    assert full.weight == 5


def test_replace_by_force_keeps_the_key() -> None:
    """A key that has grown by force is not what goes for it."""
    cache = TinyUfo[str, int](4)
    cache.put("a", 1, 2)
    cache.put("b", 2, 2)

    assert cache.force_put("a", 3, 3) == [Evicted("b", 2, 2)]
    assert cache["a"] == 3


def test_replace_by_force_in_the_main_queue(full: TinyUfo[int, int]) -> None:
    """A key that has grown in the main queue stays there, and its weight is counted there."""
    for key in (1, 1, 2, 2, 3, 3):
        full.get(key)
    full.force_put(4, 4, 1)
    assert queues_of(full, 2, 3, 4) == [MAIN, MAIN, SMALL]

    assert full.put(2, 20, 1) == []
    assert full.weight == 4
    assert full.force_put(2, 21, 3) == [Evicted(4, 4, 1)]

    assert queues_of(full, 2, 3) == [MAIN, MAIN]
    assert (full.weight, full._queues.main_weight) == (5, 5)


def test_replace_may_cost_the_key() -> None:
    """Without force, the key itself may be what goes, and it says so."""
    cache = TinyUfo[str, int](4)
    cache.put("a", 1, 2)
    cache.put("b", 2, 2)

    assert cache.put("a", 3, 3) == [Evicted("a", 3, 3)]
    assert list(cache) == ["b"]


def test_bad_numbers() -> None:
    """Limits, expectations and weights below 1 are refused."""
    with pytest.raises(ValueError, match="at least 1"):
        TinyUfo(0)
    with pytest.raises(ValueError, match="at least 1"):
        TinyUfo(1, expected_items=0)
    with pytest.raises(ValueError, match="at least 1"):
        TinyUfo[str, int](1).put("a", 1, 0)


def test_mapping() -> None:
    """It is a mutable mapping like any other, but for its bound."""
    cache = TinyUfo[str, int](3)
    cache.update({"a": 1, "b": 2})

    assert dict(cache) == {"a": 1, "b": 2}
    assert len(cache) == 2
    assert cache.setdefault("a", 9) == 1
    assert cache.pop("a") == 1
    assert "a" not in cache
    assert cache.get("a", 7) == cache.peek("a", 7) == 7
    with pytest.raises(KeyError):
        cache["a"]
    with pytest.raises(KeyError):
        del cache["a"]
    del cache["b"]
    assert cache.weight_of("b") is None
    assert not cache
    cache["c"] = 3
    assert repr(cache) == "<TinyUfo of 1 values, weight 1/3>"
    cache.clear()
    assert len(cache) == cache.weight == 0
    cache["d"] = 4
    assert cache["d"] == 4


def test_what_counts_as_a_use() -> None:
    """Getting counts; looking does not."""
    cache = TinyUfo[int, int](10)
    cache[1] = 1
    slot = cache._find(1)
    assert slot is not None

    assert 1 in cache
    assert list(cache) == [1]
    assert cache.peek(1) == 1
    assert cache._queues.states[slot] == 0
    assert cache.get(1) == cache[1] == 1
    assert cache._queues.states[slot] == 2


def test_assignment_is_never_refused() -> None:
    """What was assigned is there, however popular the rest is."""
    cache = TinyUfo[int, int](2)
    for _ in range(5):
        cache[1] = cache[2] = 0

    cache[3] = 3

    assert cache[3] == 3


def test_values_are_let_go() -> None:
    """What was evicted or removed is not referred to any more."""

    class Value:
        pass

    cache = TinyUfo[int, Value](2)
    for key in range(10):
        cache[key] = Value()
    cache.popitem()
    gc.collect()

    assert sum(isinstance(each, Value) for each in gc.get_objects()) == 1


def test_growth_of_the_sketch() -> None:
    """More keys than expected make the table of their uses grow."""
    cache = TinyUfo[int, int](10_000, expected_items=300)
    for key in range(2000):
        cache[key] = key

    assert cache._sketch.keys >= 2000
    assert len(cache) == 2000


@pytest.mark.parametrize("popular", [SMALL, MAIN])
def test_eviction_moves_a_bounded_number(popular: str) -> None:
    """A queue in which everything is popular does not keep one eviction busy for long."""
    queues = Queues(10_000)
    slots = [queues.add(1) for _ in range(10_000)]
    for slot in slots:
        if popular == MAIN:
            queues._promote(slot)
        for _ in range(3):
            queues.use(slot)

    evicted = queues.evict(9_999)

    assert len(evicted) == 1
    # It had its uses; after so many moves, that does not help any more.
    assert evicted == [slots[1024]]


def test_a_call_evicts_a_bounded_number() -> None:
    """Much to evict is evicted in several calls; a collection makes them all."""
    queues = Queues(10_000)
    for _ in range(10_000):
        queues.add(1)
    assert len(queues.evict(100)) == 256

    cache = TinyUfo[int, int](10_000)
    for key in range(10_000):
        cache[key] = key
    assert len(cache.put(-1, 0, 9_000)) == 9_000
    assert cache.weight == 10_000


@pytest.mark.parametrize("make", [TinyUfo[int, str], Lru[int, str]])
def test_entries_are_nothing_for_the_garbage_collector(
    make: Callable[[int], TinyUfo[int, str] | Lru[int, str]],
) -> None:
    """Numbers and text are kept where a collection does not walk, however many there are."""
    cache = make(20_000)
    for key in range(20_000):
        if isinstance(cache, Lru):
            cache.admit(key, str(key))
        else:
            cache.put(key, str(key))
    entries = cache._entries if isinstance(cache, TinyUfo) else cache._shards.entries

    assert len(entries.keys) == len(entries.values) == 5
    assert not any(map(gc.is_tracked, (*entries.keys, *entries.values)))
    assert max(map(len, entries.values)) <= 4096


_KEYS: Mapping[int, Hashable] = {0: -1, 1: -2, 2: "a", 3: b"a", 4: (1, 2)}


@settings(max_examples=120, deadline=None)
@given(
    st.integers(1, 30),
    st.lists(
        st.tuples(
            st.sampled_from(["put", "force", "get", "remove"]),
            st.integers(0, 16),
            st.integers(1, 12),
        ),
        max_size=80,
    ),
)
def test_it_is_a_mapping_within_its_limit(
    limit: int, operations: list[tuple[str, int, int]]
) -> None:
    """Whatever is done, what is in there is what was put and not evicted, and weighs no more."""
    cache = TinyUfo[object, int](limit)
    model: dict[object, tuple[int, int]] = {}
    for number, (what, key_number, weight) in enumerate(operations):
        key = _KEYS.get(key_number, key_number)
        evicted: list[Evicted[object, int]] = []
        if what in {"put", "force"}:
            model[key] = (number, weight)
            if what == "put":
                evicted = cache.put(key, number, weight)
            else:
                evicted = cache.force_put(key, number, weight)
                assert weight > limit or key in cache
        elif what == "get":
            assert cache.get(key) == model.get(key, (None,))[0]
        else:
            assert cache.remove(key) == model.pop(key, (None,))[0]
        for each in evicted:
            assert model.pop(each.key) == (each.value, each.weight)
        assert {key: (cache.peek(key), cache.weight_of(key)) for key in cache} == model
        assert cache.weight == sum(weight for _, weight in model.values()) <= limit
        assert len(cache) == len(model)
        assert min(cache._queues.small_weight, cache._queues.main_weight) >= 0
