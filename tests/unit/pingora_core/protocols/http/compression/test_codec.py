"""Encoders and decoders, against the libraries themselves and each other."""

from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
import zlib
from typing import TYPE_CHECKING

import brotli  # type: ignore[import-untyped]
import pytest
import zstandard
from hypothesis import given, settings, strategies as st

from pingora_core.protocols.http.compression import (
    MAX_DECODED_CHUNK,
    Algorithm,
    new_decoder,
    new_encoder,
)
from pingora_error import COMPRESSION_ERROR, Error

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.protocols.http.compression import Coder

_TEXT = b"".join(b"line %d of a text that repeats itself\n" % number for number in range(4000))

_every_algorithm = pytest.mark.parametrize(
    "algorithm", list(Algorithm), ids=lambda each: each.value
)


def _encode(algorithm: Algorithm, data: bytes) -> bytes:
    """Encode with the library, without our code."""
    encoders: dict[Algorithm, Callable[[bytes], bytes]] = {
        Algorithm.GZIP: gzip.compress,
        Algorithm.BROTLI: brotli.compress,
        Algorithm.ZSTD: zstandard.compress,
    }
    return encoders[algorithm](data)


def _decode(algorithm: Algorithm, data: bytes) -> bytes:
    """Decode with the library, without our code."""
    match algorithm:
        case Algorithm.GZIP:
            return gzip.decompress(data)
        case Algorithm.BROTLI:
            plain: bytes = brotli.decompress(data)
            return plain
        case Algorithm.ZSTD:
            return zstandard.ZstdDecompressor().decompressobj().decompress(data)


def _run(coder: Coder, pieces: list[bytes]) -> bytes:
    out = [coder.process(piece, end=False) for piece in pieces]
    out.append(coder.process(b"", end=True))
    return b"".join(out)


def _split(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@_every_algorithm
@pytest.mark.parametrize("level", [1, 5, 9, 11, 22, 1000])
def test_what_is_encoded_the_library_decodes(algorithm: Algorithm, level: int) -> None:
    """Every level gives a stream that the library reads; a level too high counts as the best."""
    coded = _run(new_encoder(algorithm, level), _split(_TEXT[:20000], 4096))

    assert _decode(algorithm, coded) == _TEXT[:20000]
    assert len(coded) < 4000


@_every_algorithm
def test_what_the_library_encodes_is_decoded(algorithm: Algorithm) -> None:
    """Streams of the library's own decode, whole or byte by byte."""
    coded = _encode(algorithm, _TEXT)

    assert new_decoder(algorithm).process(coded, end=True) == _TEXT
    assert _run(new_decoder(algorithm), _split(coded, 1)) == _TEXT


@_every_algorithm
@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(st.binary(max_size=3000), max_size=8), cut=st.integers(1, 700))
def test_any_chunking_survives_the_round_trip(
    algorithm: Algorithm, pieces: list[bytes], cut: int
) -> None:
    """However a body is cut on both ways, it comes back."""
    coded = _run(new_encoder(algorithm, 3), pieces)

    assert _run(new_decoder(algorithm), _split(coded, cut)) == b"".join(pieces)


@_every_algorithm
def test_each_piece_can_be_decoded_at_once(algorithm: Algorithm) -> None:
    """A small event leaves the encoder when it enters, and the decoder too."""
    encoder = new_encoder(algorithm, 5)
    decoder = new_decoder(algorithm)

    for number in range(50):
        event = b"data: event number %d\n\n" % number
        assert decoder.process(encoder.process(event, end=False), end=False) == event

    assert decoder.process(encoder.process(b"", end=True), end=True) == b""


@_every_algorithm
def test_an_empty_piece_costs_nothing(algorithm: Algorithm) -> None:
    """Feeding nothing gives nothing, so that an empty chunk does not grow the body."""
    encoder = new_encoder(algorithm, 5)
    encoder.process(b"abc", end=False)

    assert encoder.process(b"", end=False) == b""


@_every_algorithm
def test_an_empty_body_is_encoded_and_decoded(algorithm: Algorithm) -> None:
    """The coding of nothing is not nothing, and decodes to nothing."""
    coded = new_encoder(algorithm, 5).process(b"", end=True)

    assert coded
    assert _decode(algorithm, coded) == b""
    assert new_decoder(algorithm).process(coded, end=True) == b""


