"""What becomes of an object that has expired, of its variants, and of objects that are purged.

Source: HttpCache in pingora-cache/src/lib.rs.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_cache._background import drain_background
from pingora_cache.cache import HttpCache
from pingora_cache.eviction import SimpleLru
from pingora_cache.key import CacheKey
from pingora_cache.lock import CacheLock, LockStatus
from pingora_cache.phase import CachePhase, HitStatus
from pingora_cache.reason import NoCacheReason
from pingora_cache.storage import PurgeAction, PurgeResult
from pingora_error import Error, ErrorType
from pingora_http import ResponseHeader
from tests.support.cache_machine import BODY, VARIANCE, CacheRig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


OTHER = bytes(16)


@pytest.fixture
async def rig() -> AsyncIterator[CacheRig]:
    """A store and a lock, of which nothing must be left."""
    rig = CacheRig()
    yield rig
    await drain_background(1)
    rig.check()


# ---------------------------------------------------------------------- a 304


async def test_revalidated(rig: CacheRig) -> None:
    """The meta is stored anew, as of an object that was created when it was."""
    cache = await rig.stored(fresh=-1)
    cache.cache_meta.extensions.update(old=1, both=1)
    created = rig.clock.now
    rig.clock.advance(5)
    new = rig.meta()
    new.extensions.update(both=2, new=2)
    assert await cache.revalidate_cache_meta(new)
    assert cache.phase is CachePhase.REVALIDATED
    meta = cache.cache_meta
    assert (meta.created, meta.fresh_until) == (created, rig.clock.now + 60)
    assert meta.extensions == {"old": 1, "both": 2, "new": 2}
    assert rig.store.objects[rig.key().combined_hash].meta is meta
    assert await cache.hit_handler.read_body() == BODY
    assert not cache.is_cache_lock_writer


async def test_revalidated_and_gone(rig: CacheRig) -> None:
    """An object that was purged meanwhile is served, and not stored again."""
    cache = await rig.stored(fresh=-1)
    rig.store.objects.clear()
    assert not await cache.revalidate_cache_meta(rig.meta())
    assert cache.phase is CachePhase.REVALIDATED
    assert await cache.hit_handler.read_body() == BODY


@pytest.mark.parametrize("error", [Error(ErrorType.WRITE_ERROR), OSError(28, "full")])
async def test_a_store_that_cannot_note_it(
    rig: CacheRig, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """The object is served all the same; a counter and the log say why it will expire again."""
    cache = await rig.stored(fresh=-1)
    waiting = rig.request()
    found = await waiting.cache_lookup()
    assert found is not None
    waiting.cache_found(*found, HitStatus.EXPIRED)
    rig.store.faults["update_meta"] = error
    assert not await cache.revalidate_cache_meta(rig.meta())
    assert cache.phase is CachePhase.REVALIDATED
    assert rig.stats.meta_errors == 1
    assert "could not note a revalidation" in caplog.text
    assert await waiting.cache_lock_wait() is LockStatus.DONE


async def test_a_store_that_never_notes_it_does_not_fill_the_log(
    rig: CacheRig, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a hundred times the log hears of seven."""
    for _ in range(100):
        cache = await rig.stored(fresh=-1)
        rig.store.faults["update_meta"] = OSError(28, "full")
        await cache.revalidate_cache_meta(rig.meta())
    assert len(caplog.records) == 7


async def test_those_who_wait_find_it_fresh(rig: CacheRig) -> None:
    """They are told after the store knows, not before, so that they do not ask once more."""
    cache = await rig.stored(fresh=-1)
    waiting = rig.request()
    found = await waiting.cache_lookup()
    assert found is not None
    waiting.cache_found(*found, HitStatus.EXPIRED)
    wait = asyncio.create_task(waiting.cache_lock_wait())
    gate = rig.store.gate("update_meta")
    noting = asyncio.create_task(cache.revalidate_cache_meta(rig.meta()))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not wait.done()
    gate.set()
    assert await noting
    assert await wait is LockStatus.DONE
    found = await waiting.cache_lookup()
    assert found is not None
    assert found[0].is_fresh(rig.clock.now)


