"""A response on its way into the store, with its request or without it.

Source: the miss handler of HttpCache in pingora-cache/src/lib.rs.
"""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest

from pingora_cache._background import drain_background
from pingora_cache.lock import LockStatus
from pingora_cache.phase import CachePhase, CachePhaseError, HitStatus
from pingora_cache.reason import NoCacheReason
from pingora_cache.storage import RESPONSE_TOO_LARGE, PurgeAction, PurgeResult
from pingora_error import Error, ErrorType
from tests.support.cache_machine import BODY, VARIANCE, CacheRig
from tests.support.cache_plain_eviction import PlainEviction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pingora_cache.cache import HttpCache
    from pingora_cache.fill import CacheFill


@pytest.fixture
async def rig() -> AsyncIterator[CacheRig]:
    """A store and a lock, of which nothing must be left."""
    rig = CacheRig()
    yield rig
    await drain_background(1)
    rig.check()


def fill_of(cache: HttpCache) -> CacheFill:
    """Look at the fill that a request has not given away."""
    fill = cache.miss_handler
    assert fill is not None
    return fill


async def stored_body(rig: CacheRig, primary: str = "a") -> bytes | None:
    """Look up what a new request finds."""
    found = await rig.store.lookup(rig.key(primary))
    if found is None:
        return None
    pieces = []
    while piece := await found[1].read_body():
        pieces.append(piece)
    found[1].close()
    return b"".join(pieces)


# ---------------------------------------------------------------------- in line


async def test_filling_in_line(rig: CacheRig) -> None:
    """Set the handler, write, finish: the object is there, and those who wait look it up."""
    cache = await rig.missed()
    await cache.set_miss_handler()
    fill = fill_of(cache)
    assert (fill.holds_lock, fill.is_ended, rig.stats.fills_active) == (True, False, 1)
    await fill.write(b"hel")
    await fill.write(b"lo", end=True)
    assert await stored_body(rig) is None
    finished = await cache.finish_miss_handler()
    assert finished is not None
    assert finished.published
    assert await stored_body(rig) == BODY
    assert await cache.finish_miss_handler() is None
    assert (fill.holds_lock, fill.is_ended) == (False, True)
    assert (rig.stats.fills, rig.stats.bytes_filled, rig.stats.fills_active) == (1, 5, 0)
    assert repr(fill) == "<CacheFill of 5 bytes, ended>"


async def test_once(rig: CacheRig) -> None:
    """There is one fill, and what it stores is settled when it begins."""
    cache = await rig.missed()
    await cache.set_miss_handler()
    with pytest.raises(CachePhaseError, match="set_miss_handler"):
        await cache.set_miss_handler()
    await cache.finish_miss_handler()
    with pytest.raises(CachePhaseError, match="set_miss_handler"):
        await cache.set_miss_handler()
    with pytest.raises(CachePhaseError, match="set_cache_meta"):
        cache.set_cache_meta(rig.meta())
    with pytest.raises(CachePhaseError, match="update_variance"):
        cache.update_variance(VARIANCE)


async def test_aborted_in_line(rig: CacheRig) -> None:
    """Nothing is left of what was given up."""
    cache = await rig.missed()
    await cache.set_miss_handler()
    await fill_of(cache).write(BODY)
    await cache.abort_miss_handler()
    await cache.abort_miss_handler()
    assert await cache.finish_miss_handler() is None
    assert await stored_body(rig) is None
    assert (rig.stats.fills, rig.stats.fill_errors) == (0, 1)


async def test_no_meta_no_fill(rig: CacheRig) -> None:
    """A fill needs to know what it stores."""
    cache = rig.request()
    assert await cache.cache_lookup() is None
    cache.cache_miss()
    with pytest.raises(CachePhaseError, match="set_miss_handler"):
        await cache.set_miss_handler()
    with pytest.raises(CachePhaseError, match="update_variance"):
        cache.update_variance(None)
    assert cache.is_cache_lock_writer


