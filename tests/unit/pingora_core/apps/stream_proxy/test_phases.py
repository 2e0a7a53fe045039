"""The callbacks of a stream proxy: which run, in which order, and what they decide."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from pingora_core.apps import StreamEnding, StreamProxy, StreamProxyApp, StreamProxyOptions
from pingora_core.protocols.tls.client_hello import UNRECOGNIZED_NAME, fatal_alert
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.upstreams import BasicPeer
from pingora_error import Error, ErrorSource, ErrorType
from tests.support.ports import free_port
from tests.support.waiting import eventually
from tests.unit.pingora_core.apps.stream_proxy.rig import Forwarder, Hello, is_reset, receive, rig
from tests.unit.pingora_core.protocols.tls.hellos import from_openssl
from tests.unit.pingora_core.protocols.tls.rig import Wire

if TYPE_CHECKING:
    from pingora_core.apps import StreamSession
    from pingora_core.protocols.digest import Digest
    from pingora_core.protocols.tls.client_hello import ClientHello
    from pingora_core.upstreams.peer import Peer as UpstreamPeer

pytestmark = pytest.mark.usefixtures("no_leaks")

HELLO = from_openssl()


class Telling(Hello):
    """Overrides every callback; ``failing`` names the one that raises ``failure``."""

    failing = ""
    failure: Exception = KeyError("a fault of the program")

    def note(self, ctx: list[str], name: str) -> None:
        ctx.append(name)
        if name == self.failing:
            raise self.failure

    async def connection_filter(self, session: StreamSession, ctx: list[str]) -> bool:
        self.note(ctx, "connection_filter")
        return await super().connection_filter(session, ctx)

    async def client_hello_filter(
        self, session: StreamSession, hello: ClientHello, ctx: list[str]
    ) -> bool:
        assert session.client_hello is hello
        self.note(ctx, "client_hello_filter")
        return await StreamProxy.client_hello_filter(self, session, hello, ctx)

    async def upstream_peer(self, session: StreamSession, ctx: list[str]) -> UpstreamPeer:
        peer = await super().upstream_peer(session, ctx)
        if self.failing == "upstream_peer":
            raise self.failure
        return peer

    async def fail_to_connect(
        self, session: StreamSession, peer: UpstreamPeer, ctx: list[str], error: Error
    ) -> Error:
        self.note(ctx, "fail_to_connect")
        return await super().fail_to_connect(session, peer, ctx, error)

    async def connected_to_upstream(
        self, session: StreamSession, peer: UpstreamPeer, digest: Digest, ctx: list[str]
    ) -> None:
        assert peer is session.peer
        assert digest is session.upstream_digest
        self.note(ctx, "connected_to_upstream")

    async def downstream_data_filter(
        self, session: StreamSession, data: bytes | None, end_of_stream: bool, ctx: list[str]
    ) -> bytes | None:
        self.note(ctx, "downstream_data_filter")
        return await super().downstream_data_filter(session, data, end_of_stream, ctx)

    async def upstream_data_filter(
        self, session: StreamSession, data: bytes | None, end_of_stream: bool, ctx: list[str]
    ) -> bytes | None:
        self.note(ctx, "upstream_data_filter")
        return await super().upstream_data_filter(session, data, end_of_stream, ctx)

    async def logging(self, session: StreamSession, error: Error | None, ctx: list[str]) -> None:
        await super().logging(session, error, ctx)
        if self.failing == "logging":
            raise self.failure


async def test_order_of_the_callbacks() -> None:
    """Every callback is called in the order of the phases; the filters also see the ends."""
    async with rig(make=Telling) as proxy:
        client = await proxy.connect()
        await client.send(HELLO)
        server = await proxy.accept()
        assert await receive(server, len(HELLO)) == HELLO
        await server.send(b"answer")
        assert await receive(client, 6) == b"answer"
        client.end()
        assert await server.recv() == b""
        server.end()
        record = await proxy.ended()

    assert record.ctx == [
        "connection_filter",
        "client_hello_filter",
        "upstream_peer",
        "connected_to_upstream",
        "downstream_data_filter",
        "upstream_data_filter",
        "downstream_data_filter",
        "upstream_data_filter",
        "logging",
    ]
    assert record.error is None


@pytest.mark.parametrize(
    "failing",
    [
        "connection_filter",
        "client_hello_filter",
        "upstream_peer",
        "connected_to_upstream",
        "downstream_data_filter",
        "upstream_data_filter",
    ],
)
async def test_a_callback_raises(failing: str, caplog: pytest.LogCaptureFixture) -> None:
    """What a callback raises resets that connection only, and is logged with its name."""

    class Failing(Telling):
        pass

    Failing.failing = failing
    async with rig(make=Failing) as proxy:
        client = await proxy.connect()
        await client.send(HELLO)
        if failing in {"connected_to_upstream", "downstream_data_filter", "upstream_data_filter"}:
            server = await proxy.accept()
            if failing == "upstream_data_filter":
                await server.send(b"answer")
            assert await is_reset(server)
        assert await is_reset(client)
        await eventually(lambda: proxy.app.records)
        (record,) = proxy.app.records
        assert proxy.service.addresses

    assert record.ctx.count(failing) == 1
    assert record.ctx[-1] == "logging"
    error = record.error
    assert error is not None
    assert error.root_etype is ErrorType.INTERNAL_ERROR
    assert isinstance(error.root_cause, KeyError)
    assert record.session.ending is StreamEnding.FAILED
    (line,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert f"KeyError in {failing}" in line.getMessage()
    assert line.exc_info is not None


async def test_an_error_of_a_callback_is_kept() -> None:
    """The `Error` that a callback raises is the one that is told."""
    failure = Error.internal(ErrorType.INVALID_CERT, "not this one")

    class Failing(Telling):
        failing = "downstream_data_filter"

    Failing.failure = failure
    async with rig(make=Failing) as proxy:
        client = await proxy.connect()
        await client.send(HELLO)
        assert await is_reset(await proxy.accept())
        assert (await proxy.ended()).error is failure


async def test_logging_raises(caplog: pytest.LogCaptureFixture) -> None:
    """A callback that fails at the end is logged and disturbs nobody."""

    class Failing(Telling):
        failing = "logging"

    async with rig(make=Failing) as proxy:
        client = await proxy.connect()
        await client.send(HELLO)
        server = await proxy.accept()
        client.end()
        server.end()
        await proxy.ended()
        await eventually(lambda: "logging failed" in caplog.text)


async def test_error_log_can_be_suppressed(caplog: pytest.LogCaptureFixture) -> None:
    """What the program does not want to see in the log is not there, yet told."""

    class Silent(Forwarder):
        def suppress_error_log(self, session: StreamSession, ctx: list[str], error: Error) -> bool:
            return True

    async with rig(make=lambda _: Silent(KeyError("routes"))) as proxy:
        client = await proxy.connect()
        assert await is_reset(client)
        assert (await proxy.ended()).error is not None

    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


async def test_logging_need_not_be_overridden(caplog: pytest.LogCaptureFixture) -> None:
    """A proxy that does not want to be told of ends still has its errors logged."""

    class Plain(StreamProxy[None]):
        def new_ctx(self) -> None:
            return None

        async def upstream_peer(self, session: StreamSession, ctx: None) -> UpstreamPeer:
            raise Error.up(ErrorType.CONNECT_ERROR, "no upstream today")

    served = StreamProxyApp(Plain())
    wire = Wire()
    await served.process_new(wire, ShutdownSwitch().watch)
    await served.cleanup()

    assert wire.ends == ["abort"]
    assert "no upstream today" in caplog.text


async def test_new_ctx_raises(caplog: pytest.LogCaptureFixture) -> None:
    """Without a context there is nobody to tell; the listener logs it and resets the client."""

    class Failing(Forwarder):
        def new_ctx(self) -> list[str]:
            raise KeyError

    async with rig(make=Failing) as proxy:
        assert await is_reset(await proxy.connect())
        await eventually(lambda: "failed" in caplog.text)


# ------------------------------------------------------------------------------------ refusal


class Refusing(Forwarder):
    """Refuses every connection with an alert."""

    async def connection_filter(self, session: StreamSession, ctx: list[str]) -> bool:
        ctx.append("connection_filter")
        session.downstream.write(fatal_alert(UNRECOGNIZED_NAME))
        return False


class RefusingHellos(Forwarder):
    """Refuses every name with an alert."""

    async def client_hello_filter(
        self, session: StreamSession, hello: ClientHello, ctx: list[str]
    ) -> bool:
        ctx.append("client_hello_filter")
        session.downstream.write(fatal_alert(UNRECOGNIZED_NAME))
        return False


@pytest.mark.parametrize("kind", [Refusing, RefusingHellos])
async def test_refusal_is_heard(kind: type[Forwarder]) -> None:
    """What is written before a refusal arrives, even though the client goes on sending."""
    async with rig(make=kind) as proxy:
        client = await proxy.connect()
        with suppress(OSError):
            await client.send(HELLO + b"early data" * 20000)

        assert await receive(client, 7) == fatal_alert(UNRECOGNIZED_NAME)
        client.close()
        record = await proxy.ended()

    assert record.error is None
    assert record.session.ending is StreamEnding.REFUSED
    assert record.session.peer is None
    assert len(record.ctx) == 2


async def test_peeking_takes_nothing_away() -> None:
    """A filter may look at the first bytes; the upstream gets them all the same."""

    class Peeking(Forwarder):
        async def connection_filter(self, session: StreamSession, ctx: list[str]) -> bool:
            return (await session.downstream.peek(4, 5.0)).startswith(b"SSH-")

    async with rig(make=Peeking) as proxy:
        client = await proxy.connect()
        await client.send(b"SSH-2.0-client\r\n")
        server = await proxy.accept()
        assert await receive(server, 16) == b"SSH-2.0-client\r\n"


# ----------------------------------------------------------------------------------- attempts


class Retrying(Forwarder):
    """Tries peers in turn; the last one is the listener of the rig.

    Attributes:
        peers: What to try.
    """

    def __init__(self, peer: UpstreamPeer, *peers: UpstreamPeer) -> None:
        super().__init__(peer)
        self.peers = [*peers, peer]

    async def upstream_peer(self, session: StreamSession, ctx: list[str]) -> UpstreamPeer:
        await super().upstream_peer(session, ctx)
        return self.peers.pop(0)

    async def fail_to_connect(
        self, session: StreamSession, peer: UpstreamPeer, ctx: list[str], error: Error
    ) -> Error:
        ctx.append(f"fail_to_connect {session.attempts}")
        assert error.etype is ErrorType.CONNECT_REFUSED
        error.set_retry(True)
        return error


async def test_another_upstream_is_tried() -> None:
    """After a failure that allows it the next peer is asked for, and gets every byte."""
    dead = BasicPeer(f"127.0.0.1:{free_port()}")
    async with rig(make=lambda peer: Retrying(peer, dead)) as proxy:
        client = await proxy.connect()
        await client.send(b"hello")
        server = await proxy.accept()
        assert await receive(server, 5) == b"hello"
        client.end()
        server.end()
        record = await proxy.ended()

    assert record.session.attempts == 2
    assert record.ctx == ["upstream_peer", "fail_to_connect 1", "upstream_peer", "logging"]


async def test_a_failed_attempt_is_judged_by_default_as_the_last(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The callback is told of the failure; nothing else said, the connection ends with it."""
    dead = BasicPeer(f"127.0.0.1:{free_port()}")
    async with rig(make=lambda _: Telling(dead)) as proxy:
        client = await proxy.connect()
        await client.send(HELLO)
        assert await is_reset(client)
        record = await proxy.ended()

    assert record.ctx[-3:] == ["upstream_peer", "fail_to_connect", "logging"]
    assert "in phase connect" in caplog.text


