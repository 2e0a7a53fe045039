"""An admin service on a free port, in front of made-up backends, caches and numbers."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pingora_core.conf import ServerConf
from pingora_core.metrics import Registry
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.server import ExecutionPhase
from pingora_core.services.service import ServiceContext, ServiceReadyNotifier
from pingora_load_balancing import Backends
from pingora_proxy import HttpProxy
from pingora_proxy.admin import AdminService, PoolBackends
from pingora_proxy.metrics import DURATION
from tests.support.proxy import BareProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

__all__ = ["TOKEN", "AdminRig", "FakeCache", "FakeServer", "running"]

TOKEN = "0123456789-abcdefgh"


@dataclass
class FakeServer:
    """Says of itself what it is told to."""

    configuration: ServerConf = field(default_factory=ServerConf)
    is_ready: bool = True
    phase: ExecutionPhase = ExecutionPhase.RUNNING


@dataclass
class FakeCache:
    """Remembers what it was to purge."""

    purged: list[tuple[str, bool]] = field(default_factory=list)
    hits: int = 0
    requests: int = 0
    is_shared: bool = False

    def stats(self) -> Mapping[str, Mapping[str, float]]:
        kinds = ("misses", "revalidated", "stale", "stale_updating")
        counts = dict.fromkeys(kinds, 0)
        return {
            "storage": {"objects": 3, "used_bytes": 4096, "evictions": 0, "errors": 0},
            "requests": counts | {"hits": self.hits, "requests": self.requests},
        }

    async def purge_url(self, url: str, *, soft: bool) -> bool:
        if not url.startswith("http"):
            raise ValueError("an absolute URL is needed")
        self.purged.append((url, soft))
        return True

    async def purge_tag(self, tag: str, *, soft: bool) -> int | None:
        self.purged.append((tag, soft))
        return None if tag == "unknown" else 2


class AdminRig:
    """What an admin service looks at.

    Attributes:
        server: The server.
        pool: The backends.
        cache: The cache.
        registry: The numbers.
    """

    def __init__(self) -> None:
        self.server = FakeServer()
        self.pool = Backends(["127.0.0.1:8001", "127.0.0.1:8002"])
        self.cache = FakeCache()
        self.registry = Registry()
        self._durations = self.registry.add_histogram(DURATION)
        self.proxy = HttpProxy(BareProxy("127.0.0.1:1"))

    def serve(self, count: int, status: int = 200, seconds: float = 0.003) -> None:
        """Count requests.

        Args:
            count: How many.
            status: How they ended.
            seconds: How long each took.
        """
        for _ in range(count):
            self._durations.labels("GET", str(status), "", "http", "").observe(seconds)
        self.cache.requests += count
        self.cache.hits += count // 2

    def service(self, **options: object) -> AdminService:
        """Make a service.

        Args:
            options: As for the class.

        Returns:
            It, not started.
        """
        shown: dict[str, object] = {
            "listen": "127.0.0.1:0",
            "metrics": self.registry,
            "backends": {"web": PoolBackends(self.pool)},
            "caches": {"memory": self.cache},
            "proxies": {"gateway": self.proxy},
        }
        return AdminService(self.server, **(shown | options))  # type: ignore[arg-type]


@asynccontextmanager
async def running(service: AdminService, conf: ServerConf | None = None) -> AsyncIterator[str]:
    """Run a service.

    Args:
        service: It.
        conf: Of its server.

    Yields:
        The address that it listens on first.
    """
    service.check()
    switch = ShutdownSwitch()
    ready = ServiceReadyNotifier()
    context = ServiceContext(shutdown=switch.watch, ready=ready, conf=conf or ServerConf())
    task = asyncio.create_task(service.start_service(context))
    waiter = asyncio.create_task(ready.wait())
    await asyncio.wait((task, waiter), return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    if task.done():
        task.result()
    try:
        yield str(service.addresses[0])
    finally:
        switch.start()
        await task
