"""WebSockets and other tunnels through a proxy that stops: they go on, and are then ended properly."""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from pingora_core.apps import HttpServerOptions
from pingora_core.conf import ServerConf
from pingora_core.listeners.tls import TlsSettings
from pingora_core.protocols.tls import ALPN
from pingora_core.upstreams import HttpPeer
from pingora_error import ErrorType
from tests.support.certificates import CertificateAuthority
from tests.support.h2_websocket import H2Client
from tests.support.proxy import RigProxy, RunningProxy
from tests.support.puppet import Puppet
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from websockets.asyncio.client import ClientConnection
    from websockets.asyncio.server import Server, ServerConnection

    from pingora_error import Error
    from pingora_proxy import Session
    from tests.support.client import RawClient
    from tests.support.origin import Origin
    from tests.support.proxy import RigContext

STOPPED = (1001, "server is shutting down")


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


@dataclass(slots=True)
class Talker:
    """A WebSocket server's handler, and how its connections have ended.

    Attributes:
        closes: Code and reason that came from the proxy.
        received: Messages.
    """

    closes: list[tuple[int, str] | None] = field(default_factory=list)
    received: list[str | bytes] = field(default_factory=list)

    async def __call__(self, connection: ServerConnection) -> None:
        """Echo; ``flood`` sends for ever."""
        try:
            async for message in connection:
                self.received.append(message)
                if message == "flood":
                    while True:
                        await connection.send(os.urandom(3000))
                await connection.send(message)
        except ConnectionClosed:
            pass
        finally:
            close = connection.protocol.close_rcvd
            self.closes.append(None if close is None else (close.code, close.reason))


@pytest.fixture
def talker() -> Talker:
    """What the server does."""
    return Talker()


@pytest.fixture
async def server(talker: Talker) -> AsyncIterator[Server]:
    """A websockets server."""
    async with serve(talker, "127.0.0.1", 0, max_size=None) as running:
        yield running


@dataclass(frozen=True, slots=True)
class Rig:
    """A proxy in front of the server."""

    talker: Talker
    app: NotingProxy
    proxy: RunningProxy[RigContext]

    @property
    def url(self) -> str:
        return f"ws://{self.proxy.address}/chat"


def over_h2(address: str) -> HttpPeer:
    peer = HttpPeer(address)
    peer.options.alpn = ALPN.H2
    return peer


@pytest.fixture(params=["h1 upstream", "h2 upstream"])
async def ws(request: pytest.FixtureRequest, server: Server, talker: Talker) -> AsyncIterator[Rig]:
    """The proxy under test, and where its upstream is to speak HTTP/2 another one behind it."""
    host, port = next(iter(server.sockets)).getsockname()
    address = f"{host}:{port}"
    options = HttpServerOptions(h2c=True)
    async with AsyncExitStack() as stack:
        app = NotingProxy(address)
        if request.param == "h2 upstream":
            behind = RunningProxy(RigProxy(address), server_options=options)
            await stack.enter_async_context(behind)
            app = NotingProxy(lambda _session: over_h2(behind.address))
        proxy = RunningProxy(app, server_options=options)
        await stack.enter_async_context(proxy)
        yield Rig(talker, app, proxy)


async def close_of(client: ClientConnection) -> tuple[int, str]:
    """Read on until the proxy closes; code and reason."""
    with suppress(ConnectionClosed):
        while True:
            await client.recv()
    close = client.protocol.close_rcvd
    assert close is not None
    return close.code, close.reason


async def assert_noted(ws: Rig, count: int = 1) -> None:
    for number in range(count):
        ending = await ws.app.ended(number + 1)
        assert ending.error is None
    assert ws.app.notes == ["the server stops: WebSocket closed with 1001"] * count


async def test_a_websocket_goes_on_until_streams_are_ended(ws: Rig) -> None:
    """The stop alone changes nothing; then either end is told in its own language."""
    async with connect(ws.url) as client:
        ws.proxy.begin_shutdown()
        await client.send("still here")
        assert await client.recv() == "still here"

        ws.proxy.end_streams()
        assert await close_of(client) == STOPPED
        await eventually(lambda: ws.talker.closes)

    assert ws.talker.closes == [STOPPED]
    await assert_noted(ws)
    await ws.proxy.ended()


async def test_a_websocket_over_http2_is_ended_the_same_way(ws: Rig) -> None:
    """The stream ends after the Close, then the connection."""
    async with await H2Client.connect(ws.proxy.address) as client:
        websocket = await client.open("/chat")
        websocket.send("hello")
        assert await websocket.recv() == "hello"

        ws.proxy.end_streams()
        close = await websocket.closed()
        await ws.proxy.ended()

    assert close is not None
    assert (close.code, close.reason) == STOPPED
    assert websocket.is_ended
    assert websocket.reset_code in {None, 0}
    assert ws.talker.closes == [STOPPED]
    await assert_noted(ws)


