"""What a request asks of the cache: HEAD where a callback insists on it, and what is fresh refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_cache.cache import HttpCache
from pingora_cache.cache_status import append_cache_status
from pingora_cache.eviction import SimpleLru
from pingora_cache.memory import MemoryStorage
from pingora_cache.phase import ForcedFreshness
from pingora_cache.stats import CacheStats
from tests.support.cache_origin import ETAG, HELLO, http1
from tests.support.clock import FakeClock
from tests.support.proxy import BareProxy, RunningProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pingora_cache.meta import CacheMeta
    from pingora_cache.storage import HitHandler
    from pingora_http import RequestHeader, ResponseHeader
    from pingora_proxy import Session
    from tests.support.client import Response
    from tests.support.origin import Origin

_CACHED = ("set-cache-control", "max-age=60")
_TAGGED = ("set-etag", '"a"')


class Insisting(BareProxy):
    """Caches, says what it did, and sends a HEAD on as one."""

    def __init__(self, upstream: str, storage: MemoryStorage) -> None:
        super().__init__(upstream)
        self.storage = storage
        self.manager = SimpleLru(100_000)
        self.stats = CacheStats()

    async def request_cache_filter(self, session: Session, ctx: None) -> None:
        session.cache.enable(self.storage, eviction=self.manager, stats=self.stats)

    async def cache_hit_filter(
        self, session: Session, meta: CacheMeta, hit_handler: HitHandler, is_fresh: bool, ctx: None
    ) -> ForcedFreshness | None:
        forced = session.req_header.get("x-expire") is not None
        return ForcedFreshness.FORCE_EXPIRED if forced else None

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: None
    ) -> None:
        if session.req_header.method == "HEAD":
            upstream_request.set_method("HEAD")
            upstream_request.remove_header("If-None-Match")
        condition = session.req_header.get("x-condition") or session.req_header.get("if-none-match")
        if condition is not None:
            upstream_request.insert_header("If-None-Match", condition)
        if session.req_header.get("x-no-date"):
            upstream_request.remove_header("If-Modified-Since")

    async def response_filter(self, session: Session, response: ResponseHeader, ctx: None) -> None:
        append_cache_status(response, session.cache.status("test"))


class Rig:
    """Origin, clock, and the proxy."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.clock = FakeClock(1_700_000_000.0)
        self.app = Insisting(origin.address, MemoryStorage(1 << 22, clock=self.clock))
        self.proxy = RunningProxy(self.app, new_cache=lambda: HttpCache(self.clock))

    async def send(self, target: str, *fields: tuple[str, str], method: str = "GET") -> Response:
        async with await self.proxy.connect() as client:
            return await client.request(method, target, fields, None)


@pytest.fixture
async def rig(origin: Origin) -> AsyncIterator[Rig]:
    origin.handler = http1
    made = Rig(origin)
    async with made.app.storage, made.proxy:
        yield made


async def test_the_response_to_a_head_is_not_stored(rig: Rig) -> None:
    """It has no body, and a GET after it gets one."""
    head = await rig.send("/now", _CACHED, method="HEAD")
    first = await rig.send("/now", _CACHED)
    second = await rig.send("/now", _CACHED)

    assert [request.method for request in rig.origin.requests] == ["HEAD", "GET"]
    assert (head.status, head.body, head.get("content-length")) == (200, b"", "11")
    assert first.body == second.body == HELLO
    assert [r.get("x-epoch") for r in (first, second)] == ["2", "2"]


async def test_a_head_freshens_what_is_stored(rig: Rig) -> None:
    """If it says the same of the body, that is good again (RFC 9111 section 4.3.5)."""
    await rig.send("/now", _CACHED, _TAGGED)
    rig.clock.advance(61)
    head = await rig.send("/now", _CACHED, _TAGGED, ("set-x-new", "1"), method="HEAD")
    hit = await rig.send("/now")

    assert (head.get("x-epoch"), head.body) == ("2", b"")
    assert (hit.body, hit.get("x-new"), len(rig.origin.requests)) == (HELLO, "1", 2)


