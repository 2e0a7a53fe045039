"""The cache that looks up what it does not have."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from pingora_cache.memory_cache import CacheStatus
from pingora_cache.read_through import LOOKUP_ERROR, RTCache
from pingora_error import Error
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Sequence

HIT, MISS, EXPIRED = CacheStatus.HIT, CacheStatus.MISS, CacheStatus.EXPIRED
LOCK_HIT = CacheStatus.LOCK_HIT


class Source:
    """Finds the number of the lookup; lookups of keys in ``held`` wait until they are let go.

    Attributes:
        begun: Lookups that have begun.
        held: Events to wait for, by key; a lookup takes its key's out.
        failing: Keys whose lookups fail.
        ttl: What lookups tell.
        multi: What ``lookup_all`` was asked for.
    """

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.held: dict[int, asyncio.Event] = {}
        self.failing: set[int] = set()
        self.ttl: float | None = None
        self.multi: list[list[int]] = []
        self.extras: list[str | None] = []

    async def lookup(self, key: int, extra: str | None, /) -> tuple[int, float | None]:
        self.begun += 1
        number = self.begun
        self.extras.append(extra)
        if key in self.held:
            try:
                await self.held.pop(key).wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if key in self.failing:
            msg = "no such thing"
            raise LookupError(msg)
        return number, self.ttl

    async def lookup_all(
        self, keys: Sequence[int], extra: str | None, /
    ) -> list[tuple[int, float | None]]:
        self.multi.append(list(keys))
        if extra == "empty":
            return []
        if extra == "fail":
            raise LookupError(extra)
        return [(key, self.ttl) for key in keys]

    def hold(self, key: int) -> asyncio.Event:
        """Make the next lookup of a key wait for the event that is returned."""
        event = self.held[key] = asyncio.Event()
        return event


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def cache(source: Source, clock: FakeClock) -> RTCache[int, int, str]:
    return RTCache(10, source.lookup, multi_lookup=source.lookup_all, clock=clock)


async def settle() -> None:
    """Let all tasks go on until they wait."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_basic_get(cache: RTCache[int, int, str], source: Source) -> None:
    """The first call looks up, the second one hits."""
    assert await cache.get(1, extra="x") == (1, MISS)
    assert await cache.get(1) == (1, HIT)
    assert source.extras == ["x"]
    assert len(cache) == 1
    assert repr(cache) == "<RTCache of 1 values, 0 lookups>"


async def test_basic_get_error(cache: RTCache[int, int, str], source: Source) -> None:
    """What a lookup raises is the cause of what the caller gets, and nothing is kept."""
    source.failing.add(1)

    with pytest.raises(Error) as caught:
        await cache.get(1)

    assert caught.value.etype == LOOKUP_ERROR
    assert str(LOOKUP_ERROR) == "RTCache: lookup error"
    assert isinstance(caught.value.cause, LookupError)
    source.failing.clear()
    assert await cache.get(1) == (2, MISS)


async def test_concurrent_get(cache: RTCache[int, int, str], source: Source) -> None:
    """Of those who come at once, one looks up, and all get what it finds."""
    held = source.hold(1)
    tasks = [asyncio.create_task(cache.get(1)) for _ in range(100)]
    await settle()
    held.set()

    results = await asyncio.gather(*tasks)

    assert source.begun == 1
    assert results[0] == (1, MISS)
    assert results[1:] == [(1, LOCK_HIT)] * 99


async def test_concurrent_get_error(cache: RTCache[int, int, str], source: Source) -> None:
    """A lookup that fails is not repeated for those who waited: they get its error."""
    source.failing.add(1)
    held = source.hold(1)
    tasks = [asyncio.create_task(cache.get(1)) for _ in range(50)]
    await settle()
    held.set()

    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert source.begun == 1
    assert all(isinstance(each, Error) and each.etype == LOOKUP_ERROR for each in results)
    assert len(set(map(id, results))) == 50
    assert all(isinstance(each, Error) and each.cause is not None for each in results)


