"""listening.Service: addresses, connections, drain, cleanup, what is logged."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from pingora_core.apps import ServerApp
from pingora_core.conf import CONFIG_ERROR
from pingora_core.listeners import Listeners, TcpServerAddress
from pingora_core.protocols.l4 import TcpSocketOptions
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services import ServiceContext
from pingora_core.services.listening import Service
from pingora_error import Error, ErrorType
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.runtime.shutdown import ShutdownWatch

pytestmark = pytest.mark.usefixtures("no_leaks")


class Lines(ServerApp):
    """Answers each line with its length; one call per line."""

    def __init__(self) -> None:
        self.calls = 0
        self.cleanups = 0

    async def process_new(self, stream: Stream, shutdown: ShutdownWatch) -> Stream | None:
        self.calls += 1
        forget = shutdown.subscribe(stream.close)
        try:
            line = await stream.read(5)
        finally:
            forget()
        if not line:
            return None
        while not line.endswith(b"\n"):
            line += await stream.read(5)
        if line == b"fail\n":
            raise KeyError(line)
        stream.write(b"%d\n" % len(line))
        return stream

    async def cleanup(self) -> None:
        self.cleanups += 1


class Running:
    """A service in a task of its own."""

    def __init__(self, service: Service[Lines]) -> None:
        self.service = service
        self.switch = ShutdownSwitch()
        self.context = ServiceContext(shutdown=self.switch.watch)
        self.task = asyncio.create_task(service.start_service(self.context))

    async def stop(self) -> None:
        self.switch.start()
        async with asyncio.timeout(30):
            await self.task


@asynccontextmanager
async def running(service: Service[Lines]) -> AsyncIterator[Running]:
    runner = Running(service)
    async with asyncio.timeout(30):
        await runner.context.ready.wait()
    try:
        yield runner
    finally:
        runner.task.cancel()
        await asyncio.wait([runner.task])


def line_service() -> Service[Lines]:
    service = Service("lines", Lines())
    service.add_tcp("127.0.0.1:0")
    return service


class Client:
    """A connection to the service."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, line: bytes) -> bytes:
        self.writer.write(line)
        return await asyncio.wait_for(self.reader.readline(), 30)

    async def is_ended(self) -> bool:
        try:
            return await asyncio.wait_for(self.reader.read(), 30) == b""
        except ConnectionResetError:
            return True


@asynccontextmanager
async def connected(service: Service[Lines]) -> AsyncIterator[Client]:
    host, port = str(service.addresses[0]).split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        await asyncio.wait([asyncio.create_task(writer.wait_closed())])


def is_refused(address: SocketAddress) -> bool:
    host, port = str(address).split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


# ------------------------------------------------------------------------------- what is set up


def test_what_is_added_can_be_seen() -> None:
    """Endpoints are listed in the order they were added; nothing listens yet."""
    app = Lines()
    listeners = Listeners.tcp("127.0.0.1:1")
    service = Service("lines", app, listeners)
    options = TcpSocketOptions(so_reuseport=True)
    service.add_tcp("[::1]:2", options)
    service.add_uds("/run/x.sock", 0o600)
    service.add_endpoint(TcpServerAddress("127.0.0.1:3"))

    keys = [endpoint.address.key for endpoint in service.endpoints]

    assert keys == ["127.0.0.1:1", "[::1]:2", "unix:/run/x.sock", "127.0.0.1:3"]
    assert service.endpoints[1].address == TcpServerAddress("[::1]:2", options)
    assert service.addresses == ()
    assert service.app_logic is app
    assert service.listeners is listeners
    service.check()


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        ([], "has no address to listen on"),
        (["127.0.0.1:99999"], "got '127.0.0.1:99999', allowed: IP:PORT, [IPv6]:PORT or NAME:PORT"),
        (["nonsense", "127.0.0.1:0"], "got 'nonsense', allowed: IP:PORT"),
        (["nonsense", "worse"], "'worse'"),
        (["unix:/a"], "got 'unix:/a', allowed: IP:PORT"),
        (["127.0.0.1:80", "127.0.0.1:80"], "got '127.0.0.1:80' 2 times, allowed: once"),
    ],
)
async def test_a_bad_address_is_told_before_anything_starts(
    addresses: list[str], said: str
) -> None:
    """check() names the service, the address and what is allowed; starting does the same."""
    service = Service("lines", Lines())
    for address in addresses:
        service.add_tcp(address)

    with pytest.raises(Error) as checked:
        service.check()
    with pytest.raises(Error) as started:
        await service.start_service(ServiceContext(shutdown=ShutdownSwitch().watch))

    assert checked.value.etype == CONFIG_ERROR
    assert checked.value.context.startswith("service 'lines': ")
    assert said in checked.value.context
    assert started.value.context == checked.value.context


