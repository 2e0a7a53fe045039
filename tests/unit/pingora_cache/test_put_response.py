"""The parser of responses that are put: heads and bodies, however they are cut."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache._put_response import (
    INCOMPLETE_BODY,
    PutBody,
    PutHead,
    ResponseParser,
)
from pingora_error import Error, ErrorType
from pingora_http import Version

if TYPE_CHECKING:
    from pingora_cache._put_response import PutEvent
    from pingora_http import ResponseHeader


def _head(event: PutEvent, *, status: int = 200, end: bool = False) -> ResponseHeader:
    assert isinstance(event, PutHead)
    assert event.header.status == status
    assert event.end is end
    return event.header


def _fails(parser: ResponseParser) -> str:
    with pytest.raises(Error) as caught:
        parser.finish()
    assert caught.value.etype == INCOMPLETE_BODY
    return str(caught.value)


def _refused(data: bytes) -> str:
    with pytest.raises(Error) as caught:
        ResponseParser().feed(data)
    assert caught.value.etype is ErrorType.INVALID_HTTP_HEADER
    return str(caught.value)


# ------------------------------------------------------------------- as the original


def test_basic_response() -> None:
    """A body without a length goes on to the end."""
    parser = ResponseParser()
    (event,) = parser.feed(b"HTTP/1.1 200 OK\r\n\r\n")
    _head(event)
    assert parser.feed(b"abc") == [PutBody(b"abc", end=False)]
    parser.finish()
    assert parser.is_done


def test_partial_response_headers() -> None:
    """A head may come in pieces."""
    parser = ResponseParser()
    assert parser.feed(b"HTTP/1.1 200 OK\r\n") == []
    (event,) = parser.feed(b"Server: pingora\r\n\r\n")

    assert _head(event).get("server") == "pingora"


def test_invalid_headers() -> None:
    """What does not begin as HTTP does is refused."""
    _refused(b"HTP/1.1 200 OK\r\nServer: pingora\r\n\r\n")


def test_body_content_length() -> None:
    """A body with a length ends with its last byte."""
    parser = ResponseParser()
    head, piece = parser.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
    _head(head)
    assert piece == PutBody(b"abc", end=False)
    assert parser.feed(b"def") == [PutBody(b"def", end=True)]
    parser.finish()


def test_body_chunked() -> None:
    """Chunks are not looked for, whatever the head says."""
    parser = ResponseParser()
    head, piece = parser.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nrust")
    _head(head)
    assert piece == PutBody(b"rust", end=False)
    parser.finish()


def test_body_content_length_early() -> None:
    """A body that is shorter than its length is incomplete."""
    parser = ResponseParser()
    parser.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")

    assert "3 bytes" in _fails(parser)


def test_body_content_length_more_data() -> None:
    """What follows a body is dropped."""
    parser = ResponseParser()
    head, piece = parser.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc")
    _head(head)
    assert piece == PutBody(b"ab", end=True)
    parser.finish()


def test_body_chunked_partial_chunk() -> None:
    """What looks like a part of a chunk is body as well."""
    parser = ResponseParser()
    _, piece = parser.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nru")
    assert piece == PutBody(b"ru", end=False)
    assert parser.feed(b"st\r\n") == [PutBody(b"st\r\n", end=False)]


def test_no_body_content_length() -> None:
    """With a length of nothing the head is all."""
    parser = ResponseParser()
    (event,) = parser.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    _head(event, end=True)
    parser.finish()


def test_no_body_304_no_content_length() -> None:
    """A 304 has no body."""
    parser = ResponseParser()
    (event,) = parser.feed(
        b"HTTP/1.1 304 Not Modified\r\nCache-Control: public, max-age=10\r\n\r\n"
    )
    _head(event, status=304, end=True)
    parser.finish()


@pytest.mark.parametrize(
    ("field", "junk"),
    [(b"Transfer-Encoding: chunked", b"4\r\nrust\r\n0\r\n\r\n"), (b"Content-Length: 4", b"rust")],
)
def test_204_with_a_body(field: bytes, junk: bytes) -> None:
    """A 204 has no body, whatever its head says and whatever follows."""
    parser = ResponseParser()
    (event,) = parser.feed(b"HTTP/1.1 204 No Content\r\n" + field + b"\r\n\r\n")
    _head(event, status=204, end=True)
    assert parser.feed(junk) == []
    parser.finish()


def test_200_with_zero_content_length_more_data() -> None:
    """What follows a response without a body is dropped."""
    parser = ResponseParser()
    (event,) = parser.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    _head(event, end=True)
    assert parser.feed(b"rust") == []
    parser.finish()


# ------------------------------------------------------------------- heads


def test_heads_of_old() -> None:
    """Fields that go on in the next line, and white space around names and values."""
    (event,) = ResponseParser().feed(
        b"HTTP/1.0 200 Fine\r\nA : b\r\nC:d\r\nE:  f \t\r\nG: h,\r\n\t i\r\n j\r\nK:\r\n\r\n"
    )
    header = _head(event)

    assert list(header) == [("A", "b"), ("C", "d"), ("E", "f"), ("G", "h, i j"), ("K", "")]
    assert (header.version, header.reason) == (Version.HTTP_10, "Fine")


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n A: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\tA: b\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 xyz\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno field\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA B: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\nB: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999\r\n\r\n",
    ],
)
def test_malformed_heads(data: bytes) -> None:
    """What could be read in two ways, or in none, is not stored."""
    _refused(data)


def test_a_length_said_twice() -> None:
    """Lengths that agree are one (RFC 9110 section 8.6)."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\nContent-Length: 1\r\n\r\n"

    assert ResponseParser().feed(head + b"ab")[1] == PutBody(b"a", end=True)


