"""The four pairings of HTTP versions through one proxy: what each side sees is the same."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import pytest

from pingora_core.apps.http_app import HttpServerApp, HttpServerOptions
from pingora_core.protocols.http.v2 import Http2Options
from pingora_core.protocols.tls import ALPN
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services.listening import Service
from pingora_core.services.service import ServiceContext, ServiceReadyNotifier
from pingora_core.upstreams import HttpPeer
from pingora_error import Error, ErrorType
from pingora_http import HeaderMap, ResponseHeader, Version
from tests.support.client import RawClient
from tests.support.h2client import RawH2Client
from tests.support.h2wire import Code, Kind, data_frame, rst_frame
from tests.support.proxy import RigProxy, RunningProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pingora_core.protocols.http.server import ServerSession
    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_http import RequestHeader
    from pingora_proxy import Session
    from tests.support.proxy import RigContext

H2C = HttpServerOptions(h2c=True, allow_connect_method_proxying=False)


@dataclass(slots=True)
class Seen:
    """A request as it came to the origin."""

    version: Version
    method: str
    path: str
    fields: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    gone: bool = False


class PairOrigin(HttpServerApp):
    """Speaks both versions, and answers with everything that a response can have."""

    server_options = H2C

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.go = asyncio.Event()

    async def process_new_http(self, session: ServerSession, shutdown: ShutdownWatch) -> bool:
        if not await session.read_request():
            return False
        request = session.request
        seen = Seen(request.version, request.method, request.raw_path.decode(), list(request))
        self.seen.append(seen)
        try:
            return await self._answer(session, seen)
        except Error:
            seen.gone = True
            session.shutdown()
            return False

    async def _answer(self, session: ServerSession, seen: Seen) -> bool:
        path = session.request.path
        if path == "/die":
            session.shutdown()
            return False
        if path == "/early":
            session.send_response_header(ResponseHeader(413, headers=[("Content-Length", "0")]))
            return await session.finish()
        while (piece := await session.read_request_body()) is not None:
            seen.body += piece
        seen.trailers = list(session.request_trailers or [])
        if path == "/slow":
            gone = asyncio.Event()
            session.watch_disconnect(gone.set)
            await gone.wait()
            raise Error.down(ErrorType.CONNECTION_CLOSED)
        if path == "/hints":
            hints = ResponseHeader(103, headers=[("Link", "</a.css>; rel=preload")])
            await session.write_response_header(hints)
        header = ResponseHeader(200, headers=[("X-Method", seen.method), ("Set-Cookie", "a=1")])
        header.append_header("Set-Cookie", "b=2")
        if path == "/trailers":
            await session.write_response_header(header)
            await session.write_response_body(seen.body)
            await session.write_response_trailers(HeaderMap([("X-Sum", "42")]))
        else:
            body = b"b" * 300_000 if path == "/big" else seen.body or b"hello"
            header.set_content_length(len(body))
            await session.write_response_header(header)
            if path == "/cut":
                await session.write_response_body(body[:2])
                await self.go.wait()
                session.shutdown()
                return False
            if session.request.method != "HEAD":
                await session.write_response_body(body, end=True)
        return await session.finish()


@asynccontextmanager
async def running(app: PairOrigin) -> AsyncIterator[str]:
    service = Service("origin", app)
    service.add_tcp("127.0.0.1:0")
    switch = ShutdownSwitch()
    ready = ServiceReadyNotifier()
    task = asyncio.create_task(
        service.start_service(ServiceContext(shutdown=switch.watch, ready=ready))
    )
    await ready.wait()
    try:
        yield str(service.addresses[0])
    finally:
        app.go.set()
        switch.start()
        await task


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, whatever carried it."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes
    trailers: list[tuple[str, str]]
    informational: list[int]

    def get_all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]


class HostProxy(RigProxy):
    """Sets another Host if told so."""

    host: str | None = None

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: RigContext
    ) -> None:
        if self.host is not None:
            upstream_request.insert_header("Host", self.host)


class Pair:
    """A proxy between a client of one version and an origin of another."""

    def __init__(self, down: int, up: int) -> None:
        self.down = down
        self.up = up
        self.origin = PairOrigin()
        self.proxy: RunningProxy[RigContext] | None = None
        self.app: HostProxy | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        address = await self._stack.enter_async_context(running(self.origin))

        def peer(_session: object) -> HttpPeer:
            chosen = HttpPeer(address)
            chosen.options.alpn = ALPN.H2 if self.up == 2 else ALPN.H1
            return chosen

        self.app = HostProxy(peer)
        proxy = RunningProxy(self.app, server_options=H2C)
        self.proxy = await self._stack.enter_async_context(proxy)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.origin.go.set()
        await self._stack.aclose()

    @property
    def address(self) -> str:
        assert self.proxy is not None
        return self.proxy.address

    async def ask(
        self,
        method: str = "GET",
        path: str = "/",
        fields: tuple[tuple[str, str], ...] = (),
        body: bytes | None = None,
    ) -> Answer:
        """Send one request and read the response."""
        if self.down == 1:
            async with await RawClient.connect(self.address) as client:
                got = await client.request(method, path, fields, body)
                return Answer(
                    got.status,
                    [(name.lower(), value) for name, value in got.head.fields],
                    got.body,
                    [(name.lower(), value) for name, value in got.trailers],
                    [int(head.start_line.split()[1]) for head in got.informational],
                )
        async with await RawH2Client.connect(self.address) as client:
            reply = await client.request(method, path, fields, body)
            head = next(h for h in reply.heads if dict(h)[b":status"] >= b"200")
            return Answer(
                reply.status or 0,
                [(n.decode(), v.decode()) for n, v in head if n[:1] != b":"],
                bytes(reply.body),
                [(n.decode(), v.decode()) for n, v in reply.trailers or []],
                reply.informational,
            )


@pytest.fixture(params=[(1, 1), (1, 2), (2, 1), (2, 2)], ids=["h1-h1", "h1-h2", "h2-h1", "h2-h2"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    down, up = request.param
    async with Pair(down, up) as running_pair:
        yield running_pair


async def test_get(pair: Pair) -> None:
    """Method, path, host and fields arrive; nothing of the client's connection does."""
    answer = await pair.ask(path="/a/b?c=d", fields=(("x-one", "1"), ("x-two", "2")))

    (seen,) = pair.origin.seen
    names = [name.lower() for name, _ in seen.fields]
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.get_all("set-cookie") == ["a=1", "b=2"]
    assert (seen.method, seen.path) == ("GET", "/a/b?c=d")
    assert seen.version is (Version.HTTP_20 if pair.up == 2 else Version.HTTP_11)
    assert (
        dict(seen.fields)[next(n for n, _ in seen.fields if n.lower() == "host")] == "test.example"
    )
    assert names.count("x-one") == names.count("x-two") == names.count("host") == 1
    assert not {"connection", "keep-alive", "upgrade", "te"} & set(names)


