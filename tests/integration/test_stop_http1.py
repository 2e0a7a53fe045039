"""A server that stops, seen by HTTP/1 clients: what they have sent is answered, and nobody is reset."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

import pytest

from pingora_core.apps.http_app import HttpServerApp, HttpServerOptions
from pingora_core.apps.serve_http import HttpServer, Response, ServeHttp
from pingora_core.conf import ServerConf
from pingora_core.listeners.tls import TlsSettings
from pingora_core.runtime.counters import COUNTERS
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services.listening import Service
from pingora_core.services.service import ServiceContext, ServiceReadyNotifier
from pingora_http import ResponseHeader
from tests.support.certificates import CertificateAuthority
from tests.support.client import RawClient
from tests.support.origin_steps import reply, sequence, wait
from tests.support.proxy import RigProxy, RunningProxy
from tests.support.waiting import eventually
from tests.support.wire import Truncated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pingora_core.protocols.http.server import ServerSession
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.runtime.shutdown import ShutdownWatch
    from tests.support.origin import Origin

REQUEST = b"GET / HTTP/1.1\r\nHost: test.example\r\n\r\n"
#: Far longer than a test: a connection that is given it is closed by nothing else.
LONG = 600.0


class Gate(ServeHttp):
    """Answers with the path; ``/wait`` waits for ``go``.

    Attributes:
        go: Lets the waiting answers go.
        sessions: What has been asked for.
    """

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.sessions: list[ServerSession] = []

    async def response(self, session: ServerSession) -> Response:
        self.sessions.append(session)
        body = session.request.path.encode()
        while (piece := await session.read_request_body()) is not None:
            body += piece
        if session.request.path == "/wait":
            await self.go.wait()
        return Response(200, body)


class Counting(HttpServer):
    """Knows how many connections there have been."""

    connections = 0

    async def process_new(self, stream: Stream, shutdown: ShutdownWatch) -> Stream | None:
        self.connections += 1
        return await super().process_new(stream, shutdown)


class Running:
    """A running server.

    Attributes:
        gate: What answers.
        app: Serves the connections.
        service: The service.
        switch: Begins its shutdown.
    """

    def __init__(self, gate: Gate, options: HttpServerOptions) -> None:
        self.gate = gate
        self.app = Counting(gate, server_options=options)
        self.service = Service("gate", self.app)
        self.switch = ShutdownSwitch()
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        return str(self.service.addresses[0])

    async def start(self) -> Self:
        ready = ServiceReadyNotifier()
        context = ServiceContext(shutdown=self.switch.watch, ready=ready)
        self._task = asyncio.create_task(self.service.start_service(context))
        await ready.wait()
        return self

    async def ended(self) -> None:
        """Wait until no connection is left after the stop."""
        assert self._task is not None
        async with asyncio.timeout(30):
            await asyncio.shield(self._task)

    async def stop(self) -> None:
        self.gate.go.set()
        self.switch.start()
        await self.ended()


@asynccontextmanager
async def serving(
    *, keepalive_min: float = 0.0, h2c: bool = False, tls: TlsSettings | None = None
) -> AsyncIterator[Running]:
    running = Running(Gate(), HttpServerOptions(keepalive_min=keepalive_min, h2c=h2c))
    if tls is None:
        running.service.add_tcp("127.0.0.1:0")
    else:
        running.service.add_tls_with_settings("127.0.0.1:0", None, tls)
    await running.start()
    try:
        yield running
    finally:
        await running.stop()


class BareSocket:
    """A client whose every byte and error is the kernel's; an async context manager."""

    def __init__(self, address: str) -> None:
        host, port = address.split(":")
        self._peer = (host, int(port))
        self.sock = socket.socket()
        self.sock.setblocking(False)

    async def __aenter__(self) -> Self:
        await asyncio.get_running_loop().sock_connect(self.sock, self._peer)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Hand bytes to the kernel now, while the server's loop sees nothing of it."""
        assert self.sock.send(data) == len(data)

    async def read_all(self) -> bytes:
        """Read up to the FIN; a reset raises ConnectionResetError."""
        loop = asyncio.get_running_loop()
        received = bytearray()
        async with asyncio.timeout(30):
            while data := await loop.sock_recv(self.sock, 65536):
                received += data
        return bytes(received)


async def test_an_idle_connection_is_closed_at_once() -> None:
    """Whoever keeps one open holds up nothing: the client sees an orderly end."""
    async with serving() as server, BareSocket(server.address) as client:
        client.send(REQUEST)
        await eventually(lambda: server.gate.sessions)
        server.switch.start()
        data = await client.read_all()

        assert data.count(b"HTTP/1.1 200") == 1
        await server.ended()


async def test_a_connection_used_just_now_may_send_one_more_request() -> None:
    """Its response says that it was the last one."""
    async with serving(keepalive_min=LONG) as server:
        async with await RawClient.connect(server.address) as client:
            first = await client.request()
            server.switch.start()
            second = await client.request(target="/second")

            assert (first.get("connection"), second.get("connection")) == ("keep-alive", "close")
            assert second.body == b"/second"
            assert await client.receive() == b""
        await server.ended()


