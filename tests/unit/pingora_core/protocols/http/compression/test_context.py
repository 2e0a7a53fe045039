"""The compression of one response: head and body together."""

from __future__ import annotations

import gzip
import logging
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from pingora_core.protocols.http.compression import (
    Algorithm,
    CompressionInfo,
    ResponseCompressionCtx,
    new_decoder,
    new_encoder,
)
from pingora_error import COMPRESSION_ERROR, Error, ErrorSource
from pingora_http import RequestHeader, ResponseHeader, Version

if TYPE_CHECKING:
    from collections.abc import Iterable

_TEXT = b"a line that repeats itself\n" * 100
_BROWSER = "gzip, deflate, br, zstd"

_every_algorithm = pytest.mark.parametrize(
    "algorithm", list(Algorithm), ids=lambda each: each.value
)


def _request(accept: str | None = _BROWSER, method: str = "GET", **fields: str) -> RequestHeader:
    request = RequestHeader(method, "/", headers=fields.items())
    if accept is not None:
        request.insert_header("Accept-Encoding", accept)
    return request


def _response(fields: Iterable[tuple[str, str]] = (), status: int = 200) -> ResponseHeader:
    response = ResponseHeader(status, headers=[("Content-Type", "text/plain")])
    for name, value in fields:
        response.append_header(name, value)
    return response


def _filter(
    ctx: ResponseCompressionCtx,
    request: RequestHeader,
    response: ResponseHeader,
    pieces: Iterable[bytes] = (_TEXT,),
) -> bytes:
    ctx.request_filter(request)
    ctx.response_header_filter(response, False)
    out = [ctx.response_body_filter(piece, False) for piece in pieces]
    out.append(ctx.response_body_filter(None, True))
    return b"".join(piece for piece in out if piece is not None)


@_every_algorithm
def test_a_plain_body_is_compressed(algorithm: Algorithm) -> None:
    """The head says what the body is, and what was true of the plain one is gone."""
    response = _response(
        [
            ("Content-Length", str(len(_TEXT))),
            ("Accept-Ranges", "bytes"),
            ("ETag", '"v1"'),
            ("Content-MD5", "x"),
            ("Repr-Digest", "sha-256=:x:"),
        ]
    )

    body = _filter(ResponseCompressionCtx(5), _request(algorithm.value), response)

    assert new_decoder(algorithm).process(body, end=True) == _TEXT
    assert list(response) == [
        ("Content-Type", "text/plain"),
        ("ETag", 'W/"v1"'),
        ("Vary", "Accept-Encoding"),
        ("Content-Encoding", algorithm.value),
        ("Transfer-Encoding", "chunked"),
    ]


@_every_algorithm
def test_a_coded_body_is_decompressed(algorithm: Algorithm) -> None:
    """A client that does not take the coding gets the plain body."""
    coded = new_encoder(algorithm, 5).process(_TEXT, end=True)
    response = _response(
        [
            ("Content-Encoding", algorithm.value),
            ("Content-Length", str(len(coded))),
            ("ETag", '"v1"'),
        ]
    )

    body = _filter(ResponseCompressionCtx(decompress=True), _request("identity"), response, [coded])

    assert body == _TEXT
    assert list(response) == [
        ("Content-Type", "text/plain"),
        ("ETag", 'W/"v1"'),
        ("Vary", "Accept-Encoding"),
        ("Transfer-Encoding", "chunked"),
    ]


@_every_algorithm
@settings(max_examples=40, deadline=None)
@given(pieces=st.lists(st.binary(max_size=500), max_size=8), ends_with_data=st.booleans())
def test_any_chunking_survives_two_contexts(
    algorithm: Algorithm, pieces: list[bytes], ends_with_data: bool
) -> None:
    """What one proxy compresses the next one decompresses, however the body is cut."""
    packer = ResponseCompressionCtx(3)
    packer.request_filter(_request(algorithm.value))
    unpacker = ResponseCompressionCtx(decompress=True)
    unpacker.request_filter(_request(None))
    response = _response()
    packer.response_header_filter(response, False)
    unpacker.response_header_filter(response, False)

    out = b""
    for index, piece in enumerate(pieces):
        end = ends_with_data and index == len(pieces) - 1
        out += unpacker.response_body_filter(packer.response_body_filter(piece, end), end) or b""
    out += unpacker.response_body_filter(packer.response_body_filter(None, True), True) or b""

    assert out == b"".join(pieces)
    assert "content-encoding" not in response


