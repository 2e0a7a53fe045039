"""Whole connections are forwarded: nothing is lost, nothing is kept, every end is passed on."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from pingora_core.apps import StreamEnding, StreamProxyOptions
from pingora_core.upstreams import BasicPeer
from pingora_error import ErrorSource, ErrorType
from tests.support.ports import free_port
from tests.support.waiting import eventually
from tests.unit.pingora_core.apps.stream_proxy.rig import (
    FakeTime,
    Forwarder,
    is_reset,
    receive,
    rig,
)
from tests.unit.pingora_core.connectors.rig import full_backlog
from tests.unit.pingora_core.protocols.tls.hellos import from_openssl

if TYPE_CHECKING:
    from tests.unit.pingora_core.protocols.l4.rig import Peer

pytestmark = pytest.mark.usefixtures("no_leaks")

HELLO = from_openssl()
MIB = 1 << 20


def pattern(size: int, seed: int) -> bytes:
    # A period that is no divisor of any buffer shows whatever is lost or out of order.
    return (bytes((i * seed) & 0xFF for i in range(65521)) * (size // 65521 + 1))[:size]


# ------------------------------------------------------------------------------------- bytes


async def test_bytes_go_both_ways() -> None:
    """What one side sends arrives at the other; both ends are counted."""
    async with rig() as proxy:
        client, server = await proxy.pair()
        await client.send(b"question")
        assert await receive(server, 8) == b"question"
        await server.send(b"answers")
        assert await receive(client, 7) == b"answers"
        client.end()
        assert await server.recv() == b""
        server.end()
        assert await client.recv() == b""

        record = await proxy.ended()

    assert (record.error, *record.sent) == (None, 8, 7)
    session = record.session
    assert session.peer is proxy.app.peer
    assert session.client_hello is None
    assert session.ending is StreamEnding.COMPLETED
    assert (session.bytes_received, session.upstream_bytes_received) == (8, 7)
    assert session.connect_time is not None
    assert 0 < session.connect_time <= session.duration


async def test_large_transfers_at_once() -> None:
    """Megabytes in both directions at the same time arrive whole and in order."""
    up, down = pattern(12 * MIB, 7), pattern(9 * MIB, 11)
    async with rig() as proxy:
        client, server = await proxy.pair()

        async def send(peer: Peer, data: bytes) -> None:
            await peer.send(data)
            peer.end()

        async with asyncio.timeout(30):
            _, _, received_up, received_down = await asyncio.gather(
                send(client, up), send(server, down), server.recv_all(), client.recv_all()
            )
        record = await proxy.ended()

    assert received_up == up
    assert received_down == down
    assert (record.error, *record.sent) == (None, len(up), len(down))


async def test_server_speaks_first() -> None:
    """Protocols in which the server greets work: nothing is waited for from the client."""
    async with rig() as proxy:
        client, server = await proxy.pair()
        await server.send(b"220 ready\r\n")

        assert await receive(client, 11) == b"220 ready\r\n"


@pytest.mark.parametrize("slow", ["upstream", "client"])
async def test_slow_reader_holds_the_sender_back(slow: str) -> None:
    """What the proxy holds for a reader that does not read is bounded; then it all arrives."""
    data = pattern(16 * MIB, 13)
    async with rig(receive_buffer=65536) as proxy:
        client, server = await proxy.pair(receive_buffer=65536)
        reader, writer = (server, client) if slow == "upstream" else (client, server)
        sending = asyncio.create_task(writer.send(data))
        (session,), (up,) = proxy.app.sessions, proxy.upstreams
        down = session.downstream
        source, sink = (down, up) if slow == "upstream" else (up, down)

        await eventually(lambda: sink.needs_drain and source.buffered >= 65536, "a full proxy")
        for _ in range(20):
            await asyncio.sleep(0.005)
            assert source.buffered <= 65536 + 2 * 262144
        assert not sending.done()
        received = await receive(reader, len(data))
        await sending

        assert received == data


# --------------------------------------------------------------------------------- half-close


async def test_half_close_by_the_client() -> None:
    """A client that has said everything still gets its answer."""
    async with rig() as proxy:
        client, server = await proxy.pair()
        await client.send(b"request")
        client.end()
        assert await server.recv_all() == b"request"
        await server.send(pattern(MIB, 3)[:300000])
        server.end()

        assert await client.recv_all() == pattern(MIB, 3)[:300000]
        assert (await proxy.ended()).error is None


async def test_half_close_by_the_upstream() -> None:
    """An upstream that has said everything still hears the client."""
    async with rig() as proxy:
        client, server = await proxy.pair()
        await server.send(b"hello")
        server.end()
        assert await client.recv_all() == b"hello"
        await client.send(b"late")
        client.end()

        assert await server.recv_all() == b"late"
        assert (await proxy.ended()).error is None


async def test_upstream_answers_early_and_leaves() -> None:
    """An answer to an upload that nobody waits for arrives, though the upload cannot."""
    async with rig() as proxy:
        client, server = await proxy.pair()
        await client.send(b"x" * 100000)
        await receive(server, 100000)
        await server.send(b"413 too large")
        server.close()
        with suppress(OSError):
            for _ in range(50):
                await client.send(b"y" * 10000)
                await asyncio.sleep(0)

        assert await receive(client, 13) == b"413 too large"
        client.close()
        record = await proxy.ended()

    assert record.session.bytes_sent == 13


# ----------------------------------------------------------------------------------- failures


async def test_upstream_refuses(caplog: pytest.LogCaptureFixture) -> None:
    """Without an upstream the client is reset, and one line in the log says why."""
    port = free_port()
    async with rig(make=lambda _: Forwarder(BasicPeer(f"127.0.0.1:{port}"))) as proxy:
        client = await proxy.connect()

        assert await is_reset(client)
        record = await proxy.ended()

    assert record.error is not None
    assert record.error.etype is ErrorType.CONNECT_REFUSED
    (line,) = [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING]
    assert f"to <BasicPeer 127.0.0.1:{port}" in line
    assert "ConnectRefused" in line


async def test_connect_deadline() -> None:
    """An upstream that does not answer is given up."""
    async with full_backlog() as address:
        options = StreamProxyOptions(connect_timeout=0.05)
        async with rig(options, make=lambda _: Forwarder(BasicPeer(address))) as proxy:
            client = await proxy.connect()

            assert await is_reset(client)
            error = (await proxy.ended()).error

    assert error is not None
    assert (error.etype, error.esource) == (ErrorType.CONNECT_TIMEDOUT, ErrorSource.UPSTREAM)


async def test_client_resets() -> None:
    """A client's reset reaches the upstream as a reset, after what it had sent."""
    async with rig() as proxy:
        client, server = await proxy.pair()
        await client.send(b"incomplete")
        assert await receive(server, 10) == b"incomplete"
        client.reset()

        assert await is_reset(server)
        error = (await proxy.ended()).error

    assert error is not None
    assert (error.etype, error.esource) == (ErrorType.READ_ERROR, ErrorSource.DOWNSTREAM)


