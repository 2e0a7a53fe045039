"""Many requests for one object: one fetches it, the others wait, but not for ever."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pingora_cache.reason import NoCacheReason
from tests.support.cache_origin import HELLO
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.cache_proxy import CacheRig
    from tests.support.client import Response

_LOCK = ("x-lock", "1")
_GATE = ("x-gate", "head")
_MINUTE = ("set-cache-control", "public, max-age=60")
_NO_SWR = ("set-cache-control", "public, max-age=1, stale-while-revalidate=0")


def status_of(response: Response) -> str | None:
    return response.get("x-cache-status")


async def test_cache_lock_miss_hit(cache: CacheRig) -> None:
    """Without a lock all fetch; with it the first fetches, and the others wait and hit."""
    url = "/unique/without/sleep"
    tasks = [cache.start(url, _GATE) for _ in range(3)]
    await cache.origin.requests_arrived(3)
    cache.origin.open("head", 3)
    assert [status_of(r) for r in await asyncio.gather(*tasks)] == ["miss"] * 3
    assert status_of(await cache.send(url)) == "hit"

    url = "/unique/with/sleep"
    first = cache.start(url, _GATE, _LOCK, _MINUTE)
    await cache.origin.requests_arrived(4)
    others = [cache.start(url, _LOCK) for _ in range(2)]
    await cache.waiting(2)
    cache.advance(0.95)
    cache.origin.open("head")

    assert status_of(await first) == "miss"
    hits = await asyncio.gather(*others)
    assert [status_of(r) for r in hits] == ["hit", "hit"]
    assert [r.get("x-cache-lock-time-ms") for r in hits] == ["950", "950"]
    assert {r.body for r in hits} == {HELLO}
    assert len(cache.origin.requests) == 4


async def test_cache_lock_expired(cache: CacheRig) -> None:
    """What has expired is fetched once as well, where nothing stale may be served."""
    url = "/unique/expired/sleep"
    assert status_of(await cache.send(url, _NO_SWR)) == "miss"
    cache.advance(1.1)
    first = cache.start(url, _LOCK, _GATE, _MINUTE)
    await cache.origin.requests_arrived(2)
    others = [cache.start(url, _LOCK) for _ in range(2)]
    await cache.waiting(2)
    cache.origin.open("head")

    assert status_of(await first) == "expired"
    assert [status_of(r) for r in await asyncio.gather(*others)] == ["hit", "hit"]


async def test_those_who_wait_for_a_revalidation_hit(cache: CacheRig) -> None:
    """A 304 lets those go who wait, to the object that is fresh again."""
    url = "/unique/revalidated/revalidate_now"
    await cache.send(url, _NO_SWR)
    cache.advance(1.1)
    first = cache.start(url, _LOCK, _GATE, _NO_SWR)
    await cache.origin.requests_arrived(2)
    other = cache.start(url, _LOCK)
    await cache.waiting(1)
    cache.origin.open("head")

    assert (status_of(await first), status_of(await other)) == ("revalidated", "hit")


async def test_cache_lock_network_error(cache: CacheRig) -> None:
    """The failure of the one that fetches is its own: one of those who wait is the next."""
    url = "/unique/error/sleep"
    first = cache.start(url, _LOCK, _GATE, ("x-abort", "1"))
    await cache.origin.requests_arrived(1)
    others = [cache.start(url, _LOCK) for _ in range(2)]
    await cache.waiting(2)
    cache.origin.open("head")

    assert (await first).status == 502
    responses = await asyncio.gather(*others)
    assert sorted(str(status_of(r)) for r in responses) == ["hit", "miss"]
    assert {r.body for r in responses} == {HELLO}


async def test_cache_lock_uncacheable(cache: CacheRig) -> None:
    """For what turns out not to be cacheable nobody waits on."""
    url = "/unique/uncacheable/sleep"
    first = cache.start(url, _LOCK, _GATE, ("set-cache-control", "no-store"))
    await cache.origin.requests_arrived(1)
    others = [cache.start(url, _LOCK) for _ in range(2)]
    await cache.waiting(2)
    cache.origin.open("head")

    responses = [await first, *await asyncio.gather(*others)]
    assert [status_of(r) for r in responses] == ["no-cache"] * 3
    assert {r.body for r in responses} == {HELLO}
    reasons = [ending.reason for ending in cache.app.endings]
    assert reasons.count(NoCacheReason.CACHE_LOCK_GIVE_UP) == 2


async def test_cache_lock_timeout(cache: CacheRig) -> None:
    """One that takes too long is replaced, and what its successor brings is a hit for the third."""
    url = "/unique/timeout/sleep"
    first = cache.start(url, _LOCK, _GATE)
    await cache.origin.requests_arrived(1)
    cache.app.time.advance(0.05)
    second = cache.start(url, _LOCK, _MINUTE)
    await cache.waiting(1)
    cache.app.time.advance(1.95)
    assert status_of(await second) == "miss"
    third = await cache.send(url, _LOCK)
    cache.origin.open("head")

    assert (status_of(third), third.body) == ("hit", HELLO)
    assert (status_of(await first), (await first).body) == ("miss", HELLO)


async def test_cache_lock_wait_timeout(cache: CacheRig) -> None:
    """However often the one that fetches fails, nobody waits longer than they may altogether."""
    url = "/unique/wait/sleep"
    fields = (_LOCK, _GATE, ("x-abort", "1"))
    tasks = [cache.start(url, *fields) for _ in range(8)]
    for writer in (1, 2):
        await cache.origin.requests_arrived(writer)
        await cache.waiting(8 - writer)
        cache.app.time.advance(0.999)
        cache.origin.open("head")
    await cache.origin.requests_arrived(3)
    await cache.waiting(5)
    cache.app.time.advance(0.002)
    await cache.origin.requests_arrived(8)
    cache.origin.open("head", 6)

    responses = await asyncio.gather(*tasks)
    assert {r.status for r in responses} == {502}
    waited = [r.get("x-cache-lock-time-ms") for r in responses]
    assert waited.count(None) == 1
    assert max(int(ms) for ms in waited if ms is not None) <= 2000
    assert cache.app.stats.lock_timeouts == 5


async def test_a_lock_is_given_back_when_its_client_has_gone(cache: CacheRig) -> None:
    """A request that ends without an answer frees those who wait for it."""
    url = "/unique/gone/sleep"
    first = cache.start(url, _LOCK, _GATE)
    await cache.origin.requests_arrived(1)
    other = cache.start(url, _LOCK)
    await cache.waiting(1)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    cache.origin.open("head")

    assert status_of(await other) == "hit"  # it was fetched nevertheless
    assert cache.app.lock.keys == 0


async def test_one_that_waits_and_leaves_is_not_counted_on(cache: CacheRig) -> None:
    """A client that leaves while its request waits does not disturb the others."""
    url = "/unique/leaving/sleep"
    first = cache.start(url, _LOCK, _GATE, _MINUTE)
    await cache.origin.requests_arrived(1)
    leaving, staying = cache.start(url, _LOCK), cache.start(url, _LOCK)
    await cache.waiting(2)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    cache.origin.open("head")

    assert (status_of(await first), status_of(await staying)) == ("miss", "hit")
    await cache.app.ended(3)
    assert cache.app.lock.waiters == 0


async def test_fresh_at_once_and_never(cache: CacheRig) -> None:
    """What is stale when it arrives is handed from one to the next, but not for ever."""
    url = "/unique/ineffective/sleep"
    never = ("set-cache-control", "public, max-age=0, stale-while-revalidate=0")
    etag = ("set-etag", '"e"')
    tasks = [cache.start(url, _LOCK, never, etag) for _ in range(24)]
    responses = await asyncio.gather(*tasks)

    assert {(r.status, r.body) for r in responses} == {(200, HELLO)}
    statuses = {status_of(r) for r in responses}
    assert statuses <= {"miss", "expired", "hit", "no-cache"}
    await eventually(lambda: cache.app.lock.keys == 0, "no locks")


async def test_force_fresh_after_a_wait(cache: CacheRig) -> None:
    """The hit filter is asked about what was waited for, too."""
    url = "/unique/force-fresh/sleep"
    never = ("set-cache-control", "public, max-age=0, stale-while-revalidate=0")
    first = cache.start(url, _LOCK, _GATE, never, ("set-etag", '"e"'))
    await cache.origin.requests_arrived(1)
    other = cache.start(url, _LOCK, ("x-force-fresh", "1"))
    await cache.waiting(1)
    cache.origin.open("head")

    assert status_of(await first) == "miss"
    response = await other
    assert (status_of(response), response.get("x-upstream-status")) == ("hit", None)
    assert response.get("x-cache-lock-time-ms") is not None


async def test_force_miss_after_a_wait(cache: CacheRig) -> None:
    """Whoever takes nothing from the cache fetches after having waited."""
    url = "/unique/force-miss/sleep"
    await cache.send(url, _LOCK, _MINUTE)
    fields = (_LOCK, _MINUTE, ("x-force-miss", "1"))
    first = cache.start(url, _GATE, *fields)
    await cache.origin.requests_arrived(2)
    other = cache.start(url, *fields)
    await cache.waiting(1)
    cache.origin.open("head")

    assert status_of(await first) == "miss"
    response = await other
    assert (status_of(response), response.get("x-upstream-status")) == ("miss", "200")
    assert response.get("x-cache-lock-time-ms") is not None
