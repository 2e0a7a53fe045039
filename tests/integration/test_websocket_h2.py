"""WebSockets over TLS and over HTTP/2 (RFC 8441), with libraries that know nothing of the proxy."""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import PerMessageDeflate

from pingora_core.apps import HttpServerOptions
from pingora_core.listeners.tls import TlsSettings
from pingora_core.protocols.tls import ALPN
from pingora_core.upstreams import HttpPeer
from tests.support.certificates import CertificateAuthority
from tests.support.h2_websocket import H2Client
from tests.support.proxy import RigProxy, RunningProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from websockets.asyncio.server import Server, ServerConnection
    from websockets.http11 import Request, Response
    from websockets.typing import Subprotocol

    from tests.support.proxy import RigContext

CHUNK = 1 << 16


@dataclass(slots=True)
class Talker:
    """A WebSocket server's handler, and what it has seen.

    Attributes:
        sent: Messages of a flood that the server has got rid of.
        requests: Handshakes.
        ended: Connections that have ended.
    """

    sent: int = 0
    requests: list[Request] = field(default_factory=list)
    ended: int = 0

    async def __call__(self, connection: ServerConnection) -> None:
        """Echo; some messages are orders."""
        assert connection.request is not None
        self.requests.append(connection.request)
        try:
            async for message in connection:
                if message == "close":
                    await connection.close(4001, "as you wish")
                elif message == "abort":
                    connection.transport.abort()
                elif isinstance(message, str) and message.startswith("flood "):
                    for _ in range(int(message.removeprefix("flood "))):
                        await connection.send(bytes(CHUNK))
                        self.sent += 1
                else:
                    await connection.send(message)
        except ConnectionClosed:
            pass
        finally:
            self.ended += 1


def refuse_some(connection: ServerConnection, request: Request) -> Response | None:
    if request.path == "/forbidden":
        return connection.respond(403, "not you\n")
    return None


def choose_chat(
    _connection: ServerConnection, offered: Sequence[Subprotocol]
) -> Subprotocol | None:
    return next((each for each in offered if each == "chat"), None)


@dataclass(frozen=True, slots=True)
class Chain:
    """Proxies in front of a WebSocket server; clients connect to the first."""

    talker: Talker
    app: RigProxy
    proxy: RunningProxy[RigContext]


@pytest.fixture
def talker() -> Talker:
    """What the server does."""
    return Talker()


@pytest.fixture
async def server(talker: Talker) -> AsyncIterator[Server]:
    """A websockets server."""
    async with serve(
        talker,
        "127.0.0.1",
        0,
        max_size=None,
        select_subprotocol=choose_chat,
        process_request=refuse_some,
    ) as running:
        yield running


def address_of(server: Server) -> str:
    host, port = next(iter(server.sockets)).getsockname()
    return f"{host}:{port}"


def over_h2(address: str) -> HttpPeer:
    peer = HttpPeer(address)
    peer.options.alpn = ALPN.H2
    return peer


async def proxy_to(stack: AsyncExitStack, address: str, *, h2: bool = False) -> Chain:
    app = RigProxy((lambda _session: over_h2(address)) if h2 else address)
    proxy = RunningProxy(app, server_options=HttpServerOptions(h2c=True))
    await stack.enter_async_context(proxy)
    return Chain(Talker(), app, proxy)


@pytest.fixture(params=["h2 to h1", "h2 to h2"])
async def chain(
    request: pytest.FixtureRequest, server: Server, talker: Talker
) -> AsyncIterator[Chain]:
    """One proxy that translates, or another one before it that speaks HTTP/2 on both sides."""
    async with AsyncExitStack() as stack:
        last = await proxy_to(stack, address_of(server))
        first = last
        if request.param == "h2 to h2":
            first = await proxy_to(stack, last.proxy.address, h2=True)
        yield Chain(talker, first.app, first.proxy)


@pytest.fixture
async def client(chain: Chain) -> AsyncIterator[H2Client]:
    """A client of the chain."""
    async with await H2Client.connect(chain.proxy.address) as connected:
        yield connected


# ------------------------------------------------------------------------ over HTTP/2


