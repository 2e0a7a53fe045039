"""Counting tokens while an answer passes."""

from __future__ import annotations

import json

import pytest

from pingora_proxy.testing import FakeClock
from pingora_proxy.token_count import TokenCount

_USAGE = {"prompt_tokens": 40, "completion_tokens": 2, "total_tokens": 42}
_STREAM = (
    b'data: {"choices": [{"delta": {"content": "\xc3\xa4 \\"usage\\": {\\"total_tokens\\": 9}"}}]}\r\n\r\n'
    b'data: {"choices": [], "usage": null}\r\n\r\n'
    b'data: {"choices": [], "usage": {"prompt_tokens": 40, "total_tokens": 42}}\r\n\r\n'
    b"data: [DONE]\r\n\r\n"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 4096])
def test_the_usage_of_a_stream_is_read_wherever_it_is_cut(size: int) -> None:
    """Within an event, a character or CRLF; what a text says of usage is not believed."""
    count = TokenCount()
    for start in range(0, len(_STREAM), size):
        count.feed(_STREAM[start : start + size])
    count.feed(None, end=True)
    assert count.told == 42
    assert count.total(asked=10_000) == 42


@pytest.mark.parametrize("size", [1, 4096])
def test_the_usage_of_json_is_read_at_the_end(size: int) -> None:
    """Wherever in the object it is."""
    text = b" \n" + json.dumps({"usage": _USAGE, "choices": ["x" * 4000]}).encode()
    count = TokenCount()
    for start in range(0, len(text), size):
        count.feed(text[start : start + size])
    assert count.told is None
    count.feed(b"", end=True)
    assert count.told == 42


def test_the_usage_of_a_response_event_is_read() -> None:
    """The newer protocol has it in the answer that the last event brings."""
    count = TokenCount()
    event = {"type": "response.completed", "response": {"usage": {"total_tokens": 7}}}
    count.feed(b"event: response.completed\ndata: " + json.dumps(event).encode() + b"\n\n")
    assert count.told == 7


@pytest.mark.parametrize(
    ("pieces", "total"),
    [
        ([], 25),
        ([b"data: {}\n\n" * 3], 28),
        ([b"data: {}\n\ndata: {"], 26),
        ([b'{"choices": "' + b"x" * 387], 125),
        ([b'{"usage": {"total_tokens": -1}}'], 32),
        ([b'{"usage": {"total_tokens": "many"}}'], 33),
        ([b'{"usage"'], 27),
        ([b"\x1f\x8b\x08 compressed", b"more"], 29),
    ],
)
def test_without_usage_there_is_an_estimate(pieces: list[bytes], total: int) -> None:
    """Four bytes are a token, and so is an event."""
    count = TokenCount()
    for piece in pieces:
        count.feed(piece)
    count.feed(None, end=True)
    assert count.total(asked=100) == total


def test_what_is_too_long_is_not_kept() -> None:
    """It is estimated; memory stays bounded."""
    count = TokenCount(limit=1000)
    for _ in range(1000):
        count.feed(b"{" + b"x" * 99)
        assert len(count._body) <= 1000
    count.feed(b'"usage": {"total_tokens": 1}}', end=True)
    assert count.total() == 25_007


def test_the_first_token_is_timed() -> None:
    """From the first event that is whole, or the first byte of JSON."""
    clock = FakeClock()
    stream, document = TokenCount(clock=clock), TokenCount(clock=clock)
    clock.advance(1.0)
    stream.feed(b": wait\n\ndata: {")
    document.feed(b"{")
    clock.advance(1.0)
    stream.feed(b"}\n\n")
    document.feed(b"}", end=True)
    assert (stream.time_to_first_token, document.time_to_first_token) == (2.0, 1.0)
