"""An ASGI application in a proxy whose callbacks are tested without sockets, and what it needs of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from pingora_core.apps.load_shedding import LoadShedder
from pingora_core.protocols.ssl_digest import SslDigest
from pingora_error import Error, HTTPStatus
from pingora_proxy.asgi import AsgiApplication, asgi_service
from pingora_proxy.testing import RunningService, make_session
from tests.support.client import RawClient

if TYPE_CHECKING:
    from pingora_proxy.asgi import Receive, Scope, Send

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the scheme and the body; accept what is a WebSocket.

    Args:
        scope: The request.
        receive: Gives its body.
        send: Takes the response.
    """
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        return
    if scope["type"] == "http":
        body = (await receive())["body"]
        assert isinstance(body, bytes)
        await send({"type": "http.response.start", "status": 201})
        scheme = str(scope["scheme"]).encode()
        await send({"type": "http.response.body", "body": scheme + b" " + body})


async def test_a_mount_is_tested_without_sockets() -> None:
    """``serve`` takes a session of the testing kit like any other."""
    session = make_session(
        "POST", "/api", [("Host", "a.test")], b"body", tls=SslDigest("suite", "TLSv1.3")
    )
    application = AsgiApplication(echo)
    await application.serve(session)
    assert session.sent is not None
    assert (session.sent.status, session.sent.text) == (201, "https body")
    assert application.failures == 0


async def test_no_tunnel_leads_into_an_application() -> None:
    """CONNECT is refused, wherever it comes from."""
    session = make_session("CONNECT", "a.test:443", [("Host", "a.test:443")])
    with pytest.raises(Error, match="no tunnels") as refused:
        await AsgiApplication(echo).serve(session)
    assert refused.value.etype == HTTPStatus(405)


async def test_without_the_extra_websockets_are_a_501(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the server is told what is missing; HTTP goes on."""
    monkeypatch.setitem(sys.modules, "pingora_proxy.asgi.websocket", None)
    async with (
        RunningService(asgi_service(echo)) as running,
        await RawClient.connect(running.address) as client,
    ):
        await client.send(HANDSHAKE)
        assert (await client.read_response()).status == 501


async def test_a_websocket_holds_no_place_among_the_requests() -> None:
    """Once it is accepted, however long it lasts."""
    shedder = LoadShedder(1)
    service = asgi_service(echo, load_shedder=shedder)
    async with (
        RunningService(service) as running,
        await RawClient.connect(running.address) as socket,
        await RawClient.connect(running.address) as client,
    ):
        await socket.send(HANDSHAKE)
        await socket.read_head()
        assert shedder.in_flight == 0
        await client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert (await client.read_response()).status == 201
