"""Which call is allowed in which phase: the table of the state machine, call by call.

Source: the phases of HttpCache in pingora-cache/src/lib.rs.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest

from pingora_cache.cache import HttpCache
from pingora_cache.lock import CacheLock, WritePermit
from pingora_cache.phase import CachePhase, CachePhaseError, HitStatus
from pingora_cache.reason import NoCacheReason
from pingora_http import ResponseHeader
from tests.support.cache_machine import BODY, VARIANCE, CacheRig, state_of
from tests.support.cache_store import PlainObject, PlainReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ALL = frozenset(CachePhase)
P = CachePhase

WITH_KEY = ALL - {P.DISABLED, P.UNINIT}
SERVED = frozenset({P.HIT, P.STALE, P.STALE_UPDATING, P.REVALIDATED, P.REVALIDATED_NO_CACHE})
FILLING = frozenset({P.MISS, P.EXPIRED})
LOOKING = frozenset({P.CACHE_KEY, P.STALE})


def _found(rig: CacheRig, cache: HttpCache) -> None:
    whole = PlainObject(rig.meta())
    cache.cache_found(whole.meta, PlainReader(rig.store, whole), HitStatus.FRESH)


def _permit(rig: CacheRig) -> WritePermit:
    permit = CacheLock(1, scheduler=rig.time).lock(rig.key("other"))
    assert isinstance(permit, WritePermit)
    return permit


CALLS: dict[str, tuple[frozenset[CachePhase], Callable[[CacheRig, HttpCache], object]]] = {
    "enable": (frozenset({P.DISABLED}), lambda rig, c: c.enable(rig.store)),
    "set_cache_key": (
        frozenset({P.UNINIT, P.CACHE_KEY}),
        lambda rig, c: c.set_cache_key(rig.key()),
    ),
    "bypass": (frozenset({P.CACHE_KEY}), lambda _, c: c.bypass()),
    "cache_lookup": (LOOKING, lambda _, c: c.cache_lookup()),
    "cache_vary_lookup": (LOOKING, lambda rig, c: c.cache_vary_lookup(VARIANCE, rig.meta())),
    "cache_found": (LOOKING, _found),
    "cache_miss": (LOOKING | {P.BYPASS}, lambda _, c: c.cache_miss()),
    "set_stale_updating": (frozenset({P.STALE}), lambda _, c: c.set_stale_updating()),
    "hit_handler": (SERVED, lambda _, c: c.hit_handler),
    "finish_hit_handler": (SERVED | FILLING, lambda _, c: c.finish_hit_handler()),
    "set_cache_meta": (
        frozenset({P.MISS, P.STALE}),
        lambda rig, c: c.set_cache_meta(rig.meta()),
    ),
    "update_variance": (FILLING, lambda _, c: c.update_variance(VARIANCE)),
    "set_miss_handler": (FILLING, lambda _, c: c.set_miss_handler()),
    "miss_handler": (FILLING, lambda _, c: c.miss_handler),
    "finish_miss_handler": (FILLING, lambda _, c: c.finish_miss_handler()),
    "abort_miss_handler": (FILLING, lambda _, c: c.abort_miss_handler()),
    "take_fill": (frozenset(), lambda _, c: c.take_fill()),
    "take_write_lock": (frozenset(), lambda _, c: c.take_write_lock()),
    "cache_lock_wait": (frozenset(), lambda _, c: c.cache_lock_wait()),
    "revalidate_cache_meta": (
        frozenset({P.STALE}),
        lambda rig, c: c.revalidate_cache_meta(rig.meta()),
    ),
    "revalidate_merge_header": (
        frozenset({P.STALE}),
        lambda _, c: c.revalidate_merge_header(ResponseHeader(304)),
    ),
    "revalidate_uncacheable": (
        frozenset({P.STALE}),
        lambda _, c: c.revalidate_uncacheable(ResponseHeader(200), NoCacheReason.DEFERRED),
    ),
    "purge": (frozenset({P.CACHE_KEY}), lambda _, c: c.purge()),
    "purge_tag": (ALL - {P.DISABLED}, lambda _, c: c.purge_tag(b"tag")),
    "spawn_async_purge": (WITH_KEY, lambda _, c: c.spawn_async_purge("a test")),
    "cache_key": (WITH_KEY, lambda _, c: c.cache_key),
    "cacheable_prediction": (WITH_KEY, lambda _, c: c.cacheable_prediction),
    "is_worth_storing": (WITH_KEY, lambda _, c: c.is_worth_storing(1)),
    "cache_meta": (SERVED | FILLING, lambda _, c: c.cache_meta),
    "set_cache_lock": (
        LOOKING | {P.HIT},
        lambda _, c: c.set_cache_lock(None),
    ),
    "set_max_file_size_bytes": (
        ALL - {P.DISABLED},
        lambda _, c: c.set_max_file_size_bytes(10),
    ),
}


@pytest.fixture
async def rig() -> AsyncIterator[CacheRig]:
    """A store without a lock, of which nothing must be left."""
    rig = CacheRig(lock=False)
    yield rig
    rig.check()


async def _call(call: Callable[[CacheRig, HttpCache], object], rig: CacheRig, c: HttpCache) -> None:
    result = call(rig, c)
    if inspect.isawaitable(result):
        await result


@pytest.mark.parametrize("phase", CachePhase, ids=str)
async def test_calls_by_phase(phase: CachePhase, rig: CacheRig) -> None:
    """Each call works in its phases; in all others it raises, and changes nothing."""
    rig.store.put(rig.key(), rig.meta(), BODY)
    for name, (allowed, call) in CALLS.items():
        cache = await rig.in_phase(phase)
        if phase in allowed:
            await _call(call, rig, cache)
            continue
        before = state_of(cache)
        readers = rig.store.readers
        with pytest.raises(CachePhaseError, match=f"in phase {phase}"):
            await _call(call, rig, cache)
        assert state_of(cache) == before, name
        if name != "cache_found":
            assert rig.store.readers == readers, name
        else:
            rig.store.readers = readers


async def test_calls_on_what_was_never_on(rig: CacheRig) -> None:
    """A cache that nobody enabled answers questions, and does nothing."""
    for name, (allowed, call) in CALLS.items():
        if CachePhase.DISABLED in allowed:
            continue
        cache = HttpCache()
        before = state_of(cache)
        with pytest.raises(CachePhaseError):
            await _call(call, rig, cache)
        assert state_of(cache) == before, name
    rig.store.readers = 0


@pytest.mark.parametrize("phase", CachePhase, ids=str)
async def test_what_takes_hold_of_something_does_not_after_the_end(
    phase: CachePhase, rig: CacheRig
) -> None:
    """After close nothing is taken hold of any more, since nobody would give it back."""
    for name in ("enable", "cache_lookup", "cache_found", "set_miss_handler", "set_cache_lock"):
        cache = await rig.in_phase(phase)
        cache.close()
        readers = rig.store.readers
        with pytest.raises(CachePhaseError, match="closed"):
            await _call(CALLS[name][1], rig, cache)
        rig.store.readers = readers


# ---------------------------------------------------------------------- questions


@pytest.mark.parametrize("phase", CachePhase, ids=str)
async def test_questions_by_phase(phase: CachePhase, rig: CacheRig) -> None:
    """Enabled, bypassing and where the response comes from, phase by phase."""
    cache = await rig.in_phase(phase)
    assert cache.enabled == (phase not in {P.DISABLED, P.BYPASS})
    assert cache.bypassing == (phase is P.BYPASS)
    assert cache.upstream_used == (
        phase in {P.DISABLED, P.BYPASS, P.MISS, P.EXPIRED, P.REVALIDATED, P.REVALIDATED_NO_CACHE}
    )
    has_reason = phase in {P.DISABLED, P.REVALIDATED_NO_CACHE}
    assert (cache.no_cache_reason is not None) == has_reason
    assert (cache.maybe_cache_key is not None) == (phase is not P.UNINIT)
    assert (cache.maybe_cache_meta is not None) == (phase in SERVED | FILLING)
    assert (cache.storage is rig.store) == (phase is not P.DISABLED)
    assert cache.supports_streaming_partial_write is (None if phase is P.DISABLED else False)
    assert cache.can_serve_stale_error == (phase in {P.STALE, P.STALE_UPDATING})
    assert cache.can_serve_stale_updating == (phase in {P.STALE, P.STALE_UPDATING})
    assert not cache.is_closed
    assert str(phase) in repr(cache)


def test_questions_at_the_beginning() -> None:
    """All can be asked before caching is on."""
    cache = HttpCache()
    assert cache.phase is CachePhase.DISABLED
    assert cache.no_cache_reason == NoCacheReason.NEVER_ENABLED
    assert cache.upstream_used
    assert not cache.enabled
    assert not cache.is_cache_locked
    assert not cache.is_cache_lock_writer
    assert cache.maybe_cache_key is None
    assert cache.maybe_cache_meta is None
    assert cache.storage is None
    assert cache.admission is None
    assert cache.supports_streaming_partial_write is None
    assert cache.lookup_error is None
    assert cache.max_file_size_bytes is None
    assert not cache.exceeded_max_file_size
    assert cache.track_body_bytes_for_max_file_size(10**9)
    assert cache.miss_body_reader is None
    assert cache.take_miss_body_reader() is None
    assert tuple(cache.digest) == (cache.lock_duration, cache.lookup_duration) == (None, None)
    assert repr(cache) == "<HttpCache disabled (NeverEnabled)>"
    cache.close()
    assert repr(cache) == "<HttpCache disabled (NeverEnabled), closed>"


async def test_stale_windows_end(rig: CacheRig) -> None:
    """Stale is served only as long as the meta allows."""
    cache = await rig.stored(fresh=-1, stale=60)
    rig.clock.advance(59)
    assert (cache.can_serve_stale_error, cache.can_serve_stale_updating) == (True, True)
    rig.clock.advance(1)
    assert (cache.can_serve_stale_error, cache.can_serve_stale_updating) == (False, False)


# ---------------------------------------------------------------------- off


def test_never_enabled_is_no_reason() -> None:
    """That caching was never on is not why it is switched off."""
    cache = HttpCache()
    with pytest.raises(ValueError, match="has been on"):
        cache.disable(NoCacheReason.NEVER_ENABLED)


def test_disabling_what_was_never_on(caplog: pytest.LogCaptureFixture) -> None:
    """It stays never on, and the log wonders."""
    cache = HttpCache()
    cache.disable(NoCacheReason.DEFERRED)
    assert cache.no_cache_reason == NoCacheReason.NEVER_ENABLED
    assert "never enabled" in caplog.text


async def test_disabling_twice(rig: CacheRig) -> None:
    """The last reason counts."""
    cache = rig.request()
    cache.disable(NoCacheReason.DEFERRED)
    cache.disable(NoCacheReason.custom("why not"))
    assert cache.no_cache_reason == NoCacheReason.custom("why not")


@pytest.mark.parametrize("phase", sorted(ALL - {P.DISABLED, P.UNINIT}, key=str), ids=str)
async def test_disable_gives_back(phase: CachePhase, rig: CacheRig) -> None:
    """From any phase: readers closed, meta and store gone, key kept; it can be enabled again."""
    cache = await rig.in_phase(phase)
    key = cache.cache_key
    cache.disable(NoCacheReason.UPSTREAM_ERROR)
    assert cache.phase is CachePhase.DISABLED
    assert rig.store.readers == 0
    assert cache.maybe_cache_meta is None
    assert cache.maybe_cache_key is key
    cache.enable(rig.store)
    assert cache.maybe_cache_key is None


# ---------------------------------------------------------------------- the end


@pytest.mark.parametrize("phase", CachePhase, ids=str)
async def test_close_counts_once(phase: CachePhase, rig: CacheRig) -> None:
    """A request is counted once, however often it is closed, and keeps its phase for the log."""
    cache = await rig.in_phase(phase)
    cache.close()
    cache.close()
    assert cache.phase is phase
    assert rig.stats.requests == 1
    assert rig.stats.reasons == ({"Deferred": 1} if phase is P.DISABLED else {})


async def test_ages_are_counted(rig: CacheRig) -> None:
    """The age of what was served is told, that of what was not is not."""
    rig.store.put(rig.key(), rig.meta(), BODY)
    rig.clock.advance(5)
    cache = rig.request()
    found = await cache.cache_lookup()
    assert found is not None
    cache.cache_found(*found, HitStatus.FRESH)
    cache.close()
    missed = await rig.missed("other")
    rig.clock.advance(7)
    missed.close()
    assert (rig.stats.age_sum, rig.stats.age_max) == (5.0, 5.0)


async def test_subrequests_are_not_requests(rig: CacheRig) -> None:
    """What the proxy asks on its own behalf is not counted as asked by a client."""
    cache = await rig.missed()
    cache.tag_as_subrequest()
    assert cache.is_subrequest
    cache.close()
    assert rig.stats.requests == 0


def test_never_on_is_not_counted() -> None:
    """A request that has nothing to do with the cache is not in its numbers."""
    cache = HttpCache()
    stats = cache.stats
    before = stats.requests
    cache.close()
    assert stats.requests == before
