"""What a program of ten lines gets: only ``request_cache_filter`` is overridden."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest

from pingora_cache.cache import HttpCache
from pingora_cache.lock import CacheLock
from pingora_cache.memory import MemoryStorage
from pingora_cache.policy import CachePolicy
from pingora_cache.stats import CacheStats
from pingora_core.listeners import TlsSettings
from tests.support.cache_origin import ETAG, HELLO, http1
from tests.support.certificates import CertificateAuthority
from tests.support.client import RawClient
from tests.support.clock import FakeClock
from tests.support.proxy import BareProxy, RunningProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pingora_proxy import Session
    from tests.support.client import Response
    from tests.support.origin import Origin


class Small(BareProxy):
    """A proxy that caches, as short as it gets."""

    def __init__(self, upstream: str, storage: MemoryStorage) -> None:
        super().__init__(upstream)
        self.storage = storage
        self.lock = CacheLock(5.0)
        self.policy = CachePolicy()
        self.stats = CacheStats()

    async def request_cache_filter(self, session: Session, ctx: None) -> None:
        session.cache.enable(self.storage, lock=self.lock, policy=self.policy, stats=self.stats)


class Rig:
    """Origin, clock, and the small proxy."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.clock = FakeClock(1_700_000_000.0)
        self.app = Small(origin.address, MemoryStorage(1 << 22, clock=self.clock))
        self.proxy = RunningProxy(self.app, new_cache=lambda: HttpCache(self.clock))

    async def send(
        self, target: str, *fields: tuple[str, str], method: str = "GET", body: bytes | None = None
    ) -> Response:
        async with await self.proxy.connect() as client:
            return await client.request(method, target, fields, body)

    @property
    def asked(self) -> int:
        return len(self.origin.requests)


@pytest.fixture
async def rig(origin: Origin) -> AsyncIterator[Rig]:
    origin.handler = http1
    made = Rig(origin)
    async with made.app.storage, made.proxy:
        yield made


def cached(seconds: int = 60, more: str = "") -> tuple[str, str]:
    return ("set-cache-control", f"max-age={seconds}{more}")


async def test_what_may_be_stored_is(rig: Rig) -> None:
    """Explicit freshness is what it takes; the age is told."""
    first = await rig.send("/now", cached())
    rig.clock.advance(10)
    second = await rig.send("/now")
    rig.clock.advance(51)
    third = await rig.send("/now", cached())

    assert [r.body for r in (first, second, third)] == [HELLO] * 3
    assert [r.get("age") for r in (first, second, third)] == [None, "10", None]
    assert [r.get("x-epoch") for r in (first, second, third)] == ["1", "1", "2"]
    stats = rig.app.stats
    await eventually(lambda: stats.expired or stats.misses == 2, "the count")
    assert (stats.hits, stats.fills) == (1, 2)


async def test_time_on_the_way_counts(rig: Rig) -> None:
    """What another cache has said about its age grows by the time that the answer took."""
    gate = ("x-gate", "head")
    task = asyncio.create_task(rig.send("/now", cached(), ("set-age", "5"), gate))
    await rig.origin.requests_arrived(1)
    rig.clock.advance(10)
    rig.origin.open("head")
    first, second = await task, await rig.send("/now")

    assert (first.get("age"), second.get("age")) == ("5", "15")


@pytest.mark.parametrize(
    "said",
    [
        "no-store",
        "private, max-age=60",
        "max-age=60, no-store",
        "no-cache=x, max-age=60, private",
        "max-age=0",
        "s-maxage=0, max-age=60",
    ],
)
async def test_what_must_not_be_stored_is_not(rig: Rig, said: str) -> None:
    """What the origin forbids is fetched each time."""
    responses = [await rig.send("/now", ("set-cache-control", said)) for _ in range(2)]

    assert [r.get("x-epoch") for r in responses] == ["1", "2"]
    assert responses[0].get("cache-control") == said


async def test_what_says_nothing_is_not_stored(rig: Rig) -> None:
    """No freshness, no heuristics without Last-Modified: nothing is made up."""
    responses = [await rig.send("/now") for _ in range(2)]

    assert [r.get("x-epoch") for r in responses] == ["1", "2"]