async def test_an_expired_object_is_replaced(rig: CacheRig) -> None:
    """The stale one is found until the new one is finished; its reader is let go at once."""
    cache = await rig.stored(fresh=-1)
    cache.set_cache_meta(rig.meta())
    assert cache.phase is CachePhase.EXPIRED
    assert rig.store.readers == 0
    await cache.set_miss_handler()
    await fill_of(cache).write(b"new", end=True)
    assert await stored_body(rig) == BODY
    await cache.finish_miss_handler()
    assert await stored_body(rig) == b"new"


# ---------------------------------------------------------------------- taken


async def test_a_fill_outlives_its_request(rig: CacheRig) -> None:
    """Taken, it goes on in another task after the client has left."""
    cache = await rig.missed()
    await cache.set_miss_handler()
    fill = cache.take_fill()
    assert cache.miss_handler is None
    assert await cache.finish_miss_handler() is None

    async def go_on() -> None:
        await fill.write(BODY, end=True)
        await fill.finish()

    filling = asyncio.create_task(go_on())
    cache.close()
    await filling
    assert await stored_body(rig) == BODY
    with pytest.raises(CachePhaseError, match="take_fill"):
        cache.take_fill()


async def test_begun_in_another_task(rig: CacheRig) -> None:
    """The handler may be set by the task that fills, not by the one that asked."""
    cache = await rig.missed()
    await asyncio.create_task(cache.set_miss_handler())
    fill = cache.take_fill()
    await asyncio.create_task(fill.write(BODY, end=True))
    await asyncio.create_task(fill.finish())
    assert await stored_body(rig) == BODY


async def test_a_fill_of_a_request_that_disabled_caching(rig: CacheRig) -> None:
    """What was taken is not disturbed by what becomes of the request."""
    cache = await rig.missed()
    await cache.set_miss_handler()
    fill = cache.take_fill()
    cache.disable(NoCacheReason.INTERNAL_ERROR)
    assert fill.holds_lock
    await fill.finish()
    assert await stored_body(rig) == b""


async def test_an_ended_fill(rig: CacheRig) -> None:
    """It can be closed and aborted again, but not written."""
    cache = await rig.missed()
    await cache.set_miss_handler()
    fill = cache.take_fill()
    fill.close()
    fill.close()
    await fill.abort()
    assert fill.streaming_write_tag is None
    with pytest.raises(RuntimeError, match="has ended"):
        await fill.write(b"")
    with pytest.raises(RuntimeError, match="has ended"):
        await fill.finish()
    assert rig.stats.fill_errors == 1


async def test_a_dropped_fill_is_counted(rig: CacheRig) -> None:
    """A fill that nobody ended is not active any more, and its lock is free."""
    cache = await rig.missed()
    await cache.set_miss_handler()
    cache.take_fill()
    gc.collect()
    assert (rig.stats.fills_active, rig.stats.fill_errors) == (0, 1)
    assert rig.store.writers == 1
    rig.store.writing[0][1].close()


async def test_a_fill_that_is_closed_while_it_finishes(rig: CacheRig) -> None:
    """Too late is too late: it is counted once, as what it was counted first."""
    cache = await rig.missed()
    await cache.set_miss_handler()
    gate = rig.store.gate("published")
    fill = fill_of(cache)
    finishing = asyncio.create_task(cache.finish_miss_handler())
    await asyncio.sleep(0)
    cache.close()
    gate.set()
    await finishing
    assert fill.is_ended
    assert (rig.stats.fills_active, rig.stats.fills + rig.stats.fill_errors) == (0, 1)


async def test_a_fill_that_is_closed_while_it_writes(rig: CacheRig) -> None:
    """What the store says to that is an error like any other; the fill is counted once."""
    cache = await rig.missed()
    await cache.set_miss_handler()
    fill = cache.take_fill()
    gate = rig.store.gate("write_body")
    rig.store.faults["write_body"] = Error(ErrorType.WRITE_ERROR)
    writing = asyncio.create_task(fill.write(BODY))
    await asyncio.sleep(0)
    fill.close()
    gate.set()
    with pytest.raises(Error, match="WriteError"):
        await writing
    assert (rig.stats.fills_active, rig.stats.fill_errors) == (0, 1)


# ---------------------------------------------------------------------- trouble


