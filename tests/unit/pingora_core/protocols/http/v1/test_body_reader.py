"""Bodies are decoded the same however their bytes arrive, and to the byte where they end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.http.v1 import CHUNKED, UNTIL_CLOSE, BodyReader
from pingora_core.protocols.http.v1.body_reader import FORBIDDEN_TRAILERS
from pingora_error import INVALID_CHUNK, INVALID_TRAILER_END, Error, ErrorType
from tests.unit.pingora_core.protocols.http.v1.splits import splits

if TYPE_CHECKING:
    from pingora_error import Custom


def _read(reader: BodyReader, pieces: list[bytes]) -> bytes:
    return b"".join([reader.feed(piece) for piece in pieces])


def _decoded(data: bytes, body: bytes, *, excess: bytes = b"", length: int = CHUNKED) -> None:
    """Check that data is the body, and nothing but excess behind it, at every split."""
    for pieces in splits(data):
        reader = BodyReader(length)

        assert _read(reader, pieces) == body, pieces
        assert reader.is_done, pieces
        assert reader.excess == excess, pieces
        assert reader.bytes_read == len(body)
        reader.feed_eof()


def _refused(data: bytes, kind: Custom = INVALID_CHUNK) -> None:
    """Check that data is refused at every split, once it is all there."""
    for pieces in splits(data):
        reader = BodyReader(CHUNKED)
        with pytest.raises(Error) as caught:
            _read(reader, pieces)
        assert caught.value.etype == kind, pieces


def _unfinished(data: bytes, body: bytes = b"", *, length: int = CHUNKED) -> None:
    """Check that data is no whole body, and that the end of the connection says so."""
    for pieces in splits(data):
        reader = BodyReader(length)

        assert _read(reader, pieces) == body, pieces
        assert not reader.is_done
        with pytest.raises(Error) as caught:
            reader.feed_eof()
        assert caught.value.etype is ErrorType.CONNECTION_CLOSED


def _trailers(section: bytes) -> list[tuple[str, str]] | None:
    """Decode a body with a trailer section at every split; return the trailers."""
    found: list[list[tuple[str, str]] | None] = []
    for pieces in splits(b"2\r\nab\r\n0\r\n" + section):
        reader = BodyReader(CHUNKED)
        assert _read(reader, pieces) == b"ab"
        assert reader.is_done
        found.append(None if reader.trailers is None else list(reader.trailers))
    assert all(trailers == found[0] for trailers in found)
    return found[0]


# ----------------------------------------------------------------- by length


def test_no_body() -> None:
    """Length 0 is done at once; all that comes is excess."""
    reader = BodyReader(0)
    assert reader.is_done

    assert reader.feed(b"GET") == b""
    assert reader.feed(b" /") == b""

    assert reader.excess == b"GET /"
    reader.feed_eof()


def test_content_length() -> None:
    """A body of known length ends with its last byte."""
    _decoded(b"abc", b"abc", length=3)


def test_content_length_overread() -> None:
    """What follows is kept for the next message, to the byte."""
    _decoded(b"abcGET / HTTP/1.1\r\n", b"abc", excess=b"GET / HTTP/1.1\r\n", length=3)


def test_content_length_less() -> None:
    """A connection that closes early is an error, however much was there."""
    _unfinished(b"ab", b"ab", length=3)
    _unfinished(b"", length=1)


def test_content_length_passes_pieces_on() -> None:
    """A piece that is payload only is passed on as the same object, not copied."""
    reader = BodyReader(10)
    first, last = b"x" * 4, b"y" * 6

    assert reader.feed(first) is first
    assert reader.feed(last) is last
    assert reader.is_done


def test_nothing_to_feed() -> None:
    """Feeding nothing changes nothing."""
    for length in (3, CHUNKED, UNTIL_CLOSE):
        reader = BodyReader(length)

        assert reader.feed(b"") == b""
        assert not reader.is_done


# --------------------------------------------------------------- until close


def test_until_close() -> None:
    """A body that ends with the connection is whatever came before."""
    reader = BodyReader(UNTIL_CLOSE)
    piece = b"5\r\nabc"

    assert reader.feed(piece) is piece
    assert reader.feed(b"") == b""
    assert (reader.is_done, reader.bytes_read) == (False, 6)
    reader.feed_eof()

    assert reader.is_done
    assert reader.excess == b""


def test_until_close_may_be_empty() -> None:
    """A connection that closes at once has sent an empty body."""
    reader = BodyReader(UNTIL_CLOSE)

    reader.feed_eof()

    assert reader.is_done


# ------------------------------------------------------------------- chunked


def test_zero_chunk() -> None:
    """The last chunk alone is an empty body."""
    _decoded(b"0\r\n\r\n", b"")


def test_zero_chunk_with_many_zeros() -> None:
    """RFC 9112 section 7.1: the last chunk is 1*("0")."""
    _decoded(b"000\r\n\r\n", b"")


@pytest.mark.parametrize(
    "data",
    [b"0\r\r\n", b"0\n\r\n", b"0\r\n\n", b"0\r\n\rX", b"0\r\nX\r\n\r\n", b"0\r\n \r\n\r\n"],
)
def test_zero_chunk_malformed(data: bytes) -> None:
    """What follows the last chunk is a trailer section or the empty line."""
    reader = BodyReader(CHUNKED)

    with pytest.raises(Error) as caught:
        reader.feed(data)

    assert caught.value.etype in {INVALID_CHUNK, INVALID_TRAILER_END}


def test_zero_chunk_without_the_last_line() -> None:
    """RFC 9112 section 7.1: the body ends with the empty line, not with the last chunk."""
    for end in range(5):
        _unfinished(b"0\r\n\r\n"[:end])


def test_one_chunk() -> None:
    """One chunk and the last one."""
    _decoded(b"1\r\na\r\n0\r\n\r\n", b"a")


def test_many_chunks() -> None:
    """Chunks are put together; sizes are hexadecimal in either case."""
    _decoded(
        b"3\r\nabc\r\nA\r\n0123456789\r\n0b\r\nhello world\r\n0\r\n\r\n",
        b"abc0123456789hello world",
    )


def test_a_chunk_may_look_like_the_end() -> None:
    """Sizes alone decide what is data."""
    _decoded(b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", b"\r\n0\r\n\r\n")


def test_chunks_overread() -> None:
    """What follows the body is kept for the next message, to the byte."""
    _decoded(b"1\r\na\r\n0\r\n\r\nGET /", b"a", excess=b"GET /")
    _decoded(b"0\r\n\r\n\r\n", b"", excess=b"\r\n")


def test_chunks_cut_short() -> None:
    """A connection that closes anywhere within a chunked body leaves it incomplete."""
    whole = b"2\r\nab\r\n0\r\nX: y\r\n\r\n"
    for end in range(len(whole)):
        _unfinished(whole[:end], b"ab"[: max(0, end - 3)])


def test_within_a_chunk_pieces_are_passed_on() -> None:
    """A piece that is all data of one chunk is passed on as the same object."""
    reader = BodyReader(CHUNKED)
    reader.feed(b"100\r\n")
    piece = b"x" * 100

    assert reader.feed(piece) is piece
    assert reader.bytes_read == 100


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"x",
        b"g",
        b"-1",
        b"+1",
        b"0x1",
        b"1_0",
        b" 1",
        b"1 ",
        b"\t1",
        b"1\t",
        b"1\0",
        b"1\x0b",
        b"\xef\xbc\x91",
        b"1.0",
        b"1,1",
        b"1 1",
        b"1\n",
        b"1\r",
        b"\n1",
        b";a=b",
        b" ;a=b",
        b"1" + b"0" * 16,
        b"0" * 17,
        b"8000000000000000",
        b"ffffffffffffffff",
    ],
)
def test_malformed_chunk_size(line: bytes) -> None:
    """RFC 9112 section 7.1: a size is 1*HEXDIG, nothing around it, and fits into 63 bits."""
    _refused(line + b"\r\na\r\n0\r\n\r\n")


def test_largest_chunk_size() -> None:
    """A chunk may announce up to 2**63 - 1 bytes."""
    _unfinished(b"7fffffffffffffff\r\nabc", b"abc")


@pytest.mark.parametrize("behind", [b"\n", b"\rb", b"b\r\n", b"\r\r\n", b" \r\n", b"0\r\n"])
def test_malformed_end_of_chunk(behind: bytes) -> None:
    """RFC 9112 section 7.1: the data of a chunk is followed by CRLF."""
    _refused(b"1\r\na" + behind + b"0\r\n\r\n")


@pytest.mark.parametrize("line", [b"5\nhello\r\n", b"5\rhello\r\n", b"5;a\nb\r\nhello\r\n"])
def test_bare_line_ends_in_a_chunk_line(line: bytes) -> None:
    """RFC 9112 section 2.2: a bare CR or LF ends no line; it is refused as soon as it is seen."""
    reader = BodyReader(CHUNKED)
    bad = line[: max(line.find(b"\n", 0, 5), line.find(b"\r", 0, 3)) + 2]

    with pytest.raises(Error) as caught:
        reader.feed(bad)

    assert caught.value.etype == INVALID_CHUNK


# -------------------------------------------------------- chunk extensions


@pytest.mark.parametrize(
    "extension",
    [
        b";a",
        b";a=b",
        b"; a ; b=c",
        b" ; a = b",
        b"\t;\ta\t=\tb",
        b';a="b"',
        b';a=""',
        b';a="b;c, d=\\"e\\" \xff\t"',
        b';a="\\\\";b',
    ],
)
def test_chunk_extension(extension: bytes) -> None:
    """RFC 9112 section 7.1.1: extensions that nobody understands are ignored."""
    _decoded(b"1%b\r\na\r\n0%b\r\n\r\n" % (extension, extension), b"a")


@pytest.mark.parametrize(
    "extension",
    [
        b";",
        b"; ",
        b";a=",
        b";=b",
        b";;a",
        b"x",
        b" a",
        b";a b",
        b";a=b=c",
        b';a="b',
        b';a="b"c',
        b';a="\x01"',
        b';a="\\\x01"',
        b';a=b"',
        b";a=b\x00",
        b";a\x80",
    ],
)
def test_malformed_chunk_extension(extension: bytes) -> None:
    """RFC 9112 section 7.1.1: what is no extension by the grammar is refused."""
    _refused(b"1%b\r\na\r\n0\r\n\r\n" % extension)


def test_chunk_extension_oversize() -> None:
    """The line of a chunk has a limit, met whether or not its end has arrived."""
    exact = b"1;" + b"a" * 98
    reader = BodyReader(CHUNKED, max_chunk_line=100)
    assert reader.feed(exact + b"\r\nx\r\n") == b"x"

    for data in (exact + b"a\r\n", exact + b"a\r", exact + b"aa"):
        reader = BodyReader(CHUNKED, max_chunk_line=100)
        with pytest.raises(Error) as caught:
            reader.feed(data)
        assert caught.value.etype == INVALID_CHUNK


def test_chunk_extensions_altogether() -> None:
    """A body of little more than extensions is refused, however short each of them is."""
    reader = BodyReader(CHUNKED)
    line = b"1;%b\r\nx\r\n" % (b"a" * 1000)
    reader.feed(line * 16)

    with pytest.raises(Error) as caught:
        reader.feed(line)

    assert caught.value.etype == INVALID_CHUNK
    assert "besides payload" in caught.value.context


def test_many_small_chunks_are_fine() -> None:
    """One byte per chunk is what slow producers send."""
    reader = BodyReader(CHUNKED)

    assert reader.feed(b"1\r\nx\r\n" * 10_000) == b"x" * 10_000


def test_a_long_line_does_not_take_long() -> None:
    """No chunk line makes the grammar backtrack."""
    for line in (b"1" + b" " * 8000, b'1;a="' + b"\\a" * 4000, b"1" + b";a" * 4000 + b";"):
        reader = BodyReader(CHUNKED)
        with pytest.raises(Error):
            reader.feed(line + b"\r\n")


# ------------------------------------------------------------------ trailers


def test_trailers() -> None:
    """Trailer fields keep their case, order and duplicates."""
    trailers = _trailers(b"Digest: x\r\nX-a:\t y \r\nx-A: z\r\nE:\r\n\r\n")

    assert trailers == [("Digest", "x"), ("X-a", "y"), ("x-A", "z"), ("E", "")]


def test_no_trailers() -> None:
    """A body without trailer fields has none, not an empty section."""
    assert _trailers(b"\r\n") is None


def test_trailers_overread() -> None:
    """What follows the trailer section is kept for the next message."""
    _decoded(b"0\r\nA: b\r\n\r\nC: d\r\n\r\n", b"", excess=b"C: d\r\n\r\n")


@pytest.mark.parametrize(
    "section",
    [
        b"A\r\n\r\n",
        b": b\r\n\r\n",
        b"A : b\r\n\r\n",
        b" A: b\r\n\r\n",
        b"A: b\r\n c\r\n\r\n",
        b"A: b\x00\r\n\r\n",
        b"A: b\rC: d\r\n\r\n",
        b"A: b\nC: d\r\n\r\n",
        b"A(: b\r\n\r\n",
        b"\xc3\xa9: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_malformed_trailers(section: bytes) -> None:
    """RFC 9112 section 7.1.2: trailer fields obey the grammar of header fields, folding not."""
    _refused(b"0\r\n" + section, INVALID_TRAILER_END)


@pytest.mark.parametrize("section", [b"A: b\n", b"A: b\n\n", b"A: b\rC", b"\n"])
def test_bare_line_ends_in_trailers(section: bytes) -> None:
    """A section that could only end with a bare LF is refused before its end."""
    _refused(b"0\r\n" + section, INVALID_TRAILER_END)


@pytest.mark.parametrize("name", [b"Content-Length", b"transfer-encoding", b"HOST"])
def test_framing_and_routing_do_not_come_late(name: bytes) -> None:
    """RFC 9110 section 6.5.1: a trailer that would change framing or routing is refused."""
    _refused(b"0\r\nA: b\r\n%b: 5\r\n\r\n" % name, INVALID_TRAILER_END)


@pytest.mark.parametrize(
    "name", sorted(FORBIDDEN_TRAILERS - {b"content-length", b"transfer-encoding", b"host"})
)
def test_other_forbidden_trailers_are_dropped(name: bytes) -> None:
    """RFC 9110 section 6.5.1: fields that must not be trailers are not taken for any."""
    assert _trailers(b"A: b\r\n%b: c\r\n\r\n" % name.upper()) == [("A", "b")]
    assert _trailers(b"%b: c\r\n\r\n" % name) is None


def test_trailers_overflow() -> None:
    """The trailer section has a limit, met whether or not its end has arrived."""
    section = b"A: %b\r\n\r\n" % (b"b" * 93)
    reader = BodyReader(CHUNKED, max_trailer_size=len(section))
    reader.feed(b"0\r\n" + section)
    assert reader.is_done

    for data in (section, section[:-1]):
        reader = BodyReader(CHUNKED, max_trailer_size=len(data) - 1)
        with pytest.raises(Error) as caught:
            reader.feed(b"0\r\n" + data)
        assert caught.value.etype == INVALID_TRAILER_END


def test_too_many_trailers() -> None:
    """A section of many tiny fields is refused by their number."""
    reader = BodyReader(CHUNKED)

    with pytest.raises(Error) as caught:
        reader.feed(b"0\r\n" + b"A:\r\n" * 257 + b"\r\n")

    assert caught.value.etype == INVALID_TRAILER_END


def test_errors_have_no_source() -> None:
    """Only the session knows whose body it was."""
    reader = BodyReader(CHUNKED)

    with pytest.raises(Error) as caught:
        reader.feed(b"x\r\n")

    assert caught.value.esource.value == ""
