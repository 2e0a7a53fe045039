"""The receiving half of an HTTP/2 connection: bytes into frames, and a look at each of them.

There is no reading task: the stream below calls when bytes have arrived, and everything they mean is
done in that call. Complete frames are looked at here for what the library should not see or would
judge too harshly, and counted where they cost the peer nothing; then the library turns them into
events.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Final

from pingora_core.protocols.http.v2 import _frames as frames
from pingora_core.protocols.http.v2._frames import ErrorCode, parse_goaway
from pingora_core.protocols.http.v2._send_side import SendSide
from pingora_error import Error

__all__ = ["ReceiveSide"]

_FLOOD_KINDS: Final = {
    frames.PRIORITY: "priority",
    frames.SETTINGS: "settings",
    frames.PING: "ping",
    frames.WINDOW_UPDATE: "window",
}
_END_HEADERS: Final = 4
_ACK: Final = 1
_END_STREAM: Final = 1
_PADDED: Final = 8
# Of a HEADERS: whether it has all of its block, and no padding.
_WHOLE: Final = _END_HEADERS | _PADDED
_PUSH_PROMISE: Final = 5
_NUMBER: Final = 0x7FFFFFFF
_SMALL: Final = 1024
# In one header block; a whole one of 64 KiB needs four.
_MAX_CONTINUATIONS: Final = 32


class ReceiveSide(SendSide):
    """What receiving on a connection needs."""

    _partial = b""
    _header_block = 0
    _continuations = 0
    _awaits_preface = False
    # Whether the library waits for the rest of a header block.
    _is_in_block = False

    def _readable(self) -> None:
        # The stream below calls this when bytes have arrived. HOT.
        data = self.stream.take()
        if not data or not self.is_open:
            return
        if self._partial:
            data = self._partial + data
            self._partial = b""
        try:
            if self._awaits_preface:
                data = self._skip_preface(data)
            if data:
                self._receive(data)
        except self._library.protocol_error as error:
            self._violated(error)
        except Error as error:
            self.abort(error)

    def _skip_preface(self, data: bytes) -> bytes:
        preface = frames.PREFACE
        if len(data) < len(preface) and preface.startswith(data):
            self._partial = data
            return b""
        if not data.startswith(preface):
            self._give_up(ErrorCode.PROTOCOL_ERROR, b"not an HTTP/2 preface")
            return b""
        self._awaits_preface = False
        self._engine.receive_data(preface)
        return data[len(preface) :]

    def _receive(self, data: bytes) -> None:  # noqa: C901, PLR0912 - in one piece: each call would cost every frame
        size = len(data)
        position = begin = 0
        unseen = self._unseen
        while position + 9 <= size:
            length = int.from_bytes(data[position : position + 3], "big")
            end = position + 9 + length
            if length > self.options.max_frame_size:
                # Not left to the library, which would wait until all of it is here.
                self._feed(data[begin:position])
                if self.is_open:
                    self._give_up(ErrorCode.FRAME_SIZE_ERROR, b"a frame is too large")
                return
            if end > size:
                break
            kind = data[position + 3]
            flags = data[position + 4]
            number = _number(data, position)
            if kind == frames.HEADERS and flags & _WHOLE == _END_HEADERS and not self._is_in_block:
                if position > begin:
                    self._feed(data[begin:position])
                    begin = position
                block = data[position + 9 : end]
                is_taken = self.is_open and self._take_head(number, block, flags)
                if not self.is_open:
                    return
                if is_taken:
                    begin = position = end
                    continue
            if unseen is not None:
                unseen.before(kind, number)
            # There is nothing to look at in a whole HEADERS.
            if kind != frames.HEADERS or not flags & _END_HEADERS:
                if kind == frames.DATA and position > begin and self._is_new(data, position):
                    # Its head is among what was not fed yet, and says how long it may be.
                    self._feed(data[begin:position])
                    begin = position
                if self._inspect(data, position, kind, length):
                    self._feed(data[begin:position])
                    begin = self._handle(data, position, kind, end)
                if not self.is_open:
                    return
            position = end
        if position > begin:
            self._feed(data if position - begin == size else data[begin:position])
        if position < size and self.is_open:
            self._partial = data[position:]

    def _is_new(self, data: bytes, position: int) -> bool:
        return _number(data, position) not in self.streams

    def _handle(self, data: bytes, position: int, kind: int, end: int) -> int:
        # Returns where what is yet to be fed begins.
        if not self.is_open:
            return position
        if kind == frames.GOAWAY:
            self._goaway_received(*parse_goaway(data[position + 9 : end]))
            return end
        self._wrong_length(_number(data, position))
        # The library, which would reset the stream once more, does not see the frame; but it took
        # its part of the window that all streams share.
        if end - position > 9:
            self._engine.increment_flow_control_window(end - position - 9)
            self._schedule_flush()
        return end

    def _inspect(self, data: bytes, position: int, kind: int, length: int) -> bool:
        """Look at a frame before the library does.

        Args:
            data: Where it is.
            position: Its first byte.
            kind: Its type.
            length: Bytes of its payload.

        Returns:
            Whether it is one to be handled here: a GOAWAY, or DATA that breaks Content-Length.
        """
        if kind == frames.DATA:
            return self._inspect_data(data, position, length)
        if kind == frames.GOAWAY:
            return length >= 8
        flags = data[position + 4]
        if kind in {frames.CONTINUATION, frames.HEADERS}:
            self._is_in_block = not flags & _END_HEADERS
            if kind == frames.HEADERS:
                self._header_block = self._continuations = 0
            else:
                self._continuations += 1
                if self._continuations > _MAX_CONTINUATIONS:
                    # However small they are: the library would take it for a mistake.
                    self._flooded("continuation")
            self._header_block += length
            if self._header_block > self.options.max_header_block:
                self._flooded("header block")
        elif kind in {frames.SETTINGS, frames.PING} and flags & _ACK:
            if kind == frames.SETTINGS and length:
                # RFC 9113 section 6.5; the library would call it a PROTOCOL_ERROR.
                self._give_up(
                    ErrorCode.FRAME_SIZE_ERROR, b"a SETTINGS acknowledgement with a payload"
                )
        elif kind != frames.RST_STREAM:
            if kind == _PUSH_PROMISE:
                self._is_in_block = True  # in the end the library refuses it
            self._count(_FLOOD_KINDS.get(kind, "unknown"))
        return False

    def _inspect_data(self, data: bytes, position: int, length: int) -> bool:
        flags = data[position + 4]
        if flags & _PADDED and length:
            length -= 1 + data[position + 9]
            if length < 0:
                return False  # more padding than payload: the library ends the connection
        if not length and not flags & _END_STREAM:
            self._count("empty")
        stream = self.streams.get(_number(data, position))
        if stream is None:
            # What was on its way when the stream was reset. Large frames cost the peer more.
            if length < _SMALL:
                self._count("closed")
            return False
        if stream.expected < 0 or stream.error is not None or stream.is_receive_closed:
            # Behind the end it is an error of another kind, and the library's to find.
            return False
        remaining = stream.expected - length
        stream.expected = max(0, remaining)
        return remaining < 0 or (remaining > 0 and bool(flags & _END_STREAM))

    def _count(self, kind: str) -> None:
        if self._floods.count(kind, self.loop.time()):
            self._flooded(kind)

    def _flooded(self, kind: str) -> None:
        if not self.is_open:
            return
        stats = self.options.stats
        stats.floods[kind] = stats.floods.get(kind, 0) + 1
        self._give_up(ErrorCode.ENHANCE_YOUR_CALM, f"too many: {kind}".encode())

    @abstractmethod
    def _take_head(self, stream_id: int, block: bytes, flags: int) -> bool:
        """Handle a HEADERS without its frame being made by the library.

        Args:
            stream_id: Which stream it names.
            block: The payload: all of a header block, maybe behind a priority, and no padding.
            flags: The frame's.

        Returns:
            Whether it was handled; else the library must see it.
        """

    @abstractmethod
    def _feed(self, data: bytes) -> None:
        """Let the library have whole frames, and handle the events that come of them.

        Args:
            data: The frames.
        """

    @abstractmethod
    def _goaway_received(self, last_stream_id: int, code: int, debug: bytes) -> None:
        """Handle the peer's GOAWAY.

        Args:
            last_stream_id: Streams of this side above it were not processed.
            code: Why.
            debug: What the peer has to say.
        """

    @abstractmethod
    def _wrong_length(self, stream_id: int) -> None:
        """Handle a message whose body has not the length that its head announced.

        Args:
            stream_id: On which stream.
        """

    @abstractmethod
    def _violated(self, cause: Exception) -> None:
        """End the connection because the library refused what has arrived.

        Args:
            cause: What it said.
        """

    @abstractmethod
    def _give_up(self, code: int, debug: bytes) -> None:
        """End the connection because of what the peer has done.

        Args:
            code: Error code for the GOAWAY.
            debug: What to say in it.
        """


def _number(data: bytes, position: int) -> int:
    # Of the stream that a frame names; the first bit is reserved (RFC 9113 section 4.1).
    return int.from_bytes(data[position + 5 : position + 9], "big") & _NUMBER