@_every_algorithm
def test_small_pieces_leave_at_once(algorithm: Algorithm) -> None:
    """A progress message can be decoded before the next one is written."""
    ctx = ResponseCompressionCtx(5)
    ctx.request_filter(_request(algorithm.value))
    ctx.response_header_filter(_response(), False)
    decoder = new_decoder(algorithm)

    for message in (b"10 %\n", b"20 %\n", b"30 %\n"):
        piece = ctx.response_body_filter(message, False)
        assert piece is not None
        assert decoder.process(piece, end=False) == message


def test_an_empty_piece_gives_nothing_to_send() -> None:
    """Nothing in, None out: no empty chunk, which would end the message."""
    ctx = ResponseCompressionCtx(5)
    ctx.request_filter(_request())
    ctx.response_header_filter(_response(), False)

    assert ctx.response_body_filter(b"", False) is None
    assert ctx.response_body_filter(None, False) is None


def test_the_end_comes_out_once() -> None:
    """The end may be told twice, by the last piece and by the end of the message."""
    ctx = ResponseCompressionCtx(5)
    ctx.request_filter(_request("gzip"))
    ctx.response_header_filter(_response(), False)

    body = ctx.response_body_filter(_TEXT, True)

    assert body is not None
    assert gzip.decompress(body) == _TEXT
    assert ctx.response_body_filter(None, True) is None


@pytest.mark.parametrize(
    ("request_", "response"),
    [
        pytest.param(_request(method="HEAD"), _response(), id="HEAD"),
        pytest.param(_request(method="CONNECT"), _response(), id="CONNECT"),
        pytest.param(_request(), _response(status=204), id="204"),
        pytest.param(_request(), _response(status=205), id="205"),
        pytest.param(_request(), _response(status=206), id="206"),
        pytest.param(_request(), _response(status=304), id="304"),
        pytest.param(_request(), _response(status=101), id="101"),
        pytest.param(_request(), _response([("Cache-Control", "no-transform")]), id="no-transform"),
        pytest.param(
            _request(**{"Cache-Control": "no-transform"}), _response(), id="request no-transform"
        ),
        pytest.param(_request(), ResponseHeader(200), id="no type"),
        pytest.param(
            _request(), ResponseHeader(200, headers=[("Content-Type", "image/png")]), id="picture"
        ),
        pytest.param(
            _request(),
            ResponseHeader(200, headers=[("Content-Type", "text/event-stream")]),
            id="events",
        ),
        pytest.param(_request(), _response([("Content-Length", "19")]), id="tiny"),
        pytest.param(_request(), _response([("Content-Encoding", "dcz")]), id="other coding"),
    ],
)
def test_what_is_left_untouched(request_: RequestHeader, response: ResponseHeader) -> None:
    """Head and body pass as they are, without even a Vary."""
    before = response.copy()
    ctx = ResponseCompressionCtx(5, decompress=True)

    assert _filter(ctx, request_, response) == _TEXT
    assert response == before
    assert not ctx.is_enabled
    assert ctx.get_info() is None


def test_a_response_that_ends_with_its_head_is_untouched() -> None:
    """No body, no coding."""
    response = _response()
    before = response.copy()
    ctx = ResponseCompressionCtx(5)
    ctx.request_filter(_request())

    ctx.response_header_filter(response, True)

    assert response == before


def test_a_body_piece_passes_as_the_same_object() -> None:
    """Without a coding nothing is copied."""
    ctx = ResponseCompressionCtx(5)
    ctx.request_filter(_request("identity"))
    ctx.response_header_filter(_response(), False)

    assert ctx.response_body_filter(_TEXT, False) is _TEXT


@pytest.mark.parametrize(
    ("level", "decompress", "accept", "coding", "varies"),
    [
        (5, False, "identity", None, True),
        (5, False, None, None, True),
        (0, True, "gzip", "gzip", True),
        (0, False, "gzip", None, False),
        (0, True, "gzip", None, False),
        (5, False, "", "gzip", False),
        (5, True, "", "gzip, br", False),
    ],
)
def test_vary_tells_that_another_client_may_get_another_body(
    level: int, decompress: bool, accept: str | None, coding: str | None, varies: bool
) -> None:
    """Also a response that is not changed varies, if it would have been for somebody else."""
    response = _response([("Content-Encoding", coding)] if coding else [])
    ctx = ResponseCompressionCtx(level, decompress=decompress)
    ctx.request_filter(_request(accept))

    ctx.response_header_filter(response, False)

    assert (response.get("vary") == "Accept-Encoding") is varies


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], ["Accept-Encoding"]),
        (["Accept-Language"], ["Accept-Language", "Accept-Encoding"]),
        (["Accept-Language, accept-ENCODING"], ["Accept-Language, accept-ENCODING"]),
        (["X-Accept-Encoding"], ["X-Accept-Encoding", "Accept-Encoding"]),
        (["*"], ["*"]),
    ],
)
def test_vary_is_added_once(before: list[str], after: list[str]) -> None:
    """A Vary that says so already stays as it is."""
    response = _response([("Vary", value) for value in before])

    _filter(ResponseCompressionCtx(5), _request(), response)

    assert response.get_all("vary") == after


