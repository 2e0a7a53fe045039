"""The server's side of an HTTP/2 connection: a task for each request, and a graceful end.

Graceful ending has two steps (RFC 9113 section 6.8): a GOAWAY that names the highest number there
is, so that requests on their way are not lost, and, once a PING has come back or a short time has
passed, a GOAWAY with the last request that was taken. The connection closes when the last of them is
done, or after the drain deadline.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, ClassVar, Final

from pingora_core.protocols.http.v2._frames import ErrorCode, goaway_frame
from pingora_core.protocols.http.v2._stream import Http2Stream
from pingora_core.protocols.http.v2.connection import Connection
from pingora_core.protocols.http.v2.headers import decode_request
from pingora_core.protocols.http.v2.server import HttpSession
from pingora_core.runtime.counters import COUNTERS
from pingora_core.runtime.timers import Deadline, get_timers
from pingora_error import Error, ErrorType, HTTPStatus

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from h2 import events

    from pingora_core.protocols.http.v2._carrier import Fields
    from pingora_core.protocols.http.v2.options import Http2Options
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.runtime.shutdown import ShutdownWatch

__all__ = ["ServerConnection"]

logger = logging.getLogger(__name__)

_HIGHEST_STREAM: Final = 2**31 - 1
_GOAWAY_STEP: Final = 1.0
# How much later, where input waits that nobody has looked at.
_GOAWAY_DELAY: Final = 0.05
# How long a client that is told of the server's end may take to end its direction, seconds: one
# that was idle, and one that has responses to read.
_IDLE_LINGER: Final = 0.1
_LINGER: Final = 1.0
_DRAIN_PING: Final = b"draining"


class ServerConnection(Connection):
    """A client's connection.

    Args:
        stream: The bytes below; closed by this object.
        options: How to speak.
        serve: Serves one request; runs in a task of its own.
        request_limit: Requests after which the connection is told to end; None for no limit.
        shutdown: Handed to the sessions; its owner has `drain` subscribed.
        idle_drain: Seconds between the two GOAWAYs at most, on a connection without requests.
    """

    is_client: ClassVar[bool] = False

    def __init__(
        self,
        stream: Stream,
        options: Http2Options,
        serve: Callable[[HttpSession], Awaitable[object]],
        *,
        request_limit: int | None = None,
        shutdown: ShutdownWatch | None = None,
        idle_drain: float = _GOAWAY_STEP,
    ) -> None:
        super().__init__(stream, options)
        self._serve = serve
        # By the number of the stream; they take themselves out.
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._remaining = request_limit
        self._last_accepted = 0
        self._deadline: Deadline | None = Deadline(get_timers(), self._deadline_passed)
        self._goaway_step = 0
        self._is_goaway_delayed = False
        self._shutdown = shutdown
        self._idle_drain = idle_drain
        self._drains_at_start = False

    async def run(self) -> None:
        """Serve the connection until it has ended and all its requests are done."""
        try:
            self.start()
            if self._deadline is not None and not self._goaway_step:
                self._deadline.set(self.options.preface_timeout)
            if self._drains_at_start:
                self.drain()
            await self.wait_closed()
            # Their streams have failed; they end by themselves and tell their logs.
            if self._tasks:
                await asyncio.wait(self._tasks.values())
        finally:
            self._end(Error.internal(ErrorType.CONNECTION_CLOSED, "the server ends the connection"))
            for task in self._tasks.values():
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks.values())
            if self._drainer is not None:
                await asyncio.wait((self._drainer,))

    # --------------------------------------------------------------- requests

    def _request_received(self, event: events.RequestReceived) -> None:
        stream = Http2Stream(self, event.stream_id)
        stream.is_receive_closed = event.stream_ended is not None
        self._begin(stream, event.headers)

    def _take_head(self, stream_id: int, block: bytes, flags: int) -> bool:
        unseen = self._unseen
        fields = unseen.take_head(stream_id, block, flags) if unseen is not None else None
        if unseen is None or fields is None:
            return super()._take_head(stream_id, block, flags)
        stream = Http2Stream(self, stream_id)
        stream.is_receive_closed = True
        unseen.begin(stream)
        self._begin(stream, fields)
        return True

    def _begin(self, stream: Http2Stream, fields: Fields) -> None:
        stream_id = stream.id
        end = stream.is_receive_closed
        stats = self.options.stats
        stats.streams += 1
        self.streams[stream_id] = stream
        if self.sent_goaway is not None and stream_id > self.sent_goaway:
            stats.refused += 1
            stream.reset(ErrorCode.REFUSED_STREAM)
            return
        # Tasks, not streams: what was reset may still be at work.
        if len(self._tasks) >= self.options.max_concurrent_streams:
            stats.refused += 1
            stream.reset(ErrorCode.REFUSED_STREAM)
            self._count("reset")
            return
        self._last_accepted = stream_id
        COUNTERS.requests += 1
        try:
            decoded = decode_request(
                fields,
                end_stream=end,
                allow_connect=True,
                random=os.urandom,
                extended_connect=self.options.extended_connect,
            )
        except Error as error:
            refusal = error
            if not isinstance(error.etype, HTTPStatus):
                # The reset is all there is to answer; the application tells its logs of it.
                logger.info("HTTP/2 stream %d is malformed: %s", stream_id, error)
                self._malformed(stream, error)
                msg = f"HTTP/2 stream {stream_id} was reset"
                refusal = Error.down(ErrorType.CONNECTION_CLOSED, msg, cause=error)
            session = HttpSession(stream, None, error=refusal)
        else:
            stream.expected = decoded.content_length
            session = HttpSession(stream, decoded)
        session.shutdown_watch = self._shutdown
        if self._deadline is not None and not self._goaway_step:
            self._deadline.clear()
        # No callback when it is done: that would be another turn of the loop for each request.
        self._tasks[stream_id] = self.loop.create_task(self._run(session), name="h2 request")
        if self._remaining is not None:
            self._remaining -= 1
            if self._remaining <= 0:
                self.drain()

    async def _run(self, session: HttpSession) -> None:
        try:
            if session.stream.error is not None and not session.is_refused:
                return  # given up in the turn in which it came
            await self._serve(session)
        except Error as error:
            logger.warning("HTTP/2 stream %d: %s", session.stream.id, error)
        except Exception:
            logger.exception("HTTP/2 stream %d failed", session.stream.id)
        finally:
            session.close()
            self._tasks.pop(session.stream.id, None)
            if not self._tasks and self.is_open:
                self._idle()

    def _idle(self) -> None:
        if self._goaway_step == 2:
            self.close()
        elif self._deadline is not None and not self._goaway_step:
            if self.options.idle_timeout is None:
                self._deadline.clear()
            else:
                self._deadline.set(self.options.idle_timeout)

    def _stream_reset(self, event: events.StreamReset) -> None:
        stream = self.streams.get(event.stream_id)
        super()._stream_reset(event)
        if stream is not None and event.remote_reset is not False and self.is_open:
            self._count("reset")

    def _reset_error(self, stream: Http2Stream, code: int) -> Error:
        return Error.down(
            ErrorType.CONNECTION_CLOSED,
            f"the client gave HTTP/2 stream {stream.id} up with error code {code}",
        )

    def _lost_error(self, stream: Http2Stream, error: Error) -> Error:  # noqa: ARG002 - one shape
        return Error.down(ErrorType.CONNECTION_CLOSED, error.context, cause=error)

    def _settings_changed(self, event: events.RemoteSettingsChanged) -> None:
        first = not self._settings_seen
        super()._settings_changed(event)
        if first and not self._tasks and self.is_open:
            self._idle()

    # ----------------------------------------------------------------- ending

    def _goaway_received(self, last_stream_id: int, code: int, debug: bytes) -> None:  # noqa: ARG002 - one shape
        if code != ErrorCode.NO_ERROR:
            logger.info("the client ends its HTTP/2 connection with error code %d", code)
        self.is_draining = True
        self._goaway_step = 2
        if self.sent_goaway is None:
            self.sent_goaway = self._last_accepted
        self._arm_drain_deadline()
        if not self._tasks:
            self.close()

    def drain(self) -> None:
        """Tell the client to open no more streams, and close once those there are have ended."""
        if self._goaway_step or not self.is_open:
            return
        if self._preface:
            # Nothing may come before the SETTINGS.
            self._drains_at_start = True
            return
        self.is_draining = True
        if self._shutdown is not None and self._shutdown.is_shutting_down:
            self.linger = _LINGER if self._tasks else _IDLE_LINGER
        self._goaway_step = 1
        try:
            self._write_encoded()
            self.stream.write(goaway_frame(_HIGHEST_STREAM, ErrorCode.NO_ERROR))
        except Error as error:
            self.abort(error)
            return
        self._engine.ping(_DRAIN_PING)
        self._schedule_flush()
        if self._deadline is not None:
            self._deadline.set(_GOAWAY_STEP if self._tasks else self._idle_drain)

    def _ping_ack_received(self, event: events.PingAckReceived) -> None:
        super()._ping_ack_received(event)
        if self._goaway_step == 1 and bytes(event.ping_data) == _DRAIN_PING:
            # Whatever else has arrived with it counts as accepted.
            self.loop.call_soon(self._second_goaway)

    def _second_goaway(self) -> None:
        if self._goaway_step != 1 or not self.is_open:
            return
        self._goaway_step = 2
        self.sent_goaway = self._last_accepted
        try:
            self._write_encoded()
            self.stream.write(goaway_frame(self._last_accepted, ErrorCode.NO_ERROR))
        except Error as error:
            self.abort(error)
            return
        self._arm_drain_deadline()
        if not self._tasks:
            self.close()

    def _arm_drain_deadline(self) -> None:
        deadline = self._deadline
        if deadline is None:
            return
        if self.options.drain_timeout is None:
            deadline.clear()
        else:
            deadline.set(self.options.drain_timeout)

    def _deadline_passed(self) -> None:
        if self._goaway_step == 1:
            if self._deadline is not None and not self._is_goaway_delayed:
                self._is_goaway_delayed = True
                if self.stream.pending_input():
                    self._deadline.set(_GOAWAY_DELAY)
                    return
            self._second_goaway()
        else:
            # Idle, silent from the start, or drained for too long.
            self.close()

    def _stream_done(self, stream: Http2Stream) -> None:
        pass

    def _ended(self, error: Error) -> None:  # noqa: ARG002 - one shape
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
