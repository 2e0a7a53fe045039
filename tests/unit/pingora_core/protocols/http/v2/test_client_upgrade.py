"""Tunnels on a stream: CONNECT, and WebSockets by extended CONNECT (RFC 8441)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.http.task import HeaderTask, UpgradedBodyTask
from pingora_error import Error, ErrorType, RetryType
from pingora_http import RequestHeader
from tests.support.h2_library_origin import LibraryOrigin
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
    from tests.support.h2_library_origin import LibraryStream

pytestmark = pytest.mark.usefixtures("no_leaks")

# RFC 6455 section 1.3.
_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.fixture(params=["h2", "jh2"])
def engine(request: pytest.FixtureRequest) -> EngineName:
    """Each test runs on both libraries."""
    chosen: EngineName = request.param
    return chosen


def websocket(target: str = "/chat") -> RequestHeader:
    """As HTTP/1 asks for one."""
    return request(
        "GET",
        target,
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Key", _KEY),
        ("Sec-WebSocket-Version", "13"),
    )


async def shout(stream: LibraryStream) -> None:
    """Accept, and answer in capitals until the client has ended."""
    stream.head(200, (b"sec-websocket-protocol", b"chat"))
    sent = 0
    while not stream.ended:
        await stream.wait()
        piece = stream.received[sent:]
        sent += len(piece)
        if piece:
            await stream.data(piece.upper())
    await stream.data(b"", end=True)


async def test_websocket(engine: EngineName) -> None:
    """A GET with Upgrade leaves as extended CONNECT; the 200 comes back as the 101 of HTTP/1."""
    async with (
        LibraryOrigin(shout, extended_connect=True) as origin,
        connector(engine) as upstreams,
    ):
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        submit(session, websocket())
        task = await session.read_task()
        assert isinstance(task, HeaderTask)
        assert not task.end
        head = task.header
        assert head.status == 101
        assert head.get("upgrade") == "websocket"
        assert head.get("connection") == "Upgrade"
        assert head.get("sec-websocket-accept") == _ACCEPT
        assert head.get("sec-websocket-protocol") == "chat"
        assert session.response_header is head

        session.send_upgraded(b"hello")
        piece = await session.read_task()
        assert isinstance(piece, UpgradedBodyTask)
        assert piece.data == b"HELLO"
        assert session.finish_upgraded()
        assert (await answer_of(session)).body == b""
        assert session.response_done
        upstreams.release_http_session(session, peer)

        (seen,) = origin.requests
        assert seen.fields[:5] == [
            (b":method", b"CONNECT"),
            (b":protocol", b"websocket"),
            (b":scheme", b"http"),
            (b":authority", b"example.com"),
            (b":path", b"/chat"),
        ]
        assert seen[b"upgrade"] is None
        assert seen[b"connection"] is None
        assert seen[b"sec-websocket-key"] is None
        assert seen[b"sec-websocket-version"] == b"13"
        assert seen.reset_code is None
        assert upstreams.http2.pool.idle_count == 1


async def test_a_refused_websocket(engine: EngineName) -> None:
    """Another status is an ordinary response, and this side's direction ends."""

    async def handler(stream: LibraryStream) -> None:
        stream.head(403)
        await stream.data(b"no", end=True)

    async with (
        LibraryOrigin(handler, extended_connect=True) as origin,
        connector(engine) as upstreams,
    ):
        peer = h2c_peer(origin.address)
        answer = await ask(upstreams, peer, websocket())
        assert (answer.status, answer.body) == (403, b"no")
        await eventually(lambda: origin.requests[0].ended)
        assert origin.requests[0].reset_code is None


async def test_upstream_without_extended_connect(engine: EngineName) -> None:
    """H2_DOWNGRADE before anything is sent."""
    async with LibraryOrigin() as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        with pytest.raises(Error) as caught:
            submit(session, websocket())
        assert caught.value.etype is ErrorType.H2_DOWNGRADE
        assert caught.value.retry is RetryType.NO_RETRY
        assert not session.request_sent
        upstreams.release_http_session(session, peer)
        assert origin.requests == []


async def test_h2c_is_no_upgrade(engine: EngineName) -> None:
    """A request that offers it goes out as the plain request that it is."""
    async with LibraryOrigin(extended_connect=True) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        header = request("GET", "/", ("Connection", "Upgrade"), ("Upgrade", "h2c"))
        assert (await ask(upstreams, peer, header)).status == 200
        assert origin.requests[0][b":method"] == b"GET"


async def test_connect(engine: EngineName) -> None:
    """A 2xx opens the tunnel; there is no scheme and no path."""
    async with LibraryOrigin(shout) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        header = RequestHeader("CONNECT", "example.com:443", headers=[("Host", "example.com:443")])
        submit(session, header)
        task = await session.read_task()
        assert isinstance(task, HeaderTask)
        assert task.header.status == 200
        session.send_upgraded(b"bytes")
        session.finish_upgraded()
        assert (await answer_of(session)).body == b"BYTES"
        upstreams.release_http_session(session, peer)
        assert origin.requests[0].fields == [
            (b":method", b"CONNECT"),
            (b":authority", b"example.com:443"),
        ]


async def test_a_tunnel_that_breaks(engine: EngineName) -> None:
    """A reset in a tunnel is an error: the other protocol may not have come to its end."""

    async def handler(stream: LibraryStream) -> None:
        stream.head(200)
        await stream.data(b"x")
        stream.reset(0x8)

    async with (
        LibraryOrigin(handler, extended_connect=True) as origin,
        connector(engine) as upstreams,
    ):
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        submit(session, websocket())
        error = await error_of(session)
        assert error.retry is RetryType.NO_RETRY
        with pytest.raises(Error):
            session.send_upgraded(b"late")
        upstreams.release_http_session(session, peer)
