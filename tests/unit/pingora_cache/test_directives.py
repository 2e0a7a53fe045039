"""There are no two readings of ``Cache-Control``."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings, strategies as st

from pingora_cache._directives import (
    DELTA_SECONDS_MAX,
    Directive,
    delta_seconds,
    field_names,
    parse,
    unquote,
)
from pingora_cache.control import CacheControl

_pieces = st.sampled_from(
    [
        b"no-store", b"max-age", b"private", b"X", b"=", b'"', b",", b";", b" ", b"\t", b"\\",
        b"60", b"a", b"\xff", b"'", b"(", b'="', b'",', b", ", b'\\"', b"=1",
    ]
)  # fmt: skip
_lines = st.lists(st.lists(_pieces, max_size=12).map(b"".join), max_size=4)


def _strip(lines: list[bytes]) -> list[bytes]:
    return [line.strip(b" \t") for line in lines]


@settings(max_examples=400, deadline=None)
@given(_lines)
@example([b'a="x', b"no-store", b'b="'])
@example([b'a="', b'b=", no-store, c="'])
@example([b"no-store=", b"60"])
@example([b'private="', b'"'])
def test_lines_joined_or_apart(lines: list[bytes]) -> None:
    """However a field's lines are joined on the way, it says the same, or is not well formed."""
    apart = parse(lines)
    joined = parse([b", ".join(_strip(lines))])

    if apart.well_formed:
        assert joined == apart


@settings(max_examples=400, deadline=None)
@given(_lines)
def test_writing_what_was_read(lines: list[bytes]) -> None:
    """Reading what was written of the directives gives the same directives."""
    read = CacheControl(lines)
    again = CacheControl([read.to_bytes()])

    assert again.directives == read.directives
    assert again.well_formed


def _by_hand(text: bytes) -> list[bytes]:
    # RFC 9110 section 5.6.1, letter by letter: split at commas outside quotes.
    items, item, quoted, escaped = [], bytearray(), False, False
    for byte in text:
        if escaped:
            escaped = False
        elif quoted and byte == ord("\\"):
            escaped = True
        elif byte == ord('"'):
            quoted = not quoted
        elif byte in b",;" and not quoted:
            items.append(bytes(item))
            item.clear()
            continue
        item.append(byte)
    return [part.strip(b" \t") for part in (*items, bytes(item))]


@settings(max_examples=400, deadline=None)
@given(_lines)
def test_nothing_hides_from_a_reader_that_counts_quotes(lines: list[bytes]) -> None:
    """Where a plain splitter sees a directive, so does this, or the field is not well formed."""
    for line in _strip(lines):
        read = parse([line])
        if not read.well_formed:
            continue
        seen = {name for name, _ in read.directives}
        plain = {item.lower() for item in _by_hand(line)}
        assert (b"no-store" in plain) <= ("no-store" in seen)
        assert (b"private" in plain) <= ("private" in seen)
        if "no-store" in seen:
            assert any(item.startswith(b"no-store") for item in plain)


@pytest.mark.parametrize(
    ("line", "well_formed"),
    [
        (b"", True),
        (b'a="b, no-store"', True),
        (b'a="b, no-store', False),
        (b'a=b", no-store', False),
        (b'a b="x, no-store"', False),
        (b'a="b\\", no-store, "', True),
        (b'a="b\\", no-store', False),
        (b'"no-store"', False),
        (b"max-age = 60, no-store", True),
    ],
)
def test_quotes_that_are_left_over(line: bytes, *, well_formed: bool) -> None:
    """A quote outside a value that is understood makes the field ambiguous."""
    assert parse([line]).well_formed is well_formed


def test_white_space_and_what_is_no_directive() -> None:
    """White space around lines and separators does not count; around ``=`` it ends the name."""
    assert parse([b" \tmax-age = 5 ,, =x ;b=2\t"]).directives == [
        Directive("max-age", None),
        Directive("b", b"2"),
    ]


def test_long_runs_take_little_time() -> None:
    """Neither blanks nor open quotes make reading slower than their number."""
    for run in (b" ", b" ,", b'a="', b'="\\', b"a", b'"'):
        text = run * (200_000 // len(run))
        parse([text, b"x" + text])


@settings(deadline=None)
@given(st.binary(max_size=30))
def test_delta_seconds_of_anything(text: bytes) -> None:
    """Only digits are a number, and it has 32 bits."""
    seconds = delta_seconds(text)

    if text and all(byte in b"0123456789" for byte in text):
        assert seconds == (int(text) if int(text) < 2**32 else DELTA_SECONDS_MAX)
    else:
        assert seconds is None


def test_delta_seconds_of_a_million_digits() -> None:
    """A number of any length is answered at once."""
    assert delta_seconds(b"9" * 1_000_000) == DELTA_SECONDS_MAX
    assert delta_seconds(b"0" * 1_000_000 + b"7") == 7


def test_values() -> None:
    """Quotes are removed in pairs; names of fields are those that can be names."""
    assert [unquote(v) for v in (b'"a"', b'"', b'""', b'"a', b"a")] == [
        b"a",
        b'"',
        b"",
        b'"a',
        b"a",
    ]
    assert field_names(b'"Set-Cookie, ,a b,\xff,x"') == [b"set-cookie", b"x"]
    assert field_names(b"x-one") == [b"x-one"]
