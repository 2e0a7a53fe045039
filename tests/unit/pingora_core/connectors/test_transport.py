from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import pytest

from pingora_core.connectors import ConnectorOptions, TransportConnector
from pingora_core.protocols.address import InetAddress
from pingora_core.upstreams import BasicPeer, HttpPeer, PeerOptions
from pingora_error import Error, ErrorSource, ErrorType
from tests.support.leaks import running_tasks
from tests.support.waiting import eventually
from tests.unit.pingora_core.connectors.rig import Names, connector, origin
from tests.unit.pingora_core.protocols.tls.rig import Wire

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_core.protocols.address import HostAddress, SocketAddress
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.protocols.tls import CaBundle
    from pingora_core.upstreams import Peer
    from tests.support.certificates import IssuedCertificate

pytestmark = pytest.mark.usefixtures("no_leaks")


async def used(transport: TransportConnector, peer: Peer) -> Stream:
    """Make a connection and have one exchange on it."""
    stream = await transport.new_stream(peer)
    stream.write(b"ping")
    assert await stream.read(5.0) == b"ping"
    return stream


# ----------------------------------------------------------------------- reuse


async def test_a_released_connection_is_used_again() -> None:
    """It is the same one, and it says so."""
    async with origin() as server, connector() as transport:
        peer = HttpPeer(server.address)
        first, reused_first = await transport.get_stream(peer)
        transport.release_stream(first, peer.reuse_key(), 60.0)
        idle = transport.idle_count
        second, reused_second = await transport.get_stream(HttpPeer(server.address))

        assert second is first
        assert (reused_first, reused_second) == (False, True)
        assert (idle, transport.idle_count) == (1, 0)
        assert (transport.connected_count, transport.reused_count) == (1, 1)
        second.write(b"again")
        assert await second.read(5.0) == b"again"
        transport.release_stream(second, peer.reuse_key())


async def test_an_empty_pool_has_nothing() -> None:
    """Also for a peer that nobody has heard of."""
    async with connector() as transport:
        assert transport.reused_stream(HttpPeer("192.0.2.1:80")) is None


async def test_a_connection_in_use_is_not_shared() -> None:
    """Two users at a time have two connections; both come back."""
    async with origin() as server, connector() as transport:
        peer = HttpPeer(server.address)
        first = await used(transport, peer)
        second = await used(transport, peer)
        transport.release_stream(first, peer.reuse_key())
        transport.release_stream(second, peer.reuse_key())

        assert transport.reused_stream(peer) is second
        assert transport.reused_stream(peer) is first
        assert transport.reused_stream(peer) is None
        first.close()
        second.close()


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    """The same for connect_uds."""
    async with origin(path=str(tmp_path / "s.sock")) as server, connector() as transport:
        peer = HttpPeer(server.address)
        stream = await used(transport, peer)
        transport.release_stream(stream, peer.reuse_key())

        assert transport.reused_stream(peer) is stream
        stream.close()


async def test_over_tls(server_certificate: IssuedCertificate, ca: CaBundle) -> None:
    """The same for connect_tls; session tickets on the idle connection do no harm."""
    async with (
        origin(tls=server_certificate.server_context()) as server,
        connector() as transport,
    ):
        options = PeerOptions(ca=ca)
        peer = HttpPeer(server.address, tls=True, sni="openrusty.org", options=options)
        stream = await transport.new_stream(peer)
        # Released at once: the server's tickets arrive while it is idle.
        transport.release_stream(stream, peer.reuse_key(), 60.0)
        await asyncio.sleep(0.03)

        assert transport.reused_stream(peer) is stream
        assert transport.unexpected_data_connection_count == 0
        stream.write(b"ping")
        assert await stream.read(5.0) == b"ping"
        stream.close()


async def test_basic_peers_are_pooled_too() -> None:
    """Pooling knows nothing of HTTP."""
    async with origin() as server, connector() as transport:
        peer = BasicPeer(server.address)
        stream = await used(transport, peer)
        transport.release_stream(stream, peer.reuse_key())

        assert transport.reused_stream(BasicPeer(server.address)) is stream
        assert transport.reused_stream(HttpPeer(server.address)) is None
        stream.close()


async def test_a_reused_connection_calls_nobody() -> None:
    """Data for the next user is not taken for unexpected data of the pool."""
    async with origin() as server, connector() as transport:
        peer = HttpPeer(server.address)
        stream = await used(transport, peer)
        transport.release_stream(stream, peer.reuse_key(), 60.0)
        transport.reused_stream(peer)
        stream.write(b"ping")
        await eventually(lambda: stream.buffered, "the answer")

        assert stream.on_data is None
        assert not stream.is_closed
        assert transport.unexpected_data_connection_count == 0
        stream.close()


# ------------------------------------------------------------- idle connections