async def test_heuristic_freshness(rig: Rig) -> None:
    """A tenth of the time since it was modified, a day at most."""
    modified = ("set-last-modified", "Mon, 13 Nov 2023 22:13:20 GMT")  # a day ago
    first = await rig.send("/now", modified)
    rig.clock.advance(8639)
    second = await rig.send("/now", modified)

    assert [r.get("x-epoch") for r in (first, second)] == ["1", "1"]


@pytest.mark.parametrize(
    ("fields", "is_shared"),
    [
        ((("Authorization", "Basic YQ=="),), False),
        ((("Authorization", "Basic YQ=="), ("set-cache-control", "public")), True),
        ((("Cookie", "a=1"),), True),
        ((("set-set-cookie", "a=1"),), False),
    ],
)
async def test_whose_responses_are_shared(
    rig: Rig, fields: tuple[tuple[str, str], ...], is_shared: bool
) -> None:
    """Of those who authorise themselves nothing is, unless it says so; nor is what sets a cookie."""
    responses = [await rig.send("/now", cached(), *fields) for _ in range(2)]

    assert (responses[1].get("x-epoch") == "1") is is_shared


# ------------------------------------------------------------------------------ methods


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "QUERY"])
async def test_only_get_and_head_are_cached(rig: Rig, method: str) -> None:
    """Whatever else a request is, its response is for it alone."""
    for _ in range(2):
        response = await rig.send("/now", cached(), method=method)
        assert response.status == 200
    assert rig.asked == 2
    assert (await rig.send("/now", cached())).get("x-epoch") == "3"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "QUERY", "M-SEARCH"])
async def test_unsafe_methods_invalidate(rig: Rig, method: str) -> None:
    """Who may have changed something makes the stored response obsolete (RFC 9111 section 4.4)."""
    await rig.send("/now", cached())
    assert (await rig.send("/now")).get("x-epoch") == "1"
    await rig.send("/now", method=method)

    assert (await rig.send("/now", cached())).get("x-epoch") == "3"
    assert rig.app.stats.invalidations == 1


@pytest.mark.parametrize(
    ("name", "value", "is_gone"),
    [
        ("location", "/other", True),
        ("content-location", "/other", True),
        ("location", "http://test.example/other", True),
        ("location", "http://elsewhere.example/other", False),
        ("location", "https://test.example/other", False),
    ],
)
async def test_what_else_is_invalidated(rig: Rig, name: str, value: str, is_gone: bool) -> None:
    """So does it with what the answer names, in the same origin."""
    await rig.send("/other", cached(), ("x-status", "200"))
    await rig.send("/now", (f"set-{name}", value), method="POST", body=b"x")

    assert (await rig.send("/other")).get("x-epoch") == ("3" if is_gone else "1")


@pytest.mark.parametrize(
    ("method", "status"), [("POST", "400"), ("POST", "500"), ("OPTIONS", "200"), ("HEAD", "200")]
)
async def test_what_changes_nothing_invalidates_nothing(rig: Rig, method: str, status: str) -> None:
    """A request that failed, and a safe one, leave things as they are."""
    await rig.send("/now", cached())
    await rig.send("/now", ("x-status", status), method=method)

    assert (await rig.send("/now")).get("x-epoch") == "1"


async def test_a_request_that_is_refused_here_invalidates_nothing(rig: Rig, dead: str) -> None:
    """Nor does one that has never reached the origin."""
    await rig.send("/now", cached())
    rig.app.upstream = dead
    assert (await rig.send("/now", method="POST")).status == 502
    assert (await rig.send("/now")).get("x-epoch") == "1"


# ---------------------------------------------------------------------------- revalidation


async def test_revalidation_with_no_code_at_all(rig: Rig) -> None:
    """What has expired is asked after by its validators."""
    first = await rig.send("/revalidate_now", cached(1))
    rig.clock.advance(2)
    second = await rig.send("/revalidate_now", cached(60))
    third = await rig.send("/revalidate_now", ("If-None-Match", ETAG))

    assert [r.status for r in (first, second, third)] == [200, 200, 304]
    assert rig.asked == 2
    assert rig.origin.requests[1].get("if-none-match") == ETAG


