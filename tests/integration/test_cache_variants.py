"""Responses that vary: who gets which, and what a purge removes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_cache.policy import CachePolicy
from pingora_cache.reason import NoCacheReason
from tests.support.cache_origin import HELLO
from tests.support.cache_proxy import CacheRig, CachingProxy

if TYPE_CHECKING:
    from pingora_cache.meta import CacheMeta
    from pingora_cache.verdict import RespCacheable
    from pingora_http import RequestHeader, ResponseHeader
    from pingora_proxy import Session
    from tests.support.cache_proxy import CacheContext
    from tests.support.client import Response

_PNG = ("Accept", "image/png")
_JPEG = ("Accept", "image/jpeg")
_WEBP = ("Accept", "image/webp")


def status_of(response: Response) -> str | None:
    return response.get("x-cache-status")


def epoch_of(response: Response) -> str | None:
    return response.get("x-epoch")


def vary(value: str) -> tuple[str, str]:
    return ("set-vary", value)


async def test_vary_caching(cache: CacheRig) -> None:
    """Two values of a field that counts are two variants, and each is found again."""
    url, on = "/unique/caching/vary", vary("Accept")
    responses = [await cache.send(url, on, accept) for accept in (_PNG, _PNG, _JPEG, _JPEG, _PNG)]

    assert [status_of(r) for r in responses] == ["miss", "hit", "miss", "hit", "hit"]
    assert [epoch_of(r) for r in responses] == ["1", "1", "2", "2", "1"]
    assert {r.body for r in responses} == {HELLO}


async def test_vary_caching_ignored_vary_header(cache: CacheRig) -> None:
    """A field that the application does not let count splits nothing."""
    url, on = "/unique/ignored/vary", vary("Some-Ignored-Vary-Header")
    responses = [
        await cache.send(url, on, ("Some-Ignored-Vary-Header", value)) for value in ("a", "a", "b")
    ]

    assert [status_of(r) for r in responses] == ["miss", "hit", "hit"]
    assert {epoch_of(r) for r in responses} == {"1"}


@pytest.mark.parametrize(
    "on",
    [
        (vary("Accept, SomeIgnoredVaryHeader"),),
        (vary("SomeIgnoredVaryHeader"), vary("Accept")),
    ],
    ids=["test_vary_some_ignored", "test_vary_dup_header_some_ignored"],
)
async def test_vary_some_ignored(cache: CacheRig, on: tuple[tuple[str, str], ...]) -> None:
    """Of several fields, in one line or in two, those that count do."""
    url = "/unique/some/vary"
    ignored = [("SomeIgnoredVaryHeader", value) for value in "aab"]
    same = [await cache.send(url, *on, _WEBP, field) for field in ignored]
    other = [await cache.send(url, *on, _JPEG, field) for field in ignored]
    again = await cache.send(url, *on, _WEBP, ignored[2])

    assert [status_of(r) for r in same] == ["miss", "hit", "hit"]
    assert [status_of(r) for r in other] == ["miss", "hit", "hit"]
    assert {epoch_of(r) for r in (*same, again)} == {"1"}
    assert {epoch_of(r) for r in other} == {"2"}
    assert status_of(again) == "hit"


async def test_vary_purge(cache: CacheRig) -> None:
    """Purging the key removes all variants."""
    url, on = "/unique/purge/vary", vary("Accept")
    for accept in (_PNG, _JPEG):
        assert [status_of(await cache.send(url, on, accept)) for _ in range(2)] == ["miss", "hit"]
    purged = await cache.send(url, method="PURGE")
    cache.clock.advance(0.001)

    assert (purged.status, purged.body) == (200, b"")
    assert [status_of(await cache.send(url, on, accept)) for accept in (_PNG, _JPEG)] == [
        "miss"
    ] * 2


async def test_a_variant_is_revalidated_as_such(cache: CacheRig) -> None:
    """A 304 keeps an object the variant that it was."""
    url, on = "/unique/304/revalidate_now", vary("Accept")
    for accept in (_PNG, _JPEG):
        await cache.send(url, on, accept)
    cache.advance(1.1)
    responses = [await cache.send(url, accept) for accept in (_PNG, _JPEG, _PNG, _JPEG)]

    assert [status_of(r) for r in responses] == ["revalidated", "revalidated", "hit", "hit"]


class _Judging(CachingProxy):
    """Decides itself what is stored."""

    async def response_cache_filter(
        self, session: Session, response: ResponseHeader, ctx: CacheContext
    ) -> RespCacheable:
        return await super().response_cache_filter(session, response, ctx)


async def test_a_variant_stays_one_whoever_judges_the_304() -> None:
    """Also where the application's own filter makes the new meta."""
    async with CacheRig(_Judging) as cache:
        url, on = "/unique/304/revalidate_now", vary("Accept")
        for accept in (_PNG, _JPEG):
            await cache.send(url, on, accept)
        cache.advance(1.1)
        responses = [await cache.send(url, on, accept) for accept in (_PNG, _JPEG, _PNG, _JPEG)]

        assert [status_of(r) for r in responses] == ["revalidated", "revalidated", "hit", "hit"]


