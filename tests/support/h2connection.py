"""One connection of the HTTP/2 test origin: frames in, judged, and frames out.

See ``h2origin``, which answers the requests.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from hpack import Encoder

from tests.support.h2judge import Judge
from tests.support.h2wire import (
    ACK,
    DEFAULT_FRAME_SIZE,
    END_STREAM,
    PREFACE,
    Code,
    FrameReader,
    Kind,
    Setting,
    block_pieces,
    goaway_frame,
    header_frames,
    parse_settings,
    ping_frame,
    settings_ack,
    settings_frame,
    window_frame,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.h2wire import Fields, Frame, Settings

__all__ = ["H2Connection", "H2Owner", "H2Request", "StreamGone"]


class StreamGone(Exception):  # noqa: N818 - it ends a handler, in order
    """The client has reset the stream, or the connection has ended."""


@dataclass(slots=True, eq=False)
class H2Request:
    """One request as the origin saw it.

    Attributes:
        connection: Number of the connection, from 0.
        stream_id: Its stream.
        fields: Its header section.
        body: What arrived of its body.
        trailers: The trailer section, if there was one.
        complete: Whether END_STREAM has arrived.
        reset: Code of the client's RST_STREAM, if it has sent one.
    """

    connection: int
    stream_id: int
    fields: Fields
    body: bytearray = field(default_factory=bytearray)
    trailers: Fields | None = None
    complete: bool = False
    reset: int | None = None

    @property
    def method(self) -> str:
        """The method."""
        return self.get(":method") or ""

    @property
    def target(self) -> str:
        """The path with its query."""
        return self.get(":path") or ""

    @property
    def path(self) -> str:
        """The path without its query."""
        return self.target.split("?")[0]

    def get(self, name: str) -> str | None:
        """Return the first value of a field, or None.

        Args:
            name: Its name, in any case.
        """
        return next(iter(self.get_all(name)), None)

    def get_all(self, name: str) -> list[str]:
        """Return all values of a field.

        Args:
            name: Its name, in any case.
        """
        key = name.lower().encode("latin-1")
        return [value.decode("latin-1") for each, value in self.fields if each == key]


class H2Owner(Protocol):
    """Whoever accepts connections.

    Attributes:
        auto_credit: Whether windows are opened again as data arrives.
        requests: All requests.
    """

    auto_credit: bool
    requests: list[H2Request]

    async def answer(self, connection: H2Connection, request: H2Request) -> None:
        """Answer a request.

        Args:
            connection: Where it came in.
            request: The request.
        """


class H2Connection:
    """One accepted connection.

    Attributes:
        number: Its number, from 0.
        frames: All frames that have arrived.
        judge: What is known of the client, and what it did wrong.
        requests: The requests, by stream.
        is_open: Whether neither side has closed it.
        writer: Where bytes go.
    """

    def __init__(
        self,
        origin: H2Owner,
        number: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.number = number
        self.frames: list[Frame] = []
        self.judge = Judge()
        self.requests: dict[int, H2Request] = {}
        self.is_open = True
        self.writer = writer
        self.tasks: set[asyncio.Task[None]] = set()
        self._origin = origin
        self._reader = reader
        self._encoder = Encoder()
        self._news = asyncio.Event()

    # ---------------------------------------------------------------- sending

    def write(self, *frames: Frame) -> None:
        """Send frames, legal or not; nothing happens if the connection is gone.

        Args:
            frames: What to send.
        """
        for frame in frames:
            self.judge.sent(frame)
        if not self.writer.transport.is_closing():
            self.writer.write(b"".join(frame.encode() for frame in frames))

    def write_head(self, stream_id: int, fields: Fields, *, end: bool = False) -> None:
        """Send a header section, good or not.

        Args:
            stream_id: On which stream.
            fields: The section.
            end: Whether the stream ends with it.
        """
        size = self.judge.peer_settings.get(Setting.MAX_FRAME_SIZE, DEFAULT_FRAME_SIZE)
        self.write(*header_frames(stream_id, self._encoder.encode(fields), end=end, size=size))

    def grant(self, stream_id: int, size: int) -> None:
        """Open windows, for an origin that does not do so by itself.

        Args:
            stream_id: Which; 0 for the connection's.
            size: Bytes.
        """
        self.write(window_frame(stream_id, size))

    def announce(self, settings: Settings) -> None:
        """Change settings in the middle of everything.

        Args:
            settings: The new ones.
        """
        self.write(settings_frame(settings))

    def goaway(self, last: int, code: int = Code.NO_ERROR, debug: bytes = b"") -> None:
        """Say that the connection will end.

        Args:
            last: The last stream that is dealt with.
            code: Why.
            debug: What else there is to say.
        """
        self.write(goaway_frame(last, code, debug))

    async def ping(self, data: bytes = b"01234567") -> None:
        """Send PING and wait for the answer.

        Args:
            data: Eight bytes.
        """
        self.write(ping_frame(data))
        await self.wait_for(lambda: data not in self.judge.unanswered_pings)

    def close(self) -> None:
        """Close in order, without a GOAWAY."""
        self.is_open = False
        self.writer.close()

    def reset(self) -> None:
        """End the connection at once."""
        self.is_open = False
        self.writer.transport.abort()

    # -------------------------------------------------------------- receiving

    async def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until what has arrived makes a condition true.

        Args:
            condition: The condition.

        Raises:
            StreamGone: If the connection ends first.
        """
        while not condition():
            if not self.is_open:
                raise StreamGone
            self._news.clear()
            await self._news.wait()

    async def serve(self) -> None:
        """Read until the client closes the connection."""
        frames = FrameReader()
        preface = bytearray()
        try:
            while data := await self._reader.read(65536):
                if len(preface) < len(PREFACE):
                    room = len(PREFACE) - len(preface)
                    preface += data[:room]
                    data = data[room:]
                    if not PREFACE.startswith(preface):
                        self.judge.violations.append(f"preface {bytes(preface)!r} (3.4)")
                        break
                for frame in frames.feed(data):
                    self.frames.append(frame)
                    self._take(frame)
                self._news.set()
                await self.writer.drain()
        except OSError:
            pass
        finally:
            self.is_open = False
            if frames.pending:
                self.judge.violations.append(
                    f"closed within a frame: {bytes(frames.pending[:9])!r}"
                )
            self._news.set()
            for task in list(self.tasks):
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            self.writer.transport.abort()

    def _take(self, frame: Frame) -> None:
        fields = self.judge.received(frame)
        request = self.requests.get(frame.stream_id)
        match frame.kind:
            case Kind.SETTINGS if not frame.has(ACK):
                table = dict(parse_settings(frame.payload)).get(Setting.HEADER_TABLE_SIZE)
                if table is not None:
                    self._encoder.header_table_size = min(table, 4096)
                self.write(settings_ack())
            case Kind.PING if not frame.has(ACK):
                self.write(ping_frame(frame.payload, ack=True))
            case Kind.DATA:
                self._take_data(frame, request)
            case Kind.RST_STREAM if request is not None:
                request.reset = frame.code
            case _:
                pass
        if fields is not None:
            self._take_section(frame.stream_id, fields, request)

    def _take_data(self, frame: Frame, request: H2Request | None) -> None:
        size = len(frame.payload)
        if self._origin.auto_credit and size:
            self.write(window_frame(0, size))
        if request is None:
            return
        request.body += block_pieces(frame) or b""
        request.complete |= frame.has(END_STREAM)
        stream = self.judge.streams[frame.stream_id]
        if self._origin.auto_credit and size and not request.complete and not stream.reset:
            self.write(window_frame(frame.stream_id, size))

    def _take_section(self, stream_id: int, fields: Fields, request: H2Request | None) -> None:
        stream = self.judge.streams[stream_id]
        if request is not None:
            request.trailers = fields
            request.complete |= stream.peer_ended
            return
        request = H2Request(self.number, stream_id, fields, complete=stream.peer_ended)
        self.requests[stream_id] = request
        self._origin.requests.append(request)
        task = asyncio.create_task(self._origin.answer(self, request), name=f"h2 {stream_id}")
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
