"""The origin behind the proxy: small answers, slow ones, uploads, events, WebSockets, faults.

As a program it prints its two ports, HTTP and WebSocket, and runs until its input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from typing import TYPE_CHECKING, Self

import uvloop
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

if TYPE_CHECKING:
    from websockets.asyncio.server import Server, ServerConnection

__all__ = ["LoadOrigin"]

_SLOW_SECONDS = 0.2
_EVENT_SECONDS = 0.05
_HANG_SECONDS = 30.0
_RESET = struct.pack("ii", 1, 0)


class LoadOrigin:
    """Both servers, as an async context manager.

    Attributes:
        port: Of 127.0.0.1, for HTTP.
        websocket_port: Of 127.0.0.1, for WebSockets.
    """

    def __init__(self) -> None:
        self.port = 0
        self.websocket_port = 0
        self._stack = contextlib.AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._stack.callback(server.close)
        websockets: Server = await self._stack.enter_async_context(
            serve(_echo, "127.0.0.1", 0, ping_interval=None, compression=None)
        )
        self.websocket_port = next(iter(websockets.sockets)).getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._stack.aclose()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            # uvloop raises the last of these for a write to a connection that is gone.
            gone = (OSError, asyncio.IncompleteReadError, asyncio.CancelledError, RuntimeError)
            with contextlib.suppress(*gone):
                while await _answer(reader, writer):
                    pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()


async def _echo(connection: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        async for message in connection:
            await connection.send(message)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    # Whether the connection goes on.
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *rest = head.split("\r\n")
    fields = {name.lower(): text.strip() for name, _, text in (row.partition(":") for row in rest)}
    left = int(fields.get("content-length", "0"))
    size = left
    while left:
        left -= len(await reader.readexactly(min(left, 65536)))
    match line.split(" ")[1].split("/")[1:]:
        case ["echo", token]:
            _send(writer, token.encode())
        case ["slow", token]:
            await asyncio.sleep(_SLOW_SECONDS)
            _send(writer, token.encode())
        case ["upload"]:
            _send(writer, str(size).encode())
        case ["events"]:
            await _send_events(writer, int(fields.get("last-event-id", "0")))
        case ["fault", kind, *_]:
            return await _fail(writer, kind)
        case _:
            _send(writer, b"", "404 Not Found")
    await writer.drain()
    return True


def _send(writer: asyncio.StreamWriter, body: bytes, status: str = "200 OK") -> None:
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


async def _send_events(writer: asyncio.StreamWriter, last: int) -> None:
    head = b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(b"HTTP/1.1 200 OK\r\n" + head)
    while True:
        last += 1
        event = b"id: %d\ndata: event %d\n\n" % (last, last)
        writer.write(b"%x\r\n%s\r\n" % (len(event), event))
        await writer.drain()
        await asyncio.sleep(_EVENT_SECONDS)


async def _fail(writer: asyncio.StreamWriter, kind: str) -> bool:
    match kind:
        case "status":
            _send(writer, b"broken", "500 Internal Server Error")
            return True
        case "cut":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nonly this")
            await writer.drain()
        case "hang":
            await asyncio.sleep(_HANG_SECONDS)
        case "garbage":
            writer.write(b"\x00\x01 this is no HTTP\r\n\r\n")
            await writer.drain()
        case _:
            connected: socket.socket = writer.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    return False


async def _main() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with LoadOrigin() as origin:
        sys.stdout.write(f"{origin.port} {origin.websocket_port}\n")
        sys.stdout.flush()
        await reader.read()


if __name__ == "__main__":
    uvloop.run(_main())
