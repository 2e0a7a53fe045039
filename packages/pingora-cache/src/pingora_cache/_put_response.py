"""Reads the response that is put into a cache: HTTP/1 text, as it comes in as a request body.

```
 head  --> body of a known length --> done (what follows is dropped)
   |-----> body up to the end
   '-----> done (204, 304, Content-Length: 0)
```

The body stands there as it is to be stored. Chunks are not looked for, even if the head says so:
the framing of the request that brings it has been taken off already.

Old ways of writing a head are understood (a field that goes on in the next line, white space
before a colon), since nothing is passed on as it came. What makes a head ambiguous is refused,
other than in the original: a ``Content-Length`` that is no number or says two things, since it
would be stored and then served.

Source: mod parse_response in pingora-cache/src/put.rs; RFC 9112 sections 5.1 and 5.2.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from pingora_cache._head_text import MAX_HEAD_SIZE, read_response_head
from pingora_error import Custom, Error, ErrorType

if TYPE_CHECKING:
    from pingora_http import ResponseHeader

__all__ = ["INCOMPLETE_BODY", "PutBody", "PutEvent", "PutHead", "ResponseParser"]

INCOMPLETE_BODY: Final = Custom("IncompleteHttpBody")
"""What was put ended before the response was complete."""

_BAD: Final = ErrorType.INVALID_HTTP_HEADER
_FOLD: Final = re.compile(rb"\r\n[ \t]+")
_NO_BODY: Final = frozenset({204, 304})
# A 64-bit number has 19 digits at most.
_MAX_LENGTH_DIGITS: Final = 18


class PutHead(NamedTuple):
    """The head is complete.

    Attributes:
        header: The head.
        end: Whether there is no body.
    """

    header: ResponseHeader
    end: bool


class PutBody(NamedTuple):
    """A piece of the body.

    Attributes:
        data: The piece, not empty.
        end: Whether the body is complete with it. Not known of a body without a length.
    """

    data: bytes
    end: bool


PutEvent: TypeAlias = PutHead | PutBody


class ResponseParser:
    """Takes a response apart, piece by piece."""

    __slots__ = ("_head", "_is_done", "_left", "_searched")

    def __init__(self) -> None:
        self._head: bytearray | None = bytearray()
        self._searched = 0
        self._left: int | None = None  # bytes of the body to come, if that is known
        self._is_done = False

    @property
    def is_done(self) -> bool:
        """Whether the response is complete; what follows is dropped."""
        return self._is_done

    def feed(self, data: bytes) -> list[PutEvent]:
        """Read on.

        Args:
            data: What follows.

        Returns:
            What has become complete with it.

        Raises:
            Error: ``INVALID_HTTP_HEADER`` if it is no response, or its head is too large. Nothing
                can be read after that.
        """
        if self._is_done or not data:
            return []
        if self._head is None:
            return [self._body(data)]
        head = self._take_head(self._head, data)
        if head is None:
            return []
        raw, rest = head
        header = _read_head(raw)
        left = _body_length(header)
        self._left, self._is_done, self._head = left, left == 0, None
        events: list[PutEvent] = [PutHead(header, self._is_done)]
        if rest and not self._is_done:
            events.append(self._body(rest))
        return events

    def finish(self) -> None:
        """Say that nothing follows.

        Raises:
            Error: ``INCOMPLETE_BODY`` if something is missing.
        """
        if self._head is not None:
            raise Error(INCOMPLETE_BODY, f"the head ends after {len(self._head)} bytes")
        if self._left:
            raise Error(INCOMPLETE_BODY, f"{self._left} bytes of the body are missing")
        self._is_done = True

    def _take_head(self, head: bytearray, data: bytes) -> tuple[bytes, bytes] | None:
        head += data
        # Its end may be split over two pieces; what was searched is not searched again.
        end = head.find(b"\r\n\r\n", max(self._searched - 3, 0))
        self._searched = len(head)
        if (len(head) if end < 0 else end + 4) > MAX_HEAD_SIZE:
            raise Error(_BAD, f"the head is larger than {MAX_HEAD_SIZE} bytes")
        if end < 0:
            return None
        return bytes(head[: end + 4]), bytes(head[end + 4 :])

    def _body(self, data: bytes) -> PutBody:
        if self._left is None:
            return PutBody(data, end=False)
        piece = data[: self._left]
        self._left -= len(piece)
        self._is_done = self._left == 0
        return PutBody(piece, end=self._is_done)


def _read_head(raw: bytes) -> ResponseHeader:
    # Written as it should have been, it is checked like any head that is read back.
    status, _, fields = raw[:-2].partition(b"\r\n")
    if fields[:1] in {b" ", b"\t"}:
        raise Error(_BAD, "a head that begins with a continued line")
    lines = [status]
    for line in _FOLD.sub(b" ", fields).split(b"\r\n")[:-1]:
        name, colon, value = line.partition(b":")
        lines.append(b"%b%b %b" % (name.rstrip(b" \t"), colon, value.strip(b" \t")))
    return read_response_head(b"\r\n".join(lines) + b"\r\n\r\n", _BAD)


def _body_length(header: ResponseHeader) -> int | None:
    if header.status in _NO_BODY:
        return 0
    lines = header.get_all_raw(b"content-length")
    if not lines:
        return None
    lengths = {item.strip(b" \t") for line in lines for item in line.split(b",")}
    length = lengths.pop()
    if lengths or not length.isdigit() or len(length) > _MAX_LENGTH_DIGITS:
        raise Error(_BAD, "malformed Content-Length")
    return int(length)