async def test_head(pair: Pair) -> None:
    """The length without the body, and the connection can go on."""
    answer = await pair.ask("HEAD")

    assert (answer.status, answer.body, answer.get_all("content-length")) == (200, b"", ["5"])


@pytest.mark.parametrize("size", [0, 1, 60_000])
async def test_upload(pair: Pair, size: int) -> None:
    """A body with a length is echoed."""
    answer = await pair.ask("POST", body=b"x" * size)

    assert answer.body == (b"x" * size or b"hello")
    assert pair.origin.seen[0].body == b"x" * size


async def test_large_response(pair: Pair) -> None:
    """More than any window or buffer."""
    assert (await pair.ask(path="/big")).body == b"b" * 300_000


async def test_upload_beyond_the_windows(pair: Pair) -> None:
    """A body of several windows goes through while windows are given back."""
    body = b"y" * 400_000
    if pair.down == 1:
        assert (await pair.ask("POST", body=body)).body == body
        return
    async with await RawH2Client.connect(pair.address) as client:
        stream = client.take_id()
        await client.send(*client.head_frames(stream, client.head("POST")))
        sent = 0

        def room() -> int:
            opened = sum(f.number for f in client.received(Kind.WINDOW_UPDATE, stream))
            return min(16384, 65535 + opened - sent, len(body) - sent)

        while sent < len(body):
            await client.wait_for(lambda: room() > 0)
            size = room()
            piece = body[sent : sent + size]
            await client.send(data_frame(stream, piece, end=sent + size == len(body)))
            sent += size
        assert bytes((await client.response(stream)).body) == body


async def test_trailers_of_the_response(pair: Pair) -> None:
    """They arrive in either framing."""
    answer = await pair.ask("POST", "/trailers", body=b"data")

    assert (answer.body, answer.trailers) == (b"data", [("x-sum", "42")])


async def test_informational_responses(pair: Pair) -> None:
    """A 103 passes, in any pairing."""
    answer = await pair.ask(path="/hints")

    assert (answer.informational, answer.status) == ([103], 200)


async def test_an_answer_before_the_body(pair: Pair) -> None:
    """A refusal that the origin gives before it has read anything reaches the client."""
    answer = await pair.ask("POST", "/early", body=b"z" * 30_000)

    assert answer.status == 413


async def test_an_upstream_that_fails_before_its_head(pair: Pair) -> None:
    """502, and a client of HTTP/2 keeps its connection (test_error_before_headers_sent)."""
    assert (await pair.ask(path="/die")).status == 502
    assert (await pair.ask()).status == 200