async def test_no_task_per_idle_connection() -> None:
    """Idle connections cost no scheduling at all."""
    async with origin() as server, connector() as transport:
        peer = HttpPeer(server.address)
        streams = [await used(transport, peer) for _ in range(5)]
        before = len(running_tasks())
        for stream in streams:
            transport.release_stream(stream, peer.reuse_key(), 60.0)

        assert transport.idle_count == 5
        assert len(running_tasks()) == before


async def test_a_peer_that_closes_is_forgotten() -> None:
    """The end is seen while the connection is idle, not by the next request."""
    async with origin() as server, connector() as transport:
        peer = HttpPeer(server.address)
        stream = await used(transport, peer)
        transport.release_stream(stream, peer.reuse_key(), 60.0)
        server.writers[0].close()
        await eventually(lambda: transport.idle_count == 0, "the end")

        assert stream.is_closed
        assert transport.reused_stream(peer) is None
        assert transport.unexpected_data_connection_count == 0


async def test_a_peer_that_resets_is_forgotten() -> None:
    """So is a reset."""
    async with origin() as server, connector() as transport:
        peer = HttpPeer(server.address)
        stream = await used(transport, peer)
        transport.release_stream(stream, peer.reuse_key(), 60.0)
        server.writers[0].transport.abort()
        await eventually(lambda: transport.idle_count == 0, "the end")

        assert stream.is_closed


