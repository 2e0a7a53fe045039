"""Framing and security of a head, rule by rule, behind either engine.

The sections are of RFC 9112 (HTTP/1.1) unless another RFC is named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.http.v1 import CHUNKED, UNTIL_CLOSE, FramingOptions
from pingora_core.protocols.http.v1.framing import (
    check_response_head,
    connection_tokens,
    content_length,
    has_no_body,
    is_upgrade_request,
    request_body_length,
    response_body_length,
    wants_keepalive,
)
from pingora_core.protocols.http.v1.parser import DEFAULT_LIMITS
from pingora_error import Error, HTTPStatus
from pingora_http import HeaderMap, RequestHeader, ResponseHeader, Version
from tests.unit.pingora_core.protocols.http.v1.judging import (
    BAD,
    STRICT,
    read_request,
    read_response,
    refused_request,
    refused_response,
)

if TYPE_CHECKING:
    from pingora_core.protocols.http.v1 import Http1Parser


# ------------------------------------------------------------- request framing


def test_no_framing_fields_mean_no_body(parser: Http1Parser) -> None:
    """Section 6.3, rule 7: a request never ends with the connection, whatever its version."""
    for version in (b"HTTP/1.0", b"HTTP/1.1"):
        request = read_request(parser, line=b"POST / " + version)

        assert request_body_length(request) == 0


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"DELETE", b"TRACE", b"BREW"])
def test_the_method_does_not_matter(parser: Http1Parser, method: bytes) -> None:
    """Section 6: the framing of a request is independent of its method."""
    request = read_request(parser, b"Content-Length: 5\r\n", line=method + b" / HTTP/1.1")

    assert request_body_length(request) == 5


@pytest.mark.parametrize(
    ("value", "length"),
    [(b"0", 0), (b"5", 5), (b"005", 5), (b" \t5 \t", 5), (b"9223372036854775807", 2**63 - 1)],
)
def test_content_length(parser: Http1Parser, value: bytes, length: int) -> None:
    """RFC 9110 section 8.6: Content-Length is 1*DIGIT."""
    request = read_request(parser, b"CONTENT-length:%b\r\n" % value)

    assert request_body_length(request) == content_length(request) == length


_BAD_LENGTHS = [
    b"",
    b"-1",
    b"-0",
    b"+5",
    b"5.0",
    b"5e1",
    b"0x5",
    b"5_0",
    b"5 0",
    b"5,5",
    b"5, 5",
    b"5,",
    b"5;a",
    b"five",
    b"\xb2",
    b"\xd9\xa5",
    b"9223372036854775808",
    b"9" * 20,
    b"0" * 30,
    b"9" * 5000,
]


@pytest.mark.parametrize("value", _BAD_LENGTHS)
def test_malformed_content_length(parser: Http1Parser, value: bytes) -> None:
    """Section 6.3, rule 5: an invalid Content-Length is unrecoverable, lists included."""
    refused_request(parser, b"Content-Length: %b\r\n" % value)
    refused_response(parser, b"Content-Length: %b\r\n" % value)


@pytest.mark.parametrize("second", [b"5", b"6"])
def test_repeated_content_length(parser: Http1Parser, second: bytes) -> None:
    """Section 6.3, rule 5: two lengths are refused even if they agree, for the next recipient
    may count them otherwise."""
    fields = b"Content-Length: 5\r\nX: y\r\ncontent-length: %b\r\n" % second

    refused_request(parser, fields)
    refused_response(parser, fields)


@pytest.mark.parametrize("value", [b"chunked", b"Chunked", b"CHUNKED", b" \tchunked "])
def test_chunked(parser: Http1Parser, value: bytes) -> None:
    """Section 7: names of transfer codings are case-insensitive."""
    field = b"Transfer-Encoding:%b\r\n" % value

    assert request_body_length(read_request(parser, field)) == CHUNKED
    assert response_body_length(read_response(parser, field), b"GET", STRICT) == CHUNKED


@pytest.mark.parametrize(
    "fields",
    [
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 0\r\nTransfer-Encoding: identity\r\n",
        b"Content-Length: 5\r\ntransfer-encoding: gzip, chunked\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: \r\n",
    ],
)
def test_both_framings(parser: Http1Parser, fields: bytes) -> None:
    """Section 6.1: Transfer-Encoding with Content-Length is an attempt to smuggle."""
    refused_request(parser, fields, BAD, HTTPStatus(501))
    refused_response(parser, fields)


@pytest.mark.parametrize(
    "fields",
    [
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n",
    ],
)
def test_transfer_encoding_in_http10(parser: Http1Parser, fields: bytes) -> None:
    """Section 6.1: Transfer-Encoding in an HTTP/1.0 message is faulty framing."""
    refused_request(parser, fields, BAD, HTTPStatus(501), line=b"POST / HTTP/1.0")
    refused_response(parser, fields, line=b"HTTP/1.0 200 OK")


_NOT_FINAL = [
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Transfer-Encoding:\r\n",
    b"Transfer-Encoding: ,\r\n",
    b"Transfer-Encoding: chunked, gzip\r\n",
    b"Transfer-Encoding: chunked, chunked\r\n",
    b"Transfer-Encoding: chunked, identity, chunked\r\n",
    b"Transfer-Encoding: chunked,\r\n",
    b"Transfer-Encoding: , chunked\r\n",
    b"Transfer-Encoding: chunked; a=b\r\n",
    b'Transfer-Encoding: "chunked"\r\n',
    b"Transfer-Encoding: xchunked\r\n",
    b"Transfer-Encoding: chunkedchunked\r\n",
    b"Transfer-Encoding: chunked x\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n",
    b"Transfer-Encoding: chunked\r\nX: y\r\nTransfer-Encoding: identity\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n",
]


@pytest.mark.parametrize("fields", _NOT_FINAL)
def test_chunked_must_be_the_one_and_last_coding(parser: Http1Parser, fields: bytes) -> None:
    """Section 6.3, rule 4: without chunked as the final coding the length of a request is
    unknown; section 6.1: chunked is not applied twice. Over all fields, not the last one."""
    refused_request(parser, fields, BAD, HTTPStatus(501))
    refused_response(parser, fields)
    with pytest.raises(Error):
        request_body_length(RequestHeader("POST", "/", headers=_as_items(fields)))


def _as_items(fields: bytes) -> list[tuple[str | bytes, str | bytes]]:
    lines = [line.partition(b":") for line in fields.split(b"\r\n") if line]
    return [(name, value) for name, _, value in lines]


@pytest.mark.parametrize(
    "fields",
    [
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: identity, chunked\r\n",
        b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
    ],
)
def test_other_codings_before_chunked(parser: Http1Parser, fields: bytes) -> None:
    """Section 6.1: a coding that is not understood is answered with 501. In a response it
    cannot be passed on either."""
    refused_request(parser, fields, HTTPStatus(501))
    refused_response(parser, fields)


@pytest.mark.parametrize(
    "fields",
    [
        b"Transfer-Encoding: \x0bchunked\r\n",
        b"Transfer-Encoding: chunked\x0c\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding: x\rchunked\r\n",
        b" Transfer-Encoding: chunked\r\n",
        b"X: y\r\n Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding\x00: chunked\r\n",
        b"Content-Length: 5\x00\r\n",
        b"Content-Length: \x0b5\r\n",
    ],
)
def test_hidden_framing(parser: Http1Parser, fields: bytes) -> None:
    """A framing field in a disguise that some recipients see through is refused."""
    refused_request(parser, fields)
    refused_response(parser, fields)


@pytest.mark.parametrize("name", [b"Transfer_Encoding", b"Content_Length", b"X-Transfer-Encoding"])
def test_similar_names_are_other_names(parser: Http1Parser, name: bytes) -> None:
    """RFC 9110 section 5.1: a name is compared whole; others do not frame."""
    request = read_request(parser, b"%b: chunked\r\n" % name)

    assert request_body_length(request) == 0


def test_connect_has_no_body(parser: Http1Parser) -> None:
    """RFC 9110 section 9.3.6: what follows CONNECT is the tunnel, so nothing may count it."""
    line = b"CONNECT h:443 HTTP/1.1"

    assert request_body_length(read_request(parser, line=line)) == 0
    read_request(parser, b"Content-Length: 0\r\n", line=line)
    refused_request(parser, b"Content-Length: 5\r\n", line=line)
    refused_request(parser, b"Transfer-Encoding: chunked\r\n", line=line)


@pytest.mark.parametrize(
    "fields",
    [
        [("Transfer-Encoding", "chunked"), ("Content-Length", "5")],
        [("Content-Length", "5"), ("Content-Length", "5")],
        [("Content-Length", "x")],
    ],
)
def test_contradictions_of_a_program(fields: list[tuple[str | bytes, str | bytes]]) -> None:
    """A head that a filter has spoilt is not sent either."""
    with pytest.raises(Error) as caught:
        request_body_length(RequestHeader("POST", "/", headers=fields))

    assert caught.value.etype is BAD


def test_http2_requests_may_be_chunked() -> None:
    """A request that came by HTTP/2 and goes on by HTTP/1 gets its framing from us."""
    request = RequestHeader("POST", "/", Version.HTTP_20, [("Transfer-Encoding", "chunked")])

    assert request_body_length(request) == CHUNKED


# ------------------------------------------------------------ response framing


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b"Upgrade: x\r\n",
        b"Connection: Upgrade\r\n",
        b"Connection: Upgrade\r\nUpgrade:\r\n",
        b"Connection: close\r\nUpgrade: x\r\n",
    ],
)
def test_101_without_upgrade(parser: Http1Parser, fields: bytes) -> None:
    """RFC 9110 sections 7.8, 15.2.2: 101 says which protocol follows, and Connection says so."""
    switch = b"Connection: x, upgrade\r\nUpgrade: y\r\n"

    refused_response(parser, fields, line=b"HTTP/1.1 101 X")
    assert read_response(parser, switch, line=b"HTTP/1.1 101 X").status == 101


@pytest.mark.parametrize("status", [100, 102, 103, 199, 204, 304])
@pytest.mark.parametrize(
    "field", [b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"]
)
def test_statuses_without_a_body(parser: Http1Parser, status: int, field: bytes) -> None:
    """Section 6.3, rule 1: these end with their head, whatever their fields say."""
    response = read_response(parser, field, line=b"HTTP/1.1 %d X" % status)

    assert response_body_length(response, b"GET", STRICT) == 0


@pytest.mark.parametrize(
    "field", [b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"]
)
def test_methods_without_a_body(parser: Http1Parser, field: bytes) -> None:
    """Section 6.3, rules 1 and 2: HEAD, and a CONNECT that succeeded."""
    response = read_response(parser, field)
    refusal = read_response(parser, b"Content-Length: 5\r\n", line=b"HTTP/1.1 403 No")

    assert response_body_length(response, b"HEAD", STRICT) == 0
    assert has_no_body(200, b"HEAD")
    assert not has_no_body(200, b"GET")
    assert response_body_length(response, b"CONNECT", STRICT) == 0
    assert response_body_length(refusal, b"CONNECT", STRICT) == 5


def test_a_response_may_end_with_the_connection(parser: Http1Parser) -> None:
    """Section 6.3, rule 8."""
    assert response_body_length(read_response(parser), b"GET", STRICT) == UNTIL_CLOSE


def test_a_response_with_a_length(parser: Http1Parser) -> None:
    """Section 6.3, rule 6."""
    for line in (b"HTTP/1.0 200 OK", b"HTTP/1.1 404 Not Found"):
        response = read_response(parser, b"Content-Length: 5\r\n", line=line)

        assert response_body_length(response, b"GET", STRICT) == 5


def test_a_bad_length_is_bad_even_without_a_body(parser: Http1Parser) -> None:
    """Section 6.3, rule 5: a bad length is passed on to nobody, so it is refused everywhere."""
    refused_response(parser, b"Content-Length: x\r\n", line=b"HTTP/1.1 304 X")


@pytest.mark.parametrize("value", _BAD_LENGTHS)
def test_invalid_lengths_may_be_allowed(parser: Http1Parser, value: bytes) -> None:
    """With the option a response of invalid length ends with the connection."""
    options = FramingOptions(allow_invalid_response_content_length=True)

    response = read_response(parser, b"Content-Length: %b\r\nA: b\r\n" % value, options=options)

    assert response_body_length(response, b"GET", options) == UNTIL_CLOSE
    assert list(response) == [("A", "b")]


def test_allowing_invalid_lengths_changes_no_valid_one(parser: Http1Parser) -> None:
    """The option is about invalid lengths only, and not about two framings."""
    options = FramingOptions(allow_invalid_response_content_length=True)

    response = read_response(parser, b"Content-Length: 5\r\n", options=options)

    assert response_body_length(response, b"GET", options) == 5
    refused_response(
        parser, b"Content-Length: x\r\nTransfer-Encoding: chunked\r\n", options=options
    )


def test_lengths_of_a_response_that_was_not_repaired() -> None:
    """A head that came another way is judged by the same rules."""
    options = FramingOptions(allow_invalid_response_content_length=True)
    response = ResponseHeader(200, headers=[("Content-Length", "x")])
    raw = response.to_wire()

    assert check_response_head(raw, response, DEFAULT_LIMITS, options) == UNTIL_CLOSE

    assert response_body_length(response, b"GET", options) == UNTIL_CLOSE
    with pytest.raises(Error):
        response_body_length(response, b"GET", STRICT)


@pytest.mark.parametrize("line", [b"HTTP/1.1 600 X", b"HTTP/1.1 999 X"])
def test_statuses_that_nobody_defines(parser: Http1Parser, line: bytes) -> None:
    """RFC 9110 section 15: a status beyond 599 is invalid."""
    refused_response(parser, line=line)


@pytest.mark.parametrize(
    "line", [b"HTTP/1.0 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.3 404 \xff a\t"]
)
def test_status_lines(parser: Http1Parser, line: bytes) -> None:
    """Section 4: all versions of the major one, with and without phrase."""
    assert read_response(parser, b"A: b\r\n", line=line).status == int(line[9:12])


def test_a_status_line_read_wrongly() -> None:
    """What an engine says about the line must be what the line says."""
    raw = b"HTTP/1.0 200 OK\r\n\r\n"
    for response in (
        ResponseHeader(200, reason="OK"),
        ResponseHeader(201, Version.HTTP_10, reason="OK"),
        ResponseHeader(200, Version.HTTP_10, reason="Fine"),
    ):
        with pytest.raises(Error):
            check_response_head(raw, response, DEFAULT_LIMITS, STRICT)


# ---------------------------------------------------------- what else a head says


@pytest.mark.parametrize(
    ("values", "tokens"),
    [
        ([], set()),
        ([""], set()),
        (["Close"], {b"close"}),
        (["keep-alive, X-A ,, Upgrade\t"], {b"keep-alive", b"x-a", b"upgrade"}),
        (["a", "b, c"], {b"a", b"b", b"c"}),
    ],
)
def test_connection_tokens(values: list[str], tokens: set[bytes]) -> None:
    """RFC 9110 section 7.6.1: options of all Connection fields, case-insensitive."""
    head = HeaderMap([("X", "y"), *[("Connection", value) for value in values]])

    assert connection_tokens(head) == tokens


@pytest.mark.parametrize(
    ("version", "values", "kept"),
    [
        (Version.HTTP_11, [], True),
        (Version.HTTP_11, ["keep-alive"], True),
        (Version.HTTP_11, ["Upgrade"], True),
        (Version.HTTP_11, ["Close"], False),
        (Version.HTTP_11, ["x, close"], False),
        (Version.HTTP_11, ["keep-alive", "close"], False),
        (Version.HTTP_11, ["close", "keep-alive"], False),
        (Version.HTTP_10, [], False),
        (Version.HTTP_10, ["x"], False),
        (Version.HTTP_10, ["keep-alive"], True),
        (Version.HTTP_10, ["Keep-Alive, x"], True),
        (Version.HTTP_10, ["keep-alive, close"], False),
    ],
)
def test_keepalive(version: Version, values: list[str], kept: bool) -> None:
    """Section 9.3: close wins; HTTP/1.1 keeps by default, HTTP/1.0 when asked."""
    headers: list[tuple[str | bytes, str | bytes]] = [("Connection", value) for value in values]

    assert wants_keepalive(RequestHeader("GET", "/", version, headers)) is kept
    assert wants_keepalive(ResponseHeader(200, version, headers)) is kept


@pytest.mark.parametrize(
    ("line", "fields", "asks"),
    [
        (b"GET / HTTP/1.1", b"Connection: Upgrade\r\nUpgrade: websocket\r\n", True),
        (b"GET / HTTP/1.1", b"Connection: x, upgrade\r\nUpgrade: a, b\r\n", True),
        (b"GET / HTTP/1.1", b"Upgrade: websocket\r\n", False),
        (b"GET / HTTP/1.1", b"Connection: Upgrade\r\n", False),
        (b"GET / HTTP/1.1", b"Connection: close\r\nUpgrade: websocket\r\n", False),
        (b"GET / HTTP/1.0", b"Connection: Upgrade\r\nUpgrade: websocket\r\n", False),
        (b"GET / HTTP/1.1", b"Connection: Upgrade\r\nUpgrade: h2c\r\n", False),
        (b"GET / HTTP/1.1", b"Connection: Upgrade\r\nUpgrade: x\r\nUpgrade: H2C\r\n", False),
        (b"CONNECT h:443 HTTP/1.1", b"", True),
        (b"CONNECT h:443 HTTP/1.1", b"Upgrade: x\r\n", True),
    ],
)
def test_upgrade_requests(parser: Http1Parser, line: bytes, fields: bytes, asks: bool) -> None:
    """RFC 9110 section 7.8: Upgrade counts if Connection names it, in HTTP/1.1 only; RFC 9113
    section 3.1: never to h2c, which would carry requests past every filter."""
    assert is_upgrade_request(read_request(parser, fields, line=line)) is asks
