"""ASGI applications: FastAPI and Starlette as a service and for some routes of a proxy."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from fastapi import FastAPI, WebSocket, WebSocketDisconnect  # noqa: TC002 - FastAPI reads annotations
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.requests import Request  # noqa: TC002 - FastAPI reads annotations
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from pingora_core import HttpPeer
from pingora_error import Error
from pingora_proxy import ProxyHttp
from pingora_proxy.asgi import AsgiApplication, asgi_service
from pingora_proxy.testing import Client, RunningProxy, RunningService, ScriptedOrigin, reply
from tests.support.client import RawClient
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pingora_http import ResponseHeader
    from pingora_proxy import Session
    from pingora_proxy.asgi import ASGIApp, Receive, Scope, Send


class Item(BaseModel):  # type: ignore[explicit-any]  # what pydantic makes of it
    """What is posted."""

    name: str


def make_app(events: list[str]) -> FastAPI:  # noqa: C901 - a route is a function
    """Make an application with a bit of everything.

    Args:
        events: Gets what happens.

    Returns:
        The application.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        events.append("up")
        yield {"greeting": "hello"}
        events.append("down")

    app = FastAPI(lifespan=lifespan)

    @app.get("/api/hello")
    async def hello(request: Request, who: str = "world") -> dict[str, str]:
        return {"say": f"{request.state.greeting} {who}", "scheme": request.url.scheme}

    @app.post("/api/items")
    async def items(item: Item) -> Item:
        return item

    @app.get("/api/stream")
    async def stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            for number in range(3):
                yield b"%d\n" % number

        return StreamingResponse(pieces())

    @app.get("/api/bug")
    async def bug() -> None:
        msg = "on purpose"
        raise RuntimeError(msg)

    @app.get("/api/wait")
    async def wait(request: Request) -> None:
        events.append("waiting")
        assert (await request.receive())["type"] == "http.request"
        assert (await request.receive())["type"] == "http.disconnect"
        events.append("gone")

    @app.websocket("/api/echo")
    async def echo(websocket: WebSocket) -> None:
        if websocket.query_params.get("refuse"):
            await websocket.close()
            return
        await websocket.accept(subprotocol="chat" if websocket.scope["subprotocols"] else None)
        try:
            while True:
                text = await websocket.receive_text()
                if text == "bye":
                    await websocket.close(4000, "as you like")
                    return
                await websocket.send_text(text.upper())
        except WebSocketDisconnect as left:
            events.append(f"left {left.code}")

    return app


async def test_a_fastapi_application_is_a_service() -> None:
    """Routes, validation, streaming, HEAD, faults, and its lifespan around all of it."""
    events: list[str] = []
    async with RunningService(asgi_service(make_app(events))) as running:
        assert events == ["up"]
        async with Client(running.address) as client:
            answer = await client.get("/api/hello?who=me")
            assert answer.text == '{"say":"hello me","scheme":"http"}'
            posted = await client.request(
                "POST", "/api/items", [("Content-Type", "application/json")], b'{"name": "x"}'
            )
            assert (posted.status, posted.text) == (200, '{"name":"x"}')
            assert (await client.request("POST", "/api/items", [], b"{}")).status == 422
            assert (await client.get("/api/stream")).text == "0\n1\n2\n"
            assert (await client.get("/nowhere")).status == 404
            assert (await client.get("/api/bug")).status == 500
            assert (await client.get("/api/hello")).status == 200
    assert events == ["up", "down"]


async def test_a_client_that_leaves_is_told_to_the_application() -> None:
    """``http.disconnect`` arrives while the application works."""
    events: list[str] = []
    async with RunningService(asgi_service(make_app(events))) as running:
        async with await RawClient.connect(running.address) as client:
            await client.send(b"GET /api/wait HTTP/1.1\r\nHost: a.test\r\n\r\n")
            await eventually(lambda: "waiting" in events)
        await eventually(lambda: "gone" in events)