@pytest.mark.parametrize("error", [Error(ErrorType.WRITE_ERROR), OSError(28, "full")])
@pytest.mark.parametrize("call", ["write_body", "finish"])
async def test_a_store_that_fails(rig: CacheRig, call: str, error: Exception) -> None:
    """The fill has ended, the error is one of ours, and the next one may try."""
    cache = await rig.missed()
    await cache.set_miss_handler()
    fill = fill_of(cache)
    waiting = rig.request()
    assert await waiting.cache_lookup() is None
    rig.store.faults[call] = error
    with pytest.raises(Error) as raised:
        await (fill.write(BODY) if call == "write_body" else fill.finish())
    assert raised.value is error or raised.value.cause is error
    assert fill.is_ended
    assert await waiting.cache_lock_wait() is LockStatus.TRANSIENT_ERROR
    assert (rig.stats.fill_errors, rig.store.writers) == (1, 0)
    assert await stored_body(rig) is None


async def test_a_store_that_cannot_abort(rig: CacheRig) -> None:
    """The fill has ended nevertheless."""
    cache = await rig.missed()
    await cache.set_miss_handler()
    rig.store.faults["abort"] = OSError(5, "broken")
    with pytest.raises(Error, match="abort"):
        await cache.abort_miss_handler(NoCacheReason.ORIGIN_NOT_CACHE)
    assert rig.store.writers == 0


@pytest.mark.parametrize("error", [Error(ErrorType.WRITE_ERROR), OSError(28, "full")])
async def test_a_store_that_does_not_begin(rig: CacheRig, error: Exception) -> None:
    """The permit stays with the request, which may try again or switch caching off."""
    cache = await rig.missed()
    rig.store.faults["get_miss_handler"] = error
    with pytest.raises(Error):
        await cache.set_miss_handler()
    assert cache.is_cache_lock_writer
    assert rig.stats.fill_errors == 1
    await cache.set_miss_handler()
    await cache.finish_miss_handler()


async def test_cancelled_before_it_begins(rig: CacheRig) -> None:
    """The permit stays with the request."""
    cache = await rig.missed()
    rig.store.gate("get_miss_handler")
    beginning = asyncio.create_task(cache.set_miss_handler())
    await asyncio.sleep(0)
    beginning.cancel()
    await asyncio.wait([beginning])
    assert cache.is_cache_lock_writer
    assert cache.miss_handler is None


async def test_a_request_that_ends_before_its_fill_begins(rig: CacheRig) -> None:
    """Nobody could take the fill: it is given up, and the others are told."""
    cache = await rig.missed()
    gate = rig.store.gate("get_miss_handler")
    beginning = asyncio.create_task(cache.set_miss_handler())
    await asyncio.sleep(0)
    cache.close()
    gate.set()
    with pytest.raises(Error, match="ended before its fill"):
        await beginning
    assert rig.store.writers == 0


@pytest.mark.parametrize(("size", "is_stored"), [(4, True), (5, False)])
async def test_the_largest_size(rig: CacheRig, size: int, is_stored: bool) -> None:
    """That size is allowed; beyond it the fill ends, and nobody waits for another one."""
    cache = await rig.missed(max_size=4)
    await cache.set_miss_handler()
    fill = cache.take_fill()
    waiting = rig.request()
    assert await waiting.cache_lookup() is None
    await fill.write(b"12")
    if is_stored:
        await fill.write(b"34", end=True)
        await fill.finish()
        assert await waiting.cache_lock_wait() is LockStatus.DONE
        return
    with pytest.raises(Error) as raised:
        await fill.write(b"x" * (size - 2))
    assert raised.value.etype == RESPONSE_TOO_LARGE
    assert await waiting.cache_lock_wait() is LockStatus.GIVE_UP
    assert fill.bytes_written == 2
    assert await stored_body(rig) is None


async def test_a_store_that_finds_it_too_large(rig: CacheRig) -> None:
    """Its own limit means the same to those who wait."""
    cache = await rig.missed()
    await cache.set_miss_handler()
    waiting = rig.request()
    assert await waiting.cache_lookup() is None
    rig.store.faults["write_body"] = Error(RESPONSE_TOO_LARGE)
    with pytest.raises(Error, match="ResponseTooLarge"):
        await fill_of(cache).write(BODY)
    assert await waiting.cache_lock_wait() is LockStatus.GIVE_UP


