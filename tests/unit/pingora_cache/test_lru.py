"""The weighted LRU in shards."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache.evicted import Evicted
from pingora_cache.lru import Lru


def keys(lru: Lru[int, int], shard: int = 0) -> list[int]:
    return [entry.key for entry in lru.items(shard)]


def filled(numbers: list[int], *, limit: int = 30, shards: int = 2) -> Lru[int, int]:
    """Make an LRU of numbers that are their own values and weights."""
    lru = Lru[int, int](limit, shards=shards)
    for number in numbers:
        lru.insert(number, number, number)
    return lru


def test_admit() -> None:
    """A key that is admitted again counts once, with its new value and weight."""
    lru = Lru[int, str](30, shards=2)
    assert len(lru) == 0

    assert lru.admit(2, "a", 3) == []
    assert (len(lru), lru.weight) == (1, 3)
    assert lru.admit(2, "b", 1) == []
    assert (len(lru), lru.weight, lru.get(2)) == (1, 1, "b")
    lru.admit(2, "c", 2)
    lru.admit(3, "d", 3)
    lru.admit(4, "e", 4)

    assert (len(lru), lru.weight) == (3, 9)
    assert (lru.shard_len(0), lru.shard_weight(0)) == (2, 6)
    assert (lru.shard_len(1), lru.shard_weight(1)) == (1, 3)
    assert lru.shards == 2
    assert lru.shard_of(3) == 1


def test_admit_evicts() -> None:
    """Admitting keeps the limit; inserting does not. (In the original, neither does.)"""
    lru = Lru[str, int](10)

    lru.insert("a", 1, 8)
    lru.insert("b", 2, 8)
    assert lru.weight == 16
    assert lru.admit("c", 3, 2) == [Evicted("a", 1, 8)]
    assert lru.weight == lru.limit == 10
    assert (lru.evicted_len, lru.evicted_weight) == (1, 8)


def test_admit_heavier_than_the_limit() -> None:
    """What could never stay is returned at once, and costs nothing else its place."""
    lru = Lru[str, int](10)
    lru.admit("a", 1, 4)
    lru.admit("b", 2, 4)

    assert lru.admit("b", 3, 11) == [Evicted("b", 3, 11)]

    assert "a" in lru
    assert "b" not in lru
    assert lru.weight == 4


def test_admit_without_weight() -> None:
    """A weight of nothing counts as one; a negative one is a mistake."""
    lru = Lru[str, int](10)

    lru.admit("a", 1, 0)

    assert lru.peek_weight("a") == 1
    with pytest.raises(ValueError, match="not negative"):
        lru.admit("a", 1, -1)


def test_promote() -> None:
    """A promoted key is at the front of its shard; top_n leaves those alone that are near it."""
    lru = filled([2, 3, 4, 5, 6])
    assert keys(lru, 0) == [6, 4, 2]
    assert keys(lru, 1) == [5, 3]

    assert lru.promote(3)
    assert keys(lru, 1) == [3, 5]
    assert lru.promote(3)
    assert keys(lru, 1) == [3, 5]
    assert lru.promote(2)
    assert keys(lru, 0) == [2, 6, 4]
    assert not lru.promote(7)

    assert lru.promote_top_n(2, 1)
    assert keys(lru, 0) == [2, 6, 4]
    assert lru.promote_top_n(4, 3)
    assert keys(lru, 0) == [2, 6, 4]
    assert lru.promote_top_n(4, 2)
    assert keys(lru, 0) == [4, 2, 6]
    assert lru.promote_top_n(2, 1)
    assert keys(lru, 0) == [2, 4, 6]
    assert lru.promote_top_n(6, 99999)
    assert keys(lru, 0) == [2, 4, 6]
    assert not lru.promote_top_n(7, 1)


def test_get_promotes() -> None:
    """Looking a value up makes it the one used last."""
    lru = filled([1, 2, 3], shards=1)

    assert lru.get(1) == 1
    assert lru.get(4) is None
    assert keys(lru) == [1, 3, 2]


def test_evict() -> None:
    """Eviction takes the last of a shard, no more than needed, and counts it."""
    lru = Lru[int, int](14, shards=2)
    for number, weight in ((2, 2), (3, 2), (4, 4), (5, 4), (6, 2), (7, 2)):
        lru.insert(number, number, weight)
    assert (lru.weight, len(lru)) == (16, 6)

    evicted = lru.evict_to_limit()

    assert (lru.weight, len(lru)) == (14, 5)
    assert (lru.evicted_weight, lru.evicted_len) == (2, 1)
    assert evicted in ([Evicted(2, 2, 2)], [Evicted(3, 3, 2)])

    lru = Lru[int, int](6, shards=2)
    for number in range(2, 8):
        lru.insert(number, number, 2)
    assert len(lru.evict_to_limit()) == 3
    assert (lru.weight, len(lru), lru.evicted_weight, lru.evicted_len) == (6, 3, 6, 3)


def test_evict_one_shard() -> None:
    """With one shard, entries go in the order in which they were used last."""
    lru = filled([2, 3, 4], shards=1)
    for key in (3, 3, 2):
        assert lru.promote(key)
    assert keys(lru) == [2, 3, 4]

    assert lru.evict_shard(0) == Evicted(4, 4, 4)
    assert (lru.weight, keys(lru)) == (5, [2, 3])
    assert lru.evict_shard(0) == Evicted(3, 3, 3)
    assert lru.evict_shard(0) == Evicted(2, 2, 2)
    assert lru.evict_shard(0) is None
    assert (lru.weight, keys(lru)) == (0, [])


def test_increment_weight() -> None:
    """A weight grows by the delta up to a maximum, of a key that is there."""
    lru = Lru[int, int](6, shards=2)
    lru.insert(1, 1, 1)
    assert lru.increment_weight(1, 1) == 2
    assert lru.increment_weight(0, 1000) == 0
    assert lru.weight == 2

    lru.insert(2, 2, 2)
    assert lru.increment_weight(2, 2) == 4
    assert lru.weight == 6
    assert lru.increment_weight(2, 2, 3) == 3
    assert lru.weight == 5
    lru.insert(3, 3, 3)
    assert lru.increment_weight(3, 3, 5) == 5
    with pytest.raises(ValueError, match="not negative"):
        lru.increment_weight(3, -1)


def test_remove() -> None:
    """A removed key is gone, with its weight, wherever it was in its shard."""
    lru = filled([2, 3, 4, 5, 6])

    assert lru.remove(6) == Evicted(6, 6, 6)
    assert (lru.weight, len(lru)) == (14, 4)
    assert keys(lru, 0) == [4, 2]
    assert lru.remove(3) == Evicted(3, 3, 3)
    assert keys(lru, 1) == [5]
    assert lru.remove(7) is None
    assert lru.remove(4) == Evicted(4, 4, 4)
    assert lru.remove(2) == Evicted(2, 2, 2)
    assert keys(lru, 0) == []
    assert (lru.weight, lru.shard_weight(0)) == (5, 0)


def test_peek() -> None:
    """Looking whether a key is there changes no order."""
    lru = filled([2, 3, 4])

    assert lru.peek(4)
    assert lru.peek(3)
    assert 2 in lru
    assert not lru.peek(5)
    assert lru.peek_weight(2) == 2
    assert lru.peek_weight(5) is None
    assert keys(lru, 0) == [4, 2]
    assert keys(lru, 1) == [3]


def test_insert_tail() -> None:
    """A key that is not there goes behind all others; one that is there stays as it is."""
    lru = filled([2, 3, 4, 5, 6])

    assert lru.insert_tail(7, 7, 7)
    assert (lru.weight, len(lru)) == (27, 6)
    assert keys(lru, 1) == [5, 3, 7]
    assert not lru.insert_tail(6, 6, 7)
    assert lru.weight == 27
    assert lru.insert_tail(8, 8, 0)
    assert lru.peek_weight(8) == 0


def test_peek_lru() -> None:
    """The next to go of a shard can be seen, and stays."""
    lru = Lru[int, int](10)
    assert lru.peek_lru(0) is None

    lru.admit(1, 10, 1)
    assert lru.peek_lru(0) == Evicted(1, 10, 1)
    lru.admit(2, 20, 2)
    assert lru.peek_lru(0) == Evicted(1, 10, 1)
    lru.promote(1)
    assert lru.peek_lru(0) == Evicted(2, 20, 2)
    assert len(lru) == 2
    assert lru.peek_lru(999) is None
    assert lru.peek_lru(-1) is None


def test_evict_to_limit_p2c_bias() -> None:
    """A shard five times as long gives up about three quarters of what goes."""
    from_longer = total = 0
    for seed in range(50):
        lru = Lru[int, int](30, shards=2, random=Random(seed))
        for number in range(50):
            lru.insert(2 * number, number)
        for number in range(10):
            lru.insert(2 * number + 1, number)

        evicted = lru.evict_to_limit()

        assert lru.weight == 30
        from_longer += sum(entry.key % 2 == 0 for entry in evicted)
        total += len(evicted)
    assert 0.65 < from_longer / total < 0.95


def test_evict_to_limit_break_on_empty_shards_over_limit() -> None:
    """Sums that are wrong do not make eviction go on for ever."""
    lru = Lru[int, int](10, shards=4)
    lru._shards.weight += 100

    assert lru.evict_to_limit() == []


def test_evict_to_limit_with_mostly_empty_shards() -> None:
    """What is to go is found in the only shard that has something."""
    lru = Lru[int, int](2, shards=8)
    for number in range(8):
        lru.insert(number * 8, number)

    evicted = lru.evict_to_limit()

    assert lru.weight == 2
    assert [entry.key for entry in evicted] == [0, 8, 16, 24, 32, 40]


def test_evict_to_limit_below_limit_returns_immediately() -> None:
    """Nothing goes as long as the limit holds."""
    lru = Lru[int, int](1, shards=4)
    lru.insert(1, 1)

    assert lru.evict_to_limit() == []


def test_evict_to_limit_n1() -> None:
    """One shard is as good as many."""
    lru = Lru[int, int](2)
    for number in range(5):
        lru.insert(number, number)

    assert [entry.key for entry in lru.evict_to_limit()] == [0, 1, 2]
    assert lru.weight == 2


def test_watermark_eviction() -> None:
    """The number of entries is limited too, if that is asked for."""
    lru = Lru[int, int](2**62, shards=2, watermark=4)
    for number in range(6):
        lru.insert(number, number)

    assert len(lru.evict_to_limit()) == 2
    assert (len(lru), lru.evicted_len) == (4, 2)


def test_watermark_eviction_with_zero_weight_items() -> None:
    """The number of entries is limited also if they weigh nothing."""
    lru = Lru[int, int](2**62, shards=2, watermark=2)
    for number in range(6):
        lru.insert_tail(number, number, 0)
    assert lru.weight == 0

    assert len(lru.evict_to_limit()) == 4
    assert len(lru) == 2


def test_keys_are_not_their_hashes() -> None:
    """Keys of one hash are kept apart."""
    lru = Lru[int, str](10)
    assert hash(-1) == hash(-2)

    lru.admit(-1, "one")
    lru.admit(-2, "two")

    assert (lru.get(-1), lru.get(-2)) == ("one", "two")


def test_bad_limits() -> None:
    """Limits below 1 are refused."""
    for limit, shards, watermark in ((0, 1, None), (1, 0, None), (1, 1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            Lru(limit, shards=shards, watermark=watermark)


def test_repr() -> None:
    """The text of an LRU tells how full it is."""
    assert repr(filled([2, 3])) == "<Lru of 2 values, weight 5/30>"


_OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["admit", "insert", "tail", "grow", "remove", "promote", "evict"]),
        st.integers(0, 20),
        st.integers(0, 12),
    ),
    max_size=60,
)


@settings(max_examples=80, deadline=None)
@given(_OPERATIONS, st.integers(1, 4))
def test_sums_are_the_sums(operations: list[tuple[str, int, int]], shards: int) -> None:
    """Whatever is done, the counters are what the entries come to, and admit keeps the limit."""
    lru = Lru[int, int](40, shards=shards, random=Random(0))
    for what, key, weight in operations:
        match what:
            case "admit":
                lru.admit(key, key, weight)
                assert lru.weight <= 40
            case "insert":
                lru.insert(key, key, weight)
            case "tail":
                lru.insert_tail(key, key, weight)
            case "grow":
                lru.increment_weight(key, weight)
            case "remove":
                lru.remove(key)
            case "promote":
                lru.promote(key)
            case _:
                lru.evict_to_limit()
                assert lru.weight <= 40
        entries = [list(lru.items(shard)) for shard in range(shards)]
        assert [lru.shard_len(shard) for shard in range(shards)] == list(map(len, entries))
        sums = [sum(entry.weight for entry in each) for each in entries]
        assert [lru.shard_weight(shard) for shard in range(shards)] == sums
        assert lru.weight == sum(sums)
        assert len(lru) == sum(map(len, entries))
        assert all(lru.peek_weight(entry.key) == entry.weight for each in entries for entry in each)
