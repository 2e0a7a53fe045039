"""Bytes both ways between two streams, until both directions have ended.

Theory of operation. Two loops, one per direction, move what has arrived on one stream to the
other; one runs in the connection's own task, the other in a second one. A loop that has to wait for
its receiver stops to read, so no more than the buffers of the two streams is ever held. An end of
one direction is passed on alone where the receiver's stream can do that, and the other direction
goes on.

Who fails tells what the other side is told. A stream that could not be read any more has left
something incomplete, and the other stream is reset, so that nothing incomplete looks complete. A
stream that could not be written to has gone away; what it had sent before is still forwarded.

Two deadlines watch both directions together. One fires when neither has moved a byte. The other
one bounds the life of the connection: when it fires, or the server wants it to end, the upstream
is told that the client has ended, may still answer, and then both are closed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pingora_core.apps.stream_proxy.session import StreamEnding
from pingora_core.runtime import timers
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    from pingora_core.apps.stream_proxy.options import StreamProxyOptions
    from pingora_core.apps.stream_proxy.session import StreamSession, Traffic
    from pingora_core.protocols.interfaces import Stream

    DataFilter: TypeAlias = Callable[[bytes | None, bool], Awaitable[bytes | None]]

__all__ = ["Tunnel"]

# Silence after which a connection is given up whose one side has gone away or cannot be told that
# the other one has ended. Seconds.
_LINGER: Final = 10.0


class _Direction:
    """One way through the tunnel.

    Args:
        source: What is read.
        sink: What is written to.
        traffic: Counts the bytes.
        data_filter: Changes them; None to pass them as they are.

    Attributes:
        is_waiting: Whether its loop waits for the source, and can be cancelled without a loss.
        is_stopped: Whether it shall end with what has arrived.
        absorbs_cancel: Whether the cancellation to come is no more than a wake-up.
        is_told: Whether the sink was given everything, its end included.
    """

    __slots__ = (
        "absorbs_cancel",
        "data_filter",
        "is_stopped",
        "is_told",
        "is_waiting",
        "sink",
        "source",
        "traffic",
    )

    def __init__(
        self, source: Stream, sink: Stream, traffic: Traffic, data_filter: DataFilter | None
    ) -> None:
        self.source = source
        self.sink = sink
        self.traffic = traffic
        self.data_filter = data_filter
        self.is_waiting = False
        self.is_stopped = False
        self.absorbs_cancel = False
        self.is_told = False


class Tunnel:
    """One connection that is being forwarded.

    Args:
        session: The connection.
        upstream: Where to.
        options: The limits.
        filters: What changes the bytes from the client and from the upstream; None to pass them
            as they are.

    Attributes:
        error: Why it failed; None if it did not.
    """

    __slots__ = (
        "_client",
        "_deadline",
        "_download",
        "_is_cut",
        "_life",
        "_options",
        "_patience",
        "_session",
        "_upload",
        "_upload_task",
        "_upstream",
        "error",
    )

    def __init__(
        self,
        session: StreamSession,
        upstream: Stream,
        options: StreamProxyOptions,
        filters: tuple[DataFilter | None, DataFilter | None],
    ) -> None:
        client = self._client = session.downstream
        self._session = session
        self._upstream = upstream
        self._options = options
        self._upload = _Direction(client, upstream, session.upload, filters[0])
        self._download = _Direction(upstream, client, session.download, filters[1])
        shared = timers.get_timers()
        self._deadline = timers.Deadline(shared, self._silent)
        self._life = timers.Deadline(shared, self._expired)
        self._upload_task: asyncio.Task[None] | None = None
        # Seconds of silence that are borne from now on.
        self._patience = options.idle_timeout
        self._is_cut = False
        self.error: Error | None = None

    async def run(self) -> None:
        """Forward until it is over, then close both streams without waiting for them to be gone.

        Failures of the connection are noted, not raised.
        """
        client, upstream = self._client, self._upstream
        self._deadline.set(self._patience)
        if self._options.max_lifetime is not None:
            self._life.set(self._options.max_lifetime)
        upload = self._upload_task = asyncio.create_task(self._forward(self._upload))
        try:
            await self._forward(self._download)
            if self._download.is_told and not client.can_write_eof:
                # A client that waits for this end could not be told of it in any other way.
                upload.cancel()
            await asyncio.wait((upload,))
        finally:
            self._deadline.cancel()
            self._life.cancel()
            self._upload.absorbs_cancel = False
            if not upload.done():
                upload.cancel()
                await asyncio.wait((upload,))
            for stream, direction in ((client, self._download), (upstream, self._upload)):
                if direction.is_told or self._is_cut:
                    stream.close(discard_input=True)
                else:
                    stream.abort()

    def end_in_order(self, ending: StreamEnding) -> None:
        """Let the upstream know that the client sends no more, and close when it is done too.

        Args:
            ending: Why; what was noted before stays.
        """
        session = self._session
        if session.ending is not None:
            return
        session.ending = ending
        upload = self._upload
        upload.is_stopped = True
        if upload.is_waiting and self._upload_task is not None:
            upload.absorbs_cancel = True
            self._upload_task.cancel()
        if self._upstream.can_write_eof:
            self._life.set(self._options.closing_timeout)
        else:
            # It can only be told by the close.
            self._cut()

    # ------------------------------------------------------------ one direction

    async def _forward(self, direction: _Direction) -> None:
        pump = self._pump if direction.data_filter is None else self._pump_filtered
        try:
            try:
                is_complete = await pump(direction)
            except asyncio.CancelledError:
                if not direction.absorbs_cancel:
                    raise
                direction.absorbs_cancel = False
                # What has arrived in the same turn.
                is_complete = await pump(direction)
            if is_complete:
                self._end(direction)
        except Error as error:
            self._fail(error, direction.source)
        except Exception as error:  # noqa: BLE001 - a stream may be of the user's making
            self._fail(Error.internal(ErrorType.INTERNAL_ERROR, cause=error), direction.source)

    async def _pump(self, direction: _Direction) -> bool:
        # HOT. True once the source has ended; False if nothing more can be passed on.
        source, sink, traffic = direction.source, direction.sink, direction.traffic
        deadline = self._deadline
        while True:
            if not source.buffered:
                if direction.is_stopped:
                    return True
                direction.is_waiting = True
                if not await source.fill():
                    return True
                direction.is_waiting = False
            data = source.take()
            size = len(data)
            traffic.received += size
            deadline.set(self._patience)
            try:
                sink.write(data)
                if sink.needs_drain:
                    await sink.drain()
                    deadline.set(self._patience)
            except Error as error:
                self._lose(error, sink)
                return False
            traffic.sent += size

    async def _pump_filtered(self, direction: _Direction) -> bool:
        source, sink, traffic = direction.source, direction.sink, direction.traffic
        data_filter = direction.data_filter
        assert data_filter is not None
        deadline = self._deadline
        is_over = False
        while not is_over:
            if not source.buffered and not direction.is_stopped:
                direction.is_waiting = True
                await source.fill()
                direction.is_waiting = False
            data: bytes | None = source.take()
            if data:
                traffic.received += len(data)
            else:
                data, is_over = None, True
            deadline.set(self._patience)
            try:
                data = await data_filter(data, is_over)
            except Error as error:
                self._fail(error, None)
                return False
            if data:
                try:
                    sink.write(data)
                    if sink.needs_drain:
                        await sink.drain()
                except Error as error:
                    self._lose(error, sink)
                    return False
                traffic.sent += len(data)
                deadline.set(self._patience)
        return True

    # ------------------------------------------------------------------ endings

    def _end(self, direction: _Direction) -> None:
        sink = direction.sink
        direction.is_told = True
        self._patience = min(self._patience, self._options.half_closed_timeout)
        if sink.can_write_eof:
            try:
                sink.write_eof()
            except Error as error:
                self._note(error, sink)
                self._patience = min(self._patience, _LINGER)
        else:
            self._patience = min(self._patience, _LINGER)
        self._deadline.set(self._patience)

    def _fail(self, error: Error, where: Stream | None) -> None:
        # Whatever the other direction waits for, it need not.
        self._note(error, where)
        self._client.fail(error)
        self._upstream.fail(error)

    def _lose(self, error: Error, sink: Stream) -> None:
        # Whoever reads from it will find out how that came.
        self._note(error, sink)
        self._patience = min(self._patience, _LINGER)
        self._deadline.set(self._patience)

    def _note(self, error: Error, where: Stream | None) -> None:
        # The first failure is the reason, the others follow from it.
        if self.error is not None or self._is_cut:
            return
        if where is not None and error.esource is ErrorSource.UNSET:
            error = error.as_down() if where is self._client else error.as_up()
        self.error = error

    def _silent(self) -> None:
        msg = f"nothing was forwarded for {self._patience} s"
        # Neither side is waited for any more, whatever it was told.
        self._upload.is_told = self._download.is_told = False
        if self._session.ending is None:
            self._session.ending = StreamEnding.IDLE
        self._fail(Error.internal(ErrorType.READ_TIMEDOUT, msg), None)

    def _expired(self) -> None:
        if self._session.ending is None:
            self.end_in_order(StreamEnding.LIFETIME)
        else:
            self._cut()

    def _cut(self) -> None:
        self._is_cut = True
        error = Error.internal(ErrorType.CONNECTION_CLOSED, "the connection was ended")
        self._client.fail(error)
        self._upstream.fail(error)
