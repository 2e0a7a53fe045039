"""Purges where the application says no more than that a request is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_cache.storage import PurgeAction
from pingora_proxy import ProxyHttp
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