async def test_handshake(client: H2Client, chain: Chain) -> None:
    """The server sees an ordinary handshake, the client a 200 without what HTTP/1 needs."""
    assert client.allows_extended_connect

    websocket = await client.open("/chat?room=1", ("sec-websocket-protocol", "other, chat"))

    assert websocket.status == 200
    assert websocket.headers["sec-websocket-protocol"] == "chat"
    for name in ("connection", "upgrade", "sec-websocket-accept", "transfer-encoding"):
        assert name not in websocket.headers
    request = chain.talker.requests[0]
    assert request.path == "/chat?room=1"
    assert request.headers["Host"] == "localhost"


async def test_messages_of_all_sizes(client: H2Client) -> None:
    """Text and bytes, empty to several mebibytes, come back."""
    websocket = await client.open("/")

    for message in ("", "grüße", b"\x00\xff", "x" * 70_000, os.urandom(3 << 20)):
        websocket.send(message)
        assert await websocket.recv() == message


async def test_extensions_pass(client: H2Client, chain: Chain) -> None:
    """Both ends agree on compression, of which the proxies know nothing."""
    websocket = await client.open("/", ("sec-websocket-extensions", "permessage-deflate"))
    assert websocket.headers["sec-websocket-extensions"].startswith("permessage-deflate")
    websocket.protocol.extensions = [PerMessageDeflate(False, False, 15, 15)]

    websocket.send("x" * 100_000)

    assert await websocket.recv() == "x" * 100_000
    assert websocket.received < 10_000


async def test_ping_passes(client: H2Client) -> None:
    """Control frames are bytes like any other."""
    websocket = await client.open("/")

    websocket.ping(b"payload")

    await client.until(lambda: websocket.pongs == [b"payload"])


async def test_many_websockets_on_one_connection(client: H2Client) -> None:
    """Each stream is a WebSocket of its own."""
    websockets = [await client.open(f"/{number}") for number in range(10)]

    for number, websocket in enumerate(websockets):
        websocket.send(str(number))

    assert [await each.recv() for each in websockets] == [str(number) for number in range(10)]


async def test_a_client_that_does_not_read_stops_the_server(client: H2Client, chain: Chain) -> None:
    """Nothing piles up in between, other streams go on, and all arrives in the end."""
    stalled = await client.open("/")
    stalled.paused = True
    other = await client.open("/other")
    count = 1024

    stalled.send(f"flood {count}")
    await eventually(lambda: stalled.received > 0, "the first bytes")
    # An echo each: the flood has the chance to run, if anything lets it.
    for number in range(200):
        other.send(str(number))
        assert await other.recv() == str(number)

    assert chain.talker.sent < count // 2
    stalled.resume()
    for _ in range(count):
        assert len(await stalled.recv()) == CHUNK


async def test_server_closes(client: H2Client, chain: Chain) -> None:
    """The server's closing handshake arrives with code and reason, then the stream ends."""
    websocket = await client.open("/")

    websocket.send("close")
    close = await websocket.closed()

    assert close is not None
    assert (close.code, close.reason) == (4001, "as you wish")
    assert websocket.is_ended
    await chain.app.ended()


async def test_server_aborts(client: H2Client, chain: Chain) -> None:
    """A server that vanishes takes the stream with it, not the connection."""
    websocket = await client.open("/")

    websocket.send("abort")
    assert await websocket.closed() is None

    await chain.app.ended()
    again = await client.open("/")
    again.send("still here")
    assert await again.recv() == "still here"


async def test_client_closes(client: H2Client, chain: Chain, server: Server) -> None:
    """The client's closing handshake reaches the server, and both sides end."""
    websocket = await client.open("/")

    websocket.close(4002, "bye")
    close = await websocket.closed()

    assert close is not None
    assert close.code == 4002
    await chain.app.ended()
    await eventually(lambda: not server.connections, "the end of the server's connection")


async def test_client_resets(client: H2Client, chain: Chain) -> None:
    """A stream that the client gives up ends the server's connection."""
    websocket = await client.open("/")
    websocket.send("hello")
    await websocket.recv()

    websocket.reset()

    await chain.app.ended()
    await eventually(lambda: chain.talker.ended == 1, "the end of the server's connection")


