"""Purges where the application says no more than that a request is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_cache.storage import PurgeAction
from pingora_proxy import ProxyHttp, _fetches
from pingora_proxy.admin.caches import StorageCache
from tests.support.cache_proxy import CacheRig, CachingProxy

if TYPE_CHECKING:
    from pingora_cache.key import CacheKey
    from pingora_proxy import Session
    from tests.support.cache_proxy import CacheContext


class PurgingProxy(CachingProxy):
    """Has the keys that everybody has, and purges softly when asked to."""

    async def cache_key_callback(self, session: Session, ctx: CacheContext) -> CacheKey:
        return await ProxyHttp.cache_key_callback(self, session, ctx)

    async def is_purge(self, session: Session, ctx: CacheContext) -> bool | PurgeAction:
        actions: dict[str, bool | PurgeAction] = {"PURGE": True, "EXPIRE": PurgeAction.EXPIRE}
        return actions.get(session.req_header.method, False)


async def test_a_purge_is_of_what_a_get_has_stored() -> None:
    """The key of a purge is that of a GET, whatever its own method is called."""
    host = ("Host", "shop.test")
    async with CacheRig(PurgingProxy) as rig:
        await rig.send("/unique/purges/test2?a=1", host)
        hit = await rig.send("/unique/purges/test2?a=1", host)
        other = await rig.send("/unique/purges/test2?a=2", host, method="PURGE")
        purged = await rig.send("/unique/purges/test2?a=1", host, method="PURGE")
        again = await rig.send("/unique/purges/test2?a=1", host, method="PURGE")
        miss = await rig.send("/unique/purges/test2?a=1", host)

    assert hit.get("x-cache-status") == "hit"
    assert [other.status, purged.status, again.status] == [404, 200, 404]
    assert miss.get("x-cache-status") == "miss"


async def test_a_soft_purge_makes_expire() -> None:
    """The object is still there, and is not served without asking the upstream."""
    host = ("Host", "shop.test")
    async with CacheRig(PurgingProxy) as rig:
        await rig.send("/unique/soft/revalidate_now", host)
        purged = await rig.send("/unique/soft/revalidate_now", host, method="EXPIRE")
        after = await rig.send("/unique/soft/revalidate_now", host)

    assert purged.status == 200
    assert after.get("x-cache-status") == "revalidated"


async def test_a_soft_purge_makes_all_variants_expire() -> None:
    """One purge of the URL, and each variant is asked for once more; none is fetched anew."""
    host, vary = ("Host", "shop.test"), ("set-vary", "Accept")
    url = "/unique/soft-variants/revalidate_now"
    kinds = [("Accept", name) for name in ("image/png", "image/webp", "text/html")]
    async with CacheRig(PurgingProxy) as rig:
        for kind in kinds:
            await rig.send(url, host, vary, kind)
        hits = [await rig.send(url, host, vary, kind) for kind in kinds]
        rig.clock.advance(1)
        purged = await rig.send(url, host, method="EXPIRE")
        rig.clock.advance(1)
        after = [await rig.send(url, host, vary, kind) for kind in kinds]
        again = [await rig.send(url, host, vary, kind) for kind in kinds]

    assert [hit.get("x-cache-status") for hit in hits] == ["hit"] * 3
    assert purged.status == 200
    assert [response.get("x-cache-status") for response in after] == ["revalidated"] * 3
    assert [response.get("x-cache-status") for response in again] == ["hit"] * 3


@pytest.mark.parametrize("bypasses", [False, True])
@pytest.mark.parametrize("method", ["PURGE", "EXPIRE", "POST", "admin"])
async def test_a_purge_of_what_has_not_begun_to_arrive(method: str, bypasses: bool) -> None:
    """The origin may have read it before: who waits for it gets it, and nobody after that."""
    url, host, minute = (
        "/unique/early/now",
        ("Host", "shop.test"),
        ("set-cache-control", "max-age=60"),
    )
    async with CacheRig(PurgingProxy) as rig:
        if bypasses:
            await rig.send(url, host, ("set-cache-control", "no-store"))
        before = rig.start(url, host, minute, ("x-gate", "head"), ("set-state", "before"))
        await rig.origin.requests_arrived(1 + bypasses)
        if method == "admin":
            await StorageCache(rig.storage).purge_url(f"http://shop.test{url}", soft=False)
        else:
            purged = await rig.send(url, host, method=method)
            assert purged.status == (200 if method == "POST" else 404)
        rig.origin.open("head")
        late = await before
        after = [await rig.send(url, host, minute, ("set-state", "after")) for _ in range(2)]

    assert (late.status, late.get("state")) == (200, "before")
    assert [response.get("state") for response in after] == ["after", "after"]
    assert after[1].get("x-cache-status") == "hit"
    assert not _fetches._fetches
