"""Decoding message bodies: sans-I/O, one object for each body.

Theory of operation: ``feed`` takes the bytes as they arrive and returns the payload in them.
What lies behind the end of the body is kept in ``excess``: it belongs to the next message. The
chunked decoder is strict (RFC 9112 section 7.1): every CRLF is checked, bare CR and LF are
refused, and what is not payload is bounded.

``_left`` counts payload bytes that are known to follow: of the body, or of the chunk. While more
of them are due than have arrived, a piece is nothing but payload and is passed on as it is.
"""

from __future__ import annotations

import re
import sys
from typing import Final

from pingora_core.protocols.http.v1.framing import CHUNKED, UNTIL_CLOSE
from pingora_error import INVALID_CHUNK, INVALID_TRAILER_END, Error, ErrorType
from pingora_http import HeaderMap
from pingora_http.grammar import is_field_value, is_token

__all__ = ["FORBIDDEN_TRAILERS", "BodyReader"]

_MAX_CHUNK_LINE: Final = 8192
_MAX_TRAILER_SIZE: Final = 65536
_MAX_TRAILERS: Final = 256
# Bytes of chunk lines that may exceed 16 per chunk plus twice the payload, before a body counts
# as an attack by extensions (precedent: Go's net/http/internal/chunked.go).
_MAX_OVERHEAD: Final = 16384
_MAX_CHUNK: Final = (1 << 63) - 1

# chunk-size [ chunk-ext ]; possessive, so that a long line cannot be made to backtrack.
_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*+"'
_CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,16}+)"
    rb"(?:[ \t]*+;[ \t]*+%b(?:[ \t]*+=[ \t]*+(?:%b|%b))?)*" % (_TOKEN, _TOKEN, _QUOTED)
).fullmatch

# A trailer section that holds one of these wants to change the framing or the routing of a
# message that has already been framed and routed.
_REFUSED_TRAILERS: Final = frozenset({b"content-length", b"host", b"transfer-encoding"})

FORBIDDEN_TRAILERS: Final = _REFUSED_TRAILERS | {
    b"authorization",
    b"connection",
    b"content-encoding",
    b"content-range",
    b"content-type",
    b"cookie",
    b"expect",
    b"keep-alive",
    b"proxy-authorization",
    b"proxy-connection",
    b"set-cookie",
    b"te",
    b"trailer",
    b"upgrade",
}
"""Fields that mean nothing behind the body, or too much (RFC 9110 section 6.5.1)."""

# What the chunked decoder waits for.
_LINE, _DATA, _DATA_END, _TRAILERS = range(4)


