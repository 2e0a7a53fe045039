"""Serving what has expired: while it is fetched anew, and when that fails."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_error import ErrorSource
from tests.support.cache_origin import DOWNLOAD, HELLO
from tests.support.cache_proxy import CacheRig, CachingProxy
from tests.support.wire import Truncated

if TYPE_CHECKING:
    from pingora_core.upstreams import HttpPeer
    from pingora_error import Error
    from pingora_proxy import Session
    from tests.support.cache_proxy import CacheContext
    from tests.support.client import Response

_LOCK = ("x-lock", "1")
_GATE = ("x-gate", "head")
_ABORT = ("x-abort", "1")


def status_of(response: Response) -> str | None:
    return response.get("x-cache-status")


# ------------------------------------------------------------------------------ errors


async def _expired(cache: CacheRig, url: str, *fields: tuple[str, str]) -> None:
    assert status_of(await cache.send(url, *fields)) == "miss"
    cache.advance(1.1)


async def test_cache_serve_stale_network_error(cache: CacheRig) -> None:
    """An upstream that breaks the connection is made up for."""
    await _expired(cache, "/unique/abort/sleep")
    stale = await cache.send("/unique/abort/sleep", _ABORT)

    assert (stale.status, status_of(stale), stale.body) == (200, "stale", HELLO)
    assert (stale.get("age"), stale.get("x-upstream-status")) == ("1", None)
    assert cache.app.endings[-1].error is None


async def test_cache_serve_stale_network_error_mid_response(cache: CacheRig) -> None:
    """Once the new response has begun, the stale one is of no use any more."""
    await _expired(cache, "/unique/mid/sleep")
    async with await cache.client() as client:
        await client.send_request("GET", "/unique/mid/sleep", [("x-abort-body", "1")])
        head, _ = await client.read_final_head()
        assert head.get("x-cache-status") == "expired"
        with pytest.raises(Truncated):
            await client.body_of(head).read_all()
    await cache.app.ended(2)

    # The stale object is still there.
    assert status_of(await cache.send("/unique/mid/sleep", _ABORT)) == "stale"


@pytest.mark.parametrize("status", [500, 503, 504])
async def test_cache_serve_stale_on_500(cache: CacheRig, status: int) -> None:
    """An upstream that answers with an error of its own is made up for."""
    await _expired(cache, "/unique/error/sleep")
    stale = await cache.send("/unique/error/sleep", ("x-status", str(status)))

    assert (stale.status, status_of(stale), stale.body) == (200, "stale", HELLO)
    assert stale.get("x-upstream-status") == str(status)


async def test_an_error_of_the_clients_is_no_reason(cache: CacheRig) -> None:
    """What the upstream says about the request is passed on."""
    await _expired(cache, "/unique/404/sleep")
    response = await cache.send("/unique/404/sleep", ("x-status", "404"))

    assert (response.status, status_of(response)) == (404, "no-cache")


async def test_stale_when_the_upstream_cannot_be_reached(cache: CacheRig, dead: str) -> None:
    """A connection that is refused is made up for, within the window and not after it."""
    await _expired(
        cache, "/unique/refused/now", ("set-cache-control", "max-age=1, stale-if-error=9")
    )
    cache.app.upstream = dead
    stale = await cache.send("/unique/refused/now")
    cache.advance(10)
    failed = await cache.send("/unique/refused/now")

    assert (stale.status, status_of(stale), stale.body) == (200, "stale", HELLO)
    assert (failed.status, failed.body, status_of(failed)) == (502, b"", "no-cache")
    await cache.app.ended(3)
    assert (cache.app.stats.stale, cache.app.stats.uncached) == (1, 1)


@pytest.mark.parametrize(
    "said",
    [
        "max-age=1, must-revalidate",
        "s-maxage=1",
        "max-age=1, stale-if-error=0, stale-while-revalidate=0",
    ],
)
async def test_stale_only_where_it_is_allowed(cache: CacheRig, said: str) -> None:
    """An origin can forbid that anything stale is served."""
    await _expired(cache, "/unique/forbidden/revalidate_now", ("set-cache-control", said))
    response = await cache.send("/unique/forbidden/revalidate_now", _ABORT, _LOCK)

    assert response.status == 502


async def test_a_client_that_wants_it_confirmed_gets_nothing_stale(cache: CacheRig) -> None:
    """``no-cache`` in a request forbids it too."""
    await _expired(cache, "/unique/no-cache/now")
    response = await cache.send("/unique/no-cache/now", ("Cache-Control", "no-cache"), _ABORT)

    assert response.status == 502


async def test_stale_for_a_head_and_for_a_range(cache: CacheRig) -> None:
    """What is served stale answers whatever the client has asked for."""
    await _expired(cache, "/unique/parts/now")
    head = await cache.send("/unique/parts/now", _ABORT, method="HEAD")
    part = await cache.send("/unique/parts/now", _ABORT, ("Range", "bytes=6-"))

    assert (head.status, status_of(head), head.body) == (200, "stale", b"")
    assert (part.status, status_of(part), part.body) == (206, "stale", b"world")


async def test_those_who_wait_are_let_go(cache: CacheRig) -> None:
    """A writer that serves something stale tells those who wait, and each of them does the same."""
    url = "/unique/waiting/now"
    said = "max-age=1, stale-if-error=9, stale-while-revalidate=0"
    await _expired(cache, url, ("set-cache-control", said))
    first = cache.start(url, _LOCK, _GATE, _ABORT)
    await cache.origin.requests_arrived(2)
    other = cache.start(url, _LOCK, _ABORT)
    await cache.waiting(1)
    cache.origin.open("head", 2)  # a connection that was reused is tried once more

    assert {status_of(r) for r in await asyncio.gather(first, other)} == {"stale"}
    assert cache.app.lock.keys == 0


class _Retrying(CachingProxy):
    """Tries again once, elsewhere."""

    async def upstream_peer(self, session: Session, ctx: CacheContext) -> HttpPeer:
        if ctx.attempts:
            self.upstream = self.upstream_h2  # of which nobody speaks HTTP/1
        return await super().upstream_peer(session, ctx)

    async def error_while_proxy(
        self, peer: HttpPeer, session: Session, error: Error, ctx: CacheContext, client_reused: bool
    ) -> Error:
        error.set_retry(ctx.attempts == 1)
        return error


async def test_a_client_that_stalls_on_something_stale_holds_nobody(cache: CacheRig) -> None:
    """The lock is given back when the upstream has failed, and not when the client has it all."""
    url, allowed = "/unique/stalls/download", ("set-cache-control", "max-age=1, stale-if-error=60")
    await _expired(cache, url, allowed, _LOCK)
    cache.advance(5)
    async with await cache.client(receive_buffer=4096) as stalled:
        await stalled.send_request("GET", url, [_LOCK, _ABORT])
        head, _ = await stalled.read_final_head()
        assert head.get("x-cache-status") == "stale"
        other = await cache.send(url, _LOCK, _ABORT)

        assert (status_of(other), other.body) == ("stale", DOWNLOAD)


async def test_stale_comes_after_the_last_attempt() -> None:
    """An attempt that may be repeated is repeated first."""
    async with CacheRig(_Retrying) as cache:
        await _expired(cache, "/unique/retried/now")
        stale = await cache.send("/unique/retried/now", _ABORT)

        assert (stale.status, status_of(stale)) == (200, "stale")
        assert len(cache.origin.requests) == 2


class _Strict(CachingProxy):
    """Serves nothing stale for an error."""

    errors: list[ErrorSource | None]

    def should_serve_stale(self, session: Session, ctx: CacheContext, error: Error | None) -> bool:
        self.errors = [*getattr(self, "errors", ()), None if error is None else error.esource]
        return False


async def test_the_application_decides() -> None:
    """``should_serve_stale`` is told why, and can refuse."""
    async with CacheRig(_Strict) as cache:
        await _expired(cache, "/unique/strict/now")
        broken = await cache.send("/unique/strict/now", _ABORT)
        error = await cache.send("/unique/strict/now", ("x-status", "500"))

        assert isinstance(cache.app, _Strict)
        assert (broken.status, error.status) == (502, 500)
        assert cache.app.errors == [None, ErrorSource.UPSTREAM] * 2


# -------------------------------------------------------------------- in the background


async def test_stale_while_revalidate_many_readers(cache: CacheRig) -> None:
    """All who come while it is fetched anew are served the stale object, at once."""
    url = "/unique/many/sleep"
    assert status_of(await cache.send(url)) == "miss"
    cache.advance(1.1)
    responses = [await cache.send(url, _LOCK, _GATE) for _ in range(3)]
    cache.origin.open("head")

    assert [status_of(r) for r in responses] == ["stale-updating"] * 3
    assert {r.body for r in responses} == {HELLO}
    await cache.app.ended(5)
    assert len(cache.origin.requests) == 2
    assert cache.app.lock.keys == 0


async def test_stale_while_revalidate_single_request(cache: CacheRig) -> None:
    """The request after the one that was served stale finds the object fresh."""
    url = "/unique/single/sleep"
    assert status_of(await cache.send(url)) == "miss"
    cache.advance(1.1)
    assert status_of(await cache.send(url, _LOCK)) == "stale-updating"
    refresh = [await cache.app.ended(count) for count in (2, 3)]
    hit = await cache.send(url, _LOCK)

    assert (status_of(hit), hit.get("x-epoch")) == ("hit", "2")
    assert sorted(ending.is_subrequest for ending in refresh) == [False, True]
    stats = cache.app.stats
    # A request of the proxy's own is not counted as one.
    assert (stats.misses, stats.stale_updating, stats.hits, stats.expired) == (1, 1, 1, 0)


async def test_refreshed_by_a_304(cache: CacheRig) -> None:
    """In the background, too, the upstream is asked whether the object is still good."""
    url = "/unique/304/revalidate_now"
    await cache.send(url)
    cache.advance(1.1)
    assert status_of(await cache.send(url, _LOCK)) == "stale-updating"
    await cache.app.ended(3)

    assert cache.origin.requests[1].get("if-none-match") is not None
    assert status_of(await cache.send(url)) == "hit"


async def test_a_refresh_that_fails_is_tried_again_by_the_next(cache: CacheRig) -> None:
    """It harms nobody: its right to fetch is given back."""
    url = "/unique/failing/sleep"
    await cache.send(url)
    cache.advance(1.1)
    assert status_of(await cache.send(url, _LOCK, _ABORT)) == "stale-updating"
    await cache.app.ended(3)
    assert cache.app.lock.keys == 0
    assert status_of(await cache.send(url, _LOCK)) == "stale-updating"
    await cache.app.ended(5)

    assert status_of(await cache.send(url, _LOCK)) == "hit"


async def test_whoever_wants_a_new_one_waits_for_the_refresh(cache: CacheRig) -> None:
    """Behind the window a request waits for the refresh that goes on, and does not fetch."""
    url = "/unique/waits/sleep"
    await cache.send(url)
    cache.advance(1.1)
    assert status_of(await cache.send(url, _LOCK, _GATE)) == "stale-updating"
    cache.clock.advance(1.0)
    waiting = cache.start(url, _LOCK)
    await cache.waiting(1)
    cache.origin.open("head")

    assert status_of(await waiting) == "hit"
    assert len(cache.origin.requests) == 2


class _WithoutLock(CachingProxy):
    """Refreshes in the background though nobody holds a lock."""

    def should_serve_stale(self, session: Session, ctx: CacheContext, error: Error | None) -> bool:
        return True


@pytest.mark.parametrize("is_locking", [True, False], ids=["lock", "no lock"])
async def test_one_refresh_for_many_readers(is_locking: bool) -> None:
    """With a lock and without, at any number of readers, one refresh is under way at a time."""
    async with CacheRig(_WithoutLock) as cache:
        cache.app.is_locking = is_locking
        url = "/unique/readers/sleep"
        await cache.send(url)
        cache.advance(1.1)
        tasks = [cache.start(url, _GATE) for _ in range(20)]
        responses = await asyncio.gather(*tasks)
        cache.origin.open("head")
        await cache.app.ended(22)

        assert {status_of(r) for r in responses} == {"stale-updating"}
        assert len(cache.origin.requests) == 2
        assert status_of(await cache.send(url)) == "hit"


async def test_a_refresh_of_a_variant_is_of_that_variant() -> None:
    """What is fetched in the background is asked for as the client has."""
    async with CacheRig(_WithoutLock) as cache:
        vary = ("set-vary", "accept")
        for accept in ("image/png", "image/jpeg"):
            await cache.send("/unique/variant/vary", vary, ("accept", accept))
        cache.advance(1.1)
        stale = await cache.send("/unique/variant/vary", vary, ("accept", "image/jpeg"))
        await cache.app.ended(4)

        assert status_of(stale) == "stale-updating"
        assert cache.origin.requests[2].get("accept") == "image/jpeg"
        hit = await cache.send("/unique/variant/vary", vary, ("accept", "image/jpeg"))
        assert (status_of(hit), hit.get("x-epoch")) == ("hit", "3")


async def test_the_refresh_of_a_part_is_of_the_whole() -> None:
    """A range, a condition and a HEAD of the client's do not make a part of what is stored."""
    async with CacheRig(_WithoutLock) as cache:
        url = "/unique/whole/now"
        await cache.send(url)
        for count, (method, field) in enumerate(
            [("GET", ("Range", "bytes=0-1")), ("HEAD", ("If-None-Match", '"x"'))]
        ):
            cache.advance(1.1)
            assert status_of(await cache.send(url, field, method=method)) == "stale-updating"
            await cache.app.ended(3 + 3 * count)
            hit = await cache.send(url)
            assert (status_of(hit), hit.body) == ("hit", HELLO)
            await cache.app.ended(4 + 3 * count)


async def test_a_refresh_ends_with_the_service(cache: CacheRig) -> None:
    """One that still waits for the upstream when the service stops is given up."""
    url = "/unique/stop/sleep"
    await cache.send(url)
    cache.advance(1.1)
    assert status_of(await cache.send(url, _LOCK, _GATE)) == "stale-updating"
    await cache.origin.requests_arrived(2)
    cache.proxy.begin_shutdown()
    await cache.proxy.ended()

    assert cache.app.lock.keys == 0
    assert cache.app.stats.fills_active == 0
