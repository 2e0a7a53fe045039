"""From a key to an object: lookup, variants, hits, misses and readers.

Source: HttpCache in pingora-cache/src/lib.rs.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_cache.admission import NthRequest
from pingora_cache.cache import HttpCache
from pingora_cache.key import CacheKey
from pingora_cache.lock import CacheLock
from pingora_cache.phase import CachePhase, CachePhaseError, HitStatus
from pingora_cache.policy import CachePolicy
from pingora_cache.predictor import Predictor
from pingora_cache.reason import NoCacheReason
from pingora_cache.stats import CacheStats
from pingora_error import Error, ErrorType
from tests.support.cache_machine import BODY, VARIANCE, CacheRig
from tests.support.cache_store import PlainStore
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OTHER = bytes(16)


@pytest.fixture
async def rig() -> AsyncIterator[CacheRig]:
    """A store and a lock, of which nothing must be left."""
    rig = CacheRig()
    yield rig
    rig.check()


async def test_a_hit(rig: CacheRig) -> None:
    """Look up, find it fresh, read it, finish."""
    cache = await rig.stored()
    assert cache.phase is CachePhase.HIT
    assert cache.cache_meta.header.status == 200
    assert await cache.hit_handler.read_body() == BODY
    assert await cache.hit_handler.read_body() is None
    await cache.finish_hit_handler()
    await cache.finish_hit_handler()
    assert rig.store.readers == 0
    assert not cache.is_cache_lock_writer
    cache.close()
    assert (rig.stats.hits, rig.stats.lookups) == (1, 1)


async def test_a_finished_reader_is_gone(rig: CacheRig) -> None:
    """What was finished cannot be read any more."""
    cache = await rig.stored()
    await cache.finish_hit_handler()
    with pytest.raises(CachePhaseError, match="hit_handler"):
        _ = cache.hit_handler


async def test_what_was_found_and_not_used_is_closed(rig: CacheRig) -> None:
    """A reader that nobody took is closed: by the next lookup, by a miss, in the end."""
    rig.store.put(rig.key(), rig.meta(), BODY)
    cache = rig.request()
    assert await cache.cache_lookup() is not None
    assert await cache.cache_lookup() is not None
    assert rig.store.readers == 1
    cache.cache_miss()
    assert rig.store.readers == 0
    other = rig.request()
    assert await other.cache_lookup() is not None
    other.close()
    assert rig.store.readers == 0


async def test_lookup_duration_adds_up(rig: CacheRig) -> None:
    """Several lookups are one sum, which survives that caching is switched off."""
    gate = rig.store.gate("lookup")
    cache = rig.request()
    for _ in range(2):
        gate.clear()
        looking = asyncio.create_task(cache.cache_lookup())
        await asyncio.sleep(0)
        rig.time.advance(0.5)
        gate.set()
        await looking
    assert cache.lookup_duration == 1.0
    cache.disable(NoCacheReason.DEFERRED)
    assert cache.digest.lookup_duration == 1.0


# ---------------------------------------------------------------------- trouble


@pytest.mark.parametrize("error", [Error(ErrorType.READ_ERROR), OSError(5, "broken")])
async def test_a_store_in_trouble_has_nothing(
    rig: CacheRig, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a store raises is a miss: counted, told, and under the lock like any other."""
    rig.store.faults["lookup"] = error
    cache = rig.request()
    assert await cache.cache_lookup() is None
    assert cache.lookup_error is error
    assert cache.is_cache_lock_writer
    assert rig.stats.lookup_errors == 1
    assert "1 lookups in the cache store failed" in caplog.text
    assert await cache.cache_lookup() is None
    assert cache.lookup_error is None


