"""A proxy that caches, on clocks that only a test moves.

``CachingProxy`` does for each request what the request asks for in its fields, as the original's test
proxy does, and says in each response what the cache made of it:

- ``x-lock``: takes part in the cache lock (which holds others for 2 s at most), and may be served
  stale while it is fetched anew;
- ``x-eviction``: bounded by an LRU of 8192 bytes; ``x-cache-max-file-size-bytes``: a largest body;
- ``x-force-miss``, ``x-force-expire``, ``x-force-fresh``: overrules the hit;
- ``x-bypass-cache``: no cache at all; ``x-h2``: the HTTP/2 origin is asked;
- ``x-downstream-compression``, ``x-downstream-decompression``, ``x-upstream-compression``;
- ``x-upstream-accept-encoding``: sent as Accept-Encoding; ``x-upstream-fake-http10``.

In a response: ``x-cache-status``, ``x-cache-lock-time-ms``, ``x-upstream-status``.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from pingora_cache.cache import HttpCache
from pingora_cache.eviction.simple_lru import SimpleLru
from pingora_cache.key import CacheKey
from pingora_cache.lock import CacheLock
from pingora_cache.memory import MemoryStorage
from pingora_cache.phase import CachePhase, ForcedFreshness
from pingora_cache.policy import CachePolicy
from pingora_cache.predictor import Predictor
from pingora_cache.reason import NoCacheReason
from pingora_cache.stats import CacheStats
from pingora_cache.variance import VarianceBuilder
from pingora_cache.vary import vary_names
from pingora_core.apps.http_app import HttpServerOptions
from pingora_core.modules.compression import ResponseCompression
from pingora_core.protocols.tls import ALPN
from pingora_core.upstreams import HttpPeer
from pingora_http import Version
from pingora_proxy import ProxyHttp
from tests.support.cache_origin import http1, http2
from tests.support.cache_scheduler import FakeScheduler
from tests.support.clock import FakeClock
from tests.support.h2client import RawH2Client
from tests.support.h2origin import StrictH2Origin
from tests.support.origin import Origin
from tests.support.proxy import RunningProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pingora_cache.meta import CacheMeta
    from pingora_cache.storage import HitHandler, PurgeAction, Storage
    from pingora_error import Error
    from pingora_http import RequestHeader, ResponseHeader
    from pingora_proxy import Session
    from tests.support.client import RawClient, Response

__all__ = ["CacheContext", "CacheRig", "CachingProxy", "Ended"]

_VARY_ALLOWED = frozenset({b"accept", b"accept-encoding"})
_FORCED = {
    "x-force-expire": ForcedFreshness.FORCE_EXPIRED,
    "x-force-fresh": ForcedFreshness.FORCE_FRESH,
    "x-force-miss": ForcedFreshness.FORCE_MISS,
}
_NAMES = {
    CachePhase.EXPIRED: "expired",
    CachePhase.HIT: "hit",
    CachePhase.MISS: "miss",
    CachePhase.REVALIDATED: "revalidated",
    CachePhase.REVALIDATED_NO_CACHE: "revalidated",
    CachePhase.STALE: "stale",
    CachePhase.STALE_UPDATING: "stale-updating",
}


@dataclass(slots=True)
class CacheContext:
    """What is kept of one request.

    Attributes:
        upstream_status: The status of the upstream's final response.
        attempts: How often an upstream was chosen.
    """

    upstream_status: int | None = None
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """How one request ended, as ``logging`` was told.

    Attributes:
        method: Its method.
        phase: Where its cache stood.
        reason: Why the cache was off; None if it was not.
        status: Status of the response; None when there was none.
        error: Why it failed, or None.
        is_subrequest: Whether the proxy itself has made it.
    """

    method: str
    phase: CachePhase
    reason: NoCacheReason | None
    status: int | None
    error: Error | None
    is_subrequest: bool


@dataclass(eq=False)
class CachingProxy(ProxyHttp[CacheContext]):
    """The test proxy.

    Attributes:
        upstream: Where requests go.
        storage: The store.
        upstream_h2: Where those with ``x-h2`` go.
        policy: Decides about storing and serving.
        clock: Wall-clock time.
        time: Monotonic time, and the timers of the lock.
        stats: What counts.
        predictor: Remembers what was uncacheable.
        eviction: Bounds what comes with ``x-eviction``.
        lock: The cache lock.
        endings: One for each request, in order of their ends.
        is_locking: Whether all requests take part in the lock.
    """

    upstream: str
    clock: FakeClock
    storage: Storage
    upstream_h2: str = ""
    policy: CachePolicy = field(
        default_factory=lambda: CachePolicy(
            default_ttl={200: 1.0}, stale_while_revalidate=1, stale_if_error=1
        )
    )
    time: FakeScheduler = field(default_factory=FakeScheduler)
    stats: CacheStats = field(default_factory=CacheStats)
    predictor: Predictor = field(default_factory=lambda: Predictor(160))
    eviction: SimpleLru = field(default_factory=lambda: SimpleLru(8192))
    endings: list[Ended] = field(default_factory=list)
    is_locking: bool = False

    def __post_init__(self) -> None:
        self.lock = CacheLock(2.0, scheduler=self.time)

    def new_cache(self) -> HttpCache:
        """Make the cache of a request, on the test's clocks."""
        return HttpCache(self.clock, monotonic=self.time.time)

    def new_ctx(self) -> CacheContext:
        return CacheContext()

    def takes_part(self, session: Session) -> bool:
        """Tell whether a request takes part in the lock.

        Args:
            session: The request.
        """
        return self.is_locking or session.req_header.get("x-lock") is not None

    async def early_request_filter(self, session: Session, ctx: CacheContext) -> None:
        request = session.req_header
        if request.get("x-downstream-compression"):
            session.downstream_modules_ctx[ResponseCompression].adjust_level(6)
        if request.get("x-downstream-decompression"):
            session.downstream_modules_ctx[ResponseCompression].adjust_decompression(enabled=True)
        if request.get("x-upstream-compression"):
            session.upstream_compression.adjust_level(6)

    async def upstream_peer(self, session: Session, ctx: CacheContext) -> HttpPeer:
        ctx.attempts += 1
        if session.req_header.get("x-h2") is None:
            return HttpPeer(self.upstream)
        peer = HttpPeer(self.upstream_h2)
        peer.options.alpn = ALPN.H2
        return peer

    async def request_cache_filter(self, session: Session, ctx: CacheContext) -> None:
        request = session.req_header
        if request.get("x-bypass-cache"):
            return
        session.cache.enable(
            self.storage,
            eviction=self.eviction if request.get("x-eviction") else None,
            predictor=self.predictor,
            lock=self.lock if self.takes_part(session) else None,
            lock_wait_timeout=2.0,
            policy=self.policy,
            stats=self.stats,
        )
        if limit := request.get("x-cache-max-file-size-bytes"):
            session.cache.set_max_file_size_bytes(int(limit))

    async def cache_key_callback(self, session: Session, ctx: CacheContext) -> CacheKey:
        request = session.req_header
        return CacheKey((request.get_raw(b"host") or b"") + request.raw_target, user_tag="1")

    async def is_purge(self, session: Session, ctx: CacheContext) -> bool | PurgeAction:
        return session.req_header.method == "PURGE"

    def cache_vary_filter(
        self, session: Session, meta: CacheMeta, request: RequestHeader, ctx: CacheContext
    ) -> bytes | None:
        builder = VarianceBuilder()
        for name in vary_names(meta.header) or ():
            if name in _VARY_ALLOWED:
                builder.add_value(name, request.get_raw(name) or b"")
        return builder.finalize()

    async def cache_hit_filter(
        self,
        session: Session,
        meta: CacheMeta,
        hit_handler: HitHandler,
        is_fresh: bool,
        ctx: CacheContext,
    ) -> ForcedFreshness | None:
        for name, forced in _FORCED.items():
            if session.req_header.get(name) is not None:
                return forced
        return None

    def should_serve_stale(self, session: Session, ctx: CacheContext, error: Error | None) -> bool:
        if error is None and not self.takes_part(session):
            return False  # the original refreshes in the background only under a lock
        return super().should_serve_stale(session, ctx, error)

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: CacheContext
    ) -> None:
        coding = session.req_header.get("x-upstream-accept-encoding")
        if coding is not None:
            upstream_request.insert_header("Accept-Encoding", coding)

    async def upstream_response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: CacheContext
    ) -> None:
        ctx.upstream_status = upstream_response.status
        if session.req_header.get("x-upstream-fake-http10"):
            upstream_response.version = Version.HTTP_10
            upstream_response.remove_header("content-length")

    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: CacheContext
    ) -> None:
        cache = session.cache
        status = _NAMES.get(cache.phase)
        if status is None:
            is_deferred = cache.no_cache_reason == NoCacheReason.DEFERRED
            status = "deferred" if is_deferred else "no-cache"
        upstream_response.insert_header("x-cache-status", status)
        if (waited := cache.lock_duration) is not None:
            upstream_response.insert_header("x-cache-lock-time-ms", str(round(waited * 1000)))
        if ctx.upstream_status is not None:
            upstream_response.insert_header("x-upstream-status", str(ctx.upstream_status))

    async def logging(self, session: Session, error: Error | None, ctx: CacheContext) -> None:
        response = session.response_written
        self.endings.append(
            Ended(
                session.req_header.method,
                session.cache.phase,
                session.cache.no_cache_reason,
                None if response is None else response.status,
                error,
                session.is_subrequest,
            )
        )

    async def ended(self, count: int = 1) -> Ended:
        """Wait until so many requests have ended.

        Args:
            count: How many.

        Returns:
            The last of them.
        """
        await eventually(lambda: len(self.endings) >= count, f"the end of {count} requests")
        return self.endings[count - 1]


