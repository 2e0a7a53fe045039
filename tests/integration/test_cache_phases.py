"""The callbacks of a proxy that caches: which run, in what order, and how often."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_cache.cache import HttpCache
from pingora_cache.lock import CacheLock
from pingora_cache.memory import MemoryStorage
from pingora_cache.phase import CachePhase, ForcedFreshness
from pingora_cache.policy import CachePolicy
from pingora_cache.reason import NoCacheReason
from pingora_cache.verdict import Uncacheable
from pingora_core.upstreams import HttpPeer
from pingora_error import Error, ErrorType
from pingora_proxy import Hedge
from tests.support.cache_origin import ETAG, HELLO, http1
from tests.support.clock import FakeClock
from tests.support.origin import Origin
from tests.support.origin_steps import hang
from tests.support.proxy import RunningProxy
from tests.support.recording import RecordingProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pingora_cache.key import CacheKey
    from pingora_cache.meta import CacheMeta
    from pingora_cache.storage import HitHandler
    from pingora_cache.verdict import RespCacheable
    from pingora_http import RequestHeader, ResponseHeader
    from pingora_proxy import HedgePlan, Session
    from pingora_proxy.range_filter import RangeType
    from tests.support.client import RawClient, Response
    from tests.support.proxy import RigContext

_BEFORE = ["early_request_filter", "request_filter", "request_cache_filter"]
_LOOKUP = ["is_purge", "cache_key_callback"]
_UPSTREAM = [
    "proxy_upstream_filter",
    "upstream_peer",
    "connected_to_upstream",
    "upstream_request_filter",
    "request_body_filter",
]
_CLIENT = ["cache_not_modified_filter", "range_header_filter", "response_filter"]
_STORED = ["upstream_response_filter", "response_cache_filter", "cache_vary_filter"]
_END = ["logging", "persist_connection_context"]


class Recorder(RecordingProxy):
    """Overrides every callback of the cache's, too; see `RecordingProxy`.

    Attributes:
        storage: The store.
        policy: Decides.
        lock: The cache lock.
        forced: What the hit filter says.
        is_caching: Whether the cache is on.
        subrequest_phases: What ran for requests of the proxy's own.
    """

    def __init__(self, upstream: Origin | str, clock: FakeClock) -> None:
        super().__init__(upstream)
        self.storage = MemoryStorage(1 << 20, clock=clock)
        self.policy = CachePolicy(default_ttl={200: 1.0})
        self.lock = CacheLock(5.0)
        self.forced: ForcedFreshness | None = None
        self.is_caching = True
        self.key: CacheKey | None = None
        self.reasons: list[NoCacheReason | None] = []
        self.cache_phases: list[CachePhase] = []

    async def request_cache_filter(self, session: Session, ctx: RigContext) -> None:
        if self.is_caching:
            session.cache.enable(self.storage, lock=self.lock, policy=self.policy)
        self._note("request_cache_filter")

    async def cache_key_callback(self, session: Session, ctx: RigContext) -> CacheKey:
        self._note("cache_key_callback")
        return await super().cache_key_callback(session, ctx)

    async def is_purge(self, session: Session, ctx: RigContext) -> bool:
        self._note("is_purge")
        return session.req_header.method == "PURGE"

    async def purge_response_filter(
        self, session: Session, response: ResponseHeader, ctx: RigContext
    ) -> None:
        self._note("purge_response_filter")
        response.insert_header("x-purged", "1")

    def cache_vary_filter(
        self, session: Session, meta: CacheMeta, request: RequestHeader, ctx: RigContext
    ) -> bytes | None:
        self._note("cache_vary_filter")
        return super().cache_vary_filter(session, meta, request, ctx)

    async def cache_hit_filter(
        self,
        session: Session,
        meta: CacheMeta,
        hit_handler: HitHandler,
        is_fresh: bool,
        ctx: RigContext,
    ) -> ForcedFreshness | None:
        self._note(f"cache_hit_filter {'fresh' if is_fresh else 'stale'}")
        return self.forced

    def cache_miss(self, session: Session, ctx: RigContext) -> None:
        self._note("cache_miss")
        super().cache_miss(session, ctx)

    def should_serve_stale(self, session: Session, ctx: RigContext, error: Error | None) -> bool:
        self._note(f"should_serve_stale {'updating' if error is None else 'error'}")
        return super().should_serve_stale(session, ctx, error)

    async def response_cache_filter(
        self, session: Session, response: ResponseHeader, ctx: RigContext
    ) -> RespCacheable:
        self._note("response_cache_filter")
        return await super().response_cache_filter(session, response, ctx)

    def cache_invalidation_keys(
        self, session: Session, response: ResponseHeader, ctx: RigContext
    ) -> list[CacheKey]:
        self._note("cache_invalidation_keys")
        return super().cache_invalidation_keys(session, response, ctx)

    async def cache_not_modified_filter(
        self, session: Session, response: ResponseHeader, ctx: RigContext
    ) -> bool:
        self._note("cache_not_modified_filter")
        return await super().cache_not_modified_filter(session, response, ctx)

    async def range_header_filter(
        self, session: Session, response: ResponseHeader, ctx: RigContext
    ) -> RangeType:
        self._note("range_header_filter")
        return await super().range_header_filter(session, response, ctx)

    async def logging(self, session: Session, error: Error | None, ctx: RigContext) -> None:
        self.reasons.append(session.cache.no_cache_reason)
        self.cache_phases.append(session.cache.phase)
        await super().logging(session, error, ctx)


class Rig:
    """Origin, clock, recorder and one client, whose requests are recorded one by one."""

    def __init__(self, origin: Origin, app: Recorder, client: RawClient, clock: FakeClock) -> None:
        self.origin = origin
        self.app = app
        self.client = client
        self.clock = clock
        self.requests = 0

    async def send(
        self, target: str, *fields: tuple[str, str], method: str = "GET"
    ) -> tuple[Response, list[str]]:
        """Make a request; return with its response what ran for it, body filters left out."""
        self.app.phases.clear()
        response = await self.client.request(method, target, fields)
        self.requests += 1
        await self.app.ended(self.requests)
        await asyncio.sleep(0)
        skipped = ("response_body_filter", "upstream_response_body_filter", "on_connection_reuse")
        return response, [phase for phase in self.app.phases if not phase.startswith(skipped)]


@pytest.fixture
async def rig(origin: Origin) -> AsyncIterator[Rig]:
    origin.handler = http1
    clock = FakeClock(1_700_000_000.0)
    app = Recorder(origin, clock)
    proxy = RunningProxy(app, new_cache=lambda: HttpCache(clock))
    async with app.storage, proxy, await proxy.connect() as client:
        yield Rig(origin, app, client, clock)


async def test_order_of_a_miss(rig: Rig) -> None:
    """The cache is asked after the request filter, and before the upstream is chosen."""
    response, phases = await rig.send("/now")

    assert response.body == HELLO
    expected = [*_BEFORE, *_LOOKUP, "cache_miss", *_UPSTREAM, *_STORED, *_CLIENT, *_END]
    assert phases == expected
    assert rig.app.phases.count("upstream_response_body_filter") == 1
    assert "response_body_filter" in rig.app.phases


async def test_order_of_a_hit(rig: Rig) -> None:
    """A hit runs nothing of the upstream's side."""
    await rig.send("/now")
    response, phases = await rig.send("/now")

    assert response.body == HELLO
    hit = ["cache_vary_filter", "cache_hit_filter fresh"]
    assert phases == [*_BEFORE, *_LOOKUP, *hit, *_CLIENT, *_END]
    assert "upstream_response_body_filter" not in rig.app.phases


