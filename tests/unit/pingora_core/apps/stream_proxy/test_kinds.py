"""What connections may be made of: TLS, Unix sockets, and headers of the PROXY protocol."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest

from pingora_core.apps import StreamEnding, StreamProxyOptions
from pingora_core.conf import ServerConf
from pingora_core.listeners import ProxyProtocolSettings
from pingora_core.protocols.address import InetAddress
from pingora_core.protocols.proxy_protocol import ProxyHeader, encode_proxy_header
from pingora_core.protocols.tls import CaBundle
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services import ServiceContext, stream_proxy_service
from pingora_core.upstreams import BasicPeer, PeerOptions
from tests.support.waiting import eventually
from tests.unit.pingora_core.apps.stream_proxy.rig import Forwarder, receive, rig
from tests.unit.pingora_core.connectors.rig import origin

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_core.apps import StreamProxyApp, StreamSession
    from pingora_core.services.listening import Service
    from pingora_core.upstreams.peer import Peer as UpstreamPeer
    from tests.support.certificates import CertificateAuthority

pytestmark = pytest.mark.usefixtures("no_leaks")


async def test_tls_to_the_upstream(authority: CertificateAuthority) -> None:
    """A plain client reaches a TLS upstream; its half-close leaves time for the answer."""
    certificate = authority.issue("up.test")
    answered = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"got " + await reader.readexactly(4))
        await writer.drain()
        await answered.wait()

    options = PeerOptions(ca=CaBundle([authority.certificate]))
    async with origin(answer, tls=certificate.server_context()) as upstream:
        peer = BasicPeer(upstream.address, sni="up.test", options=options)
        async with rig(make=lambda _: Forwarder(peer)) as proxy:
            client = await proxy.connect()
            await client.send(b"ping")
            client.end()
            assert await receive(client, 8) == b"got ping"
            answered.set()
            assert await client.recv() == b""
            record = await proxy.ended()

    assert record.error is None
    assert record.sent == (4, 8)
    digest = record.session.upstream_digest
    assert digest is not None
    assert digest.ssl_digest is not None


async def test_tls_from_the_client(authority: CertificateAuthority) -> None:
    """TLS that the listener terminates reaches the upstream in clear; ends are close_notify."""
    certificate = authority.issue("down.test")

    def listen(service: Service[StreamProxyApp[list[str]]]) -> None:
        service.add_tls("127.0.0.1:0", certificate.cert_path, certificate.key_path)

    context = ssl.create_default_context(cafile=authority.cert_path)
    async with rig(listen=listen) as proxy:
        address = proxy.service.addresses[0]
        assert isinstance(address, InetAddress)
        reader, writer = await asyncio.open_connection(
            address.host, address.port, ssl=context, server_hostname="down.test"
        )
        writer.write(b"question")
        server = await proxy.accept()
        assert await receive(server, 8) == b"question"
        await server.send(b"answer")
        server.end()
        assert await reader.read() == b"answer"
        writer.close()
        await writer.wait_closed()
        record = await proxy.ended()

    assert record.error is None
    assert record.session.digest.ssl_digest is not None


async def test_tls_on_both_sides(authority: CertificateAuthority) -> None:
    """Megabytes pass through a proxy that speaks TLS to both sides."""
    data = bytes(range(256)) * 16384
    certificate = authority.issue("up.test", "down.test")
    received = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(len(data)))
        await received.wait()

    def listen(service: Service[StreamProxyApp[list[str]]]) -> None:
        service.add_tls("127.0.0.1:0", certificate.cert_path, certificate.key_path)

    options = PeerOptions(ca=CaBundle([authority.certificate]))
    context = ssl.create_default_context(cafile=authority.cert_path)
    async with origin(answer, tls=certificate.server_context()) as upstream:
        peer = BasicPeer(upstream.address, sni="up.test", options=options)
        async with rig(make=lambda _: Forwarder(peer), listen=listen) as proxy:
            address = proxy.service.addresses[0]
            assert isinstance(address, InetAddress)
            reader, writer = await asyncio.open_connection(
                address.host, address.port, ssl=context, server_hostname="down.test"
            )
            writer.write(data)
            assert await asyncio.wait_for(reader.readexactly(len(data)), 20) == data
            # Not before: uvloop's own TLS drops what is unread when an end arrives.
            received.set()
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
            record = await proxy.ended()

    assert record.error is None
    assert record.sent == (len(data), len(data))


async def test_unix_sockets_on_both_sides(tmp_path: Path) -> None:
    """A Unix socket leads to another one; half-closes pass through both."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"got " + await reader.read())
        await writer.drain()

    class Seeing(Forwarder):
        async def connection_filter(self, session: StreamSession, ctx: list[str]) -> bool:
            ctx.append(str(session.server_addr))
            return True

    async with (
        origin(answer, path=str(tmp_path / "up.sock")) as upstream,
        rig(
            make=lambda _: Seeing(BasicPeer(upstream.address)),
            listen=lambda service: service.add_uds(str(tmp_path / "down.sock")),
        ) as proxy,
    ):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "down.sock")
        writer.write(b"question")
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 30) == b"got question"
        writer.close()
        await writer.wait_closed()
        record = await proxy.ended()

    assert record.error is None
    assert record.ctx[0] == f"unix:{tmp_path / 'down.sock'}"


