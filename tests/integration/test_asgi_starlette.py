"""What Starlette builds on ASGI works: streams, files, events, uploads, middleware, background tasks."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from websockets.asyncio.client import connect

from pingora_core import HttpPeer
from pingora_proxy import ProxyHttp
from pingora_proxy.asgi import AsgiApplication, AsgiOptions, AsgiServer, asgi_service
from pingora_proxy.testing import Client, RunningProxy, RunningService
from tests.support.client import RawClient
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from starlette.middleware.base import RequestResponseEndpoint
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

    from pingora_proxy import Session


class Stamp(BaseHTTPMiddleware):
    """Marks each response; the kind of middleware that runs what is below in a task of its own."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Serve one request.

        Args:
            request: It.
            call_next: What is below.

        Returns:
            The response.
        """
        response = await call_next(request)
        response.headers["x-stamp"] = "yes"
        return response


class App:
    """An application with a route for each of these.

    Args:
        folder: Where the file to be sent is.

    Attributes:
        app: It.
        release: Lets the background task end.
        seen: What has happened.
    """

    def __init__(self, folder: Path) -> None:
        self.release = asyncio.Event()
        self.seen: list[str] = []
        self._file = folder / "file.bin"
        self._file.write_bytes(bytes(range(256)) * 4096)
        routes = [
            Route("/file", self.file),
            Route("/upload", self.upload, methods=["POST"]),
            Route("/events", self.events),
            Route("/background", self.background),
            Mount("/mounted", routes=[Route("/where", self.where)]),
            WebSocketRoute("/chat", self.chat),
        ]
        middleware = [Middleware(Stamp), Middleware(GZipMiddleware, minimum_size=10_000_000)]
        self.app = Starlette(routes=routes, middleware=middleware)

    async def file(self, request: Request) -> Response:
        """Send a file."""
        return FileResponse(self._file)

    async def upload(self, request: Request) -> Response:
        """Tell the digest of what was sent."""
        digest = hashlib.sha256()
        async for piece in request.stream():
            digest.update(piece)
        return PlainTextResponse(digest.hexdigest())

    async def events(self, request: Request) -> Response:
        """Send two events, and nothing more."""

        async def news() -> AsyncIterator[bytes]:
            try:
                yield b"data: 1\n\n"
                yield b"data: 2\n\n"
                self.seen.append("waiting")
                await asyncio.Event().wait()
            finally:
                self.seen.append("ended")

        return StreamingResponse(news(), media_type="text/event-stream")

    async def background(self, request: Request) -> Response:
        """Answer, and work on."""

        async def work() -> None:
            await self.release.wait()
            self.seen.append("worked")

        return PlainTextResponse("soon", background=BackgroundTask(work))

    async def where(self, request: Request) -> Response:
        """Tell where it is."""
        return JSONResponse({"url": request.url.path, "root": request.scope["root_path"]})

    async def chat(self, socket: WebSocket) -> None:
        """Say everything twice; a client that leaves is an exception."""
        await socket.accept()
        while True:
            await socket.send_text(2 * await socket.receive_text())


async def test_starlette_does_what_it_does(tmp_path: Path) -> None:
    """Files with ranges, uploads in pieces, mounts; all of it on few connections."""
    app = App(tmp_path)
    async with (
        RunningService(asgi_service(app.app)) as running,
        Client(running.address) as client,
    ):
        whole = await client.get("/file")
        assert whole.body == bytes(range(256)) * 4096
        assert whole.header.get("x-stamp") == "yes"
        part = await client.get("/file", [("Range", "bytes=256-259")])
        assert (part.status, part.body) == (206, bytes(range(4)))
        head = await client.request("HEAD", "/file")
        assert (head.header.get("content-length"), head.body) == ("1048576", b"")
        data = b"x" * 3_000_000
        uploaded = await client.request("POST", "/upload", [], data)
        assert uploaded.text == hashlib.sha256(data).hexdigest()
        assert (await client.get("/mounted/where")).text == (
            '{"url":"/mounted/where","root":"/mounted"}'
        )
        assert (await client.request("PUT", "/file")).status == 405
        async with connect(f"ws://{running.address}/chat", compression=None) as socket:
            await socket.send("ab")
            assert await socket.recv() == "abab"
        server = running.service.app_logic.app
        assert isinstance(server, AsgiServer)
        # What the route did not catch: the client has left, which is nobody's fault.
        await eventually(lambda: not server.application.running)
        assert server.application.failures == 0


async def test_work_in_the_background_is_waited_for_at_the_stop(tmp_path: Path) -> None:
    """The client has its response, and may ask for more, while it goes on."""
    app = App(tmp_path)
    async with (
        RunningService(asgi_service(app.app)) as running,
        Client(running.address) as client,
    ):
        for _ in range(2):
            assert (await client.get("/background")).text == "soon"
        assert app.seen == []
        app.release.set()
    assert app.seen == ["worked", "worked"]


async def test_an_event_stream_ends_with_its_client(tmp_path: Path) -> None:
    """And with the server: the body is complete then."""
    app = App(tmp_path)
    service = asgi_service(app.app, options=AsgiOptions(disconnect_timeout=0.05))
    async with RunningService(service) as running:
        request = b"GET /events HTTP/1.1\r\nHost: a.test\r\n\r\n"
        async with await RawClient.connect(running.address) as client:
            await client.send(request)
            await eventually(lambda: app.seen == ["waiting"])
        await eventually(lambda: app.seen == ["waiting", "ended"])
        async with await RawClient.connect(running.address) as client:
            await client.send(request)
            await eventually(lambda: app.seen[2:] == ["waiting"])
            running.end_streams()
            # What was not sent by then, such as what the middleware still has, is not sent any more.
            body = (await client.read_response()).body
            assert body in {b"", b"data: 1\n\n", b"data: 1\n\ndata: 2\n\n"}
    assert app.seen[2:] == ["waiting", "ended"]


class Behind(ProxyHttp[None]):
    """Proxies to an ASGI service next to it: what upstreams have, the application has then.

    Args:
        address: Of the service.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return HttpPeer(self.address)


async def test_an_application_behind_a_socket_is_an_upstream_like_any(tmp_path: Path) -> None:
    """A Unix socket between two services of one process."""
    app = App(tmp_path)
    service = asgi_service(app.app)
    path = str(tmp_path / "api.sock")
    service.add_uds(path)
    async with RunningService(service), RunningProxy(Behind(f"unix:{path}")) as proxy:
        assert (await proxy.get("/mounted/where")).status == 200


async def test_one_application_serves_a_mount_and_a_service(tmp_path: Path) -> None:
    """``AsgiServer`` is a proxy like any other: it takes observers, modules and limits."""
    application = AsgiApplication(App(tmp_path).app)
    async with RunningProxy(AsgiServer(application)) as proxy:
        assert (await proxy.get("/nowhere")).status == 404
    assert application.failures == 0
