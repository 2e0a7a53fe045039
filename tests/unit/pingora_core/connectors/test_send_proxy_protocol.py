"""The PROXY protocol towards a peer: what is sent, when, and who may share the connection."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.address import InetAddress
from pingora_core.protocols.proxy_protocol import (
    ProxyHeader,
    TlvType,
    encode_proxy_header,
    parse_proxy_header,
)
from pingora_core.upstreams import BasicPeer, HttpPeer, PeerOptions, Proxy
from pingora_error import Error, ErrorType
from tests.unit.pingora_core.connectors.rig import connector, origin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pingora_core.protocols.tls import CaBundle
    from tests.support.certificates import IssuedCertificate
    from tests.unit.pingora_core.connectors.rig import Origin

pytestmark = pytest.mark.usefixtures("no_leaks")

CLIENT = InetAddress("192.0.2.1", 56324)
SERVER = InetAddress("198.51.100.7", 443)
V1 = ProxyHeader(version=1, source=CLIENT, destination=SERVER)
V2 = ProxyHeader(
    source=CLIENT, destination=SERVER, tlvs=((TlvType.UNIQUE_ID, b"id"),), checksum=True
)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


class Receiver:
    """Reads a header, and then is an echo or leads to another server.

    Args:
        tunnel: Where what follows the header goes; None to echo.
        connect: Whether a CONNECT request has to come first.

    Attributes:
        headers: Those it has received.
        requests: CONNECT requests it has received.
    """

    def __init__(self, tunnel: Origin | None = None, *, connect: bool = False) -> None:
        self._tunnel = tunnel
        self._connect = connect
        self.headers: list[ProxyHeader] = []
        self.requests: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connect:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        data = b""
        while (parsed := parse_proxy_header(data)) is None:
            # Bytewise, so that nothing behind it is taken.
            data += await reader.readexactly(1)
        self.headers.append(parsed[0])
        if self._tunnel is None:
            await _copy(reader, writer)
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._tunnel.port)
        try:
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        finally:
            far_writer.close()


@asynccontextmanager
async def receiving(receiver: Receiver) -> AsyncIterator[str]:
    async with origin(receiver) as server:
        yield server.address


def announcing(header: ProxyHeader | None, ca: CaBundle | None = None) -> PeerOptions:
    """Make options that send a header."""
    return PeerOptions(send_proxy_protocol=header, ca=ca)


@pytest.mark.parametrize("header", [V1, V2, ProxyHeader.local()])
async def test_the_header_comes_first(header: ProxyHeader) -> None:
    """A peer gets it whole, ahead of everything else, once per connection."""
    receiver = Receiver()
    async with receiving(receiver) as address, connector() as transport:
        peer = HttpPeer(address, options=announcing(header))
        stream = await transport.new_stream(peer)
        for data in (b"ping", b"pong"):
            stream.write(data)
            assert await stream.read(5.0) == data
        stream.close()

    assert receiver.headers == [header]


async def test_it_is_sent_before_anybody_writes() -> None:
    """A peer that speaks first learns who it is speaking to."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = encode_proxy_header(V2)
        if await reader.readexactly(len(raw)) == raw:
            writer.write(b"hello " + str(CLIENT).encode())

    async with origin(greet) as server, connector() as transport:
        peer = BasicPeer(server.address, options=announcing(V2))
        stream = await transport.new_stream(peer)

        assert await stream.read(5.0) == b"hello 192.0.2.1:56324"
        stream.close()


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    """Peers on Unix sockets are told too."""
    receiver = Receiver()
    async with origin(receiver, path=str(tmp_path / "s")) as server, connector() as transport:
        stream = await transport.new_stream(HttpPeer(server.address, options=announcing(V2)))
        stream.write(b"ping")
        assert await stream.read(5.0) == b"ping"
        stream.close()

    assert receiver.headers == [V2]


async def test_it_is_sent_before_tls(server_certificate: IssuedCertificate, ca: CaBundle) -> None:
    """In clear, ahead of the ClientHello."""
    async with (
        origin(tls=server_certificate.server_context()) as secure,
        connector() as transport,
    ):
        receiver = Receiver(secure)
        async with receiving(receiver) as address:
            peer = HttpPeer(address, tls=True, sni="openrusty.org", options=announcing(V2, ca))
            stream = await transport.new_stream(peer)
            stream.write(b"ping")
            assert await stream.read(5.0) == b"ping"
            stream.close()
            await stream.wait_closed()

    assert receiver.headers == [V2]


