"""Dates in HTTP (RFC 9110 section 5.6.7); the time always comes in as an argument."""

from __future__ import annotations

from calendar import timegm
from email.utils import formatdate, parsedate_tz

__all__ = ["format_http_date", "parse_http_date"]

_last: tuple[int, bytes] = (-1, b"")


def format_http_date(now: float) -> bytes:
    """Format a time for a Date field; the last result is kept, since time stands still a while.

    Args:
        now: Unix time, seconds; the fraction is dropped.

    Returns:
        The IMF-fixdate, such as ``Sun, 06 Nov 1994 08:49:37 GMT``.

    Examples:
        >>> format_http_date(784111777)
        b'Sun, 06 Nov 1994 08:49:37 GMT'
    """
    global _last  # noqa: PLW0603 - one tuple, swapped whole
    now = int(now)
    last = _last
    if last[0] == now:
        return last[1]
    text = formatdate(now, usegmt=True).encode("ascii")
    _last = (now, text)
    return text


def parse_http_date(text: str) -> int | None:
    """Read a date in any of the three formats a recipient must accept.

    Args:
        text: IMF-fixdate, RFC 850 or asctime format.

    Returns:
        Unix time in seconds; None when it is no date.

    Examples:
        >>> parse_http_date("Sunday, 06-Nov-94 08:49:37 GMT")
        784111777
        >>> parse_http_date("Sun Nov  6 08:49:37 1994")
        784111777
    """
    try:
        parts = parsedate_tz(text)
        if parts is None:
            return None
        return timegm(parts[:9]) - (parts[9] or 0)
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
