"""The gRPC-web bridge; the tests whose names begin with ``test_known_`` are Pingora's."""

from __future__ import annotations

from base64 import b64decode, b64encode
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_core.protocols.http.bridge import (
    INVALID_GRPC_WEB,
    Base64StreamDecoder,
    GrpcWebCtx,
    GrpcWebState,
)
from pingora_error import Error, ErrorSource
from pingora_http import HeaderMap, RequestHeader, ResponseHeader, Version

if TYPE_CHECKING:
    from collections.abc import Sequence


def request_with(content_type: str, **fields: str) -> RequestHeader:
    request = RequestHeader("POST", "/package.Service/Method")
    request.set_version(Version.HTTP_20)
    request.insert_header("Content-Type", content_type)
    for name, value in fields.items():
        request.insert_header(name.replace("_", "-"), value)
    return request


def response_with(content_type: str, *fields: tuple[str, str], status: int = 200) -> ResponseHeader:
    return ResponseHeader(status, headers=[("Content-Type", content_type), *fields])


def bridged(content_type: str = "application/grpc-web", **fields: str) -> GrpcWebCtx:
    """Return a bridge that has seen the request."""
    ctx = GrpcWebCtx()
    ctx.init()
    ctx.request_header_filter(request_with(content_type, **fields))
    assert ctx.state is GrpcWebState.UPGRADE
    return ctx


def pieces_of(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(edges)]


# ------------------------------------------------------------------ Pingora's own


def test_known_non_grpc_web_request_ignored() -> None:
    """A content type that only looks alike is left alone."""
    request = request_with("application/grpc-we")
    ctx = GrpcWebCtx()
    ctx.init()

    ctx.request_header_filter(request)

    assert ctx.state is GrpcWebState.INIT
    assert request.get("te") is None
    assert request.get("content-type") == "application/grpc-we"
    assert request.send_end_stream is True


def test_known_request_module_disabled_ignored() -> None:
    """A bridge that nobody has switched on does nothing."""
    request = request_with("application/grpc-web")
    ctx = GrpcWebCtx()

    ctx.request_header_filter(request)

    assert ctx.state is GrpcWebState.DISABLED
    assert request.get("te") is None
    assert request.get("content-type") == "application/grpc-web"
    assert request.send_end_stream is True


def test_known_request_upgrade() -> None:
    """A gRPC-web request becomes one of gRPC, with ``te`` and without END_STREAM on the head."""
    request = request_with("application/gRPC-web+thrift")
    ctx = GrpcWebCtx()
    ctx.init()

    ctx.request_header_filter(request)

    assert ctx.state is GrpcWebState.UPGRADE
    assert request.get("te") == "trailers"
    assert request.get("content-type") == "application/grpc+thrift"
    assert request.send_end_stream is False


def test_known_non_grpc_response_ignored() -> None:
    """A response that is not gRPC, such as a page of another proxy, passes as it is."""
    ctx = bridged()
    response = response_with("text/html", ("Content-Length", "10"))

    ctx.response_header_filter(response)

    assert ctx.state is GrpcWebState.DISABLED
    assert response.get("content-type") == "text/html"
    assert response.get("content-length") == "10"
    assert ctx.response_body_filter(b"page") == b"page"
    assert ctx.response_done_filter() is None


def test_known_response_module_disabled_ignored() -> None:
    """Without a gRPC-web request a gRPC response passes as it is."""
    ctx = GrpcWebCtx()
    response = response_with("application/grpc")

    ctx.response_header_filter(response)

    assert ctx.state is GrpcWebState.DISABLED
    assert response.get("content-type") == "application/grpc"


def test_known_response_upgrade() -> None:
    """A gRPC response becomes one of gRPC-web, without a length.

    The session decides how to delimit it: chunked for HTTP/1.1, frames for HTTP/2, where
    Transfer-Encoding (which Pingora sets here) would make it malformed.
    """
    ctx = bridged()
    response = response_with("application/grpc+proto", ("Content-Length", "0"))

    ctx.response_header_filter(response)

    assert ctx.state is GrpcWebState.TRAILERS
    assert response.get("content-type") == "application/grpc-web+proto"
    assert response.get("content-length") is None
    assert response.get("transfer-encoding") is None


def test_known_response_informational_proxied() -> None:
    """A 1xx head passes, and the final one is waited for."""
    ctx = bridged()

    ctx.response_header_filter(ResponseHeader(100))

    assert ctx.state is GrpcWebState.UPGRADE


