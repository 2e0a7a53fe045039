"""A connection to an upstream: which requests it may carry, and what its end means for them.

Theory of operation. A request first reserves a place (`open_stream`) and takes its number when it is
sent. A GOAWAY does not end the connection: the streams it names as processed go on, the others
fail with an error that says that they were not, and nothing new begins. Whoever keeps the
connection is told by callbacks when there may be room again and when there never will be.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, ClassVar, Final

from pingora_core.protocols.http.v2._client_stream import ClientStream
from pingora_core.protocols.http.v2._frames import ErrorCode
from pingora_core.protocols.http.v2.connection import Connection
from pingora_core.runtime.timers import Deadline, get_timers
from pingora_error import Error, ErrorSource, ErrorType, RetryType

if TYPE_CHECKING:
    from collections.abc import Callable

    from h2 import events

    from pingora_core.protocols.http.v2._carrier import Fields
    from pingora_core.protocols.http.v2._stream import Http2Stream
    from pingora_core.protocols.http.v2.options import Http2Options
    from pingora_core.protocols.interfaces import Stream

__all__ = ["ClientConnection"]

logger = logging.getLogger(__name__)

# Heads that may lie unread on one stream: no window limits how many an upstream sends.
_MAX_WAITING_HEADS: Final = 66


class ClientConnection(Connection):
    """A connection to an upstream.

    Args:
        stream: The bytes below; closed by this object.
        options: How to speak.
        max_streams: Requests at a time, at most; the upstream may allow fewer.

    Attributes:
        on_room: Called when a stream has ended, or when the upstream has changed its limits.
        on_retired: Called once when nothing new may begin any more.
    """

    is_client: ClassVar[bool] = True

    def __init__(self, stream: Stream, options: Http2Options, *, max_streams: int) -> None:
        super().__init__(stream, options)
        self.on_room: Callable[[], None] | None = None
        self.on_retired: Callable[[], None] | None = None
        self._max_streams = max_streams
        self._limit = 0
        # Places that were reserved; as a dict because the order is that of reservation.
        self._unsent: dict[ClientStream, None] = {}
        self._ready: asyncio.Future[None] = self.loop.create_future()
        self._is_suspect = False
        self._goaway_code: int | None = None

    async def handshake(self, timeout: float | None) -> None:
        """Exchange the first SETTINGS; must be awaited before anything else.

        Waiting for them costs a round trip once per connection. In return no limit of the
        upstream is broken, and whoever does not speak HTTP/2 is found out before a request is
        lost to it.

        Args:
            timeout: Longest time, seconds; None for the options' ``preface_timeout``.

        Raises:
            Error: From upstream: ``CONNECT_TIMEDOUT``; ``HANDSHAKE_ERROR`` if the peer does not
                speak HTTP/2 or went away. The connection has ended then.
        """
        limit = self.options.preface_timeout if timeout is None else timeout
        try:
            self.start()
            async with asyncio.timeout(limit):
                await self._ready
        except TimeoutError as error:
            msg = f"no HTTP/2 SETTINGS within {limit} s"
            failure = Error.up(ErrorType.CONNECT_TIMEDOUT, msg, cause=error)
            self.abort(failure)
            raise failure from error
        except Error as error:
            self.abort(error)
            msg = "HTTP/2 handshake"
            raise Error(
                ErrorType.HANDSHAKE_ERROR, msg, source=ErrorSource.UPSTREAM, cause=error
            ) from error
        except BaseException:
            self.close()
            raise

    # ---------------------------------------------------------------- streams

    @property
    def in_use(self) -> int:
        """Streams that are open or reserved."""
        return len(self.streams) + len(self._unsent)

    @property
    def limit(self) -> int:
        """Streams that may be open at a time, as the upstream has said last."""
        return self._limit

    @property
    def capacity(self) -> int:
        """Streams that can be opened now; 0 or less if none."""
        if self.is_draining or self._is_suspect:
            return 0
        return self._limit - len(self.streams) - len(self._unsent)

    def open_stream(self) -> ClientStream:
        """Reserve a place.

        Returns:
            The stream; it counts until it has ended in both directions or was reset.

        Raises:
            Error: ``H2_ERROR``, retryable, if there is no capacity.
        """
        if self.capacity <= 0:
            msg = f"{self.in_use} HTTP/2 streams are open, {self._limit} are allowed"
            raise Error(ErrorType.H2_ERROR, msg, source=ErrorSource.UPSTREAM, retry=RetryType.RETRY)
        stream = ClientStream(self)
        self._unsent[stream] = None
        return stream

    def send_headers(self, stream: Http2Stream, fields: Fields, *, end: bool) -> None:
        """Send a header section; with its first one a stream takes its number.

        Args:
            stream: Which.
            fields: The section.
            end: Whether the stream ends with it.

        Raises:
            Error: ``WRITE_ERROR`` if the library refuses; ``H2_ERROR``, retryable, if the
                upstream has come to allow fewer streams since the place was reserved.
        """
        if stream.id == 0 and isinstance(stream, ClientStream):
            self._begin(stream)
        super().send_headers(stream, fields, end=end)

    def _begin(self, stream: ClientStream) -> None:
        if len(self.streams) >= self.peer_max_concurrent_streams:
            msg = "the upstream has lowered its limit of HTTP/2 streams"
            raise Error.up(ErrorType.H2_ERROR, msg, retry=RetryType.RETRY)
        try:
            number = self._engine.get_next_available_stream_id()
        except self._library.protocol_error as error:
            self.retire()
            msg = "the connection has run out of stream numbers"
            raise Error.up(ErrorType.H2_ERROR, msg, cause=error, retry=RetryType.RETRY) from error
        self._unsent.pop(stream, None)
        stream.id = number
        self.streams[number] = stream
        self.options.stats.streams += 1

    def reset(self, stream: Http2Stream, code: int) -> None:
        """Give a stream up, unless it has ended in both directions.

        Args:
            stream: Which.
            code: Why; nobody is told if nothing was sent.
        """
        if stream.id:
            super().reset(stream, code)
        elif isinstance(stream, ClientStream):
            reserved = stream in self._unsent
            self._unsent.pop(stream, None)
            stream.is_send_closed = stream.is_receive_closed = True
            if reserved:
                self._freed()

    def _stream_done(self, stream: Http2Stream) -> None:  # noqa: ARG002 - one shape
        self._freed()

    def _freed(self) -> None:
        if not self.is_open:
            return
        if self.is_draining:
            if not self.streams and not self._unsent:
                self.close()
        elif self.on_room is not None:
            self.on_room()

    # ----------------------------------------------------------------- events

    def _settings_changed(self, event: events.RemoteSettingsChanged) -> None:
        super()._settings_changed(event)
        self._limit = min(self._max_streams, self.peer_max_concurrent_streams)
        if not self._ready.done():
            self._ready.set_result(None)
        elif not self.is_draining and self.on_room is not None:
            self.on_room()

    def _informational_received(self, event: events.InformationalResponseReceived) -> None:
        stream = self.streams.get(event.stream_id)
        if isinstance(stream, ClientStream) and stream.waiting_heads >= _MAX_WAITING_HEADS:
            self._malformed(stream, Error(ErrorType.H2_ERROR, "too many informational responses"))
        else:
            super()._informational_received(event)

    def _ping_ack_received(self, event: events.PingAckReceived) -> None:
        if self.options.ping_interval is None:
            self._ping_pending = False
            if self._ping_deadline is not None:
                self._ping_deadline.clear()
        else:
            super()._ping_ack_received(event)
        if self._is_suspect:
            self._is_suspect = False
            if not self.is_draining and self.on_room is not None:
                self.on_room()

    def probe(self) -> None:
        """Find out whether the upstream is still there; until it answers, nothing new begins."""
        if not self.is_open:
            return
        self._is_suspect = True
        if self._ping_pending:
            return
        if self._ping_deadline is None:
            self._ping_deadline = Deadline(get_timers(), self._ping_due)
        self._ping_due()

    # ----------------------------------------------------------------- ending

    def _goaway_received(self, last_stream_id: int, code: int, debug: bytes) -> None:
        logger.info("the upstream ends its HTTP/2 connection with error code %d", code)
        self._goaway_code = code
        text = debug[:64].decode("latin-1")
        refused = [stream for number, stream in self.streams.items() if number > last_stream_id]
        for stream in refused:
            del self.streams[stream.id]
            self._blocked.pop(stream.id, None)
        unsent = list(self._unsent)
        self._unsent.clear()
        for stream in (*refused, *unsent):
            if code == ErrorCode.HTTP_1_1_REQUIRED:
                stream.reset_code = code
            msg = f"GOAWAY with error code {code} before HTTP/2 stream {stream.id}: {text!r}"
            stream.lost(Error.up(ErrorType.CONNECTION_CLOSED, msg, retry=RetryType.RETRY))
        self.retire()

    def retire(self) -> None:
        """Begin nothing new, and close once the last stream has ended."""
        self.is_draining = True
        self._tell_retired()
        if not self.streams and not self._unsent:
            self.close()

    def _tell_retired(self) -> None:
        on_retired = self.on_retired
        if on_retired is not None:
            self.on_retired = self.on_room = None
            on_retired()

    def _reset_error(self, stream: Http2Stream, code: int) -> Error:
        return Error.up(
            ErrorType.CONNECTION_CLOSED,
            f"the upstream reset HTTP/2 stream {stream.id} with error code {code}",
        )

    def _lost_error(self, stream: Http2Stream, error: Error) -> Error:
        if self._goaway_code == ErrorCode.HTTP_1_1_REQUIRED:
            stream.reset_code = self._goaway_code
        etype = error.etype
        if etype is ErrorType.H2_ERROR:
            # What this side has found wrong with the frames.
            etype = ErrorType.INVALID_H2
        return Error.up(etype, error.context, cause=error)

    def _ended(self, error: Error) -> None:
        unsent = list(self._unsent)
        self._unsent.clear()
        for stream in unsent:
            lost = self._lost_error(stream, error)
            lost.retry = RetryType.RETRY  # nothing of it was sent
            stream.lost(lost)
        if not self._ready.done():
            self._ready.set_exception(error)
            # The handshake may have been given up already.
            self._ready.exception()
        self._tell_retired()