async def test_order_of_a_revalidation(rig: Rig) -> None:
    """The 304 passes the filters of the upstream's side; the stored object those of the client's."""
    await rig.send("/revalidate_now")
    rig.clock.advance(1.1)
    response, phases = await rig.send("/revalidate_now")

    assert (response.status, response.body) == (200, HELLO)
    found = ["cache_vary_filter", "cache_hit_filter stale"]
    stored = ["upstream_response_filter", "response_cache_filter"]
    assert phases == [*_BEFORE, *_LOOKUP, *found, *_UPSTREAM, *stored, *_CLIENT, *_END]
    assert rig.app.cache_phases[-1] is CachePhase.REVALIDATED


async def test_order_of_an_expired_one(rig: Rig) -> None:
    """What is fetched anew takes the way of a miss, though nothing was missed."""
    await rig.send("/now")
    rig.clock.advance(1.1)
    _, phases = await rig.send("/now")

    found = ["cache_vary_filter", "cache_hit_filter stale"]
    assert phases == [*_BEFORE, *_LOOKUP, *found, *_UPSTREAM, *_STORED, *_CLIENT, *_END]


async def test_order_of_a_forced_miss(rig: Rig) -> None:
    """``cache_miss`` is told of it once."""
    await rig.send("/now")
    rig.app.forced = ForcedFreshness.FORCE_MISS
    _, phases = await rig.send("/now")

    found = ["cache_vary_filter", "cache_hit_filter fresh", "cache_miss"]
    assert phases == [*_BEFORE, *_LOOKUP, *found, *_UPSTREAM, *_STORED, *_CLIENT, *_END]


