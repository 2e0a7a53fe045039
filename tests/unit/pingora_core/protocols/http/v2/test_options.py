from __future__ import annotations

import pytest

from pingora_core.protocols.http.v2 import Http2Options


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_concurrent_streams": 0},
        {"stream_window": 0},
        {"stream_window": 2**31},
        {"connection_window": 65534},
        {"max_frame_size": 16383},
        {"max_frame_size": 2**24},
        {"max_header_list_size": 100},
    ],
)
def test_a_value_out_of_range_is_named(wrong: dict[str, int]) -> None:
    """The message says which and what is allowed."""
    (name,) = wrong

    with pytest.raises(ValueError, match=rf"{name} must be in \d+\.\.\d+, not"):
        Http2Options(**wrong)  # type: ignore[arg-type]  # one of the whole numbers


@pytest.mark.parametrize(
    ("options", "total"),
    [
        (Http2Options(max_concurrent_streams=10, stream_window=100_000), 1_000_000),
        (Http2Options(max_concurrent_streams=1, stream_window=100), 65535),
        (Http2Options(max_concurrent_streams=2**20, stream_window=2**20), 2**31 - 1),
        (Http2Options(connection_window=70_000), 70_000),
    ],
)
def test_the_connection_has_room_for_all_streams(options: Http2Options, total: int) -> None:
    """So that one whose bytes nobody reads does not stop the others; RFC 9113 bounds it."""
    assert options.total_window == total
