"""Clients that go away in the middle, and requests that the origin does not answer properly.

What they get for it does not count; that the others do not suffer does.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from websockets.exceptions import ConnectionClosed

from tests.support.load.http1 import Http1Connection
from tests.support.load.http2 import Http2Connection
from tests.support.load.target import Failed, Raced
from tests.support.load.websocket import open_websocket

if TYPE_CHECKING:
    from tests.support.load.counts import Counts
    from tests.support.load.target import Front, Target

__all__ = ["abort", "ask_for_faults"]

_PACE: Final = 0.02
_RESET: Final = struct.pack("ii", 1, 0)
_HEAD: Final = b" HTTP/1.1\r\nHost: load.test\r\n"
_UPLOAD: Final = b"PUT /upload" + _HEAD + b"Content-Length: 1000000\r\n\r\n" + b"u" * 100_000
_ATTEMPTS: Final = (
    b"",
    b"GET /echo",
    b"GET /slow/1" + _HEAD + b"\r\n",
    b"GET /events" + _HEAD + b"\r\n",
    b"GET /fault/hang" + _HEAD + b"\r\n",
    _UPLOAD,
)
_FRONTS: Final[tuple[Front, ...]] = ("plain", "tls", "uds")
_FAULTS: Final = ("status", "cut", "garbage", "reset")


async def abort(target: Target, counts: Counts, stop: asyncio.Event) -> None:
    """Connect, say some of a request, and go: in order, or with a reset.

    Args:
        target: The server.
        counts: Where the attempts are counted.
        stop: Ends it.
    """
    for number in itertools.count():
        if stop.is_set():
            return
        front = _FRONTS[number % 3]
        said = _ATTEMPTS[number // 3 % len(_ATTEMPTS)]
        with suppress(Failed, OSError, RuntimeError, ssl.SSLError):
            match number % 20:
                case 18:
                    await _abort_stream(target, counts)
                case 19:
                    await _abort_websocket(target)
                case _:
                    _, writer = await target.connect(front, "http/1.1", counts)
                    writer.write(said)
                    await asyncio.sleep(_PACE)
                    if number % 2:
                        _arm_reset(writer)
                    writer.transport.abort()
        counts.requests += 1
        await asyncio.sleep(_PACE)


async def _abort_stream(target: Target, counts: Counts) -> None:
    connection = await Http2Connection.open(target, counts)
    asking = asyncio.create_task(connection.get("/slow/1"))
    await asyncio.sleep(_PACE)
    await connection.close()
    asking.cancel()
    await asyncio.wait([asking])
    if not asking.cancelled():
        asking.exception()


async def _abort_websocket(target: Target) -> None:
    websocket = await open_websocket(target)
    with suppress(ConnectionClosed):
        await websocket.send("number 1")
    websocket.transport.abort()
    await websocket.wait_closed()


def _arm_reset(writer: asyncio.StreamWriter) -> None:
    connected: socket.socket = writer.get_extra_info("socket")
    if connected.family != socket.AF_UNIX:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


async def ask_for_faults(target: Target, counts: Counts, stop: asyncio.Event) -> None:
    """Ask for what the origin breaks off, resets, or answers with garbage.

    Args:
        target: The server.
        counts: Where the attempts are counted.
        stop: Ends it.
    """
    for kind in itertools.cycle(_FAULTS):
        if stop.is_set():
            return
        with suppress(Failed, Raced):
            connection = await Http1Connection.open(target, "plain", counts)
            try:
                await connection.request("GET", f"/fault/{kind}")
            finally:
                connection.close()
        counts.requests += 1
        await asyncio.sleep(_PACE)