async def test_order_of_a_variant(rig: Rig) -> None:
    """``cache_vary_filter`` is asked about what lies in the primary slot, then about the variant."""
    fields = (("set-vary", "accept"), ("Accept", "a"))
    await rig.send("/vary", *fields)
    await rig.send("/vary", ("set-vary", "accept"), ("Accept", "b"))
    _, first = await rig.send("/vary", *fields)
    _, second = await rig.send("/vary", ("Accept", "b"))

    assert first.count("cache_vary_filter") == 1
    assert second.count("cache_vary_filter") == 2
    assert [phases.count("cache_hit_filter fresh") for phases in (first, second)] == [1, 1]


async def test_order_of_an_uncacheable_one(rig: Rig) -> None:
    """It goes to the client as without a cache: conditions and ranges are the upstream's."""
    _, phases = await rig.send("/now", ("set-cache-control", "no-store"))

    stored = ["upstream_response_filter", "response_cache_filter"]
    miss = [*_BEFORE, *_LOOKUP, "cache_miss", *_UPSTREAM]
    assert phases == [*miss, *stored, "response_filter", *_END]
    assert rig.app.reasons == [NoCacheReason.ORIGIN_NOT_CACHE]


async def test_order_of_a_stale_one(rig: Rig) -> None:
    """Whether something stale may be served is asked for the refresh, and again for the error."""
    said = ("set-cache-control", "max-age=1, stale-if-error=60")
    await rig.send("/now", said)
    rig.clock.advance(2)
    response, phases = await rig.send("/now", ("x-status", "503"))

    assert response.body == HELLO
    found = ["cache_vary_filter", "cache_hit_filter stale"]
    error = ["upstream_response_filter", "should_serve_stale error"]
    assert phases == [*_BEFORE, *_LOOKUP, *found, *_UPSTREAM, *error, *_CLIENT, *_END]


async def test_order_of_an_error_that_is_made_up_for(rig: Rig) -> None:
    """``fail_to_proxy`` is not called for what has been answered."""
    said = ("set-cache-control", "max-age=1, stale-if-error=60")
    await rig.send("/now", said)
    rig.clock.advance(2)
    _, phases = await rig.send("/now", ("x-abort", "1"))

    assert "fail_to_proxy" not in phases
    assert phases.count("error_while_proxy") == phases.count("upstream_peer")
    assert phases.count("should_serve_stale error") == 1
    assert phases[-len(_CLIENT) - len(_END) :] == [*_CLIENT, *_END]


