"""Dates: one format is sent, three are read."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import formatdate

import pytest
from hypothesis import given, strategies as st

from pingora_http.date import format_http_date, http_date, parse_http_date

_SOME_DAY = 784111777  # the example of RFC 9110 section 5.6.7
_NOW = datetime(2026, 11, 23, tzinfo=UTC).timestamp()


@given(st.integers(0, 253402300799))
def test_what_is_written_is_read(when: int) -> None:
    """Every second up to the year 9999 is written as the standard library does, and read."""
    text = format_http_date(when)

    assert text == formatdate(when, usegmt=True).encode()
    assert parse_http_date(text.decode()) == when


def test_fractions_are_dropped() -> None:
    """A date has whole seconds."""
    assert format_http_date(_SOME_DAY + 0.999) == b"Sun, 06 Nov 1994 08:49:37 GMT"


def test_the_current_date_is_made_once_a_second() -> None:
    """The same second gives the same object, the next another."""
    first = http_date(_SOME_DAY)

    assert http_date(_SOME_DAY) is first
    assert http_date(_SOME_DAY + 1) == b"Sun, 06 Nov 1994 08:49:38 GMT"
    assert http_date(_SOME_DAY) == first


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "sun, 06 nov 1994 08:49:37 gmt",
    ],
)
def test_three_formats(text: str) -> None:
    """RFC 9110 section 5.6.7; RFC 9111 section 4.2 lets caches ignore case."""
    assert parse_http_date(text) == _SOME_DAY


@pytest.mark.parametrize(
    ("year", "now", "full"),
    [
        ("94", None, 1994),
        ("70", None, 1970),
        ("69", None, 2069),
        ("94", _NOW, 1994),
        ("76", _NOW, 2076),
        ("77", _NOW, 1977),
        ("00", _NOW, 2000),
    ],
)
def test_two_digit_years(year: str, now: float | None, full: int) -> None:
    """A date more than 50 years ahead is one of the past."""
    expected = datetime(full, 11, 6, 8, 49, 37, tzinfo=UTC).timestamp()

    assert parse_http_date(f"Sunday, 06-Nov-{year} 08:49:37 GMT", now) == expected


def test_leap_second() -> None:
    """A leap second is the second after the 59th."""
    assert parse_http_date("Sat, 31 Dec 2016 23:59:60 GMT") == 1483228800


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sunday, 06-Nov-1994 08:49:37 GMT",
        "Sun Nov 06 08:49:37 1994 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT ",
        "Sun, \u0660\u0666 Nov 1994 08:49:37 GMT",
        "1994-11-06T08:49:37Z",
    ],
)
def test_anything_else_is_no_date(text: str) -> None:
    """What is not in one of the formats, or is no day of the calendar, is None."""
    assert parse_http_date(text) is None