async def test_failed_attempts_can_be_kept_out_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An attempt that is followed by another one is logged, unless the program says no."""

    class Silent(Retrying):
        def suppress_error_log(self, session: StreamSession, ctx: list[str], error: Error) -> bool:
            return session.attempts > 1

    dead = BasicPeer(f"127.0.0.1:{free_port()}")
    async with rig(make=lambda peer: Silent(peer, *[dead] * 9)) as proxy:
        assert await is_reset(await proxy.connect())
        await proxy.ended()

    (line,) = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert line.endswith("attempt 1")


async def test_attempts_are_bounded() -> None:
    """However often a callback asks for another attempt, there are no more than allowed."""
    dead = BasicPeer(f"127.0.0.1:{free_port()}")
    async with rig(make=lambda peer: Retrying(peer, *[dead] * 9)) as proxy:
        client = await proxy.connect()
        assert await is_reset(client)
        record = await proxy.ended()

    assert record.session.attempts == 3
    assert record.error is not None
    assert (record.error.etype, record.error.esource) == (
        ErrorType.CONNECT_REFUSED,
        ErrorSource.UPSTREAM,
    )


# -------------------------------------------------------------------------------- ClientHello


async def test_hello_is_read_and_forwarded() -> None:
    """The upstream can be chosen by the ClientHello, and gets every byte of it."""
    async with rig(make=Hello) as proxy:
        client = await proxy.connect()
        await client.send(HELLO[:100])
        await client.send(HELLO[100:] + b"and more")
        server = await proxy.accept()

        assert await receive(server, len(HELLO) + 8) == HELLO + b"and more"
        client.end()
        server.end()
        hello = (await proxy.ended()).session.client_hello

    assert hello is not None
    assert hello.server_name == "www.example.org"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", ErrorType.HANDSHAKE_ERROR),
        (HELLO[:200], ErrorType.CONNECTION_CLOSED),
        (b"", ErrorType.CONNECTION_CLOSED),
    ],
    ids=["HTTP", "half a hello", "nothing"],
)
async def test_no_hello(data: bytes, kind: ErrorType) -> None:
    """A client that says something else, or nothing, does not reach the filter."""
    async with rig(make=Hello) as proxy:
        client = await proxy.connect()
        await client.send(data)
        client.end()
        await is_reset(client)
        await eventually(lambda: proxy.app.records)
        record = proxy.record

    assert record.error is not None
    assert (record.error.etype, record.error.esource) == (kind, ErrorSource.DOWNSTREAM)
    assert record.ctx == ["logging"]


async def test_hello_deadline() -> None:
    """A client that connects and stays silent is not waited for longer than the options say."""
    async with rig(StreamProxyOptions(hello_timeout=0.05), make=Hello) as proxy:
        client = await proxy.connect()

        assert await is_reset(client)
        await eventually(lambda: proxy.app.records)
        error = proxy.record.error

    assert error is not None
    assert error.etype is ErrorType.TLS_HANDSHAKE_TIMEDOUT


# ------------------------------------------------------------------------------- data filters


class Shouting(Forwarder):
    """Makes the client's bytes loud in whole lines, and keeps quiet about secrets."""

    def __init__(self, peer: UpstreamPeer) -> None:
        super().__init__(peer)
        self.held = b""

    async def downstream_data_filter(
        self, session: StreamSession, data: bytes | None, end_of_stream: bool, ctx: list[str]
    ) -> bytes | None:
        await asyncio.sleep(0)
        lines, newline, self.held = (self.held + (data or b"")).rpartition(b"\n")
        if end_of_stream:
            return (lines + newline + self.held + b"!").upper()
        return (lines + newline).upper()

    async def upstream_data_filter(
        self, session: StreamSession, data: bytes | None, end_of_stream: bool, ctx: list[str]
    ) -> bytes | None:
        return None if data is None else data.replace(b"secret", b"")