def test_a_bad_path_is_told_too() -> None:
    """The path of a Unix socket and its mode are checked alike."""
    service = Service("lines", Lines())
    service.add_uds("/x" * 100)
    service.add_uds("/x", 0o7777)

    with pytest.raises(Error, match="a path of up to 107 bytes, a mode up to 0o777"):
        service.check()


# ------------------------------------------------------------------------------------- serving


async def test_the_app_is_called_again_while_it_gives_the_stream_back() -> None:
    """One connection, several rounds, until the client ends it."""
    service = line_service()
    async with running(service):
        async with connected(service) as client:
            assert await client.ask(b"ab\n") == b"3\n"
            assert await client.ask(b"abc\n") == b"4\n"

        await eventually(lambda: service.app_logic.calls == 3, "the end of the client")


async def test_a_unix_socket_is_served_and_removed(tmp_path: Path) -> None:
    """The file is there while the service listens, and not afterwards."""
    path = tmp_path / "lines.sock"
    service = Service("lines", Lines())
    service.add_uds(str(path), 0o600)
    async with running(service) as runner:
        reader, writer = await asyncio.open_unix_connection(str(path))
        client = Client(reader, writer)

        assert await client.ask(b"ab\n") == b"3\n"
        assert path.stat().st_mode & 0o777 == 0o600
        await runner.stop()

        assert not path.exists()
        assert await client.is_ended()
        writer.close()
        await writer.wait_closed()


async def test_a_filter_decides_who_is_served() -> None:
    """A connection that the filter refuses never reaches the app."""

    class Nobody:
        async def should_accept(self, addr: SocketAddress | None, /) -> bool:
            return False

    service = line_service()
    service.set_connection_filter(Nobody())
    async with running(service), connected(service) as client:
        assert await client.is_ended()
        assert service.app_logic.calls == 0


async def test_a_failing_connection_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """What the app raises is logged with the peer, resets this connection and no other."""
    service = line_service()
    async with running(service), connected(service) as good, connected(service) as bad:
        assert await good.ask(b"ab\n") == b"3\n"

        bad.writer.write(b"fail\n")

        assert await bad.is_ended()
        assert await good.ask(b"abc\n") == b"4\n"
    assert "connection from 127.0.0.1:" in caplog.text
    assert "KeyError" in caplog.text


async def test_an_address_in_use_elsewhere_is_a_bind_error_and_cleans_up() -> None:
    """A service that cannot listen fails with the address, and tells its app that it is over."""
    service = Service("lines", Lines())
    service.add_tcp("127.0.0.1:0")
    service.add_tcp("192.0.2.1:1")  # TEST-NET-1, not an address of this machine

    with pytest.raises(Error) as caught:
        await service.start_service(ServiceContext(shutdown=ShutdownSwitch().watch))

    assert caught.value.etype is ErrorType.BIND_ERROR
    assert "192.0.2.1:1" in caught.value.context
    assert service.app_logic.cleanups == 1


# ------------------------------------------------------------------------------------- the end


async def test_shutdown_waits_for_what_is_in_flight_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """New connections are refused, idle ones end, a started line is answered; then it is over."""
    service = line_service()
    async with (
        running(service) as runner,
        connected(service) as idle,
        connected(service) as busy,
    ):
        assert await idle.ask(b"ab\n") == b"3\n"
        busy.writer.write(b"a")
        await eventually(lambda: service.app_logic.calls == 3, "the calls")
        await asyncio.sleep(0.02)

        runner.switch.start()

        assert await idle.is_ended()
        assert is_refused(service.addresses[0])
        assert not runner.task.done()
        assert service.app_logic.cleanups == 0
        assert await busy.ask(b"b\n") == b"3\n"
        assert await busy.is_ended()
        await runner.stop()
        assert service.app_logic.cleanups == 1
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


async def test_cancellation_breaks_connections_off() -> None:
    """What is left is reset, the app is told, and nothing stays open."""
    service = line_service()
    async with running(service) as runner, connected(service) as busy:
        busy.writer.write(b"a")
        await eventually(lambda: service.app_logic.calls == 1, "the call")
        runner.switch.start()
        await asyncio.sleep(0.01)

        runner.task.cancel()
        await asyncio.wait([runner.task])

        assert await busy.is_ended()
        assert service.app_logic.cleanups == 1
