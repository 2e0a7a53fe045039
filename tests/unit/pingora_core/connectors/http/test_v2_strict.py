"""What the client sends, judged frame by frame by an origin that shares no code with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.tls.alpn import ALPN
from pingora_core.upstreams import HttpPeer, PeerOptions
from pingora_error import Error, RetryType
from pingora_http import HeaderMap
from tests.support.h2origin import StrictH2Origin, answer, echo
from tests.support.h2wire import Code, Kind, Setting
from tests.support.waiting import eventually
from tests.unit.pingora_core.protocols.http.v2.client_rig import (
    answer_of,
    ask,
    connector,
    error_of,
    h2c_peer,
    request,
    session_to,
    submit,
)

if TYPE_CHECKING:
    from pingora_core.protocols.http.v2.options import EngineName
    from pingora_core.protocols.tls import CaBundle
    from pingora_http import RequestHeader
    from tests.support.certificates import IssuedCertificate
    from tests.support.h2origin import H2Exchange

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(params=["h2", "jh2"])
def engine(request: pytest.FixtureRequest) -> EngineName:
    """Each test runs on both libraries."""
    chosen: EngineName = request.param
    return chosen


async def test_requests_of_all_shapes(engine: EngineName) -> None:
    """With and without body, length and trailers, one after the other on one connection."""
    async with StrictH2Origin(echo) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        heads: list[tuple[RequestHeader, bytes | None]] = [
            (request("GET", "/plain"), None),
            (request("OPTIONS", "*"), None),
            (request("POST", "/length", ("Content-Length", "4")), b"four"),
            (request("POST", "/nothing", ("Content-Length", "0")), None),
            (request("POST", "/chunked", ("Transfer-Encoding", "chunked")), bytes(200_000)),
            (
                request(
                    "GET",
                    "/hops",
                    ("Connection", "keep-alive, X-Hop"),
                    ("Keep-Alive", "timeout=5"),
                    ("Proxy-Connection", "close"),
                    ("X-Hop", "1"),
                    ("TE", "trailers, deflate"),
                    ("Cookie", "a=b"),
                    ("Authorization", "Basic eHg="),
                ),
                None,
            ),
        ]
        for header, body in heads:
            reply = await ask(upstreams, peer, header, body)
            assert (reply.status, reply.body) == (200, body or b"")
        session = await session_to(upstreams, peer)
        session.send_request_header(request("POST", "/trailers", ("Transfer-Encoding", "chunked")))
        session.send_request_body(b"x")
        session.finish_request_body(HeaderMap([("Grpc-Status", "0")]))
        reply = await answer_of(session)
        assert reply.trailers is not None
        assert reply.trailers.get("grpc-status") == "0"
        upstreams.release_http_session(session, peer)
        assert len(origin.connections) == 1
        assert origin.violations == []


async def test_many_at_once(engine: EngineName) -> None:
    """Interleaved uploads through small windows stay within them."""
    body = bytes(range(256)) * 800
    settings = {Setting.INITIAL_WINDOW_SIZE: 10_000, Setting.MAX_CONCURRENT_STREAMS: 7}
    async with StrictH2Origin(echo, settings=settings) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)

        async def upload() -> bytes:
            header = request("POST", "/", ("Content-Length", str(len(body))))
            return (await ask(upstreams, peer, header, body)).body

        bodies = await asyncio.gather(*(upload() for _ in range(30)))
        assert all(each == body for each in bodies)
        assert origin.violations == []


async def test_over_tls(
    engine: EngineName, server_certificate: IssuedCertificate, ca: CaBundle
) -> None:
    """The same frames, and the scheme of the connection."""
    context = server_certificate.server_context(alpn=("h2",))
    async with (
        StrictH2Origin(answer(b"tls"), tls=context) as origin,
        connector(engine) as upstreams,
    ):
        options = PeerOptions(ca=ca, alpn=ALPN.H2H1)
        peer = HttpPeer(origin.address, tls=True, sni="openrusty.org", options=options)
        for _ in range(3):
            assert (await ask(upstreams, peer, request())).body == b"tls"
        assert origin.requests[0].get(":scheme") == "https"
        assert len(origin.connections) == 1
        assert origin.violations == []


async def test_giving_up(engine: EngineName) -> None:
    """At every stage: before anything was sent, within the upload, within the response."""

    async def handler(exchange: H2Exchange) -> None:
        exchange.head(200)
        await exchange.data(b"begin")
        await exchange.passed("never")

    async with StrictH2Origin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        unsent = await session_to(upstreams, peer)
        upstreams.release_http_session(unsent, peer)
        for upload in (True, False):
            session = await session_to(upstreams, peer)
            if upload:
                session.send_request_header(request("POST", "/", ("Transfer-Encoding", "chunked")))
                session.send_request_body(bytes(300_000))
            else:
                submit(session, request())
            await session.read_task()
            upstreams.release_http_session(session, peer)
        await eventually(lambda: all(each.reset == Code.CANCEL for each in origin.requests))
        assert [each.stream_id for each in origin.requests] == [1, 3]
        assert upstreams.http2.pool.idle_count == 1
        assert origin.violations == []


async def test_refused_goaway_and_new_connection(engine: EngineName) -> None:
    """What the upstream refuses is legal to send again, and nothing follows its GOAWAY."""

    async def handler(exchange: H2Exchange) -> None:
        if exchange.stream_id == 1:
            exchange.reset(Code.REFUSED_STREAM)
        elif exchange.connection.number == 0:
            exchange.connection.goaway(exchange.stream_id)
            await exchange.respond(200, b"last")
        else:
            await exchange.respond(200, b"fresh")

    async with StrictH2Origin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        submit(session, request("POST", "/", ("Content-Length", "0")))
        assert (await error_of(session)).retry is RetryType.RETRY
        upstreams.release_http_session(session, peer)
        assert (await ask(upstreams, peer, request())).body == b"last"
        session = await session_to(upstreams, peer)
        submit(session, request())
        assert (await error_of(session)).retry is RetryType.RETRY
        upstreams.release_http_session(session, peer)
        assert len(origin.connections) == 2
        assert origin.violations == []


async def test_malformed_responses(engine: EngineName) -> None:
    """They are answered with RST_STREAM PROTOCOL_ERROR, and the connection goes on."""

    async def handler(exchange: H2Exchange) -> None:
        match exchange.request.path:
            case "/upper":
                exchange.section([(":status", "200"), ("X-Upper", "1")], end=True)
            case "/status":
                exchange.section([(":status", "20x")])
            case "/connection":
                exchange.section([(":status", "200"), ("transfer-encoding", "chunked")])
            case "/length":
                exchange.head(200, [("content-length", "10")])
                await exchange.data(b"short", end=True)
            case _:
                await exchange.respond(200, b"good")

    async with StrictH2Origin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        for path in ("/upper", "/status", "/connection", "/length"):
            session = await session_to(upstreams, peer)
            submit(session, request("GET", path))
            error = await error_of(session)
            assert error.retry is RetryType.NO_RETRY
            upstreams.release_http_session(session, peer)
            assert (await ask(upstreams, peer, request())).body == b"good"
        assert len(origin.connections) == 1
        assert origin.violations == []


async def test_goodbye(engine: EngineName) -> None:
    """Closing is told with GOAWAY NO_ERROR."""
    async with StrictH2Origin(answer()) as origin:
        async with connector(engine) as upstreams:
            await ask(upstreams, h2c_peer(origin.address), request())
        await origin.all_closed()
        (last,) = [frame for frame in origin.connections[0].frames if frame.kind == Kind.GOAWAY]
        assert last.payload[4:8] == b"\x00\x00\x00\x00"
        assert origin.violations == []


async def test_settings_that_change(engine: EngineName) -> None:
    """A window that shrinks below what is in flight is respected."""

    async def handler(exchange: H2Exchange) -> None:
        exchange.connection.announce({Setting.INITIAL_WINDOW_SIZE: 500})
        body = await exchange.read_body()
        await exchange.respond(200, b"%d" % len(body))

    async with StrictH2Origin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        session.send_request_header(request("POST", "/", ("Transfer-Encoding", "chunked")))
        for _ in range(10):
            session.send_request_body(bytes(10_000))
            await asyncio.sleep(0)
        session.finish_request_body()
        assert (await answer_of(session)).body == b"100000"
        upstreams.release_http_session(session, peer)
        assert origin.violations == []


async def test_an_upload_that_nobody_takes(engine: EngineName) -> None:
    """Beyond the window nothing is sent; the writer is told to wait, and gives up in time."""
    async with (
        StrictH2Origin(answer(), auto_credit=False) as origin,
        connector(engine) as upstreams,
    ):
        peer = h2c_peer(origin.address, write_timeout=0.02)
        session = await session_to(upstreams, peer)
        session.send_request_header(request("POST", "/", ("Transfer-Encoding", "chunked")))
        session.send_request_body(bytes(200_000))
        assert session.needs_drain
        with pytest.raises(Error):
            await session.drain()
        await eventually(lambda: origin.requests and len(origin.requests[0].body) == 65535)
        upstreams.release_http_session(session, peer)
        await eventually(lambda: origin.requests[0].reset == Code.CANCEL)
        assert origin.violations == []