@pytest.mark.parametrize("is_tls", [False, True])
async def test_unexpected_data_connection_count_increments(
    server_certificate: IssuedCertificate,
    ca: CaBundle,
    is_tls: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A peer that speaks without being asked loses its connection."""
    tls = server_certificate.server_context() if is_tls else None
    async with origin(tls=tls) as server, connector() as transport:
        peer = HttpPeer(server.address, tls=is_tls, options=PeerOptions(ca=ca))
        stream = await used(transport, peer)
        transport.release_stream(stream, peer.reuse_key(), 60.0)
        with caplog.at_level(logging.INFO):
            server.writers[0].write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            await eventually(lambda: transport.idle_count == 0, "the end")

        assert transport.unexpected_data_connection_count == 1
        assert stream.is_closed
        assert "unexpected data" in caplog.text


async def test_unread_bytes_are_unexpected_data() -> None:
    """A connection released with more than its exchange on it is closed at once."""
    async with origin() as server, connector() as transport:
        peer = HttpPeer(server.address)
        stream = await used(transport, peer)
        stream.write(b"more")
        await eventually(lambda: stream.buffered, "more")
        transport.release_stream(stream, peer.reuse_key(), 60.0)

        assert transport.idle_count == 0
        assert stream.is_closed
        assert transport.unexpected_data_connection_count == 1


@pytest.mark.parametrize("how", ["closed here", "closed there"])
async def test_a_dead_connection_is_not_kept(how: str) -> None:
    """Whoever closed it."""
    async with origin() as server, connector() as transport:
        peer = HttpPeer(server.address)
        stream = await used(transport, peer)
        if how == "closed here":
            stream.close()
        else:
            server.writers[0].close()
            await eventually(lambda: stream.at_eof, "the end")
        transport.release_stream(stream, peer.reuse_key(), 60.0)

        assert transport.idle_count == 0
        assert stream.is_closed


async def test_an_idle_connection_expires() -> None:
    """Not before its idle timeout."""
    async with origin() as server, connector() as transport:
        peer = HttpPeer(server.address)
        stream = await used(transport, peer)
        started = time.monotonic()
        transport.release_stream(stream, peer.reuse_key(), 0.04)
        await eventually(lambda: transport.idle_count == 0, "expiry")

        # Half the time: timers of the event loop may be a little early.
        assert time.monotonic() - started >= 0.02
        assert stream.is_closed


async def test_reuse_stops_the_idle_timeout() -> None:
    """A connection in use does not expire; released again it has its whole time."""
    async with origin() as server, connector() as transport:
        peer = HttpPeer(server.address)
        stream = await used(transport, peer)
        transport.release_stream(stream, peer.reuse_key(), 0.02)
        assert transport.reused_stream(peer) is stream
        await asyncio.sleep(0.05)
        assert not stream.is_closed
        transport.release_stream(stream, peer.reuse_key(), None)
        await asyncio.sleep(0.05)

        assert transport.idle_count == 1
        assert not stream.is_closed


async def test_an_idle_timeout_of_zero_switches_reuse_off() -> None:
    """The connection is closed after one exchange."""
    async with origin() as server, connector() as transport:
        peer = HttpPeer(server.address)
        stream = await used(transport, peer)
        transport.release_stream(stream, peer.reuse_key(), 0)

        assert stream.is_closed
        assert transport.idle_count == 0


async def test_eviction() -> None:
    """A full pool closes the connection that was released longest ago, whatever its peer."""
    options = ConnectorOptions(keepalive_pool_size=2)
    async with origin() as server, connector(options) as transport:
        peers = [HttpPeer(server.address, group_key=number) for number in range(3)]
        streams = [await used(transport, peer) for peer in peers]
        for peer, stream in zip(peers, streams, strict=True):
            transport.release_stream(stream, peer.reuse_key(), 60.0)

        assert transport.idle_count == 2
        assert [stream.is_closed for stream in streams] == [True, False, False]
        assert transport.reused_stream(peers[0]) is None


async def test_releasing_twice_is_a_mistake() -> None:
    """It would give one connection to two users."""
    async with origin() as server, connector() as transport:
        peer = HttpPeer(server.address)
        stream = await used(transport, peer)
        transport.release_stream(stream, peer.reuse_key(), 60.0)

        with pytest.raises(ValueError, match="already"):
            transport.release_stream(stream, peer.reuse_key(), 60.0)
        assert transport.reused_stream(peer) is stream
        stream.close()


async def test_the_same_descriptor_again_and_again() -> None:
    """Watchers are kept per descriptor and serve its next connection."""
    async with origin() as server, connector() as transport:
        peer = HttpPeer(server.address)
        for _ in range(20):
            stream = await used(transport, peer)
            transport.release_stream(stream, peer.reuse_key(), 60.0)
            assert transport.reused_stream(peer) is stream
            stream.close()
            await stream.wait_closed()

        assert len(transport._watchers) < 20


async def test_reuse_rejects_fd_mismatch(caplog: pytest.LogCaptureFixture) -> None:
    """A connection under another peer's key goes to nobody."""
    async with origin() as server, connector() as transport:
        stream = await used(transport, HttpPeer(server.address))
        other = HttpPeer(InetAddress("127.0.0.1", 1))
        transport.release_stream(stream, other.reuse_key(), 60.0)

        assert transport.reused_stream(other) is None
        assert stream.is_closed
        assert "does not lead to" in caplog.text


async def test_peers_by_name_are_reused() -> None:
    """Their address is not known beforehand, and is not held against them."""
    names = Names(**{"origin.test": ["127.0.0.1"]})
    async with origin() as server, connector(resolver=names) as transport:
        peer = HttpPeer(f"origin.test:{server.port}")
        stream = await used(transport, peer)
        transport.release_stream(stream, peer.reuse_key(), 60.0)

        assert transport.reused_stream(peer) is stream
        stream.close()


# ----------------------------------------------------- streams of the user's making


class Handmade(Wire):
    """A stream without a descriptor, whose maker has forgotten about callbacks."""

    @property
    def id(self) -> int:
        return -1

    @property
    def is_closed(self) -> bool:
        return bool(self.ends)


class Maker:
    """Connects to nothing."""

    async def connect(self, address: SocketAddress | HostAddress) -> Stream:
        return Handmade()


async def test_streams_without_a_descriptor_are_pooled() -> None:
    """Several at a time, though they all have the same number."""
    async with connector() as transport:
        peer = HttpPeer("somewhere:1", options=PeerOptions(custom_l4=Maker()))
        streams = [await transport.new_stream(peer) for _ in range(2)]
        for stream in streams:
            transport.release_stream(stream, peer.reuse_key(), 60.0)

        assert transport.idle_count == 2
        assert transport.reused_stream(peer) is streams[1]
        assert transport.reused_stream(peer) is streams[0]


@pytest.mark.parametrize("event", ["data", "end"])
async def test_a_stream_that_calls_nobody_is_looked_at(event: str) -> None:
    """What its watcher was not told is noticed before it is used again."""
    async with connector() as transport:
        peer = HttpPeer("somewhere:1", options=PeerOptions(custom_l4=Maker()))
        stream = await transport.new_stream(peer)
        assert isinstance(stream, Handmade)
        transport.release_stream(stream, peer.reuse_key(), 60.0)
        stream.on_data = None
        stream.set_on_disconnect(None)
        if event == "data":
            stream.deliver(b"x")
        else:
            stream.end()

        assert transport.reused_stream(peer) is None
        assert stream.ends == ["close"]


# ----------------------------------------------------------------------- the end


async def test_closing_closes_what_is_idle() -> None:
    """Streams in use stay their users'; giving one back closes it."""
    async with origin() as server:
        transport = TransportConnector()
        peer = HttpPeer(server.address)
        idle, busy = await used(transport, peer), await used(transport, peer)
        transport.release_stream(idle, peer.reuse_key(), 60.0)
        await transport.close()

        assert (idle.is_closed, busy.is_closed) == (True, False)
        transport.release_stream(busy, peer.reuse_key(), 60.0)
        assert (idle.is_closed, busy.is_closed) == (True, True)
        with pytest.raises(Error) as caught:
            await transport.new_stream(peer)
        assert caught.value.etype is ErrorType.CONNECTION_CLOSED
        assert caught.value.esource is ErrorSource.INTERNAL
        await transport.close()


async def test_options_out_of_range_are_told_before_connecting() -> None:
    """It is the programmer's mistake, and nothing was opened."""
    async with connector() as transport:
        peer = HttpPeer("127.0.0.1:80", options=PeerOptions(dscp=99))

        with pytest.raises(ValueError, match="dscp"):
            await transport.get_stream(peer)