async def test_another_host(pair: Pair) -> None:
    """What a filter sets as Host is what the origin is asked for (test_update_authority)."""
    assert pair.app is not None
    pair.app.host = "other.example"
    await pair.ask()

    fields = pair.origin.seen[0].fields
    assert [value for name, value in fields if name.lower() == "host"] == ["other.example"]


async def test_a_response_that_is_cut_off(pair: Pair) -> None:
    """The client can tell it from a complete one (test_error_after_headers_sent_rst_received)."""
    if pair.down == 1:
        async with await RawClient.connect(pair.address) as client:
            await client.send_request("GET", "/cut")
            await client.read_final_head()
            assert await client.receive_exactly(2) == b"he"
            pair.origin.go.set()
            assert await client.is_closed_by_server()
    else:
        async with await RawH2Client.connect(pair.address) as client:
            stream = await client.send_request("GET", "/cut")
            await client.wait_for(lambda: bytes(client.streams[stream].body) == b"he")
            pair.origin.go.set()
            reply = await client.response(stream)
            assert reply.reset not in {None, Code.NO_ERROR}
            assert not reply.ended
    assert pair.app is not None
    assert (await pair.app.ended()).error is not None


async def test_a_client_that_gives_up(pair: Pair) -> None:
    """The origin is told, and the other requests on its connection are not touched."""
    if pair.down == 1:
        async with await RawClient.connect(pair.address) as client:
            await client.send_request("GET", "/slow")
            await eventually(lambda: bool(pair.origin.seen))
    else:
        async with await RawH2Client.connect(pair.address) as client:
            stream = await client.send_request("GET", "/slow")
            await eventually(lambda: bool(pair.origin.seen))
            await client.send(rst_frame(stream))
            await eventually(lambda: pair.origin.seen[0].gone)
            assert (await client.request()).status == 200

    await eventually(lambda: pair.origin.seen[0].gone)


async def test_cookies_are_joined(pair: Pair) -> None:
    """HTTP/2 may send them apart (RFC 9113 section 8.2.3); HTTP/1 knows one field."""
    if pair.down == 1:
        await pair.ask(fields=(("Cookie", "a=1; b=2; c=3"),))
    else:
        await pair.ask(fields=(("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")))

    fields = pair.origin.seen[0].fields
    assert [value for name, value in fields if name.lower() == "cookie"] == ["a=1; b=2; c=3"]


@pytest.mark.parametrize("down", [1, 2])
async def test_te_trailers_reaches_http2_only(down: int) -> None:
    """gRPC servers insist on it; in HTTP/1 it would concern the connection."""
    fields = (("TE", "trailers"), ("Connection", "TE")) if down == 1 else (("te", "trailers"),)
    for up, expected in ((1, []), (2, ["trailers"])):
        async with Pair(down, up) as pair:
            await pair.ask(fields=fields)
            seen = pair.origin.seen[0].fields
            assert [value for name, value in seen if name.lower() == "te"] == expected


async def test_streams_share_upstream_connections() -> None:
    """Twenty requests at once to an HTTP/2 upstream take one connection (multiplexing)."""
    async with Pair(2, 2) as pair, await RawH2Client.connect(pair.address) as client:
        streams = [await client.send_request("GET", "/") for _ in range(20)]
        replies = [await client.response(stream) for stream in streams]

        ports = {reply.get(b"x-upstream-client-addr") for reply in replies}
        assert [reply.status for reply in replies] == [200] * 20
        assert len(ports) == 1


async def test_an_upstream_that_goes_away_between_requests() -> None:
    """A connection that ended while idle is not used; nobody notices."""
    origin = PairOrigin()
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(running(origin))

        def peer(_session: object) -> HttpPeer:
            chosen = HttpPeer(address)
            chosen.options.alpn = ALPN.H2
            chosen.options.idle_timeout = 0.02
            return chosen

        proxy = await stack.enter_async_context(
            RunningProxy(RigProxy(peer), server_options=HttpServerOptions(h2c=True))
        )
        async with await RawH2Client.connect(proxy.address) as client:
            for _ in range(3):
                assert (await client.request()).status == 200
                await asyncio.sleep(0.03)


async def test_a_read_timeout_of_an_http2_upstream() -> None:
    """504, and the stream is cancelled (test_h2_upstream_no_end_stream_read_timeout)."""
    origin = PairOrigin()
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(running(origin))

        def peer(_session: object) -> HttpPeer:
            chosen = HttpPeer(address)
            chosen.options.alpn = ALPN.H2
            chosen.options.read_timeout = 0.05
            return chosen

        options = HttpServerOptions(h2c=True, http2=Http2Options(engine="jh2"))
        proxy = await stack.enter_async_context(
            RunningProxy(RigProxy(peer), server_options=options)
        )
        async with await RawH2Client.connect(proxy.address) as client:
            assert (await client.request("GET", "/slow")).status == 504
        await eventually(lambda: origin.seen[0].gone)
