"""Responses and trailers over HTTP/2, received and sent; requests sent.

The sections are of RFC 9113 (HTTP/2) unless another RFC is named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hpack import HeaderTuple, NeverIndexedHeaderTuple

from pingora_core.protocols.http.v1 import HeadLimits
from pingora_core.protocols.http.v2.headers import (
    UNKNOWN,
    decode_trailers,
    encode_request,
    encode_response,
    encode_trailers,
)
from pingora_error import Error
from pingora_http import HeaderMap, RequestHeader, ResponseHeader, Version
from tests.unit.pingora_core.protocols.http.v2.blocks import BAD, answer, refused_answer

if TYPE_CHECKING:
    from tests.unit.pingora_core.protocols.http.v2.blocks import Block

_OK = [(b":status", b"200")]
_HOP_BY_HOP = [
    ("Connection", "close, X-Hop"),
    ("Keep-Alive", "timeout=5"),
    ("Proxy-Connection", "close"),
    ("Transfer-Encoding", "chunked"),
    ("Upgrade", "h2c"),
    ("X-Hop", "1"),
    ("HTTP2-Settings", "AAMAAABk"),
]


def _never(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    return (b"!" + name, value)


# --------------------------------------------------------------------- receiving


def test_plain_response() -> None:
    """A response becomes a head as HTTP/1 has it, with the phrase that goes with its status."""
    decoded = answer([*_OK, (b"a", b"b"), (b"set-cookie", b"1"), (b"set-cookie", b"2")])

    header = decoded.header
    assert (header.status, header.raw_reason) == (200, b"OK")
    assert header.version is Version.HTTP_20
    assert header.raw_items == [(b"a", b"b"), (b"set-cookie", b"1"), (b"set-cookie", b"2")]
    assert decoded.content_length == UNKNOWN


@pytest.mark.parametrize("status", [100, 103, 199, 299, 404, 599])
def test_statuses(status: int) -> None:
    """A status is of one of five classes, whether it is registered or not (RFC 9110 section 15)."""
    assert answer([(b":status", b"%d" % status)]).header.status == status


@pytest.mark.parametrize(
    "status",
    [b"", b"0", b"99", b"099", b"20", b"2000", b"600", b"999", b"200 OK", b" 200", b"+20", b"2x0"],
)
def test_malformed_statuses(status: bytes) -> None:
    """A status has three digits."""
    assert refused_answer([(b":status", status)]) == "malformed :status"


def test_switching_protocols() -> None:
    """There is no 101 (section 8.6)."""
    refused_answer([(b":status", b"101"), (b"a", b"b")])


@pytest.mark.parametrize(
    "block",
    [
        [],
        [(b"a", b"b")],
        [(b"a", b"b"), *_OK],
        [*_OK, *_OK],
        [*_OK, (b":path", b"/")],
        [(b":path", b"/"), *_OK],
        [*_OK, (b"a", b"b"), (b":status", b"204")],
        [(b":Status", b"200")],
    ],
)
def test_pseudo_fields(block: Block) -> None:
    """The status is there once, first and alone (section 8.3.2)."""
    refused_answer(block)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"Server", b"x"),
        (b"a b", b"x"),
        (b"a:", b"x"),
        (b"", b"x"),
        (b"a", b"x\r\ny: z"),
        (b"a", b"\0"),
        (b"a", b" x"),
        (b"a", b"x\t"),
        (b"connection", b"close"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"close"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"websocket"),
        (b"te", b"trailers"),
        (b"te", b""),
    ],
)
def test_fields(name: bytes, value: bytes) -> None:
    """Fields are judged as those of requests, TE included (section 8.2)."""
    refused_answer([*_OK, (name, value)])
    refused_answer([*_OK, (b"a", b"b"), (name, value), (b"a", b"b")])


@pytest.mark.parametrize(
    ("status", "method", "length"),
    [
        (200, b"GET", 5),
        (200, b"HEAD", 0),
        (204, b"GET", 0),
        (304, b"GET", 0),
        (304, b"POST", 0),
        (206, b"POST", 5),
        (200, b"CONNECT", UNKNOWN),
        (407, b"CONNECT", 5),
    ],
)
def test_content_length(status: int, method: bytes, length: int) -> None:
    """What follows depends on the status and the method, too (RFC 9112 section 6.3)."""
    block = [(b":status", b"%d" % status), (b"content-length", b"5")]

    assert answer(block, method=method).content_length == length


@pytest.mark.parametrize("value", [b"", b"-1", b"5, 5", b"0x5", b"9223372036854775808"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_malformed_content_length(value: bytes, method: bytes) -> None:
    """A length is a plain decimal number, also where it tells nothing."""
    refused_answer([*_OK, (b"content-length", value)], method=method)
    refused_answer([*_OK, (b"content-length", b"5"), (b"content-length", b"5")], method=method)


def test_end_of_the_stream() -> None:
    """At the end of the stream there is no content, which a length must not deny."""
    block = [*_OK, (b"content-length", b"5")]

    refused_answer(block, end_stream=True)
    assert answer(block, end_stream=True, method=b"HEAD").content_length == 0
    assert answer([*_OK, (b"content-length", b"0")], end_stream=True).content_length == 0
    assert answer(_OK, end_stream=True).content_length == 0


def test_informational_response_at_the_end_of_the_stream() -> None:
    """A response does not end before its final head (section 8.1)."""
    refused_answer([(b":status", b"103")], end_stream=True)


def test_limits() -> None:
    """A response that is too large is a bad one; no status comes of it."""
    refused_answer([*_OK, *[(b"x-%d" % number, b"") for number in range(257)]])
    refused_answer([*_OK, (b"a", b"b" * 100)], limits=HeadLimits(max_field_size=100))


# ------------------------------------------------------------- sending a response


def test_sending_a_response() -> None:
    """Names leave in lower case, the reason phrase not at all."""
    header = ResponseHeader(
        404, headers=[("Content-Length", "0"), ("X-A", "B"), ("x-a", "c")], reason="Gone Fishing"
    )

    assert encode_response(header, date=None) == [
        (b":status", b"404"),
        (b"content-length", b"0"),
        (b"x-a", b"B"),
        (b"x-a", b"c"),
    ]


def test_sending_hop_by_hop_fields() -> None:
    """What concerns the connection to the origin stays behind (section 8.2.2)."""
    header = ResponseHeader(200, headers=[*_HOP_BY_HOP, ("TE", "trailers"), ("A", "b")])

    assert encode_response(header, date=None) == [(b":status", b"200"), (b"a", b"b")]


def test_connection_cannot_name_the_length() -> None:
    """What frames a message does not go because Connection says so."""
    header = ResponseHeader(
        200, headers=[("Connection", "content-length"), ("Content-Length", "5")]
    )

    assert encode_response(header, date=None) == [(b":status", b"200"), (b"content-length", b"5")]


@pytest.mark.parametrize(("given", "sent"), [(None, b"now"), ("then", b"then")])
def test_date(given: str | None, sent: bytes) -> None:
    """A Date is added where there is none."""
    header = ResponseHeader(200, headers=[] if given is None else [("Date", given)])

    assert encode_response(header, date=b"now") == [(b":status", b"200"), (b"date", sent)]


@pytest.mark.parametrize("status", [100, 103, 204])
def test_no_length_without_content(status: int) -> None:
    """A status that never has content leaves without a length (RFC 9110 section 8.6)."""
    header = ResponseHeader(status, headers=[("Content-Length", "0"), ("A", "b")])

    assert encode_response(header, date=None) == [(b":status", b"%d" % status), (b"a", b"b")]


def test_never_indexed_fields_stay_so() -> None:
    """What an origin keeps out of tables is kept out of the client's (RFC 7541 section 6.2.3)."""
    block = [*_OK, HeaderTuple(b"a", b"b"), NeverIndexedHeaderTuple(b"x-token", b"s")]
    header = answer(block).header

    sent = encode_response(header, date=None, never_indexed=_never)

    assert sent == [*_OK, (b"a", b"b"), (b"!x-token", b"s")]


