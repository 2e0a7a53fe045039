"""Origins for connectors: servers on loopback that record who came, and a resolver of their names."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from pingora_core.connectors import TransportConnector
from pingora_core.protocols.address import InetAddress
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pingora_core.connectors import ConnectorOptions, Resolver
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.upstreams import HttpPeer

__all__ = [
    "Names",
    "Origin",
    "connector",
    "echo",
    "exchange",
    "fails",
    "full_backlog",
    "origin",
    "works",
]


@dataclass
class Origin:
    """A server and what it has seen.

    Attributes:
        address: Where it listens, as text.
        port: Its port; 0 for a Unix socket.
        clients: Address of each client, in order.
        names: SNI of each TLS client; None for none.
        writers: Of the connections, open or not.
    """

    address: str
    port: int
    clients: list[tuple[str, int]] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def connections(self) -> int:
        return len(self.writers)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def origin(
    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] = echo,
    *,
    tls: ssl.SSLContext | None = None,
    path: str | None = None,
) -> AsyncIterator[Origin]:
    """Run a server.

    Args:
        handler: What it does with a connection.
        tls: For encryption.
        path: Of a Unix socket to listen on in place of TCP.
    """
    seen = Origin("", 0)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        if path is None:
            seen.clients.append(writer.get_extra_info("peername")[:2])
        seen.writers.append(writer)
        try:
            await handler(reader, writer)
        except OSError:
            pass
        finally:
            writer.close()
            tasks.discard(task)

    if tls is not None:
        tls.sni_callback = lambda _socket, name, _context: seen.names.append(name)
    if path is not None:
        server = await asyncio.start_unix_server(serve, path, ssl=tls)
        seen.address = f"unix:{path}"
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        seen.port = server.sockets[0].getsockname()[1]
        seen.address = f"127.0.0.1:{seen.port}"
    try:
        yield seen
    finally:
        server.close()
        for writer in seen.writers:
            writer.transport.abort()
        if tasks:
            await asyncio.wait(tasks)
        await server.wait_closed()


@asynccontextmanager
async def connector(
    options: ConnectorOptions | None = None, *, resolver: Resolver | None = None
) -> AsyncIterator[TransportConnector]:
    """Make a connector, and close it."""
    made = TransportConnector(options, resolver=resolver)
    try:
        yield made
    finally:
        await made.close()


class Names:
    """A resolver that knows what it was told.

    Attributes:
        asked: The names it was asked for.
        is_closed: Whether it was closed.
    """

    def __init__(self, **names: list[str]) -> None:
        self._names = names
        self.asked: list[str] = []
        self.is_closed = False

    async def resolve(self, host: str, port: int) -> list[InetAddress]:
        self.asked.append(host)
        if host not in self._names:
            raise Error.up(ErrorType.CONNECT_ERROR, f"no {host}")
        return [InetAddress(address, port) for address in self._names[host]]

    async def close(self) -> None:
        self.is_closed = True


@asynccontextmanager
async def full_backlog() -> AsyncIterator[str]:
    """Give the address of a listener that does not accept and whose queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        name = listener.getsockname()
        with socket.create_connection(name):
            # The queue takes one more than it was asked to hold; further SYNs are dropped.
            yield f"127.0.0.1:{name[1]}"


async def exchange(stream: Stream) -> bytes:
    """Send something, return what came back, and close."""
    try:
        stream.write(b"ping")
        return await stream.read(5.0)
    finally:
        stream.close()
        await stream.wait_closed()


async def works(peer: HttpPeer, options: ConnectorOptions | None = None) -> bool:
    """Whether a peer can be talked to; its certificate not being accepted is a no."""
    async with connector(options) as transport:
        try:
            stream = await transport.new_stream(peer)
        except Error as error:
            if (error.etype, error.esource) != (ErrorType.INVALID_CERT, ErrorSource.UPSTREAM):
                raise
            return False
        return await exchange(stream) == b"ping"


async def fails(
    peer: HttpPeer,
    options: ConnectorOptions | None = None,
    *,
    transport: TransportConnector | None = None,
) -> Error:
    """Connect in vain, with a connector of its own if none is given."""
    if transport is None:
        async with connector(options) as made:
            return await fails(peer, transport=made)
    with pytest.raises(Error) as caught:
        await transport.new_stream(peer)
    return caught.value