async def test_the_time_for_one_more_request_ends() -> None:
    """Counted from the last use, and not for ever: a client that keeps silent is closed."""
    async with serving(keepalive_min=0.03) as server:
        async with await RawClient.connect(server.address) as client:
            await client.request()
            server.switch.start()

            assert await client.receive() == b""
        await server.ended()


async def test_a_connection_without_a_request_yet_is_given_its_time_too() -> None:
    """A client that has only just connected is about to ask; after the time it is closed."""
    async with serving(keepalive_min=LONG) as server:
        async with await RawClient.connect(server.address) as client:
            await eventually(lambda: server.app.connections == 1)
            server.switch.start()
            response = await client.request()

            assert (response.status, response.get("connection")) == (200, "close")
        await server.ended()


@pytest.mark.parametrize("when", ["in the kernel", "in the loop's turn"])
async def test_bytes_that_have_arrived_are_answered(when: str) -> None:
    """A request that the loop has not read yet, or read in the turn in which the stop begins."""
    async with serving() as server, BareSocket(server.address) as client:
        client.send(REQUEST)
        await eventually(lambda: server.gate.sessions)
        client.send(REQUEST)
        if when == "in the kernel":
            server.switch.start()
        else:
            # The readiness of the socket and this callback are in one turn, in either order.
            asyncio.get_running_loop().call_soon(server.switch.start)
        data = await client.read_all()

        assert data.count(b"HTTP/1.1 200") == 2
        assert data.count(b"Connection: close") == 1


@pytest.mark.parametrize("size", [1, 4, len(REQUEST) - 1])
@pytest.mark.parametrize("h2c", [False, True])
async def test_half_a_request_head_is_waited_for(size: int, *, h2c: bool) -> None:
    """Whatever part of it has arrived, even where it is not clear yet which version it is."""
    async with serving(h2c=h2c) as server, BareSocket(server.address) as client:
        request = REQUEST.replace(b"GET", b"PRI") if h2c and size < 4 else REQUEST
        client.send(request[:size])
        server.switch.start()
        for _ in range(5):
            await asyncio.sleep(0.02)
        client.send(request[size:])
        data = await client.read_all()

        assert data.startswith(b"HTTP/1.1 200")
        assert b"Connection: close\r\n" in data


async def test_a_response_that_is_not_sent_yet_says_close() -> None:
    """The request was taken before the stop; its answer comes after it."""
    async with serving() as server:
        async with await RawClient.connect(server.address) as client:
            await client.send_request(target="/wait")
            await eventually(lambda: server.gate.sessions)
            before = server.gate.sessions[0].is_process_shutting_down
            server.switch.start()
            assert (before, server.gate.sessions[0].is_process_shutting_down) == (False, True)
            server.gate.go.set()
            response = await client.read_response()

            assert (response.status, response.get("connection")) == (200, "close")
            assert await client.receive() == b""
        await server.ended()


async def test_pipelined_requests_are_all_answered() -> None:
    """Those that were there when the stop began; only the last response says close."""
    async with serving() as server, BareSocket(server.address) as client:
        client.send(REQUEST.replace(b"/ ", b"/wait ") + REQUEST * 3)
        await eventually(lambda: server.gate.sessions)
        client.send(REQUEST * 2)
        server.switch.start()
        server.gate.go.set()
        data = await client.read_all()

        assert data.count(b"HTTP/1.1 200") == 6
        assert data.count(b"Connection: keep-alive") == 5
        assert data.rindex(b"Connection: close") > data.rindex(b"Connection: keep-alive")


async def test_a_client_that_goes_on_pipelining_is_not_served_for_ever() -> None:
    """It gets whole responses, then the end, and no reset although it sends on and on."""
    loop = asyncio.get_running_loop()
    async with serving() as server, BareSocket(server.address) as client:
        asked = 0
        received = b""
        while asked < 1000:
            client.send(REQUEST * 10)
            asked += 10
            data = await loop.sock_recv(client.sock, 65536)
            if not data:
                break
            received += data
            if asked == 100:
                server.switch.start()
        received += await client.read_all()

        assert received.endswith(b"\r\n\r\n/")
        assert received.count(b"Connection: close") == 1
        assert received.rindex(b"Connection: close") > received.rindex(b"HTTP/1.1 200")
        assert 80 <= received.count(b"HTTP/1.1 200") <= 110


async def test_a_client_that_sends_while_it_is_closed_sees_no_reset() -> None:
    """The end comes first; what crosses it on the way is read and dropped."""
    async with serving() as server, BareSocket(server.address) as client:
        client.send(REQUEST)
        await eventually(lambda: server.gate.sessions)
        server.switch.start()
        # The server has decided; its FIN and this request pass each other.
        for _ in range(3):
            await asyncio.sleep(0)
        client.send(REQUEST * 50)
        data = await client.read_all()

        assert b"HTTP/1.1 200" in data
        assert client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


