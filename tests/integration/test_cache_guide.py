"""What the caching guide shows does what it says: docs/how-to/cache.md takes its pieces from here."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pingora_cache import (
    Cacheable,
    CacheKey,
    CachePolicy,
    CacheStats,
    ForcedFreshness,
    MemoryStorage,
    NthRequest,
    Predictor,
)
from pingora_cache.vary import DEFAULT_NORMALISERS
from pingora_core import HttpPeer
from pingora_proxy import ProxyHttp
from tests.support.client import RawClient
from tests.support.origin import Origin
from tests.support.proxy import RunningProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pingora_cache import CacheMeta, HitHandler, RespCacheable
    from pingora_http import ResponseHeader
    from pingora_proxy import Session
    from tests.support.client import Response
    from tests.support.origin import Exchange, Handler


class Cached(ProxyHttp[None]):
    def __init__(self, origin: str) -> None:
        self.origin = HttpPeer(origin)
        self.storage = MemoryStorage(1 << 20)

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return self.origin

    async def request_cache_filter(self, session: Session, ctx: None) -> None:
        session.cache.enable(self.storage)


def country_of(session: Session) -> str:
    return session.req_header.get("x-country", "??")


class ByCountry(Cached):
    # --8<-- [start:key]
    async def cache_key_callback(self, session: Session, ctx: None) -> CacheKey:
        country = country_of(session)
        return CacheKey.for_request(session.req_header, scheme=session.scheme, extra=[country])

    # --8<-- [end:key]


def site_language(value: bytes) -> bytes:
    return b"de" if value.lower().startswith(b"de") else b"en"


# --8<-- [start:vary]
policy = CachePolicy(
    normalisers={**DEFAULT_NORMALISERS, "accept-language": site_language},
)
# --8<-- [end:vary]


class ByLanguage(Cached):
    async def request_cache_filter(self, session: Session, ctx: None) -> None:
        session.cache.enable(self.storage, policy=policy)


class SomeStatic(Cached):
    # --8<-- [start:select]
    async def request_cache_filter(self, session: Session, ctx: None) -> None:
        if session.req_header.path.startswith("/static/"):
            session.cache.enable(self.storage)

    # --8<-- [end:select]


class LongImages(Cached):
    # --8<-- [start:response]
    async def response_cache_filter(
        self, session: Session, response: ResponseHeader, ctx: None
    ) -> RespCacheable:
        verdict = await super().response_cache_filter(session, response, ctx)
        if isinstance(verdict, Cacheable) and response.get("content-type") == "image/png":
            meta = verdict.meta
            return Cacheable(meta.replace(fresh_until=meta.fresh_until + 86400))
        return verdict

    # --8<-- [end:response]


class Outdated(Cached):
    outdated_at = 0.0

    # --8<-- [start:hit]
    async def cache_hit_filter(
        self, session: Session, meta: CacheMeta, hit_handler: HitHandler, is_fresh: bool, ctx: None
    ) -> ForcedFreshness | None:
        if meta.created < self.outdated_at:  # the site was deployed since
            return ForcedFreshness.FORCE_EXPIRED
        return None

    # --8<-- [end:hit]


class Choosy(Cached):
    def __init__(self, origin: str) -> None:
        super().__init__(origin)
        # --8<-- [start:objects]
        self.stats = CacheStats()
        self.predictor = Predictor(10_000)
        self.admission = NthRequest(2)
        # --8<-- [end:objects]

    async def request_cache_filter(self, session: Session, ctx: None) -> None:
        # --8<-- [start:enable]
        session.cache.enable(
            self.storage, stats=self.stats, predictor=self.predictor, admission=self.admission
        )
        session.cache.set_max_file_size_bytes(10 * 1024 * 1024)
        # --8<-- [end:enable]


def page(*fields: tuple[str, str]) -> Handler:
    async def answer(exchange: Exchange) -> None:
        number = len(exchange.origin.requests)
        await exchange.reply("200 OK", str(number).encode(), fields)

    return answer


FRESH = ("Cache-Control", "max-age=60")


class Rig:
    """An origin that counts, and a proxy in front of it."""

    def __init__(self, origin: Origin, proxy: RunningProxy[None]) -> None:
        self.origin = origin
        self._proxy = proxy

    async def get(self, target: str, *fields: tuple[str, str]) -> Response:
        async with await RawClient.connect(self._proxy.address) as client:
            return await client.request("GET", target, fields)

    async def count(self, target: str, *fields: tuple[str, str]) -> int:
        """Tell which request to the origin has brought what is served."""
        return int((await self.get(target, *fields)).body)


@asynccontextmanager
async def rig(
    make: Callable[[str], ProxyHttp[None]], *fields: tuple[str, str]
) -> AsyncIterator[Rig]:
    async with (
        Origin(page(*(fields or (FRESH,)))) as origin,
        RunningProxy(make(origin.address)) as proxy,
    ):
        yield Rig(origin, proxy)


async def test_what_is_in_the_key_tells_apart() -> None:
    """Clients of another country get another object."""
    async with rig(ByCountry) as cache:
        counts = [
            await cache.count("/", ("X-Country", country)) for country in ("de", "fr", "de", "fr")
        ]

    assert counts == [1, 2, 1, 2]


async def test_a_normaliser_makes_variants_few() -> None:
    """Languages that the site does not tell apart have one variant."""
    async with rig(ByLanguage, FRESH, ("Vary", "Accept-Language")) as cache:
        languages = ("de-AT, en;q=0.5", "fr", "de", "en-GB")
        counts = [await cache.count("/", ("Accept-Language", each)) for each in languages]

    assert counts == [1, 2, 1, 2]


async def test_caching_is_switched_on_by_request() -> None:
    """Other paths go to the origin each time."""
    async with rig(SomeStatic) as cache:
        counts = [await cache.count(target) for target in ("/static/a", "/", "/static/a", "/")]

    assert counts == [1, 2, 1, 3]


async def test_the_verdict_can_be_changed() -> None:
    """Images are kept a day longer than the origin says, other things are not."""
    for kind, stays in (("image/png", True), ("text/html", False)):
        fields = (("Cache-Control", "max-age=10"), ("Age", "20"), ("ETag", '"1"'))
        async with rig(LongImages, *fields, ("Content-Type", kind)) as cache:
            await cache.get("/")
            assert (await cache.count("/") == 1) is stays


async def test_the_application_knows_what_is_outdated() -> None:
    """What was stored before a time is asked for again."""
    apps = list[Outdated]()

    def make(origin: str) -> Outdated:
        apps.append(Outdated(origin))
        return apps[0]

    async with rig(make) as cache:
        assert [await cache.count("/"), await cache.count("/")] == [1, 1]
        apps[0].outdated_at = 1e12
        assert await cache.count("/") == 2


async def test_numbers_and_choosing() -> None:
    """The second request stores, the third is a hit; the numbers tell."""
    apps = list[Choosy]()

    def make(origin: str) -> Choosy:
        apps.append(Choosy(origin))
        return apps[0]

    async with rig(make) as cache:
        counts = [await cache.count("/") for _ in range(4)]
        await eventually(lambda: apps[0].stats.requests == 4, "the end of the requests")

    assert counts == [1, 2, 2, 2]
    numbers = apps[0].stats.snapshot()
    assert (numbers["hits"], numbers["fills"], numbers["reasons.Deferred"]) == (2, 1, 1)
