"""gRPC through the proxy, with a library that knows nothing of it on both ends."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pingora_core.apps import HttpServerOptions
from pingora_core.conf import ServerConf
from pingora_core.listeners.tls import TlsSettings
from pingora_core.protocols.tls import ALPN
from pingora_core.upstreams import HttpPeer
from tests.support.certificates import CertificateAuthority
from tests.support.grpc_server import GrpcServer, GrpcStub, channel_to, start_poller
from tests.support.proxy import RigProxy, RunningProxy
from tests.support.waiting import eventually

import grpc  # isort: skip - after what configures it
import grpc.aio  # isort: skip

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.proxy import RigContext

# Generous: nothing here is meant to take long, but machines may be busy.
LIMIT = 60.0

pytestmark = pytest.mark.usefixtures("poller")


@dataclass(frozen=True, slots=True)
class Way:
    """A client, the proxy it calls, and the server behind it."""

    app: RigProxy
    proxy: RunningProxy[RigContext]
    stub: GrpcStub
    server: GrpcServer


@pytest.fixture(scope="module")
def poller() -> None:
    """Start what grpcio keeps for the process before anything is counted."""
    start_poller()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    """What the proxy trusts, and the client trusts."""
    return CertificateAuthority(tmp_path_factory.mktemp("certificates"))


async def open_way(
    stack: AsyncExitStack, authority: CertificateAuthority, *, down_tls: bool, up_tls: bool
) -> Way:
    certificate = authority.issue("127.0.0.1", "localhost")
    server = await stack.enter_async_context(GrpcServer(certificate if up_tls else None))

    def peer(_session: object) -> HttpPeer:
        peer = HttpPeer(server.address, tls=up_tls)
        peer.options.alpn = ALPN.H2
        return peer

    app = RigProxy(peer)
    proxy = RunningProxy(
        app,
        conf=ServerConf(ca_file=str(authority.cert_path)),
        server_options=HttpServerOptions(h2c=True),
        listen=() if down_tls else ("127.0.0.1:0",),
    )
    if down_tls:
        settings = TlsSettings.intermediate(certificate.chain_path, certificate.key_path)
        settings.enable_h2()
        proxy.service.add_tls_with_settings("127.0.0.1:0", None, settings)
    await stack.enter_async_context(proxy)
    channel = channel_to(proxy.address, authority if down_tls else None)
    await stack.enter_async_context(channel)
    return Way(app, proxy, GrpcStub(channel), server)


@pytest.fixture
async def way(authority: CertificateAuthority) -> AsyncIterator[Way]:
    """HTTP/2 in clear on both sides."""
    async with AsyncExitStack() as stack:
        yield await open_way(stack, authority, down_tls=False, up_tls=False)


@pytest.fixture(
    params=[(False, False), (True, False), (True, True)],
    ids=["h2c to h2c", "TLS to h2c", "TLS to TLS"],
)
async def any_way(
    request: pytest.FixtureRequest, authority: CertificateAuthority
) -> AsyncIterator[Way]:
    """HTTP/2 with and without TLS."""
    down_tls, up_tls = request.param
    async with AsyncExitStack() as stack:
        yield await open_way(stack, authority, down_tls=down_tls, up_tls=up_tls)


async def numbered(count: int, size: int = 0) -> AsyncIterator[bytes]:
    for number in range(count):
        yield b"%d," % number + b"x" * size


# ---------------------------------------------------------------------- the four kinds


async def test_unary(any_way: Way) -> None:
    """A message goes, a message comes back, and the call is OK."""
    call = any_way.stub.echo(b"hello", timeout=LIMIT)

    assert await call == b"hello"
    assert await call.code() is grpc.StatusCode.OK


async def test_client_streaming(any_way: Way) -> None:
    """Many messages go, one comes back."""
    call = any_way.stub.join(numbered(100), timeout=LIMIT)

    assert await call == b"".join(b"%d," % number for number in range(100))


async def test_server_streaming(any_way: Way) -> None:
    """One message goes, many come back."""
    call = any_way.stub.count(b"10*100", timeout=LIMIT)

    messages = [message async for message in call]

    assert messages == [b"%d:" % number + b"x" * 10 for number in range(100)]
    assert await call.code() is grpc.StatusCode.OK


async def test_bidirectional_streaming(any_way: Way) -> None:
    """Each answer arrives before the next message is sent: nothing is held back."""
    call = any_way.stub.chat(timeout=LIMIT)

    for number in range(20):
        await call.write(b"%d" % number)
        assert await call.read() == b"%d" % number
    await call.done_writing()

    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


# --------------------------------------------------------------------------- metadata


async def test_metadata_travel_both_ways(any_way: Way) -> None:
    """Text and binary metadata reach the server and come back in head and trailers."""
    sent = (("x-text", "a, b"), ("x-data-bin", b"\x00\xff\x80"), ("x-other", "1"))
    call = any_way.stub.echo(b"", metadata=sent, timeout=LIMIT)

    await call
    initial = dict(await call.initial_metadata())
    trailing = dict(await call.trailing_metadata())

    for name, value in sent:
        assert any_way.server.metadata[0][name] == value
        assert initial[name] == value
        assert trailing[f"t{name}"] == value


@pytest.mark.parametrize("after_head", [False, True], ids=["trailers only", "with a head"])
@pytest.mark.parametrize("code", [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAUTHENTICATED])
async def test_statuses_and_details(way: Way, code: grpc.StatusCode, after_head: bool) -> None:
    """Status, details with characters that must be encoded, and trailers arrive as sent."""
    details = "50 % of “grüße”\r\nwere lost"
    number: int = code.value[0]
    metadata = [("code", str(number)), *([("after-head", "1")] if after_head else [])]
    call = way.stub.fail(details.encode(), metadata=metadata, timeout=LIMIT)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call

    assert (caught.value.code(), caught.value.details()) == (code, details)
    assert dict(caught.value.trailing_metadata())["tx-why"] == "asked"


async def test_an_unknown_method_is_the_servers_answer(way: Way) -> None:
    """What the server does not have is UNIMPLEMENTED, told by the server."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await way.stub.nothing(b"", timeout=LIMIT)

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# ---------------------------------------------------------------- deadlines, the end


