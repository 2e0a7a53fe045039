"""Requests beyond the limit: answered at once, whatever is spoken, and nobody is counted twice."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from pingora_core.apps.http_app import HttpServerOptions
from pingora_core.apps.load_shedding import LoadShedder, Priority
from pingora_core.apps.serve_http import HttpServer, Response, ServeHttp
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services.listening import Service
from pingora_core.services.service import ServiceContext, ServiceReadyNotifier
from tests.support.client import RawClient
from tests.support.h2client import RawH2Client
from tests.support.origin import Origin
from tests.support.proxy import RigProxy, RunningProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from websockets.asyncio.server import ServerConnection

    from pingora_core.protocols.http.server import ServerSession
    from pingora_http import RequestHeader
    from pingora_proxy import Session
    from tests.support.origin import Exchange
    from tests.support.proxy import RigContext, Upstream

H2C = HttpServerOptions(h2c=True)


class Slow:
    """An origin's handler that answers when it may; ``/now`` at once."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        if exchange.request.path != "/now":
            await self.go.wait()
        await exchange.reply("200 OK", b"served")


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def shedder() -> LoadShedder:
    return LoadShedder(1, retry_after=(2, 2))


@pytest.fixture
async def slow_origin(slow: Slow) -> AsyncIterator[Origin]:
    async with Origin(slow) as running:
        yield running
        slow.go.set()


@asynccontextmanager
async def shedding(
    upstream: Upstream, shedder: LoadShedder, app: RigProxy | None = None
) -> AsyncIterator[tuple[RunningProxy[RigContext], RigProxy]]:
    """Run a proxy that sheds load."""
    app = app or RigProxy(upstream)
    running = RunningProxy(app, server_options=H2C)
    running.service.app_logic.load_shedder = shedder
    async with running as proxy:
        yield proxy, app
    assert shedder.in_flight == 0


async def test_http1_is_told_and_the_connection_kept(
    slow: Slow, slow_origin: Origin, shedder: LoadShedder
) -> None:
    """503 with Retry-After before any callback; later the same connection is served."""
    async with (
        shedding(slow_origin, shedder) as (proxy, app),
        await proxy.connect() as first,
        await proxy.connect() as second,
    ):
        await first.send_request()
        await eventually(lambda: shedder.in_flight == 1)
        for method in ("GET", "HEAD", "GET"):
            refused = await second.request(method, "/")
            assert refused.status == 503
            assert refused.get("retry-after") == "2"
            assert refused.get("connection") == "keep-alive"
        assert app.endings == []
        assert len(slow_origin.requests) == 1

        slow.go.set()
        assert (await first.read_response()).body == b"served"
        await eventually(lambda: shedder.in_flight == 0)
        assert (await second.request("GET", "/")).body == b"served"
        assert (shedder.admitted, shedder.shed) == (2, 3)


async def test_http1_with_a_body_that_nobody_wants(
    slow: Slow, slow_origin: Origin, shedder: LoadShedder
) -> None:
    """The client is told and the connection closed: reading the body would be work as well."""
    async with (
        shedding(slow_origin, shedder) as (proxy, _),
        await proxy.connect() as first,
        await proxy.connect() as second,
        await proxy.connect() as third,
    ):
        await first.send_request()
        await eventually(lambda: shedder.in_flight == 1)
        refused = await second.request("POST", "/", body=b"x" * 100_000)
        assert (refused.status, refused.get("connection")) == (503, "close")
        await third.send_request("POST", "/", [("Expect", "100-continue")], chunks=[])
        assert (await third.read_response()).status == 503
        slow.go.set()
        assert (await first.read_response()).status == 200


async def test_http2_is_told_on_the_stream(
    slow: Slow, slow_origin: Origin, shedder: LoadShedder
) -> None:
    """A response like any other, no stream error; an upload is told not to go on."""
    async with (
        shedding(slow_origin, shedder) as (proxy, app),
        await RawH2Client.connect(proxy.address) as client,
    ):
        first = await client.send_request()
        await eventually(lambda: shedder.in_flight == 1)
        refused = await client.request()
        assert (refused.status, refused.get(b"retry-after"), refused.reset) == (503, b"2", None)
        upload = await client.response(await client.send_request("POST", "/", end=False))
        assert (upload.status, upload.reset) in {(503, None), (503, 0)}
        fields = [("content-type", "application/grpc"), ("te", "trailers")]
        grpc = await client.request("POST", "/shop.Cart/Add", fields, b"\0\0\0\0\0")
        assert (grpc.status, grpc.get(b"grpc-status")) == (200, b"14")
        assert grpc.get(b"grpc-retry-pushback-ms") == b"2000"
        assert app.endings == []
        slow.go.set()
        assert (await client.response(first)).status == 200


