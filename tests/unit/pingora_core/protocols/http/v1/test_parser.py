"""Both engines take heads apart alike, and nothing is lost or repaired on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.http.v1 import FramingOptions, HeadLimits, get_parser
from pingora_core.protocols.http.v1._start_line import _MAX_STATUS_LINES, _status_lines
from pingora_core.protocols.http.v1.parser import (
    DEFAULT_LIMITS,
    check_incomplete_head,
    find_head_end,
    loosen_response_head,
)
from pingora_error import Error, ErrorType, HTTPStatus
from pingora_http import Version
from tests.unit.pingora_core.protocols.http.v1.splits import splits

if TYPE_CHECKING:
    from pingora_core.protocols.http.v1 import Http1Parser
    from pingora_error import ErrorKind

_BAD = ErrorType.INVALID_HTTP_HEADER
_REQUEST = b"GET /a?b HTTP/1.1\r\nHost: h\r\nX-Custom: \t a b\t \r\nx-custom:c\r\nEmpty:\r\n\r\n"


def _refused(parser: Http1Parser, head: bytes, *kinds: ErrorKind) -> None:
    parse = parser.parse_response if head.startswith(b"HTTP/") else parser.parse_request
    with pytest.raises(Error) as caught:
        parse(head)
    assert caught.value.etype in (kinds or (_BAD,))
    assert caught.value.esource.value == ""


# ------------------------------------------------------------------- engines


def test_engines_are_made_once() -> None:
    """An engine keeps no state, so one serves the whole process."""
    assert get_parser() is get_parser("httptools")
    assert get_parser("h11") is get_parser("h11")


def test_unknown_engine() -> None:
    """A misspelt engine is a mistake of the configuration, told with the choices."""
    with pytest.raises(ValueError, match="'httptools' and 'h11'"):
        get_parser("llhttp")


def test_request(parser: Http1Parser) -> None:
    """Case, order and duplicates stay; white space around values goes."""
    request = parser.parse_request(_REQUEST)

    assert (request.raw_method, request.raw_target) == (b"GET", b"/a?b")
    assert request.version is Version.HTTP_11
    assert request.raw_items == [
        (b"Host", b"h"),
        (b"X-Custom", b"a b"),
        (b"x-custom", b"c"),
        (b"Empty", b""),
    ]


def test_response(parser: Http1Parser) -> None:
    """Status, phrase and fields are taken as they were sent."""
    response = parser.parse_response(
        b"HTTP/1.0 404 Not \xfcb\tx\r\nServer: \xff\r\nset-cookie: a\r\nSet-Cookie: b\r\n\r\n"
    )

    assert (response.status, response.raw_reason) == (404, b"Not \xfcb\tx")
    assert response.version is Version.HTTP_10
    assert response.raw_items == [
        (b"Server", b"\xff"),
        (b"set-cookie", b"a"),
        (b"Set-Cookie", b"b"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [(b"HTTP/1.1 200", b""), (b"HTTP/1.1 200 ", b""), (b"HTTP/1.1 200 All right ", b"All right ")],
)
def test_a_reason_may_be_missing(parser: Http1Parser, line: bytes, reason: bytes) -> None:
    """RFC 9112 section 4: the phrase is optional, and many leave out its space as well."""
    response = parser.parse_response(line + b"\r\nA: b\r\n\r\n")

    assert response.raw_reason == reason
    assert len(response) == 1


def test_heads_without_fields(parser: Http1Parser) -> None:
    """A head may consist of its first line."""
    assert len(parser.parse_request(b"GET / HTTP/1.0\r\n\r\n")) == 0
    assert len(parser.parse_response(b"HTTP/1.1 204 No Content\r\n\r\n")) == 0


@pytest.mark.parametrize(
    "method", [b"GET", b"PURGE", b"BREW", b"get", b"M-SEARCH", b"x!#$%&'*+-.^_`|~9", b"PRI"]
)
def test_any_token_is_a_method(parser: Http1Parser, method: bytes) -> None:
    """RFC 9110 section 9.1: the set of methods is open, and a proxy passes on what it gets."""
    request = parser.parse_request(method + b" /a HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n")

    assert request.raw_method == method
    assert request.raw_target == b"/a"
    assert request.raw_items == [(b"Host", b"h"), (b"A", b"b")]


@pytest.mark.parametrize("version", [b"HTTP/1.2", b"HTTP/1.9"])
def test_a_higher_minor_version_is_ours(parser: Http1Parser, version: bytes) -> None:
    """RFC 9110 section 2.5: a higher minor version is processed as the highest that we know."""
    request = parser.parse_request(b"GET / " + version + b"\r\nHost: h\r\n\r\n")
    assert (request.version, request.raw_method) == (Version.HTTP_11, b"GET")

    request = parser.parse_request(b"CONNECT h:1 " + version + b"\r\nHost: h:1\r\n\r\n")
    assert (request.version, request.raw_target) == (Version.HTTP_11, b"h:1")


@pytest.mark.parametrize("version", [b"HTTP/0.9", b"HTTP/2.0", b"HTTP/3.1", b"HTTP/9.9"])
@pytest.mark.parametrize("method", [b"GET", b"BREW", b"PRI"])
def test_another_major_version(parser: Http1Parser, method: bytes, version: bytes) -> None:
    """RFC 9110 section 15.6.6: another major version is answered with 505."""
    _refused(parser, method + b" * " + version + b"\r\nHost: h\r\n\r\n", HTTPStatus(505))
    _refused(parser, version + b" 200 OK\r\n\r\n", HTTPStatus(505))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"GET",
        b"GET /",
        b"GET  / HTTP/1.1",
        b"GET /  HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b" GET / HTTP/1.1",
        b"GET\t/ HTTP/1.1",
        b"GET / a HTTP/1.1",
        b"GET /\xc3\xa9 HTTP/1.1",
        b"GET /\x00 HTTP/1.1",
        b"GET /\x7f HTTP/1.1",
        b"GET / HTTP/1.10",
        b"GET / HTTP/11",
        b"GET / HTTP/1,1",
        b"GET / HTTP/x.y",
        b"GET / http/1.1",
        b"GET / HTP/1.1",
        b"GET / RTSP/1.0",
        b"SOURCE / ICE/1.0",
        b"G(T / HTTP/1.1",
        b"G\xc9T / HTTP/1.1",
        b"\x16\x03\x01\x02\x00",
    ],
)
def test_malformed_request_lines(parser: Http1Parser, line: bytes) -> None:
    """RFC 9112 section 3: method SP target SP version, one space each, nothing else."""
    _refused(parser, line + b"\r\nHost: h\r\n\r\n")


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1",
        b"HTTP/1.1 ",
        b"HTTP/1.1 20",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1 +20 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1\t200 OK",
        b"HTTP/1.1 200\tOK",
        b"HTTP/1.1 200 O\x00K",
        b"HTTP/1.10 200 OK",
        b"HTTP/11 200 OK",
        b"HTTP/1.1 200OK",
    ],
)
def test_malformed_status_lines(parser: Http1Parser, line: bytes) -> None:
    """RFC 9112 section 4: version SP three digits, SP phrase."""
    _refused(parser, line + b"\r\nA: b\r\n\r\n")


@pytest.mark.parametrize(
    "field",
    [
        b"A",
        b": b",
        b"A : b",
        b"A\t: b",
        b"A b: c",
        b"A(: b",
        b"\xc3\xa9: b",
        b"A: b\x00",
        b"A: b\rC: d",
        b"A\r: b",
    ],
)
@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nHost: h\r\n", b"HTTP/1.1 200 OK\r\n"])
def test_malformed_fields(parser: Http1Parser, start: bytes, field: bytes) -> None:
    """RFC 9112 section 5: a field is a token, a colon at once, and a value without NUL or CR."""
    _refused(parser, start + field + b"\r\n\r\n")


def test_an_upgrade_is_no_error(parser: Http1Parser) -> None:
    """A request to leave HTTP, and the consent, are heads like others."""
    fields = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

    request = parser.parse_request(b"GET / HTTP/1.1\r\nHost: h\r\n" + fields)
    tunnel = parser.parse_request(b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n")
    response = parser.parse_response(b"HTTP/1.1 101 Switching Protocols\r\n" + fields)

    assert len(request) == 3
    assert tunnel.raw_target == b"h:443"
    assert (response.status, len(response)) == (101, 2)


def test_framing_fields_are_not_tidied(parser: Http1Parser) -> None:
    """The judge of framing sees what was sent, whatever an engine makes of it."""
    request = parser.parse_request(
        b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \tChunKED \r\n\r\n"
    )
    response = parser.parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: 007\r\n\r\n")

    assert request.get_raw(b"transfer-encoding") == b"ChunKED"
    assert response.get_raw(b"content-length") == b"007"


def test_informational_responses(parser: Http1Parser) -> None:
    """Informational responses are heads like others."""
    response = parser.parse_response(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")

    assert (response.status, response.get("link")) == (103, "</a>")


def test_status_lines_are_remembered_within_bounds(parser: Http1Parser) -> None:
    """An upstream with a new phrase for every response cannot fill the memory."""
    for number in range(_MAX_STATUS_LINES + 10):
        response = parser.parse_response(b"HTTP/1.1 200 OK %d\r\n\r\n" % number)
        assert response.raw_reason == b"OK %d" % number
    long = b"HTTP/1.1 200 " + b"x" * 100
    assert parser.parse_response(long + b"\r\n\r\n").raw_reason == b"x" * 100

    assert len(_status_lines) <= _MAX_STATUS_LINES
    assert long not in _status_lines


def test_h11_names_a_coding_that_nobody_knows() -> None:
    """The reference engine refuses transfer codings itself, with the status that it should be."""
    _refused(
        get_parser("h11"),
        b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n",
        HTTPStatus(501),
    )


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nHost: h\r\n", b"HTTP/1.1 200 OK\r\nA: b\r\n"])
def test_h11_notices_a_head_without_end(head: bytes) -> None:
    """A head that was cut off by mistake is no head."""
    _refused(get_parser("h11"), head)


# ------------------------------------------------------------ arriving heads


def test_the_end_of_a_head_is_found_however_it_arrives() -> None:
    """At every split the head ends at the same byte, and no part of it looks hopeless."""
    for pieces in splits(_REQUEST + b"body"):
        buffer = b""
        scanned = 0
        for piece in pieces:
            buffer += piece
            end = find_head_end(buffer, scanned)
            if end >= 0:
                break
            check_incomplete_head(buffer, DEFAULT_LIMITS, scanned)
            check_incomplete_head(buffer, DEFAULT_LIMITS)
            scanned = max(0, len(buffer) - 3)
        else:
            pytest.fail("no end")

        assert end == len(_REQUEST)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\nHost: h\r\n",
        b"GET / HTTP/1.1\r\nHost: h\n\n",
        b"GET / HTTP/1.1\r\nHost: h\r\r\n",
        b"GET / HTTP/1.1\r\nHost: h\rX: y\nZ",
        b"\nGET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nHost: h\x00\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/1.1\r\nA: \x7f\r\n",
    ],
)
def test_a_hopeless_head_is_refused_before_its_end(head: bytes) -> None:
    """RFC 9112 section 2.2: bare line ends and control characters are refused when seen.

    At every split: a bare LF must not be overlooked because its neighbour came with other bytes.
    """
    for pieces in splits(head + b"xyz"):
        buffer = b""
        scanned = 0
        with pytest.raises(Error) as caught:  # noqa: PT012
            for piece in pieces:
                buffer += piece
                check_incomplete_head(buffer, DEFAULT_LIMITS, scanned)
                scanned = max(0, len(buffer) - 3)
        assert caught.value.etype is _BAD, pieces


def test_a_head_that_grows_too_large() -> None:
    """A first line without end is 414, fields without end are 431."""
    limits = HeadLimits(max_head_size=1000, max_target_size=500)
    line = b"GET /" + b"a" * 400

    check_incomplete_head(line, limits)
    check_incomplete_head(line + b"\r\n" + b"A: b\r\n" * 90, limits)
    with pytest.raises(Error) as target:
        check_incomplete_head(line + b"a" * 200, limits)
    with pytest.raises(Error) as fields:
        check_incomplete_head(line + b"\r\n" + b"A: b\r\n" * 110, limits)

    assert target.value.etype == HTTPStatus(414)
    assert fields.value.etype == HTTPStatus(431)


# ----------------------------------------------------------------- loosening

_STRICT = FramingOptions()
_FOLD = FramingOptions(allow_obs_fold_in_response=True)
_SPACE = FramingOptions(allow_space_before_colon_in_response=True)
_LENGTH = FramingOptions(allow_invalid_response_content_length=True)

_LOOSENED = [
    (_FOLD, b"A: b\r\n c\r\n\t d\r\nE: f\r\n", b"A: b c d\r\nE: f\r\n"),
    (_FOLD, b"A: b \r\n  c\r\n", b"A: b  c\r\n"),
    (_SPACE, b"A : b\r\nC \t: d : e\r\n", b"A: b\r\nC: d : e\r\n"),
    (_LENGTH, b"A: b\r\nContent-Length: abc\r\nC: d\r\n", b"A: b\r\nC: d\r\n"),
    (_LENGTH, b"content-length: 5\r\nContent-Length: 5\r\n", b""),
    (_LENGTH, b"Content-Length: 5, 5\r\nA: b\r\n", b"A: b\r\n"),
    (_LENGTH, b"Content-Length:\r\n", b""),
]


@pytest.mark.parametrize(("options", "sent", "loosened"), _LOOSENED)
def test_loosening(options: FramingOptions, sent: bytes, loosened: bytes) -> None:
    """RFC 9112 sections 5.1, 5.2 and 6.3: an option repairs what it names."""
    line = b"HTTP/1.1 200 OK\r\n"

    assert loosen_response_head(line + sent + b"\r\n", options) == line + loosened + b"\r\n"
    assert loosen_response_head(line + sent + b"\r\n", _STRICT) == line + sent + b"\r\n"


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        (_FOLD, b" A: b\r\n"),
        (_FOLD, b"\tA: b\r\nC: d\r\n e\r\n"),
        (_SPACE, b" A: b\r\n"),
        (_SPACE, b"A b : c\r\n"),
        (_LENGTH, b"Content-Length: 5\r\n"),
        (_LENGTH, b"Content-Length: 5x\r\nTransfer-Encoding: chunked\r\n"),
        (_LENGTH, b"X-Content-Length: 5x\r\n"),
    ],
)
def test_what_is_not_loosened(options: FramingOptions, fields: bytes) -> None:
    """What no option names stays: fields before the first, good lengths, a second framing."""
    head = b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n"

    assert loosen_response_head(head, options) == head


@pytest.mark.parametrize(("options", "sent", "loosened"), _LOOSENED)
def test_a_loosened_head_is_parsed(
    parser: Http1Parser, options: FramingOptions, sent: bytes, loosened: bytes
) -> None:
    """Either engine reads the repaired head."""
    head = b"HTTP/1.1 200 OK\r\n" + sent + b"\r\n"

    response = parser.parse_response(loosen_response_head(head, options))

    assert len(response) == loosened.count(b"\r\n")