async def test_order_of_a_refresh(rig: Rig) -> None:
    """The request of the proxy's own runs all callbacks of a revalidation, and no filter of a client's."""
    said = ("set-cache-control", "max-age=1, stale-while-revalidate=60")
    await rig.send("/revalidate_now", said)
    rig.clock.advance(2)
    rig.app.phases.clear()
    await rig.client.request("GET", "/revalidate_now", [said])
    await rig.app.ended(3)
    await eventually(lambda: not rig.app.lock.keys, "the end of the refresh")
    phases = rig.app.phases

    assert rig.app.cache_phases[1:] in (
        [CachePhase.STALE_UPDATING, CachePhase.REVALIDATED],
        [CachePhase.REVALIDATED, CachePhase.STALE_UPDATING],
    )
    for twice in (*_BEFORE, *_LOOKUP, "cache_hit_filter stale", "logging"):
        assert phases.count(twice) == 2, twice
    for once in ("should_serve_stale updating", "upstream_peer", "response_cache_filter"):
        assert phases.count(once) == 1, once


async def test_order_of_purges(rig: Rig) -> None:
    """A purge is answered after the key; where the cache is off there is none."""
    await rig.send("/now")
    response, phases = await rig.send("/now", method="PURGE")
    rig.app.is_caching = False
    refused, without = await rig.send("/now", method="PURGE")

    purge = [*_BEFORE, "is_purge", "cache_key_callback", "purge_response_filter"]
    assert (response.status, response.get("x-purged")) == (200, "1")
    assert phases == [*purge, *_END]
    assert (refused.status, refused.get("x-purged")) == (405, "1")
    assert without == [*_BEFORE, "is_purge", "purge_response_filter", *_END]


async def test_order_of_what_changes_something(rig: Rig) -> None:
    """Invalidation comes before the response is filtered."""
    _, phases = await rig.send("/now", method="POST")

    assert phases == [
        *_BEFORE,
        "is_purge",
        *_UPSTREAM,
        "cache_invalidation_keys",
        "upstream_response_filter",
        "response_filter",
        *_END,
    ]


async def test_informational_heads_pass_by(rig: Rig) -> None:
    """A 103 is sent on, also in front of what is stored, and is no part of it."""
    response, phases = await rig.send("/now", ("x-early-hints", "1"))
    hit, _ = await rig.send("/now")
    private = ("set-cache-control", "private, no-store")
    bypassed, _ = await rig.send("/other/now", ("x-early-hints", "1"), private, ("x-status", "200"))

    assert [head.start_line for head in response.informational] == ["HTTP/1.1 103 Early Hints"]
    assert (response.body, hit.body) == (HELLO, HELLO)
    assert hit.informational == ()
    assert len(bypassed.informational) == 1
    assert phases.count("response_cache_filter") == 1
    assert phases.count("upstream_response_filter") == 2


# ------------------------------------------------------------------------------ failures


@pytest.mark.parametrize("failure", [RuntimeError("a bug"), Error(ErrorType.INTERNAL_ERROR)])
@pytest.mark.parametrize("phase", ["request_cache_filter", "cache_key_callback"])
async def test_a_cache_that_cannot_be_set_up(rig: Rig, phase: str, failure: Exception) -> None:
    """The request goes on without it."""
    rig.app.failing, rig.app.failure = phase, failure
    for _ in range(2):
        response, phases = await rig.send("/now")
        assert (response.status, response.body) == (200, HELLO)
        assert "cache_miss" not in phases
    assert len(rig.origin.requests) == 2


async def test_a_hit_filter_that_fails(rig: Rig) -> None:
    """What it has not approved is fetched anew."""
    await rig.send("/now")
    rig.app.failing = "cache_hit_filter fresh"
    response, phases = await rig.send("/now")

    assert (response.get("x-epoch"), phases.count("cache_miss")) == ("2", 1)


@pytest.mark.parametrize("failure", [RuntimeError("a bug"), Error(ErrorType.INTERNAL_ERROR)])
async def test_a_not_modified_filter_that_fails(rig: Rig, failure: Exception) -> None:
    """The whole response is sent: nobody is told to use what they may not have."""
    rig.app.failing, rig.app.failure = "cache_not_modified_filter", failure
    for _ in range(2):
        response, _ = await rig.send("/revalidate_now", ("If-None-Match", ETAG))
        assert (response.status, response.body) == (200, HELLO)