async def test_upstream_resets() -> None:
    """An upstream's reset reaches the client as a reset: half an answer looks like half."""
    async with rig() as proxy:
        client, server = await proxy.pair()
        await server.send(b"half")
        assert await receive(client, 4) == b"half"
        server.reset()

        assert await is_reset(client)
        error = (await proxy.ended()).error

    assert error is not None
    assert (error.etype, error.esource) == (ErrorType.READ_ERROR, ErrorSource.UPSTREAM)


async def test_client_vanishes_while_it_is_waited_for() -> None:
    """A client that is reset while its answer waits for room ends the connection."""
    async with rig() as proxy:
        client, server = await proxy.pair(receive_buffer=65536)
        sending = asyncio.create_task(server.send(bytes(16 * MIB)))
        await eventually(
            lambda: proxy.app.sessions and proxy.app.sessions[0].downstream.needs_drain
        )
        client.reset()

        with pytest.raises(ConnectionError):
            await sending
        assert (await proxy.ended()).error is not None


async def test_application_raises(caplog: pytest.LogCaptureFixture) -> None:
    """What the application raises ends that connection only, and is logged with its trace."""
    async with rig(make=lambda _: Forwarder(KeyError("routes"))) as proxy:
        client = await proxy.connect()
        assert await is_reset(client)
        record = await proxy.ended()
        assert proxy.service.addresses

    assert record.error is not None
    assert record.error.etype is ErrorType.INTERNAL_ERROR
    assert isinstance(record.error.root_cause, KeyError)
    (line,) = [each for each in caplog.records if "to nowhere" in each.getMessage()]
    assert line.exc_info is not None


# ------------------------------------------------------------------------------------ silence


async def test_idle_deadline_is_for_both_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte in either direction keeps a connection; silence in both ends it."""
    time = FakeTime(monkeypatch)
    async with rig(StreamProxyOptions(idle_timeout=100)) as proxy:
        client, server = await proxy.pair()
        for sender, receiver in ((client, server), (server, client), (server, client)):
            time.advance(99)
            await sender.send(b"x")
            assert await receive(receiver, 1) == b"x"
        time.advance(99)
        assert not proxy.app.records

        time.advance(2)
        assert await is_reset(client)
        assert await is_reset(server)
        error = (await proxy.ended()).error

    assert error is not None
    assert (error.etype, error.context) == (
        ErrorType.READ_TIMEDOUT,
        "nothing was forwarded for 100 s",
    )


async def test_idle_deadline_while_a_reader_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that takes nothing for the whole period is given up."""
    time = FakeTime(monkeypatch)
    async with rig(StreamProxyOptions(idle_timeout=100), receive_buffer=65536) as proxy:
        client, _ = await proxy.pair()
        sending = asyncio.create_task(client.send(bytes(16 * MIB)))
        await eventually(lambda: proxy.upstreams[0].needs_drain)
        # More than once, because bytes may still be moving into the kernel's buffers.
        async with asyncio.timeout(30):
            while not proxy.app.records:
                time.advance(101)
                await asyncio.sleep(0.01)

        with pytest.raises(ConnectionError):
            await sending
        error = (await proxy.ended()).error

    assert error is not None
    assert error.etype is ErrorType.READ_TIMEDOUT


async def test_half_closed_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once one direction has ended, less silence is borne."""
    time = FakeTime(monkeypatch)
    async with rig(StreamProxyOptions(idle_timeout=100, half_closed_timeout=20)) as proxy:
        client, server = await proxy.pair()
        client.end()
        assert await server.recv() == b""
        time.advance(19)
        await server.send(b"x")
        assert await receive(client, 1) == b"x"
        time.advance(21)

        assert await is_reset(client)
        error = (await proxy.ended()).error

    assert error is not None
    assert error.context == "nothing was forwarded for 20 s"


async def test_many_connections_leave_nothing() -> None:
    """Connections that end in every way leave no socket, no task and no deadline behind."""
    async with rig() as proxy:
        for number in range(40):
            client, server = await proxy.pair()
            await client.send(b"ping")
            await receive(server, 4)
            ends = (client.end, server.end, client.reset, server.reset, client.close, server.close)
            ends[number % 6]()
            client.close()
            server.close()
        await eventually(lambda: len(proxy.app.records) == 40)
        downstreams = [session.downstream for session in proxy.app.sessions]
        streams = (*downstreams, *proxy.upstreams)
        await eventually(lambda: all(stream.is_closed for stream in streams))
        assert len(streams) == 80
