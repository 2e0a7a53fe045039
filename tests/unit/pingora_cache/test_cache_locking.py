"""The lock as requests use it: who fetches, who waits, and what each way out tells the others.

Source: HttpCache in pingora-cache/src/lib.rs; the cache lock tests of pingora-proxy.
"""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest

from pingora_cache.lock import CacheLock, LockStatus, WritePermit
from pingora_cache.phase import CachePhase, CachePhaseError, HitStatus
from pingora_cache.reason import NoCacheReason
from pingora_http import ResponseHeader
from tests.support.cache_machine import BODY, CacheRig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pingora_cache.cache import HttpCache

R = NoCacheReason
TRANSIENT = (
    R.INTERNAL_ERROR,
    R.STORAGE_ERROR,
    R.DEFERRED,
    R.UPSTREAM_ERROR,
    R.DECLINED_TO_UPSTREAM,
)
FINAL = (R.ORIGIN_NOT_CACHE, R.RESPONSE_TOO_LARGE, R.PREDICTED_RESPONSE_TOO_LARGE)
ILLEGAL = (R.CACHE_LOCK_GIVE_UP, R.CACHE_LOCK_TIMEOUT)


@pytest.fixture
async def rig() -> AsyncIterator[CacheRig]:
    """A store and a lock, of which nothing must be left."""
    rig = CacheRig()
    yield rig
    rig.check()


async def writer_and_waiter(rig: CacheRig) -> tuple[HttpCache, asyncio.Task[LockStatus]]:
    """Have one request that fetches, and another one that waits for it."""
    writer = await rig.missed()
    assert writer.is_cache_lock_writer
    reader = rig.request()
    assert await reader.cache_lookup() is None
    assert (reader.is_cache_locked, reader.is_cache_lock_writer) == (True, False)
    waiting = asyncio.create_task(reader.cache_lock_wait())
    await asyncio.sleep(0)
    assert (reader.is_cache_locked, reader.is_cache_lock_writer) == (False, False)
    return writer, waiting


# ---------------------------------------------------------------------- ways out


@pytest.mark.parametrize("reason", [*TRANSIENT, *FINAL, R.custom("so")], ids=str)
async def test_what_a_reason_tells(rig: CacheRig, reason: NoCacheReason) -> None:
    """Trouble: the next one tries. Uncacheable: all go on their own."""
    expected = LockStatus.TRANSIENT_ERROR if reason in TRANSIENT else LockStatus.GIVE_UP
    writer, waiting = await writer_and_waiter(rig)
    writer.disable(reason)
    assert await waiting is expected
    writer, waiting = await writer_and_waiter(rig)
    writer.release_write_lock(reason)
    assert not writer.is_cache_lock_writer
    assert writer.phase is CachePhase.MISS
    assert await waiting is expected


@pytest.mark.parametrize("reason", ILLEGAL, ids=str)
async def test_reasons_of_those_who_wait(rig: CacheRig, reason: NoCacheReason) -> None:
    """Who fetches cannot have given up waiting; nothing is changed. Who waits can."""
    writer, waiting = await writer_and_waiter(rig)
    with pytest.raises(ValueError, match="does not stop because"):
        writer.disable(reason)
    with pytest.raises(ValueError, match="does not stop because"):
        writer.release_write_lock(reason)
    assert writer.is_cache_lock_writer
    assert writer.phase is CachePhase.MISS
    writer.close()
    assert await waiting is LockStatus.TRANSIENT_ERROR
    other = rig.request()
    other.disable(reason)
    assert other.no_cache_reason == reason


async def test_never_enabled_releases_nothing(rig: CacheRig) -> None:
    """Not a reason to release a lock either."""
    with pytest.raises(ValueError, match="does not stop because"):
        rig.request().release_write_lock(R.NEVER_ENABLED)


async def test_reasons_of_the_application() -> None:
    """A lock can say what a reason of the application's own means."""

    class Lock(CacheLock):
        def custom_lock_status(self, reason: NoCacheReason) -> LockStatus:
            assert reason.is_custom
            return LockStatus.TRANSIENT_ERROR

    rig = CacheRig()
    rig.lock = Lock(10, scheduler=rig.time)
    writer, waiting = await writer_and_waiter(rig)
    writer.disable(R.custom("just me"))
    assert await waiting is LockStatus.TRANSIENT_ERROR
    rig.check()


async def _finish(_: CacheRig, cache: HttpCache) -> None:
    await cache.set_miss_handler()
    await cache.finish_miss_handler()


async def _abort(_: CacheRig, cache: HttpCache) -> None:
    await cache.set_miss_handler()
    await cache.abort_miss_handler()


async def _close(_: CacheRig, cache: HttpCache) -> None:
    cache.close()


async def _close_while_filling(_: CacheRig, cache: HttpCache) -> None:
    await cache.set_miss_handler()
    assert cache.is_cache_lock_writer
    cache.close()


