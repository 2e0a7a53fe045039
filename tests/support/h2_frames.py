"""A client that speaks HTTP/2 frame by frame, with a frame layer of its own and `hpack` for heads.

For tests of a server: it sends what it is told to, legal or not, and shows what comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from hpack import Decoder, Encoder

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

__all__ = ["FrameClient", "Reply", "WireFrame", "frame"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, _, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(
    10
)
END_STREAM, ACK, END_HEADERS = 1, 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Encode a frame.

    Args:
        kind: Its type.
        flags: Its flags.
        stream: Its stream.
        payload: Its payload.

    Returns:
        The bytes.
    """
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


@dataclass(frozen=True, slots=True)
class WireFrame:
    """A frame that has arrived.

    Attributes:
        kind: Its type.
        flags: Its flags.
        stream: Its stream.
        payload: Its payload.
    """

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """Error code of a RST_STREAM or GOAWAY."""
        return int.from_bytes(
            self.payload[:4] if self.kind == RST_STREAM else self.payload[4:8], "big"
        )

    @property
    def last_stream(self) -> int:
        """The last stream that a GOAWAY names."""
        return int.from_bytes(self.payload[:4], "big")


@dataclass(slots=True)
class Reply:
    """What has arrived on one stream.

    Attributes:
        heads: Its header sections, informational and trailers included.
        body: Its payload.
        ended: Whether END_STREAM has arrived.
        reset: Error code of a RST_STREAM; None without one.
    """

    heads: list[dict[str, str]] = field(default_factory=list)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int:
        """Status of the last head that has one."""
        return int(next(head[":status"] for head in reversed(self.heads) if ":status" in head))


