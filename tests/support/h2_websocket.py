"""A WebSocket client over HTTP/2 (RFC 8441), put together from the h2 and websockets libraries."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Self

import h2.config
import h2.connection
import h2.errors
import h2.events
from websockets.frames import Opcode
from websockets.protocol import CLIENT, OPEN, Protocol

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from websockets.frames import Close, Frame

__all__ = ["H2Client", "H2WebSocket"]

_LIMIT = 60.0
_GOAWAY = 7


class H2Client:
    """A connection whose streams can become WebSockets; an async context manager.

    Attributes:
        connection: The library's view of it.
        is_closed: Whether the server has closed it.
        goaways: How many GOAWAY frames have arrived. The library does not see them: it would
            refuse everything that comes on the streams that go on.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        config = h2.config.H2Configuration(
            client_side=True, header_encoding="utf-8", validate_outbound_headers=False
        )
        self.connection = h2.connection.H2Connection(config)
        self.is_closed = False
        self.goaways = 0
        self._partial = b""
        self._reader = reader
        self._writer = writer
        self._sockets: dict[int, H2WebSocket] = {}
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self.is_greeted = False

    @classmethod
    async def connect(cls, address: str, *, tls: ssl.SSLContext | None = None) -> Self:
        """Connect with prior knowledge, or with TLS and ALPN.

        Args:
            address: ``host:port``.
            tls: What to trust; None for no TLS.

        Returns:
            The connection, once the server's settings are known.
        """
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
        self = cls(reader, writer)
        self.connection.initiate_connection()
        # A stream that is not read must not use up the window of all.
        self.connection.increment_flow_control_window(1 << 24)
        self.flush()
        self._task = asyncio.create_task(self._read(), name="h2 client")
        await self.until(lambda: self.is_greeted)
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        task = self._task
        assert task is not None
        task.cancel()
        await asyncio.wait((task,))
        self._writer.transport.abort()

    @property
    def allows_extended_connect(self) -> bool:
        """Whether the server has announced WebSockets."""
        return bool(self.connection.remote_settings.enable_connect_protocol)

    async def open(self, path: str, *fields: tuple[str, str]) -> H2WebSocket:
        """Ask for a WebSocket.

        Args:
            path: Where.
            fields: More header fields.

        Returns:
            The stream, whatever the answer is.
        """
        stream = self.connection.get_next_available_stream_id()
        websocket = self._sockets[stream] = H2WebSocket(self, stream)
        scheme = "http" if self._writer.get_extra_info("ssl_object") is None else "https"
        head = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", scheme),
            (":authority", "localhost"),
            (":path", path),
            ("sec-websocket-version", "13"),
            *fields,
        ]
        self.connection.send_headers(stream, head)
        self.flush()
        await self.until(lambda: websocket.status != 0 or websocket.reset_code is not None)
        return websocket

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what has arrived fulfils a condition.

        Args:
            condition: Looked at after each read.
        """
        async with asyncio.timeout(_LIMIT), self._changed:
            await self._changed.wait_for(lambda: condition() or self.is_closed)
        assert condition(), "the server closed the connection"

    def flush(self) -> None:
        """Send what the library has ready."""
        for websocket in self._sockets.values():
            websocket.pump()
        self._writer.write(self.connection.data_to_send())

    async def _read(self) -> None:
        while data := await self._reader.read(65536):
            for event in self.connection.receive_data(self._without_goaways(data)):
                self._handle(event)
            self.flush()
            async with self._changed:
                self._changed.notify_all()
        self.is_closed = True
        async with self._changed:
            self._changed.notify_all()

    def _without_goaways(self, data: bytes) -> bytes:
        data = self._partial + data
        kept = b""
        while len(data) >= 9 and len(data) >= (end := 9 + int.from_bytes(data[:3], "big")):
            if data[3] == _GOAWAY:
                self.goaways += 1
            else:
                kept += data[:end]
            data = data[end:]
        self._partial = data
        return kept

    def _handle(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RemoteSettingsChanged():
                self.is_greeted = True
            case h2.events.ResponseReceived(stream_id=int(stream), headers=list(headers)):
                self._sockets[stream].receive_head([(str(k), str(v)) for k, v in headers])
            case h2.events.DataReceived(stream_id=int(stream)):
                self._sockets[stream].receive(event)
            case h2.events.StreamEnded(stream_id=int(stream)):
                self._sockets[stream].is_ended = True
            case h2.events.StreamReset(stream_id=int(stream)):
                self._sockets[stream].reset_code = int(event.error_code or 0)
            case _:
                pass


class H2WebSocket:
    """A stream that carries a WebSocket.

    Attributes:
        id: Number of the stream.
        status: Of the answer; 0 before it.
        headers: Of the answer.
        body: What came with an answer that is not 200.
        is_ended: Whether the server has ended the stream.
        reset_code: Why the server has reset the stream; None if it has not.
        paused: Whether what arrives is not acknowledged, so that the windows fill.
        received: Bytes that have arrived.
        protocol: The library's view of the WebSocket.
    """

    def __init__(self, client: H2Client, stream: int) -> None:
        self.id = stream
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.is_ended = False
        self.reset_code: int | None = None
        self.paused = False
        self.received = 0
        self.protocol = Protocol(CLIENT, state=OPEN, max_size=None)
        self.messages: deque[str | bytes] = deque()
        self.pongs: list[bytes] = []
        self._client = client
        self._fragments: list[Frame] = []
        self._unacknowledged = 0
        self._outgoing = bytearray()
        self._ends = False

    # -------------------------------------------------------------------- sending

    def send(self, message: str | bytes) -> None:
        """Send a message.

        Args:
            message: Text or bytes.
        """
        if isinstance(message, str):
            self.protocol.send_text(message.encode())
        else:
            self.protocol.send_binary(message)
        self._client.flush()

    def ping(self, data: bytes) -> None:
        """Send a ping.

        Args:
            data: What the pong shall bring back.
        """
        self.protocol.send_ping(data)
        self._client.flush()

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake.

        Args:
            code: Why.
            reason: The same for people.
        """
        self.protocol.send_close(code, reason)
        self._client.flush()

    def reset(self) -> None:
        """Give the stream up (RST_STREAM with CANCEL)."""
        self._client.connection.reset_stream(self.id, h2.errors.ErrorCodes.CANCEL)
        self._client.flush()

    def resume(self) -> None:
        """Acknowledge what has arrived, and what will."""
        self.paused = False
        self._client.connection.acknowledge_received_data(self._unacknowledged, self.id)
        self._unacknowledged = 0
        self._client.flush()

    def pump(self) -> None:
        """Hand over what the windows have room for."""
        for data in self.protocol.data_to_send():
            if data:
                self._outgoing += data
            else:
                self._ends = True
        connection = self._client.connection
        if self.reset_code is not None or self.status == 0:
            return
        while self._outgoing:
            room = connection.local_flow_control_window(self.id)
            size = min(room, connection.max_outbound_frame_size, len(self._outgoing))
            if size <= 0:
                return
            connection.send_data(self.id, bytes(self._outgoing[:size]))
            del self._outgoing[:size]
        if self._ends:
            self._ends = False
            connection.end_stream(self.id)

    # ------------------------------------------------------------------ receiving

    async def recv(self) -> str | bytes:
        """Wait for a message.

        Returns:
            Text or bytes.
        """
        assert self.status == 200
        await self._client.until(lambda: bool(self.messages))
        return self.messages.popleft()

    async def closed(self) -> Close | None:
        """Wait for the end of the stream.

        Returns:
            What the server's close frame said; None without one.
        """
        await self._client.until(lambda: self.is_ended or self.reset_code is not None)
        return self.protocol.close_rcvd

    def receive_head(self, headers: list[tuple[str, str]]) -> None:
        """Take the answer.

        Args:
            headers: Its fields.
        """
        self.headers = dict(headers)
        self.status = int(self.headers[":status"])

    def receive(self, event: h2.events.DataReceived) -> None:
        """Take a DATA frame.

        Args:
            event: The frame.
        """
        data = event.data or b""
        self.received += len(data)
        if self.paused:
            self._unacknowledged += event.flow_controlled_length or 0
        else:
            size = event.flow_controlled_length or 0
            self._client.connection.acknowledge_received_data(size, self.id)
        if self.status != 200:
            self.body += data
            return
        self.protocol.receive_data(data)
        for item in self.protocol.events_received():
            self._receive_frame(item)  # type: ignore[arg-type]  # frames only, after the handshake

    def _receive_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PONG:
            self.pongs.append(bytes(frame.data))
        if frame.opcode not in {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}:
            return
        self._fragments.append(frame)
        if frame.fin:
            data = b"".join(bytes(each.data) for each in self._fragments)
            is_text = self._fragments[0].opcode is Opcode.TEXT
            self._fragments.clear()
            self.messages.append(data.decode() if is_text else data)
