"""An HTTP server without a proxy: `ServeHttp` behind real sockets."""

from __future__ import annotations

import asyncio
import gzip
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from pingora_core.apps.serve_http import HttpServer, Response, ServeHttp
from pingora_core.modules.compression import ResponseCompressionBuilder
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services.listening import Service
from pingora_core.services.service import ServiceContext, ServiceReadyNotifier
from pingora_error import Error, HTTPStatus
from tests.support.client import RawClient
from tests.support.wire import UNTIL_CLOSE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pingora_core.protocols.http.server import ServerSession


class Echo(ServeHttp):
    """Sends the request body back; some paths fail."""

    async def response(self, session: ServerSession) -> Response:
        path = session.request.path
        if path == "/teapot":
            raise Error(HTTPStatus(418), "short and stout")
        if path == "/fault":
            raise RuntimeError("a fault of the program")
        if path == "/empty":
            return Response(204)
        if path == "/unread":
            return Response(200, b"done")
        body = b""
        while (piece := await session.read_request_body()) is not None:
            body += piece
        return Response(200, body, [("Content-Type", "text/plain")])


@asynccontextmanager
async def serving(app: HttpServer, uds: Path | None = None) -> AsyncIterator[str]:
    """Run a service with one listener; yields its address."""
    service = Service("echo", app)
    if uds is None:
        service.add_tcp("127.0.0.1:0")
    else:
        service.add_uds(str(uds))
    switch = ShutdownSwitch()
    ready = ServiceReadyNotifier()
    running = asyncio.create_task(
        service.start_service(ServiceContext(shutdown=switch.watch, ready=ready))
    )
    await ready.wait()
    try:
        yield str(service.addresses[0])
    finally:
        switch.start()
        await running


async def test_echo_over_tcp() -> None:
    """A body comes back with a length, on a connection that is kept."""
    async with serving(HttpServer(Echo())) as address, await RawClient.connect(address) as client:
        for body in (b"hello", b"", b"x" * 200_000):
            response = await client.request("POST", "/", body=body)
            assert (response.status, response.body) == (200, body)
            assert response.get("content-length") == str(len(body))
            assert response.get("connection") == "keep-alive"
            assert response.get("date") is not None


async def test_echo_over_a_unix_socket(tmp_path: Path) -> None:
    """The same over a Unix socket."""
    async with (
        serving(HttpServer(Echo()), tmp_path / "echo.sock") as address,
        await RawClient.connect(address) as client,
    ):
        response = await client.request("POST", "/", chunks=[b"hel", b"lo"])

    assert (response.status, response.body) == (200, b"hello")


@pytest.mark.parametrize(
    ("path", "status"), [("/teapot", 418), ("/fault", 500), ("/empty", 204), ("/unread", 200)]
)
async def test_statuses(path: str, status: int) -> None:
    """Errors become pages, also those that were not meant to happen."""
    async with serving(HttpServer(Echo())) as address, await RawClient.connect(address) as client:
        assert (await client.request("GET", path)).status == status
        async with await RawClient.connect(address) as other:
            assert (await other.request("GET", "/")).status == 200


async def test_malformed_and_pipelined() -> None:
    """Pipelined requests are answered in order, a malformed one ends the connection."""
    async with serving(HttpServer(Echo())) as address, await RawClient.connect(address) as client:
        await client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n1"
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n2"
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n3"
        )
        responses = [await client.read_response() for _ in range(3)]
        assert await client.is_closed_by_server()

    assert [(r.status, r.body) for r in responses] == [(200, b"1"), (200, b"2"), (400, b"")]


async def test_expect_continue() -> None:
    """A server that wants the body says so by itself."""
    async with serving(HttpServer(Echo())) as address, await RawClient.connect(address) as client:
        await client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        )
        first = await client.read_head()
        await client.send(b"abc")
        response = await client.read_response("POST")

    assert first.start_line == "HTTP/1.1 100 Continue"
    assert response.body == b"abc"


async def test_http10_and_head() -> None:
    """HTTP/1.0 closes after the response; HEAD has no body."""
    async with serving(HttpServer(Echo())) as address:
        async with await RawClient.connect(address) as client:
            await client.send(b"GET /unread HTTP/1.0\r\n\r\n")
            old = await client.read_response()
            assert await client.is_closed_by_server()
        async with await RawClient.connect(address) as client:
            head = await client.request("HEAD", "/unread")
            again = await client.request("GET", "/unread")

    assert old.body == b"done"
    assert old.framing != UNTIL_CLOSE
    assert (head.body, head.get("content-length"), again.body) == (b"", "4", b"done")


async def test_compression_module() -> None:
    """Modules see requests and responses."""
    app = HttpServer(Echo())
    app.add_module(ResponseCompressionBuilder.enable(6))
    async with serving(app) as address, await RawClient.connect(address) as client:
        response = await client.request("POST", "/", [("Accept-Encoding", "gzip")], b"x" * 1000)

    assert response.get("content-encoding") == "gzip"
    assert gzip.decompress(response.body) == b"x" * 1000


class _Turns(ServeHttp):
    """Answers without awaiting anything, and notes in which turn of the loop it did."""

    def __init__(self) -> None:
        self.turn = 0
        self.answered: list[int] = []

    async def count(self) -> None:
        while True:
            self.turn += 1
            await asyncio.sleep(0)

    async def response(self, session: ServerSession) -> Response:
        self.answered.append(self.turn)
        return Response(200, b"ok")


async def test_pipelined_requests_leave_room_for_others() -> None:
    """Between two of them the loop turns, although the application never waits."""
    app = _Turns()
    counting = asyncio.create_task(app.count())
    async with serving(HttpServer(app)) as address, await RawClient.connect(address) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 100)
        for _ in range(100):
            assert (await client.read_response()).body == b"ok"
    counting.cancel()
    await asyncio.wait((counting,))

    assert len(set(app.answered)) > 90
