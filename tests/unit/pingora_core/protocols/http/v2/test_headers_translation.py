"""What is accepted from HTTP/2 is one and the same request when it is written as HTTP/1.

The attacks are those that http2smugl tries, and those of "HTTP/2: The Sequel is Always Worse".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, strategies as st

from pingora_core.protocols.http.v1.framing import CHUNKED
from pingora_core.protocols.http.v2.headers import decode_request, encode_request
from pingora_error import Error, ErrorType, HTTPStatus
from pingora_http import RequestHeader, Version
from pingora_proxy._upstream_request import complete_framing, make_upstream_request
from tests.conformance.http1_reading import ENGINES, read_head
from tests.unit.pingora_core.protocols.http.v2.blocks import pseudo, read, refused

if TYPE_CHECKING:
    from pingora_core.protocols.http.v2.headers import DecodedRequest
    from tests.unit.pingora_core.protocols.http.v2.blocks import Block

# Ways to write a name that another recipient might take for the plain one.
_DISGUISES = [
    b"%b ",
    b"%b\t",
    b" %b",
    b"\t%b",
    b"%b\0",
    b"\0%b",
    b"%b:",
    b"%b\x01",
    b"%b\x0b",
    b"%b\x7f",
    b"%b\xa0",
    b"%b\xff",
    b"\r\n%b",
    b"\n%b",
    b"%b\r",
    b"x\r\n%b",
    b"x: y\r\n%b",
    b"x\n%b",
    b"x:%b",
]
_SPLIT_VALUES = [
    b"x\r\ntransfer-encoding: chunked",
    b"x\ntransfer-encoding: chunked",
    b"x\rtransfer-encoding: chunked",
    b"x\0transfer-encoding: chunked",
    b"\r\n\r\nGET /admin HTTP/1.1\r\nHost: victim\r\n\r\n",
]


@pytest.mark.parametrize("disguise", _DISGUISES)
@pytest.mark.parametrize("name", [b"transfer-encoding", b"content-length", b"host", b"x"])
def test_disguised_names(disguise: bytes, name: bytes) -> None:
    """No spelling of a name gets through that another recipient may read as that name."""
    refused([*pseudo(b"POST"), (disguise % name, b"chunked")])
    refused([*pseudo(b"POST"), ((disguise % name).upper(), b"chunked")])


@pytest.mark.parametrize(
    "value",
    [
        b"chunked",
        b"Chunked",
        b"identity",
        b"\tchunked",
        b"chunked ",
        b"\0chunked",
        b"chunked\r",
        b"xchunked",
        b"chunked, identity",
        b"",
    ],
)
@pytest.mark.parametrize("with_length", [False, True])
def test_transfer_encoding(value: bytes, with_length: bool) -> None:
    """Transfer-Encoding is refused whatever it says: H2.TE smuggling."""
    length = [(b"content-length", b"5")] if with_length else []

    refused([*pseudo(b"POST"), *length, (b"transfer-encoding", value)])


@pytest.mark.parametrize("value", _SPLIT_VALUES)
@pytest.mark.parametrize("name", [b":method", b":path", b":authority", b":scheme", b"x", b"cookie"])
def test_split_values(name: bytes, value: bytes) -> None:
    """No value, of pseudo-header fields neither, holds the end of a line."""
    block = [(key, text) for key, text in pseudo(b"POST") if key != name]
    at = 0 if name[:1] == b":" else len(block)
    for prefix in (b"", b"/", b"GET", b"a"):
        refused([*block[:at], (name, prefix + value), *block[at:]])


@pytest.mark.parametrize(
    "name", [b":method", b":path", b":authority", b":scheme", b":protocol", b":status", b":x"]
)
@pytest.mark.parametrize("at", [4, 5, 6])
def test_pseudo_field_tricks(name: bytes, at: int) -> None:
    """Pseudo-header fields are neither repeated, nor late, nor invented."""
    block = [*pseudo(), (b"a", b"b"), (b"c", b"d")]

    refused([*block[:at], (name, b"/"), *block[at:]])


@pytest.mark.parametrize("length", [b"+5", b"5 ", b" 5", b"0x5", b"5,6", b"5;a", b"5\0", b"\t5"])
def test_length_tricks(length: bytes) -> None:
    """A length that two recipients may read differently is refused: H2.CL smuggling."""
    refused([*pseudo(b"POST"), (b"content-length", length)])


# ------------------------------------------------------------------------- as HTTP/1

_texts = st.one_of(
    st.binary(max_size=6),
    st.text("ab/:*?#%@[]., \t\r\n\0\x7f\xe9", max_size=6).map(lambda text: text.encode("latin-1")),
)
_FIELDS = [
    (b"host", b"h"),
    (b"host", b"H:443"),
    (b"cookie", b"a=b"),
    (b"cookie", b""),
    (b"content-length", b"0"),
    (b"content-length", b"5"),
    (b"te", b"trailers"),
    (b"expect", b"100-continue"),
    (b"trailer", b"transfer-encoding"),
    (b"x-a", b"b: c"),
    (b"x-a", b""),
    (b"x-a", b"a\t\xe9"),
    (b"http2-settings", b"AAMAAABk"),
    (b"sec-websocket-key", b"AAAA"),
    (b"max-forwards", b"0"),
]
_BAD_FIELDS = [
    (b"transfer-encoding", b"chunked"),
    (b"connection", b"content-length"),
    (b"upgrade", b"websocket"),
    (b"keep-alive", b"5"),
]
_PLAIN = [
    pseudo(),
    pseudo(b"POST", b"/a?b", authority=b"h:80"),
    pseudo(b"HEAD", b"//x", scheme=b"HTTP", authority=b"[::1]:8"),
    pseudo(b"OPTIONS", b"*", authority=b"h"),
    pseudo(b"x-y", b"/", authority=None),
    pseudo(b"CONNECT", None, scheme=None, authority=b"h:443"),
    pseudo(b"CONNECT", b"/", authority=b"h", protocol=b"websocket"),
    pseudo(b"CONNECT", b"/", authority=b"h", protocol=b"x/1"),
]


@st.composite
def _blocks(draw: st.DrawFn) -> Block:
    """Make a block that is good, but for one thing perhaps."""
    block = draw(st.sampled_from(_PLAIN)) + draw(st.lists(st.sampled_from(_FIELDS), max_size=5))
    at = draw(st.integers(0, len(block) - 1))
    name, value = block[at]
    match draw(st.sampled_from(["good", "good", "good", "value", "name", "field", "move"])):
        case "value":
            block[at] = (name, draw(_texts))
        case "name":
            block[at] = (draw(_texts), value)
        case "field":
            block.insert(at, draw(st.sampled_from(_BAD_FIELDS)))
        case "move":
            block.append(block.pop(at))
        case _:
            pass
    return block


_REFUSALS = {ErrorType.INVALID_HTTP_HEADER, HTTPStatus(400), HTTPStatus(501)}


def _decoded(block: Block, *, end_stream: bool) -> DecodedRequest | None:
    try:
        return decode_request(
            block, end_stream=end_stream, allow_connect=True, extended_connect=True, random=bytes
        )
    except Error as error:
        if error.etype not in _REFUSALS:
            raise
        return None


class _Peer:
    sni = "peer"
    address = "peer:1"


def _as_http1(decoded: DecodedRequest, *, end_stream: bool) -> tuple[RequestHeader, int]:
    """Write a request as the proxy does for an upstream of HTTP/1; return it and its length."""
    upgrade = decoded.protocol is not None or decoded.header.raw_method == b"CONNECT"
    request = make_upstream_request(decoded.header, upgrade=upgrade)
    has_body = not upgrade and not end_stream and decoded.content_length != 0
    complete_framing(request, _Peer(), has_body=has_body)  # type: ignore[arg-type]  # what is used
    if not has_body:
        return request, 0
    return request, CHUNKED if decoded.content_length < 0 else decoded.content_length


@given(block=_blocks(), end_stream=st.booleans())
@example(block=pseudo(b"CONNECT", None, scheme=None, authority=b"h:1"), end_stream=False)
@example(block=pseudo(b"CONNECT", protocol=b"websocket"), end_stream=False)
@example(block=[*pseudo(b"OPTIONS", b"*"), (b"te", b"trailers")], end_stream=True)
@example(block=[*pseudo(b"POST"), (b"content-length", b"5"), (b"cookie", b"")], end_stream=False)
@example(block=[*pseudo(b"POST"), (b"cookie", b"a"), (b"cookie", b"b")], end_stream=False)
@example(block=[*pseudo(authority=b"h:443"), (b"host", b"H")], end_stream=False)
def test_one_reading_as_http1(block: Block, end_stream: bool) -> None:
    """Both engines of HTTP/1 accept what was accepted, and read what was meant."""
    decoded = _decoded(block, end_stream=end_stream)
    if decoded is None:
        return
    request, length = _as_http1(decoded, end_stream=end_stream)
    wire = request.to_wire()
    for engine in ENGINES:
        head, body_length = read_head(engine, "request", wire)

        assert isinstance(head, RequestHeader)
        assert head.raw_method == decoded.header.raw_method
        assert head.raw_target == decoded.header.raw_target
        assert head.raw_items == request.raw_items
        meant = dict(block)
        assert head.get_all_raw(b"host") == [meant.get(b":authority") or meant[b"host"]]
        assert body_length == length


@given(block=_blocks(), end_stream=st.booleans())
@example(block=pseudo(b"CONNECT", None, scheme=None, authority=b"h:1"), end_stream=False)
@example(block=pseudo(b"CONNECT", protocol=b"websocket"), end_stream=False)
def test_round_trip(block: Block, end_stream: bool) -> None:
    """What was accepted is the same request when it is sent on over HTTP/2, and again."""
    decoded = _decoded(block, end_stream=end_stream)
    if decoded is None:
        return

    sent = encode_request(decoded.header, scheme=b"https", protocol=decoded.protocol)
    again = read(sent, end_stream=end_stream)

    assert again.protocol == decoded.protocol
    assert again.content_length == decoded.content_length
    assert again.header.raw_target == decoded.header.raw_target
    # te moves to the end, and is written in lower case.
    assert sorted(_without_te(again)) == sorted(_without_te(decoded))
    assert encode_request(again.header, scheme=b"https", protocol=again.protocol) == sent


def _without_te(decoded: DecodedRequest) -> list[tuple[bytes, bytes]]:
    dropped = {b"te", b"http2-settings", b"sec-websocket-key"}
    return [field for field in decoded.header.raw_items if field[0] not in dropped]


@given(
    fields=st.lists(
        st.tuples(
            st.from_regex(rb"[A-Za-z][A-Za-z-]{0,8}", fullmatch=True),
            st.from_regex(
                rb"(?:[!-~\x80-\xff](?:[ \t!-~\x80-\xff]{0,6}[!-~\x80-\xff])?)?", fullmatch=True
            ),
        ),
        max_size=6,
    )
)
def test_everything_sent_is_accepted(fields: list[tuple[bytes, bytes]]) -> None:
    """What comes from HTTP/1 is legal when it is sent over HTTP/2, whatever fields it has."""
    reserved = {b"host", b"content-length"}
    kept = [(name, value) for name, value in fields if name.lower() not in reserved]
    header = RequestHeader("POST", "/", Version.HTTP_11, [(b"Host", b"h"), *kept])

    decoded = read(encode_request(header, scheme=b"http", protocol=None))

    assert decoded.header.raw_target == b"/"
    sent = {name for name, _ in decoded.header.raw_items}
    assert sent <= {name.lower() for name, _ in header.raw_items}