class FrameClient:
    """A connection to a server; use it as an async context manager.

    Attributes:
        frames: Every frame that has arrived.
        replies: What has arrived, by stream.
        gone: Whether the server has closed.
        auto_window: Whether windows are opened again for what arrives.
    """

    def __init__(self, address: str, *, tls: ssl.SSLContext | None = None, sni: str = "") -> None:
        """Prepare.

        Args:
            address: ``host:port``.
            tls: To speak TLS; its ALPN must offer h2.
            sni: The name to ask for.
        """
        host, _, port = address.rpartition(":")
        self._where = (host, int(port))
        self._tls = tls
        self._sni = sni
        self.frames: list[WireFrame] = []
        self.replies: dict[int, Reply] = {}
        self.gone = False
        self.auto_window = True
        self._encoder = Encoder()
        self._decoder = Decoder()
        self._next = 1
        self._held: bytearray | None = None
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(
            *self._where, ssl=self._tls, server_hostname=self._sni or None if self._tls else None
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reading.cancel()
        self._writer.close()
        await asyncio.gather(self._reading, self._writer.wait_closed(), return_exceptions=True)

    async def start(self, settings: dict[int, int] | None = None) -> None:
        """Send the preface and SETTINGS, and acknowledge the server's.

        Args:
            settings: To announce.
        """
        payload = b"".join(struct.pack(">HI", *pair) for pair in (settings or {}).items())
        self.send(PREFACE + frame(SETTINGS, 0, 0, payload))
        await self.until(lambda: any(f.kind == SETTINGS and not f.flags for f in self.frames))

    def send(self, data: bytes) -> None:
        """Send bytes.

        Args:
            data: The bytes.
        """
        if self._held is None:
            self._writer.write(data)
        else:
            self._held += data

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Hold back what is sent, and send it in one write at the end."""
        self._held = bytearray()
        try:
            yield
        finally:
            held, self._held = self._held, None
            self._writer.write(held)

    def head(
        self,
        path: str = "/",
        *,
        method: str = "GET",
        fields: tuple[tuple[str, str], ...] = (),
        end: bool = True,
    ) -> int:
        """Send a request head on a new stream.

        Args:
            path: The path.
            method: The method.
            fields: Further fields.
            end: Whether no body follows.

        Returns:
            The stream.
        """
        pseudo = [(":method", method), (":scheme", "http"), (":authority", "h2.example")]
        return self.block([*pseudo, (":path", path), *fields], end=end)

    def block(self, fields: list[tuple[str, str]], *, end: bool, stream: int = 0) -> int:
        """Send a header section as it is.

        Args:
            fields: Its fields.
            end: Whether the stream ends with it.
            stream: On which stream; 0 for a new one.

        Returns:
            The stream.
        """
        if not stream:
            stream = self._next
            self._next += 2
        flags = END_HEADERS | (END_STREAM if end else 0)
        self.send(frame(HEADERS, flags, stream, self._encoder.encode(fields)))
        return stream

    def data(self, stream: int, payload: bytes = b"", *, end: bool = False) -> None:
        """Send DATA.

        Args:
            stream: On which stream.
            payload: The payload.
            end: Whether the stream ends with it.
        """
        self.send(frame(DATA, END_STREAM if end else 0, stream, payload))

    def reset(self, stream: int, code: int = 8) -> None:
        """Send RST_STREAM.

        Args:
            stream: Which stream.
            code: Why.
        """
        self.send(frame(RST_STREAM, 0, stream, code.to_bytes(4, "big")))

    def window(self, stream: int, increment: int) -> None:
        """Send WINDOW_UPDATE.

        Args:
            stream: Which stream; 0 for the connection.
            increment: How many bytes more.
        """
        self.send(frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big")))

    async def reply(self, stream: int) -> Reply:
        """Wait until a stream has ended.

        Args:
            stream: Which.

        Returns:
            What has arrived.
        """
        await self.until(lambda: self._is_over(stream))
        return self.replies.get(stream, Reply())

    def _is_over(self, stream: int) -> bool:
        reply = self.replies.get(stream)
        return self.gone or (reply is not None and (reply.ended or reply.reset is not None))

    async def get(self, path: str = "/", **options: str) -> Reply:
        """Send a GET and wait for its end.

        Args:
            path: The path.
            options: Further fields.

        Returns:
            The reply.
        """
        return await self.reply(self.head(path, fields=tuple(options.items())))

    def goaways(self) -> list[WireFrame]:
        """Return the GOAWAY frames that have arrived."""
        return [each for each in self.frames if each.kind == GOAWAY]

    async def closed(self) -> None:
        """Wait until the server has closed."""
        await self.until(lambda: self.gone)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is true, looking whenever something arrives.

        Args:
            condition: A function without arguments.
        """

        async with asyncio.timeout(30), self._changed:
            await self._changed.wait_for(condition)

    async def _read(self) -> None:
        try:
            while True:
                header = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(header[:3], "big"))
                number = int.from_bytes(header[5:], "big")
                self._arrived(WireFrame(header[3], header[4], number, payload))
                async with self._changed:
                    self._changed.notify_all()
        except (OSError, EOFError):
            pass
        self.gone = True
        async with self._changed:
            self._changed.notify_all()

    def _arrived(self, got: WireFrame) -> None:
        self.frames.append(got)
        if got.kind in {SETTINGS, PING} and not got.flags & ACK:
            self.send(frame(got.kind, ACK, 0, got.payload if got.kind == PING else b""))
        if not got.stream or got.kind == WINDOW_UPDATE:
            return
        reply = self.replies.setdefault(got.stream, Reply())
        if got.kind == HEADERS:
            reply.heads.append({str(n): str(v) for n, v in self._decoder.decode(got.payload)})
        elif got.kind == DATA:
            reply.body += got.payload
            if self.auto_window and got.payload:
                self.window(0, len(got.payload))
                if not got.flags & END_STREAM:
                    self.window(got.stream, len(got.payload))
        elif got.kind == RST_STREAM:
            reply.reset = got.code
        if got.kind in {DATA, HEADERS} and got.flags & END_STREAM:
            reply.ended = True