@_every_algorithm
def test_a_body_without_a_byte_decodes_to_nothing(algorithm: Algorithm) -> None:
    """Origins label empty bodies; browsers take them, and so do we."""
    assert new_decoder(algorithm).process(b"", end=True) == b""


@_every_algorithm
@pytest.mark.parametrize("kept", [1, 5, 200, -1])
def test_a_truncated_body_is_an_error(algorithm: Algorithm, kept: int) -> None:
    """A body that ends before its coded data does never looks complete."""
    decoder = new_decoder(algorithm)
    coded = _encode(algorithm, os.urandom(1000))
    decoder.process(coded[:kept], end=False)

    with pytest.raises(Error, match="ends before") as caught:
        decoder.process(b"", end=True)

    assert caught.value.etype == COMPRESSION_ERROR


@_every_algorithm
@pytest.mark.parametrize("garbage", [b"this is not coded at all" * 4, b"\xff" * 64])
def test_garbage_is_an_error(algorithm: Algorithm, garbage: bytes) -> None:
    """What is not in the coding is refused, with the library's word as the cause."""
    with pytest.raises(Error, match="cannot decode") as caught:
        new_decoder(algorithm).process(garbage, end=True)

    assert caught.value.etype == COMPRESSION_ERROR
    assert caught.value.cause is not None


@_every_algorithm
@pytest.mark.parametrize("together", [True, False])
def test_bytes_after_the_end_are_an_error(algorithm: Algorithm, together: bool) -> None:
    """What follows the end of the coded data is refused, in the same piece or the next."""
    decoder = new_decoder(algorithm)
    coded = _encode(algorithm, b"complete")
    pieces = [coded + b"tail!"] if together else [coded, b"tail!"]

    with pytest.raises(Error) as caught:
        _run(decoder, pieces)

    assert caught.value.etype == COMPRESSION_ERROR


@_every_algorithm
@settings(max_examples=80, deadline=None)
@given(
    position=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.sampled_from([1, 17, 4096])
)
def test_a_damaged_body_never_escapes_as_another_exception(
    algorithm: Algorithm, position: int, value: int, cut: int
) -> None:
    """Whatever one wrong byte does, it is a result or a typed error."""
    coded = bytearray(_encode(algorithm, _TEXT[:3000]))
    coded[position % len(coded)] = value

    outcome: object = COMPRESSION_ERROR
    try:
        _run(new_decoder(algorithm), _split(bytes(coded), cut))
    except Error as error:
        outcome = error.etype

    assert outcome == COMPRESSION_ERROR


@pytest.mark.parametrize("cut", [1, 7, 100_000])
def test_gzip_members_are_joined(cut: int) -> None:
    """A gzip body may be several members (RFC 1952 section 2.2)."""
    coded = gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(b"two")

    assert _run(new_decoder(Algorithm.GZIP), _split(coded, cut)) == b"one two"


def test_gzip_members_share_one_limit() -> None:
    """A second member in the same piece does not get a limit of its own."""
    coded = gzip.compress(bytes(1000)) + gzip.compress(b"one more")

    with pytest.raises(Error, match="expands beyond 1000 bytes"):
        new_decoder(Algorithm.GZIP, max_output=1000).process(coded, end=True)


@pytest.mark.parametrize("cut", [1, 7, 100_000])
def test_zstd_frames_are_joined_and_skippable_ones_skipped(cut: int) -> None:
    """A Zstandard body may be several frames, some without content (RFC 8878 section 3.1)."""
    skippable = struct.pack("<II", 0x184D2A50, 3) + b"abc"
    coded = skippable + zstandard.compress(b"one ") + skippable + zstandard.compress(b"two")

    assert _run(new_decoder(Algorithm.ZSTD), _split(coded, cut)) == b"one two"


@pytest.mark.parametrize("algorithm", [Algorithm.GZIP, Algorithm.ZSTD], ids=["gzip", "zstd"])
def test_a_flood_of_tiny_streams_is_an_error(algorithm: Algorithm) -> None:
    """Thousands of empty members in one piece waste time, not memory, and are refused."""
    with pytest.raises(Error, match="more than 1024"):
        new_decoder(algorithm).process(_encode(algorithm, b"") * 1025, end=True)