def test_header_bombs() -> None:
    """A head of too many bytes is refused while it comes in, one of too many fields at its end."""
    parser = ResponseParser()
    line = b"X: " + b"y" * 1019 + b"\r\n"
    for _ in range(127):
        assert parser.feed(line) == []
    assert parser.feed(line) == []
    with pytest.raises(Error) as caught:
        parser.feed(b"X")
    assert caught.value.etype is ErrorType.INVALID_HTTP_HEADER

    assert "larger" in _refused(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 140_000 + b"\r\n\r\n")
    assert "257 fields" in _refused(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 257 + b"\r\n")
    assert ResponseParser().feed(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 256 + b"\r\n")


def test_a_large_body_behind_a_head() -> None:
    """Only the head counts against its limit."""
    parser = ResponseParser()
    _, piece = parser.feed(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_000_000)

    assert isinstance(piece, PutBody)
    assert len(piece.data) == 1_000_000


def test_nothing_at_all() -> None:
    """Without a head there is no response."""
    parser = ResponseParser()
    assert parser.feed(b"") == []
    assert "head" in _fails(parser)

    parser.feed(b"HTTP/1.1 200 OK\r\nA: b\r\n")
    assert "head" in _fails(parser)


@given(
    body=st.binary(max_size=30),
    with_length=st.booleans(),
    extra=st.binary(max_size=5),
    cuts=st.lists(st.integers(0, 120), max_size=8),
)
@settings(max_examples=150)
def test_cuts_do_not_matter(body: bytes, with_length: bool, extra: bytes, cuts: list[int]) -> None:
    """However the pieces are cut, the same response comes out."""
    field = b"Content-Length: %d\r\n" % len(body) if with_length else b""
    data = b"HTTP/1.1 200 OK\r\nA: b\r\n" + field + b"\r\n" + body + (extra if with_length else b"")
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    parser = ResponseParser()
    events: list[PutEvent] = []
    for start, end in itertools.pairwise(edges):
        events += parser.feed(data[start:end])
    parser.finish()

    _head(events[0], end=with_length and not body)
    pieces = [event for event in events[1:] if isinstance(event, PutBody)]
    assert b"".join(piece.data for piece in pieces) == body
    assert all(piece.data for piece in pieces)
    assert [piece.end for piece in pieces[:-1]] == [False] * (len(pieces) - 1 if pieces else 0)
    assert not pieces or pieces[-1].end is with_length


@given(data=st.binary(max_size=80), prefix=st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n"]))
@settings(max_examples=150)
def test_garbage(data: bytes, prefix: bytes) -> None:
    """Garbage is refused, or makes a head that can be sent."""
    try:
        events = ResponseParser().feed(prefix + data + b"\r\n\r\n")
    except Error as error:
        assert error.etype is ErrorType.INVALID_HTTP_HEADER  # noqa: PT017  # either is right
    else:
        assert isinstance(events[0], PutHead)
        assert events[0].header.to_wire().count(b"\r\n\r\n") == 1
