"""Where the frames of a WebSocket end, and what its Close frames look like (RFC 6455 section 5).

A proxy that has to end a WebSocket of others may put in a Close only between two frames. So it
follows the heads of the frames and counts the payloads: nothing is copied, unmasked or judged, and
a piece that lies within one payload costs one comparison.
"""

from __future__ import annotations

from typing import Final

__all__ = ["GOING_AWAY", "FrameTracker", "close_frame"]

#: Status code of an endpoint that goes away, such as a server that stops (section 7.4.1).
GOING_AWAY: Final = 1001

_CLOSE: Final = 8
_LONGEST_HEAD: Final = 10
_KEY: Final = 4


class FrameTracker:
    """Follows one direction of a WebSocket.

    Attributes:
        at_boundary: Whether everything so far is whole frames.
        has_close: Whether a Close frame has come, or at least its head.
    """

    __slots__ = ("_head", "_left", "at_boundary", "has_close")

    def __init__(self) -> None:
        self.at_boundary: bool = True
        self.has_close: bool = False
        # The beginning of a frame's head, and what is left of a frame whose head is known.
        self._head = b""
        self._left = 0

    def feed(self, data: bytes) -> None:
        """Follow a piece. HOT.

        Args:
            data: At least one byte.
        """
        size = len(data)
        position = self._left
        if position > size:
            self._left = position - size
            return
        if self._head:
            data = self._head + data
            size = len(data)
            self._head = b""
        while position < size:
            # The shortest head is two bytes; the commonest frame has no more length than that.
            if size - position < 2:
                break
            code = data[position + 1]
            length = code & 127
            head = 2
            if length > 125:
                head = 4 if length == 126 else 10
                if size - position < head:
                    break
                length = int.from_bytes(data[position + 2 : position + head], "big")
            if data[position] & 15 == _CLOSE:
                self.has_close = True
            position += head + length + (_KEY if code > 127 else 0)
        if position < size:
            self._head = data[position:]
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
            head = self._head + data[:_LONGEST_HEAD]
            needed = _head_size(head)
            if len(head) < needed:
                return -1
            length = head[1] & 127
            if length > 125:
                length = int.from_bytes(head[2:needed], "big")
            end = needed + length + (_KEY if head[1] > 127 else 0) - len(self._head)
        return end if end <= len(data) else -1


def _head_size(head: bytes) -> int:
    # Without the masking key, which is counted with the payload.
    if len(head) < 2:
        return 2
    length = head[1] & 127
    if length < 126:
        return 2
    return 4 if length == 126 else 10


def close_frame(code: int, reason: bytes = b"", *, mask: bytes = b"") -> bytes:
    """Make a Close frame.

    Args:
        code: Status code.
        reason: The same for people, UTF-8, at most 123 bytes.
        mask: Four random bytes where a client sends it; nothing where a server does.

    Returns:
        The frame.

    Raises:
        ValueError: If the reason is too long.
    """
    payload = code.to_bytes(2, "big") + reason
    size = len(payload)
    if size > 125:
        msg = f"a reason has at most 123 bytes, not {len(reason)}"
        raise ValueError(msg)
    if not mask:
        return bytes((0x80 | _CLOSE, size)) + payload
    masked = bytes(byte ^ mask[index & 3] for index, byte in enumerate(payload))
    return bytes((0x80 | _CLOSE, 0x80 | size)) + mask + masked