@pytest.mark.parametrize(
    "phase",
    ["is_purge", "cache_miss", "response_cache_filter", "cache_vary_filter", "range_header_filter"],
)
async def test_a_callback_that_fails(rig: Rig, phase: str) -> None:
    """A fault of the program is a 500, and holds nothing on to."""
    rig.app.failing = phase
    async with RunningProxy(rig.app) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/now")
    assert response.status == 500
    assert rig.app.lock.keys == 0


@pytest.mark.parametrize("phase", ["purge_response_filter", "cache_key_callback"])
async def test_a_purge_whose_callback_fails(rig: Rig, phase: str) -> None:
    """It has not been confirmed: 500."""
    await rig.send("/now")
    rig.app.failing = phase
    async with RunningProxy(rig.app) as proxy, await proxy.connect() as client:
        response = await client.request("PURGE", "/now")

    assert response.status == 500


async def test_declined_to_the_upstream(rig: Rig) -> None:
    """Who keeps a request from the upstream frees those who wait for it."""

    async def decline(session: Session, ctx: RigContext) -> bool:
        return False

    rig.app.proxy_upstream_filter = decline  # type: ignore[method-assign]
    async with RunningProxy(rig.app) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/now")

    assert response.status == 502
    assert rig.app.reasons == [NoCacheReason.DECLINED_TO_UPSTREAM]
    assert rig.app.lock.keys == 0


# ----------------------------------------------------------------- attempts and tries


async def test_a_second_attempt_keeps_the_lock(rig: Rig) -> None:
    """Who waits goes on waiting while the first tries again."""
    await rig.send("/warm/now")
    fields = (("x-gate", "head"), ("set-cache-control", "max-age=60"), ("x-abort", "1"))
    first = asyncio.create_task(rig.client.request("GET", "/now", fields))
    await rig.origin.requests_arrived(2)
    assert rig.app.lock.keys == 1
    rig.origin.open("head")
    await rig.origin.requests_arrived(3)  # on another connection
    assert rig.app.lock.keys == 1
    rig.origin.open("head")

    assert (await first).status == 502
    assert rig.app.lock.keys == 0


class _Hedging(Recorder):
    """Hedges at once."""

    def __init__(self, first: Origin, second: Origin, clock: FakeClock) -> None:
        super().__init__(first, clock)
        self._second = second

    def hedge_request(self, session: Session, peer: HttpPeer, ctx: RigContext) -> HedgePlan | None:
        return Hedge(0.01, self._choose)

    async def _choose(self) -> HttpPeer | None:
        return HttpPeer(self._second.address)


async def test_a_hedged_request_is_stored(origin: Origin) -> None:
    """The winner's response is, once; the loser changes nothing; so it is for a revalidation."""
    origin.handler = hang
    clock = FakeClock(1_700_000_000.0)
    async with Origin(http1) as second:
        app = _Hedging(origin, second, clock)
        proxy = RunningProxy(app, new_cache=lambda: HttpCache(clock))
        async with app.storage, proxy, await proxy.connect() as client:
            miss = await client.request("GET", "/revalidate_now")
            hit = await client.request("GET", "/revalidate_now")
            clock.advance(1.1)
            confirmed = await client.request("GET", "/revalidate_now")

    assert [r.body for r in (miss, hit, confirmed)] == [HELLO] * 3
    assert [request.get("if-none-match") for request in second.requests] == [None, ETAG]
    assert app.phases.count("response_cache_filter") == 2
    assert app.cache_phases == [CachePhase.MISS, CachePhase.HIT, CachePhase.REVALIDATED]
    assert app.lock.keys == 0


class _Custom(Recorder):
    """Gives reasons of its own."""

    async def response_cache_filter(
        self, session: Session, response: ResponseHeader, ctx: RigContext
    ) -> RespCacheable:
        return Uncacheable(NoCacheReason.custom("because"))


async def test_a_reason_of_the_applications(origin: Origin) -> None:
    """It is told to whoever asks why."""
    origin.handler = http1
    clock = FakeClock()
    app = _Custom(origin, clock)
    async with app.storage, RunningProxy(app) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/now")
        await app.ended()

    assert response.body == HELLO
    assert app.reasons == [NoCacheReason.custom("because")]