async def test_websockets_speak_through_the_application() -> None:
    """Messages both ways, a subprotocol, each way to end, and a refusal."""
    events: list[str] = []
    async with RunningService(asgi_service(make_app(events))) as running:
        url = f"ws://{running.address}/api/echo"
        async with connect(url, subprotocols=[Subprotocol("chat")], compression=None) as socket:
            assert socket.subprotocol == "chat"
            for word in ("hello", "x" * 200_000):
                await socket.send(word)
                assert await socket.recv() == word.upper()
            await (await socket.ping())
        await eventually(lambda: "left 1000" in events)

        async with connect(url, compression=None) as socket:
            await socket.send("bye")
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "as you like")

        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{url}?refuse=1", compression=None)
        assert refused.value.response.status_code == 403


class Mounted(ProxyHttp[None]):
    """Answers ``/api`` by itself and proxies the rest."""

    def __init__(self, origin: str, app: ASGIApp) -> None:
        self.origin = origin
        self.api = AsgiApplication(app)

    async def startup(self) -> None:
        await self.api.startup()

    async def cleanup(self) -> None:
        await self.api.cleanup()

    def new_ctx(self) -> None:
        return None

    async def request_filter(self, session: Session, ctx: None) -> bool:
        if not session.req_header.path.startswith("/api"):
            return False
        await self.api.serve(session)
        return True

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return HttpPeer(self.origin)

    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: None
    ) -> None:
        upstream_response.insert_header("X-Proxy", "yes")


async def test_some_routes_of_a_proxy_are_answered_in_process() -> None:
    """The application answers its routes, the origin the others, on one connection."""
    events: list[str] = []
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200, b"origin"))
        proxy = Mounted(origin.address, make_app(events))
        async with RunningProxy(proxy) as running:
            assert (await running.get("/api/hello")).status == 200
            assert (await running.get("/other")).text == "origin"
            assert (await running.get("/api/bug")).status == 500
            async with connect(f"ws://{running.address}/api/echo", compression=None) as socket:
                await socket.send("hi")
                assert await socket.recv() == "HI"
        assert proxy.api.failures == 1
    assert events[0] == "up"
    assert "down" in events


async def _broken(kind: str, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        msg = "no lifespan here"
        raise NotImplementedError(msg)
    start = {"type": "http.response.start", "status": 200, "headers": []}
    match kind:
        case "/silent":
            return
        case "/twice":
            await send(start)
            await send(start)
        case "/status":
            await send({"type": "http.response.start", "status": 101})
        case "/fields":
            await send({"type": "http.response.start", "status": 200, "headers": [("a", "b")]})
        case "/body-first":
            await send({"type": "http.response.body", "body": b"x"})
        case "/half":
            await send(start)
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            msg = "on purpose"
            raise RuntimeError(msg)
        case _:
            await send(start)
            await send({"type": "http.response.body", "body": b"fine"})


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    await _broken(str(scope.get("path")), scope, receive, send)


@pytest.mark.parametrize("path", ["/silent", "/twice", "/status", "/fields", "/body-first"])
async def test_an_application_that_breaks_the_protocol_is_a_500(path: str) -> None:
    """Its fault is answered and counted; the next request is served."""
    async with RunningService(asgi_service(_app)) as running, Client(running.address) as client:
        assert (await client.get(path)).status == 500
        assert (await client.get("/fine")).text == "fine"


async def test_a_response_that_breaks_off_is_seen_as_such() -> None:
    """The client does not take half a response for a whole one."""
    async with RunningService(asgi_service(_app)) as running, Client(running.address) as client:
        with pytest.raises(Error):
            await client.get("/half")
        assert (await client.get("/fine")).text == "fine"


async def test_an_application_that_cannot_start_stops_the_service() -> None:
    """The failure is told with what the application says."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(Error, match="no database"):
        await RunningService(asgi_service(app)).__aenter__()
