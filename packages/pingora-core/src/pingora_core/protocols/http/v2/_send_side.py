"""The sending half of an HTTP/2 connection: who may send how much, and when it leaves.

What is to be sent collects in the library and leaves once per turn of the loop; what waits for a
window or a congested connection stays in its stream, and the streams take turns, one frame each.

Reading never stops because writing is congested: two ends that did so could wait for each other
for ever. What a peer can make this side send without reading it is bounded instead.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Final

from pingora_core.protocols.http.v2._engine import load_library, start_engine
from pingora_core.protocols.http.v2._floods import FloodGuard
from pingora_core.protocols.http.v2._frames import headers_frames
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.protocols.http.v2._carrier import Fields
    from pingora_core.protocols.http.v2._stream import Http2Stream
    from pingora_core.protocols.http.v2.options import Http2Options
    from pingora_core.protocols.interfaces import Stream

__all__ = ["SendSide"]

logger = logging.getLogger(__name__)

# Payload that leaves before the end of the turn.
_FLUSH_SIZE: Final = 65536
# What a peer that reads nothing may make this side answer (PING, SETTINGS, RST_STREAM), bytes.
_MAX_UNSENT_CONTROL: Final = 262144


class SendSide(ABC):
    """What sending on a connection needs.

    Args:
        stream: The bytes below; this object's until the connection has ended.
        options: How to speak.

    Attributes:
        stream: The bytes below.
        options: How to speak.
        loop: The event loop.
        streams: The open streams by number.
        is_open: Whether frames can be sent.
    """

    is_client: ClassVar[bool]

    def __init__(self, stream: Stream, options: Http2Options) -> None:
        self.stream = stream
        self.options = options
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.streams: dict[int, Http2Stream] = {}
        self.is_open: bool = True
        self._library = load_library(options.engine)
        self._engine, self._preface = start_engine(
            self._library, options, client_side=self.is_client
        )
        heads = self._library.heads
        self._heads = None if heads is None else heads(self._engine)
        unseen = None if self.is_client else self._library.unseen
        self._unseen = None if unseen is None else unseen(self._engine)
        self._floods = FloodGuard(options.flood_limits)
        self._blocked: dict[int, Http2Stream] = {}
        self._pieces: list[bytes | bytearray | memoryview] = []
        self._unflushed = 0
        self._flush_scheduled = False
        self._unsent_control = 0
        self._drainer: asyncio.Task[None] | None = None

    @property
    def sensitive(self) -> Callable[[bytes, bytes], tuple[bytes, bytes]]:
        """Makes a field that must not enter a compression table."""
        return self._library.sensitive

    @abstractmethod
    def abort(self, error: Error) -> None:
        """End the connection at once; all streams fail.

        Args:
            error: Why.
        """

    # ---------------------------------------------------------------- sending

    def credit(self, stream_id: int, size: int) -> None:
        """Let the peer send as many bytes more.

        Args:
            stream_id: On which stream.
            size: How many.
        """
        if self.is_open:
            self._engine.acknowledge_received_data(size, stream_id)
            self._schedule_flush()

    def send_headers(self, stream: Http2Stream, fields: Fields, *, end: bool) -> None:
        """Send a header section on a stream.

        Args:
            stream: Which.
            fields: The section.
            end: Whether the stream ends with it.

        Raises:
            Error: ``WRITE_ERROR`` if the library refuses.
        """
        if stream.window is not None and not stream.is_answered:
            self._frame_head(stream, fields, end=end)
            # Not if it was informational.
            stream.is_answered = fields[0][1][:1] != b"1"
        else:
            self._tell(stream)
            try:
                self._engine.send_headers(stream.id, fields, end_stream=end)
            except self._library.protocol_error as error:
                msg = f"HTTP/2 stream {stream.id}"
                raise Error(ErrorType.WRITE_ERROR, msg, cause=error) from error
        if end:
            self._send_ended(stream)
        self._schedule_flush()

    def pump(self, stream: Http2Stream) -> None:
        """Send what waits on a stream, as far as it may.

        Args:
            stream: Which.
        """
        if not self._blocked and not self.stream.needs_drain and self._send_some(stream, 0):
            self._schedule_flush()
            return
        self._blocked[stream.id] = stream
        self._schedule_flush()

    def _send_some(self, stream: Http2Stream, limit: int) -> bool:
        """Send what waits on a stream.

        Args:
            stream: Which.
            limit: Frames at most; 0 for no limit.

        Returns:
            Whether nothing is left.
        """
        engine = self._engine
        if stream.is_send_closed:
            return True
        try:
            outgoing = stream.outgoing
            while outgoing:
                window = stream.window
                size = min(
                    len(outgoing),
                    engine.local_flow_control_window(stream.id)
                    if window is None
                    else min(window, engine.outbound_flow_control_window),
                    engine.max_outbound_frame_size,
                )
                if size <= 0 or self.stream.needs_drain:
                    return False
                whole = size == len(outgoing)
                piece = outgoing if whole else memoryview(outgoing)[:size]
                end = whole and stream.ends_after_outgoing
                self._frame_data(stream, piece, end=end)
                self._floods.forgive("window", 3.0)
                # A view moves on without copying the rest.
                stream.outgoing = outgoing = b"" if whole else memoryview(outgoing)[size:]
                self._unflushed += size
                if self._unflushed >= _FLUSH_SIZE:
                    self._write_encoded()
                stream.progressed()
                if end:
                    stream.ends_after_outgoing = False
                    self._send_ended(stream)
                    return True
                limit -= 1
                if not limit and outgoing:
                    return False
            trailers = stream.trailers_after_outgoing
            if trailers is not None:
                stream.trailers_after_outgoing = None
                if stream.window is None:
                    engine.send_headers(stream.id, trailers, end_stream=True)
                else:
                    self._frame_head(stream, trailers, end=True)
                stream.progressed()
                self._send_ended(stream)
            elif stream.ends_after_outgoing:
                stream.ends_after_outgoing = False
                if stream.window is None and stream.id not in engine.streams:
                    engine.end_stream(stream.id)  # which says why that cannot be
                self._frame_data(stream, b"", end=True)
                stream.progressed()
                self._send_ended(stream)
        except self._library.protocol_error as error:
            stream.fail(Error(ErrorType.WRITE_ERROR, f"HTTP/2 stream {stream.id}", cause=error))
        return True

    def _frame_head(self, stream: Http2Stream, fields: Fields, *, end: bool) -> None:
        """Put a header section into frames, on a stream that the library has not been told of. HOT.

        Args:
            stream: Which.
            fields: The section.
            end: Whether the stream ends with it.
        """
        engine = self._engine
        before = engine.data_to_send()
        if before:
            self._pieces.append(before)
        block = engine.encoder.encode(fields)
        size = engine.max_outbound_frame_size
        self._pieces.append(headers_frames(stream.id, block, size, end=end))

    def _frame_data(
        self, stream: Http2Stream, piece: bytes | bytearray | memoryview, *, end: bool
    ) -> None:
        """Put DATA into a frame; the library's way has three copies. HOT.

        Args:
            stream: On which stream.
            piece: The payload, no more than the windows allow.
            end: Whether the stream ends with it.
        """
        engine = self._engine
        size = len(piece)
        stream_id = stream.id
        if stream.window is None:
            known = engine.streams[stream_id]
            if end:
                known.end_stream()  # for the sake of its state: the frame is not used
            known.outbound_flow_control_window -= size
        else:
            stream.window -= size
        engine.outbound_flow_control_window -= size
        before = engine.data_to_send()
        if before:
            self._pieces.append(before)
        flags = b"\0\1" if end else b"\0\0"
        self._pieces.append(size.to_bytes(3, "big") + flags + stream_id.to_bytes(4, "big"))
        self._pieces.append(piece)

    def _tell(self, stream: Http2Stream) -> None:
        # The library, of a stream that it has not been told of.
        if self._unseen is not None:
            self._unseen.tell(stream)

    def _send_ended(self, stream: Http2Stream) -> None:
        if stream.window is not None and self._unseen is not None:
            self._unseen.end(stream)
        stream.is_send_closed = True
        self._maybe_done(stream)

    def _maybe_done(self, stream: Http2Stream) -> None:
        """Forget a stream that has ended in both directions; its session keeps what it holds."""
        if stream.is_send_closed and stream.is_receive_closed:
            self.streams.pop(stream.id, None)
            self._stream_done(stream)

    @abstractmethod
    def _stream_done(self, stream: Http2Stream) -> None:
        """React to the end of a stream.

        Args:
            stream: Which; it is not among the open ones any more.
        """

    def reset(self, stream: Http2Stream, code: int) -> None:
        """Give a stream up, unless it has ended in both directions.

        Args:
            stream: Which.
            code: Why.
        """
        self._blocked.pop(stream.id, None)
        open_still = self.streams.pop(stream.id, None) is not None
        stream.outgoing = b""
        stream.ends_after_outgoing = False
        stream.trailers_after_outgoing = None
        stream.is_send_closed = stream.is_receive_closed = True
        if open_still and self.is_open:
            self._tell(stream)
            try:
                self._engine.reset_stream(stream.id, code)
            except self._library.protocol_error:
                logger.debug("HTTP/2 stream %d had ended", stream.id)
            self._schedule_flush()
            self._stream_done(stream)
        stream.release()
        stream.progressed()

    # --------------------------------------------------------------- flushing

    def _schedule_flush(self) -> None:
        if not self._flush_scheduled and self.is_open:
            self._flush_scheduled = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if not self.is_open:
            return
        try:
            self._write_encoded()
            if self._blocked:
                self._send_blocked()
                self._write_encoded()
        except Error as error:
            self.abort(error)
            return
        if self.stream.needs_drain and self._drainer is None and self.is_open:
            self._drainer = self.loop.create_task(self._wait_for_room(), name="h2 drain")

    def _send_blocked(self) -> None:
        # One frame each in turn, until all are done or nobody has a window.
        blocked = self._blocked
        progress = True
        while blocked and progress and not self._is_congested():
            progress = False
            for stream_id, stream in list(blocked.items()):
                before = len(stream.outgoing)
                if self._send_some(stream, 1):
                    blocked.pop(stream_id, None)
                    progress = True
                elif len(stream.outgoing) != before:
                    progress = True
                if self._is_congested():
                    return

    def _is_congested(self) -> bool:
        return self.stream.needs_drain

    def _write_encoded(self) -> None:
        data = self._engine.data_to_send()
        self._unflushed = 0
        if self._pieces:
            self._pieces.append(data)
            data = b"".join(self._pieces)
            self._pieces.clear()
        if data:
            self._write(data)

    def _write(self, data: bytes) -> None:
        if self.stream.needs_drain:
            self._unsent_control += len(data)
            if self._unsent_control > _MAX_UNSENT_CONTROL:
                raise Error(ErrorType.WRITE_ERROR, "the peer makes this side answer, and reads not")
        else:
            self._unsent_control = 0
        self.stream.write(data)

    async def _wait_for_room(self) -> None:
        try:
            await self.stream.drain(self.options.write_timeout)
        except Error as error:
            self._drainer = None
            self.abort(error)
            return
        self._drainer = None
        self._schedule_flush()