@pytest.mark.parametrize(
    ("before", "preserve", "after"),
    [
        ('"v1"', False, 'W/"v1"'),
        ('W/"v1"', False, 'W/"v1"'),
        ("v1", False, None),
        ('"v1"', True, '"v1"'),
        ("v1", True, "v1"),
    ],
)
def test_the_etag_is_weakened_or_cleared(before: str, preserve: bool, after: str | None) -> None:
    """A strong tag stands for bytes that are sent no more; preserving it is the operator's word."""
    response = _response([("ETag", before)])

    _filter(ResponseCompressionCtx(5, preserve_etag=preserve), _request(), response)

    assert response.get("etag") == after


@pytest.mark.parametrize(
    ("version", "chunked"),
    [(Version.HTTP_10, True), (Version.HTTP_11, True), (Version.HTTP_20, False)],
)
def test_chunked_is_only_said_where_it_exists(version: Version, chunked: bool) -> None:
    """HTTP/2 has its own framing, in which Transfer-Encoding is malformed."""
    response = _response()
    response.set_version(version)

    _filter(ResponseCompressionCtx(5), _request(), response)

    assert ("transfer-encoding" in response) is chunked


def test_informational_heads_decide_nothing() -> None:
    """A 103 before the final head neither changes nor ends anything."""
    ctx = ResponseCompressionCtx(5)
    ctx.request_filter(_request("gzip"))
    hints = ResponseHeader(103, headers=[("Content-Type", "text/plain")])
    before = hints.copy()

    ctx.response_header_filter(hints, False)

    assert hints == before
    response = _response()
    ctx.response_header_filter(response, False)
    assert response.get("content-encoding") == "gzip"


def test_a_new_final_head_begins_anew() -> None:
    """After a retry or for an error page, nothing of the former body comes out."""
    ctx = ResponseCompressionCtx(5)
    ctx.request_filter(_request("gzip"))
    ctx.response_header_filter(_response(), False)
    ctx.response_body_filter(b"lost", False)

    ctx.response_header_filter(_response(), False)
    body = ctx.response_body_filter(_TEXT, True)

    assert body is not None
    assert gzip.decompress(body) == _TEXT
    info = ctx.get_info()
    assert info is not None
    assert info.bytes_in == len(_TEXT)


def test_levels_can_be_changed_for_one_algorithm() -> None:
    """An algorithm without a level is not used."""
    ctx = ResponseCompressionCtx(5)
    ctx.adjust_level(0, Algorithm.GZIP)
    response = _response()

    _filter(ctx, _request("gzip, br;q=0.1"), response)

    assert response.get("content-encoding") == "br"


def test_decompression_can_be_changed_for_one_algorithm() -> None:
    """A coding that is not to be undone passes."""
    assert not ResponseCompressionCtx().is_enabled
    ctx = ResponseCompressionCtx()
    ctx.adjust_decompression(enabled=True)
    ctx.adjust_decompression(enabled=False, algorithm=Algorithm.GZIP)
    assert ctx.is_enabled
    response = _response([("Content-Encoding", "gzip")])

    assert _filter(ctx, _request(""), response, [b"coded"]) == b"coded"
    assert response.get("content-encoding") == "gzip"


def test_preserving_the_etag_can_be_changed_for_one_algorithm() -> None:
    """The tag survives where it shall."""
    ctx = ResponseCompressionCtx(5, preserve_etag=True)
    ctx.adjust_preserve_etag(enabled=False, algorithm=Algorithm.BROTLI)

    for accept, etag in (("gzip", '"v1"'), ("br", 'W/"v1"')):
        response = _response([("ETag", '"v1"')])
        _filter(ctx, _request(accept), response)
        assert response.get("etag") == etag


def test_settings_are_fixed_once_the_head_is_through() -> None:
    """Changing a setting too late is the programmer's error, not a silent nothing."""
    ctx = ResponseCompressionCtx(5)
    _filter(ctx, _request(), _response())

    with pytest.raises(RuntimeError, match="decided"):
        ctx.adjust_level(1)
    with pytest.raises(RuntimeError, match="decided"):
        ctx.adjust_decompression(enabled=True)
    with pytest.raises(RuntimeError, match="decided"):
        ctx.adjust_preserve_etag(enabled=True)