async def test_filters_change_the_bytes() -> None:
    """A filter may change bytes, hold them back, add to them at the end, and drop them."""
    async with rig(make=Shouting) as proxy:
        client, server = await proxy.pair()
        await client.send(b"one\ntw")
        assert await receive(server, 4) == b"ONE\n"
        await client.send(b"o")
        client.end()
        assert await server.recv_all() == b"TWO!"
        await server.send(b"a secret")
        server.end()
        assert await client.recv_all() == b"a "
        record = await proxy.ended()

    session = record.session
    assert record.error is None
    assert (session.bytes_received, session.upstream_bytes_sent) == (7, 8)
    assert (session.upstream_bytes_received, session.bytes_sent) == (8, 2)


async def test_a_filter_that_waits_holds_the_sender_back() -> None:
    """While a filter waits, no more than the buffers of one stream is read."""
    go_on = asyncio.Event()

    class Waiting(Forwarder):
        async def downstream_data_filter(
            self, session: StreamSession, data: bytes | None, end_of_stream: bool, ctx: list[str]
        ) -> bytes | None:
            await go_on.wait()
            return data

    async with rig(make=Waiting) as proxy:
        client, server = await proxy.pair()
        sending = asyncio.create_task(client.send(bytes(16 << 20)))
        (session,) = proxy.app.sessions
        await eventually(lambda: session.downstream.buffered >= 65536, "a full buffer")
        for _ in range(20):
            await asyncio.sleep(0.002)
            assert session.downstream.buffered <= 65536 + 2 * 262144
        assert not sending.done()
        go_on.set()
        assert await receive(server, 16 << 20) == bytes(16 << 20)
        await sending


async def test_receiver_leaves_while_a_filter_runs() -> None:
    """What cannot be given to a receiver that has left ends the direction."""

    class Slow(Forwarder):
        async def downstream_data_filter(
            self, session: StreamSession, data: bytes | None, end_of_stream: bool, ctx: list[str]
        ) -> bytes | None:
            await eventually(lambda: session.upstream is None or session.upstream.is_closed)
            return data

    async with rig(make=Slow) as proxy:
        client, server = await proxy.pair()
        await client.send(b"late")
        server.reset()
        assert await is_reset(client)
        record = await proxy.ended()

    assert record.error is not None
    assert record.error.esource is ErrorSource.UPSTREAM
    assert record.session.upstream_bytes_sent == 0


def test_limits_must_make_sense() -> None:
    """A limit of nothing is refused where it is written down."""
    with pytest.raises(ValueError, match="idle_timeout must be more than 0, not 0"):
        StreamProxyOptions(idle_timeout=0)
