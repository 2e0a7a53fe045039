"""A request in a line of a log: short, printable, without secrets."""

from __future__ import annotations

from pingora_core.protocols.http._summary import summary_of
from pingora_http import RequestHeader


def test_a_request_is_named_without_its_query() -> None:
    """Method, path and host."""
    request = RequestHeader("GET", "/a?token=x")
    request.insert_header("Host", "a.test")
    assert summary_of(request) == "GET /a, Host: a.test"


def test_what_is_long_is_cut_and_what_is_odd_is_escaped() -> None:
    """A log is not as long as clients want it, and a terminal does not obey them."""
    request = RequestHeader("GET", "/" + "x" * 60_000)
    request.insert_header("Host", b"a\x9b\xadb")
    line = summary_of(request)
    assert len(line) < 600
    assert line.isprintable()
    assert line.endswith("..., Host: a\\x9b\\xadb")
