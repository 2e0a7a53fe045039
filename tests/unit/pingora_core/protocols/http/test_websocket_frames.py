"""Following a WebSocket's frames without looking into them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, strategies as st
from websockets.frames import Close, Frame, Opcode
from websockets.streams import StreamReader

from pingora_core.protocols.http.websocket_frames import GOING_AWAY, FrameTracker, close_frame

_DATA = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT, Opcode.PING, Opcode.PONG)
_SIZES = st.one_of(st.integers(0, 140), st.sampled_from([125, 126, 65535, 65536, 70000]))


def serialized(opcode: Opcode, size: int, *, mask: bool, fin: bool = True) -> bytes:
    if opcode in {Opcode.PING, Opcode.PONG}:
        size, fin = min(size, 125), True
    return Frame(opcode, bytes(size), fin).serialize(mask=mask)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], list[int]]:
    """Whole frames, and where the bytes of all of them are cut."""
    mask = draw(st.booleans())
    shapes = st.tuples(st.sampled_from(_DATA), _SIZES, st.booleans())
    frames = [
        serialized(opcode, size, mask=mask, fin=fin)
        for opcode, size, fin in draw(st.lists(shapes, min_size=1, max_size=8))
    ]
    total = sum(map(len, frames))
    cuts = draw(st.lists(st.integers(0, total), max_size=12))
    return frames, sorted({0, *cuts, total})


@given(streams())
def test_any_chunking_gives_the_same_boundaries(case: tuple[list[bytes], list[int]]) -> None:
    """At each cut the tracker knows whether a frame ends there, and where the next one does."""
    frames, cuts = case
    ends = [0]
    for each in frames:
        ends.append(ends[-1] + len(each))
    data = b"".join(frames)
    tracker = FrameTracker()

    for start, end in itertools.pairwise(cuts):
        piece = data[start:end]
        expected = next(at for at in ends if at >= start) - start
        assert tracker.next_boundary(piece) == (expected if expected <= len(piece) else -1)
        tracker.feed(piece)
        assert tracker.at_boundary == (end in ends)

    assert not tracker.has_close


@given(streams(), st.booleans())
def test_a_close_is_noticed(case: tuple[list[bytes], list[int]], masked: bool) -> None:
    """Whatever came before it, and however it is cut; as soon as its head is complete."""
    frames, cuts = case
    data = b"".join(frames)
    goodbye = Frame(Opcode.CLOSE, Close(1000, "bye").serialize()).serialize(mask=masked)
    tracker = FrameTracker()
    for start, end in itertools.pairwise(cuts):
        tracker.feed(data[start:end])
    before = tracker.has_close
    tracker.feed(goodbye[:1])
    undecided = tracker.has_close
    tracker.feed(goodbye[1:2])

    assert (before, undecided, tracker.has_close, tracker.at_boundary) == (
        False,
        False,
        True,
        False,
    )
    tracker.feed(goodbye[2:])
    assert tracker.at_boundary


@pytest.mark.parametrize("mask", [b"", b"\x12\x34\x56\x78"])
def test_close_frames_are_what_a_library_reads(mask: bytes) -> None:
    """Code and reason, masked for a server and plain for a client."""
    reader = StreamReader()
    reader.feed_data(close_frame(GOING_AWAY, "geht weg → ade".encode(), mask=mask))
    parsing = Frame.parse(reader.read_exact, mask=bool(mask), max_size=None)
    with pytest.raises(StopIteration) as parsed:
        next(parsing)

    frame = parsed.value.value
    assert (frame.opcode, frame.fin) == (Opcode.CLOSE, True)
    assert Close.parse(frame.data) == Close(1001, "geht weg → ade")


def test_a_reason_that_is_too_long_is_refused() -> None:
    """Control frames have room for 125 bytes."""
    assert len(close_frame(1001, b"x" * 123)) == 127
    with pytest.raises(ValueError, match="at most 123"):
        close_frame(1001, b"x" * 124)
