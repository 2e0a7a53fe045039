"""DatagramService: answers while it runs, and neither loses nor steals datagrams at its end."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

import pytest

from pingora_core.apps import AsyncDatagramApp, DatagramApp
from pingora_core.conf import CONFIG_ERROR, ServerConf
from pingora_core.listeners import BindRetry, ListenFds
from pingora_core.listeners.l4 import UdpServerAddress
from pingora_core.protocols.l4 import DatagramEndpoint, DatagramOptions, TcpSocketOptions
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services import DatagramService, ServiceContext
from pingora_error import Error, ErrorType
from tests.support.ports import needs_ipv6
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pingora_core.protocols.l4 import Datagram

A = TypeVar("A", bound=DatagramApp)

pytestmark = pytest.mark.usefixtures("no_leaks")


class Echo(DatagramApp):
    """Sends every datagram back."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.cleanups = 0
        self.confs: list[ServerConf] = []

    def datagram_received(self, datagram: Datagram) -> None:
        self.received.append(datagram.data)
        datagram.reply(datagram.data)

    async def cleanup(self) -> None:
        self.cleanups += 1

    async def reload(self, conf: ServerConf) -> None:
        self.confs.append(conf)


class Slow(AsyncDatagramApp):
    """Answers when a test allows it.

    Attributes:
        go_on: Allows it.
        begun: What was begun.
    """

    def __init__(self, *, max_concurrency: int = 1024, timeout: float | None = 30.0) -> None:
        super().__init__(max_concurrency=max_concurrency, timeout=timeout)
        self.go_on = asyncio.Event()
        self.begun: list[bytes] = []

    async def process(self, datagram: Datagram) -> bytes | None:
        self.begun.append(datagram.data)
        await self.go_on.wait()
        if datagram.data == b"fail":
            raise KeyError(datagram.data)
        if datagram.data == b"refuse":
            raise Error(ErrorType.INTERNAL_ERROR, "no such thing")
        return None if datagram.data == b"silent" else datagram.data


