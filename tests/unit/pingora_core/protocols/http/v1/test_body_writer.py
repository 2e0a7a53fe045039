"""Bodies are encoded so that they end where the head said, or visibly do not."""

from __future__ import annotations

import pytest

from pingora_core.protocols.http.v1 import CHUNKED, UNTIL_CLOSE, BodyReader, BodyWriter
from pingora_core.protocols.http.v1.body_reader import FORBIDDEN_TRAILERS
from pingora_error import PREMATURE_BODY_END, Error
from pingora_http import HeaderMap


def test_content_length() -> None:
    """A body of known length is written as it is, without a copy."""
    writer = BodyWriter(6)
    piece = b"abc"

    assert writer.encode(piece) is piece
    assert writer.encode(b"def") == b"def"
    assert writer.finish() == b""

    assert writer.bytes_written == 6
    assert writer.is_done
    assert not writer.has_overflowed


def test_content_length_overflow() -> None:
    """What goes beyond the announced length would be read as the next message: it is dropped."""
    writer = BodyWriter(4)

    assert writer.encode(b"abc") == b"abc"
    assert writer.encode(b"def") == b"d"
    assert writer.encode(b"ghi") == b""

    assert writer.has_overflowed
    assert writer.bytes_written == 4
    assert writer.finish() == b""


def test_content_length_underrun() -> None:
    """Ending before the announced length is an error, and the body stays unfinished."""
    writer = BodyWriter(4)
    writer.encode(b"abc")

    with pytest.raises(Error) as caught:
        writer.finish()

    assert caught.value.etype == PREMATURE_BODY_END
    assert not writer.is_done
    assert writer.encode(b"d") == b"d"
    assert writer.finish() == b""


def test_chunked() -> None:
    """Each piece is a chunk; the end is a chunk of size 0 and an empty line."""
    writer = BodyWriter(CHUNKED)

    assert writer.encode(b"hello") == b"5\r\nhello\r\n"
    assert writer.encode(b"x" * 255) == b"ff\r\n%b\r\n" % (b"x" * 255)
    assert writer.finish() == b"0\r\n\r\n"

    assert writer.bytes_written == 260


def test_an_empty_piece_is_no_chunk() -> None:
    """A chunk of size 0 in the middle would end the body."""
    assert BodyWriter(CHUNKED).encode(b"") == b""


def test_trailers() -> None:
    """Trailers are written behind the last chunk, with their case."""
    writer = BodyWriter(CHUNKED)

    assert writer.finish(HeaderMap([("Digest", "x"), ("A", "b")])) == (
        b"0\r\nDigest: x\r\nA: b\r\n\r\n"
    )


def test_empty_trailers() -> None:
    """An empty trailer section is none."""
    assert BodyWriter(CHUNKED).finish(HeaderMap()) == b"0\r\n\r\n"


@pytest.mark.parametrize("name", sorted(FORBIDDEN_TRAILERS))
def test_forbidden_trailers_are_not_sent(name: bytes) -> None:
    """RFC 9110 section 6.5.1: what must not be a trailer is dropped; the caller's map stays."""
    trailers = HeaderMap([("A", "b"), (name, "c")])

    assert BodyWriter(CHUNKED).finish(trailers) == b"0\r\nA: b\r\n\r\n"
    assert len(trailers) == 2


@pytest.mark.parametrize("length", [UNTIL_CLOSE, 0])
def test_trailers_need_chunks(length: int) -> None:
    """Other bodies have no place for trailers."""
    assert BodyWriter(length).finish(HeaderMap([("A", "b")])) == b""


def test_until_close() -> None:
    """A body that ends with the connection is written as it is."""
    writer = BodyWriter(UNTIL_CLOSE)
    piece = b"abc"

    assert writer.encode(piece) is piece
    assert writer.finish() == b""
    assert writer.bytes_written == 3


@pytest.mark.parametrize("length", [0, CHUNKED, UNTIL_CLOSE])
def test_ending_twice_does_nothing(length: int) -> None:
    """A second end writes no second last chunk."""
    writer = BodyWriter(length)
    writer.finish()

    assert writer.finish() == b""
    with pytest.raises(RuntimeError, match="finished"):
        writer.encode(b"x")


def test_what_is_written_is_read() -> None:
    """The reader takes back what the writer made, trailers too."""
    writer = BodyWriter(CHUNKED)
    pieces = [b"a", b"\r\n0\r\n\r\n", b"x" * 70_000]
    wire = b"".join([writer.encode(piece) for piece in pieces])
    wire += writer.finish(HeaderMap([("A", "b")]))
    reader = BodyReader(CHUNKED)

    assert reader.feed(wire) == b"".join(pieces)
    assert reader.is_done
    assert reader.trailers == HeaderMap([("A", "b")])