async def _disable_while_filling(_: CacheRig, cache: HttpCache) -> None:
    await cache.set_miss_handler()
    cache.disable(R.ORIGIN_NOT_CACHE)


async def _release_while_filling(_: CacheRig, cache: HttpCache) -> None:
    await cache.set_miss_handler()
    cache.release_write_lock(R.DEFERRED)
    await cache.finish_miss_handler()


async def _taken_and_finished(_: CacheRig, cache: HttpCache) -> None:
    await cache.set_miss_handler()
    fill = cache.take_fill()
    cache.close()
    assert fill.holds_lock
    await fill.finish()


async def _taken_and_dropped(_: CacheRig, cache: HttpCache) -> None:
    await cache.set_miss_handler()
    fill = cache.take_fill()
    cache.close()
    fill.close()


async def _given_away(rig: CacheRig, cache: HttpCache) -> None:
    other = rig.request()
    other.set_write_lock(cache.take_write_lock())
    cache.close()
    assert other.is_cache_lock_writer
    other.disable(R.ORIGIN_NOT_CACHE)


async def _too_large(_: CacheRig, cache: HttpCache) -> None:
    cache.set_max_file_size_bytes(1)
    await cache.set_miss_handler()
    fill = cache.miss_handler
    assert fill is not None
    with pytest.raises(Exception, match="ResponseTooLarge"):
        await fill.write(b"12")


@pytest.mark.parametrize(
    ("way", "status"),
    [
        (_finish, LockStatus.DONE),
        (_abort, LockStatus.TRANSIENT_ERROR),
        (_close, LockStatus.TRANSIENT_ERROR),
        (_close_while_filling, LockStatus.TRANSIENT_ERROR),
        (_disable_while_filling, LockStatus.GIVE_UP),
        (_release_while_filling, LockStatus.TRANSIENT_ERROR),
        (_taken_and_finished, LockStatus.DONE),
        (_taken_and_dropped, LockStatus.TRANSIENT_ERROR),
        (_given_away, LockStatus.GIVE_UP),
        (_too_large, LockStatus.GIVE_UP),
    ],
)
async def test_ways_out(
    rig: CacheRig, way: Callable[[CacheRig, HttpCache], object], status: LockStatus
) -> None:
    """Whatever way a writer takes, those who wait are told, once and at once."""
    writer, waiting = await writer_and_waiter(rig)
    result = way(rig, writer)
    assert asyncio.iscoroutine(result)
    await result
    assert await waiting is status
    assert isinstance(rig.lock, CacheLock)
    assert rig.lock.keys == 0


async def test_a_streaming_store_releases_at_the_beginning() -> None:
    """What is being written can be looked up, and so nobody waits for its end."""
    rig = CacheRig(streaming=True)
    writer, waiting = await writer_and_waiter(rig)
    await writer.set_miss_handler()
    assert not writer.is_cache_lock_writer
    assert await waiting is LockStatus.DONE
    along = rig.request()
    found = await along.cache_lookup()
    assert found is not None
    along.cache_found(*found, HitStatus.FRESH)
    fill = writer.take_fill()
    await fill.write(BODY, end=True)
    assert await along.hit_handler.read_body() == BODY
    await fill.finish()
    assert await along.hit_handler.read_body() is None
    rig.check()


# ---------------------------------------------------------------------- who asks


async def test_one_of_those_who_wait_becomes_the_writer(rig: CacheRig) -> None:
    """After trouble exactly one of the others fetches, the rest waits for it."""
    writer = await rig.missed()
    outcomes: list[str] = []

    async def ask() -> None:
        cache = rig.request()
        while await cache.cache_lookup() is None:
            if cache.is_cache_lock_writer:
                outcomes.append("fetched")
                cache.cache_miss()
                cache.set_cache_meta(rig.meta())
                await cache.set_miss_handler()
                await asyncio.sleep(0)
                await cache.finish_miss_handler()
                return
            outcomes.append((await cache.cache_lock_wait()).name)
        outcomes.append("found")

    waiting = [asyncio.create_task(ask()) for _ in range(10)]
    await asyncio.sleep(0)
    writer.disable(R.UPSTREAM_ERROR)
    await asyncio.gather(*waiting)
    assert outcomes.count("fetched") == 1
    assert outcomes.count("TRANSIENT_ERROR") == 10
    assert outcomes.count("DONE") == outcomes.count("found") == 9


async def test_who_has_a_permit_asks_for_no_other(rig: CacheRig) -> None:
    """A request in the background that was given the permit does not wait for itself."""
    stale = await rig.stored(fresh=-1)
    assert stale.is_cache_lock_writer
    stale.set_stale_updating()
    background = rig.request()
    background.set_write_lock(stale.take_write_lock())
    found = await background.cache_lookup()
    assert found is not None
    background.cache_found(*found, HitStatus.EXPIRED)
    assert background.is_cache_lock_writer
    waiting = rig.request()
    found = await waiting.cache_lookup()
    assert found is not None
    waiting.cache_found(*found, HitStatus.EXPIRED)
    assert waiting.is_cache_locked
    assert await background.revalidate_cache_meta(rig.meta())
    assert await waiting.cache_lock_wait() is LockStatus.DONE


