"""The decisions of Pingora about storing, one by one: what a policy of one's own is made of.

They do what the original does, for better or worse: any status is stored that comes with explicit
freshness, 206 included; a bad ``s-maxage`` counts as none; ``Age``, ``Vary``, ``Set-Cookie`` and
the method are left to the caller. ``CachePolicy`` takes care of all that.

Source: pingora-cache/src/filters.rs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pingora_cache.control import DELTA_SECONDS_MAX, Cacheability
from pingora_cache.meta import CacheMeta
from pingora_cache.reason import NoCacheReason
from pingora_cache.verdict import Cacheable, Uncacheable
from pingora_http import names
from pingora_http.date import parse_http_date

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_cache.control import CacheControl
    from pingora_cache.verdict import RespCacheable
    from pingora_http import RequestHeader, ResponseHeader

__all__ = [
    "CacheMetaDefaults",
    "calculate_fresh_until",
    "calculate_serve_stale_durations",
    "expires_header_time",
    "request_cacheable",
    "resp_cacheable",
    "upstream_request_filter",
]

_CONDITIONS: Final = frozenset(
    {
        names.IF_MATCH,
        names.IF_MODIFIED_SINCE,
        names.IF_NONE_MATCH,
        names.IF_RANGE,
        names.IF_UNMODIFIED_SINCE,
        names.RANGE,
    }
)


@dataclass(frozen=True, slots=True)
class CacheMetaDefaults:
    """What holds for responses that do not say themselves.

    Attributes:
        fresh_by_status: Gives the seconds that a response with a status is fresh for; None if it
            is not to be stored.
        stale_while_revalidate: Seconds.
        stale_if_error: Seconds.
    """

    fresh_by_status: Callable[[int], float | None]
    stale_while_revalidate: int = 0
    stale_if_error: int = 0

    def fresh_sec(self, status: int) -> float | None:
        """Tell how long a response is fresh for.

        Args:
            status: Its status; 304 counts as the 200 that it confirms.

        Returns:
            Seconds; None if it is not to be stored.
        """
        return self.fresh_by_status(200 if status == 304 else status)


def request_cacheable(request: RequestHeader) -> bool:
    """Tell whether the response to a request may be stored, as far as the method goes.

    Args:
        request: The head of the request.

    Returns:
        True for GET and HEAD.
    """
    return request.raw_method in {b"GET", b"HEAD"}


def resp_cacheable(
    control: CacheControl | None,
    response: ResponseHeader,
    *,
    authorization_present: bool,
    defaults: CacheMetaDefaults,
    now: float,
) -> RespCacheable:
    """Decide whether a response is stored.

    Args:
        control: Its ``Cache-Control``, or what shall count instead.
        response: Its head; it is not changed.
        authorization_present: Whether the request had ``Authorization``.
        defaults: What holds if the response does not say.
        now: Seconds since the epoch.

    Returns:
        What to store, or that nothing is.
    """
    fresh_until = calculate_fresh_until(
        control,
        response,
        authorization_present=authorization_present,
        defaults=defaults,
        now=now,
    )
    if fresh_until is None:
        return Uncacheable(NoCacheReason.ORIGIN_NOT_CACHE)
    head = response.copy()
    if control is not None:
        control.strip_private_headers(head)
    while_revalidate, if_error = calculate_serve_stale_durations(control, defaults)
    return Cacheable(
        CacheMeta(
            head,
            created=now,
            fresh_until=fresh_until,
            stale_while_revalidate=while_revalidate,
            stale_if_error=if_error,
        )
    )


def calculate_fresh_until(
    control: CacheControl | None,
    response: ResponseHeader,
    *,
    authorization_present: bool,
    defaults: CacheMetaDefaults,
    now: float,
) -> float | None:
    """Tell until when a response is fresh.

    Args:
        control: Its ``Cache-Control``, or what shall count instead.
        response: Its head.
        authorization_present: Whether the request had ``Authorization``.
        defaults: What holds if the response does not say.
        now: Seconds since the epoch.

    Returns:
        Seconds since the epoch, one before ``now`` if it is stale at once; None if it must not be
        stored.
    """
    if authorization_present and (control is None or not control.allow_caching_authorized_request):
        return None
    if control is not None and control.cacheability is Cacheability.NO:
        return None
    duration: float | None = None if control is None else control.fresh_duration
    if duration is None:
        expires = expires_header_time(response)
        if expires is not None:
            return expires
        duration = defaults.fresh_sec(response.status)
    if duration is None:
        return None
    return now + duration if duration > 0 else now - 1.0


def expires_header_time(response: ResponseHeader) -> float | None:
    """Read ``Expires``.

    Args:
        response: The head of a response.

    Returns:
        Seconds since the epoch, 0 for what is no date; None if it is not there, or more than once.
    """
    lines = response.get_all(names.EXPIRES)
    if len(lines) != 1:
        return None
    return float(parse_http_date(lines[0]) or 0)


def calculate_serve_stale_durations(
    control: CacheControl | None, defaults: CacheMetaDefaults
) -> tuple[int, int]:
    """Tell for how long a response may be served stale.

    Args:
        control: Its ``Cache-Control``, or what shall count instead.
        defaults: What holds if that does not say.

    Returns:
        Seconds while it is fetched anew, and seconds when the upstream fails.
    """
    while_revalidate = if_error = None
    if control is not None:
        while_revalidate = control.serve_stale_while_revalidate_duration
        if_error = control.serve_stale_if_error_duration
    if while_revalidate is None:
        while_revalidate = defaults.stale_while_revalidate
    if if_error is None:
        if_error = defaults.stale_if_error
    return min(while_revalidate, DELTA_SECONDS_MAX), min(if_error, DELTA_SECONDS_MAX)


def upstream_request_filter(request: RequestHeader, meta: CacheMeta | None) -> None:
    """Make a request for the whole response of the one that a client sent for a part of it.

    HEAD becomes GET; conditions and ranges go. A stored response that has expired is asked after
    by its validators.

    Args:
        request: The head of the request to the upstream; changed in place.
        meta: The stored response to validate; None if there is none.
    """
    if request.raw_method == b"HEAD":
        request.set_method(b"GET")
    request.remove_headers(_CONDITIONS)
    if meta is None:
        return
    modified = meta.header.get_raw(names.LAST_MODIFIED)
    if modified is not None:
        request.insert_header(b"If-Modified-Since", modified)
    etag = meta.header.get_raw(names.ETAG)
    if etag is not None:
        request.insert_header(b"If-None-Match", etag)