class Running(Generic[A]):
    """A service in a task of its own."""

    def __init__(self, service: DatagramService[A], fds: ListenFds | None) -> None:
        self.service = service
        self.switch = ShutdownSwitch()
        self.fds = ListenFds() if fds is None else fds
        self.context = ServiceContext(shutdown=self.switch.watch, fds=self.fds)
        self.task = asyncio.create_task(service.start_service(self.context))

    def client(self, number: int = 0) -> socket.socket:
        address = self.service.addresses[number]
        sock = socket.socket(address.family, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.connect((address.host, address.port))
        return sock

    async def stop(self) -> None:
        self.switch.start()
        await asyncio.wait_for(self.task, 30)


@asynccontextmanager
async def running(
    app: A,
    *addresses: str,
    fds: ListenFds | None = None,
    options: DatagramOptions | None = None,
) -> AsyncIterator[Running[A]]:
    service = DatagramService("datagrams", app, options=options)
    for address in addresses or ("127.0.0.1:0",):
        service.add_udp(address)
    runner = Running(service, fds)
    await asyncio.wait_for(runner.context.ready.wait(), 30)
    try:
        yield runner
    finally:
        runner.task.cancel()
        await asyncio.wait([runner.task])
        if fds is None:
            runner.fds.close()


@pytest.fixture
def inherited() -> Iterator[socket.socket]:
    """A socket that a test has bound."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


async def receive(sock: socket.socket) -> bytes:
    async with asyncio.timeout(30):
        return await asyncio.get_running_loop().sock_recv(sock, 70000)


@needs_ipv6
async def test_answers_on_all_addresses(caplog: pytest.LogCaptureFixture) -> None:
    """Each address answers; the log tells where they are; the application is cleaned up once."""
    caplog.set_level("INFO")
    app = Echo()
    async with running(app, "127.0.0.1:0", "udp:[::1]:0") as runner:
        for number in range(2):
            with runner.client(number) as client:
                client.send(b"ping")
                assert await receive(client) == b"ping"
        ports = [address.port for address in runner.service.addresses]
        assert [each.counts.received for each in runner.service.endpoints] == [1, 1]
        await runner.stop()
        assert app.cleanups == 1

    line = f"listens on udp:127.0.0.1:{ports[0]}, udp:[::1]:{ports[1]}"
    assert any(line in record.getMessage() for record in caplog.records)
    assert app.received == [b"ping"] * 2


async def test_options_apply() -> None:
    """Options of the socket and of the reading reach where they belong."""
    service = DatagramService("datagrams", Echo(), options=DatagramOptions(max_size=4))
    service.add_udp("127.0.0.1:0", TcpSocketOptions(tcp_recv_buf=100_000))
    runner = Running(service, None)
    await runner.context.ready.wait()
    (endpoint,) = service.endpoints
    with runner.client() as client:
        client.send(b"12345")
        client.send(b"1234")
        assert await receive(client) == b"1234"
    assert endpoint.most_waiting > 200_000 // 1024
    assert endpoint.counts.oversized == 1
    await runner.stop()


async def test_waiting_datagrams_are_answered_at_the_end() -> None:
    """Where nobody else has the socket, what has arrived before the stop is answered."""
    app = Echo()
    async with running(app) as runner:
        with runner.client() as client:
            runner.service.endpoints[0].pause_reading()
            for number in range(100):
                client.send(b"%d" % number)
            runner.switch.start()
            runner.service.endpoints[0].resume_reading()
            await asyncio.wait_for(runner.task, 30)
            assert [await receive(client) for _ in range(100)] == [
                b"%d" % number for number in range(100)
            ]


async def test_the_end_is_not_put_off_by_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that go on sending do not keep a service that stops."""
    monkeypatch.setattr(DatagramEndpoint, "most_waiting", 3)
    app = Echo()
    async with running(app) as runner:
        with runner.client() as client:
            runner.service.endpoints[0].pause_reading()
            for number in range(10):
                client.send(b"%d" % number)
            runner.switch.start()
            runner.service.endpoints[0].resume_reading()
            await asyncio.wait_for(runner.task, 30)
    assert app.received == [b"0", b"1", b"2"]


async def test_application_refuses_an_endpoint() -> None:
    """An application that fails before its first datagram leaves nothing behind."""

    class Refusing(Echo):
        def attach(self, endpoint: DatagramEndpoint) -> None:
            raise KeyError

    app = Refusing()
    service = DatagramService("datagrams", app)
    service.add_udp("127.0.0.1:0")
    fds = ListenFds()
    context = ServiceContext(shutdown=ShutdownSwitch().watch, fds=fds)
    with pytest.raises(KeyError):
        await service.start_service(context)

    assert len(fds) == 0
    assert app.cleanups == 1


async def test_what_others_share_is_left_for_them(inherited: socket.socket) -> None:
    """After a hand-over nothing is read that came after the stop began."""
    fds = ListenFds({"udp:127.0.0.1:0": inherited.dup()})
    app = Echo()
    async with running(app, fds=fds) as runner:
        with runner.client() as client:
            fds.disown_files()
            runner.switch.start()
            client.send(b"for the successor")
            await asyncio.wait_for(runner.task, 30)
    assert app.received == []
    assert inherited.recv(100) == b"for the successor"


async def test_two_services_share_an_address() -> None:
    """The service that goes first leaves what waits to the one that stays."""
    fds = ListenFds()
    first, second = Echo(), Echo()
    address = "127.0.0.1:0"
    async with running(first, address, fds=fds) as one, running(second, address, fds=fds) as two:
        assert one.service.addresses == two.service.addresses
        with one.client() as client:
            two.service.endpoints[0].pause_reading()
            one.switch.start()
            client.send(b"x")
            await asyncio.wait_for(one.task, 30)
            assert first.received == []
            two.service.endpoints[0].resume_reading()
            assert await receive(client) == b"x"
            assert second.received == [b"x"]
            await two.stop()
    assert len(fds) == 0


async def test_what_is_in_work_is_waited_for() -> None:
    """At a stop the answers that are being worked on are sent before the service ends."""
    app = Slow()
    async with running(app) as runner:
        with runner.client() as client:
            client.send(b"slow")
            await eventually(lambda: app.in_work == 1)
            runner.switch.start()
            await asyncio.sleep(0.01)
            assert not runner.task.done()
            app.go_on.set()
            assert await receive(client) == b"slow"
            await asyncio.wait_for(runner.task, 30)


async def test_waiting_datagrams_are_answered_within_the_limit() -> None:
    """What waits at the end is taken as there is room for it."""
    app = Slow(max_concurrency=3)
    async with running(app) as runner:
        with runner.client() as client:
            for number in range(10):
                client.send(b"%d" % number)
            await eventually(lambda: app.in_work == 3)
            runner.switch.start()
            await asyncio.sleep(0.01)
            assert app.in_work == 3
            app.go_on.set()
            answers = sorted([await receive(client) for _ in range(10)])
            assert answers == [b"%d" % number for number in range(10)]
            await asyncio.wait_for(runner.task, 30)


async def test_cancelled() -> None:
    """What is not answered by the end of the grace period is given up."""
    app = Slow()
    async with running(app) as runner:
        with runner.client() as client:
            client.send(b"slow")
            await eventually(lambda: app.in_work == 1)
            runner.switch.start()
            await asyncio.sleep(0)
            runner.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(runner.task, 30)
            assert app.in_work == 0


@needs_ipv6
async def test_no_more_work_than_allowed() -> None:
    """What cannot be begun waits in the socket, also what comes on another address."""
    app = Slow(max_concurrency=2)
    async with running(app, "127.0.0.1:0", "[::1]:0") as runner:
        with runner.client() as client, runner.client(1) as other:
            for number in range(5):
                client.send(b"%d" % number)
            await eventually(lambda: app.in_work == 2)
            other.send(b"other")
            await asyncio.sleep(0.01)
            assert app.in_work == 2
            app.go_on.set()
            for _ in range(5):
                await receive(client)
            assert await receive(other) == b"other"
    assert len(app.begun) == 6


async def test_process_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    """What fails is logged, with a trace if it is a fault; silence is an answer as well."""
    app = Slow()
    app.go_on.set()
    async with running(app) as runner:
        with runner.client() as client:
            for data in (b"fail", b"refuse", b"silent", b"answer"):
                client.send(data)
            assert await receive(client) == b"answer"

    lines = {line.getMessage(): line.exc_info for line in caplog.records}
    assert [bool(trace) for text, trace in lines.items() if "KeyError" in text] == [True]
    assert [bool(trace) for text, trace in lines.items() if "no such thing" in text] == [False]


async def test_work_that_takes_too_long_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """Work that does not end in time makes room for other work."""
    app = Slow(max_concurrency=1, timeout=0.02)
    async with running(app) as runner:
        with runner.client() as client:
            for number in range(3):
                client.send(b"%d" % number)
            await eventually(lambda: len(app.begun) == 3)
            app.timeout = None
            app.go_on.set()
            client.send(b"in time")
            while await receive(client) != b"in time":
                pass

    assert "not done within 0.02 s" in caplog.text


def test_limits_must_make_sense() -> None:
    """A limit of nothing is refused where it is written down."""
    with pytest.raises(ValueError, match="wanted positive limits, not 0 datagrams"):
        Slow(max_concurrency=0)
    with pytest.raises(ValueError, match="and 0 s"):
        Slow(timeout=0)


async def test_reload_reaches_the_application() -> None:
    """The application is told of a new configuration."""
    app = Echo()
    async with running(app) as runner:
        conf = ServerConf(max_retries=3)
        await runner.service.reload(conf)
        assert app.confs == [conf]
        assert runner.service.app_logic is app


@pytest.mark.parametrize(
    ("addresses", "problem"),
    [
        ((), "has no address to receive on"),
        (("127.0.0.1",), "address: got '127.0.0.1'"),
        (("unix:/run/x",), "path of a Unix socket"),
        (("127.0.0.1:5", "udp:127.0.0.1:5"), "got 'udp:127.0.0.1:5' 2 times"),
    ],
)
async def test_mistakes_are_told(addresses: tuple[str, ...], problem: str) -> None:
    """A service that cannot be right is refused by its check, in one line."""
    service = DatagramService("datagrams", Echo())
    for address in addresses:
        service.add_udp(address)
    with pytest.raises(Error, match="service 'datagrams'") as caught:
        service.check()

    assert caught.value.etype == CONFIG_ERROR
    assert problem in str(caught.value)


async def test_address_in_use(inherited: socket.socket) -> None:
    """A service that cannot have one of its addresses gives the others back."""
    app = Echo()
    service = DatagramService("datagrams", app)
    service.add_udp("127.0.0.1:0")
    service.add_udp(f"127.0.0.1:{inherited.getsockname()[1]}")
    fds = ListenFds(retry=BindRetry(1, 0))
    switch = ShutdownSwitch()
    with pytest.raises(Error, match=r"udp:127\.0\.0\.1") as caught:
        await service.start_service(ServiceContext(shutdown=switch.watch, fds=fds))

    assert caught.value.etype is ErrorType.BIND_ERROR
    assert len(fds) == 0
    assert app.cleanups == 1
    assert service.listen_addresses[0] == UdpServerAddress("127.0.0.1:0")
