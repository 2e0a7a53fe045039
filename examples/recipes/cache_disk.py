"""A cache that outlives restarts, how it fares, and whether it is sound: docs/how-to/cache-disk.md."""

from __future__ import annotations

# --8<-- [start:import]
from pingora_cache.disk import DiskStorage, verify
from pingora_cache.shared_lock import SharedCacheLock

# --8<-- [end:import]
from pingora_core import HttpPeer
from pingora_proxy import ProxyHttp, Session


# --8<-- [start:proxy]
class Proxy(ProxyHttp[None]):
    """Keeps responses in a directory."""

    def __init__(
        self, upstream: str, directory: str = "/var/cache/shop", run: str = "/run/shop"
    ) -> None:
        self.peer = HttpPeer(upstream)
        self.storage = DiskStorage(directory, max_bytes=50 * 1024**3)
        self.lock = SharedCacheLock(f"{run}/cache.lock", 5.0)

    async def request_cache_filter(self, session: Session, ctx: None) -> None:
        session.cache.enable(self.storage, lock=self.lock)

    async def cleanup(self) -> None:
        await self.storage.close()

    # --8<-- [end:proxy]
    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return self.peer


def show(storage: DiskStorage) -> None:
    """Show what went wrong in this process."""
    # --8<-- [start:failures]
    print(storage.stats.failures)  # {'damaged body': 1, 'ENOSPC': 12}
    # --8<-- [end:failures]


def check(directory: str) -> None:
    """Read all of a store."""
    # --8<-- [start:verify]
    found = verify(directory)  # "/var/cache/shop"
    print(found.objects, found.used_bytes, found.damaged)
    # --8<-- [end:verify]