# ---------------------------------------------------------------------- reading along


@pytest.fixture
async def streaming() -> AsyncIterator[CacheRig]:
    """A store that lets readers follow a write."""
    rig = CacheRig(streaming=True)
    yield rig
    rig.check()


async def test_reading_along(streaming: CacheRig) -> None:
    """The request reads what it writes, apart from the writing."""
    cache = await streaming.missed()
    await cache.set_miss_handler()
    assert cache.supports_streaming_partial_write
    reader = cache.miss_body_reader
    assert reader is not None
    fill = cache.take_fill()
    reading = asyncio.create_task(reader.read_body())
    await asyncio.sleep(0)
    await fill.write(BODY, end=True)
    assert await reading == BODY
    await fill.finish()
    assert await reader.read_body() is None
    await cache.finish_hit_handler()
    assert cache.miss_body_reader is None
    assert streaming.store.readers == 0


async def test_a_reader_that_is_taken(streaming: CacheRig) -> None:
    """It does not end with the request."""
    cache = await streaming.missed()
    await cache.set_miss_handler()
    reader = cache.take_miss_body_reader()
    assert reader is not None
    assert cache.take_miss_body_reader() is None
    fill = cache.take_fill()
    cache.close()
    assert streaming.store.readers == 1
    reader.close()
    fill.close()


@pytest.mark.parametrize("error", [None, OSError(5, "broken")])
async def test_a_store_that_does_not_find_what_it_writes(
    streaming: CacheRig, error: Exception | None
) -> None:
    """Such a fill is given up: nobody could be served from it."""
    cache = await streaming.missed()
    if error is not None:
        streaming.store.faults["lookup_streaming_write"] = error
    streaming.store.loses_writes = True
    with pytest.raises(Error, match="the cache store"):
        await cache.set_miss_handler()
    assert cache.miss_handler is None


@pytest.mark.parametrize("at", ["lookup_streaming_write", "found_streaming_write"])
async def test_a_request_that_ends_while_it_opens_its_reader(streaming: CacheRig, at: str) -> None:
    """Reader and fill are given up."""
    cache = await streaming.missed()
    gate = streaming.store.gate(at)
    beginning = asyncio.create_task(cache.set_miss_handler())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    fill = cache.miss_handler
    assert fill is not None
    cache.close()
    assert fill.is_ended
    gate.set()
    with pytest.raises(Error):
        await beginning
    assert streaming.store.readers == 0


# ---------------------------------------------------------------------- eviction


async def _store(rig: CacheRig, primary: str, body: bytes) -> None:
    cache = await rig.missed(primary)
    await cache.set_miss_handler()
    await fill_of(cache).write(body, end=True)
    await cache.finish_miss_handler()
    cache.close()


async def test_what_is_evicted_is_purged(rig: CacheRig) -> None:
    """The manager names objects; they go behind the fill, also if it names few at a time."""
    rig.eviction = eviction = PlainEviction(10)
    for primary in "abc":
        await _store(rig, primary, b"123")
    assert eviction.total_size == 9
    await _store(rig, "d", b"1234567")
    assert await drain_background(1) == 0
    assert eviction.total_size == 10
    assert set(rig.store.objects) == {rig.key(name).combined_hash for name in "cd"}
    assert rig.stats.evictions == 2


async def test_a_hit_is_told_to_the_manager(rig: CacheRig) -> None:
    """It keeps what is used; what it does not know it knows from then on."""
    rig.eviction = eviction = PlainEviction(10)
    cache = await rig.stored()
    assert eviction.sizes == {cache.cache_key.to_compact(): 5}
    assert eviction.calls == ["access"]


async def test_a_partial_hit_is_not(streaming: CacheRig) -> None:
    """What is still being written is admitted when it is there."""
    streaming.eviction = eviction = PlainEviction(10)
    cache = await streaming.missed()
    await cache.set_miss_handler()
    along = streaming.request()
    found = await along.cache_lookup()
    assert found is not None
    along.cache_found(*found, HitStatus.FRESH)
    assert eviction.calls == []
    await cache.finish_miss_handler()
    assert eviction.calls == ["admit"]


