"""A server that stops, seen by HTTP/2 clients: GOAWAY twice, and nothing that was asked is lost."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

import pytest
from hpack import Encoder

from pingora_core.apps.http_app import HttpServerOptions
from pingora_core.apps.serve_http import HttpServer, Response, ServeHttp
from pingora_core.protocols.http.v2 import Http2Options
from pingora_core.runtime.counters import COUNTERS
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services.listening import Service
from pingora_core.services.service import ServiceContext, ServiceReadyNotifier
from tests.support.h2_frames import (
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    FrameClient,
    WireFrame,
    frame,
)
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pingora_core.protocols.http.server import ServerSession

HIGHEST = 2**31 - 1
#: Far longer than a test: nothing happens because of it.
LONG = 600.0
END = 5


class Gate(ServeHttp):
    """Answers; ``/wait`` waits for ``go``.

    Attributes:
        go: Lets the waiting answers go.
        sessions: What has been asked for.
    """

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.sessions: list[ServerSession] = []

    async def response(self, session: ServerSession) -> Response:
        self.sessions.append(session)
        if session.request.path == "/wait":
            await self.go.wait()
        return Response(200, b"answer")


class Running:
    """A running server.

    Attributes:
        gate: What answers.
        address: Where.
        switch: Begins its shutdown.
    """

    def __init__(self, gate: Gate, switch: ShutdownSwitch, service: Service[HttpServer]) -> None:
        self.gate = gate
        self.switch = switch
        self.address = str(service.addresses[0])


@asynccontextmanager
async def serving(engine: str = "h2", *, keepalive_min: float = 0.0) -> AsyncIterator[Running]:
    gate = Gate()
    http2 = Http2Options(engine="h2" if engine == "h2" else "jh2")
    options = HttpServerOptions(h2c=True, http2=http2, keepalive_min=keepalive_min)
    service = Service("h2", HttpServer(gate, server_options=options))
    service.add_tcp("127.0.0.1:0")
    switch = ShutdownSwitch()
    ready = ServiceReadyNotifier()
    context = ServiceContext(shutdown=switch.watch, ready=ready)
    running = asyncio.create_task(service.start_service(context))
    await ready.wait()
    try:
        yield Running(gate, switch, service)
    finally:
        gate.go.set()
        switch.start()
        async with asyncio.timeout(30):
            await running


class SilentClient:
    """Speaks HTTP/2 on a bare socket and answers nothing by itself; an async context manager."""

    def __init__(self, address: str) -> None:
        host, port = address.split(":")
        self._peer = (host, int(port))
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self._encoder = Encoder()
        self._next = 1

    async def __aenter__(self) -> Self:
        await asyncio.get_running_loop().sock_connect(self.sock, self._peer)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Hand bytes to the kernel now, while the server's loop sees nothing of it."""
        assert self.sock.send(data) == len(data)

    def request(self, path: str = "/") -> bytes:
        """Make the frame of one more request."""
        fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", path)]
        stream, self._next = self._next, self._next + 2
        return frame(HEADERS, END, stream, self._encoder.encode(fields))

    async def read_all(self) -> list[WireFrame]:
        """Read up to the FIN; a reset raises ConnectionResetError."""
        loop = asyncio.get_running_loop()
        data = b""
        async with asyncio.timeout(30):
            while piece := await loop.sock_recv(self.sock, 65536):
                data += piece
        frames: list[WireFrame] = []
        while data:
            end = 9 + int.from_bytes(data[:3], "big")
            number = int.from_bytes(data[5:9], "big")
            frames.append(WireFrame(data[3], data[4], number, data[9:end]))
            data = data[end:]
        return frames


def lasts(frames: list[WireFrame]) -> list[int]:
    return [each.last_stream for each in frames if each.kind == GOAWAY]


START = PREFACE + frame(SETTINGS, 0, 0)