# -------------------------------------------------------------- sending a request


def test_sending_a_request() -> None:
    """Host leaves as :authority, names in lower case."""
    header = RequestHeader("POST", "/a?b", headers=[("X-A", "B"), ("Host", "h:1"), ("A", "c")])

    assert encode_request(header, scheme=b"http", protocol=None) == [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":authority", b"h:1"),
        (b":path", b"/a?b"),
        (b"x-a", b"B"),
        (b"a", b"c"),
    ]


def test_sending_hop_by_hop_fields_of_a_request() -> None:
    """What concerns the connection to the client stays behind (section 8.2.2)."""
    header = RequestHeader("GET", "/", headers=[("Host", "h"), *_HOP_BY_HOP, ("A", "b")])

    assert encode_request(header, scheme=b"http", protocol=None)[4:] == [(b"a", b"b")]


@pytest.mark.parametrize(
    ("values", "sent"),
    [
        (["trailers"], True),
        (["gzip, Trailers"], True),
        (["gzip;q=0.5", "trailers"], True),
        (["gzip"], False),
        ([""], False),
        (["trailersx"], False),
    ],
)
def test_sending_te(values: list[str], sent: bool) -> None:
    """Of TE only trailers is sent, as gRPC needs it (section 8.2.2)."""
    header = RequestHeader(
        "GET", "/", headers=[("Host", "h"), *[("TE", value) for value in values]]
    )

    fields = encode_request(header, scheme=b"http", protocol=None)

    assert fields[4:] == ([(b"te", b"trailers")] if sent else [])