async def test_every_way_out_gives_the_place_back(
    slow_origin: Origin, shedder: LoadShedder, dead: str
) -> None:
    """Clients that leave, streams that are reset, upstreams that fail, heads that are no heads."""
    async with shedding(slow_origin, shedder) as (proxy, app):
        async with await proxy.connect() as client:
            await client.send_request()
            await eventually(lambda: shedder.in_flight == 1)
        await eventually(lambda: shedder.in_flight == 0)
        async with await RawH2Client.connect(proxy.address) as h2:
            await h2.send_request()
            await eventually(lambda: shedder.in_flight == 1)
        await eventually(lambda: shedder.in_flight == 0)
        async with await proxy.connect() as client:
            await client.send(b"GET / HTTP/1.1\r\nHost : no\r\n\r\n")
            assert (await client.read_response()).status == 400
        app.upstream = dead
        async with await proxy.connect() as client:
            assert (await client.request("GET", "/")).status == 502
        await eventually(lambda: shedder.in_flight == 0)
    assert (shedder.admitted, shedder.shed) == (3, 0)


async def test_a_cancelled_service_leaves_nobody_counted(
    slow_origin: Origin, shedder: LoadShedder
) -> None:
    """Requests that are broken off at the end of the grace period give their places back too."""
    proxy = RunningProxy(RigProxy(slow_origin))
    proxy.service.app_logic.load_shedder = shedder
    async with proxy, await proxy.connect() as client:
        await client.send_request()
        await eventually(lambda: shedder.in_flight == 1)
        assert proxy._task is not None
        proxy._task.cancel()
        await asyncio.wait((proxy._task,))
        assert shedder.in_flight == 0
        proxy._task = asyncio.create_task(asyncio.sleep(0))


async def test_a_tunnel_is_no_request_any_more(shedder: LoadShedder) -> None:
    """A websocket may stay for hours, and takes no place from requests meanwhile."""

    async def talk(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(talk, "127.0.0.1", 0) as upstream:
        host, port = next(iter(upstream.sockets)).getsockname()
        async with (
            shedding(f"{host}:{port}", shedder) as (proxy, _),
            connect(f"ws://{proxy.address}/") as one,
        ):
            await one.send("one")
            assert await one.recv() == "one"
            assert shedder.in_flight == 0
            async with connect(f"ws://{proxy.address}/") as two:
                await two.send("two")
                assert await two.recv() == "two"
    assert (shedder.admitted, shedder.shed) == (2, 0)


async def test_subrequests_have_been_admitted_already(
    slow: Slow, slow_origin: Origin, shedder: LoadShedder
) -> None:
    """What a request has begun is not refused for want of a second place."""

    class Spawning(RigProxy):
        async def allow_spawning_subrequest(self, session: Session, ctx: RigContext) -> bool:
            return not session.is_subrequest

        async def request_filter(self, session: Session, ctx: RigContext) -> bool:
            spawner = session.subrequest_spawner
            if spawner is not None:
                assert spawner.spawn_background_subrequest(session)
            return False

    slow.go.set()
    app = Spawning(slow_origin)
    async with (
        shedding(slow_origin, shedder, app) as (proxy, _),
        await proxy.connect() as client,
    ):
        assert (await client.request("GET", "/")).status == 200
        await app.ended(2)
    assert (shedder.admitted, shedder.shed, len(slow_origin.requests)) == (1, 0, 2)


async def test_health_checks_pass(slow: Slow, slow_origin: Origin) -> None:
    """What the classifier exempts is served however full it is."""

    def classify(request: RequestHeader) -> Priority:
        return Priority.EXEMPT if request.path == "/now" else Priority.NORMAL

    shedder = LoadShedder(1, classify=classify)
    async with (
        shedding(slow_origin, shedder) as (proxy, _),
        await proxy.connect() as first,
        await proxy.connect() as second,
    ):
        await first.send_request()
        await eventually(lambda: shedder.in_flight == 1)
        assert (await second.request("GET", "/")).status == 503
        assert (await second.request("GET", "/now")).status == 200
        slow.go.set()
        assert (await first.read_response()).status == 200


class Page(ServeHttp):
    """Answers when it may."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.calls = 0

    async def response(self, session: ServerSession) -> Response:
        self.calls += 1
        await self.go.wait()
        if session.request.path == "/fault":
            raise RuntimeError("a fault of the program")
        return Response(200, b"served")


async def test_a_server_without_a_proxy(shedder: LoadShedder) -> None:
    """`HttpServer` does the same."""
    page = Page()
    service = Service("page", HttpServer(page, load_shedder=shedder))
    service.add_tcp("127.0.0.1:0")
    switch = ShutdownSwitch()
    ready = ServiceReadyNotifier()
    running = asyncio.create_task(
        service.start_service(ServiceContext(shutdown=switch.watch, ready=ready))
    )
    await ready.wait()
    address = str(service.addresses[0])
    try:
        async with (
            await RawClient.connect(address) as first,
            await RawClient.connect(address) as second,
        ):
            await first.send_request("GET", "/fault")
            await eventually(lambda: shedder.in_flight == 1)
            assert (await second.request("GET", "/")).status == 503
            page.go.set()
            assert (await first.read_response()).status == 500
            await eventually(lambda: shedder.in_flight == 0)
            assert (await second.request("GET", "/")).status == 200
    finally:
        switch.start()
        await running
    assert (page.calls, shedder.admitted, shedder.shed) == (2, 2, 1)
