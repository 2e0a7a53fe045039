"""Where a response that has no end of its own may be ended: between events, between messages.

A server that stops ends such responses. An event stream is best ended after a blank line, and a gRPC
response after a whole message, so that nothing that is half there is lost or taken for a fault. What
passes is followed, not parsed: an event stream costs a look at its last bytes, gRPC one at the
prefix of each message.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol

from pingora_http.names import CONTENT_TYPE

if TYPE_CHECKING:
    from pingora_http import ResponseHeader

__all__ = ["Boundaries", "EventTracker", "MessageTracker", "is_event_stream"]

_EVENT_STREAM: Final = b"text/event-stream"
# Two ends of line, each CR, LF or CRLF (WHATWG HTML section 9.2.5).
_BLANK_LINE: Final = re.compile(rb"\n\n|[\r\n]\r\n?")
_BLANK_ENDS: Final = (b"\n\n", b"\n\r", b"\r\r", b"\n\r\n", b"\r\r\n")
_PREFIX: Final = 5


class Boundaries(Protocol):
    """Follows a response body and knows where it may end."""

    @property
    def at_boundary(self) -> bool:
        """Whether it may end after what was fed so far."""

    def feed(self, data: bytes, /) -> None:
        """Follow a piece.

        Args:
            data: At least one byte.
        """

    def next_boundary(self, data: bytes, /) -> int:
        """Find where a piece that was not fed yet can be cut first.

        Args:
            data: The piece.

        Returns:
            How much of it is before the next boundary; -1 if there is none in it.
        """


class EventTracker:
    """Follows an event stream (``text/event-stream``)."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        # As much as may belong to a blank line; None before anything has come.
        self._tail: bytes | None = None

    @property
    def at_boundary(self) -> bool:
        """Whether the last event is whole."""
        return self._tail is None or self._tail.endswith(_BLANK_ENDS)

    def feed(self, data: bytes) -> None:
        """Follow a piece.

        Args:
            data: At least one byte.
        """
        if len(data) < 3 and self._tail:
            data = self._tail + data
        self._tail = data[-3:]

    def next_boundary(self, data: bytes) -> int:
        """Find where a piece that was not fed yet can be cut first.

        Args:
            data: The piece.

        Returns:
            How much of it is before the next boundary; -1 if there is none in it.
        """
        tail = self._tail
        if tail is None or tail.endswith(_BLANK_ENDS):
            return 0
        found = _BLANK_LINE.search(tail[-1:] + data)
        return -1 if found is None else found.end() - 1


class MessageTracker:
    """Follows a gRPC body: messages, each with a prefix of five bytes that holds its length."""

    __slots__ = ("_left", "_prefix", "at_boundary")

    def __init__(self) -> None:
        self.at_boundary: bool = True
        # The beginning of a prefix, and what is left of a message whose prefix is known.
        self._prefix = b""
        self._left = 0

    def feed(self, data: bytes) -> None:
        """Follow a piece.

        Args:
            data: At least one byte.
        """
        size = len(data)
        position = self._left
        if position > size:
            self._left = position - size
            return
        if self._prefix:
            data = self._prefix + data
            size = len(data)
            self._prefix = b""
        while size - position >= _PREFIX:
            position += _PREFIX + int.from_bytes(data[position + 1 : position + _PREFIX], "big")
        if position < size:
            self._prefix = data[position:]
        self._left = max(0, position - size)
        self.at_boundary = position == size

    def next_boundary(self, data: bytes) -> int:
        """Find where a piece that was not fed yet can be cut first.

        Args:
            data: The piece.

        Returns:
            How much of it is before the next boundary; -1 if there is none in it.
        """
        if self.at_boundary:
            return 0
        end = self._left
        if not end:
            prefix = (self._prefix + data[:_PREFIX])[:_PREFIX]
            if len(prefix) < _PREFIX:
                return -1
            end = _PREFIX + int.from_bytes(prefix[1:], "big") - len(self._prefix)
        return end if end <= len(data) else -1


def is_event_stream(response: ResponseHeader) -> bool:
    """Tell whether a response is an event stream, which ends only when somebody has enough of it.

    Args:
        response: The head.

    Returns:
        Whether its content type is ``text/event-stream``.
    """
    content_type = response.get_raw(CONTENT_TYPE)
    if content_type is None:
        return False
    return content_type.partition(b";")[0].strip(b" \t").lower() == _EVENT_STREAM
