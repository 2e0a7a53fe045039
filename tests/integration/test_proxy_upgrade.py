"""Upgrades: after a 101 both sides exchange raw bytes, and the end of one is the end of the other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.origin_steps import hang, send, sequence
from tests.support.proxy import RigContext, RunningProxy

if TYPE_CHECKING:
    from tests.support.client import RawClient
    from tests.support.origin import Origin
    from tests.support.proxy import RigProxy

Proxy = RunningProxy[RigContext]


_UPGRADE = b"Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"


async def test_upgrade_smoke(client: RawClient, origin: Origin) -> None:
    """A 101 passes with its fields, and so do the bytes behind it."""
    await client.send(b"GET /upgrade HTTP/1.1\r\n" + _UPGRADE + b"\r\n")
    head = await client.read_head()
    payload = await client.receive_exactly(5)

    assert head.start_line == "HTTP/1.1 101 Switching Protocols"
    assert (head.get("upgrade"), head.get("connection")) == ("websocket", "Upgrade")
    assert payload == b"hello"
    assert origin.requests[0].get("upgrade") == "websocket"
    assert await client.is_closed_by_server()


async def test_upgrade_body(client: RawClient) -> None:
    """A request for an upgrade may have a body."""
    await client.send(
        b"POST /upgrade_echo_body HTTP/1.1\r\n" + _UPGRADE + b"Content-Length: 5\r\n\r\nabcde"
    )
    head = await client.read_head()

    assert head.start_line.startswith("HTTP/1.1 101 ")
    assert await client.receive_exactly(5) == b"abcde"


async def test_upgrade_body_after_101(client: RawClient) -> None:
    """Body, then the other protocol's bytes: all pass in order, in both directions, at any size."""
    large = bytes(range(256)) * 4096
    await client.send(
        b"POST /upgrade_echo_body HTTP/1.1\r\n" + _UPGRADE + b"Content-Length: 5\r\n\r\nabcdeXY"
    )
    await client.read_head()
    first = await client.receive_exactly(7)
    sending = asyncio.create_task(client.send(large))
    echoed = await client.receive_exactly(len(large))
    await sending

    assert first == b"abcdeXY"
    assert echoed == large


async def test_refused_upgrade_leaves_an_ordinary_exchange(client: RawClient) -> None:
    """An upstream that does not upgrade answers as usual, and the connection goes on."""
    await client.send(b"GET /refuse_upgrade HTTP/1.1\r\n" + _UPGRADE + b"\r\n")
    refused = await client.read_response()
    again = await client.request("GET", "/")

    assert (refused.status, refused.body) == (200, b"not today\n")
    assert again.status == 200


async def test_unasked_101_is_an_error(client: RawClient, origin: Origin) -> None:
    """A 101 to a request that asked for no upgrade is a malformed response."""
    origin.handler = sequence(
        send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), hang
    )
    response = await client.request("GET", "/")

    assert response.status == 502
    await origin.all_closed()


async def test_101_with_a_length_is_still_raw(client: RawClient, origin: Origin) -> None:
    """Framing fields in a 101 mean nothing and are not passed on."""
    origin.handler = sequence(
        send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
            b"Content-Length: 2\r\n\r\nhello"
        ),
        hang,
    )
    await client.send(b"GET / HTTP/1.1\r\n" + _UPGRADE + b"\r\n")
    head, _ = await client.read_final_head()
    if head.start_line.startswith("HTTP/1.1 101 "):
        assert head.get("content-length") is None
        assert await client.receive_exactly(5) == b"hello"
    else:
        assert head.start_line.startswith("HTTP/1.1 502 ")


async def test_upgrade_to_cleartext_http2_is_not_forwarded(
    client: RawClient, origin: Origin
) -> None:
    """A tunnel of HTTP/2 requests past all filters cannot be asked for (RFC 9113 section 3.1)."""
    await client.send(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
    )
    response = await client.read_response()

    assert response.status == 200
    assert origin.requests[0].get("upgrade") is None
    assert origin.requests[0].get("http2-settings") is None


@pytest.mark.parametrize(
    "end", ["client closes", "client resets", "origin closes", "origin resets"]
)
async def test_ws_either_side_ends_both(
    client: RawClient, app: RigProxy, origin: Origin, end: str
) -> None:
    """However one side of an upgraded connection ends, the other one ends, too."""
    await client.send(b"GET /upgrade_echo_body HTTP/1.1\r\n" + _UPGRADE + b"\r\nping")
    await client.read_head()
    assert await client.receive_exactly(4) == b"ping"

    match end:
        case "client closes":
            client.half_close()
        case "client resets":
            client.reset()
        case "origin closes":
            origin.connections[0].close()
        case _:
            origin.connections[0].reset()

    await app.ended()
    await origin.all_closed()
    if not end.startswith("client resets"):
        assert await client.is_closed_by_server()