async def test_a_store_that_is_down_does_not_fill_the_log(
    rig: CacheRig, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a thousand errors the log hears ten times."""
    cache = rig.request()
    for _ in range(1_000):
        rig.store.faults["lookup"] = OSError()
        await cache.cache_lookup()
    assert len(caplog.records) == 10


async def test_a_cancelled_lookup_holds_nothing(rig: CacheRig) -> None:
    """Neither lock nor reader."""
    rig.store.gate("lookup")
    cache = rig.request()
    looking = asyncio.create_task(cache.cache_lookup())
    await asyncio.sleep(0)
    looking.cancel()
    await asyncio.wait([looking])
    assert looking.cancelled()
    assert not cache.is_cache_lock_writer


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_request_that_ends_while_it_looks_up(rig: CacheRig, is_there: bool) -> None:
    """What comes after the end is given back at once."""
    if is_there:
        rig.store.put(rig.key(), rig.meta(), BODY)
    gate = rig.store.gate("lookup")
    cache = rig.request()
    looking = asyncio.create_task(cache.cache_lookup())
    await asyncio.sleep(0)
    cache.close()
    gate.set()
    with pytest.raises(Error, match="the request ended"):
        await looking
    assert rig.store.readers == 0


async def test_a_reader_that_cannot_finish(rig: CacheRig) -> None:
    """It is closed nevertheless, and the error is one of ours."""
    cache = await rig.stored()
    rig.store.faults["finish_reading"] = OSError(5, "broken")
    with pytest.raises(Error, match="finish reading"):
        await cache.finish_hit_handler()
    assert rig.store.readers == 0
    await cache.finish_hit_handler()


async def test_a_cancelled_finish(rig: CacheRig) -> None:
    """A reader whose finish is cancelled is closed."""
    cache = await rig.stored()
    rig.store.gate("finish_reading")
    finishing = asyncio.create_task(cache.finish_hit_handler())
    await asyncio.sleep(0)
    finishing.cancel()
    await asyncio.wait([finishing])
    assert finishing.cancelled()
    assert rig.store.readers == 0


# ---------------------------------------------------------------------- what was found


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        (HitStatus.FRESH, CachePhase.HIT),
        (HitStatus.FORCE_FRESH, CachePhase.HIT),
        (HitStatus.EXPIRED, CachePhase.STALE),
        (HitStatus.FORCE_EXPIRED, CachePhase.STALE),
        (HitStatus.FORCE_MISS, CachePhase.CACHE_KEY),
        (HitStatus.FAILED_HIT_FILTER, CachePhase.CACHE_KEY),
    ],
    ids=str,
)
async def test_found(rig: CacheRig, status: HitStatus, phase: CachePhase) -> None:
    """What is fresh is a hit, without a lock; all else asks for the lock."""
    rig.store.put(rig.key(), rig.meta(stale=60), BODY)
    cache = rig.request()
    found = await cache.cache_lookup()
    assert found is not None
    cache.cache_found(*found, status)
    assert cache.phase is phase
    assert cache.is_cache_lock_writer is not status.is_fresh
    assert (cache.maybe_cache_meta is None) is status.is_treated_as_miss
    assert rig.store.readers == (0 if status.is_treated_as_miss else 1)
    assert cache.can_serve_stale_error is (status is HitStatus.EXPIRED)


async def test_found_stale_and_looked_up_again(rig: CacheRig) -> None:
    """After a wait, the stale object is found again, or fresh, or gone; one reader at a time."""
    cache = await rig.stored(fresh=-1)
    found = await cache.cache_lookup()
    assert found is not None
    cache.cache_found(*found, HitStatus.EXPIRED)
    assert cache.phase is CachePhase.STALE
    assert rig.store.readers == 1
    found = await cache.cache_lookup()
    assert found is not None
    cache.cache_found(*found, HitStatus.FORCE_MISS)
    assert cache.phase is CachePhase.STALE
    assert (rig.store.readers, cache.maybe_cache_meta) == (0, None)
    rig.store.objects.clear()
    assert await cache.cache_lookup() is None
    cache.cache_miss()
    assert (cache.phase, cache.maybe_cache_meta) == (CachePhase.MISS, None)
    assert cache.is_cache_lock_writer


async def test_found_stale_and_then_not_used(rig: CacheRig) -> None:
    """What expired and is not even looked at is replaced like any other."""
    cache = await rig.stored(fresh=-1)
    found = await cache.cache_lookup()
    assert found is not None
    cache.cache_found(*found, HitStatus.FAILED_HIT_FILTER)
    cache.set_cache_meta(rig.meta())
    assert cache.phase is CachePhase.EXPIRED


async def test_a_reader_of_ones_own_is_closed_too(rig: CacheRig) -> None:
    """A handler that wraps what was found takes its place; the wrapped one is its business."""
    rig.store.put(rig.key(), rig.meta(), BODY)
    cache = rig.request()
    found = await cache.cache_lookup()
    other = await rig.store.lookup(rig.key())
    assert found is not None
    assert other is not None
    cache.cache_found(*other, HitStatus.FRESH)
    assert rig.store.readers == 1
    assert cache.hit_handler is other[1]


async def test_a_miss_in_phases(rig: CacheRig) -> None:
    """A bypassed request that turns out to be cacheable is a miss as well."""
    cache = rig.request()
    cache.bypass()
    cache.cache_miss()
    cache.set_cache_meta(rig.meta())
    await cache.set_miss_handler()
    await cache.finish_miss_handler()
    assert rig.key().combined_hash in rig.store.objects


async def test_no_bypass_after_lookup(rig: CacheRig) -> None:
    """Who holds the lock has looked up, and neither bypasses nor takes another key."""
    cache = rig.request()
    assert await cache.cache_lookup() is None
    with pytest.raises(CachePhaseError, match="bypass"):
        cache.bypass()
    with pytest.raises(CachePhaseError, match="set_cache_key"):
        cache.set_cache_key(rig.key())
    with pytest.raises(CachePhaseError, match="set_cache_lock"):
        cache.set_cache_lock(None)


async def test_another_lock(rig: CacheRig) -> None:
    """The lock can be changed as long as none is held."""
    other = CacheLock(1, scheduler=rig.time)
    cache = rig.request()
    cache.set_cache_lock(other, lock_wait_timeout=3)
    assert await cache.cache_lookup() is None
    assert other.keys == 1
    waiting = rig.request()
    waiting.set_cache_lock(other, lock_wait_timeout=0)
    assert await waiting.cache_lookup() is None
    assert (await waiting.cache_lock_wait()).name == "WAIT_TIMEOUT"


# ---------------------------------------------------------------------- variants


async def test_the_primary_is_the_variant(rig: CacheRig) -> None:
    """It is served from the primary slot, and written back to it."""
    rig.store.put(rig.key(), rig.meta(variance=VARIANCE), BODY)
    cache = rig.request()
    found = await cache.cache_lookup()
    assert found is not None
    assert cache.cache_vary_lookup(VARIANCE, found[0])
    assert cache.cache_key.variance is None


async def test_another_variant(rig: CacheRig) -> None:
    """It is in a slot of its own, found by a second lookup."""
    key = CacheKey("a")
    key.variance = VARIANCE
    rig.store.put(rig.key(), rig.meta(variance=OTHER), b"other")
    rig.store.put(key, rig.meta(variance=VARIANCE), BODY)
    cache = rig.request()
    found = await cache.cache_lookup()
    assert found is not None
    assert not cache.cache_vary_lookup(VARIANCE, found[0])
    assert cache.cache_key.variance == VARIANCE
    found = await cache.cache_lookup()
    assert found is not None
    assert cache.cache_vary_lookup(VARIANCE, found[0])
    assert cache.cache_key.variance == VARIANCE
    assert await found[1].read_body() == BODY


@pytest.mark.parametrize(("older_by", "is_found"), [(0, True), (1, False)])
async def test_the_primary_is_a_tombstone(rig: CacheRig, older_by: int, is_found: bool) -> None:
    """A variant that is older than the primary object is as good as absent: it was purged."""
    key = CacheKey("a")
    key.variance = VARIANCE
    rig.store.put(rig.key(), rig.meta(variance=OTHER), b"new")
    created = rig.clock.now - older_by
    rig.store.put(key, rig.meta(variance=VARIANCE, created=created, fresh=99), b"old")
    cache = rig.request()
    found = await cache.cache_lookup()
    assert found is not None
    assert not cache.cache_vary_lookup(VARIANCE, found[0])
    assert (await cache.cache_lookup() is not None) is is_found
    assert cache.is_cache_lock_writer is not is_found


# ---------------------------------------------------------------------- prediction


async def test_prediction(rig: CacheRig) -> None:
    """The predictor is asked by key, and told also after caching was switched off."""
    rig.predictor = predictor = Predictor(3)
    cache = rig.request()
    assert cache.cacheable_prediction
    cache.disable(NoCacheReason.ORIGIN_NOT_CACHE)
    cache.response_became_uncacheable(NoCacheReason.ORIGIN_NOT_CACHE)
    assert not predictor.cacheable_prediction(rig.key())
    again = rig.request()
    assert again.cacheable_prediction is False
    again.bypass()
    again.response_became_cacheable()
    assert predictor.cacheable_prediction(rig.key())


def test_nobody_predicts(rig: CacheRig) -> None:
    """Without a predictor, or without a key, there is nothing to tell."""
    cache = rig.request()
    cache.response_became_cacheable()
    cache.response_became_uncacheable(NoCacheReason.ORIGIN_NOT_CACHE)
    assert cache.cacheable_prediction
    rig.predictor = Predictor(3)
    keyless = rig.request(None)
    keyless.response_became_cacheable()
    keyless.response_became_uncacheable(NoCacheReason.ORIGIN_NOT_CACHE)
    assert len(rig.predictor) == 0


def test_what_is_worth_storing() -> None:
    """The admission policy counts requests, and says from when on it is."""
    cache = HttpCache()
    admission = NthRequest(2)
    cache.enable(PlainStore(), admission=admission)
    cache.set_cache_key(CacheKey("a"))
    assert cache.admission is admission
    assert [cache.is_worth_storing(None), cache.is_worth_storing(10)] == [False, True]
    cache.close()


def test_the_rules_of_a_request() -> None:
    """What enable was given can be asked for; without a policy there is the default one."""
    clock, stats, policy = FakeClock(), CacheStats(), CachePolicy()
    cache = HttpCache(clock)
    default = cache.policy
    cache.enable(PlainStore(), policy=policy, stats=stats)
    assert (cache.policy, cache.stats, cache.now()) == (policy, stats, clock.now)
    cache.disable(NoCacheReason.DEFERRED)
    cache.enable(PlainStore())
    assert cache.policy is default
    assert cache.stats is not stats
    cache.close()


async def test_status(rig: CacheRig) -> None:
    """The value for ``Cache-Status`` is made of what this request went through."""
    cache = await rig.stored(fresh=30)
    assert "hit" in str(cache.status("here"))
    missed = await rig.missed("missing")
    assert "fwd=uri-miss" in str(missed.status("here"))


def test_size_is_known_to_the_end(rig: CacheRig) -> None:
    """The size goes on being counted when caching is off, so that the next request knows."""
    cache = rig.request(None)
    cache.set_max_file_size_bytes(10)
    assert cache.max_file_size_bytes == 10
    assert cache.track_body_bytes_for_max_file_size(10)
    cache.disable(NoCacheReason.PREDICTED_RESPONSE_TOO_LARGE)
    assert not cache.exceeded_max_file_size
    assert not cache.track_body_bytes_for_max_file_size(1)
    assert cache.exceeded_max_file_size