async def test_vary_appears_and_disappears(cache: CacheRig) -> None:
    """A response that says otherwise than before outdates what there was, for everybody."""
    url = "/unique/changing/vary"
    plain = await cache.send(url, _PNG)
    cache.advance(1.1)
    varies = [await cache.send(url, vary("Accept"), accept) for accept in (_PNG, _JPEG)]
    cache.advance(1.1)
    plain_again = await cache.send(url, _PNG)
    other = await cache.send(url, _JPEG)

    assert [status_of(r) for r in (plain, *varies)] == ["miss", "expired", "miss"]
    assert (status_of(plain_again), status_of(other)) == ("expired", "hit")
    assert epoch_of(other) == epoch_of(plain_again)


async def test_variants_are_locked_apart(cache: CacheRig) -> None:
    """Who waits for an object that turns out to be another variant fetches its own."""
    url, on, lock = "/unique/lock/vary", vary("Accept"), ("x-lock", "1")
    first = cache.start(url, on, lock, _PNG, ("x-gate", "head"))
    await cache.origin.requests_arrived(1)
    others = [cache.start(url, on, lock, accept) for accept in (_JPEG, _JPEG, _PNG)]
    await cache.waiting(3)
    cache.origin.open("head")

    responses = [await first, *await asyncio.gather(*others)]
    assert [status_of(r) for r in (responses[0], responses[3])] == ["miss", "hit"]
    assert sorted(str(status_of(r)) for r in responses[1:3]) == ["hit", "miss"]
    assert len(cache.origin.requests) == 2
    assert cache.app.lock.keys == 0


class _Forgetful(CachingProxy):
    """Does not give the same answer to the same question."""

    asked = 0

    def cache_vary_filter(
        self, session: Session, meta: CacheMeta, request: RequestHeader, ctx: CacheContext
    ) -> bytes | None:
        self.asked += 1
        return bytes([self.asked]) * 16


async def test_a_filter_that_is_not_consistent_harms_nobody() -> None:
    """The wrong variant is never served; the upstream is asked."""
    async with CacheRig(_Forgetful) as cache:
        responses = [await cache.send("/unique/odd/now") for _ in range(6)]

        assert {(r.status, r.body) for r in responses} == {(200, HELLO)}
        assert "hit" not in {status_of(r) for r in responses}


class _Drifting(CachingProxy):
    """Finds a variant by a field, and then says that it is another one."""

    def cache_vary_filter(
        self, session: Session, meta: CacheMeta, request: RequestHeader, ctx: CacheContext
    ) -> bytes | None:
        if request.get("x-drift") is not None and meta.variance == b"b" * 16:
            return b"c" * 16
        return (request.get("x-variance") or "").encode() * 16


async def test_a_slot_with_another_variant_is_left_alone() -> None:
    """What lies in a variant's slot and is not that variant is not served, nor overwritten."""
    async with CacheRig(_Drifting) as cache:
        url = "/unique/drift/now"
        for variance in "ab":
            assert status_of(await cache.send(url, ("x-variance", variance))) == "miss"
        drifting = await cache.send(url, ("x-variance", "b"), ("x-drift", "1"), ("x-lock", "1"))
        await cache.app.ended(3)

        assert (drifting.body, status_of(drifting)) == (HELLO, "no-cache")
        assert cache.app.endings[2].reason == NoCacheReason.INTERNAL_ERROR
        assert status_of(await cache.send(url, ("x-variance", "b"))) == "hit"
        assert cache.app.lock.keys == 0


class _AsTold(CachingProxy):
    """Varies by what the response says."""

    def cache_vary_filter(
        self, session: Session, meta: CacheMeta, request: RequestHeader, ctx: CacheContext
    ) -> bytes | None:
        return session.cache.policy.variance(meta, request)


async def test_upstream_compression_makes_variants() -> None:
    """What is compressed before it is stored is for those only who take it so."""
    async with CacheRig(_AsTold) as cache:
        cache.app.policy = CachePolicy(default_ttl={200: 60.0})
        url, compress = "/unique/compressed/no_compression", ("x-upstream-compression", "1")
        gzip = ("Accept-Encoding", "gzip")
        packed = [await cache.send(url, compress, gzip) for _ in range(2)]
        plain = [await cache.send(url, compress) for _ in range(2)]
        again = await cache.send(url, compress, gzip)

        assert [status_of(r) for r in (*packed, *plain, again)] == [
            "miss",
            "hit",
            "miss",
            "hit",
            "hit",
        ]
        assert {r.get("content-encoding") for r in (*packed, again)} == {"gzip"}
        assert len({r.body for r in (*packed, again)}) == 1
        assert {(r.get("content-encoding"), r.body) for r in plain} == {(None, b"B" * 32)}
        assert {str(r.get("vary")).lower() for r in (*packed, *plain)} == {"accept-encoding"}
