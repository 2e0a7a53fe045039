"""One HTTP/2 connection, as client or as server: frames in, frames out, and the streams between.

How frames arrive is told in `_receive_side`, how they leave in `_send_side`; here is what the events
mean, and how a connection ends.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from typing import TYPE_CHECKING, Final

from pingora_core.protocols.http.v2 import _frames as frames
from pingora_core.protocols.http.v2._carrier import Head
from pingora_core.protocols.http.v2._frames import ErrorCode, goaway_frame
from pingora_core.protocols.http.v2._receive_side import ReceiveSide
from pingora_core.runtime.timers import Deadline, get_timers
from pingora_error import PING_TIMEDOUT, Error, ErrorType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from h2 import events

    from pingora_core.protocols.http.v2._carrier import Fields
    from pingora_core.protocols.http.v2._stream import Http2Stream
    from pingora_core.protocols.http.v2.options import Http2Options
    from pingora_core.protocols.interfaces import Stream

__all__ = ["Connection"]

_logger = logging.getLogger(__name__)

_END_STREAM: Final = 0x01
_PRIORITY: Final = 0x20

# The library's events and what handles them; only servers hear of requests.
_HANDLERS: Final = {
    "DataReceived": "_data_received",
    "InformationalResponseReceived": "_informational_received",
    "PingAckReceived": "_ping_ack_received",
    "RemoteSettingsChanged": "_settings_changed",
    "RequestReceived": "_request_received",
    "ResponseReceived": "_response_received",
    "StreamReset": "_stream_reset",
    "TrailersReceived": "_trailers_received",
    "WindowUpdated": "_window_updated",
}


class Connection(ReceiveSide):
    """What both roles have in common.

    Args:
        stream: The bytes below; this object's until `wait_closed` returns.
        options: How to speak.

    Attributes:
        is_draining: Whether a GOAWAY was sent or received.
        sent_goaway: The last stream that the final GOAWAY of this side has named; None before.
        failure: Why the connection has ended; None before.
        linger: Seconds that the peer may take to end its direction once this side has; None for
            the stream's own.
    """

    def __init__(self, stream: Stream, options: Http2Options) -> None:
        super().__init__(stream, options)
        self.is_draining: bool = False
        self.sent_goaway: int | None = None
        self.failure: Error | None = None
        self.linger: float | None = None
        self._awaits_preface = not self.is_client
        self._closed: asyncio.Future[None] = self.loop.create_future()
        self._settings_seen = False
        self._ping_deadline: Deadline | None = None
        self._ping_pending = False
        self._is_counted = False

    # ---------------------------------------------------------------- running

    def start(self) -> None:
        """Send the preface, and from now on handle what arrives."""
        stream = self.stream
        self.options.stats.connections += 1
        self.options.stats.open += 1
        self._is_counted = True
        self._write(self._preface)
        self._preface = b""
        if self.options.ping_interval is not None:
            self._ping_deadline = Deadline(get_timers(), self._ping_due)
            self._ping_deadline.set(self.options.ping_interval)
        stream.on_data = self._readable
        stream.set_on_disconnect(self._disconnected)
        if self.is_open and stream.buffered:
            self._readable()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, for whatever reason."""
        await asyncio.shield(self._closed)

    @property
    def peer_max_concurrent_streams(self) -> int:
        """How many streams the peer allows this side to have open."""
        return int(self._engine.remote_settings.max_concurrent_streams)

    @property
    def peer_allows_extended_connect(self) -> bool:
        """Whether the peer has announced RFC 8441."""
        return self._engine.remote_settings.get(8, 0) == 1

    @property
    def has_peer_settings(self) -> bool:
        """Whether the peer's first SETTINGS have arrived."""
        return self._settings_seen

    def _take_head(self, stream_id: int, block: bytes, flags: int) -> bool:
        heads = self._heads
        if heads is None or flags & _PRIORITY:
            return False
        if self._unseen is not None:
            self._unseen.before(frames.HEADERS, stream_id)
        found = heads.take(stream_id, block, end=bool(flags & _END_STREAM))
        if found is None:
            return False
        self._handle_events(found)
        return True

    def _feed(self, data: bytes) -> None:
        self._handle_events(self._engine.receive_data(data))
        # What the library has to say about it.
        self._schedule_flush()

    def _handle_events(self, found: Iterable[events.Event]) -> None:
        kinds = self._library.kinds
        for event in found:
            handler = _HANDLERS.get(kinds[type(event)])
            if handler is not None:
                getattr(self, handler)(event)
                if not self.is_open:
                    return

    # ----------------------------------------------------------------- events

    def _head_received(self, event: events.ResponseReceived, kind: str) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None or stream.error is not None:
            return
        end = event.stream_ended is not None
        if end and stream.expected > 0 and kind == "trailers":
            self._wrong_length(event.stream_id)
            return
        fields: Fields = event.headers
        stream.head_received(Head(fields, end, kind))
        if end:
            self._maybe_done(stream)

    def _trailers_received(self, event: events.ResponseReceived) -> None:
        self._head_received(event, "trailers")

    def _response_received(self, event: events.ResponseReceived) -> None:
        self._head_received(event, "response")

    def _informational_received(self, event: events.InformationalResponseReceived) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            fields: Fields = event.headers
            stream.head_received(Head(fields, end=False, kind="informational"))

    def _data_received(self, event: events.DataReceived) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None or stream.error is not None:
            # Nobody will take it, and the connection's window is everybody's.
            self._engine.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            return
        data = event.data
        if type(data) is not bytes:
            data = bytes(data)
        end = event.stream_ended is not None
        stream.data_received(data, event.flow_controlled_length, end=end)
        if end:
            self._maybe_done(stream)

    def _stream_reset(self, event: events.StreamReset) -> None:
        stream = self.streams.pop(event.stream_id, None)
        code = int(event.error_code)
        if event.remote_reset is False:
            self._count("reset")
        if stream is None:
            return
        self._blocked.pop(stream.id, None)
        stream.reset_code = code
        stream.lost(self._reset_error(stream, code))
        self._stream_done(stream)

    def _reset_error(self, stream: Http2Stream, code: int) -> Error:
        return Error(
            ErrorType.CONNECTION_CLOSED,
            f"the peer reset HTTP/2 stream {stream.id} with error code {code}",
        )

    def _window_updated(self, event: events.WindowUpdated) -> None:  # noqa: ARG002 - one shape
        if self._blocked:
            self._schedule_flush()

    def _settings_changed(self, event: events.RemoteSettingsChanged) -> None:  # noqa: ARG002 - one shape
        self._settings_seen = True
        if self._unseen is not None:
            self._unseen.initial_window = self._engine.remote_settings.initial_window_size
        # A larger window may let blocked streams go on.
        self._schedule_flush()

    def _ping_ack_received(self, event: events.PingAckReceived) -> None:  # noqa: ARG002 - one shape
        if self._ping_pending and self._ping_deadline is not None:
            self._ping_pending = False
            self._ping_deadline.set(self.options.ping_interval or 0.0)

    def _wrong_length(self, stream_id: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._malformed(stream, Error(ErrorType.INVALID_HTTP_HEADER, "Content-Length is wrong"))

    def _malformed(self, stream: Http2Stream, error: Error) -> None:
        """Reset a stream on which a malformed message has arrived (RFC 9113 section 8.1.1)."""
        self.options.stats.malformed += 1
        stream.lost(error)
        # The stream has forgotten what it owes; the library must hear of it all the same.
        stream.is_send_closed = stream.is_receive_closed = False
        self.reset(stream, ErrorCode.PROTOCOL_ERROR)
        self._count("reset")

    # ----------------------------------------------------------------- ending

    def _ping_due(self) -> None:
        deadline = self._ping_deadline
        if deadline is None or not self.is_open:
            return
        if self._ping_pending:
            self.abort(Error(PING_TIMEDOUT, f"no answer within {self.options.ping_timeout} s"))
            return
        self._ping_pending = True
        self._engine.ping(b"pingora!")
        self._schedule_flush()
        deadline.set(self.options.ping_timeout)

    def _violated(self, cause: Exception) -> None:
        # The library has its GOAWAY ready.
        error = Error(ErrorType.H2_ERROR, f"HTTP/2: {cause}", cause=cause)
        if getattr(cause, "error_code", None) == ErrorCode.ENHANCE_YOUR_CALM:
            floods = self.options.stats.floods
            floods["header list"] = floods.get("header list", 0) + 1
        if _logger.isEnabledFor(logging.INFO):
            _logger.info("HTTP/2 connection ended: %s", error)
        try:
            self._write_encoded()
        except Error:
            _logger.debug("the peer was gone before it could be told")
        self._end(error)

    def _give_up(self, code: int, debug: bytes) -> None:
        """End the connection because of what the peer has done."""
        error = Error(ErrorType.H2_ERROR, debug.decode("ascii"))
        _logger.info("HTTP/2 connection ended: %s", error)
        try:
            self._write_encoded()
            self.stream.write(goaway_frame(self._engine.highest_inbound_stream_id, code, debug))
        except Error:
            _logger.debug("the peer was gone before it could be told")
        self._end(error)

    def _disconnected(self) -> None:
        # What has arrived before counts.
        if self.stream.buffered and self.is_open:
            self._readable()
        self.abort(Error(ErrorType.CONNECTION_CLOSED, "the HTTP/2 connection was closed"))

    def abort(self, error: Error) -> None:
        """End the connection at once; all streams fail.

        Args:
            error: Why.
        """
        self._end(error)

    def close(self) -> None:
        """Say goodbye and close; streams that are left fail."""
        if not self.is_open:
            return
        try:
            self._write_encoded()
            if self.sent_goaway is None:
                last = self._engine.highest_inbound_stream_id
                self.sent_goaway = last
                self.stream.write(goaway_frame(last, ErrorCode.NO_ERROR))
        except Error:
            _logger.debug("the peer was gone before it could be told")
        self._end(Error(ErrorType.CONNECTION_CLOSED, "this side closed the HTTP/2 connection"))

    def _end(self, error: Error) -> None:
        if not self.is_open:
            return
        self.is_open = False
        self.options.stats.open -= self._is_counted
        self.is_draining = True
        self.failure = error
        stream = self.stream
        stream.on_data = None
        stream.set_on_disconnect(None)
        if self._ping_deadline is not None:
            self._ping_deadline.cancel()
            self._ping_deadline = None
        if self._drainer is not None:
            self._drainer.cancel()
        self._blocked.clear()
        streams = list(self.streams.values())
        self.streams.clear()
        for open_stream in streams:
            open_stream.lost(self._lost_error(open_stream, error))
        # Unread bytes in the socket would turn the close into a reset and the GOAWAY be lost.
        stream.close(discard_input=not stream.at_eof, linger=self.linger)
        if not self._closed.done():
            self._closed.set_result(None)
        self._ended(error)

    def _lost_error(self, stream: Http2Stream, error: Error) -> Error:  # noqa: ARG002 - for roles
        return Error(error.etype, error.context, cause=error)

    @abstractmethod
    def _ended(self, error: Error) -> None:
        """React to the end of the connection.

        Args:
            error: Why it has ended.
        """
