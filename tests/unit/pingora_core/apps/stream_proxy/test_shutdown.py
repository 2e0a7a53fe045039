"""How forwarded connections end when the server stops, or when they have lasted long enough."""

from __future__ import annotations

import asyncio

import pytest

from pingora_core.apps import StreamEnding, StreamProxyApp, StreamProxyOptions
from pingora_core.connectors import TransportConnector
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.upstreams import BasicPeer
from pingora_error import Error, ErrorType
from tests.support.waiting import eventually
from tests.unit.pingora_core.apps.stream_proxy.rig import (
    FakeTime,
    Forwarder,
    Hello,
    is_reset,
    receive,
    rig,
)
from tests.unit.pingora_core.connectors.rig import full_backlog
from tests.unit.pingora_core.protocols.tls.rig import Wire

pytestmark = pytest.mark.usefixtures("no_leaks")

PATIENT = StreamProxyOptions(closing_timeout=60)


async def test_shutdown_lets_connections_end() -> None:
    """A shutdown waits for the connections there are, which go on as before."""
    async with rig() as proxy:
        client, server = await proxy.pair()
        proxy.switch.start()
        await client.send(b"still here")
        assert await receive(server, 10) == b"still here"
        client.end()
        server.end()
        record = await proxy.ended()

    assert record.error is None
    assert record.session.ending is StreamEnding.COMPLETED
    assert record.session.is_process_shutting_down


async def test_end_of_streams_ends_in_order() -> None:
    """The upstream is told that the client has ended; its last words still arrive."""
    async with rig(PATIENT) as proxy:
        client, server = await proxy.pair()
        await client.send(b"question")
        assert await receive(server, 8) == b"question"
        proxy.switch.end_streams()
        assert await server.recv() == b""
        await server.send(b"last words")
        server.end()
        assert await client.recv_all() == b"last words"
        record = await proxy.ended()

    assert record.error is None
    assert record.session.ending is StreamEnding.SHUTDOWN
    assert record.sent == (8, 10)


async def test_what_has_arrived_is_forwarded_at_the_end() -> None:
    """Bytes that came before it was time to end reach the upstream, however many."""
    data = bytes(range(256)) * 65536
    async with rig(PATIENT, receive_buffer=65536) as proxy:
        client, server = await proxy.pair()
        sending = asyncio.create_task(client.send(data))
        await eventually(lambda: proxy.upstreams[0].needs_drain)
        proxy.switch.end_streams()
        received = await server.recv_all()
        server.end()
        assert data.startswith(received)
        record = await proxy.ended()
        sending.cancel()

    assert len(received) >= 65536
    assert record.sent[0] == len(received) == record.session.bytes_received
    assert record.error is None


async def test_upstream_that_does_not_end_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not end within the closing time is closed, in order."""
    time = FakeTime(monkeypatch)
    async with rig(StreamProxyOptions(closing_timeout=7)) as proxy:
        client, server = await proxy.pair()
        proxy.switch.end_streams()
        assert await server.recv() == b""
        await server.send(b"more")
        assert await receive(client, 4) == b"more"
        time.advance(6)
        assert not proxy.app.records
        time.advance(2)
        assert await client.recv() == b""
        client.close()
        server.close()
        record = await proxy.ended()

    assert record.error is None
    assert record.session.ending is StreamEnding.SHUTDOWN


async def test_end_of_streams_while_filtered() -> None:
    """Where bytes are filtered, the filter is told of that end too."""
    ends: list[bool] = []

    class Filtering(Forwarder):
        async def downstream_data_filter(
            self, session: object, data: bytes | None, end_of_stream: bool, ctx: list[str]
        ) -> bytes | None:
            ends.append(end_of_stream)
            return b"bye" if end_of_stream else data

    async with rig(PATIENT, make=Filtering) as proxy:
        client, server = await proxy.pair()
        proxy.switch.end_streams()
        assert await server.recv_all() == b"bye"
        server.end()
        assert await client.recv() == b""
        assert (await proxy.ended()).error is None

    assert ends == [True]


async def test_end_of_streams_before_the_hello() -> None:
    """A client that has said nothing yet is closed at once."""
    async with rig(make=Hello) as proxy:
        client = await proxy.connect()
        await eventually(lambda: proxy.app.contexts)
        proxy.switch.end_streams()
        assert await client.recv() == b""
        client.close()
        await eventually(lambda: proxy.app.records)

    assert proxy.record.error is None
    assert proxy.record.session.ending is StreamEnding.SHUTDOWN


async def test_end_of_streams_while_connecting() -> None:
    """A connection that was being made is not used any more."""
    connecting = asyncio.Event()
    go_on = asyncio.Event()

    class Slow(Forwarder):
        async def connected_to_upstream(self, *_: object) -> None:
            connecting.set()
            await go_on.wait()

    async with rig(make=Slow) as proxy:
        client = await proxy.connect()
        await client.send(b"too late")
        server = await proxy.accept()
        await connecting.wait()
        proxy.switch.end_streams()
        go_on.set()
        assert await server.recv() == b""
        assert await client.recv() == b""
        client.close()
        record = await proxy.ended()

    assert record.error is None
    assert record.session.ending is StreamEnding.SHUTDOWN
    assert record.sent == (0, 0)


async def test_no_attempt_after_the_end_of_streams() -> None:
    """While the server ends its streams nothing more is tried."""
    async with full_backlog() as address:
        options = StreamProxyOptions(connect_timeout=0.05)
        app = Retrying(BasicPeer(address))
        async with rig(options, make=lambda _: app) as proxy:
            client = await proxy.connect()
            await eventually(lambda: app.sessions)
            proxy.switch.end_streams()
            assert await client.recv() == b""
            client.close()
            record = await proxy.ended()

    assert record.session.attempts == 1
    assert record.error is None


class Retrying(Forwarder):
    """Allows another attempt always."""

    async def fail_to_connect(self, *args: object) -> Error:
        error = args[-1]
        assert isinstance(error, Error)
        error.set_retry(True)
        return error


async def test_longest_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that has lasted for as long as it may is ended in order, active or not."""
    time = FakeTime(monkeypatch)
    async with rig(StreamProxyOptions(max_lifetime=100, closing_timeout=60)) as proxy:
        client, server = await proxy.pair()
        time.advance(99)
        await client.send(b"x")
        assert await receive(server, 1) == b"x"
        time.advance(2)
        assert await server.recv() == b""
        server.end()
        assert await client.recv() == b""
        record = await proxy.ended()

    assert record.error is None
    assert record.session.ending is StreamEnding.LIFETIME


