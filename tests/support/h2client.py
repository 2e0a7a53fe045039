"""A raw HTTP/2 client that sends exactly the frames a test wants, legal or not.

A task of its own reads whatever the server sends, so that a flood in one direction does not jam
the other; what has arrived is kept. Every wait has a deadline. See ``h2wire`` for the frames.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from hpack import Decoder, Encoder

from tests.support.h2wire import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PREFACE,
    Frame,
    FrameReader,
    Kind,
    block_pieces,
    data_frame,
    header_frames,
    ping_frame,
    settings_ack,
    settings_frame,
    window_frame,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

    from tests.support.h2wire import Fields, Settings

__all__ = ["Ended", "H2Response", "RawH2Client"]


class Ended(Exception):  # noqa: N818 - it is an observation, not always an error
    """The connection ended before what was waited for."""


@dataclass(slots=True, eq=False)
class H2Response:
    """What has arrived on one stream.

    Attributes:
        heads: Its header blocks in order: informational ones, the final one, trailers.
        body: The data.
        flow_controlled: Bytes of DATA, padding included.
        ended: Whether END_STREAM has arrived.
        reset: Code of the RST_STREAM, if one has arrived.
    """

    heads: list[Fields] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    flow_controlled: int = 0
    ended: bool = False
    reset: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.ended or self.reset is not None

    @property
    def final(self) -> dict[bytes, bytes] | None:
        """The final head; None if it has not arrived."""
        for head in self.heads:
            fields = dict(head)
            if not fields.get(b":status", b"1").startswith(b"1"):
                return fields
        return None

    @property
    def status(self) -> int | None:
        """The final status; None if it has not arrived."""
        final = self.final
        return None if final is None else int(final[b":status"])

    @property
    def informational(self) -> list[int]:
        """The statuses before the final one."""
        statuses = [int(dict(head).get(b":status", b"999")) for head in self.heads]
        return [status for status in statuses if status < 200]

    @property
    def trailers(self) -> Fields | None:
        """The trailer section; None if there is none."""
        last = self.heads[-1] if self.heads else [(b":status", b"")]
        return None if last and last[0][0] == b":status" else last

    def get(self, name: bytes) -> bytes | None:
        """Return the first value of a field of the final head.

        Args:
            name: Its name.
        """
        for head in self.heads:
            if head and head[0] == (b":status", b"%d" % (self.status or 0)):
                return next((value for key, value in head if key == name), None)
        return None


class RawH2Client:
    """One connection to the server under test.

    Attributes:
        timeout: Seconds that any one wait may take.
        frames: All frames that have arrived.
        streams: What has arrived on each stream.
        encoder: Makes header blocks.
        auto_ack: Whether SETTINGS and PING are acknowledged by themselves.
        auto_credit: Whether windows are opened again by themselves.
        is_closed: Whether the server has closed the connection.
        next_id: Number of the next stream.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout: float
    ) -> None:
        self._reader = reader
        self._writer = writer
        self.timeout = timeout
        self.frames: list[Frame] = []
        self.streams: dict[int, H2Response] = {}
        self.encoder = Encoder()
        self.auto_ack = True
        self.auto_credit = True
        self.is_closed = False
        self.next_id = 1
        self._decoder = Decoder(1 << 24)
        self._block: tuple[Frame, bytearray] | None = None
        self._seen = 0
        self._news = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._failure: BaseException | None = None
        self._task = asyncio.create_task(self._read(), name="h2 client")

    @classmethod
    async def connect(
        cls,
        address: str,
        *,
        tls: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        settings: Settings | None = None,
        receive_buffer: int | None = None,
        handshake: bool = True,
        timeout: float = 60.0,
    ) -> Self:
        """Connect by prior knowledge, or by TLS whose context offers ``h2``.

        Args:
            address: ``host:port``.
            tls: Client context, for TLS.
            server_hostname: Name to send and verify with TLS.
            settings: Announced in the first SETTINGS.
            receive_buffer: Kernel receive buffer in bytes, for a client that stalls.
            handshake: Whether preface and SETTINGS are sent, and the server's awaited.
            timeout: Seconds that any one wait may take.

        Returns:
            The client; use it as an async context manager.

        Raises:
            Ended: If the server chose another protocol than ``h2``.
        """
        host, _, port = address.rpartition(":")
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, (host.strip("[]"), int(port)))
        except BaseException:
            sock.close()
            raise
        limit = 4096 if receive_buffer is not None else 1 << 20
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=tls, server_hostname=server_hostname, limit=limit
        )
        client = cls(reader, writer, timeout)
        try:
            if tls is not None and client.alpn != "h2":
                msg = f"the server chose {client.alpn!r}"
                raise Ended(msg)
            if handshake:
                await client.send(PREFACE + settings_frame(settings or {}).encode())
                await client.expect(Kind.SETTINGS)
        except BaseException:
            await client.close()
            raise
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.close()
        if kind is None and self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """Close the connection at once."""
        self._task.cancel()
        await asyncio.wait((self._task,))
        self._writer.transport.abort()
        try:
            await self._writer.wait_closed()
        except OSError:
            return

    @property
    def alpn(self) -> str | None:
        """The protocol that TLS has agreed on."""
        tls: ssl.SSLObject | None = self._writer.get_extra_info("ssl_object")
        return None if tls is None else tls.selected_alpn_protocol()

    # ---------------------------------------------------------------- reading

    def pause(self) -> None:
        """Read nothing more, so that the server's data stays on its way."""
        self._may_read.clear()

    def resume(self) -> None:
        """Read again."""
        self._may_read.set()

    async def _read(self) -> None:
        frames = FrameReader()
        try:
            while True:
                await self._may_read.wait()
                data = await self._reader.read(65536)
                if not data:
                    break
                for frame in frames.feed(data):
                    self.frames.append(frame)
                    self._take(frame)
                self._news.set()
        except OSError:
            pass
        except Exception as error:  # noqa: BLE001 - raised at the end of the test
            self._failure = error
        finally:
            self.is_closed = True
            self._news.set()

    def _take(self, frame: Frame) -> None:
        stream = self.streams.get(frame.stream_id)
        match frame.kind:
            case Kind.SETTINGS if not frame.has(ACK):
                if self.auto_ack:
                    self.write(settings_ack())
            case Kind.PING if not frame.has(ACK):
                if self.auto_ack:
                    self.write(ping_frame(frame.payload, ack=True))
            case Kind.HEADERS | Kind.CONTINUATION:
                self._take_block(frame)
            case Kind.DATA:
                self._take_data(frame)
            case Kind.RST_STREAM if stream is not None:
                stream.reset = frame.code
            case _:
                pass

    def _take_block(self, frame: Frame) -> None:
        if self._block is None:
            self._block = (frame, bytearray())
        first, block = self._block
        block += block_pieces(frame) or b""
        if not frame.has(END_HEADERS):
            return
        self._block = None
        stream = self.streams.setdefault(frame.stream_id, H2Response())
        fields = self._decoder.decode(bytes(block), raw=True)
        stream.heads.append([(name, value) for name, value in fields])
        stream.ended |= first.has(END_STREAM)

    def _take_data(self, frame: Frame) -> None:
        stream = self.streams.setdefault(frame.stream_id, H2Response())
        stream.body += block_pieces(frame) or b""
        stream.flow_controlled += len(frame.payload)
        stream.ended |= frame.has(END_STREAM)
        if self.auto_credit and frame.payload:
            self.write(window_frame(0, len(frame.payload)))
            if not stream.ended:
                self.write(window_frame(frame.stream_id, len(frame.payload)))

    async def wait_for(self, condition: Callable[[], object], what: str = "the condition") -> None:
        """Wait until something has arrived.

        Args:
            condition: Whether it has.
            what: What is waited for, for the message.

        Raises:
            Ended: If the connection ended first.
            TimeoutError: If it takes too long.
        """
        try:
            async with asyncio.timeout(self.timeout):
                while not condition():
                    if self.is_closed:
                        msg = f"closed while waiting for {what}; got {self._told()}"
                        raise Ended(msg)
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            msg = f"no {what} within {self.timeout} s; got {self._told()}"
            raise TimeoutError(msg) from None

    def _told(self) -> str:
        return ", ".join(map(str, self.frames[-8:])) or "nothing"

    async def expect(self, kind: int, stream_id: int | None = None) -> Frame:
        """Wait for a frame, and pass by all frames before it.

        Args:
            kind: Its type.
            stream_id: Its stream; None for any.

        Returns:
            The frame.

        Raises:
            Ended: If the connection ended first.
            TimeoutError: If it takes too long.
        """

        def found() -> bool:
            while self._seen < len(self.frames):
                frame = self.frames[self._seen]
                self._seen += 1
                if frame.kind == kind and stream_id in {None, frame.stream_id}:
                    return True
            return False

        await self.wait_for(found, Kind(kind).name)
        return self.frames[self._seen - 1]

    def received(self, kind: int, stream_id: int | None = None) -> list[Frame]:
        """Return the frames of one type that have arrived, passed by or not.

        Args:
            kind: Their type.
            stream_id: Their stream; None for any.
        """
        return [
            frame
            for frame in self.frames
            if frame.kind == kind and stream_id in {None, frame.stream_id}
        ]

    async def goaway(self) -> Frame:
        """Wait for the first GOAWAY.

        Returns:
            The frame; its ``code`` says why.
        """
        await self.wait_for(lambda: self.received(Kind.GOAWAY), "GOAWAY")
        return self.received(Kind.GOAWAY)[0]

    async def closed(self) -> None:
        """Wait until the server has closed the connection.

        Raises:
            TimeoutError: If it takes too long.
        """
        try:
            await self.wait_for(lambda: False, "end of the connection")
        except Ended:
            return

    async def response(self, stream_id: int) -> H2Response:
        """Wait until a stream is over.

        Args:
            stream_id: Which.

        Returns:
            What has arrived on it.
        """
        stream = self.streams.setdefault(stream_id, H2Response())
        await self.wait_for(lambda: stream.is_over, f"end of stream {stream_id}")
        return stream

    # ---------------------------------------------------------------- sending

    def write(self, *frames: Frame | bytes) -> None:
        """Send frames, or raw bytes, without waiting; nothing happens if the connection is gone.

        Args:
            frames: What to send.
        """
        if not self._writer.transport.is_closing():
            self._writer.write(
                b"".join([f.encode() if isinstance(f, Frame) else f for f in frames])
            )

    async def send(self, *frames: Frame | bytes) -> None:
        """Send frames, or raw bytes, and wait until most of it is gone.

        Args:
            frames: What to send.

        Raises:
            Ended: If the connection is gone.
        """
        self.write(*frames)
        try:
            async with asyncio.timeout(self.timeout):
                await self._writer.drain()
        except OSError as error:
            msg = f"gone while sending: {error}"
            raise Ended(msg) from error
        if self._writer.transport.is_closing():
            msg = "gone while sending"
            raise Ended(msg)

    async def flood(self, frames: Iterable[Frame | bytes], *, at_once: int = 50) -> None:
        """Send frames until they are all sent, or the server has had enough.

        Args:
            frames: What to send.
            at_once: How many go in one write.
        """
        batch: list[Frame | bytes] = []
        try:
            for frame in frames:
                batch.append(frame)
                if len(batch) == at_once:
                    await self.send(*batch)
                    batch.clear()
                    # A turn of the loop, in which the server that shares it may read.
                    await asyncio.sleep(0)
                    if self.is_closed or self.received(Kind.GOAWAY):
                        return
            await self.send(*batch)
        except Ended:
            return

    def take_id(self) -> int:
        """Return the number of a new stream."""
        stream_id = self.next_id
        self.next_id += 2
        return stream_id

    def head(
        self,
        method: str = "GET",
        path: str = "/",
        fields: Iterable[tuple[str, str]] = (),
        *,
        authority: str = "test.example",
        scheme: str = "http",
    ) -> Fields:
        """Make the fields of a well-formed request.

        Args:
            method: The method.
            path: The path.
            fields: Fields besides the pseudo-header fields.
            authority: Whom it is for.
            scheme: The scheme.
        """
        pairs = [
            (":method", method),
            (":scheme", scheme),
            (":authority", authority),
            (":path", path),
            *fields,
        ]
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]

    def head_frames(self, stream_id: int, fields: Fields, *, end: bool = False) -> list[Frame]:
        """Make HEADERS (and CONTINUATION) of any fields.

        Args:
            stream_id: Their stream.
            fields: The fields, good or not.
            end: Whether the stream ends with them.
        """
        self.streams.setdefault(stream_id, H2Response())
        return header_frames(stream_id, self.encoder.encode(fields), end=end)

    async def send_request(
        self,
        method: str = "GET",
        path: str = "/",
        fields: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
        *,
        end: bool = True,
    ) -> int:
        """Send a well-formed request; a body must fit into the windows.

        Args:
            method: The method.
            path: The path.
            fields: Fields besides the pseudo-header fields.
            body: The body.
            end: Whether the request ends here.

        Returns:
            Its stream.
        """
        return await self.send_fields(self.head(method, path, fields), body, end=end)

    async def send_fields(
        self, fields: Fields, body: bytes | None = None, *, end: bool = True
    ) -> int:
        """Send a request of any fields.

        Args:
            fields: The fields, good or not.
            body: The body.
            end: Whether the request ends here.

        Returns:
            Its stream.
        """
        stream_id = self.take_id()
        frames = self.head_frames(stream_id, fields, end=end and body is None)
        if body is not None:
            pieces = [body[at : at + 16384] for at in range(0, len(body), 16384)] or [b""]
            frames += [data_frame(stream_id, piece) for piece in pieces[:-1]]
            frames.append(data_frame(stream_id, pieces[-1], end=end))
        await self.send(*frames)
        return stream_id

    async def request(
        self,
        method: str = "GET",
        path: str = "/",
        fields: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> H2Response:
        """Send a well-formed request and wait for the end of its stream.

        Args:
            method: The method.
            path: The path.
            fields: Fields besides the pseudo-header fields.
            body: The body; must fit into the windows.

        Returns:
            The response.
        """
        return await self.response(await self.send_request(method, path, fields, body))
