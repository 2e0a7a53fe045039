"""WebSocket clients that send numbers and want them back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from websockets.asyncio.client import connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.frames import CloseCode

from tests.support.load.target import LIMIT, Failed, client_tls

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

    from tests.support.load.counts import Counts
    from tests.support.load.target import Front, Target

__all__ = ["echo", "open_websocket"]


async def open_websocket(target: Target, front: Front = "plain") -> ClientConnection:
    """Open a WebSocket.

    Args:
        target: The server.
        front: Which of its addresses.

    Raises:
        Failed: If that is not possible.
    """
    try:
        # The keep-alive pings of the library would mix with what is counted.
        if front == "uds":
            return await unix_connect(
                target.uds, "ws://localhost/ws", ping_interval=None, open_timeout=LIMIT
            )
        tls = front == "tls"
        return await connect(
            f"wss://{target.tls}/ws" if tls else f"ws://{target.plain}/ws",
            ssl=client_tls(target.ca, "http/1.1") if tls else None,
            ping_interval=None,
            open_timeout=LIMIT,
            proxy=None,
        )
    except (OSError, InvalidHandshake) as error:
        raise Failed.of("websocket handshake", error) from error


async def echo(
    target: Target, counts: Counts, stop: asyncio.Event, front: Front = "plain", pace: float = 0.05
) -> None:
    """Send numbers over one WebSocket as long as it is open; then over the next.

    Args:
        target: The server.
        counts: Where everything is counted.
        stop: Ends it.
        front: Which address.
        pace: Seconds between two numbers.
    """
    while not stop.is_set():
        counts.connections += 1
        try:
            async with await open_websocket(target, front) as socket:
                await _talk(socket, counts, stop, pace)
                return
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd is not None else None
            if code == CloseCode.GOING_AWAY:
                counts.reconnects += 1
            else:
                cause = closed.__cause__
                counts.resets += isinstance(cause, ConnectionResetError | BrokenPipeError)
                counts.fail(f"websocket closed, code {code}", repr(cause))
        except TimeoutError:
            counts.fail("websocket: no echo")
        except Failed as failure:
            failure.count(counts)
            await asyncio.sleep(pace)


async def _talk(socket: ClientConnection, counts: Counts, stop: asyncio.Event, pace: float) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        async with asyncio.timeout(LIMIT):
            await socket.send(f"number {number}")
            answer = await socket.recv()
        if answer == f"number {number}":
            counts.requests += 1
        else:
            counts.fail("websocket: wrong echo", (number, answer))
        await asyncio.sleep(pace)