async def test_end_of_streams_at_the_end_of_a_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is ending in order already is not told to again."""
    time = FakeTime(monkeypatch)
    async with rig(StreamProxyOptions(max_lifetime=100, closing_timeout=60)) as proxy:
        client, server = await proxy.pair()
        time.advance(101)
        assert await server.recv() == b""
        proxy.switch.end_streams()
        server.end()
        assert await client.recv() == b""
        record = await proxy.ended()

    assert str(record.session.ending) == "lifetime"


async def test_silence_while_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence counts while a connection ends in order, too."""
    time = FakeTime(monkeypatch)
    async with rig(StreamProxyOptions(half_closed_timeout=10, closing_timeout=100)) as proxy:
        client, server = await proxy.pair()
        proxy.switch.end_streams()
        assert await server.recv() == b""
        time.advance(11)
        assert await is_reset(client)
        record = await proxy.ended()

    assert record.session.ending is StreamEnding.SHUTDOWN
    assert record.error is not None
    assert record.error.etype is ErrorType.READ_TIMEDOUT


async def test_end_of_the_grace_period() -> None:
    """What is left at the end of the grace period is reset, and told about."""
    async with rig() as proxy:
        client, server = await proxy.pair()
        await client.send(b"x")
        await receive(server, 1)
        proxy.stop()

        assert await is_reset(client)
        assert await is_reset(server)
        record = await proxy.ended()

    assert record.error is not None
    assert record.error.etype is ErrorType.CONNECTION_CLOSED
    assert record.session.ending is StreamEnding.CANCELLED


async def test_cancelled_while_it_ends() -> None:
    """A connection that is being ended in order, and does not end, can be cut off."""
    async with rig(PATIENT, receive_buffer=65536) as proxy:
        client, server = await proxy.pair()
        sending = asyncio.create_task(client.send(bytes(16 << 20)))
        await eventually(lambda: proxy.upstreams[0].needs_drain)
        proxy.switch.end_streams()
        proxy.stop()
        with pytest.raises(ConnectionError):
            await sending
        assert await is_reset(server)
        record = await proxy.ended()

    assert record.error is not None
    assert record.session.ending is StreamEnding.SHUTDOWN


async def test_tls_upstream_is_closed_at_once() -> None:
    """An upstream that can only be told by a close is not waited for."""

    class Unending(Wire):
        @property
        def can_write_eof(self) -> bool:
            return False

        def fail(self, error: Error) -> None:
            super().fail(error)
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_exception(error)

    class Ready(TransportConnector):
        async def new_stream(self, *_: object, **__: object) -> Wire:
            return upstream

    client, upstream = Unending(), Unending()
    app = Forwarder(BasicPeer("192.0.2.1:1"))
    served = StreamProxyApp(app, connector=Ready())
    switch = ShutdownSwitch()
    running = asyncio.create_task(served.process_new(client, switch.watch))
    await eventually(lambda: app.sessions and app.sessions[0].upstream)
    client.deliver(b"question")
    switch.end_streams()
    await running
    await served.cleanup()

    assert upstream.take_sent() == b"question"
    assert upstream.ends[0] == client.ends[0] == "discard"
    assert app.records[0].error is None
    assert app.records[0].session.ending is StreamEnding.SHUTDOWN