class CacheRig:
    """Origin, proxy and clients, as an async context manager.

    Args:
        app: The proxy's application.
        storage: The store; None for 64 MiB in memory.

    Attributes:
        clock: Wall-clock time.
        origin: The HTTP/1 origin.
        h2_origin: The HTTP/2 origin.
        app: The proxy's application.
        proxy: The proxy; it speaks HTTP/1, and HTTP/2 to those who know it.
    """

    def __init__(
        self, app: type[CachingProxy] = CachingProxy, storage: Storage | None = None
    ) -> None:
        self.clock = FakeClock(1_700_000_000.0)
        self.origin = Origin(http1)
        self.h2_origin = StrictH2Origin(http2)
        self._make = app
        self._storage = storage or MemoryStorage(64 << 20, clock=self.clock)
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[Response]] = []
        self.app: CachingProxy
        self.proxy: RunningProxy[CacheContext]

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._storage)
            await stack.enter_async_context(self.origin)
            await stack.enter_async_context(self.h2_origin)
            self.app = self._make(
                self.origin.address, self.clock, self._storage, self.h2_origin.address
            )
            self.proxy = RunningProxy(
                self.app,
                server_options=HttpServerOptions(h2c=True),
                new_cache=self.app.new_cache,
            )
            await stack.enter_async_context(self.proxy)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    @property
    def storage(self) -> Storage:
        """The store."""
        return self._storage

    def advance(self, seconds: float) -> None:
        """Move both clocks on.

        Args:
            seconds: By how much.
        """
        self.clock.advance(seconds)
        self.app.time.advance(seconds)

    async def client(self, *, receive_buffer: int | None = None) -> RawClient:
        """Connect a client.

        Args:
            receive_buffer: Kernel receive buffer in bytes, for a client that stalls.

        Returns:
            The client; use it as an async context manager.
        """
        return await self.proxy.connect(receive_buffer=receive_buffer)

    async def h2_client(self) -> RawH2Client:
        """Connect an HTTP/2 client.

        Returns:
            The client; use it as an async context manager.
        """
        return await RawH2Client.connect(self.proxy.address)

    async def send(
        self, target: str, *fields: tuple[str, str], method: str = "GET", body: bytes | None = None
    ) -> Response:
        """Make a request on a connection of its own.

        Args:
            target: Its target.
            fields: Its fields.
            method: Its method.
            body: Its body.

        Returns:
            The response.
        """
        async with await self.client() as client:
            return await client.request(method, target, fields, body)

    def start(
        self, target: str, *fields: tuple[str, str], method: str = "GET"
    ) -> asyncio.Task[Response]:
        """Begin a request on a connection of its own, and go on.

        Args:
            target: Its target.
            fields: Its fields.
            method: Its method.

        Returns:
            What ends with the response.
        """
        task = asyncio.create_task(self.send(target, *fields, method=method))
        self._tasks.append(task)
        return task

    async def waiting(self, count: int) -> None:
        """Wait until so many requests wait for others.

        Args:
            count: How many.
        """
        lock = self.app.lock
        await eventually(lambda: lock.waiters == count, f"{count} requests that wait")