async def test_many_messages_on_their_way_are_not_broken(ws: Rig) -> None:
    """Whatever arrives before the Close is whole, in both directions."""
    async with (
        connect(ws.url, max_size=None, compression=None) as client,
        connect(ws.url, max_size=None, compression=None) as other,
    ):
        await client.send("flood")
        for _ in range(50):
            assert len(await client.recv()) == 3000

        async def flood() -> None:
            while True:
                await other.send(b"x" * 3000)

        flooding = asyncio.create_task(flood())
        # A message that is cut would be a protocol error and another code.
        leaving = asyncio.gather(close_of(client), close_of(other))
        await eventually(lambda: len(ws.talker.received) > 20)
        ws.proxy.end_streams()
        closes = await leaving
        await asyncio.wait((flooding,))
        assert isinstance(flooding.exception(), ConnectionClosed)
        await eventually(lambda: len(ws.talker.closes) == 2)

    assert set(closes) == {STOPPED}
    assert ws.talker.closes == [STOPPED, STOPPED]
    assert {len(message) for message in ws.talker.received} == {5, 3000}
    await assert_noted(ws, 2)


async def test_a_websocket_that_comes_late_is_ended_at_once(ws: Rig) -> None:
    """One whose handshake is answered after the end of streams gets its Close right away."""
    async with asyncio.timeout(30):
        gate = asyncio.Event()
        chosen = ws.app.upstream_peer

        async def hold(session: Session, ctx: RigContext) -> HttpPeer:
            await gate.wait()
            return await chosen(session, ctx)

        ws.app.upstream_peer = hold  # type: ignore[method-assign]  # for this proxy only
        connecting = asyncio.create_task(open_client(ws.url))
        await eventually(lambda: len(ws.app.endings) == 0 and connecting)
        await asyncio.sleep(0.02)
        ws.proxy.end_streams()
        gate.set()
        async with await connecting as client:
            assert await close_of(client) == STOPPED


async def open_client(url: str) -> ClientConnection:
    return await connect(url)


async def test_over_tls_on_both_sides(talker: Talker, tmp_path: Path) -> None:
    """Where no direction can be ended alone the closing handshake is all there is, and enough."""
    authority = CertificateAuthority(tmp_path)
    issued = authority.issue("localhost", "127.0.0.1")
    trust = ssl.create_default_context(cafile=str(authority.cert_path))
    async with serve(talker, "127.0.0.1", 0, ssl=issued.server_context()) as server:
        host, port = next(iter(server.sockets)).getsockname()
        app = NotingProxy(lambda _session: HttpPeer(f"{host}:{port}", tls=True, sni="localhost"))
        conf = ServerConf(ca_file=str(authority.cert_path))
        proxy = RunningProxy(app, conf=conf, listen=())
        settings = TlsSettings.intermediate(issued.chain_path, issued.key_path)
        proxy.service.add_tls_with_settings("127.0.0.1:0", None, settings)
        async with proxy, connect(f"wss://{proxy.address}/", ssl=trust) as client:
            await client.send("hello")
            assert await client.recv() == "hello"
            proxy.end_streams()
            assert await close_of(client) == STOPPED
            await eventually(lambda: talker.closes)
            await proxy.ended()

    assert talker.closes == [STOPPED]
    assert (await app.ended()).error is None


# ------------------------------------------------------------------- byte by byte

_UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: %b\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)
_SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n"
_CLOSE = b"\x88\x19\x03\xe9server is shutting down"


@pytest.fixture
def app(origin: Origin) -> NotingProxy:
    """The proxy application in front of ``origin``."""
    return NotingProxy(origin)


async def upgraded(
    client: RawClient, origin: Origin, *, protocol: bytes = b"websocket", first: bytes = b""
) -> Puppet:
    """Switch protocols; the origin then does nothing but what the test says."""
    origin.handler = puppet = Puppet()
    await client.send(_UPGRADE % protocol)
    await puppet.send(_SWITCHED % protocol + first)
    head = await client.read_head()
    assert head.start_line.startswith("HTTP/1.1 101 ")
    return puppet


def unmasked(data: bytes) -> tuple[bytes, bytes]:
    """Head and payload of a masked control frame."""
    assert data[1] & 0x80
    key = data[2:6]
    return data[:1], bytes(byte ^ key[index % 4] for index, byte in enumerate(data[6:]))


async def test_a_frame_that_is_half_through_is_completed_first(
    client: RawClient, origin: Origin, app: NotingProxy, proxy: RunningProxy[RigContext]
) -> None:
    """The Close comes behind it, in each direction for itself; later frames are dropped."""
    message = Frame(Opcode.BINARY, b"m" * 300).serialize(mask=False)
    upstream = await upgraded(client, origin, first=message[:100])
    assert await client.receive_exactly(100) == message[:100]

    proxy.end_streams()
    # The other direction was between two frames: the upstream is told at once.
    told = await upstream.receive_exactly(6 + 25)
    await upstream.send(message[100:] + message)
    rest = await client.receive_exactly(204 + len(_CLOSE))
    await upstream.send(_CLOSE)
    await client.send(Frame(Opcode.CLOSE, b"\x03\xe9").serialize(mask=True))

    assert unmasked(told) == (b"\x88", b"\x03\xe9server is shutting down")
    assert rest == message[100:] + _CLOSE
    assert await upstream.receive() == b""
    upstream.close()
    assert await client.receive() == b""
    assert (await app.ended()).error is None
    await origin.all_closed()


