"""How upstream sockets are made: source addresses, options, hooks and connectors of the user's."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest

from pingora_core.connectors import ConnectorOptions
from pingora_core.protocols.address import HostAddress, InetAddress
from pingora_core.protocols.l4 import L4Stream
from pingora_core.protocols.l4.sockopt import BindTo, TcpKeepalive
from pingora_core.upstreams import HttpPeer, PeerOptions
from pingora_error import Error, ErrorType
from tests.support.ports import free_port
from tests.support.waiting import eventually
from tests.unit.pingora_core.connectors.rig import (
    Names,
    connector,
    exchange,
    fails,
    origin,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.interfaces import Stream

pytestmark = pytest.mark.usefixtures("no_leaks")


# ------------------------------------------------------------------- where from


async def test_bind_to() -> None:
    """The origin sees the source address that the peer asks for."""
    async with origin() as server, connector() as transport:
        options = PeerOptions(bind_to=BindTo(addr=InetAddress("127.0.0.2", 0)))
        stream = await transport.new_stream(HttpPeer(server.address, options=options))
        await exchange(stream)

        assert server.clients[0][0] == "127.0.0.2"


async def test_a_source_address_chooses_the_family() -> None:
    """Addresses of a name that cannot be reached from it are not tried."""
    names = Names(both=["::1", "127.0.0.1"])
    async with origin() as server, connector(resolver=names) as transport:
        options = PeerOptions(bind_to=BindTo(addr=InetAddress("127.0.0.2", 0)))
        stream = await transport.new_stream(HttpPeer(f"both:{server.port}", options=options))

        assert await exchange(stream) == b"ping"


async def test_the_connectors_sources_serve_peers_without_one() -> None:
    """Any bind_to of a peer replaces them, even one without an address."""
    options = ConnectorOptions(bind_to_v4=(InetAddress("127.0.0.3", 0),))
    async with origin() as server, connector(options) as transport:
        own = PeerOptions(bind_to=BindTo(addr=InetAddress("127.0.0.4", 0)))
        none = PeerOptions(bind_to=BindTo())
        for peer_options in (None, own, none):
            stream = await transport.new_stream(HttpPeer(server.address, options=peer_options))
            await exchange(stream)

        assert [host for host, _ in server.clients] == ["127.0.0.3", "127.0.0.4", "127.0.0.1"]


def knows_port_ranges() -> bool:
    """Whether this kernel has IP_LOCAL_PORT_RANGE (Linux 6.3)."""
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.IPPROTO_IP, 51, (40000 | 40001 << 16).to_bytes(4, "little"))
        except OSError:
            return False
    return True


@pytest.mark.skipif(not knows_port_ranges(), reason="IP_LOCAL_PORT_RANGE needs Linux 6.3")
async def test_bind_to_port_range_on_connect() -> None:
    """Ports come from the range; when they are used up it fails, or falls back if allowed."""
    # Must be within the range of the system. Nobody else comes from 127.0.0.6.
    with socket.socket() as sock:
        sock.bind(("127.0.0.6", 0))
        low = min(sock.getsockname()[1], 60000)
    async with origin() as server, connector() as transport:
        source = InetAddress("127.0.0.6", 0)
        bind = BindTo(addr=source, port_range=(low, low + 1))
        streams = [
            await transport.new_stream(HttpPeer(server.address, options=PeerOptions(bind_to=bind)))
            for _ in range(2)
        ]
        await eventually(lambda: server.connections == 2)
        assert {port for _, port in server.clients} == {low, low + 1}
        with pytest.raises(Error) as caught:
            await transport.new_stream(HttpPeer(server.address, options=PeerOptions(bind_to=bind)))
        assert caught.value.root_etype is ErrorType.BIND_ERROR

        lenient = BindTo(addr=source, port_range=(low, low + 1), fallback=True)
        options = PeerOptions(bind_to=lenient)
        streams.append(await transport.new_stream(HttpPeer(server.address, options=options)))
        await eventually(lambda: server.connections == 3)
        assert server.clients[2][0] == "127.0.0.6"
        assert server.clients[2][1] not in {low, low + 1}
        anywhere = PeerOptions(bind_to=BindTo(port_range=(low + 2, low + 30)))
        streams.append(await transport.new_stream(HttpPeer(server.address, options=anywhere)))
        await eventually(lambda: server.connections == 4)
        assert server.clients[3][0] == "127.0.0.1"
        assert low + 2 <= server.clients[3][1] <= low + 30
        for stream in streams:
            stream.abort()
            await stream.wait_closed()


async def test_a_kernel_without_port_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer is told, unless it allows to fall back."""

    def refuse(sock: socket.socket, low: int, high: int) -> None:
        raise Error(ErrorType.SOCKET_ERROR, "no such option")

    monkeypatch.setattr("pingora_core.connectors.l4.sockopt.set_local_port_range", refuse)
    async with origin() as server, connector() as transport:
        strict = PeerOptions(bind_to=BindTo(port_range=(40000, 40001)))
        with pytest.raises(Error) as caught:
            await transport.new_stream(HttpPeer(server.address, options=strict))
        assert caught.value.etype is ErrorType.INTERNAL_ERROR

        lenient = PeerOptions(bind_to=BindTo(port_range=(40000, 40001), fallback=True))
        stream = await transport.new_stream(HttpPeer(server.address, options=lenient))
        assert await exchange(stream) == b"ping"


# ------------------------------------------------------------------ the socket


