"""Field lines that are looked up: they say what the engines make of them, and memory is bounded."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings, strategies as st

from pingora_core.protocols.http.v1 import _known_lines
from pingora_core.protocols.http.v1._known_lines import KnownFields, take_fields
from pingora_core.protocols.http.v1._start_line import split_usual_request_line
from pingora_core.protocols.http.v1.framing import check_request_head
from pingora_core.protocols.http.v1.parser import DEFAULT_LIMITS, get_parser
from pingora_error import Error
from pingora_http import Version

_PIECES = st.sampled_from(
    [
        b"a",
        b"Accept",
        b":",
        b" ",
        b"\t",
        b"\r",
        b"\n",
        b"\0",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"gzip",
        b"",
    ]
)
_LINES = st.lists(_PIECES, max_size=8).map(b"".join) | st.binary(max_size=12)


@given(_LINES)
@settings(max_examples=300)
@example(b"")
@example(b" a: folded")
@example(b"a : b")
@example(b"a:")
@example(b"a: \t b \t ")
@example(b"a: b\rc")
def test_a_line_says_what_the_reference_engine_reads(line: bytes) -> None:
    """A line that is taken here is one that h11 and the checks take, with the same name and value."""
    taken = take_fields([b"Host: a", line])
    if taken is None:
        return
    raw = b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % line
    request = get_parser("h11").parse_request(raw)
    assert type(request.raw_items) is not KnownFields
    check_request_head(raw, request, DEFAULT_LIMITS)
    fields, index = taken
    assert list(fields) == request.raw_items
    assert index == dict(request.first_values())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"a",
        b": b",
        b"a b: c",
        b"a : b",
        b" a: b",
        b"\ta: b",
        b"a: \0",
        b"a: b\r",
        b"a: b\nc: d",
        b"a: \x7f",
        b"\xe4: b",
    ],
)
def test_a_line_of_another_form_is_left_to_the_engine(line: bytes) -> None:
    """Nothing is taken of a head with one line that is not a field, however good the others are."""
    assert take_fields([b"Host: a", line]) is None
    assert take_fields([line, b"Host: a"]) is None


def test_a_repeated_field_is_found_by_its_first_value() -> None:
    """All fields are kept in their order; the index names the first of a name."""
    taken = take_fields([b"Via: 1.1 a", b"X: y", b"via: 1.1 b"])
    assert taken is not None
    fields, index = taken
    assert list(fields) == [(b"Via", b"1.1 a"), (b"X", b"y"), (b"via", b"1.1 b")]
    assert index == {b"via": b"1.1 a", b"x": b"y"}


def test_credentials_and_long_lines_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is secret, and what is large, is taken apart each time instead of remembered."""
    lines = _known_lines._Lines()
    monkeypatch.setattr(_known_lines, "_look_up", lines.__getitem__)
    secrets = [b"Authorization: Basic eDp5", b"COOKIE: a=b", b"Set-Cookie: a=b"]
    secrets.append(b"Proxy-Authorization: Basic eDp5")
    assert take_fields([*secrets, b"X-Long: " + b"x" * 200, b"Accept: */*"]) is not None
    assert list(lines) == [b"Accept: */*"]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many different lines there are, a fixed number of them is kept."""
    lines = _known_lines._Lines()
    monkeypatch.setattr(_known_lines, "_look_up", lines.__getitem__)
    for number in range(2 * _known_lines._MAX_LINES):
        take_fields([b"X-Request-Id: %d" % number])
    assert 0 < len(lines) <= _known_lines._MAX_LINES


def test_a_new_list_of_fields_is_judged_again() -> None:
    """Only the very list that was taken apart counts as judged: a copy of a head does not."""
    request = get_parser().parse_request(b"GET / HTTP/1.1\r\nHost: new.example\r\n\r\n")
    assert type(request.raw_items) is KnownFields
    assert type(request.copy().raw_items) is list


@pytest.mark.parametrize("line", [b"BREW / HTTP/1.1", b"GET / HTTP/1.7"])
def test_a_line_that_was_substituted_is_judged_as_it_came(line: bytes) -> None:
    """What an engine was shown instead of an unusual request line vouches for nothing."""
    head = line + b"\r\nHost: a\r\n\r\n"
    request = get_parser().parse_request(head)
    assert type(request.raw_items) is list
    check_request_head(head, request, DEFAULT_LIMITS)


@pytest.mark.parametrize(
    "line",
    [
        b"GET  / HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET / HTTP/1.2",
        b"GET / http/1.1",
        b"GET / HTTP/1.1 ",
        b"get / HTTP/1.1",
        b"BREW / HTTP/1.1",
        b"GET * HTTP/1.1",
        b"GET http://a/ HTTP/1.1",
        b"GET /# HTTP/1.1",
        b"GET /\x7f HTTP/1.1",
        b"GET /\xff HTTP/1.1",
        b"GET /\0 HTTP/1.1",
        b"GET /\t HTTP/1.1",
        b"GET",
        b"",
        b"GET  HTTP/1.1",
        b"GET / HTTP/1.1\r",
        b"\r\nGET / HTTP/1.1",
    ],
)
def test_an_unusual_request_line_is_left_to_the_engine(line: bytes) -> None:
    """Whatever is not of the usual form, right or wrong, is not judged by the quick way."""
    assert split_usual_request_line(line) is None


def test_a_usual_request_line_is_taken_apart() -> None:
    """Method, target and version come out as they stand."""
    assert split_usual_request_line(b"GET /a?b=%20 HTTP/1.1") == (
        b"GET",
        b"/a?b=%20",
        Version.HTTP_11,
    )
    assert split_usual_request_line(b"PUT / HTTP/1.0") == (b"PUT", b"/", Version.HTTP_10)


@pytest.mark.parametrize("field", [b"Content-Length: x", b"Content-Length: 1\r\nContent-Length: 2"])
def test_what_depends_on_the_whole_head_is_judged_each_time(field: bytes) -> None:
    """Lines that are known and right for themselves do not make a head right."""
    raw = b"POST / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % field
    for _ in range(2):
        request = get_parser().parse_request(raw)
        assert type(request.raw_items) is KnownFields
        with pytest.raises(Error):
            check_request_head(raw, request, DEFAULT_LIMITS)
