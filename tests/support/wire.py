"""A strict reader of HTTP/1 messages for the test client and the test origin.

It shares no code with the packages under test, on purpose: what both sides of a proxy must agree
on is the wire, and a reader that is stricter than most catches what a lenient one would forgive.

Rules of this file: ``Truncated`` means that the peer went away within a message; ``WireError``
means that it broke the grammar. Neither is ever turned into a message that looks complete.
"""

from __future__ import annotations

import re
from asyncio import IncompleteReadError, LimitOverrunError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncio import StreamReader

__all__ = [
    "CHUNKED",
    "UNTIL_CLOSE",
    "BodyStream",
    "Head",
    "Truncated",
    "WireError",
    "read_head",
    "request_framing",
    "response_framing",
]

CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2

_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*?)[ \t]*")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] [1-9][0-9][0-9] [\t -~\x80-\xff]*")
_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-~\x80-\xff]+ HTTP/1\.[01]")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(;[\t -~\x80-\xff]*)?\r\n")
_DIGITS = re.compile(r"[0-9]+")


class WireError(Exception):
    """The peer sent something that is no HTTP/1."""


class Truncated(Exception):  # noqa: N818 - it is an observation, not always an error
    """The peer went away within a message.

    Attributes:
        partial: What had arrived of the part that was being read.
        reset: Whether the connection was reset rather than closed.
    """

    def __init__(self, partial: bytes, *, reset: bool = False) -> None:
        super().__init__(f"{'reset' if reset else 'closed'} after {partial[:80]!r}")
        self.partial = partial
        self.reset = reset


@dataclass(frozen=True, slots=True)
class Head:
    """The head of one message.

    Attributes:
        raw: Its bytes, the final empty line included.
        start_line: The request or status line.
        fields: Names as sent, and values.
    """

    raw: bytes
    start_line: str
    fields: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str | None:
        """Return the first value of a field, or None.

        Args:
            name: Its name, in any case.
        """
        return next(iter(self.get_all(name)), None)

    def get_all(self, name: str) -> list[str]:
        """Return all values of a field.

        Args:
            name: Its name, in any case.
        """
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def tokens(self, name: str) -> list[str]:
        """Return the comma-separated tokens of a field in lower case.

        Args:
            name: Its name, in any case.
        """
        values = ",".join(self.get_all(name)).split(",")
        return [value.strip().lower() for value in values if value.strip()]


def parse_fields(lines: list[bytes]) -> tuple[tuple[str, str], ...]:
    """Read field lines.

    Args:
        lines: The lines without their ends.

    Returns:
        Names and values.

    Raises:
        WireError: If a line is not a field.
    """
    fields: list[tuple[str, str]] = []
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            msg = f"not a field line: {line!r}"
            raise WireError(msg)
        fields.append((match[1].decode("latin-1"), match[2].decode("latin-1")))
    return tuple(fields)


async def read_head(reader: StreamReader, *, response: bool) -> Head | None:
    """Read one head.

    Args:
        reader: Where from.
        response: Whether a status line is expected, else a request line.

    Returns:
        The head; None when the peer closed before its first byte.

    Raises:
        Truncated: If the peer went away within the head, or reset the connection.
        WireError: If it is malformed.
    """
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except IncompleteReadError as error:
        if not error.partial:
            return None
        raise Truncated(error.partial) from None
    except LimitOverrunError as error:
        msg = f"no end of head within {error.consumed} bytes"
        raise WireError(msg) from None
    except OSError:
        raise Truncated(b"", reset=True) from None
    start_line, *lines = raw[:-4].split(b"\r\n")
    grammar = _STATUS_LINE if response else _REQUEST_LINE
    if grammar.fullmatch(start_line) is None:
        msg = f"malformed start line: {start_line!r}"
        raise WireError(msg)
    return Head(raw, start_line.decode("latin-1"), parse_fields(lines))


def _framing(head: Head, default: int) -> int:
    lengths = head.get_all("content-length")
    codings = head.tokens("transfer-encoding")
    if len(lengths) > 1 or (lengths and codings):
        msg = f"ambiguous framing: {head.raw!r}"
        raise WireError(msg)
    if codings:
        if codings != ["chunked"]:
            msg = f"unexpected transfer coding: {codings}"
            raise WireError(msg)
        return CHUNKED
    if not lengths:
        return default
    if _DIGITS.fullmatch(lengths[0]) is None:
        msg = f"malformed Content-Length: {lengths[0]!r}"
        raise WireError(msg)
    return int(lengths[0])


