"""An HTTP/2 client with several streams, which does with a GOAWAY what RFC 9113, 6.8 says."""

from __future__ import annotations

import asyncio
import itertools
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from tests.support.h2wire import FrameReader, Kind
from tests.support.load.target import LIMIT, Failed, Raced

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.h2wire import Frame
    from tests.support.load.counts import Counts
    from tests.support.load.target import Target

__all__ = ["Http2Connection", "multiplexed"]

_numbers = itertools.count(1)
_MOST_STREAMS = 2**31 - 3
_WINDOW = 2**24


@dataclass(slots=True, eq=False)
class _Stream:
    done: asyncio.Future[None]
    status: int = 0
    body: bytearray = field(default_factory=bytearray)


class Http2Connection:
    """One connection over TLS.

    Args:
        reader: Its input.
        writer: Its output.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self._streams: dict[int, _Stream] = {}
        self._last: int | None = None
        self._frames = FrameReader()
        self._ended: Failed | None = None
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_WINDOW)
        self._flush()
        self._task = asyncio.create_task(self._read(), name="load h2")

    @classmethod
    async def open(cls, target: Target, counts: Counts) -> Self:
        """Connect.

        Args:
            target: The server.
            counts: Where the connection is counted.

        Raises:
            Failed: If that is not possible.
        """
        return cls(*await target.connect("tls", "h2", counts))

    @property
    def is_over(self) -> bool:
        """Whether no more streams can be opened on it."""
        return self._last is not None or self._ended is not None

    @property
    def is_in_order(self) -> bool:
        """Whether its end has been announced."""
        return self._last is not None

    async def close(self) -> None:
        """Close it."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self._writer.transport.abort()

    async def get(self, path: str) -> bytes:
        """Make a request.

        Args:
            path: Its target.

        Returns:
            The body of the answer, which is 200.

        Raises:
            Raced: If the server has not looked at it and says so.
            Failed: If anything else is wrong.
        """
        if self._ended is not None:
            raise self._ended
        number = self._h2.get_next_available_stream_id()
        fields = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost")]
        stream = _Stream(asyncio.get_running_loop().create_future())
        self._streams[number] = stream
        try:
            self._h2.send_headers(number, [*fields, (":path", path)], end_stream=True)
            self._flush()
            async with asyncio.timeout(LIMIT):
                await stream.done
        except TimeoutError as error:
            raise Failed("h2: no answer", path) from error
        finally:
            del self._streams[number]
        if stream.status != 200:
            raise Failed(f"status {stream.status}", bytes(stream.body[:200]))
        return bytes(stream.body)

    # ---------------------------------------------------------------------------- reading

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(65536):
                for frame in self._frames.feed(data):
                    self._take(frame)
                self._flush()
            self._end(Failed("h2: connection ended"))
        except (OSError, h2.exceptions.ProtocolError) as error:
            self._end(Failed.of("h2", error))

    def _take(self, frame: Frame) -> None:
        if frame.kind == Kind.GOAWAY:
            # The library would refuse the streams that are still to be finished.
            self._go_away(frame.payload)
            return
        for event in self._h2.receive_data(frame.encode()):
            match event:
                case h2.events.ResponseReceived(stream_id=number, headers=headers):
                    self._stream(number).status = _status(headers or [])
                case h2.events.DataReceived(stream_id=number, data=data):
                    self._stream(number).body += data or b""
                    self._h2.acknowledge_received_data(event.flow_controlled_length or 0, number)
                case h2.events.StreamEnded(stream_id=number):
                    self._finish(self._streams.get(number or 0), None)
                case h2.events.StreamReset(stream_id=number, error_code=code):
                    refused = code == h2.errors.ErrorCodes.REFUSED_STREAM
                    self._finish(
                        self._streams.get(number or 0),
                        Raced() if refused else Failed(f"h2: stream reset, code {code}"),
                    )
                case _:
                    pass

    def _stream(self, number: int | None) -> _Stream:
        return self._streams.get(number or 0) or _Stream(asyncio.Future())

    def _go_away(self, payload: bytes) -> None:
        code = int.from_bytes(payload[4:8], "big")
        if code:
            self._end(Failed(f"h2: GOAWAY with code {code}", payload[8:]))
            return
        self._last = int.from_bytes(payload[:4], "big") & (2**31 - 1)
        for number, stream in list(self._streams.items()):
            if number > self._last:
                self._finish(stream, Raced())

    def _end(self, failure: Failed) -> None:
        self._ended = failure
        for stream in list(self._streams.values()):
            self._finish(stream, failure)

    @staticmethod
    def _finish(stream: _Stream | None, failure: Exception | None) -> None:
        if stream is None or stream.done.done():
            return
        if failure is None:
            stream.done.set_result(None)
        else:
            stream.done.set_exception(failure)

    def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self._writer.write(data)


def _status(headers: Iterable[object]) -> int:
    # The library types fields as bytes; with a header_encoding they are text.
    found = [field[1] for field in headers if isinstance(field, tuple) and field[0] == ":status"]
    return int(found[0])


class _Shared:
    # The connection that new streams go to, and those that are still finishing their last.
    def __init__(self, target: Target, counts: Counts) -> None:
        self._target = target
        self._counts = counts
        self._lock = asyncio.Lock()
        self._current: Http2Connection | None = None
        self._opened: list[Http2Connection] = []

    async def get(self) -> Http2Connection:
        async with self._lock:
            if self._current is not None and self._current.is_over:
                if self._current.is_in_order:
                    self._counts.reconnects += 1
                else:
                    self._counts.fail("h2: ended without GOAWAY")
                self._current = None
            if self._current is None:
                self._current = await Http2Connection.open(self._target, self._counts)
                self._opened.append(self._current)
            return self._current

    async def close(self) -> None:
        for connection in self._opened:
            await connection.close()


async def multiplexed(
    target: Target, counts: Counts, stop: asyncio.Event, streams: int = 4, pace: float = 0.02
) -> None:
    """Make requests on several streams of a connection at a time.

    Args:
        target: The server.
        counts: Where everything is counted.
        stop: Ends it.
        streams: How many.
        pace: Seconds between two requests of a stream.
    """
    shared = _Shared(target, counts)

    async def one() -> None:
        while not stop.is_set():
            token = f"{os.getpid()}.{next(_numbers)}"
            # Every other one takes long enough to be in flight when the connection goes.
            path = f"/slow/{token}" if next(_numbers) % 2 else f"/echo/{token}"
            try:
                answer = await (await shared.get()).get(path)
            except Raced:
                counts.raced += 1
            except Failed as failure:
                failure.count(counts)
            else:
                if answer == token.encode():
                    counts.requests += 1
                else:
                    counts.fail("wrong answer", (token, answer[:100]))
            await asyncio.sleep(pace)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(streams):
                group.create_task(one())
    finally:
        await shared.close()