async def test_the_rest_of_an_upload_that_nobody_wants_causes_no_reset() -> None:
    """The error page is read in full although the client goes on sending its body."""
    async with serving() as server, BareSocket(server.address) as client:
        client.send(b"CONNECT test.example:1 HTTP/1.1\r\nHost: test.example:1\r\n\r\n")
        server.switch.start()
        client.send(b"x" * 10_000)
        data = await client.read_all()

        assert data.startswith(b"HTTP/1.1 405")


async def test_over_tls_the_end_is_orderly(tmp_path: Path) -> None:
    """What has arrived is answered, also half a record of it; then come close_notify and FIN."""
    authority = CertificateAuthority(tmp_path)
    issued = authority.issue("localhost")
    settings = TlsSettings.intermediate(issued.chain_path, issued.key_path)
    async with serving(tls=settings) as server:
        async with await RawClient.connect(
            server.address,
            tls=ssl.create_default_context(cafile=str(authority.cert_path)),
            server_hostname="localhost",
        ) as client:
            await client.request()
            await client.send(REQUEST[:10])
            await eventually(lambda: len(server.gate.sessions) == 1)
            server.switch.start()
            await client.send(REQUEST[10:])
            response = await client.read_response()

            assert (response.status, response.get("connection")) == (200, "close")
            assert await client.receive() == b""
        await server.ended()


@pytest.mark.parametrize("keepalive_min", [0.0, LONG])
async def test_two_hundred_connections_and_a_stop_in_their_midst(keepalive_min: float) -> None:
    """With time for one more request none fails; without, none is cut and nobody is reset."""
    outcomes: list[str] = []

    async def ask_on(address: str) -> None:
        async with await RawClient.connect(address) as client:
            for _ in range(1000):
                try:
                    response = await client.request()
                except Truncated as end:
                    # Between two responses, as with any connection that is kept.
                    outcomes.append(repr(end) if end.reset or end.partial else "idle")
                    return
                except OSError as error:
                    outcomes.append(repr(error))
                    return
                if response.get("connection") == "close":
                    outcomes.append("close")
                    return

    async with serving(keepalive_min=keepalive_min) as server:
        clients = [asyncio.create_task(ask_on(server.address)) for _ in range(200)]
        await eventually(lambda: server.app.connections == 200 and len(server.gate.sessions) > 1000)
        server.switch.start()
        await asyncio.gather(*clients)
        await server.ended()

    assert len(outcomes) == 200
    assert set(outcomes) <= ({"close"} if keepalive_min else {"close", "idle"})


async def test_through_the_proxy_the_configuration_decides(origin: Origin) -> None:
    """The time for one more request is a key of the configuration; responses say close."""
    origin.handler = sequence(wait("answer"), reply(body=b"late"))
    conf = ServerConf(keepalive_min_seconds=LONG)
    async with RunningProxy(RigProxy(origin), conf=conf) as proxy:
        async with await proxy.connect() as client, await proxy.connect() as other:
            await client.send_request()
            await origin.requests_arrived()
            proxy.begin_shutdown()
            origin.open("answer", 2)
            held = await client.read_response()
            fresh = await other.request()

            assert [each.get("connection") for each in (held, fresh)] == ["close", "close"]
            assert (held.body, fresh.body) == (b"late", b"late")
        await proxy.ended()


class Ticker(HttpServerApp):
    """An application of one's own that sends a line now and then, until it is time to end."""

    async def process_new_http(self, session: ServerSession, shutdown: ShutdownWatch) -> bool:
        if not await session.read_request():
            return False
        assert session.shutdown_watch is shutdown
        is_time = asyncio.Event()
        unsubscribe = shutdown.subscribe_end_of_streams(is_time.set)
        try:
            await session.write_response_header(ResponseHeader(200))
            await session.write_response_body(b"tick\n")
            await is_time.wait()
            await session.write_response_body(b"goodbye\n", end=True)
        finally:
            unsubscribe()
        return await session.finish()


async def test_an_application_learns_when_its_streams_should_end() -> None:
    """The stop alone leaves them alone; the second stage is theirs to heed."""
    service = Service("ticker", Ticker())
    service.add_tcp("127.0.0.1:0")
    switch, ready = ShutdownSwitch(), ServiceReadyNotifier()
    context = ServiceContext(shutdown=switch.watch, ready=ready)
    running = asyncio.create_task(service.start_service(context))
    await ready.wait()
    async with await RawClient.connect(str(service.addresses[0])) as client:
        await client.send_request()
        head, _ = await client.read_final_head()
        body = client.body_of(head)
        assert await body.read() == b"tick\n"
        switch.start()
        await asyncio.sleep(0.01)
        switch.end_streams()

        assert await body.read_all() == b"tick\ngoodbye\n"
    await running


async def test_requests_are_counted() -> None:
    """Each one whose head has arrived, malformed ones too; connections without one are not."""
    async with serving() as server:
        before = COUNTERS.requests
        async with (
            await RawClient.connect(server.address) as client,
            await RawClient.connect(server.address),
        ):
            for _ in range(3):
                await client.request()
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
            assert (await client.read_response()).status == 400

        assert COUNTERS.requests - before == 4