def request_framing(head: Head) -> int:
    """Decide how the body of a request is delimited.

    Args:
        head: Its head.

    Returns:
        Bytes, or ``CHUNKED``.

    Raises:
        WireError: If the framing fields are malformed or contradict each other.
    """
    return _framing(head, 0)


def response_framing(head: Head, method: str) -> int:
    """Decide how the body of a response is delimited.

    Args:
        head: Its head.
        method: Method of the request it answers.

    Returns:
        Bytes, ``CHUNKED`` or ``UNTIL_CLOSE``.

    Raises:
        WireError: If the framing fields are malformed, contradict each other, or stand in a
            head that must not have any.
    """
    status = int(head.start_line.split(" ")[1])
    framing = _framing(head, UNTIL_CLOSE)
    if status < 200 or status == 204:
        if framing != UNTIL_CLOSE:
            msg = f"a {status} with framing fields: {head.raw!r}"
            raise WireError(msg)
        return 0
    if status == 304 or method == "HEAD":
        return 0
    if framing == CHUNKED and head.start_line.startswith("HTTP/1.0"):
        msg = "chunked in an HTTP/1.0 response"
        raise WireError(msg)
    return framing


class BodyStream:
    """The body of one message, piece by piece.

    Attributes:
        is_done: Whether the end was seen, as the framing tells it.
        received: Payload bytes so far.
        trailers: Fields after a chunked body.
    """

    def __init__(self, reader: StreamReader, framing: int) -> None:
        """Start at the first byte after the head.

        Args:
            reader: Where from.
            framing: Bytes, ``CHUNKED`` or ``UNTIL_CLOSE``.
        """
        self._reader = reader
        self._framing = framing
        self._left = max(framing, 0)
        self.is_done = framing == 0
        self.received = bytearray()
        self.trailers: tuple[tuple[str, str], ...] = ()

    async def read(self) -> bytes:
        """Read the next piece.

        Returns:
            At least one byte; empty at the end of the body.

        Raises:
            Truncated: If the peer went away before the end; with all of the body so far.
            WireError: If the framing is malformed.
        """
        if self.is_done:
            return b""
        try:
            piece = await self._read()
        except IncompleteReadError:
            raise Truncated(bytes(self.received)) from None
        except OSError:
            raise Truncated(bytes(self.received), reset=True) from None
        self.received += piece
        return piece

    async def read_all(self) -> bytes:
        """Read to the end of the body.

        Returns:
            All of the body.

        Raises:
            Truncated: If the peer went away before the end.
            WireError: If the framing is malformed.
        """
        while await self.read():
            pass
        return bytes(self.received)

    async def _read(self) -> bytes:
        if self._framing == UNTIL_CLOSE:
            piece = await self._reader.read(65536)
            self.is_done = not piece
            return piece
        if self._framing == CHUNKED and self._left == 0:
            self._left = await self._read_chunk_line()
            if self._left == 0:
                await self._read_trailers()
                self.is_done = True
                return b""
        piece = await self._reader.read(min(self._left, 65536))
        if not piece:
            raise IncompleteReadError(b"", self._left)
        self._left -= len(piece)
        if self._left == 0:
            if self._framing >= 0:
                self.is_done = True
            else:
                end = await self._reader.readexactly(2)
                if end != b"\r\n":
                    msg = f"no line end after a chunk: {end!r}"
                    raise WireError(msg)
        return piece

    async def _read_chunk_line(self) -> int:
        line = await self._reader.readuntil(b"\n")
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            msg = f"malformed chunk line: {line!r}"
            raise WireError(msg)
        return int(match[1], 16)

    async def _read_trailers(self) -> None:
        lines: list[bytes] = []
        while (line := await self._reader.readuntil(b"\n")) != b"\r\n":
            if not line.endswith(b"\r\n"):
                msg = f"malformed trailer line: {line!r}"
                raise WireError(msg)
            lines.append(line[:-2])
        self.trailers = parse_fields(lines)
