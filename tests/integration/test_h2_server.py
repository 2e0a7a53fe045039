"""The server's side of HTTP/2 on real sockets, frame by frame, with both engines."""

from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from pingora_core.apps.http_app import HttpServerOptions
from pingora_core.apps.serve_http import HttpServer, Response, ServeHttp
from pingora_core.protocols.http.v2 import Http2Options
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services.listening import Service
from pingora_core.services.service import ServiceContext, ServiceReadyNotifier
from pingora_error import Error, HTTPStatus
from tests.support.client import RawClient
from tests.support.h2_frames import (
    DATA,
    GOAWAY,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    FrameClient,
    frame,
)
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pingora_core.protocols.http.server import ServerSession

NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL, REFUSED = 0, 1, 3, 7


class Rig(ServeHttp):
    """Answers by path; ``/wait`` holds its answer back, and ``/stall`` reads no body until told.

    Attributes:
        go: Lets the held answers go.
        seen: Requests that have begun.
        ended: How they ended.
    """

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.seen: list[str] = []
        self.ended: list[str] = []

    async def response(self, session: ServerSession) -> Response:
        path = session.request.path
        self.seen.append(path)
        try:
            return await self._answer(session, path)
        finally:
            self.ended.append(path)

    async def _answer(self, session: ServerSession, path: str) -> Response:
        if path in {"/wait", "/stall"}:
            await self.go.wait()
        if path == "/refuse":
            raise Error(HTTPStatus(418), "short and stout")
        if path == "/fault":
            raise RuntimeError("a fault of the program")
        if path == "/unread":
            return Response(200, b"done")
        if path == "/big":
            return Response(200, b"b" * 300_000)
        if path == "/empty":
            return Response(204)
        body = b""
        while (piece := await session.read_request_body()) is not None:
            body += piece
        trailers = session.request_trailers
        names = [] if trailers is None else [("x-trailers", str(len(list(trailers))))]
        return Response(200, body, [("X-Host", session.request.get("host", "")), *names])


class Running:
    """A running server.

    Attributes:
        address: Where.
        rig: What answers.
        switch: Begins its shutdown.
        options: Its HTTP/2 options.
    """

    def __init__(self, address: str, rig: Rig, switch: ShutdownSwitch, http2: Http2Options) -> None:
        self.address = address
        self.rig = rig
        self.switch = switch
        self.http2 = http2


@asynccontextmanager
async def serving(
    http2: Http2Options, *, keepalive_request_limit: int | None = None
) -> AsyncIterator[Running]:
    rig = Rig()
    options = HttpServerOptions(
        h2c=True, http2=http2, keepalive_request_limit=keepalive_request_limit
    )
    service = Service("h2", HttpServer(rig, server_options=options))
    service.add_tcp("127.0.0.1:0")
    switch = ShutdownSwitch()
    ready = ServiceReadyNotifier()
    running = asyncio.create_task(
        service.start_service(ServiceContext(shutdown=switch.watch, ready=ready))
    )
    await ready.wait()
    try:
        yield Running(str(service.addresses[0]), rig, switch, http2)
    finally:
        rig.go.set()
        switch.start()
        await running


