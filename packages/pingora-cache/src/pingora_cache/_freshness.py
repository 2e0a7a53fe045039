"""How old a response is when it arrives, and how long it stays fresh.

Source: RFC 9111 sections 4.2.1 to 4.2.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pingora_cache._directives import delta_seconds
from pingora_http import names
from pingora_http.date import parse_http_date

if TYPE_CHECKING:
    from pingora_http import ResponseHeader

__all__ = ["expires_lifetime", "heuristic_lifetime", "initial_age", "sent_at"]

# Date drops the fraction of the second. A response with max-age=1 would often arrive stale, were
# that fraction taken for age.
_DATE_RESOLUTION: Final = 1.0


def sent_at(response: ResponseHeader, response_time: float) -> float:
    """Tell when a response was made.

    Args:
        response: Its head.
        response_time: When it arrived; seconds since the epoch.

    Returns:
        ``Date``; the time of arrival if there is none that can be read (RFC 9110 section 6.6.1).
    """
    value = response.get(names.DATE)
    date = None if value is None else parse_http_date(value, response_time)
    return response_time if date is None else float(date)


def initial_age(
    response: ResponseHeader, *, request_time: float, response_time: float, trust_bad_age: bool
) -> float | None:
    """Tell how old a response was on arrival.

    Args:
        response: Its head.
        request_time: When the request was sent; seconds since the epoch.
        response_time: When the response arrived.
        trust_bad_age: Whether an ``Age`` that is no number counts for nothing, and the first one
            of several counts (RFC 9111 section 5.1).

    Returns:
        Seconds; None if ``Age`` is there, cannot be read, and must not be ignored.
    """
    apparent = max(0.0, response_time - sent_at(response, response_time) - _DATE_RESOLUTION)
    lines = response.get_all_raw(names.AGE)
    if not lines:
        return apparent
    text = lines[0]
    if trust_bad_age:
        text = text.partition(b",")[0].rstrip(b" \t")
    elif len(lines) > 1:
        return None
    age = delta_seconds(text)
    if age is None:
        return apparent if trust_bad_age else None
    # A clock that was set back meanwhile gives no negative delay.
    delay = max(0.0, response_time - request_time)
    return max(apparent, age + delay)


def expires_lifetime(response: ResponseHeader, response_time: float) -> float | None:
    """Tell how long a response is fresh by ``Expires``.

    Args:
        response: Its head.
        response_time: When it arrived; seconds since the epoch.

    Returns:
        Seconds from ``Date`` on, which may be negative; 0 if ``Expires`` is no date or there are
        different ones, None if there is none.
    """
    lines = set(response.get_all_raw(names.EXPIRES))
    if not lines:
        return None
    expires = parse_http_date(lines.pop().decode("latin-1"), response_time)
    if expires is None or lines:
        return 0.0
    return expires - sent_at(response, response_time)


def heuristic_lifetime(
    response: ResponseHeader, *, response_time: float, fraction: float, longest: float
) -> float | None:
    """Guess how long a response stays fresh from how long it has not changed.

    Args:
        response: Its head.
        response_time: When it arrived; seconds since the epoch.
        fraction: Of the time since ``Last-Modified``.
        longest: Seconds, the upper bound.

    Returns:
        Seconds; None if ``Last-Modified`` does not tell.
    """
    value = response.get(names.LAST_MODIFIED)
    modified = None if value is None else parse_http_date(value, response_time)
    if modified is None:
        return None
    unchanged = max(0.0, sent_at(response, response_time) - modified)
    return min(unchanged * fraction, longest)