async def test_tweak_hook() -> None:
    """It gets the socket before it connects, and what it sets holds."""
    seen: list[int] = []

    def tweak(sock: socket.socket) -> None:
        with pytest.raises(OSError, match="not connected"):
            sock.getpeername()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 3)
        seen.append(sock.fileno())

    async with origin() as server, connector() as transport:
        options = PeerOptions(upstream_tcp_sock_tweak_hook=tweak)
        stream = await transport.new_stream(HttpPeer(server.address, options=options))

        assert seen == [stream.id]
        assert option(stream, socket.SOL_SOCKET, socket.SO_PRIORITY) == 3
        assert await exchange(stream) == b"ping"


async def test_a_tweak_hook_that_fails() -> None:
    """The connection is given up; its exception is the cause."""
    problem = RuntimeError("no")

    def tweak(sock: socket.socket) -> None:
        raise problem

    options = PeerOptions(upstream_tcp_sock_tweak_hook=tweak)
    error = await fails(HttpPeer("127.0.0.1:1", options=options))

    assert error.etype is ErrorType.INTERNAL_ERROR
    assert error.root_cause is problem


async def test_socket_options() -> None:
    """Each option of the peer arrives at the socket."""
    options = PeerOptions(
        tcp_keepalive=TcpKeepalive(60, 5, 3),
        tcp_recv_buf=65536,
        dscp=10,
        tcp_fast_open=True,
    )
    async with origin() as server, connector() as transport:
        stream = await transport.new_stream(HttpPeer(server.address, options=options))
        tcp = socket.IPPROTO_TCP

        assert option(stream, tcp, socket.TCP_NODELAY) == 1
        assert option(stream, tcp, socket.TCP_KEEPIDLE) == 60
        assert option(stream, tcp, socket.TCP_KEEPINTVL) == 5
        assert option(stream, tcp, socket.TCP_KEEPCNT) == 3
        assert option(stream, socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * 65536
        assert option(stream, socket.IPPROTO_IP, socket.IP_TOS) == 40
        assert await exchange(stream) == b"ping"


def option(stream: Stream, level: int, name: int) -> int:
    """Read a socket option of an open stream."""
    with socket.socket(fileno=os.dup(stream.id)) as sock:
        return sock.getsockopt(level, name)


class Recorder:
    """A tracer that keeps a diary."""

    def __init__(self) -> None:
        self.diary: list[str] = []

    def on_connected(self) -> None:
        self.diary.append("connected")

    def on_disconnected(self) -> None:
        self.diary.append("disconnected")


async def test_the_tracer_sees_both_ends_of_a_connection() -> None:
    """Once each, in that order; nothing for an attempt that failed."""
    tracer = Recorder()
    async with origin() as server, connector() as transport:
        options = PeerOptions(tracer=tracer)
        stream = await transport.new_stream(HttpPeer(server.address, options=options))
        assert tracer.diary == ["connected"]
        await exchange(stream)
        assert tracer.diary == ["connected", "disconnected"]
    await fails(HttpPeer(f"127.0.0.1:{free_port()}", options=PeerOptions(tracer=tracer)))

    assert tracer.diary == ["connected", "disconnected"]


# ---------------------------------------------------------------- the user's way


class Custom:
    """A user's connector over a socket pair.

    Attributes:
        addresses: What it was asked for.
        ends: The other ends.
    """

    def __init__(self, before: Callable[[], None] | None = None) -> None:
        self.addresses: list[SocketAddress | HostAddress] = []
        self.ends: list[socket.socket] = []
        self._before = before

    async def connect(self, address: SocketAddress | HostAddress) -> Stream:
        self.addresses.append(address)
        if self._before is not None:
            self._before()
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        self.ends.append(theirs)
        loop = asyncio.get_running_loop()
        _, stream = await loop.create_unix_connection(lambda: L4Stream(loop), sock=ours)
        return stream


async def test_custom_connect() -> None:
    """The user's code makes the connection, and gets names as they are."""
    custom = Custom()
    tracer = Recorder()
    async with connector() as transport:
        options = PeerOptions(custom_l4=custom, tracer=tracer)
        peer = HttpPeer("somewhere:1", options=options)
        stream = await transport.new_stream(peer)
        custom.ends[0].sendall(b"hello")
        assert await stream.read(5.0) == b"hello"
        transport.release_stream(stream, peer.reuse_key())
        assert transport.reused_stream(peer) is stream
        stream.abort()
        await stream.wait_closed()
        custom.ends[0].close()

    assert custom.addresses == [HostAddress("somewhere", 1)]
    assert tracer.diary == ["connected"]


async def test_custom_connect_that_fails() -> None:
    """System errors are translated, errors of the framework pass."""
    ours = Error.up(ErrorType.CONNECT_ERROR, "mine")

    def refuse() -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    def late() -> None:
        raise TimeoutError

    def own() -> None:
        raise ours

    kinds: list[object] = []
    for before in (refuse, late, own):
        options = PeerOptions(custom_l4=Custom(before))
        kinds.append((await fails(HttpPeer("127.0.0.1:1", options=options))).etype)

    assert kinds == [
        ErrorType.CONNECT_REFUSED,
        ErrorType.CONNECT_TIMEDOUT,
        ErrorType.CONNECT_ERROR,
    ]


async def test_custom_connect_has_the_same_deadline() -> None:
    """It cannot hang either."""

    class Hanging:
        async def connect(self, address: SocketAddress | HostAddress) -> Stream:
            await asyncio.sleep(60)
            raise AssertionError

    options = PeerOptions(custom_l4=Hanging(), connection_timeout=0.02)
    error = await fails(HttpPeer("127.0.0.1:1", options=options))

    assert error.etype is ErrorType.CONNECT_TIMEDOUT
