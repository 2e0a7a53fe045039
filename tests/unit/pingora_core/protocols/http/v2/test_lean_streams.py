"""Header sections that go past the library's frames: its states, events and errors are the same."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

import pytest
from hpack import Decoder, Encoder
from hypothesis import example, given, settings, strategies as st

from pingora_core.protocols.http.v2._engine import load_library
from pingora_core.protocols.http.v2._frames import PREFACE, settings_frame
from pingora_core.protocols.http.v2._mended import mend_resets, mend_streams
from tests.support.h2_frames import frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from h2.connection import H2Connection
    from h2.events import Event

    from pingora_core.protocols.http.v2._lean_streams import LeanHeads

Step = tuple[str, int, int]

HEADERS, CONTINUATION = 1, 9
SECTIONS = [
    [(b":status", b"200"), (b"content-length", b"3")],
    [(b":status", b"103"), (b"link", b"</a>")],
    [(b"x-sum", b"1")],
    [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")],
    [(b":status", b"200"), (b"x-long", b"y" * 20000)],
]


def _engines(*, client_side: bool) -> tuple[H2Connection, H2Connection, LeanHeads]:
    # As this package uses it, and as it is without what is tested here.
    library = load_library("h2")
    streams, exceptions = import_module("h2.stream"), import_module("h2.exceptions")

    class Engine(import_module("h2.connection").H2Connection):  # type: ignore[misc]  # as the package does
        MAX_CLOSED_STREAMS = 512

    mend_streams(Engine, streams.H2Stream, streams, exceptions)
    mend_resets(Engine)
    lean = library.make(client_side, {})
    plain = cast("H2Connection", Engine(config=lean.config))
    lean.encoder, lean.decoder = Encoder(), Decoder()
    for engine in (lean, plain):
        engine.initiate_connection()
        engine.clear_outbound_data_buffer()
        engine.receive_data((b"" if client_side else PREFACE) + settings_frame([(5, 16384)]))
        engine.clear_outbound_data_buffer()
    heads = library.heads
    assert heads is not None
    return lean, plain, heads(lean)


def _do(engine: H2Connection, heads: LeanHeads | None, step: Step, peer: Encoder) -> object:
    kind, stream_id, what = step
    section = SECTIONS[what % len(SECTIONS)]
    end = what >= len(SECTIONS)
    found: Sequence[Event] | None = None
    try:
        match kind:
            case "send":
                engine.send_headers(stream_id, section, end_stream=end)
            case "end":
                engine.end_stream(stream_id)
            case "reset":
                engine.reset_stream(stream_id, 8)
            case "take_reset":
                found = engine.receive_data(frame(3, 0, stream_id, bytes(4)))
            case "take_data":
                found = engine.receive_data(frame(0, int(end), stream_id, b"abc"))
            case "damage":
                found = _take(
                    engine, heads, stream_id, b"\x82\xff\xff\xff\xff\xff\xff\xff", end=end
                )
            case _:
                found = _take(engine, heads, stream_id, peer.encode(section), end=end)
    except load_library("h2").protocol_error as error:
        return type(error), getattr(error, "error_code", None)
    return [
        (type(event), getattr(event, "headers", None), getattr(event, "stream_ended", None) is None)
        for event in found or ()
    ]


def _take(
    engine: H2Connection, heads: LeanHeads | None, stream_id: int, block: bytes, *, end: bool
) -> Sequence[Event]:
    found = (
        heads.take(stream_id, block, end=end) if heads is not None and len(block) < 16384 else None
    )
    if found is not None:
        return found
    data = frame(HEADERS, int(end) | (4 if len(block) < 16384 else 0), stream_id, block[:16383])
    for at in range(16383, len(block), 16383):
        data += frame(
            CONTINUATION, 4 if at + 16383 >= len(block) else 0, stream_id, block[at:][:16383]
        )
    return engine.receive_data(data)


def _state(engine: H2Connection) -> object:
    return (
        engine.state_machine.state,
        {
            number: (stream.state_machine.state, stream.closed_by)
            for number, stream in engine.streams.items()
        },
        engine.highest_inbound_stream_id,
        engine.highest_outbound_stream_id,
        list(engine.decoder.header_table.dynamic_entries),
    )


def _check(steps: list[Step], *, client_side: bool) -> None:
    lean, plain, heads = _engines(client_side=client_side)
    peers = Encoder(), Encoder()

    for step in steps:
        seen = _do(lean, heads, step, peers[0])
        assert seen == _do(plain, None, step, peers[1])
        assert lean.data_to_send() == plain.data_to_send()
        assert _state(lean) == _state(plain)


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [*["send"] * 2, *["take"] * 3, "end", "reset", "take_reset", "take_data", "damage"]
        ),
        st.sampled_from([1, 1, 1, 3, 5, 2]),
        # Not the long one: the library takes a long time to encode it.
        st.sampled_from([0, 1, 2, 3, 5, 6, 7, 8]),
    ),
    max_size=12,
)


@given(_STEPS)
@settings(max_examples=150, deadline=None)
@example([("send", 1, 3), ("take", 1, 1), ("take", 1, 0), ("take_data", 1, 0), ("take", 1, 7)])
@example([("send", 1, 8), ("take", 1, 0), ("take", 1, 2)])
@example([("send", 1, 8), ("take", 1, 0), ("take", 1, 1)])
@example([("send", 1, 8), ("take", 1, 6)])
@example([("send", 1, 3), ("send", 1, 2)])
@example([("send", 1, 4), ("end", 1, 0), ("reset", 1, 0), ("take", 1, 1), ("take", 1, 0)])
@example([("send", 1, 8), ("damage", 1, 0), ("take", 1, 0)])
def test_a_client_s_streams(steps: list[Step]) -> None:
    """Requests, responses and trailers in any order, on streams in any state."""
    _check(steps, client_side=True)


@given(_STEPS)
@settings(max_examples=150, deadline=None)
@example([("take", 1, 3), ("send", 1, 1), ("send", 1, 0), ("take", 1, 7), ("send", 1, 7)])
@example([("take", 1, 3), ("send", 1, 6)])
@example([("take", 1, 3), ("send", 1, 0), ("send", 1, 1)])
@example([("take", 1, 8), ("take", 1, 7), ("send", 1, 0)])
@example([("take", 1, 3), ("take", 1, 2)])
def test_a_server_s_streams(steps: list[Step]) -> None:
    """The same from the other side."""
    _check(steps, client_side=False)


@pytest.mark.parametrize("end", [False, True])
def test_a_list_that_is_too_large_is_a_denial_of_service(end: bool) -> None:
    """What the peer is told is what the library would have told it."""
    lean, plain, heads = _engines(client_side=True)
    for engine in (lean, plain):
        engine.decoder.max_header_list_size = 100
    steps: list[Step] = [("send", 1, 3), ("take", 1, 4 + 5 * end)]
    peers = Encoder(), Encoder()

    outcomes = [
        [_do(lean, heads, step, peers[0]), _do(plain, None, step, peers[1])] for step in steps
    ]

    assert outcomes[1][0] == outcomes[1][1]
    assert lean.data_to_send()[-8:] == plain.data_to_send()[-8:]