async def test_proxy_protocol_in_and_out() -> None:
    """The client that a balancer announces is the one that the filter sees and is passed on."""

    class Announcing(Forwarder):
        async def connection_filter(self, session: StreamSession, ctx: list[str]) -> bool:
            ctx.append(str(session.client_addr))
            return True

        async def upstream_peer(self, session: StreamSession, ctx: list[str]) -> UpstreamPeer:
            peer = await super().upstream_peer(session, ctx)
            options = PeerOptions()
            options.send_proxy_protocol = ProxyHeader.from_digest(session.digest)
            assert isinstance(peer, BasicPeer)
            return BasicPeer(peer.address, options=options)

    announced = ProxyHeader(
        source=InetAddress("192.0.2.7", 4711), destination=InetAddress("192.0.2.1", 443)
    )
    settings = ProxyProtocolSettings(["127.0.0.0/8"])
    async with rig(
        make=Announcing,
        listen=lambda service: service.add_tcp("127.0.0.1:0", proxy_protocol=settings),
    ) as proxy:
        client = await proxy.connect()
        await client.send(encode_proxy_header(announced) + b"hello")
        server = await proxy.accept()
        expected = encode_proxy_header(announced) + b"hello"
        assert await receive(server, len(expected)) == expected
        client.end()
        server.end()
        record = await proxy.ended()

    assert record.ctx[0] == "192.0.2.7:4711"
    assert record.session.ending is StreamEnding.COMPLETED
    assert record.sent == (5, 0)


async def test_service_takes_the_configuration() -> None:
    """The service connects as the server's configuration says."""
    conf = ServerConf(max_retries=2, client_bind_to_ipv4=("127.0.0.5",))
    async with origin() as upstream:
        app = Forwarder(BasicPeer(upstream.address))
        service = stream_proxy_service(conf, app, options=StreamProxyOptions(idle_timeout=5))
        assert service.name == "Pingora Stream Proxy Service"
        assert service.app_logic.options.idle_timeout == 5
        service.add_tcp("127.0.0.1:0")
        switch = ShutdownSwitch()
        context = ServiceContext(shutdown=switch.watch)
        task = asyncio.create_task(service.start_service(context))
        await context.ready.wait()
        address = service.addresses[0]
        assert isinstance(address, InetAddress)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"ping")
        assert await asyncio.wait_for(reader.readexactly(4), 30) == b"ping"
        writer.close()
        await writer.wait_closed()
        switch.start()
        await asyncio.wait_for(task, 30)

    assert [host for host, _ in upstream.clients] == ["127.0.0.5"]
    await eventually(lambda: app.records)
