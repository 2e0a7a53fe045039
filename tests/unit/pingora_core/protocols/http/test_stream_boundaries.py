"""Following responses without an end of their own."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_core.protocols.http.stream_boundaries import (
    EventTracker,
    MessageTracker,
    is_event_stream,
)
from pingora_http import ResponseHeader

if TYPE_CHECKING:
    from pingora_core.protocols.http.stream_boundaries import (
        Boundaries,
    )

_ENDS = [b"\n", b"\r", b"\r\n"]


def events_in(text: bytes) -> list[bytes]:
    """The events that a client dispatches: lines up to each blank one."""
    lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    events: list[bytes] = []
    current = b""
    for line in lines[:-1]:
        if line:
            current += line + b"\n"
        elif current:
            events.append(current)
            current = b""
    return events


@st.composite
def event_streams(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    """An event stream with all kinds of line ends, and where it is cut."""
    lines = st.sampled_from([b"", b"data: x", b": ping", b"id: 7"])
    pieces = draw(st.lists(st.tuples(lines, st.sampled_from(_ENDS)), min_size=1, max_size=20))
    text = b"".join(line + end for line, end in pieces) + draw(st.sampled_from([b"", b"data"]))
    cuts = draw(st.lists(st.integers(0, len(text)), max_size=10))
    return text, sorted({0, *cuts, len(text)})


@given(event_streams(), st.integers(0, 200))
def test_an_event_stream_is_cut_behind_a_whole_event(
    case: tuple[bytes, list[int]], wanted: int
) -> None:
    """From wherever somebody wants it to end, it is the first place behind a blank line."""
    text, cuts = case
    tracker = EventTracker()
    passed = 0
    for start, end in itertools.pairwise(cuts):
        piece = text[start:end]
        if start >= wanted:
            cut = tracker.next_boundary(piece)
            if cut >= 0:
                passed = start + cut
                break
        tracker.feed(piece)
    else:
        return

    ended = text[:passed]
    begun = next(start for start in cuts if start >= wanted)
    assert passed == 0 or ended.endswith((b"\n\n", b"\n\r", b"\r\r", b"\n\r\n", b"\r\r\n"))
    # Nothing whole is left out that was there to be cut behind, and nothing is half there.
    assert events_in(ended) == events_in(text)[: len(events_in(ended))]
    assert len(events_in(ended)) <= len(events_in(text[:begun])) + 1


@given(event_streams())
def test_the_end_of_an_event_is_noticed_in_any_pieces(case: tuple[bytes, list[int]]) -> None:
    """It depends on the last bytes alone, not on how they came."""
    text, cuts = case
    pieces, whole = EventTracker(), EventTracker()
    whole.feed(text)
    for start, end in itertools.pairwise(cuts):
        pieces.feed(text[start:end])

    assert pieces.at_boundary == whole.at_boundary


@st.composite
def messages(draw: st.DrawFn) -> tuple[list[bytes], list[int]]:
    """gRPC messages, and where the bytes of all of them are cut."""
    sizes = draw(st.lists(st.integers(0, 300), min_size=1, max_size=8))
    whole = [b"\x00" + size.to_bytes(4, "big") + bytes(size) for size in sizes]
    total = sum(map(len, whole))
    return whole, sorted({0, *draw(st.lists(st.integers(0, total), max_size=12)), total})


@given(messages())
def test_any_chunking_gives_the_same_messages(case: tuple[list[bytes], list[int]]) -> None:
    """At each cut the tracker knows whether a message ends there, and where the next one does."""
    whole, cuts = case
    ends = [0]
    for each in whole:
        ends.append(ends[-1] + len(each))
    data = b"".join(whole)
    tracker = MessageTracker()

    for start, end in itertools.pairwise(cuts):
        piece = data[start:end]
        expected = next(at for at in ends if at >= start) - start
        assert tracker.next_boundary(piece) == (expected if expected <= len(piece) else -1)
        tracker.feed(piece)
        assert tracker.at_boundary == (end in ends)


@pytest.mark.parametrize("tracker", [EventTracker(), MessageTracker()])
def test_before_anything_has_come_is_a_good_place_to_end(tracker: Boundaries) -> None:
    """An empty body is whole."""
    assert tracker.at_boundary
    assert tracker.next_boundary(b"data: x") == 0


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream ; charset=utf-8", True),
        ("text/event-stream-like", False),
        ("text/plain", False),
        (None, False),
    ],
)
def test_event_streams_are_known_by_their_type(content_type: str | None, expected: bool) -> None:
    """Parameters and case do not matter."""
    header = ResponseHeader(200)
    if content_type is not None:
        header.insert_header("Content-Type", content_type)

    assert is_event_stream(header) is expected
