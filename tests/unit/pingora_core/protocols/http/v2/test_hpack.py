"""The coder and decoder of header blocks, against the library's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple
from hypothesis import example, given, settings, strategies as st

from pingora_core.protocols.http.v2._hpack import BlockDecoder, BlockEncoder

if TYPE_CHECKING:
    from collections.abc import Iterable

Field = tuple[bytes, bytes]

_NAMES = st.sampled_from(
    [
        b":path",
        b":status",
        b":method",
        b"content-length",
        b"date",
        b"set-cookie",
        b"accept",
        b"",
        b"x-a",
        b"x-b",
        b"x" * 200,
    ]
)
_VALUES = st.one_of(
    st.sampled_from([b"", b"/", b"200", b"GET", b"44", b"gzip, deflate", b"y" * 2000, b"z" * 5000]),
    st.binary(max_size=40),
)


def _field(name: bytes, value: bytes, hidden: int) -> Field:
    return NeverIndexedHeaderTuple(name, value) if hidden == 0 else (name, value)


_sections = st.lists(st.builds(_field, _NAMES, _VALUES, st.integers(0, 5)), max_size=8)
_sizes = st.lists(st.sampled_from([0, 64, 100, 4096, 70000]), max_size=3)


def _hidden(fields: Iterable[object]) -> list[bool]:
    return [getattr(field, "indexable", True) is False for field in fields]


@given(st.lists(st.tuples(_sizes, _sections), max_size=8))
@settings(max_examples=150, deadline=None)
@example([([], [(b"x-a", b"1")]), ([100, 100], [(b"x-a", b"1")]), ([], [(b"x-a", b"1")])])
@example([([4096, 64], [(b"x-a", b"1")]), ([0, 4096], [(b"x-a", b"1")])])
@example([([], [(b"x-%d" % number, b"v")]) for number in range(200)] * 2)
@example([([], [(b"x-a", b"1"), NeverIndexedHeaderTuple(b"x-a", b"1")])])
def test_what_is_encoded_is_read_as_it_was(messages: list[tuple[list[int], list[Field]]]) -> None:
    """By the library's decoder, whatever size of its table that has told, and as often as it likes."""
    encoder, decoder = BlockEncoder(), Decoder(max_header_list_size=10**6)

    for sizes, fields in messages:
        for size in sizes:
            encoder.header_table_size = decoder.max_allowed_table_size = size
        got = list(decoder.decode(encoder.encode(fields), raw=True))
        assert got == fields
        assert _hidden(got) == _hidden(fields)
        # As much of the peer's memory as of this side's.
        ours = encoder.header_table.dynamic_entries
        assert list(ours) == list(decoder.header_table.dynamic_entries)
        assert len(encoder._places) <= 2 * len(ours) + 64  # what has left the table is forgotten


@given(
    st.lists(
        st.tuples(
            _sections, st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3)
        ),
        max_size=6,
    ),
    st.integers(1, 3),
)
@settings(max_examples=300, deadline=None)
def test_blocks_are_read_as_the_library_reads_them(
    messages: list[tuple[list[Field], list[tuple[int, int]]]], times: int
) -> None:
    """Good ones and damaged ones, once or repeated: the same fields, table and errors."""
    encoder = Encoder()
    decoders = BlockDecoder(), Decoder()

    for fields, damage in messages:
        block = bytearray(encoder.encode(fields))
        for at, byte in damage:
            if at < len(block):
                block[at] = byte
        for _ in range(times):
            seen = [_outcome(decoder, bytes(block)) for decoder in decoders]
            assert seen[0] == seen[1]
            if isinstance(seen[0], type):
                return


@given(st.lists(st.binary(max_size=12), max_size=4))
@settings(max_examples=300, deadline=None)
@example([b"\x3f\xe1\x1f", b"\x20\x3f\xe1\x1f", b"\x82\x20"])
@example([b"\x82\x86\x84\x40\x01a\x01b\xbe", b"\xbe", b"\x40\x01c\x01d", b"\xbe\xbf", b"\xbe\xbf"])
@example([b"\xff\x80\x80\x80\x80\x80\x01"])
@example([b"\x00\x81\xff\x00"])
def test_any_bytes_are_read_as_the_library_reads_them(blocks: list[bytes]) -> None:
    """No block is accepted that it refuses, nor the other way round."""
    decoders = BlockDecoder(), Decoder()

    for block in blocks:
        seen = [_outcome(decoder, block) for decoder in decoders]
        assert seen[0] == seen[1]
        if isinstance(seen[0], type):
            return


