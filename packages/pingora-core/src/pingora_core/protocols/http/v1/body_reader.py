"""Decoding message bodies: sans-I/O, one object for each body.

Theory of operation: ``feed`` takes the bytes as they arrive and returns the payload in them.
What lies behind the end of the body is kept in ``excess``: it belongs to the next message. The
chunked decoder is strict (RFC 9112 section 7.1): every CRLF is checked, bare CR and LF are
refused, and what is not payload is bounded.
"""

from __future__ import annotations

import re
from typing import Final

from pingora_core.protocols.http.v1.framing import CHUNKED, UNTIL_CLOSE
from pingora_error import INVALID_CHUNK, INVALID_TRAILER_END, Error, ErrorType
from pingora_http import HeaderMap
from pingora_http.grammar import is_field_value, is_token

__all__ = ["BodyReader"]

_MAX_CHUNK_LINE: Final = 8192
_MAX_TRAILER_SIZE: Final = 65536
_MAX_TRAILERS: Final = 256
# Bytes of chunk lines and CRLFs that may exceed 16 per chunk plus the payload, before a body
# counts as an attack by extensions (precedent: Go's internal/chunked.go).
_MAX_OVERHEAD: Final = 16384

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?").fullmatch
# Fields that would change framing, routing or what was already decided (RFC 9110 section 6.5.1).
_FORBIDDEN_TRAILERS: Final = frozenset(
    {
        b"authorization",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"cookie",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-authorization",
        b"proxy-connection",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

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
        trailers: The trailer section of a chunked body that had one.
        bytes_read: Payload bytes so far.

    Examples:
        >>> reader = BodyReader(CHUNKED)
        >>> reader.feed(b"5\r\nhel"), reader.feed(b"lo\r\n0\r\n\r\nGET")
        (b'hel', b'lo')
        >>> reader.is_done, reader.excess
        (True, b'GET')
    """

    __slots__ = (
        "_lines",
        "_max_chunk_line",
        "_max_trailer_size",
        "_mode",
        "_overhead",
        "_partial",
        "_remaining",
        "_state",
        "_trailer_size",
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
        self._mode = length
        self._remaining = max(0, length)
        self._max_chunk_line = max_chunk_line
        self._max_trailer_size = max_trailer_size
        self._state = _LINE
        self._partial = b""
        self._overhead = 0
        self._trailer_size = 0
        self._lines: list[tuple[bytes, bytes]] = []
        self.is_done = length == 0
        self.excess = b""
        self.trailers: HeaderMap | None = None
        self.bytes_read = 0

    def feed(self, data: bytes) -> bytes:
        """Decode bytes that have arrived.

        Args:
            data: The bytes, in order.

        Returns:
            The payload in them: ``data`` itself where it is nothing but payload.

        Raises:
            Error: ``INVALID_CHUNK`` or ``INVALID_TRAILER_END``.
        """
        if self.is_done:
            self.excess += data
            return b""
        if self._mode == CHUNKED:
            data = self._feed_chunked(data)
        elif self._mode != UNTIL_CLOSE:
            remaining = self._remaining
            if len(data) > remaining:
                self.excess = data[remaining:]
                data = data[:remaining]
            self._remaining = remaining = remaining - len(data)
            self.is_done = remaining == 0
        self.bytes_read += len(data)
        return data

    def feed_eof(self) -> None:
        """Learn that no more bytes will come.

        Raises:
            Error: ``CONNECTION_CLOSED`` when the body is not complete.
        """
        if self._mode == UNTIL_CLOSE:
            self.is_done = True
        if not self.is_done:
            raise Error(
                ErrorType.CONNECTION_CLOSED, f"closed within the body after {self.bytes_read} bytes"
            )

    # ---------------------------------------------------------------- chunked

    def _feed_chunked(self, data: bytes) -> bytes:
        if self._partial:
            data = self._partial + data
            self._partial = b""
        payload: list[bytes] = []
        at = 0
        size = len(data)
        while at < size and not self.is_done:
            state = self._state
            if state == _DATA:
                end = min(at + self._remaining, size)
                payload.append(data[at:end])
                self._remaining -= end - at
                at = end
                if self._remaining == 0:
                    self._state = _DATA_END
                continue
            if state == _DATA_END:
                if data[at : at + 2] != b"\r\n":
                    if data[at:] == b"\r":
                        break
                    raise Error(INVALID_CHUNK, "no CRLF behind the data of a chunk")
                at += 2
                self._state = _LINE
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._check_partial(data[at:])
                break
            if state == _LINE:
                self._take_chunk_line(data[at:end])
            else:
                self._take_trailer_line(data[at:end])
            at = end + 2
        if self.is_done:
            self.excess = data[at:]
        elif at < size:
            self._partial = data[at:]
        return payload[0] if len(payload) == 1 else b"".join(payload)

    def _check_partial(self, line: bytes) -> None:
        """Refuse a line that cannot become acceptable any more."""
        if self._state == _LINE:
            if len(line) > self._max_chunk_line:
                raise Error(INVALID_CHUNK, "the line of a chunk is too long")
            if b"\n" in line or b"\r" in line[:-1]:
                raise Error(INVALID_CHUNK, "bare CR or LF in the line of a chunk")
        else:
            if self._trailer_size + len(line) > self._max_trailer_size:
                raise Error(INVALID_TRAILER_END, "the trailer section is too large")
            if b"\n" in line or b"\r" in line[:-1]:
                raise Error(INVALID_TRAILER_END, "bare CR or LF in the trailer section")

    def _take_chunk_line(self, line: bytes) -> None:
        if len(line) > self._max_chunk_line:
            raise Error(INVALID_CHUNK, "the line of a chunk is too long")
        match = _CHUNK_LINE(line)
        if match is None:
            raise Error(INVALID_CHUNK, f"malformed chunk size {line[:40]!r}")
        length = int(match[1], 16)
        if length >= 1 << 63:
            raise Error(INVALID_CHUNK, "a chunk is too large")
        self._overhead = max(0, self._overhead + len(line) + 4 - 16 - 2 * length)
        if self._overhead > _MAX_OVERHEAD:
            raise Error(INVALID_CHUNK, "too much besides payload in the chunks")
        if length:
            self._remaining = length
            self._state = _DATA
        else:
            self._state = _TRAILERS

    def _take_trailer_line(self, line: bytes) -> None:
        if not line:
            self.is_done = True
            if self._lines:
                self.trailers = HeaderMap.from_wire_items(self._lines)
            return
        self._trailer_size += len(line) + 2
        if self._trailer_size > self._max_trailer_size or len(self._lines) >= _MAX_TRAILERS:
            raise Error(INVALID_TRAILER_END, "the trailer section is too large")
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        if not colon or not is_token(name) or not is_field_value(value):
            raise Error(INVALID_TRAILER_END, "malformed trailer field")
        if name.lower() not in _FORBIDDEN_TRAILERS:
            self._lines.append((name, value))