async def test_concurrent_get_different_value(
    cache: RTCache[int, int, str], source: Source
) -> None:
    """Lookups of different keys do not wait for each other."""
    results = await asyncio.gather(*(cache.get(key) for key in (1, 3, 5)))

    assert sorted(value for value, _ in results) == [1, 2, 3]
    assert source.begun == 3


async def test_what_is_not_kept_is_shared(cache: RTCache[int, int, str], source: Source) -> None:
    """A value that must not be kept is looked up once for all who came meanwhile."""
    source.ttl = 0
    held = source.hold(1)
    tasks = [asyncio.create_task(cache.get(1)) for _ in range(20)]
    await settle()
    held.set()

    results = await asyncio.gather(*tasks)

    assert {value for value, _ in results} == {1}
    assert source.begun == 1
    assert await cache.get(1) == (2, MISS)


async def test_get_lock_age(source: Source, clock: FakeClock) -> None:
    """A lookup that takes too long holds nobody any more; what they find is not kept."""
    cache = RTCache[int, int, str](10, source.lookup, lock_age=1.0, clock=clock)
    held = source.hold(1)
    first = asyncio.create_task(cache.get(1))
    await settle()
    clock.advance(1.5)

    second, third = await asyncio.gather(cache.get(1), cache.get(1))

    assert (second, third) == ((2, MISS), (3, MISS))
    assert await cache.get(1) == (4, MISS)
    held.set()
    assert await first == (1, MISS)
    assert await cache.get(1) == (1, HIT)


async def test_get_lock_timeout(source: Source, clock: FakeClock) -> None:
    """Who has waited long enough looks up on its own, and does not keep it."""
    cache = RTCache[int, int, str](10, source.lookup, lock_timeout=0.01, clock=clock)
    held = source.hold(1)
    first = asyncio.create_task(cache.get(1))
    await settle()

    second, third = await asyncio.gather(cache.get(1), cache.get(1))

    assert sorted([second, third], key=lambda each: each[0]) == [(2, MISS), (3, MISS)]
    assert not next(iter(cache._flights.values()))._waiters
    held.set()
    assert await first == (1, MISS)
    assert await cache.get(1) == (1, HIT)


async def test_a_cancelled_writer_strands_nobody(
    cache: RTCache[int, int, str], source: Source
) -> None:
    """If who looks up is cancelled, one of those who wait does it for the others (hazard H12)."""
    source.hold(1)
    writer = asyncio.create_task(cache.get(1))
    await settle()
    waiters = [asyncio.create_task(cache.get(1)) for _ in range(20)]
    await settle()
    assert source.begun == 1
    again = source.hold(1)

    writer.cancel()
    await settle()
    assert writer.cancelled()
    assert source.begun == 2
    again.set()
    results = await asyncio.gather(*waiters)

    assert Counter(results) == {(2, MISS): 1, (2, LOCK_HIT): 19}
    assert source.begun == 2
    assert not cache._flights


async def test_cancelled_lookup_releases_coalescing_lock(
    cache: RTCache[int, int, str], source: Source
) -> None:
    """After a cancelled lookup that nobody waited for, the next call looks up anew."""
    source.hold(1)
    writer = asyncio.create_task(cache.get(1))
    await settle()

    writer.cancel()
    await asyncio.wait([writer])

    assert not cache._flights
    assert await cache.get(1) == (2, MISS)


async def test_a_cancelled_waiter_disturbs_nobody(
    cache: RTCache[int, int, str], source: Source
) -> None:
    """Who stops waiting leaves nothing behind, also in the moment when the lookup ends."""
    held = source.hold(1)
    tasks = [asyncio.create_task(cache.get(1)) for _ in range(4)]
    await settle()

    tasks[1].cancel()
    await settle()
    assert len(cache._flights[1]._waiters) == 2
    held.set()
    tasks[2].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert results[0] == (1, MISS)
    assert results[3] == (1, LOCK_HIT)
    assert all(isinstance(results[each], asyncio.CancelledError) for each in (1, 2))