async def test_stale_while_revalidate_with_no_code_at_all(rig: Rig) -> None:
    """The directive of the response is enough: served stale, and refreshed in the background."""
    said = cached(1, ", stale-while-revalidate=60")
    await rig.send("/now", said)
    rig.clock.advance(2)
    stale = await rig.send("/now", said)
    await eventually(lambda: rig.app.stats.fills == 2, "the refresh")
    fresh = await rig.send("/now")

    assert [r.get("x-epoch") for r in (stale, fresh)] == ["1", "2"]
    assert (stale.get("age"), fresh.get("age")) == ("2", "0")


async def test_stale_if_error_with_no_code_at_all(rig: Rig) -> None:
    """So it is for errors."""
    await rig.send("/now", cached(1, ", stale-if-error=60"))
    rig.clock.advance(2)
    stale = await rig.send("/now", ("x-status", "503"))

    assert (stale.status, stale.body) == (200, HELLO)


async def test_clients_may_ask_for_a_new_one(rig: Rig) -> None:
    """``no-cache``, ``max-age`` and the rest count, unless the policy ignores them."""
    await rig.send("/now", cached())
    rig.clock.advance(5)
    asked = [
        (await rig.send("/now", cached(), ("Cache-Control", said))).get("x-epoch")
        for said in ("max-age=10", "max-age=4", "no-cache", "max-stale=100")
    ]
    rig.app.policy = CachePolicy(request_directives=False)
    ignored = await rig.send("/now", ("Cache-Control", "no-cache"))

    assert asked == ["1", "2", "3", "3"]
    assert ignored.get("x-epoch") == "3"


async def test_negative_caching(rig: Rig) -> None:
    """An error that may be cached is, and goes with its own time."""
    rig.app.policy = CachePolicy(default_ttl={404: 5.0})
    first = await rig.send("/nothing")
    second = await rig.send("/nothing")
    rig.clock.advance(6)
    third = await rig.send("/nothing")

    assert [r.status for r in (first, second, third)] == [404] * 3
    assert [r.get("x-epoch") for r in (first, second, third)] == ["1", "1", "2"]


# ---------------------------------------------------------------------------------- keys


async def test_the_key_has_host_and_query(rig: Rig) -> None:
    """Other hosts, ports, paths and queries are other objects (CVE-2026-2836)."""
    targets = [
        ("a.example", "/now"),
        ("b.example", "/now"),
        ("a.example:8080", "/now"),
        ("a.example", "/now?"),
        ("a.example", "/now?a=1"),
        ("a.example", "/now/"),
    ]
    for _ in range(2):
        for host, target in targets:
            await rig.send(target, ("Host", host), cached())
    assert rig.asked == len(targets)
    same = [await rig.send("/now", ("Host", host)) for host in ("A.EXAMPLE", "a.example:80")]
    assert {r.get("x-epoch") for r in same} == {"1"}


async def test_the_key_has_the_scheme(rig: Rig, tmp_path: Path) -> None:
    """What was fetched for http is not served for https, and a refresh stays in its scheme."""
    authority = CertificateAuthority(tmp_path)
    issued = authority.issue("test.example")
    trust = ssl.create_default_context(cafile=str(authority.cert_path))
    proxy = RunningProxy(rig.app, listen=(), new_cache=lambda: HttpCache(rig.clock))
    settings = TlsSettings.intermediate(issued.chain_path, issued.key_path)
    proxy.service.add_tls_with_settings("127.0.0.1:0", None, settings)
    said = cached(1, ", stale-while-revalidate=60")

    async def secure() -> Response:
        client = await RawClient.connect(proxy.address, tls=trust, server_hostname="test.example")
        async with client:
            return await client.request("GET", "/now", [said])

    await rig.send("/now", said)
    async with proxy:
        epochs = [(await secure()).get("x-epoch") for _ in range(2)]
        rig.clock.advance(2)
        stale = await secure()
        await eventually(lambda: rig.app.stats.fills == 3, "the refresh")
        refreshed = await secure()
    plain = await rig.send("/now", said)

    assert epochs == ["2", "2"]
    assert (stale.get("x-epoch"), refreshed.get("x-epoch")) == ("2", "3")
    # The plain one has not been touched: it is still the stale one.
    assert plain.get("x-epoch") == "1"
