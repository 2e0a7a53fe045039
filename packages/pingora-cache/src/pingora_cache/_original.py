"""The decisions of ``CachePolicy.pingora``: those of Pingora.

Source: pingora-cache/src/filters.rs; ``revalidate_merge_header`` in pingora-cache/src/lib.rs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pingora_cache.control import CacheControl
from pingora_cache.filters import request_cacheable, resp_cacheable
from pingora_cache.reason import NoCacheReason
from pingora_cache.verdict import Cacheable, Uncacheable
from pingora_http import names

if TYPE_CHECKING:
    from pingora_cache.filters import CacheMetaDefaults
    from pingora_cache.meta import CacheMeta
    from pingora_cache.verdict import RespCacheable
    from pingora_http import RequestHeader, ResponseHeader

__all__ = ["original_merge_304", "original_response_cacheable"]

_UPDATED_BY_304: Final = frozenset(
    {names.CACHE_CONTROL, b"cache-tag", b"cdn-cache-control", names.ETAG, names.EXPIRES}
)


def original_response_cacheable(
    defaults: CacheMetaDefaults, request: RequestHeader, response: ResponseHeader, now: float
) -> RespCacheable:
    """Decide whether a response is stored.

    Args:
        defaults: What holds for responses that say nothing.
        request: The head of the request.
        response: The head of the response; it is not changed.
        now: Seconds since the epoch.

    Returns:
        What to store, or that nothing is.
    """
    if not request_cacheable(request):
        return Uncacheable(NoCacheReason.ORIGIN_NOT_CACHE, "method")
    return resp_cacheable(
        CacheControl.from_header(response),
        response,
        authorization_present=names.AUTHORIZATION in request.keys_lower(),
        defaults=defaults,
        now=now,
    )


def original_merge_304(
    defaults: CacheMetaDefaults,
    meta: CacheMeta,
    not_modified: ResponseHeader,
    request: RequestHeader,
    *,
    now: float,
) -> RespCacheable:
    """Freshen a stored response by the 304 that confirms it: five fields are taken from it.

    Args:
        defaults: What holds for responses that say nothing.
        meta: The stored response; it is not changed.
        not_modified: The head of the 304.
        request: The head of the request.
        now: Seconds since the epoch.

    Returns:
        What is stored from now on, or that it must not be any longer.
    """
    head = meta.header.copy()
    taken = [item for item in not_modified.raw_items if item[0].lower() in _UPDATED_BY_304]
    head.remove_headers({name.lower() for name, _ in taken})
    for name, value in taken:
        head.append_header(name, value)
    verdict = original_response_cacheable(defaults, request, head, now)
    if not isinstance(verdict, Cacheable):
        return verdict
    new = verdict.meta
    return Cacheable(new.replace(created=meta.created, updated=now, variance=meta.variance))
