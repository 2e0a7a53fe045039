"""Reading an event stream (``text/event-stream``) as it comes, in pieces of any size.

Theory of operation. Pieces are cut into lines at CR, LF or CRLF; what is no whole line yet is kept.
Nothing is decoded before a line is whole, so a piece may end within a character. An event that is
longer than it may be is skipped to its end, so that memory is bounded whatever a peer sends.

Source: WHATWG HTML section 9.2, "Server-sent events".
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["EventStreamParser", "ServerSentEvent"]

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_END_OF_LINE: Final = re.compile(rb"\r\n?|\n")


class ServerSentEvent(NamedTuple):
    """One event.

    Attributes:
        data: Its lines of data, joined by LF; UTF-8, unless the peer breaks the rules.
        event: Its type; empty for ``message``.
        last_event_id: The last id that the stream has set, with this event or before.
    """

    data: bytes
    event: str = ""
    last_event_id: str = ""


class EventStreamParser:
    r"""Makes events of the pieces of a body.

    Args:
        limit: Bytes that an event may have, names of fields and comments included.

    Attributes:
        retry: Milliseconds that the stream wants clients to wait before they connect anew; None
            if it has not said so.
        skipped: How many events were too long.

    Examples:
        >>> parser = EventStreamParser()
        >>> parser.feed(b"event: greeting\r\ndata: Hel")
        []
        >>> [(event.event, event.data) for event in parser.feed(b"lo\r\n\r\n")]
        [('greeting', b'Hello')]
    """

    __slots__ = (
        "_after_cr",
        "_data",
        "_event",
        "_id",
        "_is_first",
        "_limit",
        "_size",
        "_tail",
        "retry",
        "skipped",
    )

    def __init__(self, limit: int = 1 << 20) -> None:
        self.retry: int | None = None
        self.skipped: int = 0
        self._limit = limit
        self._is_first = True
        self._after_cr = False
        self._tail = bytearray()
        self._data: list[bytes] = []
        self._event = ""
        self._id = ""
        self._size = 0  # of the event so far, without the tail

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """Take the next piece.

        Args:
            data: The piece.

        Returns:
            The events that are whole now. One that the stream ends within is none.
        """
        if not data:
            return []
        if self._after_cr:
            data = data.removeprefix(b"\n")  # of a CRLF that came in two pieces
        self._after_cr = data.endswith(b"\r")
        events: list[ServerSentEvent] = []
        start = 0
        for end in _END_OF_LINE.finditer(data):
            line = data[start : end.start()]
            start = end.end()
            if self._tail:
                self._tail += line
                line = bytes(self._tail)
                self._tail.clear()
            self._take_line(line, events)
        if rest := data[start:]:
            self._tail += rest
            if self._size + len(self._tail) > self._limit:
                # What is kept of the line tells that it is not empty.
                self._size = self._limit + 1
                self._data.clear()
                self._tail[:] = b":"
        return events

    def _take_line(self, line: bytes, events: list[ServerSentEvent]) -> None:
        if self._is_first:
            self._is_first = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            self._end_event(events)
            return
        self._size += len(line)
        if self._size > self._limit:
            self._data.clear()
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._data.append(value)
            case b"event":
                self._event = value.decode("utf-8", "replace")
            case b"id" if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
            case b"retry" if value.isdigit() and len(value) < 16:
                self.retry = int(value)
            case _:
                pass  # a comment, or a field of the future

    def _end_event(self, events: list[ServerSentEvent]) -> None:
        if self._size > self._limit:
            self.skipped += 1
        elif self._data:
            events.append(ServerSentEvent(b"\n".join(self._data), self._event, self._id))
        self._data.clear()
        self._event = ""
        self._size = 0