@pytest.fixture(params=["h2", "jh2"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    async with serving(Http2Options(engine=request.param)) as running:
        yield running


@pytest.fixture
async def client(server: Running) -> AsyncIterator[FrameClient]:
    async with FrameClient(server.address) as connected:
        await connected.start()
        yield connected


# ------------------------------------------------------------------ which version


async def test_http1_on_the_same_port(server: Running) -> None:
    """Prior knowledge takes nothing from HTTP/1 clients (test_h1_on_h2c_port)."""
    async with await RawClient.connect(server.address) as client:
        response = await client.request("POST", "/", body=b"hello")

    assert (response.status, response.body) == (200, b"hello")


async def test_a_short_request_waits_for_nothing(server: Running) -> None:
    """Shorter than the preface, and answered although no more comes."""
    async with await RawClient.connect(server.address) as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        response = await client.read_response()

    assert response.status == 200


@pytest.mark.parametrize("split", [1, 3, 14, 18, 23])
async def test_a_preface_in_pieces(server: Running, split: int) -> None:
    """However it is cut, it is HTTP/2."""
    async with FrameClient(server.address) as client:
        client.send(PREFACE[:split])
        await asyncio.sleep(0.01)
        client.send(PREFACE[split:] + frame(SETTINGS, 0, 0))
        assert (await client.get()).status == 200


async def test_what_only_begins_like_a_preface(server: Running) -> None:
    """The method PRI is a token like any other in HTTP/1.1, and its version is not."""
    async with await RawClient.connect(server.address) as client:
        await client.send(b"PRI * HTTP/2.0\r\n\r\nGARBAGE!!")
        response = await client.read_response()

    assert response.status in {400, 505}


# -------------------------------------------------------------------- exchanges


async def test_a_request_and_its_response(client: FrameClient) -> None:
    """The host comes from ``:authority``, Date is there, no field of HTTP/1's connections is."""
    reply = await client.get("/")

    (head,) = reply.heads
    assert (reply.status, head["x-host"], head["content-length"]) == (200, "h2.example", "0")
    assert "date" in head
    assert "connection" not in head


async def test_a_body_and_trailers_arrive(client: FrameClient) -> None:
    """DATA in several frames, then a header section that ends the request."""
    stream = client.head("/", method="POST", end=False)
    client.data(stream, b"hel")
    client.data(stream, b"lo")
    client.block([("x-one", "1"), ("x-two", "2")], end=True, stream=stream)

    reply = await client.reply(stream)
    assert (reply.body, reply.heads[0]["x-trailers"]) == (b"hello", "2")


async def test_a_length_of_zero_is_no_body(client: FrameClient) -> None:
    """Even if the stream does not end with the head but with an empty DATA frame."""
    stream = client.head("/", method="POST", fields=(("content-length", "0"),), end=False)
    await client.until(lambda: stream in client.replies and client.replies[stream].ended)
    client.data(stream, end=True)

    assert (await client.get("/empty")).status == 204
    assert (client.replies[stream].status, client.replies[stream].body) == (200, b"")


async def test_head_has_no_body(client: FrameClient) -> None:
    """But the length that a GET would have (test_h2_head)."""
    reply = await client.reply(client.head("/big", method="HEAD"))

    assert (reply.status, reply.body, reply.heads[0]["content-length"]) == (200, b"", "300000")


async def test_many_streams_at_once(server: Running, client: FrameClient) -> None:
    """Answers come as they are ready, whatever came first."""
    slow = client.head("/wait")
    quick = [client.head("/") for _ in range(20)]
    assert [(await client.reply(stream)).status for stream in quick] == [200] * 20
    assert not client.replies.get(slow)

    server.rig.go.set()
    assert (await client.reply(slow)).status == 200


@pytest.mark.parametrize(("path", "status"), [("/refuse", 418), ("/fault", 500), ("/empty", 204)])
async def test_statuses(client: FrameClient, path: str, status: int) -> None:
    """An error of one request is a response, and the connection goes on."""
    assert (await client.get(path)).status == status
    assert (await client.get("/")).status == 200


async def test_connect_is_refused(client: FrameClient) -> None:
    """With 405, and nothing else happens (test_connect_proxying_disallowed_h2)."""
    stream = client.block([(":method", "CONNECT"), (":authority", "a.example:443")], end=False)

    assert (await client.reply(stream)).status == 405


async def test_an_answer_before_the_body_was_read(client: FrameClient) -> None:
    """The response is complete, and NO_ERROR tells the client to save its breath."""
    stream = client.head("/unread", method="POST", end=False)
    await client.until(lambda: stream in client.replies and client.replies[stream].ended)
    await client.until(lambda: client.replies[stream].reset is not None)

    reply = client.replies[stream]
    assert (reply.status, reply.body, reply.reset) == (200, b"done", NO_ERROR)


async def test_expect_is_answered(client: FrameClient) -> None:
    """A 100 comes before the body is sent, as in HTTP/1."""
    stream = client.head("/", method="POST", fields=(("expect", "100-continue"),), end=False)
    await client.until(lambda: bool(client.replies.get(stream)))
    assert client.replies[stream].heads == [{":status": "100"}]

    client.data(stream, b"now", end=True)
    assert (await client.reply(stream)).body == b"now"


# ------------------------------------------------------------------ flow control


async def test_a_stalled_reader_stalls_only_its_own_stream(
    server: Running, client: FrameClient
) -> None:
    """One stream's bytes fill its window and no more; the others upload what they like."""
    stalled = client.head("/stall", method="POST", end=False)
    for _ in range(3):
        client.data(stalled, b"s" * 16384)
    client.data(stalled, b"s" * 16383)
    others = []
    for _ in range(10):
        other = client.head("/", method="POST", end=False)
        client.data(other, b"o" * 16384)
        client.data(other, b"o" * 16384, end=True)
        others.append(other)

    assert [len((await client.reply(each)).body) for each in others] == [32768] * 10
    assert not any(f.stream == stalled for f in client.frames)

    server.rig.go.set()
    await client.until(lambda: any(f.stream == stalled for f in client.frames))
    client.data(stalled, b"", end=True)
    assert len((await client.reply(stalled)).body) == 65535


async def test_more_than_the_window_is_an_error(client: FrameClient) -> None:
    """A client that ignores its window is told so."""
    stalled = client.head("/stall", method="POST", end=False)
    for _ in range(5):
        client.data(stalled, b"s" * 16384)
    await client.closed()

    assert client.goaways()[-1].code == FLOW_CONTROL


async def test_a_response_waits_for_windows(client: FrameClient) -> None:
    """It comes as far as the client's windows reach, and goes on when they open."""
    client.auto_window = False
    stream = client.head("/big")
    await client.until(
        lambda: stream in client.replies and len(client.replies[stream].body) >= 65535
    )
    assert (await client.get("/empty")).status == 204
    assert len(client.replies[stream].body) == 65535

    client.window(0, 1_000_000)
    client.window(stream, 1_000_000)
    assert len((await client.reply(stream)).body) == 300_000


async def test_a_small_initial_window(server: Running) -> None:
    """Frames become as small as the window is."""
    async with FrameClient(server.address) as client:
        await client.start({4: 1000})
        reply = await client.get("/big")
        sizes = [len(f.payload) for f in client.frames if f.kind == DATA]

    assert len(reply.body) == 300_000
    assert max(sizes) <= 1000


async def test_a_window_that_never_opens_meets_the_write_timeout(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream is given up; others go on (test_server_write_timeout)."""
    monkeypatch.setattr("pingora_core.protocols.http.server.ServerSession.write_timeout", 0.05)
    async with FrameClient(server.address) as client:
        await client.start({4: 10})
        client.auto_window = False
        stream = client.head("/big")
        reply = await client.reply(stream)

        assert (len(reply.body), reply.reset is not None) == (10, True)
        assert (await client.get("/empty")).status == 204


# ------------------------------------------------------------------ bad messages


@pytest.mark.parametrize(
    ("length", "body"), [("5", b"four"), ("3", b"four"), ("0", b"four")], ids=["short", "long", "0"]
)
async def test_a_wrong_content_length_costs_one_stream(
    server: Running, client: FrameClient, length: str, body: bytes
) -> None:
    """PROTOCOL_ERROR on the stream, not on the connection that others may share."""
    waiting = client.head("/wait")
    stream = client.head("/", method="POST", fields=(("content-length", length),), end=False)
    client.data(stream, body, end=True)

    assert (await client.reply(stream)).reset == PROTOCOL_ERROR
    server.rig.go.set()
    assert (await client.reply(waiting)).status == 200
    assert server.http2.stats.malformed == 1


@pytest.mark.parametrize(
    "fields",
    [
        [("x-UPPER", "1")],
        [("x-a", "1\r\nx-b: 2")],
        [("x-a", "1\0")],
        [("connection", "close")],
        [("transfer-encoding", "chunked")],
        [("te", "gzip")],
        [(":path", "/twice")],
        [("host", "other.example")],
        [("content-length", "1, 1")],
        [("content-length", "+1")],
        [("content-length", "1"), ("content-length", "1")],
    ],
)
async def test_malformed_heads_cost_one_stream(
    server: Running, client: FrameClient, fields: list[tuple[str, str]]
) -> None:
    """And no request comes of them."""
    pseudo = [(":method", "GET"), (":scheme", "http"), (":authority", "a.example"), (":path", "/")]
    stream = client.block([*pseudo, *fields], end=True)

    reply = await client.reply(stream)
    assert reply.reset == PROTOCOL_ERROR or reply.status == 400
    assert server.rig.seen == []
    assert (await client.get("/")).status == 200


# ----------------------------------------------------------------------- ending


async def test_a_client_that_gives_up_is_noticed(server: Running, client: FrameClient) -> None:
    """What waits for its body ends, and nothing is answered."""
    stream = client.head("/", method="POST", end=False)
    await eventually(lambda: bool(server.rig.seen))
    client.reset(stream)
    await client.get("/empty")

    assert server.rig.ended[0] == "/"
    assert stream not in client.replies


async def test_a_graceful_end_lets_what_is_in_flight_finish(
    server: Running, client: FrameClient
) -> None:
    """GOAWAY names the highest number first, then the last request that was taken."""
    first = client.head("/wait")
    await client.get("/empty")
    server.switch.start()
    await client.until(lambda: bool(client.goaways()))
    assert client.goaways()[0].last_stream == 2**31 - 1
    second = client.head("/wait")  # on its way when the GOAWAY came
    await client.until(lambda: len(client.goaways()) == 2)

    assert client.goaways()[1].last_stream >= first
    late = client.head("/empty")
    refused = await client.reply(late)
    assert refused.reset == REFUSED
    server.rig.go.set()
    assert (await client.reply(first)).status == 200
    taken = await client.reply(second)
    assert taken.reset == REFUSED or taken.status == 200
    await client.closed()


async def test_a_graceful_end_of_an_idle_connection(server: Running, client: FrameClient) -> None:
    """It takes no longer than the PING's way (…_idle_connection_exits_promptly)."""
    await client.get("/")
    server.switch.start()
    await client.closed()

    assert [g.code for g in client.goaways()] == [NO_ERROR, NO_ERROR]


async def test_streams_end_with_the_drain_deadline() -> None:
    """A request that never ends does not keep a stopping server."""
    async with (
        serving(Http2Options(drain_timeout=0.05)) as server,
        FrameClient(server.address) as client,
    ):
        await client.start()
        client.head("/", method="POST", end=False)
        await eventually(lambda: bool(server.rig.seen))
        server.switch.start()
        await client.closed()

    assert server.rig.ended == ["/"]


async def test_an_idle_connection_is_closed() -> None:
    """With a GOAWAY that says all is well."""
    async with (
        serving(Http2Options(idle_timeout=0.05)) as server,
        FrameClient(server.address) as client,
    ):
        await client.start()
        assert (await client.get("/")).status == 200
        await client.closed()

        assert client.frames[-1].kind == GOAWAY
        assert client.frames[-1].code == NO_ERROR


async def test_a_client_without_settings_is_closed() -> None:
    """Whoever sends a preface and nothing more holds nothing for long."""
    async with (
        serving(Http2Options(preface_timeout=0.05)) as server,
        FrameClient(server.address) as client,
    ):
        client.send(PREFACE)
        await client.closed()


async def test_the_request_limit_ends_the_connection() -> None:
    """After so many requests the client is told to make another connection."""
    async with (
        serving(Http2Options(), keepalive_request_limit=3) as server,
        FrameClient(server.address) as client,
    ):
        await client.start()
        assert [(await client.get("/")).status for _ in range(3)] == [200] * 3
        await client.closed()


async def test_too_many_streams_are_refused() -> None:
    """One by one, so that a client that was too quick may send them again."""
    async with (
        serving(Http2Options(max_concurrent_streams=2)) as server,
        FrameClient(server.address) as client,
    ):
        await client.start()
        taken = [client.head("/wait") for _ in range(2)]
        assert (await client.reply(client.head("/wait"))).reset == REFUSED
        server.rig.go.set()
        assert [(await client.reply(each)).status for each in taken] == [200, 200]
        assert server.http2.stats.refused == 1
        assert (await client.get("/")).status == 200


async def test_a_connection_leaves_nothing_behind(server: Running) -> None:
    """Its objects go with it, without the help of the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        async with FrameClient(server.address) as client:
            await client.start()
            for _ in range(3):
                await client.get("/big")
        await eventually(
            lambda: (
                [type(each).__name__ for each in gc.get_objects()].count("ServerConnection") <= 1
            )
        )
    finally:
        gc.enable()


async def test_resets_do_not_pile_up_work(server: Running, client: FrameClient) -> None:
    """Requests that are given up in the turn in which they came are never begun."""
    with client.at_once():
        for _ in range(50):
            client.reset(client.head("/wait"))
    await client.get("/empty")

    assert server.rig.seen == ["/empty"]
    assert not any(f.kind == RST_STREAM for f in client.frames)
