"""Dates in field values.

Nothing here reads a clock: the time comes in as seconds since the epoch.

Source: RFC 9110 section 5.6.7.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

__all__ = ["format_http_date", "http_date", "parse_http_date"]

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip
_MONTH_NUMBERS: Final = {name.lower(): number for number, name in enumerate(_MONTHS, 1)}

_MONTH: Final = rf"(?P<month>{'|'.join(_MONTHS)})"
_TIME: Final = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_FORMATS: Final = tuple(
    re.compile(pattern, re.ASCII | re.IGNORECASE)
    for pattern in (
        # IMF-fixdate, RFC 850 and asctime, the one that is sent first
        rf"(?:{'|'.join(_DAYS)}), (?P<day>\d\d) {_MONTH} (?P<year>\d{{4}}) {_TIME} GMT",
        rf"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, (?P<day>\d\d)-{_MONTH}-(?P<year>\d\d) {_TIME} GMT",
        rf"(?:{'|'.join(_DAYS)}) {_MONTH} (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
)

_last: tuple[int, bytes] = (-1, b"")


def format_http_date(when: float) -> bytes:
    """Write a point in time as it is sent in ``Date`` and the like (IMF-fixdate).

    Args:
        when: Seconds since the epoch; the fraction is dropped.

    Returns:
        The 29 bytes.

    Examples:
        >>> format_http_date(784111777)
        b'Sun, 06 Nov 1994 08:49:37 GMT'
    """
    at = datetime.fromtimestamp(int(when), UTC)
    # Not strftime: its names follow the locale of the process.
    text = (
        f"{_DAYS[at.weekday()]}, {at.day:02} {_MONTHS[at.month - 1]} {at.year:04} "
        f"{at.hour:02}:{at.minute:02}:{at.second:02} GMT"
    )
    return text.encode("ascii")


def http_date(second: int) -> bytes:
    """Do as :func:`format_http_date`, remembering the last answer.

    Args:
        second: The current time, whole seconds since the epoch.

    Returns:
        The 29 bytes; the same object until the second changes.
    """
    global _last  # noqa: PLW0603  # one value for the process, replaced whole
    last = _last
    if last[0] == second:
        return last[1]
    text = format_http_date(second)
    _last = (second, text)
    return text


def parse_http_date(value: str, now: float | None = None) -> int | None:
    """Read a date in any of the three formats that a recipient must accept.

    Args:
        value: The field value.
        now: The current time in seconds since the epoch, by which the century of a two-digit
            year is chosen: a date more than 50 years ahead is one in the past. Without it the
            years 70 to 99 belong to the 20th century.

    Returns:
        Seconds since the epoch; None when the value is not a date.

    Examples:
        >>> parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT")
        784111777
        >>> parse_http_date("Sunday, 06-Nov-94 08:49:37 GMT")
        784111777
        >>> parse_http_date("Sun Nov  6 08:49:37 1994")
        784111777
    """
    for pattern in _FORMATS:
        match = pattern.fullmatch(value)
        if match is not None:
            break
    else:
        return None
    year = int(match["year"])
    second = int(match["second"])
    # A leap second has no number of its own in the epoch's count: it is the next one.
    leap = second == 60
    try:
        when = datetime(
            year=_full_year(year, now) if len(match["year"]) == 2 else year,
            month=_MONTH_NUMBERS[match["month"].lower()],
            day=int(match["day"]),
            hour=int(match["hour"]),
            minute=int(match["minute"]),
            second=59 if leap else second,
            tzinfo=UTC,
        )
    except ValueError:
        return None
    return int(when.timestamp()) + leap


def _full_year(year: int, now: float | None) -> int:
    if now is None:
        return year + (1900 if year >= 70 else 2000)
    this_year = datetime.fromtimestamp(now, UTC).year
    full = this_year - this_year % 100 + year
    return full - 100 if full > this_year + 50 else full