async def test_a_head_that_tells_of_another_body(rig: Rig) -> None:
    """What is stored stays expired, and the next GET fetches the other."""
    await rig.send("/now", _CACHED, _TAGGED)
    rig.clock.advance(61)
    await rig.send("/now", _CACHED, ("set-etag", '"b"'), method="HEAD")
    after = await rig.send("/now", _CACHED, ("set-etag", '"b"'))

    assert after.get("x-epoch") == "3"
    assert [request.method for request in rig.origin.requests] == ["GET", "HEAD", "GET"]


@pytest.mark.parametrize(
    ("field", "status"),
    [
        (("Cache-Control", "no-cache"), "test; fwd=request; ttl=60; stored"),
        (("Cache-Control", "max-age=0"), "test; fwd=request; ttl=60; stored"),
        (("Pragma", "no-cache"), "test; fwd=request; ttl=60; stored"),
        (("X-Expire", "1"), "test; fwd=request; ttl=60; stored"),
    ],
)
async def test_what_is_fresh_and_refused(rig: Rig, field: tuple[str, str], status: str) -> None:
    """Cache-Status says that it was the request, and not that anything was stale."""
    await rig.send("/now", _CACHED)
    response = await rig.send("/now", _CACHED, field)

    assert response.get("cache-status") == status
    rig.clock.advance(61)
    stale = await rig.send("/now", _CACHED, field)
    assert stale.get("cache-status") == "test; fwd=stale; ttl=60; stored"


async def test_what_is_invalidated_is_not_counted_any_more(rig: Rig) -> None:
    """Also by a manager that stands beside the store."""
    await rig.send("/now", _CACHED)
    assert rig.app.manager.total_items == 1
    await rig.send("/now", method="DELETE")

    assert rig.app.manager.total_items == 0
    assert rig.app.manager.total_size == 0
    assert rig.app.stats.invalidations == 1


@pytest.mark.parametrize(
    ("method", "fields", "status"),
    [
        ("DELETE", (), "test; fwd=method"),
        ("OPTIONS", (), "test; fwd=method"),
        ("GET", (("X-HTTP-Method-Override", "PUT"),), 'test; fwd=bypass; detail="method override"'),
        (
            "GET",
            (("Cache-Control", "no-store"),),
            'test; fwd=bypass; detail="no-store in the request"',
        ),
    ],
)
async def test_what_is_not_looked_up(
    rig: Rig, method: str, fields: tuple[tuple[str, str], ...], status: str
) -> None:
    """Cache-Status says what of the request it was, and not that the origin did not want it."""
    response = await rig.send("/now", _CACHED, *fields, method=method)

    assert response.get("cache-status") == status


async def test_a_304_about_what_the_client_has(rig: Rig) -> None:
    """Where a callback has put the condition of a client back, it confirms nothing that is stored."""
    await rig.send("/revalidate_now", _CACHED)
    rig.clock.advance(61)
    other = await rig.send("/revalidate_now", _CACHED, ("If-None-Match", '"other"'))
    after = await rig.send("/revalidate_now", _CACHED, ("X-No-Date", "1"))

    assert [request.get("if-none-match") for request in rig.origin.requests] == [
        None,
        '"other"',
        ETAG,
    ]
    assert (other.status, other.body, other.get("age")) == (304, b"", None)
    assert other.get("cache-status") == "test; fwd=miss; detail=Deferred"
    assert (after.status, after.body) == (200, HELLO)
    assert after.get("cache-status") == "test; fwd=stale; fwd-status=304; ttl=60"


async def test_a_304_about_what_nobody_has_asked_for(rig: Rig) -> None:
    """A client without a condition gets a body, whatever a callback has asked about."""
    await rig.send("/revalidate_now", _CACHED)
    rig.clock.advance(61)
    other = await rig.send("/revalidate_now", _CACHED, ("X-Condition", '"other"'))

    assert (other.status, other.body) == (200, HELLO)
    assert len(rig.origin.requests) == 2
