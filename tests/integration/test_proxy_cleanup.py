"""A proxy that has stopped leaves nothing open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.origin_steps import reply
from tests.support.proxy import BareProxy, RunningProxy

if TYPE_CHECKING:
    from tests.support.origin import Origin


async def test_idle_upstream_connections_are_closed_with_the_service(origin: Origin) -> None:
    """The pool is emptied when the service ends, not when the process does."""
    origin.handler = reply(body=b"ok")
    async with RunningProxy(BareProxy(origin)) as proxy:
        async with await proxy.connect() as client:
            await client.request("GET", "/")
        kept = origin.open_connections
    await origin.all_closed()

    assert kept == 1