async def test_cancelled_while_it_is_noted(rig: CacheRig) -> None:
    """Those who wait are told nevertheless."""
    cache = await rig.stored(fresh=-1)
    rig.store.gate("update_meta")
    noting = asyncio.create_task(cache.revalidate_cache_meta(rig.meta()))
    await asyncio.sleep(0)
    noting.cancel()
    await asyncio.wait([noting])
    assert not cache.is_cache_lock_writer
    assert cache.phase is CachePhase.STALE


async def test_disabled_while_it_is_noted(rig: CacheRig) -> None:
    """A request that has moved on meanwhile stays where it is."""
    cache = await rig.stored(fresh=-1)
    gate = rig.store.gate("update_meta")
    noting = asyncio.create_task(cache.revalidate_cache_meta(rig.meta()))
    await asyncio.sleep(0)
    cache.disable(NoCacheReason.INTERNAL_ERROR)
    gate.set()
    assert await noting
    assert cache.phase is CachePhase.DISABLED


async def test_merged_heads(rig: CacheRig) -> None:
    """Freshness, tags and ETag are taken from the 304, all values of them; Vary is not."""
    stored = ResponseHeader(
        200,
        headers=[
            ("Content-Type", "text/plain"),
            ("Cache-Control", "max-age=1"),
            ("ETag", '"1"'),
            ("Vary", "Accept"),
            ("Expires", "0"),
        ],
    )
    cache = rig.request()
    rig.store.put(rig.key(), rig.meta(fresh=-1, header=stored), BODY)
    found = await cache.cache_lookup()
    assert found is not None
    cache.cache_found(*found, HitStatus.EXPIRED)
    not_modified = ResponseHeader(
        304,
        headers=[
            ("cache-control", "public"),
            ("cache-control", "max-age=5"),
            ("etag", '"2"'),
            ("vary", "*"),
            ("content-type", "text/html"),
            ("cache-tag", "a,b"),
            ("cdn-cache-control", "max-age=9"),
        ],
    )
    merged = cache.revalidate_merge_header(not_modified)
    assert merged.status == 200
    assert merged.get_all("cache-control") == ["public", "max-age=5"]
    assert merged.get("etag") == '"2"'
    assert merged.get("expires") == "0"
    assert merged.get("vary") == "Accept"
    assert merged.get("content-type") == "text/plain"
    assert merged.get("cache-tag") == "a,b"
    assert merged.get("cdn-cache-control") == "max-age=9"
    assert stored.get_all("cache-control") == ["max-age=1"]


async def test_revalidated_and_uncacheable(rig: CacheRig) -> None:
    """It is served with the new head this time, and the store is left alone."""
    cache = await rig.stored(fresh=-1)
    calls = len(rig.store.calls)
    head = ResponseHeader(200, headers=[("cache-control", "private")])
    cache.revalidate_uncacheable(head, NoCacheReason.ORIGIN_NOT_CACHE)
    assert cache.phase is CachePhase.REVALIDATED_NO_CACHE
    assert cache.no_cache_reason == NoCacheReason.ORIGIN_NOT_CACHE
    assert cache.cache_meta.header is head
    assert await cache.hit_handler.read_body() == BODY
    assert rig.store.calls[calls:] == ["read_body"]


async def test_a_reason_that_a_writer_cannot_have(rig: CacheRig) -> None:
    """A mistake changes nothing."""
    cache = await rig.stored(fresh=-1)
    with pytest.raises(ValueError, match="does not stop because"):
        cache.revalidate_uncacheable(ResponseHeader(200), NoCacheReason.CACHE_LOCK_TIMEOUT)
    assert cache.phase is CachePhase.STALE
    assert cache.is_cache_lock_writer


# ---------------------------------------------------------------------- variants


async def _variant(rig: CacheRig, *, fresh: float = 60) -> HttpCache:
    """Look up a variant that has a slot of its own, up to the meta of the response."""
    key = CacheKey("a")
    key.variance = VARIANCE
    rig.store.put(rig.key(), rig.meta(variance=OTHER), b"primary")
    rig.store.put(key, rig.meta(variance=VARIANCE, fresh=fresh), b"variant")
    cache = rig.request()
    found = await cache.cache_lookup()
    assert found is not None
    assert not cache.cache_vary_lookup(VARIANCE, found[0])
    found = await cache.cache_lookup()
    assert found is not None
    cache.cache_found(*found, HitStatus.EXPIRED)
    cache.set_cache_meta(rig.meta())
    return cache