@_every_algorithm
def test_a_bomb_is_found_before_the_memory_is_spent(algorithm: Algorithm) -> None:
    """A piece that would expand beyond the limit is an error; memory stays near the limit."""
    bomb = _encode(algorithm, bytes(16 * 1024 * 1024))
    limit = 1024 * 1024
    decoder = new_decoder(algorithm, max_output=limit)

    tracemalloc.start()
    try:
        with pytest.raises(Error, match=f"expands beyond {limit} bytes") as caught:
            decoder.process(bomb, end=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert caught.value.etype == COMPRESSION_ERROR
    assert peak < 4 * limit


@_every_algorithm
def test_the_limit_is_for_each_piece(algorithm: Algorithm) -> None:
    """A long body passes a small limit when its pieces are small."""
    size = 512 * 1024
    coded = _encode(algorithm, os.urandom(size))

    plain = _run(new_decoder(algorithm, max_output=64 * 1024), _split(coded, 16 * 1024))

    assert len(plain) == size


@_every_algorithm
def test_the_default_limit_allows_what_text_compresses_to(algorithm: Algorithm) -> None:
    """Well-compressible text in one large piece stays within the default limit."""
    text = _TEXT * 64
    assert 9_000_000 < len(text) < MAX_DECODED_CHUNK

    assert new_decoder(algorithm).process(_encode(algorithm, text), end=True) == text


def test_a_zstd_window_beyond_the_content_coding_is_refused() -> None:
    """A frame that asks for more than 8 MiB of window is refused (RFC 9659)."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=24)
    large = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    coded = large.compress(b"abc") + large.flush()

    with pytest.raises(Error, match="cannot decode zstd"):
        new_decoder(Algorithm.ZSTD).process(coded, end=True)


@pytest.mark.parametrize("level", [1, 12, 19])
def test_a_zstd_encoder_stays_within_its_window(level: int) -> None:
    """Every level writes frames that any client of the coding can read."""
    coded = new_encoder(Algorithm.ZSTD, level).process(_TEXT, end=False)

    assert zstandard.get_frame_parameters(coded).window_size == 512 * 1024


def test_the_gzip_container_is_written() -> None:
    """The coding is gzip, not bare deflate, and holds no time: equal bodies, equal bytes."""
    coded = [new_encoder(Algorithm.GZIP, 6).process(b"same", end=True) for _ in range(2)]

    assert coded[0] == coded[1]
    assert coded[0][:4] == b"\x1f\x8b\x08\x00"
    assert zlib.decompress(coded[0], 31) == b"same"


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        ("gzip", Algorithm.GZIP),
        ("GzIp", Algorithm.GZIP),
        (" x-gzip ", Algorithm.GZIP),
        ("br", Algorithm.BROTLI),
        ("zstd", Algorithm.ZSTD),
        ("deflate", None),
        ("gzip, br", None),
        ("", None),
    ],
)
def test_codings_are_found_by_name(name: str, algorithm: Algorithm | None) -> None:
    """Names of codings have no case, and gzip has two."""
    assert Algorithm.from_coding(name) is algorithm


def test_levels_and_limits_below_one_are_misuse() -> None:
    """A level or limit that means nothing is the programmer's error."""
    with pytest.raises(ValueError, match="starts at 1"):
        new_encoder(Algorithm.GZIP, 0)
    with pytest.raises(ValueError, match="at least 1"):
        new_decoder(Algorithm.GZIP, max_output=0)


@_every_algorithm
def test_a_library_that_refuses_is_a_typed_error(
    algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory while making an encoder or a decoder is a compression error."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise MemoryError

    where = "pingora_core.protocols.http.compression."
    for target in (
        "_encoders.zlib.compressobj",
        "_brotli._new_compressor",
        "_brotli._new_decompressor",
        "_encoders.zstandard.ZstdCompressor",
        "_decoders.zstandard.ZstdDecompressor",
        "_decoders.zlib.decompressobj",
    ):
        monkeypatch.setattr(where + target, refuse)

    with pytest.raises(Error, match="cannot encode") as encoding:
        new_encoder(algorithm, 1)
    with pytest.raises(Error, match="cannot decode") as decoding:
        new_decoder(algorithm).process(b"\x1f\x8b", end=False)

    assert encoding.value.etype == decoding.value.etype == COMPRESSION_ERROR


@_every_algorithm
def test_an_encoder_used_after_its_end_is_a_typed_error(algorithm: Algorithm) -> None:
    """The library's complaint does not escape as such."""
    encoder = new_encoder(algorithm, 1)
    encoder.process(b"abc", end=True)

    with pytest.raises(Error, match="cannot encode") as caught:
        encoder.process(b"more", end=False)

    assert caught.value.etype == COMPRESSION_ERROR
