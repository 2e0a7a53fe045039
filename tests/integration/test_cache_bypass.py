"""What is not cached: predicted, refused, too large; and how that ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_cache.phase import CachePhase
from pingora_cache.reason import NoCacheReason
from tests.support.cache_origin import ETAG, HELLO
from tests.support.origin_routes import upgrade
from tests.support.wire import CHUNKED

if TYPE_CHECKING:
    from tests.support.cache_proxy import CacheRig
    from tests.support.client import Response

_PRIVATE = ("set-cache-control", "private, max-age=0")
_PUBLIC = ("set-cache-control", "public, max-age=10")
_REVALIDATED = ("x-revalidated", "1")


def status_of(response: Response) -> str | None:
    return response.get("x-cache-status")


async def test_bypassed_became_cacheable(cache: CacheRig) -> None:
    """What was predicted to be uncacheable is stored as soon as it is cacheable after all."""
    url = "/unique/became/cache_control"
    responses = [await cache.send(url, said) for said in (_PRIVATE, _PRIVATE, _PUBLIC, _PUBLIC)]

    assert [status_of(r) for r in responses] == ["no-cache", "no-cache", "miss", "hit"]
    assert {r.body for r in responses} == {HELLO}
    assert responses[0].get("cache-control") == _PRIVATE[1]
    phases = [ending.phase for ending in cache.app.endings]
    assert phases == [CachePhase.DISABLED, CachePhase.DISABLED, CachePhase.MISS, CachePhase.HIT]


async def test_bypassed_304(cache: CacheRig) -> None:
    """A 304 has nothing to store: the next 200 is."""
    url = "/unique/304/cache_control"
    first = await cache.send(url, _PRIVATE)
    not_modified = await cache.send(url, _PUBLIC, _REVALIDATED)
    fill, hit = await cache.send(url, _PUBLIC), await cache.send(url, _PUBLIC)

    assert (status_of(first), first.body) == ("no-cache", HELLO)
    assert (not_modified.status, status_of(not_modified)) == (304, "deferred")
    assert [(status_of(r), r.body) for r in (fill, hit)] == [("miss", HELLO), ("hit", HELLO)]


async def test_bypassed_uncacheable_304(cache: CacheRig) -> None:
    """A 304 that makes the stored object private serves it once more, and not again."""
    url = "/unique/private/cache_control"
    fill = await cache.send(url, ("set-cache-control", "public, max-age=0"))
    confirmed = await cache.send(url, ("set-cache-control", "private"), _REVALIDATED)
    bypassed = await cache.send(url, _PUBLIC, _REVALIDATED)

    assert (status_of(fill), fill.body) == ("miss", HELLO)
    assert (confirmed.status, status_of(confirmed), confirmed.body) == (200, "revalidated", HELLO)
    assert confirmed.get("cache-control") == "private"
    assert (bypassed.status, status_of(bypassed)) == (304, "deferred")
    assert cache.app.endings[1].phase is CachePhase.REVALIDATED_NO_CACHE


async def test_bypassed_head(cache: CacheRig) -> None:
    """A HEAD that was sent on as such has no body to store."""
    url = "/unique/head/cache_control"
    first = await cache.send(url, _PRIVATE)
    head = await cache.send(url, _PUBLIC, method="HEAD")
    fill = await cache.send(url, _PUBLIC)

    assert status_of(first) == "no-cache"
    assert (head.status, status_of(head), head.body) == (200, "deferred", b"")
    assert (status_of(fill), fill.body) == ("miss", HELLO)
    assert [request.method for request in cache.origin.requests] == ["GET", "HEAD", "GET"]


async def test_a_304_to_a_condition_that_nobody_has_sent(cache: CacheRig) -> None:
    """It is passed on as it is, and nothing is stored."""
    response = await cache.send("/unique/odd/cache_control", _PUBLIC, _REVALIDATED)

    assert (response.status, status_of(response)) == (304, "no-cache")
    assert status_of(await cache.send("/unique/odd/cache_control", _PUBLIC)) == "miss"


# ------------------------------------------------------------------------------- sizes


def _cap(limit: int) -> tuple[str, str]:
    return ("x-cache-max-file-size-bytes", str(limit))


async def test_cache_max_file_size(cache: CacheRig) -> None:
    """A body over the largest size is not stored; with a larger one it is."""
    fits = [await cache.send("/unique/fits/now", _cap(100)) for _ in range(2)]
    url = "/unique/large/now"
    too_large = [await cache.send(url, _cap(1)) for _ in range(2)]
    again = [await cache.send(url, _cap(100)) for _ in range(2)]

    responses = [*fits, *too_large, *again]
    expected = ["miss", "hit", "no-cache", "no-cache", "miss", "hit"]
    assert [status_of(r) for r in responses] == expected
    assert {(r.body, r.get("content-length")) for r in responses} == {(HELLO, "11")}
    assert cache.app.endings[2].reason == NoCacheReason.RESPONSE_TOO_LARGE


async def test_cache_max_file_size_chunked(cache: CacheRig) -> None:
    """Of unknown length: the first client gets the whole body though it turns out too large."""
    fits = [await cache.send("/unique/fits/test3", _cap(100)) for _ in range(2)]
    assert [status_of(r) for r in fits] == ["miss", "hit"]
    assert fits[0].framing == CHUNKED

    url = "/unique/large/test3"
    first = await cache.send(url, _cap(1))
    await cache.app.ended(3)
    predicted = await cache.send(url, _cap(1))
    learnt = await cache.send(url, _cap(100))
    await cache.app.ended(5)
    again = [await cache.send(url, _cap(100)) for _ in range(2)]

    assert (status_of(first), first.status, first.body) == ("miss", 200, HELLO)
    assert [status_of(r) for r in (predicted, learnt)] == ["no-cache", "no-cache"]
    assert [status_of(r) for r in again] == ["miss", "hit"]
    assert {r.body for r in (predicted, learnt, *again)} == {HELLO}
    assert cache.app.endings[3].reason == NoCacheReason.PREDICTED_RESPONSE_TOO_LARGE


async def test_too_large_while_it_is_read_along(cache: CacheRig) -> None:
    """Who read the object while it was being stored learns that it broke off; the first does not."""
    url = "/unique/along/slow_body"
    fields = (("x-body-gate", "body"), ("x-lock", "1"), _cap(8))
    first = cache.start(url, *fields)
    await cache.origin.requests_arrived(1)
    async with await cache.client() as client:
        await client.send_request("GET", url, [("x-lock", "1")])
        head, _ = await client.read_final_head()
        assert head.get("x-cache-status") == "hit"
        cache.origin.open("body", 2)
        assert (await first).body == b"hello world!"
        assert await client.is_closed_by_server() or b"0\r\n\r\n" not in await client.receive_all()


async def test_cache_max_file_size_range(cache: CacheRig) -> None:
    """Where a body is too large to be stored the range does not count, as in the original."""
    part = ("Range", "bytes=1-4")
    fits = [await cache.send("/unique/fits/now", _cap(100), part) for _ in range(2)]
    url = "/unique/large/now"
    too_large = [await cache.send(url, _cap(1), part) for _ in range(2)]

    assert [(r.status, status_of(r), r.body) for r in fits] == [
        (206, "miss", b"ello"),
        (206, "hit", b"ello"),
    ]
    assert fits[0].get("x-epoch") == fits[1].get("x-epoch")
    assert [(r.status, status_of(r), r.body) for r in too_large] == [(200, "no-cache", HELLO)] * 2
    assert [r.get("x-epoch") for r in too_large] == ["2", "3"]
    assert cache.origin.requests[2].get("range") == "bytes=1-4"  # left to the upstream


async def test_cache_bypass_downstream_range(cache: CacheRig) -> None:
    """What was asked for whole because of the cache is cut, also when it is not stored."""
    url = "/unique/range/cache_control"
    cut = await cache.send(url, ("Range", "bytes=6-10"), _PRIVATE)
    bypassed = await cache.send(url, ("Range", "bytes=0-4"), _PRIVATE)

    assert (cut.status, status_of(cut), cut.body) == (206, "no-cache", b"world")
    assert (bypassed.status, status_of(bypassed), bypassed.body) == (200, "no-cache", HELLO)
    ranges = [request.get("range") for request in cache.origin.requests]
    assert ranges == [None, "bytes=0-4"]


@pytest.mark.parametrize(
    ("method", "field", "status", "body"),
    [
        ("HEAD", ("x-a", "1"), 200, b""),
        ("GET", ("If-None-Match", ETAG), 304, b""),
        ("GET", ("If-None-Match", '"other"'), 200, HELLO),
        ("GET", ("Range", "bytes=20-"), 416, b""),
        ("HEAD", ("Range", "bytes=1-2"), 206, b""),
    ],
)
async def test_what_is_not_stored_is_cut_too(
    cache: CacheRig, method: str, field: tuple[str, str], status: int, body: bytes
) -> None:
    """A response asked for whole that must not be stored answers what the client has asked."""
    response = await cache.send("/unique/cut/cache_control", field, _PRIVATE, method=method)

    assert (response.status, response.body, status_of(response)) == (status, body, "no-cache")
    # The next request finds a usable upstream connection, or makes one.
    assert (await cache.send("/unique/cut/cache_control", _PRIVATE)).body == HELLO


# -------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("method", "fields", "body"),
    [
        ("POST", (), b"a"),
        ("OPTIONS", (), None),
        ("DELETE", (), None),
        ("GET", (), b"with a body"),
        ("GET", (("X-HTTP-Method-Override", "DELETE"),), None),
        ("GET", (("Cache-Control", "no-store"),), None),
    ],
)
async def test_requests_that_are_not_cached(
    cache: CacheRig, method: str, fields: tuple[tuple[str, str], ...], body: bytes | None
) -> None:
    """Other methods, bodies, overridden methods and no-store pass by the cache, which stays as it is."""
    url = "/unique/method/test2"
    await cache.send(url)
    response = await cache.send(url, *fields, method=method, body=body)

    assert status_of(response) == "no-cache"
    assert response.get("age") is None
    assert response.get("x-epoch") == "2"


async def test_chunked_request_bodies_are_not_cached(cache: CacheRig) -> None:
    """Nor is what answers a body of unknown length."""
    async with await cache.client() as client:
        first = await client.request("GET", "/unique/chunked/now", chunks=[b"a"])
        second = await client.request("GET", "/unique/chunked/now", chunks=[b"a"])

    assert [status_of(r) for r in (first, second)] == ["no-cache", "no-cache"]


async def test_only_if_cached(cache: CacheRig) -> None:
    """Who wants nothing but what is stored gets that, or a 504."""
    only = ("Cache-Control", "only-if-cached")
    missing = await cache.send("/unique/only/test2", only)
    await cache.send("/unique/only/test2")
    found = await cache.send("/unique/only/test2", only)
    cache.advance(5)
    expired = await cache.send("/unique/only/test2", only)

    assert [r.status for r in (missing, found, expired)] == [504, 200, 504]
    assert len(cache.origin.requests) == 1


async def test_only_if_cached_where_nothing_is_looked_up(cache: CacheRig) -> None:
    """What is predicted not to be in the cache is not fetched for such a request either."""
    await cache.send("/unique/only/cache_control", _PRIVATE)
    response = await cache.send(
        "/unique/only/cache_control", ("Cache-Control", "only-if-cached"), _PRIVATE
    )

    assert response.status == 504
    assert len(cache.origin.requests) == 1


async def test_upgrades_are_not_cached(cache: CacheRig) -> None:
    """What speaks another protocol from there on is no response that others could be given."""
    fields = (("Connection", "Upgrade"), ("Upgrade", "websocket"))
    refused = await cache.send("/unique/upgrade/test2", *fields)
    assert (status_of(refused), refused.body) == ("no-cache", HELLO)

    cache.origin.handler = upgrade
    for _ in range(2):
        async with await cache.client() as client:
            await client.send_request("GET", "/unique/upgrade/test2", fields)
            head, _ = await client.read_final_head()
            assert head.start_line.split(" ")[1] == "101"
            assert head.get("x-cache-status") == "no-cache"
            assert await client.receive_exactly(5) == b"hello"
    assert len(cache.origin.requests) == 3