@pytest.mark.parametrize(
    ("variance", "is_primary"), [(VARIANCE, False), (OTHER, True), (None, True)]
)
async def test_what_is_not_the_variant_takes_the_primary_slot(
    rig: CacheRig, variance: bytes | None, is_primary: bool
) -> None:
    """The same variant stays where it was; another one, or none, outdates all variants."""
    cache = await _variant(rig, fresh=-1)
    cache.update_variance(variance)
    assert cache.cache_meta.variance == variance
    assert (cache.cache_key.variance is None) is is_primary
    assert cache.is_cache_lock_writer is not is_primary
    await cache.set_miss_handler()
    fill = cache.take_fill()
    await fill.write(b"new", end=True)
    await fill.finish()
    primary = rig.store.objects[rig.key().combined_hash]
    assert primary.body == (b"new" if is_primary else b"primary")


async def test_a_first_variant(rig: CacheRig) -> None:
    """In the primary slot it stays, with its variance; nobody is told anything."""
    cache = await rig.missed()
    cache.update_variance(VARIANCE)
    assert cache.is_cache_lock_writer
    assert (cache.cache_key.variance, cache.cache_meta.variance) == (None, VARIANCE)
    before = cache.cache_meta
    cache.update_variance(VARIANCE)
    assert cache.cache_meta is before


# ---------------------------------------------------------------------- purge


@pytest.mark.parametrize(
    ("action", "result"),
    [(PurgeAction.DELETE, PurgeResult.PURGED), (PurgeAction.EXPIRE, PurgeResult.EXPIRED)],
)
async def test_purge(rig: CacheRig, action: PurgeAction, result: PurgeResult) -> None:
    """Gone, or expired; the second time there may be nothing to do."""
    rig.store.put(rig.key(), rig.meta(), BODY)
    cache = rig.request()
    assert await cache.purge(action=action) is result
    assert rig.stats.purges == 1
    again = await cache.purge(action=action)
    assert bool(again) is (action is PurgeAction.EXPIRE)


async def test_all_variants_expire_with_the_primary_object(rig: CacheRig) -> None:
    """It tells them that they have; one that was confirmed since, or comes later, is fresh."""
    await _variant(rig)
    assert await rig.request().purge(action=PurgeAction.EXPIRE) is PurgeResult.EXPIRED
    assert len(rig.store.objects) == 2
    assert rig.stats.purges == 1

    async def is_fresh() -> bool:
        cache = rig.request()
        primary = await cache.cache_lookup()
        assert primary is not None
        assert not primary[0].is_fresh(rig.clock())
        cache.cache_vary_lookup(VARIANCE, primary[0])
        found = await cache.cache_lookup()
        assert found is not None
        fresh = found[0].is_fresh(rig.clock())
        cache.close()
        return fresh

    assert not await is_fresh()
    key = CacheKey("a")
    key.variance = VARIANCE
    rig.clock.advance(1)
    now = rig.clock()
    old = rig.store.objects[key.combined_hash].meta
    assert await rig.store.update_meta(key, old.replace(updated=now, fresh_until=now + 60))
    assert await is_fresh()


async def test_a_confirmed_primary_object_still_tells_its_variants(rig: CacheRig) -> None:
    """Its own 304 says nothing about the others."""
    rig.store.put(rig.key(), rig.meta(variance=VARIANCE), BODY)
    await rig.request().purge(action=PurgeAction.EXPIRE)
    purged = rig.clock()
    rig.clock.advance(1)
    cache = rig.request()
    found = await cache.cache_lookup()
    assert found is not None
    cache.cache_found(*found, HitStatus.EXPIRED)
    assert await cache.revalidate_cache_meta(rig.meta(variance=VARIANCE))

    stored = rig.store.objects[rig.key().combined_hash].meta
    assert stored.is_fresh(rig.clock())
    assert stored.variants_expired == purged


async def test_a_primary_object_that_cannot_be_told_is_removed(rig: CacheRig) -> None:
    """It is just being replaced: then its variants go with it."""
    rig.store.put(rig.key(), rig.meta(variance=VARIANCE), BODY)
    gate = rig.store.gate("update_meta")
    purging = asyncio.create_task(rig.request().purge(action=PurgeAction.EXPIRE))
    await asyncio.sleep(0)
    rig.store.put(rig.key(), rig.meta(variance=VARIANCE).replace(created=rig.clock() + 5), BODY)
    gate.set()

    assert await purging is PurgeResult.PURGED
    assert rig.store.objects == {}