def test_known_response_trailer_headers_convert_to_byte_buf() -> None:
    """Trailers become a frame: 0x80, four bytes of length, a line for each."""
    ctx = bridged()
    ctx.response_header_filter(response_with("application/grpc"))
    trailers = HeaderMap([("grpc-status", "0"), ("grpc-message", "OK")])

    frame = ctx.response_trailer_filter(trailers)

    assert ctx.state is GrpcWebState.DONE
    assert frame == b"\x80\x00\x00\x00\x20grpc-status:0\r\ngrpc-message:OK\r\n"
    assert len(trailers) == 0


# -------------------------------------------------------------------- the request


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/grpc-web", "application/grpc"),
        ("application/grpc-web-text", "application/grpc"),
        ("application/grpc-web-text+proto", "application/grpc+proto"),
        ("application/grpc-web-text-base64", "application/grpc"),
        ("application/grpc-web+proto;charset=UTF-8", "application/grpc+proto;charset=UTF-8"),
    ],
)
def test_content_types(content_type: str, expected: str) -> None:
    """Both variants become plain gRPC; suffix and parameters stay."""
    request = request_with(content_type)
    ctx = GrpcWebCtx()
    ctx.init()

    ctx.request_header_filter(request)

    assert request.get("content-type") == expected


@pytest.mark.parametrize("content_type", ["application/grpc-webbed", "application/grpc-web-json"])
def test_longer_words_are_other_types(content_type: str) -> None:
    """A type that merely begins like gRPC-web is not gRPC-web."""
    ctx = GrpcWebCtx()
    ctx.init()

    ctx.request_header_filter(request_with(content_type))

    assert ctx.state is GrpcWebState.INIT


def test_only_text_loses_its_length() -> None:
    """A binary body passes byte by byte; base64 gets shorter."""
    ctx = GrpcWebCtx()
    ctx.init()
    binary = request_with("application/grpc-web", Content_Length="5")
    ctx.request_header_filter(binary)
    ctx.init()
    text = request_with("application/grpc-web-text", Content_Length="8")
    ctx.request_header_filter(text)

    assert binary.get("content-length") == "5"
    assert text.get("content-length") is None


def test_binary_bodies_are_untouched() -> None:
    """The frames of gRPC-web are those of gRPC."""
    ctx = bridged()
    ctx.response_header_filter(response_with("application/grpc"))
    piece = b"\x00\x00\x00\x00\x01a"

    assert ctx.request_body_filter(piece, end=True) is piece
    assert ctx.response_body_filter(piece) is piece
    assert ctx.response_body_filter(None) is None


@given(st.lists(st.binary(max_size=40), max_size=5), st.lists(st.integers(0, 400), max_size=10))
def test_text_is_decoded_however_it_is_cut(messages: list[bytes], cuts: list[int]) -> None:
    """Several padded runs, cut anywhere, give the bytes of all of them."""
    text = b"".join(map(b64encode, messages))
    ctx = bridged("application/grpc-web-text")

    pieces = [ctx.request_body_filter(piece, end=False) or b"" for piece in pieces_of(text, cuts)]
    pieces.append(ctx.request_body_filter(None, end=True) or b"")

    assert b"".join(pieces) == b"".join(messages)


@given(st.text("AQg/+=", max_size=24).map(str.encode), st.lists(st.integers(0, 24), max_size=6))
def test_what_is_no_base64_is_refused_however_it_is_cut(text: bytes, cuts: list[int]) -> None:
    """The cuts decide neither whether a body is refused nor what it means."""

    def outcome(pieces: list[bytes]) -> bytes | None:
        decoder = Base64StreamDecoder()
        try:
            decoded = b"".join(map(decoder.feed, pieces))
            decoder.feed_eof()
        except Error:
            return None
        return decoded

    groups = [text[start : start + 4] for start in range(0, len(text), 4)]
    try:
        expected = b"".join(b64decode(group, validate=True) for group in groups)
    except ValueError:
        expected = None
    if any(b"=" in group.rstrip(b"=") or group.count(b"=") > 2 for group in groups):
        expected = None

    assert outcome([text]) == expected
    assert outcome(pieces_of(text, cuts)) == expected


@pytest.mark.parametrize(
    "text",
    [b"QQ= =", b"QQ==\n", b"Q===", b"=QQQ", b"QQ=Q", b"QUJD-_==", b"QUJ", b"QQ==Q", b"A=A=QQ=="],
)
def test_malformed_text(text: bytes) -> None:
    """White space, the URL alphabet, misplaced padding and a cut-off end are the client's fault."""
    ctx = bridged("application/grpc-web-text")

    with pytest.raises(Error) as caught:
        ctx.request_body_filter(text, end=True)

    assert caught.value.etype == INVALID_GRPC_WEB
    assert caught.value.esource is ErrorSource.DOWNSTREAM


