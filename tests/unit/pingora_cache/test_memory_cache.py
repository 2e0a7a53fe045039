"""The in-memory cache whose values expire."""

from __future__ import annotations

import pytest

from pingora_cache.memory_cache import CacheStatus, MemoryCache
from tests.support.clock import FakeClock

HIT, MISS, EXPIRED = CacheStatus.HIT, CacheStatus.MISS, CacheStatus.EXPIRED


def test_get() -> None:
    """What was not put in is a miss."""
    assert MemoryCache[int, int](10).get(1) == (None, MISS)


def test_put_get() -> None:
    """What was put in is a hit."""
    cache = MemoryCache[int, int](10)
    assert cache.get(1) == (None, MISS)

    cache.put(1, 2)

    assert cache.get(1) == (2, HIT)
    assert len(cache) == 1
    assert repr(cache) == "<MemoryCache of 1 values>"


def test_put_get_remove() -> None:
    """What was removed is a miss, and the rest is there."""
    cache = MemoryCache[int, int](10)
    for key in (1, 3, 5):
        cache.put(key, key + 1)
    assert cache.get(1) == (2, HIT)

    assert cache.remove(1)
    assert cache.remove(3)
    assert not cache.remove(3)

    assert cache.get(1) == cache.get(3) == (None, MISS)
    assert cache.get(5) == (6, HIT)


def test_get_expired() -> None:
    """What has expired is withheld, from that very moment on."""
    clock = FakeClock()
    cache = MemoryCache[int, int](10, clock=clock)
    cache.put(1, 2, ttl=1.0)
    clock.advance(0.99)
    assert cache.get(1) == (2, HIT)

    clock.advance(0.01)

    assert cache.get(1) == (None, EXPIRED)
    cache.put(1, 3, ttl=1.0)
    assert cache.get(1) == (3, HIT)


def test_get_stale() -> None:
    """Who asks for it gets what has expired, and is told for how long it has."""
    clock = FakeClock()
    cache = MemoryCache[int, int](10, clock=clock)
    assert cache.get_stale(1) == (None, MISS)
    cache.put(1, 2, ttl=1.0)
    assert cache.get_stale(1) == (2, HIT)
    cache.put(3, 4)
    assert cache.get_stale(3) == (4, HIT)

    clock.advance(1.5)

    value, status = cache.get_stale(1)
    assert (value, status.stale_for) == (2, 0.5)
    assert status == CacheStatus.stale(0.5)


@pytest.mark.parametrize("ttl", [0, -1.0])
def test_no_time_to_live(ttl: float) -> None:
    """What must not be kept is not put in."""
    cache = MemoryCache[int, int](10)

    cache.put(1, 2, ttl=ttl)
    cache.force_put(1, 2, ttl=ttl)

    assert cache.get(1) == (None, MISS)


def test_eviction() -> None:
    """There is room for so many values, and the first one goes."""
    cache = MemoryCache[int, int](2)
    for key in (1, 2, 3):
        cache.force_put(key, 2 * key)

    assert cache.get(1) == (None, MISS)
    assert cache.get(2) == (4, HIT)
    assert cache.get(3) == (6, HIT)


def test_put_may_be_refused() -> None:
    """A newcomer does not take the place of what was put in more often."""
    cache = MemoryCache[int, int](1)
    cache.put(1, 1)
    cache.put(1, 2)

    cache.put(2, 3)

    assert cache.get(1) == (2, HIT)
    assert cache.get(2) == (None, MISS)


def test_multi_get() -> None:
    """Several keys are looked up in their order, and the missing ones are named."""
    clock = FakeClock()
    cache = MemoryCache[int, int](10, clock=clock)
    cache.put(2, -2)
    cache.put(4, -4, ttl=1)
    clock.advance(2)
    expected = [(None, MISS), (-2, HIT), (None, MISS), (None, EXPIRED)]

    assert cache.multi_get([1, 2, 3, 4]) == expected
    assert cache.multi_get_with_miss(iter([1, 2, 3, 4])) == (expected, [1, 3, 4])


class Text(str):
    """A string of another type."""

    __slots__ = ()


def test_get_with_mismatched_key() -> None:
    """A key of another type is a miss as well as any."""
    assert MemoryCache[str, int](10).get(Text("Hello")) == (None, MISS)


def test_put_get_with_mismatched_key() -> None:
    """Keys that are equal are the same key, whatever their types."""
    cache = MemoryCache[str, int](10)

    cache.put(Text("1"), 2)

    assert cache.get("1") == (2, HIT)


def test_keys_are_not_their_hashes() -> None:
    """Keys of one hash are kept apart (hazard H11)."""
    cache = MemoryCache[int, str](10)
    assert hash(-1) == hash(-2)

    cache.put(-1, "one")
    assert cache.get(-2) == (None, MISS)
    cache.put(-2, "two")

    assert cache.get(-1) == ("one", HIT)
    assert cache.get(-2) == ("two", HIT)


def test_values_may_be_none() -> None:
    """None is a value like any other."""
    cache = MemoryCache[int, None](10)
    cache.put(1, None)

    assert cache.get(1) == (None, HIT)


def test_status() -> None:
    """A status has a text, and tells hits from misses."""
    stale = CacheStatus.stale(3.0)
    statuses = [HIT, MISS, EXPIRED, CacheStatus.LOCK_HIT, stale]

    assert [str(each) for each in statuses] == ["hit", "miss", "expired", "lock_hit", "stale"]
    assert [each.is_hit for each in statuses] == [True, False, False, True, True]
    assert [each.stale_for for each in statuses] == [None] * 4 + [3.0]
