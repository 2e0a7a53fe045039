"""An HTTP/2 origin on the h2 library: what happens on a stream is told by a handler.

It is meant for the client side of this project, so it follows orders that no decent server would:
it resets, says GOAWAY with any number, changes its limits, keeps its windows shut, or goes silent.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Self, TypeAlias

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    PingReceived,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping

    from h2.events import Event

__all__ = ["Handler", "LibraryConnection", "LibraryOrigin", "LibraryStream", "Pairs", "echo"]

Pairs: TypeAlias = list[tuple[bytes, bytes]]
Handler: TypeAlias = "Callable[[LibraryStream], Awaitable[None]]"


class LibraryStream:
    """One request, as the origin sees it.

    Attributes:
        connection: The connection it came on.
        id: Number of the stream.
        fields: Header fields of the request, in order.
        trailers: Trailers of the request; None while there are none.
        ended: Whether the client has ended its direction.
        ended_with_head: Whether it did so with the head.
        reset_code: Error code of the client's RST_STREAM.
    """

    def __init__(self, connection: LibraryConnection, number: int, fields: Pairs) -> None:
        self.connection = connection
        self.id = number
        self.fields = fields
        self.trailers: Pairs | None = None
        self.ended = False
        self.ended_with_head = False
        self.reset_code: int | None = None
        self.received = b""
        self.changed = asyncio.Event()

    def __getitem__(self, name: bytes) -> bytes | None:
        return dict(self.fields).get(name)

    async def body(self) -> bytes:
        """Wait for the whole request body."""
        while not self.ended:
            await self.wait()
        return self.received

    async def wait(self) -> None:
        """Wait until something happens to the stream, windows included."""
        self.changed.clear()
        await self.changed.wait()

    def head(self, status: int, *fields: tuple[bytes, bytes], end: bool = False) -> None:
        """Send a head, informational or final."""
        self.fields_sent([(b":status", b"%d" % status), *fields], end=end)

    def fields_sent(self, fields: Pairs, *, end: bool = False) -> None:
        """Send any header section: a head, or trailers."""
        self.connection.engine.send_headers(self.id, fields, end_stream=end)
        self.connection.flush()

    async def data(self, data: bytes, *, end: bool = False) -> None:
        """Send payload, as the client's windows allow."""
        engine = self.connection.engine
        while data:
            size = min(
                len(data),
                engine.local_flow_control_window(self.id),
                engine.max_outbound_frame_size,
            )
            if size <= 0:
                await self.wait()
                continue
            last = end and size == len(data)
            engine.send_data(self.id, data[:size], end_stream=last)
            self.connection.flush()
            if last:
                return
            data = data[size:]
        if end:
            engine.end_stream(self.id)
            self.connection.flush()

    def reset(self, code: int) -> None:
        """Send RST_STREAM."""
        self.connection.engine.reset_stream(self.id, code)
        self.connection.flush()


