"""A cache that machines share, with a memory in front of it: docs/how-to/cache-redis.md."""

from __future__ import annotations

# --8<-- [start:import]
from pingora_cache import CacheLock
from pingora_cache.memory import MemoryStorage
from pingora_cache.redis import RedisStorage
from pingora_cache.tiered import TieredStorage

# --8<-- [end:import]
from pingora_core import HttpPeer
from pingora_proxy import ProxyHttp, Session


# --8<-- [start:proxy]
class Proxy(ProxyHttp[None]):
    """Keeps responses in memory and in Redis."""

    def __init__(self, upstream: str, redis: str = "redis://10.0.0.5:6379/0") -> None:
        self.peer = HttpPeer(upstream)
        self.lock = CacheLock(5.0)
        self.storage = TieredStorage(
            MemoryStorage(256 * 1024 * 1024),
            RedisStorage(redis, prefix="shop"),
        )

    async def request_cache_filter(self, session: Session, ctx: None) -> None:
        session.cache.enable(self.storage, lock=self.lock)

    async def cleanup(self) -> None:
        await self.storage.close()

    # --8<-- [end:proxy]
    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return self.peer
