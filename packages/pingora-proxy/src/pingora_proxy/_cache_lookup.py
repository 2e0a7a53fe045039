"""What a request does with the cache before an upstream is asked.

Theory of operation. ``CacheLookup.answers`` runs the phases from ``request_cache_filter`` on and
ends in one of three ways: the response was sent (a hit, a stale object, a purge); the cache is on
and wants the response (a miss, an object to revalidate); or the cache is off for this request,
with the reason. Trouble with the store is never the client's: it makes a miss.

A request that finds another one fetching the same object waits for it, within bounds: of time, by
the lock; of turns, here.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Generic, TypeAlias

from pingora_cache.key import CacheKey
from pingora_cache.lock import LockStatus
from pingora_cache.phase import CachePhase, ForcedFreshness, HitStatus
from pingora_cache.reason import NoCacheReason
from pingora_cache.storage import PurgeAction, PurgeResult
from pingora_cache.verdict import HitVerdict
from pingora_core.protocols.http.error_page import generate_error
from pingora_error import Error
from pingora_proxy._fetches import noted
from pingora_proxy._user_errors import as_error
from pingora_proxy.hooks import CTX
from pingora_proxy.subrequest import SubrequestCtx

if TYPE_CHECKING:
    from pingora_cache.cache import HttpCache
    from pingora_cache.meta import CacheMeta
    from pingora_cache.storage import HitHandler
    from pingora_proxy._overrides import Overrides
    from pingora_proxy._stored_responses import StoredResponses
    from pingora_proxy.hooks import ProxyHttp
    from pingora_proxy.session import Session
    from pingora_proxy.subrequest import SubrequestSpawner

__all__ = ["CacheLookup"]

logger = logging.getLogger(__name__)

# A writer that fails again and again hands its waiters from one to the next.
_MAX_TURNS = 16
# Members of an enum are slow to look up on its class.
_FRESH = HitStatus.FRESH
_STALE = CachePhase.STALE
_VERDICT_FRESH = HitVerdict.FRESH
_key_for = CacheKey.for_request
_SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})


_Chosen: TypeAlias = "tuple[CacheMeta, HitHandler, HitStatus]"


class CacheLookup(Generic[CTX]):
    """The part of a proxy that looks into the cache.

    Args:
        app: The user's object.
        overrides: Which callbacks it overrides.
        stored: Sends what was found.
        subrequests: Runs what refreshes objects in the background.
    """

    def __init__(
        self,
        app: ProxyHttp[CTX],
        overrides: Overrides,
        stored: StoredResponses[CTX],
        subrequests: SubrequestSpawner,
    ) -> None:
        self._app = app
        self._overrides = overrides
        self._subrequests = subrequests
        self._refreshing: set[bytes] = set()
        self._takes_any = not overrides.cache_hit_filter and not overrides.cache_vary_filter
        self._stored = stored

    async def answers(self, session: Session, ctx: CTX) -> bool:
        """Run the phases of the cache before the upstream.

        Args:
            session: The request.
            ctx: Its context.

        Returns:
            Whether the request was answered here.
        """
        app = self._app
        overrides = self._overrides
        session.phase = "request_cache_filter"
        try:
            await app.request_cache_filter(session, ctx)
        except Exception as error:  # noqa: BLE001 - a callback may raise anything
            self._warn(session, ctx, "request_cache_filter", error)
            if session.cache.enabled:
                session.cache.disable(NoCacheReason.INTERNAL_ERROR)
        if overrides.is_purge:
            session.phase = "is_purge"
            if purge := await app.is_purge(session, ctx):
                action = PurgeAction.DELETE if purge is True else purge
                await self._purge(session, ctx, action)
                return True
        cache = session.active_cache
        if cache is None or not cache.enabled or not self._admits(session, cache):
            return False
        if overrides.cache_key_callback:
            if not await self._set_key(session, cache, ctx):
                return False
        else:
            down = session.downstream_session
            scheme = "http" if down.digest.ssl_digest is None else "https"  # as `session.scheme`
            cache.set_cache_key(_key_for(down.request, scheme=scheme))
        if session.subrequest_ctx is not None:
            _tag(cache, session.subrequest_ctx)
        if not cache.cacheable_prediction:
            cache.bypass()
        elif await self._look_up(session, cache, ctx):
            return True
        if only_if_cached := cache.policy.only_if_cached(session.req_header):
            await session.respond_error(504)  # RFC 9111 section 5.2.1.7
        return only_if_cached

    def _admits(self, session: Session, cache: HttpCache) -> bool:
        # Whether the request is one that a cache may answer.
        downstream = session.downstream_session
        request = downstream.request
        refused = cache.policy.request_cacheable(request)
        if refused is None and (downstream.is_upgrade_request or not downstream.is_body_empty):
            refused_for = NoCacheReason.custom("not a plain request")
        elif refused is None:
            return True
        else:
            # That of the policy is about responses: the request is why, and in which way it is.
            refused_for = NoCacheReason.custom(refused.detail or str(refused.reason))
        if request.raw_method not in _SAFE:
            session.invalidates = cache.purger()
        cache.disable(refused_for)
        return False

    async def _set_key(self, session: Session, cache: HttpCache, ctx: CTX) -> bool:
        session.phase = "cache_key_callback"
        try:
            key = await self._app.cache_key_callback(session, ctx)
        except Exception as error:  # noqa: BLE001 - a callback may raise anything
            self._warn(session, ctx, "cache_key_callback", error)
            cache.disable(NoCacheReason.STORAGE_ERROR)
            return False
        cache.set_cache_key(key)
        return True

    # -------------------------------------------------------------------- lookup

    async def _look_up(self, session: Session, cache: HttpCache, ctx: CTX) -> bool:
        for _ in range(_MAX_TURNS):
            session.phase = "cache lookup"
            found = await cache.cache_lookup()
            if found is not None:
                if self._takes_any and cache.is_alone(found[0]):
                    chosen: _Chosen | None = (*found, self._status(session, cache, found[0]))
                else:
                    chosen = await self._choose(session, cache, ctx, found)
                if (
                    chosen is not None
                    and self._is_usable(session, cache, ctx, chosen)
                    and (
                        self._stored.serves_now(session, cache, chosen[0], chosen[1])
                        or await self._stored.serves(session, cache, ctx)
                    )
                ):
                    return True
                if not cache.enabled:
                    return False
                if cache.phase is _STALE and not cache.is_cache_locked:
                    return False  # this request revalidates it
            if not cache.is_cache_locked:
                session.phase = "cache_miss"
                self._app.cache_miss(session, ctx)
                return False
            if not await self._wait(session, cache):
                return False
        cache.disable(NoCacheReason.CACHE_LOCK_GIVE_UP)
        return False

    async def _choose(
        self,
        session: Session,
        cache: HttpCache,
        ctx: CTX,
        found: tuple[CacheMeta, HitHandler],
    ) -> _Chosen | None:
        # The object for this request, in its variant, and what may be done with it.
        meta, handler = found
        for _ in range(2):
            try:
                variance = self._app.cache_vary_filter(session, meta, session.req_header, ctx)
                if cache.cache_key.variance is None:
                    if variance is None or cache.cache_vary_lookup(variance, meta):
                        if variance == meta.variance:
                            return await self._judge(session, cache, ctx, (meta, handler))
                        variance = None
                elif variance == meta.variance == cache.cache_key.variance:
                    return await self._judge(session, cache, ctx, (meta, handler))
                else:
                    # What is in the slot is not what the slot is for.
                    handler.close()
                    cache.disable(NoCacheReason.INTERNAL_ERROR)
                    return None
            except BaseException:
                handler.close()
                raise
            if variance is None:
                # A variant, and nothing says for whom.
                return meta, handler, HitStatus.FORCE_MISS
            handler.close()
            other = await cache.cache_lookup()
            if other is None:
                return None
            meta, handler = other
        handler.close()
        return None

    def _status(self, session: Session, cache: HttpCache, meta: CacheMeta) -> HitStatus:
        request = session.downstream_session.request
        verdict = cache.policy.hit_verdict(request, meta, cache.now())
        if verdict is _VERDICT_FRESH:
            return _FRESH
        return HitStatus.EXPIRED if verdict is HitVerdict.STALE else HitStatus.FORCE_EXPIRED

    async def _judge(
        self,
        session: Session,
        cache: HttpCache,
        ctx: CTX,
        found: tuple[CacheMeta, HitHandler],
    ) -> _Chosen:
        meta, handler = found
        status = self._status(session, cache, meta)
        if self._overrides.cache_hit_filter:
            session.phase = "cache_hit_filter"
            try:
                forced = await self._app.cache_hit_filter(
                    session, meta, handler, status.is_fresh, ctx
                )
            except Exception as error:  # noqa: BLE001 - a callback may raise anything
                self._warn(session, ctx, "cache_hit_filter", error)
                return meta, handler, HitStatus.FAILED_HIT_FILTER
            if forced is not None:
                status = forced.hit_status
                if forced is ForcedFreshness.FORCE_EXPIRED:
                    meta = meta.without_stale()
        return meta, handler, status

    def _is_usable(
        self,
        session: Session,
        cache: HttpCache,
        ctx: CTX,
        chosen: _Chosen,
    ) -> bool:
        # Takes what was found into use; says whether it is to be served, fresh or stale.
        meta, handler, status = chosen
        cache.cache_found(meta, handler, status)
        if status is _FRESH or status is HitStatus.FORCE_FRESH:
            return True
        if status.is_treated_as_miss:
            return False
        if status is HitStatus.FORCE_EXPIRED or session.subrequest_ctx is not None:
            return False
        if not cache.can_serve_stale_updating or not self._app.should_serve_stale(
            session, ctx, None
        ):
            return False
        self._refresh(session, cache)
        cache.set_stale_updating()
        return True

    def _refresh(self, session: Session, cache: HttpCache) -> None:
        # Has the object fetched anew in the background, unless somebody does so already.
        key = cache.cache_key.combined_hash
        if cache.is_cache_locked or key in self._refreshing:
            return
        permit = cache.take_write_lock() if cache.is_cache_lock_writer else None
        self._refreshing.add(key)

        def done() -> None:
            self._refreshing.discard(key)

        if not self._subrequests.spawn_background_subrequest(
            session, SubrequestCtx(cache_write_lock=permit, on_end=done)
        ):
            done()

    async def _wait(self, session: Session, cache: HttpCache) -> bool:
        # Waits for whoever fetches the object; says whether to look it up again.
        session.phase = "cache lock"
        status = await cache.cache_lock_wait()
        if status is LockStatus.GIVE_UP:
            cache.disable(NoCacheReason.CACHE_LOCK_GIVE_UP)
            return False
        if status is LockStatus.WAIT_TIMEOUT:
            cache.disable(NoCacheReason.CACHE_LOCK_TIMEOUT)
            return False
        return True

    # --------------------------------------------------------------------- purge

    async def _purge(self, session: Session, ctx: CTX, action: PurgeAction) -> None:
        cache = session.active_cache
        status = 405
        if cache is not None and cache.enabled:
            status = 500
            if await self._set_key(session, cache, ctx):
                session.phase = "purge"
                try:
                    result = await noted(cache.cache_key, cache.purge(action=action))
                    status = 404 if result is PurgeResult.NOT_FOUND else 200
                except Error as error:
                    self._warn(session, ctx, "purge", error)
        header = generate_error(status)
        if self._overrides.purge_response_filter:
            session.phase = "purge_response_filter"
            await self._app.purge_response_filter(session, header, ctx)
        await session.write_response_header(header, end=True)

    def _warn(self, session: Session, ctx: CTX, what: str, error: Exception) -> None:
        logger.warning(
            "%s failed: %s, %s",
            what,
            as_error(error, what),
            self._app.request_summary(session, ctx),
            exc_info=None if isinstance(error, Error) else error,
        )


def _tag(cache: HttpCache, subrequest: SubrequestCtx) -> None:
    cache.tag_as_subrequest()
    permit = subrequest.take_cache_write_lock()
    if permit is not None:
        cache.set_write_lock(permit)
