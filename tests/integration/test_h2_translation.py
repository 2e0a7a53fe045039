"""What passes from one version of HTTP to the other, and what must not: smuggling by translation.

The attacks are those that http2smugl tries, and those of "HTTP/2: The Sequel is Always Worse"
(Kettle, 2021). An origin of HTTP/1 counts what comes to it; an origin of HTTP/2 judges it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_core.apps.http_app import HttpServerOptions
from pingora_core.protocols.http.v2 import Http2Options
from pingora_core.protocols.tls import ALPN
from pingora_core.upstreams import HttpPeer
from tests.support.h2client import RawH2Client
from tests.support.h2origin import StrictH2Origin, echo
from tests.support.h2wire import Code, Kind, Setting, data_frame
from tests.support.origin import Origin
from tests.support.proxy import RigProxy, RunningProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.h2wire import Fields
    from tests.support.origin import Exchange
    from tests.support.proxy import RigContext

_SMUGGLED = b"GET /admin HTTP/1.1\r\nHost: victim\r\n\r\n"


@pytest.fixture(params=["h2", "jh2"])
def server_options(request: pytest.FixtureRequest) -> HttpServerOptions:
    """How the proxy speaks to its clients, with either engine."""
    return HttpServerOptions(h2c=True, http2=Http2Options(engine=request.param))


@pytest.fixture
async def proxy(
    app: RigProxy, server_options: HttpServerOptions
) -> AsyncIterator[RunningProxy[RigContext]]:
    """A proxy of HTTP/2 in front of an origin of HTTP/1."""
    async with RunningProxy(app, server_options=server_options) as running:
        yield running


@pytest.fixture
async def h2(proxy: RunningProxy[RigContext]) -> AsyncIterator[RawH2Client]:
    """A client of HTTP/2."""
    async with await RawH2Client.connect(proxy.address) as client:
        yield client


def _head(**changes: bytes | None) -> Fields:
    # The pseudo-header fields of a POST; None leaves one out.
    values: dict[str, bytes | None] = {
        "method": b"POST",
        "scheme": b"http",
        "authority": b"test.example",
        "path": b"/echo",
        **changes,
    }
    return [(b":" + name.encode(), value) for name, value in values.items() if value is not None]


def _with(*fields: tuple[bytes, bytes]) -> Fields:
    return [*_head(), *fields]


_SPLITS = [b"a\r\nx: y", b"a\ny", b"a\ry", b"a\0y", b"a\r\n\r\n" + _SMUGGLED]

_ATTACKS: list[Fields] = [
    # H2.TE: a framing that only HTTP/1 knows
    _with((b"transfer-encoding", b"chunked")),
    _with((b"transfer-encoding", b"identity")),
    _with((b"transfer-encoding ", b"chunked")),
    _with((b"transfer-encoding\t", b"chunked")),
    _with((b"transfer-encoding:", b"chunked")),
    _with((b"Transfer-Encoding", b"chunked")),
    _with((b"\ntransfer-encoding", b"chunked")),
    _with((b"transfer-encoding\0", b"chunked")),
    _with((b"x", b"y\r\ntransfer-encoding: chunked")),
    _with((b"x: y\r\ntransfer-encoding", b"chunked")),
    # H2.CL: lengths that lie, or are read in two ways
    _with((b"content-length", b"0"), (b"content-length", b"40")),
    _with((b"content-length", b"4"), (b"content-length", b"4")),
    _with((b"content-length", b"4, 4")),
    _with((b"content-length", b"+4")),
    _with((b"content-length", b"0x4")),
    _with((b"content-length", b" 4")),
    _with((b"content-length ", b"4")),
    _with((b"Content-Length", b"4")),
    _with((b"content-length", b"-1")),
    _with((b"content-length", b"")),
    # request splitting, in every part of a head
    *[_head(path=b"/" + text) for text in _SPLITS],
    *[_head(method=b"GET" + text) for text in _SPLITS],
    *[_head(authority=b"h" + text) for text in _SPLITS],
    *[_head(scheme=b"http" + text) for text in _SPLITS],
    *[_with((b"x", text)) for text in _SPLITS],
    *[_with((text, b"x")) for text in _SPLITS],
    *[_with((b"cookie", text)) for text in _SPLITS],
    # request lines with more than three parts
    _head(path=b"/ HTTP/1.1"),
    _head(path=b"/a b"),
    _head(path=b"/\t"),
    _head(method=b"GET /admin HTTP/1.1\r\nx: "),
    _head(method=b"GET /admin"),
    _head(method=b""),
    # targets that override the host, or are none
    _head(path=b"http://victim/"),
    _head(path=b"victim:80"),
    _head(path=b"*"),
    _head(path=b""),
    _head(path=b"/#x"),
    # two hosts
    _with((b"host", b"victim")),
    _with((b"host", b"test.example"), (b"host", b"victim")),
    [*_head(authority=None), (b"host", b"a"), (b"host", b"b")],
    _with((b":authority", b"victim")),
    _head(authority=b"user@victim"),
    _head(authority=b"test.example/victim"),
    _head(authority=b"test.example, victim"),
    _head(authority=b""),
    # pseudo-header fields
    _with((b":path", b"/admin")),
    _with((b":method", b"GET")),
    _with((b"x", b"y"), (b":path", b"/admin")),
    [(b"x", b"y"), *_head()],
    _with((b":status", b"200")),
    _with((b":x", b"y")),
    _with((b":", b"y")),
    _head(method=None),
    _head(path=None),
    _head(scheme=None),
    _head(scheme=b"http://victim/?"),
    # fields of the connection
    _with((b"connection", b"close")),
    _with((b"connection", b"content-length")),
    _with((b"keep-alive", b"timeout=5")),
    _with((b"proxy-connection", b"keep-alive")),
    _with((b"upgrade", b"websocket")),
    _with((b"upgrade", b"h2c"), (b"http2-settings", b"AAMAAABk")),
    _with((b"te", b"chunked")),
    # names and values that are none
    _with((b"", b"x")),
    _with((b"x y", b"z")),
    _with((b"x", b" y")),
    _with((b"x", b"y\t")),
    _with((b"x\x7f", b"y")),
    _with((b"x", b"\x01")),
    # tunnels
    _head(method=b"CONNECT"),
    _head(method=b"CONNECT", path=None, scheme=None, authority=b"victim:80"),
    _head(method=b"GET", protocol=b"websocket"),
    _head(method=b"CONNECT", protocol=b"h2c"),
    _head(method=b"CONNECT", protocol=b"websocket, h2c"),
    _head(method=b"CONNECT", protocol=b"x\r\nx: y"),
    [*_head(method=b"CONNECT", protocol=b"websocket"), (b"content-length", b"40")],
]


@pytest.mark.parametrize("body", [None, b"0\r\n\r\n" + _SMUGGLED])
async def test_smuggling_never_reaches_the_origin(
    proxy: RunningProxy[RigContext], origin: Origin, body: bytes | None
) -> None:
    """Each attack is refused, alone on its stream or with its whole connection."""
    for fields in _ATTACKS:
        async with await RawH2Client.connect(proxy.address) as client:
            stream_id = await client.send_fields(fields, body)
            stream = client.streams[stream_id]
            await client.wait_for(
                lambda stream=stream, client=client: (  # type: ignore[misc]
                    stream.is_over or client.received(Kind.GOAWAY)
                ),
                f"refusal of {fields}",
            )
            if stream.status is not None:
                assert stream.status in {400, 405, 501}, fields
            elif stream.reset is not None:
                assert stream.reset == Code.PROTOCOL_ERROR, fields
                assert len(client.received(Kind.RST_STREAM)) == 1
            assert not origin.requests, fields

    async with await RawH2Client.connect(proxy.address) as client:
        assert (await client.request()).status == 200
    assert len(origin.requests) == 1
    assert [connection.garbage for connection in origin.connections] == [None]


async def test_attacks_cost_one_stream(h2: RawH2Client, origin: Origin) -> None:
    """A malformed request does no harm to the others on its connection (RFC 9113 8.1.1)."""
    waiting = await h2.send_request("GET", "/sleep")
    await origin.requests_arrived()
    for fields in (_with((b"transfer-encoding", b"chunked")), _head(path=b"/a b")):
        stream_id = await h2.send_fields(fields)
        assert (await h2.response(stream_id)).reset == Code.PROTOCOL_ERROR
    origin.open("sleep")

    assert (await h2.response(waiting)).status == 200
    assert len(origin.requests) == 1


@pytest.mark.parametrize("pieces", [[b"hell", b"o" + _SMUGGLED], [b"hello", _SMUGGLED]])
async def test_more_data_than_declared(
    h2: RawH2Client, origin: Origin, pieces: list[bytes]
) -> None:
    """What is beyond Content-Length never becomes a request of its own (RFC 9113 8.1.1)."""
    fields = _with((b"content-length", b"5"))
    stream_id = await h2.send_fields(fields, end=False)
    for piece in pieces:
        await h2.send(data_frame(stream_id, piece))
    response = await h2.response(stream_id)

    assert response.reset == Code.PROTOCOL_ERROR
    assert (await h2.request()).status == 200
    assert {request.path for request in origin.requests} <= {"/echo", "/"}
    assert b"victim" not in b"".join(request.body for request in origin.requests)
    assert all(connection.garbage is None for connection in origin.connections)


async def test_less_data_than_declared(h2: RawH2Client, origin: Origin) -> None:
    """A body that ends early does not swallow the next request."""
    stream_id = await h2.send_fields(_with((b"content-length", b"50")), b"hello")

    assert (await h2.response(stream_id)).reset == Code.PROTOCOL_ERROR
    assert (await h2.request()).status == 200
    assert not any(request.complete for request in origin.requests if request.path == "/echo")
    assert origin.requests[-1].connection != 0 or len(origin.requests) == 1


async def test_smuggling_through_a_refused_upgrade(h2: RawH2Client, origin: Origin) -> None:
    """What a client sends before its upgrade is accepted is no request to the origin.

    The origin refuses the upgrade and would read what follows as the next request.
    """
    fields = _head(method=b"CONNECT", protocol=b"websocket", path=b"/refuse_upgrade")
    stream_id = await h2.send_fields(fields, end=False)
    await h2.send(data_frame(stream_id, _SMUGGLED * 3))
    await h2.wait_for(lambda: h2.streams[stream_id].status, "an answer")
    await h2.send(data_frame(stream_id, _SMUGGLED * 3, end=True))
    await h2.response(stream_id)

    assert (await h2.request()).status == 200
    assert [request.path for request in origin.requests] == ["/refuse_upgrade", "/"]
    assert all(connection.garbage is None for connection in origin.connections)


# ---------------------------------------------------------------- what does pass


async def test_heads_as_the_origin_sees_them(h2: RawH2Client, origin: Origin) -> None:
    """Host is the authority, cookies are one field, nothing of HTTP/2 is left."""
    fields = [
        *_head(method=b"GET", path=b"/echo_fields?a=b"),
        (b"cookie", b"a=b"),
        (b"te", b"trailers"),
        (b"x-a", b"1"),
        (b"cookie", b"c=d"),
        (b"x-a", b"2"),
    ]
    response = await h2.response(await h2.send_fields(fields))

    assert bytes(response.body) == (
        b"GET /echo_fields?a=b HTTP/1.1\r\n"
        b"host: test.example\r\ncookie: a=b; c=d\r\nx-a: 1\r\nx-a: 2\r\n\r\n"
    )


async def test_host_instead_of_authority(h2: RawH2Client, origin: Origin) -> None:
    """A request that was translated once may name its host in Host."""
    fields = [*_head(authority=None, method=b"GET"), (b"host", b"other.example")]
    await h2.response(await h2.send_fields(fields))

    assert origin.requests[0].head.get_all("host") == ["other.example"]


@pytest.mark.parametrize("declared", [True, False])
async def test_bodies_as_the_origin_sees_them(
    h2: RawH2Client, origin: Origin, declared: bool
) -> None:
    """A length stays; without one the body comes in chunks. It is the same body."""
    body = b"0\r\n\r\n" + _SMUGGLED
    fields = _with((b"content-length", b"%d" % len(body))) if declared else _head()
    response = await h2.response(await h2.send_fields(fields, body))

    assert (response.status, bytes(response.body)) == (200, body)
    [request] = origin.requests
    assert request.chunked is not declared
    assert request.body == body


async def test_trailers_as_the_origin_sees_them(h2: RawH2Client, origin: Origin) -> None:
    """Trailers pass, without those that would change framing or identity."""
    stream_id = await h2.send_fields(_head(), b"body", end=False)
    trailers = [(b"x-sum", b"4"), (b"authorization", b"x"), (b"cookie", b"x")]
    await h2.send(*h2.head_frames(stream_id, trailers, end=True))
    response = await h2.response(stream_id)

    assert origin.requests[0].trailers == (("x-sum", "4"),)
    assert response.trailers == [(b"x-sum", b"4")]


@pytest.mark.parametrize(
    "trailers",
    [
        [(b"transfer-encoding", b"chunked")],
        [(b"content-length", b"5")],
        [(b"host", b"victim")],
        [(b":path", b"/admin")],
        [(b"x", b"y\r\n\r\n" + _SMUGGLED)],
        [(b"X", b"y")],
        [(b"x y", b"z")],
    ],
)
async def test_malformed_trailers(h2: RawH2Client, origin: Origin, trailers: Fields) -> None:
    """A request with malformed trailers is not completed."""
    stream_id = await h2.send_fields(_head(), b"body", end=False)
    await h2.send(*h2.head_frames(stream_id, trailers, end=True))
    await h2.wait_for(lambda: h2.streams[stream_id].is_over or h2.received(Kind.GOAWAY), "refusal")

    assert not any(request.complete for request in origin.requests)


async def test_responses_of_http1(proxy: RunningProxy[RigContext], app: RigProxy) -> None:
    """What an origin of HTTP/1 says of its connection does not reach a client of HTTP/2."""

    async def answer(exchange: Exchange) -> None:
        await exchange.reply(
            body=b"body",
            fields=[
                ("Connection", "close, X-Hop"),
                ("X-Hop", "1"),
                ("Keep-Alive", "timeout=5"),
                ("Proxy-Connection", "close"),
                ("Upgrade", "h2c"),
                ("X-Mixed-Case", "Value"),
            ],
        )

    async with Origin(answer) as origin:
        app.upstream = origin
        async with await RawH2Client.connect(proxy.address) as client:
            response = await client.request()
    names = [name for name, _ in response.heads[-1]]

    assert (response.status, bytes(response.body)) == (200, b"body")
    assert names == [name.lower() for name in names]
    assert not {b"connection", b"x-hop", b"keep-alive", b"proxy-connection", b"upgrade"} & set(
        names
    )
    assert response.get(b"x-mixed-case") == b"Value"


# -------------------------------------------------------------- towards HTTP/2


def _h2_peer(origin: StrictH2Origin) -> HttpPeer:
    peer = HttpPeer(origin.address)
    peer.options.alpn = ALPN.H2
    return peer


_REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /a?b HTTP/1.1\r\nhOST: h\r\nX-Mixed: Case\r\nX-Empty:\r\nX-Space:  a b\t\r\n\r\n",
    b"GET http://h:81/a HTTP/1.1\r\nHost: other\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\nTE: trailers, gzip\r\nConnection: TE\r\n\r\n",
    (
        b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n"
        b"Connection: Upgrade, HTTP2-Settings\r\n\r\n"
    ),
    b"GET / HTTP/1.1\r\nHost: h\r\nKeep-Alive: 5\r\nProxy-Connection: keep-alive\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    (
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n"
        b"5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n"
    ),
    b"GET / HTTP/1.1\r\nHost: h\r\nCookie: a=b\r\nCookie: c=d\r\nAuthorization: Basic eA==\r\n\r\n",
    b"M-SEARCH /\xff HTTP/1.1\r\nHost: h\r\n\r\n",
    b"DELETE /x HTTP/1.1\r\nHost: h\r\nX: \xe4\xf6\r\n\r\n",
]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {Setting.INITIAL_WINDOW_SIZE: 3, Setting.MAX_CONCURRENT_STREAMS: 1},
        {Setting.HEADER_TABLE_SIZE: 0, Setting.MAX_FRAME_SIZE: 1 << 20},
    ],
)
async def test_from_http1_all_frames_are_legal(settings: dict[int, int]) -> None:
    """Whatever comes in over HTTP/1, an origin of HTTP/2 finds nothing wrong with what it gets."""
    async with StrictH2Origin(echo, settings=settings) as origin:
        app = RigProxy(lambda _session: _h2_peer(origin))
        async with RunningProxy(app) as proxy:
            for request in _REQUESTS:
                async with await proxy.connect() as client:
                    await client.send(request)
                    head, _ = await client.read_final_head()
                    status = int(head.start_line.split(" ")[1])
                    assert status == (400 if b"\xff" in request else 200), request
                    await client.body_of(head, request.split(b" ")[0].decode()).read_all()
        assert len(origin.requests) == len(_REQUESTS) - 1
    assert origin.violations == []


async def test_from_http2_all_frames_are_legal() -> None:
    """The same from HTTP/2 to HTTP/2, with bodies, trailers, and streams that are given up."""
    async with StrictH2Origin(echo, settings={Setting.INITIAL_WINDOW_SIZE: 100}) as origin:
        app = RigProxy(lambda _session: _h2_peer(origin))
        options = HttpServerOptions(h2c=True)
        async with (
            RunningProxy(app, server_options=options) as proxy,
            await RawH2Client.connect(proxy.address) as client,
        ):
            for number in range(20):
                body = b"x" * (number * 50)
                response = await client.request("POST", f"/{number}", [("te", "trailers")], body)
                assert (response.status, bytes(response.body)) == (200, body)
            stream_id = await client.send_fields(_with((b"cookie", b"a")), b"x", end=False)
            await client.send(*client.head_frames(stream_id, [(b"x-sum", b"1")], end=True))
            assert (await client.response(stream_id)).trailers == [(b"x-sum", b"1")]
            given_up = [await client.send_request("POST", "/", end=False) for _ in range(5)]
            await origin.requests_arrived(26)
            for stream_id in given_up:
                await client.send(data_frame(stream_id, b"x" * 10))
                await client.send(*_reset(stream_id))
            assert (await client.request()).status == 200
    assert origin.violations == []


def _reset(stream_id: int) -> list[bytes]:
    return [b"\0\0\4\3\0" + stream_id.to_bytes(4, "big") + Code.CANCEL.to_bytes(4, "big")]