async def test_a_failure_that_nobody_hears(
    cache: RTCache[int, int, str], source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    """The error of a lookup whose waiters are gone is not complained about later."""
    source.failing.add(1)
    held = source.hold(1)
    tasks = [asyncio.create_task(cache.get(1)) for _ in range(3)]
    await settle()
    held.set()
    tasks[1].cancel()
    await asyncio.sleep(0)
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    del tasks
    gc.collect()

    assert not caplog.records


async def test_no_second_lookup_right_after(cache: RTCache[int, int, str], source: Source) -> None:
    """Who comes in the turn in which a lookup ends finds its value."""
    held = source.hold(1)
    writer = asyncio.create_task(cache.get(1))
    await settle()
    held.set()
    await writer

    results = await asyncio.gather(*(cache.get(1) for _ in range(5)))

    assert results == [(1, HIT)] * 5
    assert source.begun == 1


async def test_ttl(cache: RTCache[int, int, str], source: Source, clock: FakeClock) -> None:
    """The lookup's own time to live goes before the caller's."""
    await cache.get(1, ttl=5.0)
    source.ttl = 1.0
    await cache.get(2, ttl=5.0)
    clock.advance(2.0)

    assert await cache.get(1) == (1, HIT)
    assert await cache.get(2) == (3, EXPIRED)


async def test_multi_get(cache: RTCache[int, int, str], source: Source) -> None:
    """What is missing is looked up at once, each key once, and kept."""
    assert await cache.get(1) == (1, MISS)

    results = await cache.multi_get([1, 2, 3, 2])

    assert results == [(1, HIT), (2, MISS), (3, MISS), (2, MISS)]
    assert source.multi == [[2, 3]]
    assert await cache.multi_get(iter([1, 2, 3])) == [(1, HIT), (2, HIT), (3, HIT)]
    assert source.multi == [[2, 3]]


async def test_multi_get_of_expired(
    cache: RTCache[int, int, str], source: Source, clock: FakeClock
) -> None:
    """What has expired is looked up too, and kept for the time that is told."""
    await cache.multi_get([1, 2], ttl=1.0)
    clock.advance(1.0)
    source.ttl = 5.0

    assert await cache.multi_get([1, 3], ttl=1.0) == [(1, EXPIRED), (3, MISS)]
    clock.advance(3.0)
    assert await cache.multi_get([1, 3]) == [(1, HIT), (3, HIT)]


async def test_inconsistent_miss_results(cache: RTCache[int, int, str]) -> None:
    """A lookup that returns too few values is an error, and nothing of it is kept."""
    with pytest.raises(Error, match="0 values for 3 keys"):
        await cache.multi_get([4, 5, 6], extra="empty")

    assert len(cache) == 0


async def test_multi_get_error(cache: RTCache[int, int, str]) -> None:
    """A lookup of several that fails is an error like that of one."""
    with pytest.raises(Error) as caught:
        await cache.multi_get([4, 5], extra="fail")

    assert caught.value.etype == LOOKUP_ERROR
    assert isinstance(caught.value.cause, LookupError)


async def test_multi_get_needs_a_lookup(source: Source) -> None:
    """Without a lookup of several there is no getting several."""
    cache = RTCache[int, int, str](10, source.lookup)

    with pytest.raises(RuntimeError, match="multi_lookup"):
        await cache.multi_get([1])


async def test_get_stale(cache: RTCache[int, int, str], clock: FakeClock) -> None:
    """A value that has expired lately enough will do; else it is looked up."""
    assert await cache.get_stale(1, stale_ttl=1.0, ttl=0.1) == (1, MISS)
    assert await cache.get_stale(1, stale_ttl=1.0, ttl=0.1) == (1, HIT)
    clock.advance(0.15)

    value, status = await cache.get_stale(1, stale_ttl=1.0, ttl=0.1)
    assert value == 1
    assert status.stale_for == pytest.approx(0.05)
    assert await cache.get_stale(1, stale_ttl=0.03, ttl=0.1) == (2, EXPIRED)


async def test_get_stale_while_update(
    cache: RTCache[int, int, str], source: Source, clock: FakeClock
) -> None:
    """A stale value comes at once, one lookup follows, and then there is the new value."""
    await cache.get(1, ttl=0.1)
    clock.advance(0.15)
    held = source.hold(1)

    for _ in range(5):
        value, status = await cache.get_stale_while_update(1, stale_ttl=1.0, ttl=0.1)
        assert value == 1
        assert status.stale_for is not None
        await settle()
    assert source.begun == 2
    # Who must have a fresh value waits for that lookup.
    fresh = asyncio.create_task(cache.get(1))
    await settle()
    held.set()

    assert await fresh == (2, LOCK_HIT)
    assert await cache.get_stale_while_update(1, stale_ttl=1.0) == (2, HIT)
    await settle()
    assert not cache._refreshes
    assert source.begun == 2
    await cache.aclose()


async def test_a_refresh_fails(
    cache: RTCache[int, int, str],
    source: Source,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If the lookup behind a stale value fails, it is logged, and the next call tries again."""
    await cache.get(1, ttl=0.1)
    clock.advance(0.15)
    source.failing.add(1)

    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            value, _ = await cache.get_stale_while_update(1, stale_ttl=1.0)
            assert value == 1
            await settle()

    assert source.begun == 3
    assert caplog.text.count("was not refreshed") == 2
    await cache.aclose()


async def test_a_refresh_takes_too_long(
    source: Source, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A lookup behind a stale value has a deadline; who waits for it then looks up itself."""
    cache = RTCache[int, int, str](10, source.lookup, refresh_timeout=0.01, clock=clock)
    await cache.get(1, ttl=0.1)
    clock.advance(0.15)
    source.hold(1)
    with caplog.at_level(logging.WARNING):
        await cache.get_stale_while_update(1, stale_ttl=1.0)
        await settle()
        assert await cache.get(1) == (3, EXPIRED)

    assert source.cancelled == 1
    assert "was not refreshed" in caplog.text
    await cache.aclose()


async def test_refreshes_are_bounded(source: Source, clock: FakeClock) -> None:
    """Of many stale values, so many are looked up at a time; the others stay stale."""
    cache = RTCache[int, int, str](100, source.lookup, max_refreshes=3, clock=clock)
    for key in range(10):
        await cache.get(key, ttl=0.1)
    clock.advance(0.15)
    for key in range(10):
        source.hold(key)

    for key in range(10):
        await cache.get_stale_while_update(key, stale_ttl=1.0)
    await settle()

    assert source.begun == 13
    await cache.aclose()
    assert source.cancelled == 3
    assert not cache._refreshes
    assert not cache._flights


async def test_closing(source: Source, clock: FakeClock) -> None:
    """Closing ends what goes on in the background, begun or not; after that there is no more."""
    async with RTCache[int, int, str](10, source.lookup, clock=clock) as cache:
        await cache.get(1, ttl=0.1)
        await cache.get(2, ttl=0.1)
        clock.advance(0.15)
        source.hold(1)
        await cache.get_stale_while_update(1, stale_ttl=1.0)
        await settle()
        await cache.get_stale_while_update(2, stale_ttl=1.0)
    assert not cache._refreshes
    assert (source.begun, source.cancelled) == (3, 1)

    value, _ = await cache.get_stale_while_update(1, stale_ttl=1.0)
    assert value == 1
    assert not cache._refreshes
    assert await cache.get(1) == (4, EXPIRED)
    await cache.aclose()


def test_bad_numbers(source: Source) -> None:
    """Sizes and bounds out of their ranges are refused."""
    with pytest.raises(ValueError, match="at least 1"):
        RTCache(0, source.lookup)
    with pytest.raises(ValueError, match="refresh_timeout"):
        RTCache(1, source.lookup, refresh_timeout=0)
    with pytest.raises(ValueError, match="max_refreshes"):
        RTCache(1, source.lookup, max_refreshes=-1)