@pytest.mark.parametrize(
    ("method", "target", "authority", "path"),
    [
        ("GET", "http://h:8/a?b", b"h:8", b"/a?b"),
        ("GET", "http://h:8", b"h:8", b"/"),
        ("OPTIONS", "http://h:8", b"h:8", b"*"),
        ("OPTIONS", "*", b"other", b"*"),
        ("GET", "//x", b"other", b"//x"),
    ],
)
def test_sending_targets(method: str, target: str, authority: bytes, path: bytes) -> None:
    """An absolute-form names the host itself, and goes before Host (RFC 9112 section 3.2.2)."""
    header = RequestHeader(method, target, headers=[("Host", "other")])

    fields = dict(encode_request(header, scheme=b"http", protocol=None))

    assert (fields[b":authority"], fields[b":path"]) == (authority, path)


@pytest.mark.parametrize(
    ("method", "target", "fields"),
    [
        ("GET", "/", []),
        ("GET", "*", [("Host", "h")]),
        ("GET", "path", [("Host", "h")]),
        ("GET", "/", [("Host", "")]),
    ],
)
def test_requests_that_cannot_be_sent(
    method: str, target: str, fields: list[tuple[str, str]]
) -> None:
    """A request without a host, or with a target of no form, is an error here."""
    with pytest.raises(Error) as caught:
        encode_request(RequestHeader(method, target, headers=fields), scheme=b"http", protocol=None)
    assert caught.value.etype is BAD


def test_secrets_stay_out_of_tables() -> None:
    """Credentials, and cookies short enough to be guessed, are never indexed (RFC 7541 7.1.3)."""
    long = b"a=0123456789012345678"
    header = RequestHeader(
        "GET",
        "/",
        headers=[
            ("Host", "h"),
            ("Authorization", "Basic eA=="),
            ("Proxy-Authorization", "Basic eA=="),
            ("Cookie", "a=b"),
            ("Cookie", long),
            ("A", "b"),
        ],
    )

    fields = encode_request(header, scheme=b"http", protocol=None, never_indexed=_never)

    assert fields[4:] == [
        (b"!authorization", b"Basic eA=="),
        (b"!proxy-authorization", b"Basic eA=="),
        (b"!cookie", b"a=b"),
        (b"cookie", long),
        (b"a", b"b"),
    ]


# ----------------------------------------------------------------------- trailers


def test_trailers() -> None:
    """Trailers are fields, in order; those that mean nothing there are dropped, as in HTTP/1."""
    block = [(b"grpc-status", b"0"), (b"trailer", b"a"), (b"set-cookie", b"a"), (b"a", b"")]

    assert decode_trailers(block).raw_items == [(b"grpc-status", b"0"), (b"a", b"")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b":status", b"200"),
        (b":path", b"/"),
        (b"Grpc-Status", b"0"),
        (b"a b", b""),
        (b"a", b"\r\n"),
        (b"a", b"b "),
        (b"content-length", b"0"),
        (b"host", b"h"),
        (b"transfer-encoding", b"chunked"),
        (b"connection", b"close"),
        (b"te", b"trailers"),
        (b"a", b"b" * 40000),
    ],
)
def test_malformed_trailers(name: bytes, value: bytes) -> None:
    """No pseudo-header field (section 8.1), and nothing that changes framing or routing."""
    for block in ([(name, value)], [(b"a", b"b"), (name, value)]):
        with pytest.raises(Error) as caught:
            decode_trailers(block)
        assert caught.value.etype is BAD
        assert caught.value.esource.value == ""


def test_number_of_trailers() -> None:
    """There may be as many trailers as fields."""
    with pytest.raises(Error):
        decode_trailers([(b"a", b"")] * 257)


def test_sending_trailers() -> None:
    """What HTTP/2 or a trailer section may not have is left out."""
    trailers = HeaderMap(
        [("Grpc-Status", "0"), ("Content-Length", "5"), ("Upgrade", "x"), ("TE", "x"), ("A", "b")]
    )

    assert encode_trailers(trailers) == [(b"grpc-status", b"0"), (b"a", b"b")]
    assert encode_trailers(HeaderMap()) == []
