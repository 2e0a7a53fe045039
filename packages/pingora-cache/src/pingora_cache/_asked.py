"""What a request asks of a cache: the directives of its ``Cache-Control``, and ``Pragma``.

Source: RFC 9111 sections 5.2.1 and 5.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_cache._directives import DELTA_SECONDS_MAX, delta_seconds, parse, unquote
from pingora_cache.verdict import HitVerdict
from pingora_http import names

if TYPE_CHECKING:
    from pingora_cache._storable import Settings
    from pingora_cache.meta import CacheMeta
    from pingora_http import RequestHeader

__all__ = ["asked_verdict", "asks"]


def asks(request: RequestHeader, directive: str) -> bool:
    """Tell whether a request has a directive.

    Args:
        request: The head of the request.
        directive: The name, in lower case.

    Returns:
        Whether it is there, with or without a value.
    """
    lines = request.get_all_raw(names.CACHE_CONTROL)
    return bool(lines) and any(name == directive for name, _ in parse(lines).directives)


def asked_verdict(
    request: RequestHeader, meta: CacheMeta, now: float, settings: Settings
) -> HitVerdict:
    """Say what may be done with a stored response, by what the request asks.

    Args:
        request: The head of the request.
        meta: The stored response.
        now: Seconds since the epoch.
        settings: Those of the policy: by them it is told whether it may be served stale.

    Returns:
        The verdict.
    """
    lines = request.get_all_raw(names.CACHE_CONTROL)
    if not lines:
        # RFC 9111 section 5.4: it stands in for Cache-Control where that is missing.
        pragma = request.get_all_raw(names.PRAGMA)
        if any(name == "no-cache" for name, _ in parse(pragma).directives):
            return HitVerdict.VALIDATE
        return HitVerdict.FRESH if meta.is_fresh(now) else HitVerdict.STALE
    fresh = meta.is_fresh(now)
    accepted = fresh
    for name, value in parse(lines).directives:
        match name:
            case "no-cache":
                return HitVerdict.VALIDATE
            case "max-age":
                # A reload has max-age=0, also within the first second.
                longest = _seconds(value, 0)
                if longest == 0 or meta.age(now) > longest:
                    return HitVerdict.VALIDATE
            case "min-fresh":
                if meta.fresh_until - now < _seconds(value, DELTA_SECONDS_MAX):
                    return HitVerdict.VALIDATE
            case "max-stale" if not fresh and not settings.read(meta.header).must_revalidate:
                longest = DELTA_SECONDS_MAX if value is None else _seconds(value, 0)
                # Before its time ended, it is not fresh because the clock is wrong.
                accepted = accepted or 0 <= now - meta.fresh_until <= longest
            case _:
                pass
    return HitVerdict.FRESH if accepted else HitVerdict.STALE


def _seconds(value: bytes | None, otherwise: int) -> int:
    seconds = None if value is None else delta_seconds(unquote(value))
    return otherwise if seconds is None else seconds
