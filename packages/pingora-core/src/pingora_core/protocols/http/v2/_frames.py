"""The few HTTP/2 frames that this side reads or writes itself, past the library (RFC 9113 section 6).

The library refuses frames of live streams once it has sent or seen a GOAWAY; graceful endings are
therefore kept from it. The first SETTINGS are ours too, because some limits are enforced here and
more kindly than the library would.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "CONTINUATION",
    "DATA",
    "GOAWAY",
    "HEADERS",
    "PING",
    "PREFACE",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "WINDOW_UPDATE",
    "ErrorCode",
    "goaway_frame",
    "headers_frames",
    "parse_goaway",
    "settings_frame",
]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

_SETTING: Final = struct.Struct(">HI")
_GOAWAY: Final = struct.Struct(">II")


class ErrorCode:
    """Error codes (RFC 9113 section 7)."""

    NO_ERROR: Final = 0x0
    PROTOCOL_ERROR: Final = 0x1
    INTERNAL_ERROR: Final = 0x2
    FLOW_CONTROL_ERROR: Final = 0x3
    STREAM_CLOSED: Final = 0x5
    FRAME_SIZE_ERROR: Final = 0x6
    REFUSED_STREAM: Final = 0x7
    CANCEL: Final = 0x8
    COMPRESSION_ERROR: Final = 0x9
    CONNECT_ERROR: Final = 0xA
    ENHANCE_YOUR_CALM: Final = 0xB
    HTTP_1_1_REQUIRED: Final = 0xD


def settings_frame(settings: Iterable[tuple[int, int]]) -> bytes:
    """Make a SETTINGS frame.

    Args:
        settings: Identifiers and values.

    Returns:
        The frame.
    """
    payload = b"".join(_SETTING.pack(code, value) for code, value in settings)
    return len(payload).to_bytes(3, "big") + b"\x04\x00\x00\x00\x00\x00" + payload


def goaway_frame(last_stream_id: int, code: int, debug: bytes = b"") -> bytes:
    """Make a GOAWAY frame.

    Args:
        last_stream_id: Streams above it were not processed.
        code: Why.
        debug: Said to whoever reads the peer's logs.

    Returns:
        The frame.
    """
    payload = _GOAWAY.pack(last_stream_id, code) + debug
    return len(payload).to_bytes(3, "big") + b"\x07\x00\x00\x00\x00\x00" + payload


def headers_frames(stream_id: int, block: bytes, max_frame_size: int, *, end: bool) -> bytes:
    """Make a HEADERS frame, and CONTINUATION frames where it is not enough.

    Args:
        stream_id: On which stream.
        block: The header block.
        max_frame_size: Largest payload of a frame, bytes.
        end: Whether the stream ends with it.

    Returns:
        The frames.
    """
    number = stream_id.to_bytes(4, "big")
    size = len(block)
    if size <= max_frame_size:
        return size.to_bytes(3, "big") + (b"\1\5" if end else b"\1\4") + number + block
    frames = [max_frame_size.to_bytes(3, "big") + (b"\1\1" if end else b"\1\0") + number]
    frames.append(block[:max_frame_size])
    for at in range(max_frame_size, size, max_frame_size):
        piece = block[at : at + max_frame_size]
        flags = b"\x09\4" if at + max_frame_size >= size else b"\x09\0"
        frames.append(len(piece).to_bytes(3, "big") + flags + number)
        frames.append(piece)
    return b"".join(frames)


def parse_goaway(payload: bytes) -> tuple[int, int, bytes]:
    """Read the payload of a GOAWAY frame.

    Args:
        payload: At least 8 bytes.

    Returns:
        The last stream, the error code, the debug data.
    """
    last, code = _GOAWAY.unpack_from(payload)
    return last & 0x7FFFFFFF, code, payload[8:]
