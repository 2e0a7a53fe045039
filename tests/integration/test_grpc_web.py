"""gRPC-web: plain HTTP/1 clients in front of a real gRPC server."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import TYPE_CHECKING

import pytest

from pingora_core.apps import HttpServerOptions
from pingora_core.modules import GrpcWebBridge, GrpcWebBridgeBuilder
from pingora_core.protocols.tls import ALPN
from pingora_core.upstreams import HttpPeer
from tests.support.grpc_server import GrpcServer, start_poller
from tests.support.origin import Origin
from tests.support.origin_steps import reply
from tests.support.proxy import RigProxy, RunningProxy
from tests.support.wire import CHUNKED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pingora_core.modules import HttpModules
    from pingora_proxy import Session
    from tests.support.client import RawClient, Response
    from tests.support.proxy import RigContext

pytestmark = pytest.mark.usefixtures("poller")

BINARY = "application/grpc-web+proto"
TEXT = "application/grpc-web-text+proto"


class WebProxy(RigProxy):
    """The rig's proxy with the bridge."""

    def init_downstream_modules(self, modules: HttpModules) -> None:
        modules.add_module(GrpcWebBridgeBuilder())

    async def early_request_filter(self, session: Session, ctx: RigContext) -> None:
        session.downstream_modules_ctx[GrpcWebBridge].init()


@pytest.fixture(scope="module")
def poller() -> None:
    """Start what grpcio keeps for the process before anything is counted."""
    start_poller()


@pytest.fixture
async def server() -> AsyncIterator[GrpcServer]:
    """A gRPC server."""
    async with GrpcServer() as running:
        yield running


@pytest.fixture
def app(server: GrpcServer) -> RigProxy:
    """The bridging proxy in front of ``server``."""

    def peer(_session: Session) -> HttpPeer:
        peer = HttpPeer(server.address)
        peer.options.alpn = ALPN.H2
        return peer

    return WebProxy(peer)


def frame(message: bytes, flags: int = 0) -> bytes:
    return bytes([flags]) + len(message).to_bytes(4) + message


def frames_of(body: bytes) -> list[tuple[int, bytes]]:
    frames: list[tuple[int, bytes]] = []
    while body:
        size = int.from_bytes(body[1:5])
        assert len(body) >= 5 + size
        frames.append((body[0], body[5 : 5 + size]))
        body = body[5 + size :]
    return frames


def groups_of(text: bytes) -> bytes:
    """Decode base64 that may be padded after any group, as a client of gRPC-web does."""
    return b"".join(
        b64decode(text[start : start + 4], validate=True) for start in range(0, len(text), 4)
    )


def trailers_of(block: bytes) -> dict[str, str]:
    lines = block.decode().removesuffix("\r\n").split("\r\n")
    return dict(line.split(":", 1) for line in lines)


async def call(
    client: RawClient,
    method: str,
    message: bytes,
    *fields: tuple[str, str],
    content_type: str = BINARY,
) -> Response:
    body = frame(message) if content_type == BINARY else b64encode(frame(message))
    heads = (("Content-Type", content_type), ("X-Grpc-Web", "1"), *fields)
    return await client.request("POST", f"/rig.Rig/{method}", heads, body)


async def test_unary(client: RawClient, server: GrpcServer) -> None:
    """Message, metadata and trailers come back in a chunked body, whose last frame is trailers."""
    response = await call(client, "Echo", b"hello", ("x-a", "1"))

    assert response.status == 200
    assert response.framing == CHUNKED
    assert response.get("content-type") == BINARY.removesuffix("+proto")
    assert response.get("x-a") == "1"
    assert response.trailers == ()
    (flags, message), (last, block) = frames_of(response.body)
    assert (flags, message, last) == (0, b"hello", 0x80)
    trailers = trailers_of(block)
    assert (trailers["grpc-status"], trailers["tx-a"]) == ("0", "1")
    assert server.metadata[0]["x-a"] == "1"