async def test_a_deadline_reaches_the_server(way: Way) -> None:
    """The server knows the client's deadline, and the call ends on both sides when it passes."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await way.stub.hang(b"", timeout=0.3)

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: way.server.hanging == 0, "the end of the call on the server")
    assert [0 < (seconds or 9) <= 0.3 for seconds in way.server.remaining] in ([True], [])
    await way.app.ended()


async def test_a_client_cancels(way: Way) -> None:
    """A call that the client cancels is cancelled on the server; the connection lives on."""
    call = way.stub.hang(b"", timeout=LIMIT)
    await asyncio.wait((asyncio.ensure_future(call.initial_metadata()),), timeout=0)
    await eventually(lambda: way.server.hanging == 1, "the call on the server")

    call.cancel()

    await eventually(lambda: way.server.cancelled == 1, "the cancellation on the server")
    assert (await way.app.ended()).error is not None
    assert await way.stub.echo(b"next", timeout=LIMIT) == b"next"
    assert len(way.proxy.service.listeners.endpoints) == 1


async def test_a_client_leaves_a_stream(way: Way) -> None:
    """A client that stops reading a stream of messages stops the server's sending."""
    call = way.stub.count(b"1000*1000000", timeout=LIMIT)
    assert await call.read() == b"0:" + b"x" * 1000

    call.cancel()

    assert (await way.app.ended()).error is not None


async def test_a_server_that_goes_away(way: Way) -> None:
    """A call that was under way when its server stopped is UNAVAILABLE."""
    call = way.stub.hang(b"", timeout=LIMIT)
    waiting = asyncio.ensure_future(call.code())
    await eventually(lambda: way.server.hanging == 1, "the call on the server")

    await way.server.stop()

    assert await waiting is grpc.StatusCode.UNAVAILABLE
    await way.app.ended()


async def test_a_server_that_cannot_be_reached(way: Way) -> None:
    """Without a server behind the proxy calls are UNAVAILABLE."""
    await way.server.stop()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await way.stub.echo(b"", timeout=LIMIT)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


# ------------------------------------------------------------------------------- size


async def test_large_messages(any_way: Way) -> None:
    """Messages far larger than every window pass in both directions."""
    message = bytes(range(256)) * (6 << 12)

    answer = await any_way.stub.echo(message, timeout=LIMIT)

    assert answer == message


async def test_large_streams(way: Way) -> None:
    """Many messages flow in both directions at the same time."""
    call = way.stub.chat(numbered(100, 50_000), timeout=LIMIT)

    sizes = [len(message) async for message in call]

    assert sizes == [50_000 + len(b"%d," % number) for number in range(100)]


async def test_many_calls_on_one_connection(way: Way) -> None:
    """Calls at the same time share the client's connection and get their own answers."""
    echo = way.stub.echo
    calls = [echo(b"%d" % number, timeout=LIMIT) for number in range(100)]

    answers = [await call for call in calls]

    assert answers == [b"%d" % number for number in range(100)]
    await way.app.ended(100)
    assert {ending.status for ending in way.app.endings} == {200}


async def test_a_slow_call_holds_up_no_other(way: Way) -> None:
    """A reader that stalls stalls only its own stream."""
    stalled = way.stub.count(b"100000*100", timeout=LIMIT)
    assert await stalled.read() == b"0:" + b"x" * 100_000

    assert await way.stub.echo(b"quick", timeout=LIMIT) == b"quick"

    for number in range(1, 100):
        assert await stalled.read() == b"%d:" % number + b"x" * 100_000
    assert await stalled.read() is grpc.aio.EOF