async def test_a_permit_that_turns_out_to_be_needless(rig: CacheRig) -> None:
    """Who finds the object fresh although it has the permit lets the others look as well."""
    permit = rig.lock.lock(rig.key()) if rig.lock is not None else None
    assert isinstance(permit, WritePermit)
    rig.store.put(rig.key(), rig.meta(), BODY)
    cache = rig.request()
    cache.set_write_lock(permit)
    found = await cache.cache_lookup()
    assert found is not None
    cache.cache_found(*found, HitStatus.FRESH)
    assert permit.status is LockStatus.DONE


async def test_one_permit_at_a_time(rig: CacheRig) -> None:
    """Two permits cannot be held, nor one when caching is off or after the end."""
    writer = await rig.missed()
    other = await rig.missed("other")
    permit = other.take_write_lock()
    with pytest.raises(CachePhaseError, match="set_write_lock"):
        writer.set_write_lock(permit)
    await writer.set_miss_handler()
    with pytest.raises(CachePhaseError, match="set_write_lock"):
        writer.set_write_lock(permit)
    for phase in (CachePhase.DISABLED, CachePhase.CACHE_KEY):
        cache = await rig.in_phase(phase)
        cache.close()
        with pytest.raises(CachePhaseError, match="set_write_lock"):
            cache.set_write_lock(permit)
    permit.release(LockStatus.DONE)


async def test_a_permit_that_is_lost(rig: CacheRig) -> None:
    """A permit that was taken and dropped frees those who wait."""
    writer, waiting = await writer_and_waiter(rig)
    writer.take_write_lock()
    gc.collect()
    assert await waiting is LockStatus.DANGLING


async def test_variants_change_hands(rig: CacheRig) -> None:
    """A revalidated object that is uncacheable from now on tells the others to go on their own."""
    stale = await rig.stored(fresh=-1)
    waiting = rig.request()
    found = await waiting.cache_lookup()
    assert found is not None
    waiting.cache_found(*found, HitStatus.EXPIRED)
    stale.revalidate_uncacheable(ResponseHeader(200), R.ORIGIN_NOT_CACHE)
    assert await waiting.cache_lock_wait() is LockStatus.GIVE_UP


# ---------------------------------------------------------------------- patience


async def test_all_waits_together_have_a_limit() -> None:
    """A request waits for its own limit in all, however many writers come and go."""
    rig = CacheRig(lock_wait_timeout=3)
    reader = rig.request()
    statuses: list[LockStatus] = []
    for step in (2, 5):
        writer = await rig.missed()
        assert await reader.cache_lookup() is None
        waiting = asyncio.create_task(reader.cache_lock_wait())
        await asyncio.sleep(0)
        rig.time.advance(step)
        writer.disable(R.UPSTREAM_ERROR)
        statuses.append(await waiting)
    assert statuses == [LockStatus.TRANSIENT_ERROR, LockStatus.WAIT_TIMEOUT]
    assert reader.lock_duration == 7.0
    writer = await rig.missed()
    assert await reader.cache_lookup() is None
    assert await reader.cache_lock_wait() is LockStatus.WAIT_TIMEOUT
    assert (rig.stats.lock_waits, rig.stats.lock_timeouts) == (3, 2)
    assert rig.stats.lock_wait_seconds == 7.0
    rig.check()


async def test_an_aged_writer_is_replaced(rig: CacheRig) -> None:
    """The second fetches beside the first, whose object is stored all the same."""
    old, waiting = await writer_and_waiter(rig)
    rig.time.advance(10)
    assert await waiting is LockStatus.AGE_TIMEOUT
    new = await rig.missed()
    assert new.is_cache_lock_writer
    await old.set_miss_handler()
    await old.finish_miss_handler()
    third = rig.request()
    assert await third.cache_lookup() is not None
    assert rig.stats.lock_timeouts == 1


async def test_too_many_wait() -> None:
    """Beyond the bound they do not wait, and that is counted."""
    rig = CacheRig()
    rig.lock = CacheLock(10, max_waiters=1, scheduler=rig.time)
    writer, waiting = await writer_and_waiter(rig)
    third = rig.request()
    assert await third.cache_lookup() is None
    assert await third.cache_lock_wait() is LockStatus.GIVE_UP
    writer.disable(R.ORIGIN_NOT_CACHE)
    assert await waiting is LockStatus.GIVE_UP
    assert rig.stats.lock_overflows == 1
    rig.check()


async def test_a_cancelled_wait(rig: CacheRig) -> None:
    """The time waited is told also when the client has left."""
    writer, waiting = await writer_and_waiter(rig)
    rig.time.advance(2)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert rig.stats.lock_wait_seconds == 2.0
    assert isinstance(rig.lock, CacheLock)
    assert rig.lock.waiters == 0
    writer.close()
