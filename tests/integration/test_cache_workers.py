"""Several workers with one store on disk: what is cold is fetched once for all of them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from pingora_cache.disk import DiskStorage
from pingora_cache.shared_lock import SharedCacheLock
from tests.support.cache_origin import HELLO, http1
from tests.support.proxy import BareProxy, RunningProxy

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_proxy import Session
    from tests.support.client import Response
    from tests.support.origin import Origin

_CACHED = ("set-cache-control", "max-age=60")


class Worker(BareProxy):
    """What each worker has: a store and a lock of its own, over the same files."""

    def __init__(self, upstream: str, folder: Path) -> None:
        super().__init__(upstream)
        self.storage = DiskStorage(folder / "store", max_bytes=1 << 26)
        self.lock = SharedCacheLock(folder / "lock", 10.0)

    async def request_cache_filter(self, session: Session, ctx: None) -> None:
        session.cache.enable(self.storage, lock=self.lock)


async def test_a_cold_key_is_fetched_once_for_all_workers(origin: Origin, tmp_path: Path) -> None:
    """Requests that come to three workers at the same time get the answer to one of them."""
    origin.handler = http1
    async with AsyncExitStack() as stack:
        workers = [Worker(origin.address, tmp_path) for _ in range(3)]
        proxies = []
        for worker in workers:
            stack.callback(worker.lock.close)
            await stack.enter_async_context(worker.storage)
            proxies.append(await stack.enter_async_context(RunningProxy(worker)))

        async def send(proxy: RunningProxy[None]) -> Response:
            async with await proxy.connect() as client:
                return await client.request("GET", "/now", (_CACHED, ("x-gate", "head")), None)

        tasks = [asyncio.create_task(send(proxy)) for proxy in proxies for _ in range(20)]
        await origin.requests_arrived(1)
        for _ in range(20):
            await asyncio.sleep(0.01)
        origin.open("head", 60)
        responses = await asyncio.gather(*tasks)

    assert {response.body for response in responses} == {HELLO}
    assert {response.get("x-epoch") for response in responses} == {"1"}
    assert len(origin.requests) == 1