async def test_an_object_that_grew(rig: CacheRig) -> None:
    """What a store appended counts by what was added."""
    rig.eviction = eviction = PlainEviction(1000)
    rig.store.appends = True
    await _store(rig, "a", b"123")
    assert eviction.calls == ["increment_weight"]
    assert eviction.total_size == 3


async def test_a_purge_of_what_is_evicted_that_fails(
    rig: CacheRig, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are purged nevertheless; the counter and the log tell."""
    rig.eviction = PlainEviction(6)
    for primary in "ab":
        await _store(rig, primary, b"123")
    rig.store.faults["purge"] = OSError(5, "broken")
    await _store(rig, "c", b"123456")
    await drain_background(1)
    assert "was evicted and could not be purged" in caplog.text
    assert (rig.stats.purge_errors, rig.stats.evictions) == (1, 1)
    assert len(rig.store.objects) == 2


@pytest.mark.parametrize(("action", "sizes"), [(PurgeAction.DELETE, []), (PurgeAction.EXPIRE, [5])])
async def test_a_purge_is_told_to_the_manager(
    rig: CacheRig, action: PurgeAction, sizes: list[int]
) -> None:
    """What is gone does not count any more; what has only expired does."""
    rig.eviction = eviction = PlainEviction(10)
    await _store(rig, "a", BODY)
    assert await rig.request().purge(action=action)
    assert list(eviction.sizes.values()) == sizes


async def test_a_purge_between_publishing_and_admission(rig: CacheRig) -> None:
    """No entry of the manager is left behind for what was purged at the last moment."""
    rig.eviction = eviction = PlainEviction(10)
    cache = await rig.missed()
    await cache.set_miss_handler()
    gate = rig.store.gate("published")
    finishing = asyncio.create_task(fill_of(cache).finish())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await rig.request().purge() is PurgeResult.PURGED
    gate.set()
    finished = await finishing
    assert finished.published
    assert eviction.sizes == {}
    assert rig.store.objects == {}
    await _store(rig, "a", BODY)
    assert eviction.total_size == 5


async def test_a_purge_of_another_store(rig: CacheRig) -> None:
    """The same key in another store is another object."""
    rig.eviction = eviction = PlainEviction(10)
    cache = await rig.missed()
    await cache.set_miss_handler()
    gate = rig.store.gate("published")
    finishing = asyncio.create_task(fill_of(cache).finish())
    await asyncio.sleep(0)
    other = CacheRig(eviction=PlainEviction(10))
    other.store.put(other.key(), other.meta(), BODY)
    assert await other.request().purge()
    gate.set()
    await finishing
    assert eviction.total_items == 1
    other.check()


async def test_two_fills_of_one_key(rig: CacheRig) -> None:
    """Two that finish at the same time both hear of a purge in between."""
    rig.eviction = eviction = PlainEviction(10)
    gate = rig.store.gate("published")
    finishing = []
    for _ in range(2):
        cache = await rig.missed()
        await cache.set_miss_handler()
        finishing.append(asyncio.create_task(fill_of(cache).finish()))
        await asyncio.sleep(0)
        rig.store.objects.clear()
    await asyncio.sleep(0)
    rig.store.put(rig.key(), rig.meta(), BODY)
    assert await rig.request().purge()
    gate.set()
    await asyncio.gather(*finishing)
    assert eviction.sizes == {}


async def test_what_was_not_published_is_not_admitted(rig: CacheRig) -> None:
    """Purged while it was written, it is nowhere."""
    rig.eviction = eviction = PlainEviction(10)
    cache = await rig.missed()
    await cache.set_miss_handler()
    assert await rig.request().purge()
    await cache.finish_miss_handler()
    assert eviction.sizes == {}


async def test_a_failed_fill_is_not_admitted(rig: CacheRig) -> None:
    """Nor is what the store could not finish, and no trace of the attempt is kept."""
    rig.eviction = eviction = PlainEviction(10)
    cache = await rig.missed()
    await cache.set_miss_handler()
    rig.store.faults["finish"] = OSError(28, "full")
    with pytest.raises(Error):
        await cache.finish_miss_handler()
    assert eviction.sizes == {}
