"""The LRU managers: what was not used for the longest time goes first."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from pingora_cache.eviction import ShardedLru, SimpleLru
from tests.support.cache_eviction import FRESH, key_for

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_cache.eviction._recency import Recency

A, B, C, D, E, F = map(key_for, "abcdef")


@pytest.fixture(params=["SimpleLru", "ShardedLru"])
def lru(request: pytest.FixtureRequest) -> Recency:
    """An exact LRU with a limit of 4."""
    return SimpleLru(4) if request.param == "SimpleLru" else ShardedLru(1, 4)


@pytest.fixture
def full(lru: Recency) -> Recency:
    """The same with a, b and c of sizes 1, 2 and 1."""
    assert lru.admit(A, 1, FRESH) == []
    assert lru.admit(B, 2, FRESH) == []
    assert lru.admit(C, 1, FRESH) == []
    return lru


def test_admission(full: Recency) -> None:
    """To admit evicts as many as it takes, the oldest first."""
    assert full.admit(D, 2, FRESH) == [A, B]

    assert (full.total_size, full.total_items) == (3, 2)
    assert (full.evicted_size, full.evicted_items) == (3, 2)


def test_access(full: Recency) -> None:
    """What is used stays longer."""
    assert full.access(A, 1, FRESH)

    assert full.admit(D, 2, FRESH) == [B]


def test_remove(full: Recency) -> None:
    """What was removed is not evicted."""
    assert full.remove(A)
    assert not full.remove(A)

    assert full.admit(D, 2, FRESH) == [B]
    assert (full.total_size, full.total_items) == (3, 2)


def test_access_add(lru: Recency) -> None:
    """What is used and not known is tracked, over the limit too, until the next is admitted."""
    assert not lru.access(A, 1, FRESH)
    assert not lru.access(B, 2, FRESH)
    assert not lru.access(C, 2, FRESH)
    assert lru.total_size == 5

    assert lru.admit(D, 2, FRESH) == [A, B]


def test_admit_update(full: Recency) -> None:
    """What is admitted again counts with its new size."""
    assert full.admit(B, 1, FRESH) == []
    assert full.admit(D, 1, FRESH) == []
    assert full.total_size == 4

    assert full.admit(D, 2, FRESH) == [A]


def test_peek(lru: Recency) -> None:
    """Looking whether an object is known does not make it younger."""
    lru.access(A, 1, FRESH)
    lru.access(B, 2, FRESH)

    assert lru.peek(A)
    assert lru.peek(B)
    assert not lru.peek(C)
    assert lru.admit(C, 2, FRESH) == [A]


def test_increment_weight_adds_missing_item(lru: Recency) -> None:
    """What has grown and is not known is tracked with what was added."""
    assert lru.increment_weight(A, 2) == []
    assert lru.peek(A)
    assert (lru.total_size, lru.total_items) == (2, 1)

    assert lru.increment_weight(B, 100, 3) == [A]
    assert (lru.total_size, lru.total_items) == (3, 1)


def test_increment_weight_admits_zero_and_does_not_shrink(lru: Recency) -> None:
    """A size is at least 1, and a maximum below it does not change it."""
    assert lru.increment_weight(A, 0) == []
    assert lru.total_size == 1

    assert lru.increment_weight(B, 3) == []
    assert lru.increment_weight(B, 100, 2) == []
    assert (lru.total_size, lru.total_items) == (4, 2)
    with pytest.raises(ValueError, match="at least 0"):
        lru.increment_weight(B, -1)


def test_increment_weight_evicts(full: Recency) -> None:
    """An object that grows is the one used last, and others go for it."""
    assert full.increment_weight(A, 1) == [B]

    assert full.total_size == 3


async def test_serde(full: Recency, tmp_path: Path) -> None:
    """A manager that loads what another has saved evicts in the same order."""
    full.access(A, 1, FRESH)

    await full.save(tmp_path)
    loaded = type(full)(4) if isinstance(full, SimpleLru) else ShardedLru(1, 4)
    assert await loaded.load(tmp_path) == 3

    assert (loaded.total_size, loaded.total_items) == (4, 3)
    assert loaded.admit(D, 2, FRESH) == [B]


async def test_save_to_disk(tmp_path: Path) -> None:
    """Shards are saved together; a manager with a lower limit loads them all the same."""
    lru = ShardedLru(2, 10)
    sizes = {A: 1, B: 2, C: 1, D: 1, E: 2, F: 1}
    for key, size in sizes.items():
        lru.admit(key, size, FRESH)

    await lru.save(tmp_path)
    loaded = ShardedLru(2, 4)
    assert await loaded.load(tmp_path) == 6

    assert {key: loaded.peek_weight(key) for key in sizes} == sizes
    assert [loaded.peek_lru(shard) for shard in (0, 1)] == [lru.peek_lru(shard) for shard in (0, 1)]
    assert loaded.total_size == 8
    assert loaded.admit(A, 1, FRESH) != []
    assert loaded.total_size <= 4


@pytest.mark.parametrize("shards", [1, 2])
def test_watermark_eviction(shards: int) -> None:
    """The number of objects is limited too, if that is asked for."""
    limit = 2**62
    lru = SimpleLru(limit, 4) if shards == 1 else ShardedLru(shards, limit, 4)

    for key in (A, B, C, D, E, F):
        lru.admit(key, 1, FRESH)

    assert lru.total_items == 4
    assert (lru.evicted_items, lru.evicted_size) == (2, 2)
    assert lru.limit == limit


def test_peek_lru() -> None:
    """The next to go of a shard can be seen, and stays."""
    lru = ShardedLru(1, 10)
    assert lru.peek_lru(0) is None

    lru.admit(A, 1, FRESH)
    lru.admit(B, 2, FRESH)
    assert lru.peek_lru(0) == (A, 1)
    assert lru.peek_lru(0) == (A, 1)
    lru.access(A, 1, FRESH)
    assert lru.peek_lru(0) == (B, 2)
    assert lru.peek_lru(1) is None
    assert lru.peek_lru(-1) is None


def test_shards() -> None:
    """Keys are spread over the shards, and their sizes are counted there."""
    lru = ShardedLru(8, 1000)
    keys = [key_for(number) for number in range(200)]
    for key in keys:
        lru.admit(key, 2, FRESH)

    assert lru.shards == 8
    lengths = [lru.shard_len(shard) for shard in range(8)]
    assert sum(lengths) == 200
    assert min(lengths) > 5
    assert [lru.shard_weight(shard) for shard in range(8)] == [2 * each for each in lengths]
    shard = lru.shard_of(A)
    before = lru.shard_len(shard)
    lru.admit(A, 1, FRESH)
    assert lru.shard_len(shard) == before + 1
    assert lru.peek_weight(A) == 1
    assert lru.peek_weight(B) is None


def test_the_longer_of_two_shards_gives_up_its_last() -> None:
    """Shards of unequal length become more equal as they evict."""
    lru = ShardedLru(2, 40, random=Random(5))
    numbers = iter(range(10_000))
    for shard, size in ((0, 50), (1, 10)):
        while lru.shard_len(shard) < size:
            key = key_for(next(numbers))
            if lru.shard_of(key) == shard:
                lru.access(key, 1, FRESH)

    lru.evict_to(30)

    assert 15 < lru.shard_len(0) < 30


@pytest.mark.parametrize("shards", [1, 2, 64])
def test_what_is_admitted_stays(shards: int) -> None:
    """What goes is found wherever it is, and it is not what has just come."""
    lru = ShardedLru(shards, 10)
    before = key_for(0)
    lru.access(before, 8, FRESH)

    for number in range(1, 30):
        key = key_for(number)
        assert lru.admit(key, 8, FRESH) == [before]
        before = key


def test_bad_limits() -> None:
    """Limits below 1 are refused."""
    with pytest.raises(ValueError, match="at least 1 byte"):
        SimpleLru(0)
    with pytest.raises(ValueError, match="watermark"):
        SimpleLru(1, 0)
    with pytest.raises(ValueError, match="shard"):
        ShardedLru(0, 1)
