"""What heads have in common, judged behind either engine: their size and their fields.

The sections are of RFC 9112 (HTTP/1.1) unless another RFC is named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.http.v1 import CHUNKED, FramingOptions, HeadLimits
from pingora_core.protocols.http.v1._field_section import _MAX_GOOD_NAMES, _good_names
from pingora_core.protocols.http.v1.framing import check_request_head, response_body_length
from pingora_core.protocols.http.v1.parser import DEFAULT_LIMITS
from pingora_error import Error, HTTPStatus
from pingora_http import RequestHeader, Version
from tests.unit.pingora_core.protocols.http.v1.judging import (
    read_request,
    read_response,
    refused_request,
    refused_response,
)

if TYPE_CHECKING:
    from pingora_core.protocols.http.v1 import Http1Parser


# ------------------------------------------------------- what a field consists of


@pytest.mark.parametrize("number", [*range(32), 127])
def test_control_characters(parser: Http1Parser, number: int) -> None:
    """RFC 9110 section 5.5: NUL, CR and LF are dangerous; no other control character passes
    either, but for the horizontal tab."""
    field = b"X: a%cb\r\n" % number

    if number == 0x09:
        assert read_request(parser, field).get_raw(b"x") == b"a\tb"
        assert read_response(parser, field).get_raw(b"x") == b"a\tb"
    else:
        refused_request(parser, field)
        refused_response(parser, field)


def test_obsolete_text_passes(parser: Http1Parser) -> None:
    """RFC 9110 section 5.5: bytes above ASCII are opaque, and passed on."""
    text = bytes(range(0x80, 0x100))

    assert read_request(parser, b"X: %b\r\n" % text).get_raw(b"x") == text
    assert read_response(parser, b"X: %b\r\n" % text).get_raw(b"x") == text


@pytest.mark.parametrize(
    "fold", [b"X: a\r\n b\r\n", b"X: a\r\n\tb\r\n", b"X:\r\n a\r\n", b"X: a\r\n \r\n"]
)
def test_line_folding(parser: Http1Parser, fold: bytes) -> None:
    """Section 5.2: folded lines are refused, in responses unless an option allows them."""
    refused_request(parser, fold)
    refused_response(parser, fold)

    options = FramingOptions(allow_obs_fold_in_response=True)
    assert len(read_response(parser, fold, options=options)) == 1


def test_a_fold_does_not_hide_framing(parser: Http1Parser) -> None:
    """Section 5.2: unfolded before it is judged, a folded coding is a coding."""
    options = FramingOptions(allow_obs_fold_in_response=True)
    fold = b"Transfer-Encoding:\r\n chunked\r\n"

    response = read_response(parser, fold, options=options)

    assert response_body_length(response, b"GET", options) == CHUNKED
    refused_response(parser, fold + b"Content-Length: 5\r\n", options=options)


def test_white_space_before_the_first_field(parser: Http1Parser) -> None:
    """Section 2.2: white space after the start line hides a field; it is refused."""
    options = FramingOptions(
        allow_obs_fold_in_response=True, allow_space_before_colon_in_response=True
    )

    refused_request(parser, b"X: a\r\n", host=b" Host: h\r\n")
    refused_response(parser, b" X: a\r\n", options=options)


@pytest.mark.parametrize("field", [b"X : a\r\n", b"Content-Length\t: 5\r\n"])
def test_space_before_the_colon(parser: Http1Parser, field: bytes) -> None:
    """Section 5.1: white space before the colon is refused, in responses unless allowed."""
    refused_request(parser, field)
    refused_response(parser, field)

    options = FramingOptions(allow_space_before_colon_in_response=True)
    assert len(read_response(parser, field, options=options)) == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"POST / HTTP/1.1\nHost: h\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\rX: y\n\r\n\r\n",
        b"POST / HTTP/1.1\r\rHost: h\n\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\n\n\r\n\r\n",
    ],
)
def test_bare_line_ends(parser: Http1Parser, raw: bytes) -> None:
    """Section 2.2: only CRLF ends a line; not even a bare CR and a bare LF that look like one."""
    with pytest.raises(Error):
        check_request_head(raw, parser.parse_request(raw), DEFAULT_LIMITS)


def test_names_that_an_engine_lets_through_are_judged() -> None:
    """RFC 9110 section 5.1: the judge does not rely on an engine for names."""
    for name in (b"", b"a b", b"a\xe9", b"a:"):
        raw = b"GET / HTTP/1.1\r\nHost: h\r\n%b: x\r\n\r\n" % name
        items = [(b"Host", b"h"), (name, b"x")]
        with pytest.raises(Error):
            check_request_head(
                raw, RequestHeader.from_wire(b"GET", b"/", Version.HTTP_11, items), DEFAULT_LIMITS
            )


def test_names_are_remembered_within_bounds(parser: Http1Parser) -> None:
    """A client with new names in every request cannot fill the memory."""
    for start in range(0, _MAX_GOOD_NAMES + 400, 200):
        fields = b"".join([b"X-%d: y\r\n" % (start + number) for number in range(200)])
        read_request(parser, fields)
    read_request(parser, b"%b: y\r\n" % (b"z" * 100))

    assert len(_good_names) <= _MAX_GOOD_NAMES
    assert b"z" * 100 not in _good_names


# --------------------------------------------------------------------- sizes


def test_limits_of_a_request(parser: Http1Parser) -> None:
    """RFC 9110 sections 15.5.15, RFC 6585 section 5: 414 for the target, 431 for fields."""
    limits = HeadLimits(max_head_size=500, max_fields=5, max_target_size=100, max_field_size=200)
    line = b"GET /%b HTTP/1.1"

    read_request(parser, b"X: %b\r\n" % (b"a" * 190), limits=limits)
    refused_request(parser, b"X: %b\r\n" % (b"a" * 300), HTTPStatus(431), limits=limits)
    refused_request(parser, b"X: %b\r\n" % (b"a" * 190) * 3, HTTPStatus(431), limits=limits)
    read_request(parser, b"X: a\r\n" * 4, limits=limits)
    refused_request(parser, b"X: a\r\n" * 5, HTTPStatus(431), limits=limits)
    read_request(parser, line=line % (b"a" * 99), limits=limits)
    refused_request(parser, b"", HTTPStatus(414), line=line % (b"a" * 100), limits=limits)


def test_limits_of_a_response(parser: Http1Parser) -> None:
    """A response that is too large is a bad response: no status of ours fits it."""
    limits = HeadLimits(max_head_size=500, max_fields=5, max_field_size=200)

    read_response(parser, b"X: a\r\n" * 5, limits=limits)
    refused_response(parser, b"X: a\r\n" * 6, limits=limits)
    refused_response(parser, b"X: %b\r\n" % (b"a" * 300), limits=limits)
    refused_response(parser, b"X: %b\r\n" % (b"a" * 190) * 3, limits=limits)
