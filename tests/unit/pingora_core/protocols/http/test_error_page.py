"""Heads of error answers."""

from __future__ import annotations

import time

import pytest

from pingora_core.protocols.http.error_page import generate_error
from pingora_http import Version
from pingora_http.date import parse_http_date


def test_the_template_is_pingoras() -> None:
    """An error answer has four fields and is not to be stored."""
    header = generate_error(502, now=784111777.9)

    assert (header.status, header.reason, header.version) == (502, "Bad Gateway", Version.HTTP_11)
    assert list(header) == [
        ("Server", "Pingora"),
        ("Date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("Content-Length", "0"),
        ("Cache-Control", "private, no-store"),
    ]


def test_the_date_is_now() -> None:
    """Without a time given it is the clock's."""
    before = int(time.time())

    date = generate_error(400).get("date")

    assert date is not None
    stamp = parse_http_date(date)
    assert stamp is not None
    assert before <= stamp <= time.time()


def test_each_head_is_its_own() -> None:
    """Changing one leaves the next alone."""
    first = generate_error(503)
    first.insert_header("Retry-After", "5")
    first.set_content_length(10)

    second = generate_error(503)

    assert "retry-after" not in second
    assert second.get("content-length") == "0"


@pytest.mark.parametrize("code", [204, 304])
def test_statuses_without_content_have_no_length(code: int) -> None:
    """A 204 must not have Content-Length, and in a 304 it would be that of something else."""
    header = generate_error(code)

    assert header.status == code
    assert "content-length" not in header


@pytest.mark.parametrize("code", [-1, 0, 99, 100, 101, 199, 1000])
def test_a_status_that_ends_nothing_becomes_500(code: int) -> None:
    """Whoever asks for an error page gets one."""
    assert generate_error(code).status == 500


def test_an_unknown_status_has_no_phrase() -> None:
    """A code of the application's own is sent as it is."""
    header = generate_error(599)

    assert (header.status, header.reason) == (599, "")
    assert header.to_wire().startswith(b"HTTP/1.1 599 \r\n")
