"""How forwarding ends where a stream cannot end one direction alone, or breaks."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from pingora_core.apps import StreamProxyApp
from pingora_core.apps.stream_proxy import app as app_module
from pingora_core.connectors import TransportConnector
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.upstreams import BasicPeer
from pingora_error import Error, ErrorSource, ErrorType
from tests.support.clock import FakeClock
from tests.support.waiting import eventually
from tests.unit.pingora_core.apps.stream_proxy.rig import FakeTime, Forwarder
from tests.unit.pingora_core.protocols.tls.rig import Wire

if TYPE_CHECKING:
    from pingora_core.apps import StreamProxyOptions
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.protocols.tls.alpn import AlpnOffer
    from pingora_core.upstreams.peer import Peer as UpstreamPeer

pytestmark = pytest.mark.usefixtures("no_leaks")


class Ending(Wire):
    """A stream whose direction can be ended alone, like TCP."""

    def write_eof(self) -> None:
        self.ends.append("eof")

    def fail(self, error: Error) -> None:
        super().fail(error)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)


class Unending(Ending):
    """A stream that cannot end its direction alone, like TLS."""

    @property
    def can_write_eof(self) -> bool:
        return False


async def forward(
    stream: Wire, upstream: Wire, options: StreamProxyOptions | None = None
) -> Forwarder:
    class Ready(TransportConnector):
        async def new_stream(self, peer: UpstreamPeer, *, alpn: AlpnOffer | None = None) -> Stream:
            return upstream

    app = Forwarder(BasicPeer("192.0.2.1:1"))
    served = StreamProxyApp(app, connector=Ready(), options=options)
    await served.process_new(stream, ShutdownSwitch().watch)
    await served.cleanup()
    return app


async def test_upstream_ends_before_a_tls_client() -> None:
    """A client that cannot be told of the upstream's end in another way sees the close."""
    client, upstream = Unending(), Ending()
    upstream.deliver(b"answer")
    upstream.end()

    app = await forward(client, upstream)

    assert client.take_sent() == b"answer"
    assert client.ends[0] == "discard"
    assert upstream.ends[0] == "abort"
    assert app.records[0].error is None


async def test_client_ends_before_a_tls_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upstream that cannot be told of the client's end is waited for, but not for long."""
    time = FakeTime(monkeypatch)
    client, upstream = Ending(), Unending()
    client.deliver(b"question")
    client.end()
    running = asyncio.create_task(forward(client, upstream))
    await eventually(lambda: upstream.sent)
    await asyncio.sleep(0)
    upstream.deliver(b"an")
    await eventually(lambda: client.sent)
    time.advance(9)
    upstream.deliver(b"swer")
    await eventually(lambda: len(client.sent) == 2)
    assert not running.done()
    time.advance(11)

    record = (await running).records[0]

    assert client.take_sent() == b"answer"
    assert record.error is not None
    assert record.error.context == "nothing was forwarded for 10.0 s"
    assert client.ends[0] == upstream.ends[0] == "abort"


async def test_end_that_cannot_be_passed_on() -> None:
    """A stream that fails while it is told of an end has gone away."""

    class Failing(Ending):
        def write_eof(self) -> None:
            raise Error(ErrorType.WRITE_ERROR, "gone")

    client, upstream = Ending(), Failing()
    client.end()
    upstream.deliver(b"last words")
    upstream.end(reset=True)

    record = (await forward(client, upstream)).records[0]

    assert client.take_sent() == b"last words"
    assert record.error is not None
    assert record.error.root_etype in {ErrorType.WRITE_ERROR, ErrorType.READ_ERROR}
    assert record.error.esource is ErrorSource.UPSTREAM


async def test_bug_in_a_stream_closes_everything() -> None:
    """A failure that is no `Error` ends the connection, in whichever direction it happens."""

    class Broken(Ending):
        def take(self) -> bytes:
            raise ZeroDivisionError

    for client, upstream in ((Broken(), Ending()), (Ending(), Broken())):
        for stream in (client, upstream):
            if isinstance(stream, Broken):
                stream.deliver(b"x")
            else:
                stream.end()

        record = (await forward(client, upstream)).records[0]

        assert record.error is not None
        assert isinstance(record.error.root_cause, ZeroDivisionError)
        assert client.ends
        assert upstream.ends


async def test_clients_cannot_fill_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Failures that clients cause are logged at a limited rate, those of upstreams always."""
    clock = FakeClock()
    monkeypatch.setattr(app_module, "time", SimpleNamespace(monotonic=clock))
    app = Forwarder(Error.down(ErrorType.HANDSHAKE_ERROR, "the client sent nonsense"))
    served = StreamProxyApp(app)

    async def end() -> list[str]:
        caplog.clear()
        await served.process_new(Wire(), ShutdownSwitch().watch)
        return [line.getMessage() for line in caplog.records]

    lines = [len(await end()) for _ in range(50)]
    assert sum(lines) == 10
    app.peer = Error.up(ErrorType.CONNECT_REFUSED)
    assert len(await end()) == 1
    app.peer = Error.down(ErrorType.HANDSHAKE_ERROR, "the client sent nonsense")
    clock.advance(60)

    (line,) = await end()

    assert line.endswith("the client sent nonsense (and 40 more that were not logged)")
    assert len(app.records) == 52
    await served.cleanup()
