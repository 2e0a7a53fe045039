"""A proxy that caches: misses, hits, expiry and revalidation, as in the original's test_cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.cache_origin import ETAG, HELLO, LAST_MODIFIED
from tests.support.wire import CHUNKED, Truncated

if TYPE_CHECKING:
    from tests.support.cache_proxy import CacheRig
    from tests.support.client import Response

_LATER = "Tue, 03 May 2022 01:11:39 GMT"
_EARLIER = "Tue, 03 May 2022 00:11:39 GMT"


def status_of(response: Response) -> str | None:
    return response.get("x-cache-status")


def epoch_of(response: Response) -> int:
    return int(response.get("x-epoch") or -1)


async def test_basic_caching(cache: CacheRig) -> None:
    """A response is fetched, served again, and fetched anew when it has expired."""
    url = "/unique/basic/now"
    miss = await cache.send(url)
    hit = await cache.send(url)
    cache.advance(1.1)
    expired = await cache.send(url)

    assert [status_of(r) for r in (miss, hit, expired)] == ["miss", "hit", "expired"]
    assert [r.body for r in (miss, hit, expired)] == [HELLO] * 3
    assert epoch_of(miss) == epoch_of(hit) < epoch_of(expired)
    assert (miss.get("age"), hit.get("age")) == (None, "0")
    assert len(cache.origin.requests) == 2
    await cache.app.ended(3)
    assert (cache.app.stats.bytes_filled, cache.app.stats.bytes_served) == (22, 11)


async def test_purge(cache: CacheRig) -> None:
    """PURGE removes what is there, says so, and says when nothing was."""
    url = "/unique/purge/test2"
    statuses = [status_of(await cache.send(url)) for _ in range(2)]
    purged = await cache.send(url, method="PURGE")
    again = await cache.send(url, method="PURGE")

    assert statuses == ["miss", "hit"]
    assert (purged.status, purged.body, purged.get("content-length")) == (200, b"", "0")
    assert purged.get("cache-control") == "private, no-store"
    assert purged.get("server") is not None
    assert (again.status, again.body) == (404, b"")
    assert status_of(await cache.send(url)) == "miss"


async def test_purge_reject(cache: CacheRig) -> None:
    """PURGE without caching is not allowed."""
    response = await cache.send("/", ("x-bypass-cache", "1"), method="PURGE")

    assert (response.status, response.body) == (405, b"")
    assert not cache.origin.requests


async def test_cache_miss_convert(cache: CacheRig) -> None:
    """The upstream is asked for the whole response without conditions, whatever the client wants."""
    conditional = await cache.send("/unique/a/no_if_headers", ("If-Modified-Since", _LATER))
    ranged = await cache.send("/unique/b/no_if_headers", ("Range", "bytes=0-1"))

    assert (conditional.status, status_of(conditional), conditional.body) == (200, "miss", HELLO)
    assert (ranged.status, status_of(ranged), ranged.body) == (206, "miss", b"he")


async def test_cache_miss_convert_of_unknown_length(cache: CacheRig) -> None:
    """A range of what has no known length is answered with the whole, as in the original's test."""
    response = await cache.send(
        "/unique/c/no_if_headers", ("Range", "bytes=0-1"), ("x-chunked", "1")
    )

    assert (response.status, status_of(response), response.body) == (200, "miss", HELLO)


async def test_cache_http10(cache: CacheRig) -> None:
    """What came like from an HTTP/1.0 server is cached, and sent on in HTTP/1.1."""
    fields = ("x-upstream-fake-http10", "1")
    miss = await cache.send("/unique/http10/now", fields)
    hit = await cache.send("/unique/http10/now", fields)
    cache.advance(1.1)
    expired = await cache.send("/unique/http10/now", fields)

    assert [status_of(r) for r in (miss, hit, expired)] == ["miss", "hit", "expired"]
    assert [r.body for r in (miss, hit, expired)] == [HELLO] * 3
    assert all(r.head.start_line.startswith("HTTP/1.1 200") for r in (miss, hit, expired))
    # The length of what is stored is known.
    assert [r.framing for r in (miss, hit, expired)] == [CHUNKED, len(HELLO), CHUNKED]
    assert epoch_of(miss) == epoch_of(hit) < epoch_of(expired)


async def test_network_error_mid_response(cache: CacheRig) -> None:
    """A response that breaks off is broken off for the client, and not stored."""
    for _ in range(2):
        async with await cache.client() as client:
            await client.send_request("GET", "/unique/mid/sleep", [("x-abort-body", "1")])
            head, _ = await client.read_final_head()
            assert head.get("x-cache-status") == "miss"
            with pytest.raises(Truncated):
                await client.body_of(head).read_all()
    await cache.app.ended(2)

    assert [ending.error is not None for ending in cache.app.endings] == [True, True]
    assert cache.app.stats.fills_active == 0


async def test_cache_upstream_revalidation(cache: CacheRig) -> None:
    """What has expired and is confirmed is served with the old head."""
    url = "/unique/revalidation/revalidate_now"
    miss, hit = await cache.send(url), await cache.send(url)
    cache.advance(1.1)
    revalidated, fresh = await cache.send(url), await cache.send(url)

    responses = (miss, hit, revalidated, fresh)
    assert [status_of(r) for r in responses] == ["miss", "hit", "revalidated", "hit"]
    upstream = [r.get("x-upstream-status") for r in responses]
    assert upstream == ["200", None, "304", None]
    assert all(r.body == HELLO and r.status == 200 for r in responses)
    assert epoch_of(miss) == epoch_of(hit)
    # Fields of the 304 that do not belong to the body replace those that are stored.
    assert epoch_of(revalidated) == epoch_of(fresh) == 2
    request = cache.origin.requests[1]
    assert request.get("if-none-match") == ETAG
    assert request.get("if-modified-since") == LAST_MODIFIED


