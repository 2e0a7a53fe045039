"""Responses without an end of their own through a proxy that stops: event streams and gRPC."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_core.apps import HttpServerOptions
from pingora_core.modules import (
    GrpcWebBridge,
    GrpcWebBridgeBuilder,
)
from pingora_core.protocols.tls import ALPN
from pingora_core.upstreams import HttpPeer
from pingora_proxy import ProxyHttp
from tests.support.grpc_server import GrpcServer, GrpcStub, channel_to, start_poller
from tests.support.h2_frames import FrameClient
from tests.support.origin import Origin
from tests.support.proxy import RigProxy, RunningProxy
from tests.support.puppet import Puppet
from tests.support.waiting import eventually

import grpc  # isort: skip - after what configures it

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pingora_core.modules.chain import HttpModules
    from pingora_error import Error
    from pingora_proxy import Session
    from tests.support.client import RawClient
    from tests.support.proxy import RigContext
    from tests.support.wire import BodyStream

LIMIT = 60.0
NO_ERROR = 0
ENDED = "the server stops: event stream ended"
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class NotingProxy(RigProxy):
    """Keeps the notes of the ends too.

    Attributes:
        notes: One for each request, in order of their ends.
    """

    def __init__(self, upstream: object) -> None:
        super().__init__(upstream)  # type: ignore[arg-type]  # as RigProxy has it
        self.notes: list[str | None] = []

    async def logging(self, session: Session, error: Error | None, ctx: RigContext) -> None:
        self.notes.append(session.shutdown_note)
        await super().logging(session, error, ctx)


class PlainProxy(NotingProxy):
    """Without a response filter, so that responses take the shortest way."""

    response_filter = ProxyHttp.response_filter


class FilteringProxy(NotingProxy):
    """Adds a last event."""

    async def response_body_filter(
        self, session: Session, body: bytes | None, end_of_stream: bool, ctx: RigContext
    ) -> bytes | None:
        return (body or b"") + (b"data: goodbye\n\n" if end_of_stream else b"")


@pytest.fixture
def upstream() -> Puppet:
    """What the origin says."""
    return Puppet()


@pytest.fixture
async def origin(upstream: Puppet) -> AsyncIterator[Origin]:
    """An origin with one exchange."""
    async with Origin(upstream) as running:
        yield running


@pytest.fixture(params=[NotingProxy, PlainProxy])
def app(request: pytest.FixtureRequest, origin: Origin) -> NotingProxy:
    """The proxy application in front of ``origin``, with and without filters."""
    made = request.param(origin)
    assert isinstance(made, NotingProxy)
    return made


async def listen(client: RawClient, upstream: Puppet, first: bytes) -> BodyStream:
    """Begin an event stream, and read what came first of it."""
    await client.send_request(target="/events")
    await upstream.send(_HEAD + chunk(first))
    head = await client.read_head()
    assert head.get("content-type") == "text/event-stream; charset=utf-8"
    body = client.body_of(head)
    assert await body.read() == first
    return body


async def test_an_event_stream_goes_on_until_streams_are_ended(
    client: RawClient, upstream: Puppet, app: NotingProxy, proxy: RunningProxy[RigContext]
) -> None:
    """Then its body ends as it should, so that the client connects anew; it was no error."""
    body = await listen(client, upstream, b"data: 1\n\n")
    proxy.begin_shutdown()
    await upstream.send(chunk(b"data: 2\n\n"))
    assert await body.read() == b"data: 2\n\n"

    proxy.end_streams()
    assert await body.read_all() == b"data: 1\n\ndata: 2\n\n"
    assert await client.receive() == b""
    assert (await app.ended()).error is None
    assert app.notes == [ENDED]
    assert await upstream.receive() == b""
    await proxy.ended()


async def test_an_event_that_is_half_through_is_completed_first(
    client: RawClient, upstream: Puppet, app: NotingProxy, proxy: RunningProxy[RigContext]
) -> None:
    """Nothing is sent behind it, though more has arrived in the same piece."""
    body = await listen(client, upstream, b"data: 1\n\ndata: ha")
    proxy.end_streams()
    await upstream.send(chunk(b"lf") + chunk(b" two\n\ndata: 3\n\n"))

    assert await body.read_all() == b"data: 1\n\ndata: half two\n\n"
    assert (await app.ended()).error is None


async def test_an_event_that_is_never_completed_ends_with_the_body(
    client: RawClient, upstream: Puppet, app: NotingProxy, proxy: RunningProxy[RigContext]
) -> None:
    """After a bounded time; a client drops what has no blank line behind it."""
    body = await listen(client, upstream, b"data: ha")
    proxy.end_streams()

    assert await body.read_all() == b"data: ha"
    assert (await app.ended()).error is None
    assert app.notes == [ENDED]


async def test_an_event_stream_in_full_flow_is_ended(
    client: RawClient, upstream: Puppet, app: NotingProxy, proxy: RunningProxy[RigContext]
) -> None:
    """Whole events up to the end, however fast they come."""
    body = await listen(client, upstream, b"data: 0\n\n")
    events = chunk(b"data: " + b"x" * 100 + b"\n\n")

    async def flood() -> None:
        while True:
            await upstream.send(events * 20)

    flooding = asyncio.create_task(flood())
    await body.read()
    proxy.end_streams()
    received = await body.read_all()
    flooding.cancel()
    await asyncio.wait((flooding,))

    assert received.endswith(b"x\n\n")
    assert (await app.ended()).error is None


async def test_a_listener_that_comes_late_gets_its_end_at_once(
    client: RawClient, upstream: Puppet, proxy: RunningProxy[RigContext]
) -> None:
    """The response that begins after the end of streams ends before its first event."""
    await client.send_request(target="/events")
    await upstream.begun()
    proxy.end_streams()
    await upstream.send(_HEAD)
    response = await client.read_response()

    assert (response.status, response.body, response.get("connection")) == (200, b"", "close")


async def test_over_http2_the_stream_ends_and_then_the_connection(
    upstream: Puppet, app: NotingProxy
) -> None:
    """END_STREAM without an error, after the two GOAWAYs."""
    async with (
        RunningProxy(app, server_options=HttpServerOptions(h2c=True)) as proxy,
        FrameClient(proxy.address) as client,
    ):
        await client.start()
        stream = client.head("/events")
        await upstream.send(_HEAD + chunk(b"data: 1\n\n"))
        await client.until(lambda: stream in client.replies and bool(client.replies[stream].body))
        proxy.begin_shutdown()
        await client.until(lambda: len(client.goaways()) == 2)
        proxy.end_streams()
        reply = await client.reply(stream)
        await client.closed()

    assert (reply.body, reply.ended, reply.reset) == (b"data: 1\n\n", True, None)
    assert [each.code for each in client.goaways()] == [NO_ERROR, NO_ERROR]
    assert app.notes == [ENDED]


async def test_filters_are_told_the_end(origin: Origin, upstream: Puppet) -> None:
    """What they have to add comes out, as at any other end."""
    app = FilteringProxy(origin)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        body = await listen(client, upstream, b"data: 1\n\n")
        proxy.end_streams()

        assert await body.read_all() == b"data: 1\n\ndata: goodbye\n\n"
    assert app.notes == [ENDED]


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
async def test_an_ordinary_response_goes_on(
    client: RawClient,
    upstream: Puppet,
    app: NotingProxy,
    proxy: RunningProxy[RigContext],
    head: bytes,
) -> None:
    """It has an end of its own, and to end it before would look as if it were whole."""
    is_chunked = b"chunked" in head
    await client.send_request()
    await upstream.send(head + (chunk(b"hello") if is_chunked else b"hello"))
    await client.read_final_head()
    proxy.end_streams()
    await asyncio.sleep(0.02)
    await upstream.send(chunk(b"world") + b"0\r\n\r\n" if is_chunked else b"world")
    body = await client.receive_all()

    assert body.replace(b"5\r\n", b"").replace(b"\r\n", b"").removesuffix(b"0") == b"helloworld"
    assert (await app.ended()).error is None
    assert app.notes == [None]


async def test_a_listener_that_reads_nothing_is_cut_in_time(
    origin: Origin, upstream: Puppet
) -> None:
    """There is nobody to be told the end."""
    app = NotingProxy(origin)
    async with RunningProxy(app) as proxy, await proxy.connect(receive_buffer=4096) as client:
        await client.send_request(target="/events")
        sending = asyncio.create_task(
            upstream.send(_HEAD + chunk(b"data: " + b"x" * 8000 + b"\n\n") * 2000)
        )
        await upstream.stalled()
        proxy.end_streams()

        assert (await app.ended()).error is not None
        await proxy.ended()
        sending.cancel()
        await asyncio.wait((sending,))


# ---------------------------------------------------------------------------- gRPC


@pytest.fixture(scope="module")
def poller() -> None:
    """Start what grpcio keeps for the process before anything is counted."""
    start_poller()


class GrpcProxy(NotingProxy):
    """In front of a gRPC server."""

    def __init__(self, address: str) -> None:
        super().__init__(lambda _session: grpc_peer(address))


def grpc_peer(address: str) -> HttpPeer:
    peer = HttpPeer(address)
    peer.options.alpn = ALPN.H2
    return peer


@pytest.mark.usefixtures("poller")
async def test_a_grpc_stream_ends_with_a_status() -> None:
    """The caller reads UNAVAILABLE, which it may try again elsewhere, and not a broken call."""
    options = HttpServerOptions(h2c=True)
    async with GrpcServer() as server:
        app = GrpcProxy(server.address)
        async with RunningProxy(app, server_options=options) as proxy:
            async with channel_to(proxy.address) as channel:
                stub = GrpcStub(channel)
                call = stub.chat(timeout=LIMIT)
                await call.write(b"hello")
                assert await call.read() == b"hello"
                proxy.begin_shutdown()
                await call.write(b"still here")
                assert await call.read() == b"still here"

                proxy.end_streams()
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call.read()
            await proxy.ended()

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == "server is shutting down"
    ending = await app.ended()
    assert (ending.status, ending.error) == (200, None)
    assert app.notes == ["the server stops: gRPC call ended with UNAVAILABLE"]


@pytest.mark.usefixtures("poller")
async def test_a_grpc_call_that_has_no_answer_yet_goes_on() -> None:
    """It is an ordinary request, and its answer may come at any moment."""
    options = HttpServerOptions(h2c=True)
    async with GrpcServer() as server:
        app = GrpcProxy(server.address)
        async with RunningProxy(app, server_options=options) as proxy:
            async with channel_to(proxy.address) as channel:
                call = GrpcStub(channel).hang(b"", timeout=LIMIT)
                await eventually(lambda: server.hanging == 1)
                proxy.end_streams()
                await asyncio.sleep(0.05)
                assert not app.endings
                await server.stop()
                assert await call.code() is grpc.StatusCode.UNAVAILABLE
            await proxy.ended()

    assert app.notes == [None]


def grpc_message(payload: bytes) -> bytes:
    return b"\x00" + len(payload).to_bytes(4, "big") + payload


async def test_a_grpc_message_that_is_half_through_is_completed_first(
    upstream: Puppet, app: NotingProxy
) -> None:
    """Then the status follows, in the trailers."""
    first, second = grpc_message(b"one"), grpc_message(b"second" * 100)
    async with (
        RunningProxy(app, server_options=HttpServerOptions(h2c=True)) as proxy,
        FrameClient(proxy.address) as client,
    ):
        await client.start()
        stream = client.head(
            "/a.B/C", method="POST", fields=(("content-type", "application/grpc"),), end=False
        )
        head = _HEAD.replace(b"text/event-stream; charset=utf-8", b"application/grpc")
        await upstream.send(head + chunk(first + second[:7]))
        await client.until(lambda: stream in client.replies and bool(client.replies[stream].body))
        proxy.end_streams()
        await upstream.send(chunk(second[7:] + first))
        reply = await client.reply(stream)

    assert reply.body == first + second
    assert reply.ended
    assert reply.heads[-1]["grpc-status"] == "14"
    assert reply.heads[-1]["grpc-message"] == "server is shutting down"


class WebProxy(NotingProxy):
    """With the bridge to gRPC-web."""

    def init_downstream_modules(self, modules: HttpModules) -> None:
        modules.add_module(GrpcWebBridgeBuilder())

    async def early_request_filter(self, session: Session, ctx: RigContext) -> None:
        session.downstream_modules_ctx[GrpcWebBridge].init()


async def test_a_grpc_web_stream_ends_with_a_status_in_its_body(
    origin: Origin, upstream: Puppet
) -> None:
    """Browsers read no trailers: the bridge puts them where it puts those of the upstream."""
    app = WebProxy(origin)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        await client.send_request(
            "POST", "/a.B/C", [("Content-Type", "application/grpc-web+proto")], grpc_message(b"ask")
        )
        head = _HEAD.replace(b"text/event-stream; charset=utf-8", b"application/grpc+proto")
        await upstream.send(head + chunk(grpc_message(b"one")))
        answer, _ = await client.read_final_head()
        body = client.body_of(answer)
        assert await body.read() == grpc_message(b"one")
        proxy.end_streams()
        rest = await body.read_all()

    assert rest.startswith(grpc_message(b"one") + b"\x80")
    assert b"grpc-status:14" in rest.replace(b" ", b"")
    assert app.notes == ["the server stops: gRPC call ended with UNAVAILABLE"]
