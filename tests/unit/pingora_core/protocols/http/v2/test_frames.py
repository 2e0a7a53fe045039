from __future__ import annotations

from hyperframe.frame import ContinuationFrame, Frame, GoAwayFrame, HeadersFrame, SettingsFrame
from hypothesis import given, strategies as st

from pingora_core.protocols.http.v2._frames import (
    goaway_frame,
    headers_frames,
    parse_goaway,
    settings_frame,
)


def parse(data: bytes) -> Frame:
    frame, length = Frame.parse_frame_header(memoryview(data[:9]))
    assert len(data) == 9 + length
    frame.parse_body(memoryview(data[9:]))
    return frame


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=50))
def test_goaway_is_what_others_read(last: int, code: int, debug: bytes) -> None:
    """Written here, it is read alike by another implementation and by this one."""
    data = goaway_frame(last, code, debug)

    frame = parse(data)
    assert isinstance(frame, GoAwayFrame)
    assert (frame.last_stream_id, frame.error_code) == (last, code)
    assert frame.additional_data == debug
    assert parse_goaway(data[9:]) == (last, code, debug)


@given(st.dictionaries(st.integers(1, 2**16 - 1), st.integers(0, 2**32 - 1), max_size=10))
def test_settings_are_what_others_read(settings: dict[int, int]) -> None:
    """Identifiers and values arrive in another implementation."""
    frame = parse(settings_frame(settings.items()))

    assert isinstance(frame, SettingsFrame)
    assert dict(frame.settings) == settings


@given(
    st.integers(1, 2**31 - 1),
    st.binary(max_size=60),
    st.integers(1, 70),
    st.booleans(),
)
def test_header_blocks_are_what_others_read(
    stream: int,
    block: bytes,
    size: int,
    end: bool,
) -> None:
    """In as few frames as their size allows, the last of which says so."""
    data = headers_frames(stream, block, size, end=end)

    found: list[Frame] = []
    while data:
        length = 9 + int.from_bytes(data[:3], "big")
        found.append(parse(data[:length]))
        data = data[length:]
    assert isinstance(found[0], HeadersFrame)
    assert all(isinstance(frame, ContinuationFrame) for frame in found[1:])
    assert b"".join(frame.data for frame in found) == block  # type: ignore[attr-defined]  # of both
    assert len(found) == max(1, -(-len(block) // size))
    assert {frame.stream_id for frame in found} == {stream}
    assert ["END_HEADERS" in frame.flags for frame in found] == [False] * (len(found) - 1) + [True]
    assert ["END_STREAM" in frame.flags for frame in found] == [end] + [False] * (len(found) - 1)
