"""A TCP proxy between bare sockets, whose time a test can move."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pingora_core.apps.tcp_proxy import TcpProxy
from pingora_core.connectors import TransportConnector
from pingora_core.protocols.address import InetAddress
from pingora_core.runtime import timers
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services.listening import Service
from pingora_core.services.service import ServiceContext
from pingora_core.upstreams.peer import BasicPeer
from tests.support.waiting import eventually
from tests.unit.pingora_core.protocols.l4.rig import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import pytest

    from pingora_core.apps.tcp_proxy import TcpProxyOptions, TunnelRecord
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.protocols.tls.alpn import AlpnOffer
    from pingora_core.protocols.tls.client_hello import ClientHello
    from pingora_core.upstreams.peer import Peer as UpstreamPeer

__all__ = ["FakeTime", "Forwarder", "Rig", "receive", "rig"]


class Forwarder(TcpProxy):
    """Forwards to one upstream and keeps what it is told.

    Attributes:
        peer: Where to; an exception is raised instead.
        hellos: What was given to choose by.
        records: What has ended.
        downstreams: The clients' connections.
        upstreams: The connections that were made.
    """

    def __init__(
        self,
        peer: UpstreamPeer | Exception | None,
        options: TcpProxyOptions | None = None,
        connector: TransportConnector | None = None,
    ) -> None:
        self.upstreams: list[Stream] = []
        self.downstreams: list[Stream] = []
        self.hellos: list[ClientHello | None] = []
        self.records: list[TunnelRecord] = []
        self.peer = peer
        super().__init__(connector=connector or Watched(self.upstreams), options=options)

    async def upstream_peer(self, stream: Stream, hello: ClientHello | None) -> UpstreamPeer | None:
        self.downstreams.append(stream)
        self.hellos.append(hello)
        if isinstance(self.peer, Exception):
            raise self.peer
        return self.peer

    def on_end(self, record: TunnelRecord) -> None:
        self.records.append(record)
        super().on_end(record)


class Watched(TransportConnector):
    """A connector that keeps its connections for a test to look at."""

    def __init__(self, streams: list[Stream]) -> None:
        super().__init__()
        self._streams = streams

    async def new_stream(self, peer: UpstreamPeer, *, alpn: AlpnOffer | None = None) -> Stream:
        stream = await super().new_stream(peer, alpn=alpn)
        self._streams.append(stream)
        return stream


class Rig:
    """The parts of a running proxy.

    Attributes:
        app: The application.
        service: What runs it.
    """

    def __init__(self, app: Forwarder, listener: socket.socket) -> None:
        self.app = app
        self.service = Service("forwarder", app)
        self.service.add_tcp("127.0.0.1:0")
        self.switch = ShutdownSwitch()
        self._listener = listener
        self._sockets: list[Peer] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def record(self) -> TunnelRecord:
        (record,) = self.app.records
        return record

    async def connect(self, *, receive_buffer: int | None = None) -> Peer:
        """Connect a client."""
        address = self.service.addresses[0]
        assert isinstance(address, InetAddress)
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        peer = Peer(sock)
        self._sockets.append(peer)
        await asyncio.get_running_loop().sock_connect(sock, (address.host, address.port))
        return peer

    async def accept(self) -> Peer:
        """Accept the connection that the proxy makes."""
        async with asyncio.timeout(10):
            sock, _ = await asyncio.get_running_loop().sock_accept(self._listener)
        peer = Peer(sock)
        self._sockets.append(peer)
        return peer

    async def pair(self, *, receive_buffer: int | None = None) -> tuple[Peer, Peer]:
        """Connect a client and accept what the proxy makes of it."""
        client = await self.connect(receive_buffer=receive_buffer)
        server = await self.accept()
        await eventually(lambda: self.app.upstreams, "the connection to the upstream")
        return client, server

    async def ended(self) -> TunnelRecord:
        """Wait until the only connection has ended and both its streams are closed."""
        await eventually(lambda: self.app.records, "the end of the connection")
        streams = (*self.app.downstreams, *self.app.upstreams)
        await eventually(lambda: all(stream.is_closed for stream in streams))
        return self.record

    async def start(self) -> None:
        """Run the service."""
        context = ServiceContext(shutdown=self.switch.watch)
        self._task = asyncio.create_task(self.service.start_service(context))
        await context.ready.wait()

    def stop(self) -> None:
        """End the service at once."""
        assert self._task is not None
        self._task.cancel()

    async def close(self) -> None:
        """Close the test's sockets and the service."""
        for peer in self._sockets:
            peer.close()
        self.stop()
        assert self._task is not None
        await asyncio.wait([self._task])


@asynccontextmanager
async def rig(
    options: TcpProxyOptions | None = None,
    *,
    make: Callable[[BasicPeer], Forwarder] | None = None,
    receive_buffer: int | None = None,
) -> AsyncIterator[Rig]:
    """Run a proxy before a listener of the test's.

    Args:
        options: Of the proxy.
        make: Makes the application; gets the peer that stands for the listener.
        receive_buffer: Kernel buffer of the upstream's sockets, bytes.
    """
    with socket.socket() as listener:
        if receive_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        listener.setblocking(False)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        peer = BasicPeer(f"127.0.0.1:{listener.getsockname()[1]}")
        app = Forwarder(peer, options) if make is None else make(peer)
        made = Rig(app, listener)
        await made.start()
        try:
            yield made
        finally:
            await made.close()


async def receive(peer: Peer, size: int) -> bytes:
    """Receive so many bytes, fewer if the peer ends before."""
    pieces: list[bytes] = []
    async with asyncio.timeout(20):
        while size > 0 and (piece := await peer.recv()):
            pieces.append(piece)
            size -= len(piece)
    return b"".join(pieces)


class FakeTime:
    """The time of all deadlines that the proxy sets from now on.

    Args:
        monkeypatch: Puts it in place.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self._calls: list[tuple[float, Callable[[int], None], int]] = []
        fake = timers.Timers(self)
        monkeypatch.setattr(timers, "get_timers", lambda: fake)

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[int], None], tick: int, /) -> None:
        self._calls.append((when, callback, tick))

    def advance(self, seconds: float) -> None:
        """Move on, and call what is due.

        Args:
            seconds: By how much.
        """
        self.now += seconds
        while due := [call for call in self._calls if call[0] <= self.now]:
            call = min(due, key=lambda each: each[0])
            self._calls.remove(call)
            call[1](call[2])