async def test_peers_that_do_not_answer_are_waited_for_a_moment(
    client: RawClient, origin: Origin, app: NotingProxy, proxy: RunningProxy[RigContext]
) -> None:
    """Then the connections end in order, without a reset, and it was no error."""
    upstream = await upgraded(client, origin)
    proxy.end_streams()

    assert await client.receive_exactly(len(_CLOSE)) == _CLOSE
    assert await client.receive() == b""
    assert len(await upstream.receive_exactly(31)) == 31
    assert await upstream.receive() == b""
    assert (await app.ended()).error is None
    assert app.notes == ["the server stops: WebSocket closed with 1001"]


async def test_a_frame_that_is_never_completed_is_cut(
    client: RawClient, origin: Origin, app: NotingProxy, proxy: RunningProxy[RigContext]
) -> None:
    """Where the rest does not come in time, no Close is put into the midst, and it is an error."""
    message = Frame(Opcode.BINARY, b"m" * 300).serialize(mask=False)
    await upgraded(client, origin, first=message[:100])
    assert await client.receive_exactly(100) == message[:100]

    proxy.end_streams()

    assert await client.receive() == b""
    error = (await app.ended()).error
    assert error is not None
    assert error.etype is ErrorType.CONNECTION_CLOSED
    assert "cut off" in str(error)
    assert app.notes == [None]


async def test_a_close_that_has_passed_is_not_followed_by_another(
    client: RawClient, origin: Origin, app: NotingProxy, proxy: RunningProxy[RigContext]
) -> None:
    """A client that was leaving anyway: the upstream hears its Close only."""
    goodbye = Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True)
    upstream = await upgraded(client, origin)
    await client.send(goodbye)
    assert await upstream.receive_exactly(len(goodbye)) == goodbye

    proxy.end_streams()
    assert await client.receive_exactly(len(_CLOSE)) == _CLOSE
    await upstream.send(_CLOSE)

    assert await upstream.receive() == b""
    upstream.close()
    assert await client.receive() == b""
    assert (await app.ended()).error is None


async def test_a_peer_that_resets_after_its_close_is_no_error(
    client: RawClient, origin: Origin, app: NotingProxy, proxy: RunningProxy[RigContext]
) -> None:
    """Once both were told, how they leave harms nobody."""
    upstream = await upgraded(client, origin)
    proxy.end_streams()
    assert await client.receive_exactly(len(_CLOSE)) == _CLOSE
    client.reset()
    upstream.reset()

    assert (await app.ended()).error is None


async def test_a_client_that_reads_nothing_is_cut_in_time(
    origin: Origin, app: NotingProxy, proxy: RunningProxy[RigContext]
) -> None:
    """It cannot be told anything; the stop does not wait for its write timeout."""
    frames = Frame(Opcode.BINARY, bytes(60_000)).serialize(mask=False) * 400
    async with await proxy.connect(receive_buffer=4096) as client:
        upstream = await upgraded(client, origin)
        sending = asyncio.create_task(upstream.send(frames))
        await upstream.stalled()
        proxy.end_streams()

        assert (await app.ended()).error is not None
        await proxy.ended()
        sending.cancel()
        await asyncio.wait((sending,))


# ----------------------------------------------------------------- other protocols


async def test_another_protocol_is_half_closed_and_may_say_its_last_words(
    client: RawClient, origin: Origin, app: NotingProxy, proxy: RunningProxy[RigContext]
) -> None:
    """Nothing is put into what is not understood; the upstream sees the end and ends in its turn."""
    upstream = await upgraded(client, origin, protocol=b"other")
    await client.send(b"request")
    assert await upstream.receive_exactly(7) == b"request"

    proxy.end_streams()
    assert await upstream.receive() == b""
    await upstream.send(b"last words")
    upstream.close()

    assert await client.receive_exactly(10) == b"last words"
    assert await client.receive() == b""
    assert (await app.ended()).error is None
    assert app.notes == ["the server stops: tunnel closed"]


@pytest.mark.parametrize("is_sending", [False, True])
async def test_a_tunnel_whose_upstream_stays_is_closed_in_time(
    client: RawClient,
    origin: Origin,
    app: NotingProxy,
    proxy: RunningProxy[RigContext],
    *,
    is_sending: bool,
) -> None:
    """It is an error only if something was on its way."""
    upstream = await upgraded(client, origin, protocol=b"other")
    proxy.end_streams()
    if is_sending:
        await upstream.send(b"more")
        assert await client.receive_exactly(4) == b"more"

    assert await client.receive() == b""
    assert ((await app.ended()).error is not None) == is_sending
