"""An `L4Stream` with a bare socket at its other end."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pingora_core.protocols.l4 import L4Stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["KIB", "Peer", "tcp_pair", "unix_pair", "write_until_full"]

KIB = 1024


class Peer:
    """The bare socket; its calls wait, but do not block the loop.

    Attributes:
        sock: The socket, non-blocking.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)

    async def recv(self, size: int = 65536) -> bytes:
        return await self._loop.sock_recv(self.sock, size)

    async def recv_all(self) -> bytes:
        pieces: list[bytes] = []
        while piece := await self.recv():
            pieces.append(piece)
        return b"".join(pieces)

    def end(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


@asynccontextmanager
async def tcp_pair(
    make: Callable[[asyncio.AbstractEventLoop], L4Stream] = L4Stream,
    *,
    host: str = "127.0.0.1",
    buffers: int | None = None,
) -> AsyncIterator[tuple[L4Stream, Peer]]:
    """Connect a stream to a bare socket over TCP.

    Args:
        make: Makes the stream.
        host: The loopback address.
        buffers: Size of all four kernel buffers, bytes; None for the system's.
    """
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ours = socket.socket(family)
    with socket.socket(family) as listener:
        for sock in (ours, listener):
            if buffers is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        listener.bind((host, 0))
        listener.listen()
        ours.setblocking(False)
        listener.setblocking(False)
        await loop.sock_connect(ours, listener.getsockname())
        theirs, _ = await loop.sock_accept(listener)
    peer = Peer(theirs)
    _, stream = await loop.create_connection(lambda: make(loop), sock=ours)
    try:
        yield stream, peer
    finally:
        peer.close()
        stream.abort()
        await stream.wait_closed()


@asynccontextmanager
async def unix_pair(
    make: Callable[[asyncio.AbstractEventLoop], L4Stream] = L4Stream,
) -> AsyncIterator[tuple[L4Stream, Peer]]:
    """Connect a stream to a bare socket by a Unix socket pair.

    Args:
        make: Makes the stream.
    """
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    peer = Peer(theirs)
    _, stream = await loop.create_unix_connection(lambda: make(loop), sock=ours)
    try:
        yield stream, peer
    finally:
        peer.close()
        stream.abort()
        await stream.wait_closed()


def write_until_full(stream: L4Stream) -> None:
    """Write until the stream asks for a drain."""
    while not stream.needs_drain:
        stream.write(b"x" * 64 * KIB)