class LibraryConnection(asyncio.Protocol):
    """One connection of the origin.

    Attributes:
        engine: The library's connection.
        streams: The requests so far, by number.
        open: Requests that have not ended in both directions.
        goaway: Error code of the client's GOAWAY; None before.
        pings: PINGs received.
        is_lost: Whether the connection is gone.
    """

    def __init__(self, origin: LibraryOrigin) -> None:
        self._origin = origin
        self.engine = H2Connection(
            H2Configuration(client_side=False, header_encoding=None, validate_inbound_headers=True)
        )
        self.streams: dict[int, LibraryStream] = {}
        self.goaway: int | None = None
        self.pings = 0
        self.violation: ProtocolError | None = None
        self.is_lost = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the preface, unless the origin keeps silent."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]  # uvloop's do not derive
        self._origin.connections.append(self)
        if self._origin.is_silent:
            return
        self.engine.local_settings = Settings(client=False, initial_values=self._origin.settings)
        self.engine.initiate_connection()
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Handle frames."""
        if self._origin.is_silent:
            return
        try:
            events = self.engine.receive_data(data)
        except ProtocolError as error:
            self.violation = error
            self._origin.violations.append(str(error))
            self.flush()
            self.close()
            return
        for event in events:
            self._handle(event)
        self.flush()

    def _handle(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            stream = LibraryStream(self, event.stream_id, event.headers)
            stream.ended = stream.ended_with_head = event.stream_ended is not None
            self.streams[event.stream_id] = stream
            self._origin.served(stream)
        elif isinstance(event, DataReceived):
            stream = self.streams[event.stream_id]
            stream.received += event.data
            if self._origin.gives_credit:
                self.engine.acknowledge_received_data(event.flow_controlled_length, stream.id)
            stream.changed.set()
        elif isinstance(event, TrailersReceived):
            self.streams[event.stream_id].trailers = event.headers
        elif isinstance(event, StreamEnded):
            self.streams[event.stream_id].ended = True
            self.streams[event.stream_id].changed.set()
        elif isinstance(event, StreamReset):
            self.streams[event.stream_id].reset_code = int(event.error_code or 0)
            self.streams[event.stream_id].changed.set()
        elif isinstance(event, ConnectionTerminated):
            self.goaway = int(event.error_code or 0)
            self.flush()
            self.close()
        elif isinstance(event, PingReceived):
            self.pings += 1
            if not self._origin.answers_pings:
                self.engine.clear_outbound_data_buffer()
        elif isinstance(event, (WindowUpdated, RemoteSettingsChanged)):
            for stream in self.streams.values():
                stream.changed.set()

    def flush(self) -> None:
        """Send what the library has ready."""
        data = self.engine.data_to_send()
        if data and self.transport is not None and not self.is_lost:
            self.transport.write(data)

    def write(self, data: bytes) -> None:
        """Send bytes past the library."""
        assert self.transport is not None
        self.transport.write(data)

    def say_goaway(self, last: int, code: int = 0) -> None:
        """Send a GOAWAY that the library does not know of, so that streams go on."""
        payload = last.to_bytes(4, "big") + code.to_bytes(4, "big")
        self.write(b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + payload)

    def change(self, settings: Mapping[int, int]) -> None:
        """Change settings."""
        self.engine.update_settings(dict(settings))
        self.flush()

    def close(self) -> None:
        """Close the connection."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Drop the connection, as a crash would."""
        if self.transport is not None:
            self.transport.abort()

    def eof_received(self) -> bool:
        """Close with the client."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake the handlers."""
        del exc
        self.is_lost = True
        for stream in self.streams.values():
            stream.changed.set()


async def echo(stream: LibraryStream) -> None:
    """Answer with the request body, and with what was asked in the head."""
    body = await stream.body()
    method = stream[b":method"] or b""
    stream.head(200, (b"x-method", method), (b"x-path", stream[b":path"] or b""), end=not body)
    if body:
        await stream.data(body, end=True)


class LibraryOrigin:
    """The origin, as an async context manager.

    Attributes:
        address: ``host:port``.
        connections: All connections so far.
        requests: All requests so far.
        settings: What each new connection announces.
        violations: What clients did against the protocol, as the library sees it.
        gives_credit: Whether request bodies are acknowledged.
        answers_pings: Whether PINGs are answered.
        is_silent: Whether nothing is sent and nothing read.
    """

    def __init__(
        self,
        handler: Handler = echo,
        *,
        tls: ssl.SSLContext | None = None,
        max_streams: int = 100,
        extended_connect: bool = False,
        is_silent: bool = False,
    ) -> None:
        """Prepare.

        Args:
            handler: Serves one request; runs in a task of its own.
            tls: For encryption.
            max_streams: SETTINGS_MAX_CONCURRENT_STREAMS.
            extended_connect: Whether RFC 8441 is announced.
            is_silent: Whether nothing is ever said.
        """
        self.handler = handler
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = ""
        self.connections: list[LibraryConnection] = []
        self.requests: list[LibraryStream] = []
        self.violations: list[str] = []
        self.failures: list[BaseException] = []
        self.settings: dict[SettingCodes, int] = {
            SettingCodes.MAX_CONCURRENT_STREAMS: max_streams,
            SettingCodes.ENABLE_CONNECT_PROTOCOL: int(extended_connect),
        }
        self.gives_credit = True
        self.answers_pings = True
        self.is_silent = is_silent

    @property
    def open_connections(self) -> int:
        """Connections that are not gone."""
        return sum(not connection.is_lost for connection in self.connections)

    def served(self, stream: LibraryStream) -> None:
        """Run the handler for a request; the connection calls this."""
        self.requests.append(stream)
        task = asyncio.get_running_loop().create_task(self._run(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, stream: LibraryStream) -> None:
        try:
            await self.handler(stream)
        except ProtocolError:
            # The client has reset the stream meanwhile.
            return
        except Exception as error:  # noqa: BLE001 - shown by the test that asks
            self.failures.append(error)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: LibraryConnection(self), "127.0.0.1", 0, ssl=self._tls
        )
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for connection in self.connections:
            connection.abort()
        await self._server.wait_closed()
