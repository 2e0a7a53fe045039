"""Heads that are written once and sent many times."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from pingora_core.protocols.http.prepared_head import PreparedHead
from pingora_http import ResponseHeader, Version

_DATE = ("Date", "Mon, 23 Nov 2026 12:00:00 GMT")


def test_the_wire_lacks_what_differs() -> None:
    """Age and what belongs to a connection are left for the sender; the length is right."""
    fields = [
        _DATE,
        ("Content-Length", "99"),
        ("X-A", "1"),
        ("Connection", "close"),
        ("Age", "5"),
        ("Transfer-Encoding", "chunked"),
    ]
    head = PreparedHead(ResponseHeader(200, headers=fields, version=Version.HTTP_20), 10)

    assert head.wire == (
        b"HTTP/1.1 200 OK\r\n"
        b"Date: Mon, 23 Nov 2026 12:00:00 GMT\r\n"
        b"Content-Length: 10\r\n"
        b"X-A: 1\r\n"
    )
    assert head.header.get("age") == "5"


@given(
    st.lists(st.tuples(st.sampled_from(["X-A", "x-a", "ETag", "Vary"]), st.sampled_from("abc"))),
    st.integers(0, 2**40),
    st.integers(0, 2**31),
)
def test_what_is_told_is_what_is_sent(fields: list[tuple[str, str]], length: int, age: int) -> None:
    """The head that stands for a sending reads as its bytes do."""
    head = PreparedHead(ResponseHeader(404, headers=[_DATE, *fields]), length)

    assert head.complete(age).to_wire() == head.wire + b"Age: %d\r\n\r\n" % age


@pytest.mark.parametrize(
    "header",
    [
        ResponseHeader(200),
        ResponseHeader(103, headers=[_DATE]),
        ResponseHeader(204, headers=[_DATE]),
        ResponseHeader(304, headers=[_DATE]),
    ],
)
def test_what_cannot_be_prepared(header: ResponseHeader) -> None:
    """A head that comes without a body, or whose date is that of each sending."""
    with pytest.raises(ValueError, match="cannot be prepared"):
        PreparedHead(header, 0)
