"""Reading event streams in pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, strategies as st

from pingora_core.protocols.http.event_stream import EventStreamParser, ServerSentEvent


def _all(text: bytes, cuts: list[int], *, limit: int = 1 << 20) -> list[ServerSentEvent]:
    parser = EventStreamParser(limit)
    places = sorted({0, *(min(cut, len(text)) for cut in cuts), len(text)})
    return [e for a, b in itertools.pairwise(places) for e in parser.feed(text[a:b])]


@pytest.mark.parametrize(
    ("text", "events"),
    [
        (b"data: a\n\n", [ServerSentEvent(b"a")]),
        (
            b"\xef\xbb\xbfdata:a\r\rdata:  b\r\n\r\n",
            [ServerSentEvent(b"a"), ServerSentEvent(b" b")],
        ),
        (b"data: a\ndata\ndata: c\n\n", [ServerSentEvent(b"a\n\nc")]),
        (b"event: x\nid: 7\ndata: a\n\ndata: b\n\n", [(b"a", "x", "7"), (b"b", "", "7")]),
        (b": ping\n\nevent: nothing\n\n\n\n", []),
        (b"id: a\0b\ndata: 1\n\n", [ServerSentEvent(b"1")]),
        (b"data: never ended\n", []),
        ("data: ä€😀\n\n".encode(), [ServerSentEvent("ä€😀".encode())]),
    ],
)
def test_streams_are_read_as_the_standard_has_it(text: bytes, events: list[object]) -> None:
    """In one piece, and byte by byte: within line ends, names and characters."""
    assert _all(text, []) == events
    assert _all(text, list(range(len(text)))) == events


_LINES = st.sampled_from(
    [b"", b"data: x", b"data", b": ping", b"id: 7", b"event: y", b"data: \xc3"]
)
_ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])


@given(
    st.lists(st.tuples(_LINES, _ENDS), max_size=20),
    st.lists(st.integers(0, 200), max_size=10),
    st.integers(1, 30),
)
def test_where_it_is_cut_does_not_matter(
    lines: list[tuple[bytes, bytes]], cuts: list[int], limit: int
) -> None:
    """The events are those of the whole text, also where some are too long."""
    text = b"".join(line + end for line, end in lines)
    assert _all(text, cuts, limit=limit) == _all(text, [], limit=limit)


def test_an_event_that_is_too_long_is_skipped() -> None:
    """Whatever it consists of; memory stays bounded, and the next event is read."""
    parser = EventStreamParser(100)
    assert parser.feed(b"data: 1\n\n") == [ServerSentEvent(b"1")]
    for _ in range(1000):
        assert parser.feed(b"data: " + b"x" * 50) == []
        assert parser.feed(b"") == []
        assert len(parser._tail) <= 100
    assert parser.feed(b"\n\n") == []
    for _ in range(1000):
        assert parser.feed(b"data: y\n") == []
        assert len(parser._data) <= 100
    assert parser.feed(b"\ndata: 2\n\n") == [ServerSentEvent(b"2")]
    assert parser.skipped == 2


def test_the_time_to_reconnect_is_kept() -> None:
    """If it is a number."""
    parser = EventStreamParser()
    parser.feed(b"retry: 1500\nretry: soon\nretry: -1\n\n")
    assert parser.retry == 1500