def test_another_attempt_begins_anew() -> None:
    """What is left of an attempt that failed does not get into the next."""
    ctx = bridged("application/grpc-web-text")
    ctx.request_body_filter(b"QUJ", end=False)

    ctx.request_body_start()

    assert ctx.request_body_filter(b"QUJD", end=True) == b"ABC"


# ------------------------------------------------------------------- the response


@pytest.mark.parametrize(
    ("content_type", "accept", "expected"),
    [
        ("application/grpc-web", "", "application/grpc-web+proto"),
        ("application/grpc-web-text", "", "application/grpc-web-text+proto"),
        ("application/grpc-web-text", "*/*", "application/grpc-web-text+proto"),
        ("application/grpc-web", "application/grpc-web-text", "application/grpc-web-text+proto"),
        (
            "application/grpc-web-text",
            "text/html, application/grpc-web+proto;q=1",
            "application/grpc-web+proto",
        ),
    ],
)
def test_accept_chooses_the_variant(content_type: str, accept: str, expected: str) -> None:
    """Accept says which variant the client wants; without a word it is that of the request."""
    ctx = bridged(content_type, Accept=accept)
    response = response_with("application/grpc+proto")

    ctx.response_header_filter(response)

    assert response.get("content-type") == expected


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_text_responses_are_flushed_piece_by_piece(pieces: list[bytes]) -> None:
    """Each piece is base64 of its own, so none waits for the next; all together decode."""
    ctx = bridged("application/grpc-web-text")
    ctx.response_header_filter(response_with("application/grpc"))

    sent = [ctx.response_body_filter(piece) or b"" for piece in pieces]
    sent.append(ctx.response_trailer_filter(HeaderMap([("grpc-status", "0")])) or b"")

    assert [b64decode(piece, validate=True) for piece in sent[:-1]] == pieces
    decoder = Base64StreamDecoder()
    decoded = decoder.feed(b"".join(sent))
    decoder.feed_eof()
    assert decoded == b"".join(pieces) + b"\x80\x00\x00\x00\x0fgrpc-status:0\r\n"


def test_trailer_names_are_lower_case() -> None:
    """gRPC-web asks for lower-case names; values keep their case."""
    ctx = bridged()
    ctx.response_header_filter(response_with("application/grpc"))

    frame = ctx.response_trailer_filter(HeaderMap([("Grpc-Status", "5"), ("X-A-Bin", "AAE=")]))

    assert frame == b"\x80\x00\x00\x00\x1dgrpc-status:5\r\nx-a-bin:AAE=\r\n"


def test_trailers_only_stay_in_the_head() -> None:
    """A status in the head is where gRPC-web wants it too; nothing is added to the body."""
    ctx = bridged()
    response = response_with("application/grpc", ("grpc-status", "12"), ("Trailer", "x"))

    ctx.response_header_filter(response)

    assert list(response) == [("Content-Type", "application/grpc-web"), ("grpc-status", "12")]
    assert ctx.response_done_filter() is None
    assert ctx.state is GrpcWebState.DONE


@pytest.mark.parametrize(("status", "outcome"), [(200, 2), (503, 14)])
def test_a_missing_status_is_made_up(status: int, outcome: int) -> None:
    """A stream that ends without trailers must not look like a success."""
    ctx = bridged()
    ctx.response_header_filter(response_with("application/grpc", status=status))

    frame = ctx.response_done_filter()

    line = b"grpc-status:%d\r\n" % outcome
    assert frame == b"\x80" + len(line).to_bytes(4) + line
    assert ctx.response_done_filter() is None


def test_trailers_without_a_status_get_one() -> None:
    """Trailers of an upstream that forgot the status are completed."""
    ctx = bridged()
    ctx.response_header_filter(response_with("application/grpc"))

    frame = ctx.response_trailer_filter(HeaderMap([("x", "1")])) or b""

    assert frame[5:] == b"x:1\r\ngrpc-status:2\r\n"


def test_a_later_head_replaces_the_first() -> None:
    """When the first head was never sent, the head of the error is converted like it."""
    ctx = bridged()
    ctx.response_header_filter(response_with("application/grpc"))
    failure = response_with("application/grpc", ("grpc-status", "14"))

    ctx.response_header_filter(failure)

    assert failure.get("content-type") == "application/grpc-web"
    assert ctx.response_done_filter() is None


def test_trailers_out_of_place_pass() -> None:
    """Trailers of a response that is not bridged are left to the protocol."""
    ctx = bridged()
    trailers = HeaderMap([("x", "1")])

    assert ctx.response_trailer_filter(trailers) is None
    assert ctx.state is GrpcWebState.DISABLED
    assert trailers.get("x") == "1"