@pytest.mark.parametrize("engine", ["h2", "jh2"])
async def test_an_idle_connection_ends_at_once(engine: str) -> None:
    """A client that answers no PING and does not close holds up nothing, and sees no reset."""
    async with serving(engine) as server, SilentClient(server.address) as client:
        client.send(START + client.request())
        await eventually(lambda: server.gate.sessions)
        await asyncio.sleep(0.01)
        server.switch.start()
        frames = await client.read_all()

        assert lasts(frames) == [HIGHEST, 1]
        assert frames[-1].kind == GOAWAY


@pytest.mark.parametrize("engine", ["h2", "jh2"])
async def test_requests_that_have_arrived_are_served(engine: str) -> None:
    """Those that lie in the kernel when the stop begins are below the second GOAWAY's number."""
    async with serving(engine) as server, SilentClient(server.address) as client:
        client.send(START + client.request())
        await eventually(lambda: server.gate.sessions)
        client.send(client.request() + client.request())
        server.switch.start()
        frames = await client.read_all()

        assert lasts(frames) == [HIGHEST, 5]
        assert sum(each.kind == HEADERS for each in frames) == 3
        assert not any(each.kind == RST_STREAM for each in frames)


async def test_a_request_that_crosses_the_first_goaway_is_served() -> None:
    """It was sent before the client could know; the PING has not come back yet."""
    async with serving(keepalive_min=LONG) as server, SilentClient(server.address) as client:
        loop = asyncio.get_running_loop()
        client.send(START)
        assert await loop.sock_recv(client.sock, 65536)
        server.switch.start()
        data = await loop.sock_recv(client.sock, 65536)
        while b"draining" not in data:
            data += await loop.sock_recv(client.sock, 65536)
        client.send(client.request() + frame(PING, 1, 0, b"draining"))
        frames = await client.read_all()

        assert lasts(frames) == [1]
        assert sum(each.kind == HEADERS for each in frames) == 1


async def test_a_connection_that_begins_after_the_stop_is_served_once() -> None:
    """SETTINGS come before the GOAWAY, as they must come first."""
    async with serving(keepalive_min=LONG) as server, SilentClient(server.address) as client:
        client.send(START[:1])
        await asyncio.sleep(0.01)
        server.switch.start()
        client.send(START[1:] + client.request())
        await eventually(lambda: server.gate.sessions)
        client.send(frame(PING, 1, 0, b"draining"))
        frames = await client.read_all()

        assert frames[0].kind == SETTINGS
        assert lasts(frames) == [HIGHEST, 1]
        assert sum(each.kind == HEADERS for each in frames) == 1


async def test_streams_go_on_for_as_long_as_they_take() -> None:
    """The connection closes with the last of them, and knows no deadline of its own."""
    async with serving() as server, FrameClient(server.address) as client:
        await client.start()
        streams = [client.head("/wait") for _ in range(3)]
        await eventually(lambda: len(server.gate.sessions) == 3)
        server.switch.start()
        await client.until(lambda: len(client.goaways()) == 2)
        assert all(session.is_process_shutting_down for session in server.gate.sessions)
        server.gate.go.set()
        replies = [await client.reply(stream) for stream in streams]
        await client.closed()

    assert [reply.status for reply in replies] == [200, 200, 200]


async def test_a_client_that_goes_on_asking_sees_no_reset() -> None:
    """What it has asked up to the named number is answered, then comes the end of the stream."""
    loop = asyncio.get_running_loop()
    async with serving() as server, SilentClient(server.address) as client:
        client.send(START)
        received = b""
        for asked in range(500):
            client.send(client.request())
            if asked == 50:
                server.switch.start()
            if client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                break
            data = await loop.sock_recv(client.sock, 65536)
            if not data:
                break
            received += data
        assert client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        await client.read_all()

        assert received.count(b"answer") >= 50


async def test_requests_are_counted() -> None:
    """Each stream that was taken is one."""
    async with serving() as server, FrameClient(server.address) as client:
        before = COUNTERS.requests
        await client.start()
        for _ in range(3):
            await client.get()

        assert COUNTERS.requests - before == 3