def _outcome(decoder: Decoder, block: bytes) -> object:
    try:
        fields = list(decoder.decode(block, raw=True))
    except HPACKError as error:
        return type(error)
    table = decoder.header_table
    return fields, _hidden(fields), list(table.dynamic_entries), table.maxsize


@pytest.mark.parametrize("text", [bytes((byte,)) for byte in range(256)] + [bytes(range(256)) * 2])
def test_every_byte_in_huffmans_code(text: bytes) -> None:
    """There and back, and as the library writes it."""
    field = (b"x-a", text)

    block = BlockEncoder().encode([field])

    assert block == Encoder().encode([field])
    assert BlockDecoder().decode(block, raw=True) == [field]


def test_a_block_that_comes_again_means_what_the_table_says_now() -> None:
    """What is remembered of blocks is forgotten when the table changes."""
    decoder = BlockDecoder()
    decoder.decode(b"\x40\x01a\x01b", raw=True)
    first = decoder.decode(b"\xbe", raw=True)
    again = decoder.decode(b"\xbe", raw=True)
    first.clear()  # whoever got it may do so

    decoder.decode(b"\x40\x01c\x01d", raw=True)

    assert again == [(b"a", b"b")]
    assert decoder.decode(b"\xbe", raw=True) == [(b"c", b"d")]
    assert decoder.decode(b"\xbf", raw=True) == [(b"a", b"b")]


def test_a_header_list_that_is_too_large() -> None:
    """Is refused at the field with which it becomes so, however short its block is."""
    decoder = BlockDecoder()
    decoder.max_header_list_size = 100
    decoder.decode(b"\x40\x01a\x0a" + b"b" * 10, raw=True)

    decoder.decode(b"\xbe" * 2, raw=True)
    with pytest.raises(HPACKError, match="more than 100 bytes"):
        decoder.decode(b"\xbe" * 3, raw=True)


def test_few_blocks_are_remembered() -> None:
    """However many different ones a client sends."""
    decoder = BlockDecoder()

    for number in range(1000):
        decoder.decode(b"\x00\x01a\x04%04d" % number, raw=True)
    decoder.decode(b"\x00\x01a\x7f\x8a\x0a" + b"b" * 1417, raw=True)

    assert len(decoder._blocks) <= 32
    assert max(map(len, decoder._blocks)) <= 512


def test_values_that_change_do_not_fill_the_table() -> None:
    """And what does not change stays in it."""
    encoder = BlockEncoder()
    steady = (b"server", b"pingora")
    encoder.encode([steady])

    blocks = {
        encoder.encode([(b"content-length", b"%d" % n), (b"etag", b'"%d"' % n), steady])[-1:]
        for n in range(500)
    }

    assert list(encoder.header_table.dynamic_entries) == [steady]
    assert blocks == {b"\xbe"}


def test_a_peer_cannot_make_this_side_keep_a_large_table() -> None:
    """What it announces is what it would keep itself."""
    encoder = BlockEncoder()
    encoder.header_table_size = 2**32 - 1

    for number in range(1000):
        encoder.encode([(b"x-id", b"%0100d" % number)])

    table = encoder.header_table
    assert sum(32 + len(name) + len(value) for name, value in table.dynamic_entries) <= 4096


def test_large_fields_are_not_kept() -> None:
    """What would push out the whole table is read by the peer, and leaves nothing behind here."""
    encoder, reader = BlockEncoder(), Decoder()
    encoder.encode([(b"x-kind", b"a")])
    for number in range(100):
        field = (b"x-policy", b"%04d" % number * 1000)
        assert list(reader.decode(encoder.encode([field]), raw=True)) == [field]
    assert [name for name, _ in encoder._places] == [b"x-kind"]
    assert len(encoder.header_table.dynamic_entries) == 1
