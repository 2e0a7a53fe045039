"""The callbacks of a proxy that caches, in the order in which they run.

One is enough to have a cache: ``request_cache_filter``, which switches it on. The defaults of the
others follow RFC 9111 by way of the :class:`pingora_cache.CachePolicy` given to
``session.cache.enable``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from pingora_cache.key import CacheKey
from pingora_core.protocols.http.conditional import not_modified_filter
from pingora_error import ErrorSource
from pingora_proxy.range_filter import range_header_filter

if TYPE_CHECKING:
    from pingora_cache.meta import CacheMeta
    from pingora_cache.phase import ForcedFreshness
    from pingora_cache.storage import HitHandler, PurgeAction
    from pingora_cache.verdict import RespCacheable
    from pingora_error import Error
    from pingora_http import RequestHeader, ResponseHeader
    from pingora_proxy.range_filter import RangeType
    from pingora_proxy.session import Session

__all__ = ["CacheHooks"]

CTX = TypeVar("CTX")

_CACHED_METHODS = frozenset({b"GET", b"HEAD"})


class CacheHooks(Generic[CTX]):
    """What :class:`pingora_proxy.ProxyHttp` has for caching."""

    async def request_cache_filter(self, session: Session, ctx: CTX) -> None:
        """Switch the cache on for this request: ``session.cache.enable(storage, ...)``.

        Runs after ``request_filter``. Without it nothing is cached. An error raised here is
        logged and the request goes on without a cache.

        Args:
            session: The request.
            ctx: Its context.
        """

    async def cache_key_callback(self, session: Session, ctx: CTX) -> CacheKey:
        """Say under which key the response is kept.

        Whatever else makes an origin answer differently, and is not covered by ``Vary``, must be
        in the key: what is left out can be used to poison the cache for others. An error raised
        here switches the cache off for the request.

        Asked for a purge too: then the key is that of what is to be purged.

        Args:
            session: The request.
            ctx: Its context.

        Returns:
            The key; of scheme, authority, path and query by default.
        """
        request = session.req_header
        if request.raw_method not in _CACHED_METHODS:
            request = request.copy()
            request.set_method(b"GET")
        return CacheKey.for_request(request, scheme=session.scheme)

    async def is_purge(self, session: Session, ctx: CTX) -> bool | PurgeAction:
        """Decide whether the request removes the object from the cache instead of asking for it.

        Check here that the client may do that.

        Args:
            session: The request.
            ctx: Its context.

        Returns:
            True to remove it and answer 200, 404 when it was not there, or 405 when the cache is
            off; an action to say what is done with it.
        """
        return False

    async def purge_response_filter(
        self, session: Session, response: ResponseHeader, ctx: CTX
    ) -> None:
        """Change the answer to a purge.

        Args:
            session: The request.
            response: Its head.
            ctx: The context.
        """

    def cache_vary_filter(
        self, session: Session, meta: CacheMeta, request: RequestHeader, ctx: CTX
    ) -> bytes | None:
        """Say which variant of an object a request is for.

        Asked on a lookup, with the object in the primary slot, and again when a response is
        stored. The same arguments must give the same answer.

        Args:
            session: The request.
            meta: What tells by what the response varies.
            request: The head whose fields select the variant.
            ctx: The context.

        Returns:
            16 bytes that stand for the variant; None when there are no variants. By the fields
            that ``Vary`` names by default.
        """
        return session.cache.policy.variance(meta, request)

    async def cache_hit_filter(
        self, session: Session, meta: CacheMeta, hit_handler: HitHandler, is_fresh: bool, ctx: CTX
    ) -> ForcedFreshness | None:
        """Overrule whether an object that was found may be used.

        Args:
            session: The request.
            meta: What is known of it.
            hit_handler: Its body.
            is_fresh: Whether it is fresh for this request.
            ctx: The context.

        Returns:
            None for no change. An error raised here counts as a miss.
        """
        return None

    def cache_miss(self, session: Session, ctx: CTX) -> None:
        """Be told that nothing usable was found, and that the response will be fetched.

        Args:
            session: The request.
            ctx: The context.
        """
        session.cache.cache_miss()

    def should_serve_stale(self, session: Session, ctx: CTX, error: Error | None) -> bool:
        """Decide whether an expired object may be served, where its response has allowed it.

        Args:
            session: The request.
            ctx: The context.
            error: Why the upstream gave no better answer (``stale-if-error``); None when the
                object is only being refreshed (``stale-while-revalidate``).

        Returns:
            True by default for a refresh and for errors of the upstream's.
        """
        return error is None or error.esource is ErrorSource.UPSTREAM

    async def response_cache_filter(
        self, session: Session, response: ResponseHeader, ctx: CTX
    ) -> RespCacheable:
        """Decide whether a response of the upstream's is stored, and for how long.

        Runs after ``upstream_response_filter``; also for the head that comes of a 304.

        Args:
            session: The request.
            response: The head.
            ctx: The context.

        Returns:
            By the policy of the cache by default.
        """
        cache = session.cache
        return cache.policy.response_cacheable(
            session.req_header,
            response,
            request_time=session.upstream_request_time,
            response_time=cache.now(),
        )

    def cache_invalidation_keys(
        self, session: Session, response: ResponseHeader, ctx: CTX
    ) -> list[CacheKey]:
        """Say which objects a request has made invalid (RFC 9111 section 4.4).

        Called when the upstream has answered a request whose method is not safe, with the cache
        on. Whoever has keys of one's own overrides it together with ``cache_key_callback``.

        Args:
            session: The request.
            response: The upstream's answer.
            ctx: The context.

        Returns:
            The keys of the target and, within the same origin, of what ``Location`` and
            ``Content-Location`` name, unless the answer is an error.
        """
        named = session.cache.policy.invalidated(
            session.req_header, response, scheme=session.scheme
        )
        return [CacheKey.for_uri(scheme, authority, target) for scheme, authority, target in named]

    async def cache_not_modified_filter(
        self, session: Session, response: ResponseHeader, ctx: CTX
    ) -> bool:
        """Decide whether the client has already what the cache would send.

        Args:
            session: The request.
            response: The head that would be sent.
            ctx: The context.

        Returns:
            True to answer 304. An error raised here counts as False.
        """
        return not_modified_filter(session.req_header, response)

    async def range_header_filter(
        self, session: Session, response: ResponseHeader, ctx: CTX
    ) -> RangeType:
        """Turn a whole response into the ranges that the client asks for.

        Args:
            session: The request.
            response: The head that would be sent; changed into a 206 or 416.
            ctx: The context.

        Returns:
            What to send of the body.
        """
        return range_header_filter(session.req_header, response)