def test_a_negative_level_is_misuse() -> None:
    """It means nothing."""
    with pytest.raises(ValueError, match="not negative"):
        ResponseCompressionCtx(-1)


def test_settings_may_come_after_the_request() -> None:
    """The request is noted even while everything is off, so that a filter can switch it on."""
    ctx = ResponseCompressionCtx()
    ctx.request_filter(_request("gzip"))
    ctx.adjust_level(5)
    response = _response()

    ctx.response_header_filter(response, False)

    assert response.get("content-encoding") == "gzip"


def test_the_preference_breaks_ties() -> None:
    """Browsers list gzip first; the operator may know better."""
    response = _response()

    _filter(ResponseCompressionCtx(3, preference=[Algorithm.ZSTD]), _request(), response)

    assert response.get("content-encoding") == "zstd"


def test_get_info_counts_bytes_and_time() -> None:
    """The numbers are those of the body so far."""
    times = iter([10.0, 10.5, 20.0, 20.25])
    ctx = ResponseCompressionCtx(5, clock=lambda: next(times))
    assert ctx.get_info() is None

    body = _filter(ctx, _request("gzip"), _response())

    assert ctx.get_info() == CompressionInfo("gzip", len(_TEXT), len(body), 0.75)
    assert ctx.is_enabled


def test_the_decision_is_logged_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    """Somebody who asks why finds it in the log."""
    with caplog.at_level(logging.DEBUG, "pingora_core.protocols.http.compression.context"):
        _filter(ResponseCompressionCtx(5), _request("gzip"), _response())

    assert "Compress(algorithm=<Algorithm.GZIP" in caplog.text


@_every_algorithm
def test_a_coded_body_that_is_broken_fails_the_response(algorithm: Algorithm) -> None:
    """The head has promised a plain body: broken input is an error that upstream is blamed for."""
    ctx = ResponseCompressionCtx(decompress=True)
    ctx.request_filter(_request(""))
    ctx.response_header_filter(_response([("Content-Encoding", algorithm.value)]), False)

    with pytest.raises(Error) as caught:
        ctx.response_body_filter(b"nonsense" * 8, False)

    assert caught.value.etype == COMPRESSION_ERROR
    assert caught.value.esource is ErrorSource.UPSTREAM


def test_a_truncated_body_fails_the_response() -> None:
    """An origin that ends early does not become a short body that looks complete."""
    coded = gzip.compress(_TEXT)
    ctx = ResponseCompressionCtx(decompress=True)
    ctx.request_filter(_request(""))
    ctx.response_header_filter(_response([("Content-Encoding", "gzip")]), False)
    ctx.response_body_filter(coded[:-4], False)

    with pytest.raises(Error, match="ends before"):
        ctx.response_body_filter(None, True)


def test_a_bomb_fails_the_response() -> None:
    """The limit for one piece is the operator's."""
    ctx = ResponseCompressionCtx(decompress=True, max_decoded=100_000)
    ctx.request_filter(_request(""))
    ctx.response_header_filter(_response([("Content-Encoding", "gzip")]), False)

    with pytest.raises(Error, match="expands beyond 100000 bytes"):
        ctx.response_body_filter(gzip.compress(bytes(1_000_000)), True)


def test_an_encoder_that_cannot_be_made_leaves_the_body_plain(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing was promised yet, so the response goes out as it is, with one warning."""

    def refuse(*_args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(
        "pingora_core.protocols.http.compression._encoders.zlib.compressobj", refuse
    )
    ctx = ResponseCompressionCtx(5)
    response = _response([("Content-Length", "2700")])

    assert _filter(ctx, _request("gzip"), response, [_TEXT, _TEXT]) == _TEXT * 2
    assert response.get("content-length") == "2700"
    assert "content-encoding" not in response
    assert not ctx.is_enabled
    assert len(caplog.records) == 1
    assert "without compression" in caplog.text


def test_an_encoder_that_fails_later_fails_the_response(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head has promised gzip; plain bytes now would be a lie."""

    class Broken:
        def compress(self, _data: bytes) -> bytes:
            raise MemoryError

    monkeypatch.setattr(
        "pingora_core.protocols.http.compression._encoders.zlib.compressobj",
        lambda *_args: Broken(),
    )
    ctx = ResponseCompressionCtx(5)
    ctx.request_filter(_request("gzip"))
    ctx.response_header_filter(_response(), False)

    with pytest.raises(Error) as caught:
        ctx.response_body_filter(_TEXT, False)

    assert caught.value.etype == COMPRESSION_ERROR
    assert caught.value.esource is ErrorSource.INTERNAL