class BodyReader:
    r"""Decodes one body.

    Args:
        length: Number of bytes, ``CHUNKED`` or ``UNTIL_CLOSE``.
        max_chunk_line: Longest chunk size with its extensions, bytes (Pingora: 8 KiB).
        max_trailer_size: Longest trailer section, bytes (Pingora: 64 KiB).

    Attributes:
        is_done: Whether the end of the body was reached.
        excess: Bytes behind the end.
        trailers: The trailer section of a chunked body that had one, without the fields that
            may not be there.
        bytes_read: Payload bytes so far.

    Examples:
        >>> reader = BodyReader(CHUNKED)
        >>> reader.feed(b"5\r\nhel"), reader.feed(b"lo\r\n0\r\n\r\nGET")
        (b'hel', b'lo')
        >>> reader.is_done, reader.excess
        (True, b'GET')

    Source: pingora-core/src/protocols/http/v1/body.rs; RFC 9112 sections 6 and 7.1.
    """

    __slots__ = (
        "_left",
        "_length",
        "_max_chunk_line",
        "_max_trailer_size",
        "_overhead",
        "_pending",
        "_state",
        "bytes_read",
        "excess",
        "is_done",
        "trailers",
    )

    def __init__(
        self,
        length: int,
        *,
        max_chunk_line: int = _MAX_CHUNK_LINE,
        max_trailer_size: int = _MAX_TRAILER_SIZE,
    ) -> None:
        self._length = length
        self._left = sys.maxsize if length == UNTIL_CLOSE else max(0, length)
        self._max_chunk_line = max_chunk_line
        self._max_trailer_size = max_trailer_size
        self._state = _LINE
        self._pending = b""
        self._overhead = 0
        self.is_done: bool = length == 0
        self.excess: bytes = b""
        self.trailers: HeaderMap | None = None
        self.bytes_read: int = 0

    def feed(self, data: bytes) -> bytes:
        """Decode bytes that have arrived.

        Args:
            data: The bytes, in order.

        Returns:
            The payload in them, maybe none: ``data`` itself where it is nothing but payload.

        Raises:
            Error: ``INVALID_CHUNK`` or ``INVALID_TRAILER_END``; the object is of no use then.
        """
        size = len(data)
        left = self._left
        if size < left:
            self._left = left - size
        elif self.is_done:
            self.excess += data
            return b""
        elif self._length == CHUNKED:
            data = self._feed_chunked(data)
            size = len(data)
        else:
            if size > left:
                self.excess = data[left:]
                data = data[:left]
                size = left
            self._left = 0
            self.is_done = True
        self.bytes_read += size
        return data

    def feed_eof(self) -> None:
        """Learn that no more bytes will come.

        Raises:
            Error: ``CONNECTION_CLOSED`` when the body is not complete.
        """
        if self._length == UNTIL_CLOSE:
            self.is_done = True
        if not self.is_done:
            raise Error(
                ErrorType.CONNECTION_CLOSED, f"closed within the body after {self.bytes_read} bytes"
            )

    # ---------------------------------------------------------------- chunked

    def _feed_chunked(self, data: bytes) -> bytes:
        if self._pending:
            data = self._pending + data
            self._pending = b""
        size = len(data)
        at = 0
        payload: list[tuple[int, int]] = []
        while at < size:
            state = self._state
            if state == _DATA:
                end = min(at + self._left, size)
                payload.append((at, end))
                self._left -= end - at
                at = end
                if self._left == 0:
                    self._state = _DATA_END
                continue
            step = self._line(data, at) if state == _LINE else self._after_data(data, at)
            if step == 0:
                self._pending = data[at:]
                break
            at += step
            if self.is_done:
                self.excess = data[at:]
                break
        if len(payload) == 1:
            start, end = payload[0]
            return data[start:end]
        view = memoryview(data)
        return b"".join([view[start:end] for start, end in payload])

    def _after_data(self, data: bytes, at: int) -> int:
        # Takes what follows the data of a chunk, or the last chunk. As the two below, returns
        # how much that is, or 0 when it has not arrived whole.
        if self._state == _TRAILERS:
            return self._trailer_section(data, at)
        if data.startswith(b"\r\n", at):
            self._state = _LINE
            return 2
        if data[at:] != b"\r":
            raise Error(INVALID_CHUNK, "no CRLF behind the data of a chunk")
        return 0

    def _line(self, data: bytes, at: int) -> int:
        # Takes the line before the data of a chunk.
        end = data.find(b"\r\n", at)
        line = data[at:end] if end >= 0 else data[at:]
        if len(line) > self._max_chunk_line:
            raise Error(INVALID_CHUNK, "the line of a chunk is too long")
        if end < 0:
            if b"\n" in line or b"\r" in line[:-1]:
                raise Error(INVALID_CHUNK, "bare CR or LF in the line of a chunk")
            return 0
        match = _CHUNK_LINE(line)
        if match is None:
            raise Error(INVALID_CHUNK, f"malformed chunk size {line[:40]!r}")
        size = int(match[1], 16)
        if size > _MAX_CHUNK:
            raise Error(INVALID_CHUNK, "a chunk is too large")
        self._overhead = max(0, self._overhead + len(line) + 2 - 16 - 2 * size)
        if self._overhead > _MAX_OVERHEAD:
            raise Error(INVALID_CHUNK, "too much besides payload in the chunks")
        self._left = size
        self._state = _DATA if size else _TRAILERS
        return end + 2 - at

    def _trailer_section(self, data: bytes, at: int) -> int:
        if data.startswith(b"\r\n", at):
            self.is_done = True
            return 2
        end = data.find(b"\r\n\r\n", at)
        size = (end + 4 if end >= 0 else len(data)) - at
        if size > self._max_trailer_size:
            raise Error(INVALID_TRAILER_END, "the trailer section is too large")
        if end < 0:
            pairs = data.count(b"\r\n", at)
            returns = data.count(b"\r", at) - data.endswith(b"\r")
            if data.count(b"\n", at) != pairs or returns != pairs:
                raise Error(INVALID_TRAILER_END, "bare CR or LF in the trailer section")
            return 0
        self._take_trailers(data[at:end].split(b"\r\n"))
        self.is_done = True
        return size

    def _take_trailers(self, lines: list[bytes]) -> None:
        if len(lines) > _MAX_TRAILERS:
            raise Error(INVALID_TRAILER_END, "too many trailer fields")
        fields: list[tuple[bytes, bytes]] = []
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or not is_token(name) or not is_field_value(value):
                raise Error(INVALID_TRAILER_END, "malformed trailer field")
            key = name.lower()
            if key in _REFUSED_TRAILERS:
                raise Error(INVALID_TRAILER_END, f"{key.decode('ascii')} in the trailer section")
            if key not in FORBIDDEN_TRAILERS:
                fields.append((name, value.strip(b" \t")))
        if fields:
            self.trailers = HeaderMap.from_wire_items(fields)
