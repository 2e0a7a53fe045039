"""A TCP proxy between bare sockets, whose time a test can move."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from pingora_core.apps.stream_proxy import StreamProxy, StreamProxyApp
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

    from pingora_core.apps.stream_proxy import StreamProxyOptions, StreamSession
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.protocols.tls.alpn import AlpnOffer
    from pingora_core.protocols.tls.client_hello import ClientHello
    from pingora_core.upstreams.peer import Peer as UpstreamPeer
    from pingora_error import Error

    Listen: TypeAlias = Callable[[Service[StreamProxyApp[list[str]]]], None]

__all__ = [
    "Ended",
    "FakeTime",
    "Forwarder",
    "Hello",
    "Listen",
    "Rig",
    "is_reset",
    "listen_tcp",
    "receive",
    "rig",
]


@dataclass(frozen=True, slots=True)
class Ended:
    """What a proxy was told of the end of a connection.

    Attributes:
        session: The connection.
        error: Why it failed, if it did.
        ctx: Its context: the names of the callbacks that were called.
    """

    session: StreamSession
    error: Error | None
    ctx: list[str]

    @property
    def sent(self) -> tuple[int, int]:
        """Bytes that went to the upstream, and to the client."""
        return self.session.upstream_bytes_sent, self.session.bytes_sent


class Forwarder(StreamProxy[list[str]]):
    """Forwards to one upstream and keeps what it is told.

    Attributes:
        peer: Where to; an exception is raised instead.
        records: What has ended.
        sessions: The connections that were to be forwarded.
        contexts: How many connections there have been.
    """

    def __init__(self, peer: UpstreamPeer | Exception) -> None:
        self.records: list[Ended] = []
        self.sessions: list[StreamSession] = []
        self.contexts = 0
        self.peer = peer

    def new_ctx(self) -> list[str]:
        self.contexts += 1
        return []

    async def upstream_peer(self, session: StreamSession, ctx: list[str]) -> UpstreamPeer:
        ctx.append("upstream_peer")
        self.sessions.append(session)
        if isinstance(self.peer, Exception):
            raise self.peer
        return self.peer

    async def logging(self, session: StreamSession, error: Error | None, ctx: list[str]) -> None:
        ctx.append("logging")
        self.records.append(Ended(session, error, ctx))


class Hello(Forwarder):
    """Waits for a ClientHello."""

    async def client_hello_filter(
        self, session: StreamSession, hello: ClientHello, ctx: list[str]
    ) -> bool:
        ctx.append("client_hello_filter")
        return True


class Watched(TransportConnector):
    """A connector that keeps its connections for a test to look at."""

    def __init__(self, streams: list[Stream]) -> None:
        super().__init__()
        self._streams = streams

    async def new_stream(self, peer: UpstreamPeer, *, alpn: AlpnOffer | None = None) -> Stream:
        stream = await super().new_stream(peer, alpn=alpn)
        self._streams.append(stream)
        return stream


def listen_tcp(service: Service[StreamProxyApp[list[str]]]) -> None:
    """Listen on any free port."""
    service.add_tcp("127.0.0.1:0")


class Rig:
    """The parts of a running proxy.

    Attributes:
        app: The callbacks.
        service: What runs them.
        upstreams: The connections that were made.
        switch: Stops the service in order.
    """

    def __init__(
        self,
        app: Forwarder,
        listener: socket.socket,
        options: StreamProxyOptions | None,
        listen: Listen,
    ) -> None:
        self.app = app
        self.upstreams: list[Stream] = []
        served = StreamProxyApp(
            app, connector=Watched(self.upstreams), options=options, max_retries=3
        )
        self.service = Service("forwarder", served)
        listen(self.service)
        self.switch = ShutdownSwitch()
        self._listener = listener
        self._sockets: list[Peer] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def record(self) -> Ended:
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
        async with asyncio.timeout(30):
            sock, _ = await asyncio.get_running_loop().sock_accept(self._listener)
        peer = Peer(sock)
        self._sockets.append(peer)
        return peer

    async def pair(self, *, receive_buffer: int | None = None) -> tuple[Peer, Peer]:
        """Connect a client and accept what the proxy makes of it."""
        client = await self.connect(receive_buffer=receive_buffer)
        server = await self.accept()
        await eventually(lambda: self.upstreams, "the connection to the upstream")
        return client, server

    async def ended(self) -> Ended:
        """Wait until the only connection has ended and both its streams are closed."""
        await eventually(lambda: self.app.records, "the end of the connection")
        streams = (*(session.downstream for session in self.app.sessions), *self.upstreams)
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
    options: StreamProxyOptions | None = None,
    *,
    make: Callable[[BasicPeer], Forwarder] = Forwarder,
    listen: Listen = listen_tcp,
    receive_buffer: int | None = None,
) -> AsyncIterator[Rig]:
    """Run a proxy before a listener of the test's.

    Args:
        options: Of the proxy.
        make: Makes the callbacks; gets the peer that stands for the listener.
        listen: Adds to the service what it listens on.
        receive_buffer: Kernel buffer of the upstream's sockets, bytes.
    """
    with socket.socket() as listener:
        if receive_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        listener.setblocking(False)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        peer = BasicPeer(f"127.0.0.1:{listener.getsockname()[1]}")
        made = Rig(make(peer), listener, options, listen)
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


async def is_reset(peer: Peer) -> bool:
    """Read until the end, and tell whether it is a reset."""
    async with asyncio.timeout(30):
        try:
            await peer.recv_all()
        except ConnectionResetError:
            return True
    return False


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
