"""HPACK for the h2 library: what its own coder and decoder do, with fewer steps.

Theory of operation. A header block is decoded in one loop, and one that leaves the table as it is is
not decoded twice until the table changes: a client that is a program sends the same few bytes with each
request. Fields are encoded by looking them up: the place of each in the table is known
by when it came in, so that nothing is searched for. The tables themselves are the library's.

What goes out differs from the library's in two ways, both of them the choice of an encoder. A field that
must never be indexed is always written as such, even if a table holds it. And fields whose values are
different each time do not push out of the table what comes again; the list is nghttp2's.

Source: RFC 7541.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hpack import (
    Decoder,
    Encoder,
    HPACKDecodingError,
    InvalidTableSizeError,
    NeverIndexedHeaderTuple,
    OversizedHeaderListError,
)
from hpack.hpack import decode_integer
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import (
    HUFFMAN_COMPLETE,
    HUFFMAN_EMIT_SYMBOL,
    HUFFMAN_FAIL,
    HUFFMAN_TABLE,
)
from hpack.table import HeaderTable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_core.protocols.http.v2._field_rules import Fields

__all__ = ["BlockDecoder", "BlockEncoder"]

_STATIC: Final = ((b"", b""), *HeaderTable.STATIC_TABLE)
_STATIC_SIZE: Final = len(_STATIC)
# What the table counts for each entry on top of its text (section 4.1).
_OVERHEAD: Final = 32

# Blocks that are remembered of one connection, and how long one may be.
_MAX_BLOCKS: Final = 32
_MAX_BLOCK_SIZE: Final = 512

_INDEXED: Final = [bytes((0x80 | index,)) for index in range(127)]
_STATIC_FIELDS: Final = {field: _INDEXED[at] for at, field in enumerate(_STATIC) if at}
_STATIC_NAMES: Final = {name: at for at, (name, _) in reversed(list(enumerate(_STATIC))) if at}
_CODES: Final = [
    format(code, f"0{size}b")
    for code, size in zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)
]
# What is remembered of the steps of a Huffman code; text of all printable ASCII takes a third of it.
_MAX_STEPS: Final = 16384
# What an encoder's table may take, whatever more the peer allows.
_MAX_TABLE_SIZE: Final = 4096

# Of another value in nearly each message (nghttp2, hd_deflate_decide_indexing).
_UNSTEADY: Final = frozenset(
    {
        b":path",
        b"age",
        b"content-length",
        b"etag",
        b"if-modified-since",
        b"if-none-match",
        b"location",
        b"set-cookie",
    }
)
# Those of them whose values are few and no secrets: they are remembered as they are written.
_COUNTS: Final = frozenset({b"age", b"content-length"})
_MAX_COUNTS: Final = 1024
_MAX_COUNT_SIZE: Final = 20
_counts: dict[tuple[bytes, bytes], bytes] = {}


class BlockDecoder(Decoder):
    """The library's decoder, for whole blocks of bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._blocks: dict[bytes, Fields] = {}

    def decode(self, data: bytes, raw: bool = False) -> Fields:  # type: ignore[override]  # noqa: FBT001, FBT002 - the library's signature; it takes plain tuples
        """Decode a header block.

        Args:
            data: The block.
            raw: True; text is not made here.

        Returns:
            The fields; those that no table may hold are of the library's class for them.

        Raises:
            HPACKError: As the library does.
            ValueError: If text is asked for.
        """
        known = self._blocks.get(data)
        if known is not None and self.header_table.maxsize <= self.max_allowed_table_size:
            return known.copy()
        if not raw:
            raise ValueError("fields are bytes")
        return self._decode(data)

    def _decode(self, data: bytes) -> Fields:  # noqa: C901, PLR0912, PLR0915 - in one piece, see below
        # A call for each field, or several, is most of what the library's costs. HOT.
        table = self.header_table
        limit = self.max_header_list_size
        fields: Fields = []
        size = at = 0
        is_plain = True
        end = len(data)
        while at < end:
            first = data[at]
            if first & 0x80:
                at += 1
                index = first & 0x7F
                if index == 0x7F:
                    index, at = _integer(data, at - 1, 7)
                field = _STATIC[index] if 0 < index < _STATIC_SIZE else table.get_by_index(index)
            elif first & 0xE0 == 0x20:
                if fields:
                    raise HPACKDecodingError("a table size update behind a field")
                is_plain = False
                new_size, at = _integer(data, at, 5)
                if new_size > self.max_allowed_table_size:
                    raise InvalidTableSizeError("the table is to be larger than it may")
                self._blocks.clear()
                self.header_table_size = new_size
                continue
            else:
                adds = first & 0x40
                prefix = 6 if adds else 4
                index = first & ((1 << prefix) - 1)
                if not index:
                    name, at = _string(data, at + 1)
                else:
                    if index == (1 << prefix) - 1:
                        index, at = _integer(data, at, prefix)
                    else:
                        at += 1
                    name = (
                        _STATIC[index][0] if index < _STATIC_SIZE else table.get_by_index(index)[0]
                    )
                value, at = _string(data, at)
                field = (name, value)
                if adds:
                    is_plain = False
                    self._blocks.clear()
                    table.add(name, value)
                elif first & 0x10:
                    is_plain = False  # nor is it remembered here
                    field = NeverIndexedHeaderTuple(name, value)
            fields.append(field)
            size += _OVERHEAD + len(field[0]) + len(field[1])
            if size > limit:
                raise OversizedHeaderListError(f"a header list of more than {limit} bytes")
        if self.header_table_size > self.max_allowed_table_size:
            raise InvalidTableSizeError("the table has not been made as small as it must be")
        if is_plain and end <= _MAX_BLOCK_SIZE:
            if len(self._blocks) >= _MAX_BLOCKS:
                self._blocks.clear()
            self._blocks[bytes(data)] = fields.copy()
        return fields


