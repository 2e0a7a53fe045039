"""A gateway whose routes lead back to itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_core.modules import ViaBuilder
from tests.support.proxy import RigProxy, RunningProxy

if TYPE_CHECKING:
    from pingora_core.modules import HttpModules
    from pingora_core.upstreams import HttpPeer
    from pingora_proxy import Session
    from tests.support.origin import Origin
    from tests.support.proxy import RigContext


class Hop(RigProxy):
    """Leaves its name in what it forwards."""

    def init_downstream_modules(self, modules: HttpModules) -> None:
        modules.add_module(ViaBuilder("edge", responses=True))


async def test_the_origin_learns_the_way(origin: Origin) -> None:
    """Both sides are told the version in which the message came to the proxy."""
    async with RunningProxy(Hop(origin)) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/", [("Via", "1.0 first")])

    assert origin.requests[0].head.get("via") == "1.0 first, 1.1 edge"
    assert response.get("via") == "1.1 edge"


async def test_a_loop_ends_at_the_second_pass() -> None:
    """The request comes back once, and is answered instead of being sent again."""
    passes = 0

    class Loop(Hop):
        async def upstream_peer(self, session: Session, ctx: RigContext) -> HttpPeer:
            nonlocal passes
            passes += 1
            self.upstream = proxy.address
            return await super().upstream_peer(session, ctx)

    async with RunningProxy(Loop("127.0.0.1:1")) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/")

    assert (response.status, passes) == (508, 1)
