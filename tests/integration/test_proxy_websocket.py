"""WebSockets through the proxy, with a library that knows nothing of it on both ends."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from tests.support.proxy import RigProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from websockets.asyncio.server import Server, ServerConnection

    from tests.support.proxy import RigContext, RunningProxy


async def talk(connection: ServerConnection) -> None:
    """Echo; ``close`` and ``abort`` end the connection from this side."""
    async for message in connection:
        if message == "close":
            await connection.close(4001, "as you wish")
            return
        if message == "abort":
            connection.transport.abort()
            return
        await connection.send(message)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A websockets server."""
    async with serve(talk, "127.0.0.1", 0, max_size=None, subprotocols=None) as running:
        yield running


@pytest.fixture
def app(server: Server) -> RigProxy:
    """The proxy application in front of ``server``."""
    host, port = next(iter(server.sockets)).getsockname()
    return RigProxy(f"{host}:{port}")


@pytest.fixture
async def url(proxy: RunningProxy[RigContext]) -> str:
    """Where clients connect."""
    return f"ws://{proxy.address}/chat"


async def test_messages_of_all_sizes(url: str) -> None:
    """Text and bytes, empty to several mebibytes, with and without compression, come back."""
    for compression in ("deflate", None):
        async with connect(url, max_size=None, compression=compression) as client:
            for message in ("", "grüße", b"\x00\xff", "x" * 70_000, os.urandom(3 << 20)):
                await client.send(message)
                assert await client.recv() == message


async def test_many_messages_in_both_directions_at_once(url: str) -> None:
    """Sending and receiving do not wait for each other."""
    async with connect(url) as client:

        async def write() -> None:
            for number in range(500):
                await client.send(str(number))

        writing = asyncio.create_task(write())
        received = [await client.recv() for _ in range(500)]
        await writing

    assert received == [str(number) for number in range(500)]


async def test_ping_passes(url: str) -> None:
    """Control frames are bytes like any other."""
    async with connect(url) as client:
        latency = await (await client.ping(b"payload"))

    assert latency >= 0


async def test_server_closes(url: str, app: RigProxy) -> None:
    """The server's closing handshake reaches the client with code and reason."""
    async with connect(url) as client:
        await client.send("close")
        with pytest.raises(ConnectionClosed) as caught:
            await client.recv()

    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4001, "as you wish")
    assert (await app.ended()).status == 101


async def test_server_aborts(url: str, app: RigProxy) -> None:
    """A server that vanishes takes the client's connection with it."""
    async with connect(url) as client:
        await client.send("abort")
        with pytest.raises(ConnectionClosedError):
            await client.recv()

    await app.ended()


async def test_client_closes(url: str, app: RigProxy, server: Server) -> None:
    """The client's closing handshake reaches the server, and both connections end."""
    async with connect(url) as client:
        await client.send("hello")
        await client.recv()
        await client.close(4002, "bye")

    ending = await app.ended()
    assert (ending.status, client.close_code) == (101, 4002)
    assert not server.connections


async def test_client_aborts(url: str, app: RigProxy, server: Server) -> None:
    """A client that vanishes takes the server's connection with it."""
    async with connect(url) as client:
        await client.send("hello")
        await client.recv()
        client.transport.abort()

        await app.ended()


async def test_refused_handshake_is_an_ordinary_response(
    server: Server, url: str, app: RigProxy
) -> None:
    """A handshake that the server refuses shows the server's status."""
    with pytest.raises(InvalidStatus) as caught:
        await connect(url, additional_headers={"Sec-WebSocket-Version": "12"})

    assert caught.value.response.status_code in {400, 426}
    assert (await app.ended()).status == caught.value.response.status_code