def _integer(data: bytes, at: int, prefix: int) -> tuple[int, int]:
    # Five bytes and one are all that it may have, and it does not look further.
    value, consumed = decode_integer(data[at : at + 8], prefix)
    return value, at + consumed


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    try:
        first = data[at]
    except IndexError:
        raise HPACKDecodingError("a header block that is cut off") from None
    length = first & 0x7F
    if length == 0x7F:
        length, at = _integer(data, at, 7)
    else:
        at += 1
    end = at + length
    text = data[at:end]
    if len(text) != length:
        raise HPACKDecodingError("a header block that is cut off")
    return (_unpacked(text) if first & 0x80 else text), end


class _Steps(dict[int, tuple[int, bytes, int]]):
    """What one byte of Huffman's code does: the library's table goes by halves of bytes.

    The key is the state, times 256, and the byte. What it leads to is the next state, times 256,
    the text that comes of it, and whether the code may end here.
    """

    __slots__ = ()

    def __missing__(self, key: int) -> tuple[int, bytes, int]:
        state = key >> 8
        text = b""
        flags = 0
        for half in ((key >> 4) & 0x0F, key & 0x0F):
            state, flags, byte = HUFFMAN_TABLE[state * 16 + half]
            if flags & HUFFMAN_FAIL:
                raise HPACKDecodingError("what is no Huffman code")
            if flags & HUFFMAN_EMIT_SYMBOL:
                text += bytes((byte,))
        if len(self) >= _MAX_STEPS:
            self.clear()
        step = self[key] = (state << 8, text, flags & HUFFMAN_COMPLETE)
        return step


_steps: Final = _Steps()


def _unpacked(code: bytes) -> bytes:
    state, complete = 0, HUFFMAN_COMPLETE
    pieces = []
    for byte in code:
        state, text, complete = _steps[state | byte]
        pieces.append(text)
    if not complete:
        raise HPACKDecodingError("Huffman code that is cut off")
    return b"".join(pieces)


