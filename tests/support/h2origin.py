"""An HTTP/2 origin that does what a test tells it, and judges every frame that it gets.

``StrictH2Origin(handler)`` listens in clear, for prior knowledge, or with TLS, and calls
``handler`` once per request, in a task of its own, with an ``H2Exchange``. What the client of this
origin, a proxy most of the time, does against RFC 9113 is in ``violations``; see ``h2judge``.
Handlers wait at gates that the test opens, as in ``origin``.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, TypeAlias

from tests.support.h2connection import H2Connection, StreamGone
from tests.support.h2wire import (
    DEFAULT_FRAME_SIZE,
    Code,
    data_frame,
    rst_frame,
    settings_frame,
)
from tests.support.waiting import eventually

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

    from tests.support.h2connection import H2Request
    from tests.support.h2wire import Settings

__all__ = [
    "H2Exchange",
    "H2Handler",
    "StrictH2Origin",
    "answer",
    "echo",
]

Pairs: TypeAlias = "Iterable[tuple[str, str]]"


class H2Exchange:
    """One request, and the means to answer it.

    Attributes:
        origin: The origin.
        connection: The connection.
        request: The request; its body grows while it arrives.
        stream_id: Its stream.
    """

    def __init__(
        self, origin: StrictH2Origin, connection: H2Connection, request: H2Request
    ) -> None:
        self.origin = origin
        self.connection = connection
        self.request = request
        self.stream_id = request.stream_id
        self._taken = 0

    async def _until(self, condition: Callable[[], object]) -> None:
        request = self.request
        await self.connection.wait_for(lambda: request.reset is not None or condition())
        if request.reset is not None:
            raise StreamGone

    async def read_piece(self) -> bytes:
        """Wait for more of the request body.

        Returns:
            What has arrived since the last time; empty at the end.

        Raises:
            StreamGone: If the client gives the stream up first.
        """
        request = self.request
        await self._until(lambda: len(request.body) > self._taken or request.complete)
        piece = bytes(request.body[self._taken :])
        self._taken += len(piece)
        return piece

    async def read_body(self) -> bytes:
        """Wait for the end of the request.

        Returns:
            Its body.

        Raises:
            StreamGone: If the client gives the stream up first.
        """
        await self._until(lambda: self.request.complete)
        return bytes(self.request.body)

    def head(self, status: int = 200, fields: Pairs = (), *, end: bool = False) -> None:
        """Send a response head, informational or final.

        Args:
            status: Its status.
            fields: Its fields.
            end: Whether the response ends here.
        """
        self.section([(":status", str(status)), *fields], end=end)

    def section(self, fields: Pairs, *, end: bool = False) -> None:
        """Send any header section: trailers, or one that is malformed.

        Args:
            fields: Its fields.
            end: Whether the response ends here.
        """
        block = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
        self.connection.write_head(self.stream_id, block, end=end)

    async def data(self, data: bytes, *, end: bool = False) -> None:
        """Send data as the client's windows allow.

        Args:
            data: The data.
            end: Whether the response ends here.

        Raises:
            StreamGone: If the client gives the stream up first.
        """
        judge = self.connection.judge
        stream = judge.streams[self.stream_id]
        at = 0
        while at < len(data):
            await self._until(lambda: min(judge.send_window, stream.send_window) > 0)
            size = min(judge.send_window, stream.send_window, DEFAULT_FRAME_SIZE)
            piece = data[at : at + size]
            at += len(piece)
            self.connection.write(data_frame(self.stream_id, piece, end=end and at == len(data)))
            await self.connection.writer.drain()
        if end and not data:
            self.connection.write(data_frame(self.stream_id, end=True))

    async def respond(
        self,
        status: int = 200,
        body: bytes = b"",
        fields: Pairs = (),
        *,
        trailers: Pairs = (),
    ) -> None:
        """Answer with a whole response.

        Args:
            status: Its status.
            body: Its body.
            fields: Its fields besides Content-Length, which is told when there are no trailers.
            trailers: Its trailer section, if not empty.

        Raises:
            StreamGone: If the client gives the stream up first.
        """
        last = list(trailers)
        empty = not body or self.request.method == "HEAD"
        length = [] if last or status in {204, 304} else [("content-length", str(len(body)))]
        self.head(status, [*fields, *length], end=empty and not last)
        if not empty:
            await self.data(body, end=not last)
        if last:
            self.section(last, end=True)

    def reset(self, code: int = Code.CANCEL) -> None:
        """Give the stream up.

        Args:
            code: Why.
        """
        self.connection.write(rst_frame(self.stream_id, code))

    async def passed(self, gate: str) -> None:
        """Wait at a gate until the test opens it.

        Args:
            gate: Its name.
        """
        await self.origin.gates[gate].acquire()


H2Handler: TypeAlias = Callable[[H2Exchange], Awaitable[None]]


def answer(
    body: bytes = b"ok", status: int = 200, fields: Pairs = (), *, trailers: Pairs = ()
) -> H2Handler:
    """Make a handler that reads the request and answers it.

    Args:
        body: Body of the response.
        status: Its status.
        fields: Its fields.
        trailers: Its trailer section, if not empty.
    """
    given, last = list(fields), list(trailers)

    async def handler(exchange: H2Exchange) -> None:
        await exchange.read_body()
        await exchange.respond(status, body, given, trailers=last)

    return handler


async def echo(exchange: H2Exchange) -> None:
    """Answer with the body of the request, piece by piece, and its trailers.

    Args:
        exchange: The exchange.
    """
    exchange.head(200, [("x-path", exchange.request.target)])
    while piece := await exchange.read_piece():
        await exchange.data(piece)
    trailers = exchange.request.trailers
    if trailers:
        exchange.section(
            [(k.decode("latin-1"), v.decode("latin-1")) for k, v in trailers], end=True
        )
    else:
        await exchange.data(b"", end=True)


@dataclass(eq=False)
class StrictH2Origin:
    """A listener with one handler for all requests.

    Attributes:
        handler: What answers; may be exchanged at any time.
        tls: Server context that offers ``h2``, for TLS.
        settings: What the first SETTINGS of each connection announce.
        auto_credit: Whether windows are opened again as data arrives.
        requests: All requests whose heads arrived, in order.
        connections: All connections, in order.
        gates: Where handlers wait; see ``open``.
        port: Where it listens.
    """

    handler: H2Handler
    tls: ssl.SSLContext | None = None
    settings: Settings = field(default_factory=dict)
    auto_credit: bool = True
    requests: list[H2Request] = field(default_factory=list)
    connections: list[H2Connection] = field(default_factory=list)
    gates: defaultdict[str, asyncio.Semaphore] = field(
        default_factory=lambda: defaultdict(lambda: asyncio.Semaphore(0))
    )
    port: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _failures: list[BaseException] = field(default_factory=list)

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def violations(self) -> list[str]:
        """All that clients have done wrong so far, with what they still owe."""
        return [fault for connection in self.connections for fault in connection.judge.finish()]

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
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", 0, ssl=self.tls, limit=1 << 20
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
        for connection in self.connections:
            connection.reset()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = H2Connection(self, len(self.connections), reader, writer)
        self.connections.append(connection)
        connection.write(settings_frame(self.settings))
        task = asyncio.ensure_future(connection.serve())
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failures.append(error)

    async def answer(self, connection: H2Connection, request: H2Request) -> None:
        """Let the handler answer; a stream that the client gave up is no failure.

        Args:
            connection: Where the request came in.
            request: The request.
        """
        try:
            await self.handler(H2Exchange(self, connection, request))
        except (StreamGone, OSError):
            return
        except Exception as error:  # noqa: BLE001 - raised when the origin stops
            self._failures.append(error)