async def test_text(client: RawClient) -> None:
    """The same in base64."""
    response = await call(client, "Echo", b"hello!", content_type=TEXT)

    assert response.get("content-type") == TEXT.removesuffix("+proto")
    (flags, message), (last, block) = frames_of(groups_of(response.body))
    assert (flags, message, last) == (0, b"hello!", 0x80)
    assert trailers_of(block)["grpc-status"] == "0"


@pytest.mark.parametrize("content_type", [BINARY, TEXT])
async def test_server_streaming(client: RawClient, content_type: str) -> None:
    """A stream of messages is one body."""
    response = await call(client, "Count", b"1000*50", content_type=content_type)

    body = response.body if content_type == BINARY else groups_of(response.body)
    frames = frames_of(body)
    assert frames[:-1] == [(0, b"%d:" % number + b"x" * 1000) for number in range(50)]
    assert trailers_of(frames[-1][1])["grpc-status"] == "0"


async def test_text_in_odd_pieces(client: RawClient) -> None:
    """Base64 with padding in the middle, cut into chunks anywhere, is decoded."""
    text = b64encode(frame(b"hello")[:4]) + b64encode(frame(b"hello")[4:])
    await client.send(
        b"POST /rig.Rig/Echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc-web-text\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    for start in range(0, len(text), 3):
        piece = text[start : start + 3]
        await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    await client.send(b"0\r\n\r\n")

    response = await client.read_response("POST")

    assert frames_of(groups_of(response.body))[0] == (0, b"hello")


async def test_a_failed_call(client: RawClient) -> None:
    """A call that fails at once has its status in the head; the connection is kept."""
    response = await call(client, "Fail", "grüße".encode(), ("code", "5"))

    assert response.status == 200
    assert response.get("grpc-status") == "5"
    assert response.get("grpc-message") == "gr%C3%BC%C3%9Fe"
    assert response.body == b""
    again = await call(client, "Echo", b"again")
    assert frames_of(again.body)[0] == (0, b"again")


async def test_malformed_text_is_refused(client: RawClient, app: RigProxy) -> None:
    """What is not base64 never reaches the server as a message."""
    fields = [("Content-Type", "application/grpc-web-text")]
    response = await client.request("POST", "/rig.Rig/Echo", fields, b"no base64!")

    assert response.status == 400
    assert "InvalidGrpcWeb" in str((await app.ended()).error)


async def test_other_requests_pass(origin: Origin) -> None:
    """The bridge leaves alone what is not gRPC-web, and answers that are not gRPC."""
    async with (
        Origin(reply(body=b"page")) as other,
        RunningProxy(WebProxy(other)) as proxy,
        await proxy.connect() as client,
    ):
        plain = await client.request("GET", "/")
        foreign = await client.request("POST", "/s/m", [("Content-Type", BINARY)], frame(b"a"))

        assert (plain.body, foreign.body) == (b"page", b"page")
        assert other.requests[1].get("content-type") == "application/grpc+proto"
        assert other.requests[1].body == frame(b"a")


async def test_over_http2_in_clear(app: RigProxy) -> None:
    """The port of native clients serves gRPC-web clients over HTTP/1 too."""
    options = HttpServerOptions(h2c=True)
    async with (
        RunningProxy(app, server_options=options) as proxy,
        await proxy.connect() as client,
    ):
        response = await call(client, "Echo", b"hello")

    assert frames_of(response.body)[0] == (0, b"hello")


async def test_no_message_at_all(client: RawClient) -> None:
    """A request without a single message is one for the server too."""
    fields = [("Content-Type", BINARY), ("Content-Length", "0")]
    response = await client.request("POST", "/rig.Rig/Join", fields)

    (flags, message), (_, block) = frames_of(response.body)
    assert (flags, message) == (0, b"")
    assert trailers_of(block)["grpc-status"] == "0"