async def test_it_is_sent_inside_the_tunnel_of_a_proxy(
    server_certificate: IssuedCertificate, ca: CaBundle
) -> None:
    """CONNECT first, then the header, then TLS: it is the peer who is told."""
    async with (
        origin(tls=server_certificate.server_context()) as secure,
        connector() as transport,
    ):
        receiver = Receiver(secure, connect=True)
        async with receiving(receiver) as address:
            peer = HttpPeer(
                "192.0.2.9:443",
                tls=True,
                sni="openrusty.org",
                proxy=Proxy.parse(address),
                options=announcing(V2, ca),
            )
            stream = await transport.new_stream(peer)
            stream.write(b"ping")
            assert await stream.read(5.0) == b"ping"
            stream.close()
            await stream.wait_closed()

    assert receiver.requests[0].startswith(b"CONNECT 192.0.2.9:443 ")
    assert receiver.headers == [V2]


OTHERS = [
    None,
    V1,
    ProxyHeader.local(),
    ProxyHeader(source=CLIENT, destination=SERVER),
    ProxyHeader(source=CLIENT.with_port(1), destination=SERVER, tlvs=V2.tlvs, checksum=True),
    ProxyHeader(source=CLIENT, destination=SERVER.with_port(1), tlvs=V2.tlvs, checksum=True),
    ProxyHeader(
        source=CLIENT, destination=SERVER, tlvs=((TlvType.UNIQUE_ID, b"di"),), checksum=True
    ),
]


async def test_a_pooled_connection_never_speaks_for_somebody_else() -> None:
    """Only an equal header finds it: same client, same port, same TLVs."""
    receiver = Receiver()
    async with receiving(receiver) as address, connector() as transport:
        peer = HttpPeer(address, options=announcing(V2))
        stream = await transport.new_stream(peer)
        transport.release_stream(stream, peer.reuse_key())

        for other in OTHERS:
            assert transport.reused_stream(HttpPeer(address, options=announcing(other))) is None
        again = HttpPeer(
            address,
            options=announcing(
                ProxyHeader(source=CLIENT, destination=SERVER, tlvs=V2.tlvs, checksum=True)
            ),
        )
        assert transport.reused_stream(again) is stream
        stream.close()


async def test_a_connection_without_header_is_not_used_for_a_client_to_announce() -> None:
    """The peer would take the proxy for the client."""
    async with origin() as server, connector() as transport:
        peer = HttpPeer(server.address)
        stream = await transport.new_stream(peer)
        transport.release_stream(stream, peer.reuse_key())

        announced = HttpPeer(server.address, options=announcing(V2))
        assert transport.reused_stream(announced) is None
        assert transport.reused_stream(HttpPeer(server.address)) is stream
        stream.close()


def test_the_header_cannot_change_once_connections_were_looked_for() -> None:
    """It is frozen with everything else that selects connections."""
    peer = HttpPeer("127.0.0.1:80", options=announcing(V2))
    peer.reuse_key()

    with pytest.raises(AttributeError, match="send_proxy_protocol cannot change"):
        peer.options.send_proxy_protocol = None
    copied = peer.options.copy()
    copied.send_proxy_protocol = V1
    assert HttpPeer("127.0.0.1:80", options=copied).reuse_key() != peer.reuse_key()


async def test_a_header_that_is_too_long_is_found_out_before_connecting() -> None:
    """Each TLV fits, all of them do not."""
    header = ProxyHeader(tlvs=((0xE1, bytes(60000)), (0xE2, bytes(60000))))
    async with origin() as server, connector() as transport:
        with pytest.raises(ValueError, match="allowed: 65551"):
            await transport.new_stream(HttpPeer(server.address, options=announcing(header)))

        assert server.connections == 0


async def test_a_peer_that_hangs_up_on_the_header_is_an_upstream_error() -> None:
    """During the handshake behind it as well."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async with origin(hang_up) as server, connector() as transport:
        peer = HttpPeer(server.address, tls=True, sni="a.example", options=announcing(V2))
        with pytest.raises(Error) as caught:
            await transport.new_stream(peer)

    assert caught.value.etype is ErrorType.TLS_HANDSHAKE_FAILURE
