"""A raw-socket HTTP/1 origin that does exactly what a test tells it, also what no server should.

``Origin(handler)`` listens on TCP, a Unix socket or TLS and calls ``handler`` once per request
with an ``Exchange``. Everything received is recorded. Handlers wait at gates that the test opens,
so no test needs to sleep. Small handlers to put together are in ``origin_steps``, ready-made
routes in ``origin_routes``.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, TypeAlias

from tests.support.waiting import eventually
from tests.support.wire import (
    CHUNKED,
    BodyStream,
    Truncated,
    WireError,
    read_head,
    request_framing,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable
    from pathlib import Path

    from tests.support.wire import (
        Head,
    )

__all__ = ["Connection", "Exchange", "Handler", "Origin", "ReceivedRequest"]

_RESET = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class ReceivedRequest:
    """One request as the origin saw it.

    Attributes:
        connection: Number of the connection, from 0.
        number: Number of the request on its connection, from 0.
        head: Its head.
        body: What arrived of its body.
        trailers: Fields after a chunked body.
        complete: Whether its body arrived to the end.
        chunked: Whether it came in chunks.
    """

    connection: int
    number: int
    head: Head
    chunked: bool = False
    body: bytes = b""
    trailers: tuple[tuple[str, str], ...] = ()
    complete: bool = False

    @property
    def method(self) -> str:
        """The method."""
        return self.head.start_line.split(" ")[0]

    @property
    def target(self) -> str:
        """The request target as sent."""
        return self.head.start_line.split(" ")[1]

    @property
    def path(self) -> str:
        """The target without the query."""
        return self.target.split("?")[0]

    def get(self, name: str) -> str | None:
        """Return the first value of a field, or None.

        Args:
            name: Its name, in any case.
        """
        return self.head.get(name)


@dataclass(slots=True)
class Connection:
    """One accepted connection.

    Attributes:
        number: Its number, from 0.
        reader: Where its bytes come from.
        writer: Where bytes go.
        requests: How many heads came in over it.
        is_open: Whether neither side has closed it.
        peer_reset: Whether the peer reset it.
        garbage: What broke the grammar, if anything did.
    """

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    requests: int = 0
    is_open: bool = True
    peer_reset: bool = False
    garbage: str | None = None

    def reset(self) -> None:
        """Send a RST and forget the connection."""
        self.is_open = False
        sock: socket.socket = self.writer.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.writer.transport.abort()

    def close(self) -> None:
        """Close in order: what was written is still delivered."""
        self.is_open = False
        self.writer.close()


class Exchange:
    """One request, and the means to answer it.

    Attributes:
        origin: The origin.
        connection: The connection.
        request: The request; its body grows while it is read.
        keep_alive: Whether the connection is kept after the handler; handlers may clear it.
    """

    def __init__(self, origin: Origin, connection: Connection, request: ReceivedRequest) -> None:
        self.origin = origin
        self.connection = connection
        self.request = request
        self.keep_alive = "close" not in request.head.tokens("connection")
        self._body = BodyStream(connection.reader, request_framing(request.head))
        request.complete = self._body.is_done

    async def send(self, data: bytes) -> None:
        """Send raw bytes.

        Args:
            data: The bytes.
        """
        self.connection.writer.write(data)
        await self.connection.writer.drain()

    async def read_piece(self) -> bytes:
        """Read the next piece of the request body.

        Returns:
            The piece; empty at the end.
        """
        try:
            return await self._body.read()
        finally:
            self.request.body = bytes(self._body.received)
            self.request.trailers = self._body.trailers
            self.request.complete = self._body.is_done

    async def read_body(self) -> bytes:
        """Read the request body to its end.

        Returns:
            All of it.
        """
        while await self.read_piece():
            pass
        return self.request.body

    async def receive(self) -> bytes:
        """Read raw bytes, after an upgrade.

        Returns:
            The bytes; empty when the peer has closed its direction.
        """
        return await self.connection.reader.read(65536)

    async def reply(
        self,
        status: str = "200 OK",
        body: bytes = b"",
        fields: Iterable[tuple[str, str]] = (),
        *,
        length: int | None = -1,
    ) -> None:
        """Answer with a whole message.

        Args:
            status: Code and reason.
            body: The body.
            fields: Further fields.
            length: Content-Length to claim; -1 for the true one, None for no such field.
        """
        head = [f"HTTP/1.1 {status}"]
        head += [f"{name}: {value}" for name, value in fields]
        if length is not None:
            head.append(f"Content-Length: {len(body) if length < 0 else length}")
        wire = "\r\n".join([*head, "", ""]).encode("latin-1")
        await self.send(wire if self.request.method == "HEAD" else wire + body)

    async def start_chunked(
        self, status: str = "200 OK", fields: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Send the head of a chunked message.

        Args:
            status: Code and reason.
            fields: Further fields.
        """
        await self.reply(status, fields=[*fields, ("Transfer-Encoding", "chunked")], length=None)

    async def send_chunk(self, data: bytes) -> None:
        """Send one chunk; the last one when empty, without trailers.

        Args:
            data: Payload.
        """
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def reset(self) -> None:
        """Reset the connection."""
        self.connection.reset()

    def close(self) -> None:
        """Close the connection in order."""
        self.connection.close()

    async def peer_closed(self) -> None:
        """Wait until the peer has closed or reset the connection."""
        try:
            while await self.connection.reader.read(65536):
                pass
        except OSError:
            self.connection.peer_reset = True

    async def passed(self, gate: str) -> None:
        """Wait at a gate until the test opens it.

        Args:
            gate: Its name.
        """
        await self.origin.gates[gate].acquire()