async def test_cache_upstream_revalidation_appends_headers(cache: CacheRig) -> None:
    """All values of a field of the 304 replace those that are stored, in order."""
    url = "/unique/appends/cache_control"
    one = ("set-cache-control", "public, max-age=1")
    miss, hit = await cache.send(url, one), await cache.send(url, one)
    cache.advance(1.1)
    two = ("set-cache-control", "stale-while-revalidate=86400")
    revalidated = await cache.send(url, one, two, ("x-revalidated", "1"))

    assert [status_of(r) for r in (miss, hit, revalidated)] == ["miss", "hit", "revalidated"]
    assert miss.head.get_all("cache-control") == hit.head.get_all("cache-control") == [one[1]]
    assert revalidated.head.get_all("cache-control") == [one[1], two[1]]
    assert (revalidated.body, revalidated.get("x-upstream-status")) == (HELLO, "304")


@pytest.mark.parametrize("seconds", [0.0, 1.1], ids=["test_force_miss", "test_force_miss_stale"])
async def test_force_miss(cache: CacheRig, seconds: float) -> None:
    """The hit filter can have a fresh object, or a stale one, fetched anew without a condition."""
    url = "/unique/force/revalidate_now"
    miss, hit = await cache.send(url), await cache.send(url)
    cache.advance(seconds)
    forced = await cache.send(url, ("x-force-miss", "1"))

    assert [status_of(r) for r in (miss, hit, forced)] == ["miss", "hit", "miss"]
    assert (forced.get("x-upstream-status"), forced.body) == ("200", HELLO)
    assert epoch_of(forced) == 2
    assert epoch_of(await cache.send(url)) == 2


async def test_force_fresh(cache: CacheRig) -> None:
    """The hit filter can have a stale object served as if it were fresh."""
    url = "/unique/fresh/revalidate_now"
    miss = await cache.send(url)
    cache.advance(1.1)
    forced = await cache.send(url, ("x-force-fresh", "1"))

    assert [status_of(r) for r in (miss, forced)] == ["miss", "hit"]
    assert forced.get("x-upstream-status") is None
    assert epoch_of(miss) == epoch_of(forced)


async def test_force_expire(cache: CacheRig) -> None:
    """The hit filter can have a fresh object confirmed; it may not be served stale then."""
    url = "/unique/expire/revalidate_now"
    await cache.send(url)
    forced = await cache.send(url, ("x-force-expire", "1"), ("x-lock", "1"))
    failed = await cache.send(url, ("x-force-expire", "1"), ("x-abort", "1"))

    assert status_of(forced) == "revalidated"
    assert failed.status == 502


_ETAGS = ("If-None-Match", '"abcd", "foobar"')


@pytest.mark.parametrize(
    ("first", "second", "failing"),
    [
        (_ETAGS, _ETAGS, ("If-None-Match", '"foobar"')),
        (
            ("If-Modified-Since", LAST_MODIFIED),
            ("If-Modified-Since", _LATER),
            ("If-Modified-Since", _EARLIER),
        ),
    ],
    ids=["etag", "last_modified"],
)
async def test_cache_downstream_revalidation(
    cache: CacheRig, first: tuple[str, str], second: tuple[str, str], failing: tuple[str, str]
) -> None:
    """A client's condition is answered here: on a miss, a hit, and what was revalidated."""
    url = "/unique/conditions/revalidate_now"
    miss, hit = await cache.send(url, first), await cache.send(url, second)
    whole = await cache.send(url, failing)
    cache.advance(1.1)
    revalidated = await cache.send(url, second)

    responses = (miss, hit, whole, revalidated)
    assert [status_of(r) for r in responses] == ["miss", "hit", "hit", "revalidated"]
    assert [r.status for r in responses] == [304, 304, 200, 304]
    assert [r.body for r in responses] == [b"", b"", HELLO, b""]
    for not_modified in (miss, hit, revalidated):
        assert not_modified.get("etag") == ETAG
        assert not_modified.get("content-type") is None
    assert len(cache.origin.requests) == 2


async def test_cache_downstream_head(cache: CacheRig) -> None:
    """HEAD fills the cache by a GET, and is answered out of it without a body."""
    url = "/unique/head/revalidate_now"
    miss, hit = await cache.send(url, method="HEAD"), await cache.send(url, method="HEAD")
    whole = await cache.send(url)
    cache.advance(1.1)
    revalidated = await cache.send(url, method="HEAD")

    responses = (miss, hit, whole, revalidated)
    assert [status_of(r) for r in responses] == ["miss", "hit", "hit", "revalidated"]
    assert [r.body for r in responses] == [b"", b"", HELLO, b""]
    assert {r.get("content-length") for r in responses} == {"11"}
    assert {request.method for request in cache.origin.requests} == {"GET"}


async def test_eviction(cache: CacheRig) -> None:
    """A manager outside the store makes room by removing what was used the longest ago."""

    async def make(name: str, size: int) -> str | None:
        fields = (("x-set-size", str(size)), ("x-eviction", "1"))
        response = await cache.send(f"/file_maker/{name}", *fields)
        assert len(response.body) == size
        return status_of(response)

    assert [await make("1", 3000), await make("2", 3000)] == ["miss", "miss"]
    assert [await make("2", 3000), await make("1", 3000)] == ["hit", "hit"]
    assert await make("3", 6000) == "miss"
    assert await make("2", 3000) == "miss"
    assert cache.app.stats.evictions > 0