async def test_client_vanishes(chain: Chain) -> None:
    """So does a connection that is lost."""
    async with await H2Client.connect(chain.proxy.address) as client:
        for number in range(3):
            websocket = await client.open("/")
            websocket.send(str(number))
            await websocket.recv()

    await eventually(lambda: chain.talker.ended == 3, "the ends of the server's connections")


async def test_refusals_arrive(client: H2Client, chain: Chain) -> None:
    """A handshake that the server refuses shows the server's status and page."""
    websocket = await client.open("/forbidden")
    await websocket.closed()

    assert websocket.status == 403
    assert websocket.body == b"not you\n"
    assert (await chain.app.ended()).status == 403


async def test_a_server_that_is_down(dead: str) -> None:
    """Without a server the handshake is answered with 502."""
    async with AsyncExitStack() as stack:
        chain = await proxy_to(stack, dead)
        client = await stack.enter_async_context(await H2Client.connect(chain.proxy.address))

        websocket = await client.open("/")

        assert websocket.status == 502


async def test_http1_in_front_of_http2(server: Server) -> None:
    """An HTTP/1 client gets a proper 101 when the way to the server is HTTP/2."""
    async with AsyncExitStack() as stack:
        last = await proxy_to(stack, address_of(server))
        first = await proxy_to(stack, last.proxy.address, h2=True)

        async with connect(f"ws://{first.proxy.address}/", max_size=None) as client:
            for message in ("hello", os.urandom(1 << 20)):
                await client.send(message)
                assert await client.recv() == message
            await client.send("close")
            with pytest.raises(ConnectionClosed) as caught:
                await client.recv()

    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 4001


# --------------------------------------------------------------------------- over TLS


@pytest.fixture
async def secure(server: Server, tmp_path: Path) -> AsyncIterator[tuple[Chain, ssl.SSLContext]]:
    """A proxy with TLS, and what its clients trust."""
    authority = CertificateAuthority(tmp_path)
    certificate = authority.issue("localhost", "127.0.0.1")
    settings = TlsSettings.intermediate(certificate.chain_path, certificate.key_path)
    settings.enable_h2()
    app = RigProxy(address_of(server))
    proxy = RunningProxy(app, listen=())
    proxy.service.add_tls_with_settings("127.0.0.1:0", None, settings)
    async with proxy:
        context = ssl.create_default_context(cafile=str(authority.cert_path))
        yield Chain(Talker(), app, proxy), context


async def test_tls(secure: tuple[Chain, ssl.SSLContext]) -> None:
    """Messages of all sizes pass a TLS listener, many at a time, and the close comes through."""
    chain, context = secure
    async with connect(f"wss://{chain.proxy.address}/", ssl=context, max_size=None) as client:
        for message in ("", b"\x00", "x" * 70_000, os.urandom(3 << 20)):
            await client.send(message)
            assert await client.recv() == message
        writing = asyncio.create_task(_send_numbers(client.send))
        assert [await client.recv() for _ in range(200)] == [str(each) for each in range(200)]
        await writing
        await client.send("close")
        with pytest.raises(ConnectionClosed) as caught:
            await client.recv()

    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 4001
    await chain.app.ended()


async def test_tls_client_closes(secure: tuple[Chain, ssl.SSLContext], talker: Talker) -> None:
    """A client that says goodbye over TLS is followed by the end of the server's connection."""
    chain, context = secure
    async with connect(f"wss://{chain.proxy.address}/", ssl=context) as client:
        await client.send("hello")
        await client.recv()

    assert client.close_code == 1000
    await chain.app.ended()
    await eventually(lambda: talker.ended == 1, "the end of the server's connection")


async def test_http2_over_tls(secure: tuple[Chain, ssl.SSLContext]) -> None:
    """With ALPN the same listener serves WebSockets over HTTP/2."""
    chain, context = secure
    context.set_alpn_protocols(["h2"])
    async with await H2Client.connect(chain.proxy.address, tls=context) as client:
        websocket = await client.open("/")
        for message in ("hello", os.urandom(1 << 20)):
            websocket.send(message)
            assert await websocket.recv() == message
        websocket.close(1000)
        await websocket.closed()

    await chain.app.ended()


async def _send_numbers(send: object) -> None:
    assert callable(send)
    for number in range(200):
        await send(str(number))