async def test_what_is_invalidated_is_forgotten_by_the_eviction_manager(rig: CacheRig) -> None:
    """Also where it stands beside the store: nothing is counted that is not there."""
    manager = SimpleLru(1000)
    rig.store.put(rig.key(), rig.meta(), BODY)
    manager.admit(rig.key().to_compact(), 10, 0.0)
    cache = HttpCache()
    cache.enable(rig.store, eviction=manager, stats=rig.stats)
    purger = cache.purger()
    cache.disable(NoCacheReason.custom("method"))

    assert await purger.invalidate(rig.key()) is PurgeResult.PURGED
    assert await purger.invalidate(rig.key()) is PurgeResult.NOT_FOUND
    assert (manager.total_items, rig.stats.invalidations) == (0, 1)
    rig.store.faults["purge"] = OSError(5, "broken")
    with pytest.raises(Error):
        await purger.invalidate(rig.key())
    assert rig.stats.purge_errors == 1


async def test_a_variant_expires_alone(rig: CacheRig) -> None:
    """In its slot, and under its key, a variant is an object like any other."""
    await _variant(rig)
    cache = rig.request()
    cache.cache_key.variance = VARIANCE
    assert await cache.purge(action=PurgeAction.EXPIRE) is PurgeResult.EXPIRED
    assert len(rig.store.objects) == 2


async def test_an_object_that_goes_while_it_expires(rig: CacheRig) -> None:
    """Gone is gone."""
    rig.store.put(rig.key(), rig.meta(), BODY)
    gate = rig.store.gate("lookup")
    purging = asyncio.create_task(rig.request().purge(action=PurgeAction.EXPIRE))
    await asyncio.sleep(0)
    rig.store.objects.clear()
    gate.set()
    assert await purging is PurgeResult.EXPIRED


async def test_purge_in_the_background(rig: CacheRig) -> None:
    """The request does not wait for it; who stops does."""
    cache = await rig.stored()
    gate = rig.store.gate("purge")
    cache.spawn_async_purge("an unsafe request")
    cache.close()
    draining = asyncio.create_task(drain_background(10))
    await asyncio.sleep(0)
    assert not draining.done()
    gate.set()
    assert await draining == 0
    assert rig.store.objects == {}
    assert await drain_background(0) == 0


async def test_a_purge_that_hangs(rig: CacheRig) -> None:
    """Who stops waits for so long, and not longer."""
    cache = await rig.stored()
    rig.store.gate("purge")
    cache.spawn_async_purge("an unsafe request")
    assert await drain_background(0.001) == 1


async def test_a_purge_that_fails(rig: CacheRig, caplog: pytest.LogCaptureFixture) -> None:
    """In line it is an error of ours; in the background it is in the log, with its reason."""
    cache = rig.request()
    rig.store.faults["purge"] = OSError(5, "broken")
    with pytest.raises(Error, match="purge"):
        await cache.purge()
    rig.store.faults["purge"] = OSError(5, "broken")
    cache.spawn_async_purge("an unsafe request")
    await drain_background(1)
    assert "an unsafe request failed" in caplog.text
    assert (rig.stats.purges, rig.stats.purge_errors) == (0, 2)


async def test_purge_by_tag(rig: CacheRig) -> None:
    """All that carries the tag goes."""
    for primary, tags in (("a", (b"x", b"y")), ("b", (b"x",)), ("c", ())):
        rig.store.put(rig.key(primary), rig.meta(tags=tags), BODY)
    cache = rig.request()
    assert await cache.purge_tag(b"x") == 2
    assert len(rig.store.objects) == 1
    assert rig.stats.purges == 2
    rig.store.faults["purge_tag"] = OSError(5, "broken")
    with pytest.raises(Error, match="purge a tag"):
        await cache.purge_tag(b"x")
    assert rig.stats.purge_errors == 1


async def test_a_purge_is_not_undone_by_the_fill_it_met(rig: CacheRig) -> None:
    """What is purged while it is written is not published; those who wait look again."""
    filling = await rig.missed()
    await filling.set_miss_handler()
    fill = filling.take_fill()
    assert await rig.request().purge() is PurgeResult.PURGED
    finished = await fill.finish()
    assert not finished.published
    assert rig.store.objects == {}
    assert isinstance(rig.lock, CacheLock)
    assert rig.lock.keys == 0
