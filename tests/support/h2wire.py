"""The frames of HTTP/2 as bytes, for the test client and the test origin.

It shares no code with the packages under test nor with the library that they use, on purpose: a
frame is what RFC 9113 section 4.1 says, and any frame can be made, legal or not. Only header
blocks are left to `hpack`; and blocks that no encoder would make can be put together here.

The sections are of RFC 9113 unless another RFC is named.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ACK",
    "DEFAULT_FRAME_SIZE",
    "DEFAULT_WINDOW",
    "END_HEADERS",
    "END_STREAM",
    "MAX_WINDOW",
    "PADDED",
    "PREFACE",
    "PRIORITY_FLAG",
    "Code",
    "Fields",
    "Frame",
    "FrameReader",
    "Kind",
    "Setting",
    "Settings",
    "block_pieces",
    "data_frame",
    "goaway_frame",
    "header_frames",
    "hpack_indexed",
    "hpack_literal",
    "hpack_table_size",
    "parse_settings",
    "ping_frame",
    "priority_frame",
    "rst_frame",
    "settings_ack",
    "settings_frame",
    "window_frame",
]

Fields: TypeAlias = list[tuple[bytes, bytes]]
Settings: TypeAlias = "Mapping[int, int] | Mapping[Setting, int]"

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DEFAULT_WINDOW: Final = 65535
DEFAULT_FRAME_SIZE: Final = 16384
MAX_WINDOW: Final = 2**31 - 1

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FLAG: Final = 0x20

_STREAM_MASK: Final = 0x7FFFFFFF


class Kind(IntEnum):
    """The types of frames (section 6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Code(IntEnum):
    """The error codes (section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(IntEnum):
    """The settings (section 6.5.2; RFC 8441 section 3)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    ENABLE_CONNECT_PROTOCOL = 8


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame.

    Attributes:
        kind: Its type, a ``Kind`` or any other number.
        flags: Its flags.
        stream_id: Its stream; the reserved bit is kept in ``reserved``.
        payload: What it carries.
        reserved: The bit that must be unset.
    """

    kind: int
    flags: int = 0
    stream_id: int = 0
    payload: bytes = b""
    reserved: bool = False

    def encode(self, *, length: int | None = None) -> bytes:
        """Write the frame.

        Args:
            length: Length to claim; None for the true one.

        Returns:
            Its bytes.
        """
        size = len(self.payload) if length is None else length
        stream_id = self.stream_id | (self.reserved << 31)
        return (
            struct.pack(">I", size)[1:]
            + struct.pack(">BBI", self.kind, self.flags, stream_id)
            + self.payload
        )

    def has(self, flag: int) -> bool:
        """Tell whether a flag is set.

        Args:
            flag: Its bit.
        """
        return bool(self.flags & flag)

    @property
    def number(self) -> int:
        """What RST_STREAM and WINDOW_UPDATE carry: an error code, or an increment."""
        return int.from_bytes(self.payload[:4], "big") & _STREAM_MASK

    @property
    def code(self) -> int:
        """The error code of RST_STREAM or GOAWAY."""
        at = 4 if self.kind == Kind.GOAWAY else 0
        return int.from_bytes(self.payload[at : at + 4], "big")

    def __str__(self) -> str:
        name = Kind(self.kind).name if self.kind in set(Kind) else f"type {self.kind:#x}"
        return f"{name} on stream {self.stream_id} ({self.flags:#x}, {len(self.payload)} bytes)"


class FrameReader:
    """Takes frames out of bytes as they arrive.

    Attributes:
        pending: Bytes of a frame that is not complete.
    """

    def __init__(self) -> None:
        self.pending = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes.

        Args:
            data: What has arrived.

        Returns:
            The frames that are complete now.
        """
        self.pending += data
        frames: list[Frame] = []
        at = 0
        while len(self.pending) - at >= 9:
            size = int.from_bytes(self.pending[at : at + 3], "big")
            if len(self.pending) - at < 9 + size:
                break
            kind, flags, word = struct.unpack_from(">BBI", self.pending, at + 3)
            payload = bytes(self.pending[at + 9 : at + 9 + size])
            frames.append(Frame(kind, flags, word & _STREAM_MASK, payload, bool(word >> 31)))
            at += 9 + size
        del self.pending[:at]
        return frames


# ------------------------------------------------------------------ making frames


def data_frame(stream_id: int, data: bytes = b"", *, end: bool = False, padding: int = -1) -> Frame:
    """Make DATA.

    Args:
        stream_id: Its stream.
        data: Its data.
        end: Whether it ends the stream.
        padding: Bytes of padding; -1 for a frame that is not padded.
    """
    flags = END_STREAM if end else 0
    if padding >= 0:
        return Frame(
            Kind.DATA, flags | PADDED, stream_id, bytes((padding,)) + data + bytes(padding)
        )
    return Frame(Kind.DATA, flags, stream_id, data)


def header_frames(
    stream_id: int, block: bytes, *, end: bool = False, size: int = DEFAULT_FRAME_SIZE
) -> list[Frame]:
    """Make HEADERS, and CONTINUATION as needed.

    Args:
        stream_id: Their stream.
        block: The header block.
        end: Whether the stream ends with it.
        size: Payload of one frame at most, bytes.
    """
    pieces = [block[at : at + size] for at in range(0, len(block), size)] or [b""]
    last = len(pieces) - 1
    return [
        Frame(
            Kind.CONTINUATION if number else Kind.HEADERS,
            (END_STREAM if end and not number else 0) | (END_HEADERS if number == last else 0),
            stream_id,
            piece,
        )
        for number, piece in enumerate(pieces)
    ]


def settings_frame(settings: Settings | Iterable[tuple[int, int]] = ()) -> Frame:
    """Make SETTINGS.

    Args:
        settings: What to announce.
    """
    pairs = settings.items() if isinstance(settings, Mapping) else settings
    return Frame(Kind.SETTINGS, payload=b"".join(struct.pack(">HI", *pair) for pair in pairs))


def settings_ack() -> Frame:
    """Make the acknowledgement of SETTINGS."""
    return Frame(Kind.SETTINGS, ACK)


def ping_frame(data: bytes = b"12345678", *, ack: bool = False) -> Frame:
    """Make PING.

    Args:
        data: Eight bytes.
        ack: Whether it answers one.
    """
    return Frame(Kind.PING, ACK if ack else 0, payload=data)


def goaway_frame(last: int = 0, code: int = Code.NO_ERROR, debug: bytes = b"") -> Frame:
    """Make GOAWAY.

    Args:
        last: The last stream that is dealt with.
        code: Why.
        debug: What else there is to say.
    """
    return Frame(Kind.GOAWAY, payload=struct.pack(">II", last, code) + debug)


def window_frame(stream_id: int, increment: int) -> Frame:
    """Make WINDOW_UPDATE.

    Args:
        stream_id: Its stream, 0 for the connection.
        increment: Bytes; 0 and more than 2**31 - 1 are illegal.
    """
    return Frame(Kind.WINDOW_UPDATE, 0, stream_id, struct.pack(">I", increment))


def rst_frame(stream_id: int, code: int = Code.CANCEL) -> Frame:
    """Make RST_STREAM.

    Args:
        stream_id: Its stream.
        code: Why.
    """
    return Frame(Kind.RST_STREAM, 0, stream_id, struct.pack(">I", code))


def priority_frame(stream_id: int, parent: int = 0, weight: int = 15) -> Frame:
    """Make PRIORITY.

    Args:
        stream_id: Its stream.
        parent: The stream that it depends on.
        weight: One less than its weight.
    """
    return Frame(Kind.PRIORITY, 0, stream_id, struct.pack(">IB", parent, weight))


# ---------------------------------------------------------------- reading payloads


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """Read SETTINGS.

    Args:
        payload: What the frame carries, a multiple of six bytes.

    Returns:
        Identifiers and values in order.
    """
    return [(code, value) for code, value in struct.iter_unpack(">HI", payload)]


def block_pieces(frame: Frame) -> bytes | None:
    """Take padding and priority away from HEADERS or DATA.

    Args:
        frame: The frame.

    Returns:
        What is left; None if the padding is as long as the payload, or the frame too short.
    """
    payload = frame.payload
    padding = 0
    if frame.has(PADDED):
        if not payload:
            return None
        padding = payload[0]
        payload = payload[1:]
    if frame.kind == Kind.HEADERS and frame.has(PRIORITY_FLAG):
        if len(payload) < 5:
            return None
        payload = payload[5:]
    if padding > len(payload):
        return None
    return payload[: len(payload) - padding]


# ----------------------------------------------------- header blocks made by hand


def _hpack_integer(value: int, bits: int, first: int) -> bytes:
    # RFC 7541 section 5.1.
    limit = (1 << bits) - 1
    if value < limit:
        return bytes((first | value,))
    out = bytearray((first | limit,))
    value -= limit
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def hpack_indexed(index: int) -> bytes:
    """Write a field as a reference into the tables (RFC 7541 section 6.1).

    Args:
        index: Which entry; 62 is the newest of the dynamic table.
    """
    return _hpack_integer(index, 7, 0x80)


def hpack_literal(name: bytes, value: bytes, *, first: int = 0x40) -> bytes:
    """Write a field as it is (RFC 7541 section 6.2).

    Args:
        name: Its name.
        value: Its value.
        first: 0x40 to add it to the table, 0x00 not to, 0x10 for never.
    """
    out = bytes((first,))
    for text in (name, value):
        out += _hpack_integer(len(text), 7, 0x00) + text
    return out


def hpack_table_size(size: int) -> bytes:
    """Write a change of the table's size (RFC 7541 section 6.3).

    Args:
        size: Bytes.
    """
    return _hpack_integer(size, 5, 0x20)
