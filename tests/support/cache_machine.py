"""An ``HttpCache`` with all that it works with, for tests: in any phase, at any time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_cache.cache import HttpCache
from pingora_cache.key import CacheKey
from pingora_cache.lock import CacheLock
from pingora_cache.meta import CacheMeta
from pingora_cache.phase import CachePhase, HitStatus
from pingora_cache.reason import NoCacheReason
from pingora_cache.stats import CacheStats
from pingora_http import ResponseHeader
from tests.support.cache_scheduler import FakeScheduler
from tests.support.cache_store import PlainStore
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from pingora_cache.eviction import EvictionManager
    from pingora_cache.lock import CacheKeyLock
    from pingora_cache.predictor import CacheablePredictor

__all__ = ["BODY", "VARIANCE", "CacheRig", "state_of"]

BODY = b"hello"
VARIANCE = b"a-variance--of16"


class CacheRig:
    """A store, a lock, clocks that stand still, and requests made on them.

    Args:
        streaming: Whether the store streams partial writes.
        lock: The cache lock; True makes one that ages after 10 s.
        eviction: An eviction manager outside the store.
        predictor: A predictor.
        lock_wait_timeout: How long a request waits for others, seconds.

    Attributes:
        store: The store.
        clock: Wall-clock time.
        time: Monotonic time and timers.
        stats: What counts.
        requests: All that were made.
    """

    def __init__(
        self,
        *,
        streaming: bool = False,
        lock: bool | CacheKeyLock = True,
        eviction: EvictionManager | None = None,
        predictor: CacheablePredictor | None = None,
        lock_wait_timeout: float | None = None,
    ) -> None:
        self.store = PlainStore(streaming=streaming)
        self.clock = FakeClock()
        self.time = FakeScheduler()
        self.stats = CacheStats()
        self.lock: CacheKeyLock | None
        if isinstance(lock, bool):
            self.lock = CacheLock(10, scheduler=self.time) if lock else None
        else:
            self.lock = lock
        self.eviction = eviction
        self.predictor = predictor
        self.lock_wait_timeout = lock_wait_timeout
        self.requests: list[HttpCache] = []

    def key(self, primary: str = "a") -> CacheKey:
        """Make a key.

        Args:
            primary: The primary key.

        Returns:
            The key.
        """
        return CacheKey(primary)

    def meta(
        self,
        *,
        fresh: float = 60,
        created: float | None = None,
        variance: bytes | None = None,
        header: ResponseHeader | None = None,
        stale: int = 0,
        tags: tuple[bytes, ...] = (),
    ) -> CacheMeta:
        """Make a meta of now.

        Args:
            fresh: For how long it is fresh, seconds.
            created: When it was created; None for now.
            variance: Its variance.
            header: Its head; None for a plain 200.
            stale: For how long it may be served stale, seconds.
            tags: Its tags.

        Returns:
            The meta.
        """
        now = self.clock.now if created is None else created
        return CacheMeta(
            ResponseHeader(200) if header is None else header,
            created=now,
            fresh_until=now + fresh,
            variance=variance,
            stale_while_revalidate=stale,
            stale_if_error=stale,
            tags=tags,
        )

    def request(self, primary: str | None = "a") -> HttpCache:
        """Begin a request.

        Args:
            primary: The primary key; None for no key yet.

        Returns:
            Its cache, enabled.
        """
        cache = HttpCache(self.clock, monotonic=self.time.time)
        self.requests.append(cache)
        cache.enable(
            self.store,
            eviction=self.eviction,
            predictor=self.predictor,
            lock=self.lock,
            lock_wait_timeout=self.lock_wait_timeout,
            stats=self.stats,
        )
        if primary is not None:
            cache.set_cache_key(self.key(primary))
        return cache

    async def stored(self, primary: str = "a", *, fresh: float = 60, stale: int = 0) -> HttpCache:
        """Make a request for an object that is stored, and use it as its freshness says.

        Args:
            primary: The primary key.
            fresh: For how long it is fresh, seconds; below 0 it has expired.
            stale: For how long it may be served stale, seconds.

        Returns:
            Its cache, in phase HIT or STALE.
        """
        self.store.put(self.key(primary), self.meta(fresh=fresh, stale=stale), BODY)
        cache = self.request(primary)
        found = await cache.cache_lookup()
        assert found is not None
        fresh_now = found[0].is_fresh(self.clock.now)
        cache.cache_found(*found, HitStatus.FRESH if fresh_now else HitStatus.EXPIRED)
        return cache

    async def missed(self, primary: str = "a", *, max_size: int | None = None) -> HttpCache:
        """Make a request for something that is not stored, up to the meta of its response.

        Args:
            primary: The primary key.
            max_size: The largest body that is stored, bytes.

        Returns:
            Its cache, in phase MISS.
        """
        cache = self.request(primary)
        if max_size is not None:
            cache.set_max_file_size_bytes(max_size)
        assert await cache.cache_lookup() is None
        cache.cache_miss()
        cache.set_cache_meta(self.meta())
        return cache

    async def in_phase(self, phase: CachePhase) -> HttpCache:
        """Make a request that is in a phase.

        Args:
            phase: The phase. A MISS has a meta; DISABLED has been on.

        Returns:
            Its cache.
        """
        match phase:
            case CachePhase.DISABLED:
                cache = self.request()
                cache.disable(NoCacheReason.DEFERRED)
            case CachePhase.UNINIT:
                cache = self.request(None)
            case CachePhase.BYPASS:
                cache = self.request()
                cache.bypass()
            case CachePhase.CACHE_KEY:
                cache = self.request()
            case CachePhase.MISS:
                cache = await self.missed("missing")
            case CachePhase.HIT:
                cache = await self.stored()
            case _:
                cache = await self.stored(fresh=-1, stale=60)
                await self._beyond_stale(cache, phase)
        assert cache.phase is phase
        return cache

    async def _beyond_stale(self, cache: HttpCache, phase: CachePhase) -> None:
        match phase:
            case CachePhase.STALE_UPDATING:
                cache.set_stale_updating()
            case CachePhase.EXPIRED:
                cache.set_cache_meta(self.meta())
            case CachePhase.REVALIDATED:
                assert await cache.revalidate_cache_meta(self.meta())
            case CachePhase.REVALIDATED_NO_CACHE:
                reason = NoCacheReason.ORIGIN_NOT_CACHE
                cache.revalidate_uncacheable(ResponseHeader(200), reason)
            case _:
                pass

    def check(self) -> None:
        """Close all requests, and see that nothing is left of them."""
        for cache in self.requests:
            cache.close()
        assert (self.store.readers, self.store.writers) == (0, 0)
        assert self.stats.fills_active == 0
        if isinstance(self.lock, CacheLock):
            assert (self.lock.keys, self.lock.waiters) == (0, 0)
        assert self.time.armed == 0


def state_of(cache: HttpCache) -> dict[str, object]:
    """Tell all that a cache knows, to compare.

    Args:
        cache: The cache.

    Returns:
        Its attributes, and the variance of its key.
    """
    names = [
        name
        for base in type(cache).__mro__
        for name in getattr(base, "__slots__", ())
        if hasattr(cache, name)
    ]
    state: dict[str, object] = {name: getattr(cache, name) for name in names}
    key = cache.maybe_cache_key
    state["variance"] = None if key is None else key.variance
    return state