class BlockEncoder(Encoder):
    """The library's encoder, which remembers where in its table each field is."""

    def __init__(self) -> None:
        super().__init__()
        # Entries have come into the table; the number of each, by field and by name. What has
        # left the table is still in there, with a number that says so.
        self._added = 0
        self._places: dict[tuple[bytes, bytes], int] = {}
        self._names: dict[bytes, int] = {}

    @property
    def header_table_size(self) -> int:
        """Bytes that the table may take."""
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        # The peer says how much it would keep; how much of that is used is this side's choice.
        table = self.header_table
        is_untold = table.resized
        table.maxsize = min(value, _MAX_TABLE_SIZE)
        if table.resized:
            # Section 4.2: the smallest since the last block and the last; those between may be
            # more than is allowed by now.
            smallest = min(*self.table_size_changes, table.maxsize, _MAX_TABLE_SIZE)
            self.table_size_changes = [smallest, table.maxsize][smallest == table.maxsize :]
        # To be told the same size twice takes nothing back of what the peer must be told.
        table.resized = table.resized or is_untold

    def encode(self, headers: Iterable[tuple[bytes, bytes]], huffman: bool = True) -> bytes:  # type: ignore[override]  # noqa: ARG002, FBT001, FBT002 - the library's signature
        """Encode a header block.

        Args:
            headers: The fields, plain or of the library's classes.
            huffman: True.

        Returns:
            The block.
        """
        table = self.header_table
        entries = table.dynamic_entries
        # The library knows how to tell of another size of the table.
        pieces = [super().encode(())] if table.resized else []
        places = self._places
        for field in headers:
            if type(field) is not tuple and getattr(field, "indexable", True) is False:
                pieces.append(_literal(self._name_index(field[0]), field, 0x10, 4))
                continue
            place = places.get(field)
            if place is not None and self._added - place < len(entries):
                index = _STATIC_SIZE + self._added - place
                pieces.append(_INDEXED[index] if index < 127 else _prefixed(index, 7, 0x80))
                continue
            known = _STATIC_FIELDS.get(field)
            pieces.append(self._encode_new(field) if known is None else known)
        return b"".join(pieces)

    def _encode_new(self, field: tuple[bytes, bytes]) -> bytes:
        name = field[0]
        if name in _UNSTEADY:
            known = _counts.get(field)
            if known is None:
                # All of these names are in the static table.
                known = _literal(_STATIC_NAMES[name], field, 0, 4)
                if name in _COUNTS and len(field[1]) <= _MAX_COUNT_SIZE:
                    if len(_counts) >= _MAX_COUNTS:
                        _counts.clear()
                    _counts[tuple(field)] = known  # type: ignore[index]  # of two
            return known
        table = self.header_table
        if len(name) + len(field[1]) + _OVERHEAD > table.maxsize * 3 // 4:
            # It would push out nearly all that comes again (as nghttp2 has it).
            return _literal(self._name_index(name), field, 0, 4)
        encoded = _literal(self._name_index(name), field, 0x40, 6)
        entries = table.dynamic_entries
        plain = (name, field[1])
        table.add(*plain)
        self._added += 1
        self._places[plain] = self._names[name] = self._added
        if len(self._places) > 2 * len(entries) + 16:
            self._forget()
        return encoded

    def _name_index(self, name: bytes) -> int:
        # 0 where no table holds the name.
        index = _STATIC_NAMES.get(name)
        if index is None:
            age = self._added - self._names.get(name, -_MAX_TABLE_SIZE)
            index = _STATIC_SIZE + age if age < len(self.header_table.dynamic_entries) else 0
        return index

    def _forget(self) -> None:
        # What has left the table.
        self._places = {}
        self._names = {}
        entries = self.header_table.dynamic_entries
        for place, field in enumerate(reversed(entries), self._added - len(entries) + 1):
            self._places[field] = self._names[field[0]] = place


def _literal(index: int, field: tuple[bytes, bytes], kind: int, prefix: int) -> bytes:
    head = _prefixed(index, prefix, kind)
    if not index:
        head += _text(field[0])
    return head + _text(field[1])


def _text(text: bytes) -> bytes:
    # Huffman's code always, as the library does: it may be longer for what is no ASCII.
    if not text:
        return b"\x80"
    bits = "".join([_CODES[byte] for byte in text])
    short = -len(bits) % 8
    code = int(bits + "1" * short, 2).to_bytes((len(bits) + short) // 8, "big")
    return _prefixed(len(code), 7, 0x80) + code


def _prefixed(value: int, prefix: int, kind: int) -> bytes:
    limit = (1 << prefix) - 1
    if value < limit:
        return bytes((kind | value,))
    encoded = bytearray((kind | limit,))
    value -= limit
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