Handler: TypeAlias = Callable[[Exchange], Awaitable[None]]


@dataclass(eq=False)
class Origin:
    """A listener with one handler for all requests.

    Attributes:
        handler: What answers; may be exchanged at any time.
        tls: Server context, for TLS.
        uds: Path of a Unix socket; TCP on a free port of ``host`` when None.
        host: Address to listen on.
        requests: All requests whose heads arrived, in order.
        connections: All connections, in order.
        gates: Where handlers wait; see ``open``.
        port: Port, for TCP.
    """

    handler: Handler
    tls: ssl.SSLContext | None = None
    uds: Path | None = None
    host: str = "127.0.0.1"
    requests: list[ReceivedRequest] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    gates: defaultdict[str, asyncio.Semaphore] = field(
        default_factory=lambda: defaultdict(lambda: asyncio.Semaphore(0))
    )
    port: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _failures: list[BaseException] = field(default_factory=list)

    @property
    def address(self) -> str:
        """``host:port``, or ``unix:`` and the path."""
        if self.uds is not None:
            return f"unix:{self.uds}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many connections neither side has closed."""
        return sum(connection.is_open for connection in self.connections)

    def open(self, gate: str, times: int = 1) -> None:
        """Let handlers pass a gate.

        Args:
            gate: Its name.
            times: How many passages.
        """
        for _ in range(times):
            self.gates[gate].release()

    async def requests_arrived(self, count: int = 1) -> None:
        """Wait until so many heads have arrived in all.

        Args:
            count: How many.
        """
        await eventually(lambda: len(self.requests) >= count, f"{count} requests at the origin")

    async def all_closed(self) -> None:
        """Wait until no connection is open."""
        await eventually(lambda: not self.open_connections, "the end of all origin connections")

    async def __aenter__(self) -> Self:
        if self.uds is not None:
            self._server = await asyncio.start_unix_server(
                self._accept, self.uds, ssl=self.tls, limit=1 << 20
            )
        else:
            self._server = await asyncio.start_server(
                self._accept, self.host, 0, ssl=self.tls, limit=1 << 20
            )
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        if self._failures:
            raise self._failures[0]

    async def stop(self) -> None:
        """Stop listening and end all connections."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(len(self.connections), reader, writer)
        self.connections.append(connection)
        task = asyncio.ensure_future(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failures.append(error)

    async def _serve(self, connection: Connection) -> None:
        try:
            while connection.is_open and await self._serve_one(connection):
                pass
        except OSError:
            connection.peer_reset = True
        except Truncated as error:
            connection.peer_reset = error.reset
        except WireError as error:
            connection.garbage = str(error)
        finally:
            connection.is_open = False
            connection.writer.transport.abort()

    async def _serve_one(self, connection: Connection) -> bool:
        head = await read_head(connection.reader, response=False)
        if head is None:
            return False
        request = ReceivedRequest(connection.number, connection.requests, head)
        connection.requests += 1
        exchange = Exchange(self, connection, request)
        request.chunked = request_framing(head) == CHUNKED
        self.requests.append(request)
        await self.handler(exchange)
        if not connection.is_open:
            await _flushed(connection)
            return False
        if not exchange.keep_alive:
            connection.close()
            await _flushed(connection)
            return False
        await exchange.read_body()
        return True


async def _flushed(connection: Connection) -> None:
    """Wait until what was written before an orderly close has gone out."""
    try:
        await connection.writer.wait_closed()
    except OSError:
        connection.peer_reset = True
