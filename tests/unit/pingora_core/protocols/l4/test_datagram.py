"""Datagrams are received in batches, answered from where they were sent to, and never block."""

from __future__ import annotations

import asyncio
import errno
import itertools
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.address import InetAddress
from pingora_core.protocols.l4 import DatagramEndpoint, DatagramOptions
from pingora_core.protocols.l4._pktinfo import answering_control, destination_of
from pingora_error import Error, ErrorType
from tests.support.ports import needs_ipv6
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pingora_core.protocols.l4 import Datagram

pytestmark = pytest.mark.usefixtures("no_leaks")


class Receiver:
    """An endpoint that keeps what arrives; ``answer`` is called with each datagram.

    Attributes:
        endpoint: The endpoint.
        arrived: What has arrived.
        errors: What was reported.
    """

    def __init__(
        self,
        sock: socket.socket,
        options: DatagramOptions | None = None,
        answer: Callable[[Datagram], object] | None = None,
    ) -> None:
        self.arrived: list[Datagram] = []
        self.errors: list[OSError] = []
        self._answer = answer
        self.endpoint = DatagramEndpoint(sock, self._received, options, on_error=self.errors.append)

    def _received(self, datagram: Datagram) -> None:
        self.arrived.append(datagram)
        if self._answer is not None:
            self._answer(datagram)


def echo(datagram: Datagram) -> bool:
    return datagram.reply(datagram.data)


def bound(host: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind((host, 0))
    return sock


@asynccontextmanager
async def receiver(
    host: str = "127.0.0.1",
    options: DatagramOptions | None = None,
    answer: Callable[[Datagram], object] | None = echo,
) -> AsyncIterator[Receiver]:
    made = Receiver(bound(host), options, answer)
    made.endpoint.start_reading()
    try:
        yield made
    finally:
        made.endpoint.close()


@asynccontextmanager
async def client(to: Receiver, host: str | None = None) -> AsyncIterator[socket.socket]:
    """Give a socket that is connected to a receiver."""
    address = to.endpoint.address
    with socket.socket(address.family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect((address.host if host is None else host, address.port))
        yield sock


async def receive(sock: socket.socket) -> bytes:
    async with asyncio.timeout(30):
        return await asyncio.get_running_loop().sock_recv(sock, 70000)


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
@pytest.mark.parametrize("size", [0, 1, 1400, 65507])
async def test_echo(host: str, size: int) -> None:
    """A datagram arrives whole and is answered, from nothing up to the largest there is."""
    async with receiver(host) as server, client(server) as sock:
        data = bytes(range(256)) * 256
        sock.send(data[:size])
        assert await receive(sock) == data[:size]
        (datagram,) = server.arrived
        name = sock.getsockname()
        counts = server.endpoint.counts

    assert datagram.sender == name
    assert datagram.peer_addr == InetAddress(host, name[1])
    assert datagram.local_addr == server.endpoint.address
    assert (counts.received, counts.sent, counts.errors) == (1, 1, 0)
    assert str(size) in repr(datagram)


@pytest.mark.parametrize(
    ("bind", "ask"),
    [
        ("0.0.0.0", "127.0.0.1"),
        ("0.0.0.0", "127.3.2.1"),
        pytest.param("::", "::1", marks=needs_ipv6),
        pytest.param("::", "::ffff:127.3.2.1", marks=needs_ipv6),
    ],
)
async def test_answers_leave_from_where_was_asked(bind: str, ask: str) -> None:
    """A socket bound to all addresses answers from the one that was asked, over and over."""
    async with receiver(bind) as server, client(server, ask) as sock:
        for _ in range(3):
            sock.send(b"ping")
            # A connected socket hears nobody but whom it has asked.
            assert await receive(sock) == b"ping"
        assert [each.local_addr.host for each in server.arrived] == [ask] * 3
        assert server.arrived[0].local_addr.port == server.endpoint.address.port


async def test_too_long_datagrams_are_dropped() -> None:
    """What is longer than the options allow is not handed over cut off; it is counted."""
    async with receiver(options=DatagramOptions(max_size=10)) as server, client(server) as sock:
        sock.send(b"x" * 11)
        sock.send(b"y" * 10)
        assert await receive(sock) == b"y" * 10

    assert [each.data for each in server.arrived] == [b"y" * 10]
    assert server.endpoint.counts.oversized == 1


async def test_a_burst_is_read_in_batches() -> None:
    """However many datagrams wait, others have their turn in between."""
    async with receiver(options=DatagramOptions(batch=8)) as server, client(server) as sock:
        turns: list[int] = []

        async def watch() -> None:
            while len(server.arrived) < 100:
                turns.append(len(server.arrived))
                await asyncio.sleep(0)

        for number in range(100):
            sock.send(b"%d" % number)
        await asyncio.wait_for(watch(), 30)
        received = [await receive(sock) for _ in range(100)]

    assert received == [b"%d" % number for number in range(100)]
    assert all(later - earlier <= 8 for earlier, later in itertools.pairwise(turns))
    assert server.endpoint.kernel_drops == 0


async def test_what_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A datagram that makes the application fail ends nothing, and the log has a limit."""

    def answer(datagram: Datagram) -> None:
        if datagram.data == b"fail":
            raise KeyError(datagram.data)
        datagram.reply(b"ok")

    async with receiver(answer=answer) as server, client(server) as sock:
        for _ in range(30):
            sock.send(b"fail")
        sock.send(b"go on")
        assert await receive(sock) == b"ok"

    lines = [line for line in caplog.records if "failed" in line.getMessage()]
    assert len(lines) == 10
    assert lines[0].exc_info is not None


async def test_pausing_leaves_datagrams_in_the_socket() -> None:
    """What comes during a pause is received after it."""
    async with receiver() as server, client(server) as sock:
        server.endpoint.pause_reading()
        server.endpoint.pause_reading()
        sock.send(b"wait")
        for _ in range(5):
            await asyncio.sleep(0.001)
        assert server.arrived == []
        assert server.endpoint.read_waiting(10) == 0
        server.endpoint.resume_reading()
        server.endpoint.resume_reading()
        assert await receive(sock) == b"wait"


async def test_stopping_leaves_datagrams_in_the_socket() -> None:
    """After a stop, what comes is read by whoever shares the socket, or on request."""
    async with receiver() as server, client(server) as sock:
        server.endpoint.stop_reading()
        server.endpoint.stop_reading()
        for number in range(5):
            sock.send(b"%d" % number)
        for _ in range(5):
            await asyncio.sleep(0.001)
        assert server.arrived == []
        assert server.endpoint.most_waiting > 100
        assert server.endpoint.read_waiting(3) == 3
        assert server.endpoint.read_waiting(100) == 2
        assert [each.data for each in server.arrived] == [b"0", b"1", b"2", b"3", b"4"]


async def test_paused_before_the_start() -> None:
    """An endpoint that is paused when it starts begins to receive when the pause ends."""
    made = Receiver(bound(), answer=echo)
    try:
        made.endpoint.pause_reading()
        made.endpoint.start_reading()
        made.endpoint.start_reading()
        async with client(made) as sock:
            sock.send(b"x")
            made.endpoint.resume_reading()
            assert await receive(sock) == b"x"
    finally:
        made.endpoint.close()


async def test_refused_by_the_network() -> None:
    """That nobody listens at the other end is told and counted; the endpoint goes on."""
    with bound() as nobody:
        gone = nobody.getsockname()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.connect(gone)
    made = Receiver(sock)
    try:
        made.endpoint.start_reading()
        assert made.endpoint.send(b"anybody?")
        await eventually(lambda: made.errors)
        assert made.errors[0].errno == errno.ECONNREFUSED
        assert made.endpoint.counts.errors == 1
        # Somebody comes.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(gone)
            other.setblocking(False)
            assert made.endpoint.send(b"hello")
            assert await receive(other) == b"hello"
            other.sendto(b"welcome", sock.getsockname())
            await eventually(lambda: made.arrived)
    finally:
        made.endpoint.close()
    assert made.arrived[0].data == b"welcome"


async def test_what_cannot_be_sent_is_counted() -> None:
    """An answer that is too long for any datagram is dropped, not raised."""
    too_long = bytes(70000)
    async with (
        receiver(answer=lambda each: each.reply(too_long)) as server,
        client(server) as sock,
    ):
        sock.send(b"x")
        await eventually(lambda: server.errors)

    assert server.errors[0].errno == errno.EMSGSIZE
    assert server.endpoint.counts.sent == 0
    assert server.endpoint.counts.errors == 1


class Full(socket.socket):
    """A socket whose send buffer is full until a test says otherwise."""

    is_full = True
    failure: OSError | None = None
    sent: list[bytes]

    def sendto(self, data: bytes, *args: object) -> int:  # type: ignore[override]
        if self.is_full:
            raise BlockingIOError
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        self.sent.append(bytes(data))
        return len(bytes(data))


@asynccontextmanager
async def full(send_queue: int, batch: int = 64) -> AsyncIterator[tuple[DatagramEndpoint, Full]]:
    sock = Full(socket.AF_INET, socket.SOCK_DGRAM)
    sock.sent = []
    sock.setblocking(False)
    sock.bind(("127.0.0.1", 0))
    options = DatagramOptions(send_queue=send_queue, batch=batch)
    endpoint = DatagramEndpoint(sock, lambda _: None, options)
    try:
        yield endpoint, sock
    finally:
        endpoint.close()
        endpoint.close()


TO = ("127.0.0.1", 9)


async def test_send_queue_is_bounded() -> None:
    """What finds no room waits, up to the limit; the rest is dropped, and counted."""
    async with full(send_queue=100) as (endpoint, sock):
        assert [endpoint.send(b"x" * 40, TO) for _ in range(4)] == [True, True, False, False]
        assert endpoint.send(b"y" * 20, TO)
        assert endpoint.counts.unsent == 2
        assert not await endpoint.flush(0.01)
        sock.is_full = False
        # Behind what waits, not ahead of it.
        assert not endpoint.send(b"z", TO)
        assert await endpoint.flush(10)
        assert sock.sent == [b"x" * 40, b"x" * 40, b"y" * 20]
        assert endpoint.send(b"z", TO)
        assert endpoint.counts.sent == 4
        assert await endpoint.flush(0)


async def test_send_queue_goes_on_after_an_error() -> None:
    """A datagram that cannot be sent does not hold up those behind it."""
    async with full(send_queue=100, batch=2) as (endpoint, sock):
        for number in range(5):
            assert endpoint.send(b"%d" % number, TO)
        sock.failure = OSError(errno.EHOSTUNREACH, "no route")
        sock.is_full = False
        assert await endpoint.flush(10)

        assert sock.sent == [b"1", b"2", b"3", b"4"]
        assert endpoint.counts.errors == 1


async def test_close_drops_what_waits() -> None:
    """What still waits at the end is counted as not sent; nothing is sent or read afterwards."""
    async with full(send_queue=100) as (endpoint, _):
        endpoint.send(b"x", TO)
        flushing = asyncio.create_task(endpoint.flush(10))
        await asyncio.sleep(0)
        endpoint.close()
        assert await flushing
        assert endpoint.counts.unsent == 1
        assert endpoint.is_closed
        assert not endpoint.send(b"late", TO)
        assert endpoint.counts.unsent == 2
        assert endpoint.read_waiting(1) == 0
        assert endpoint.kernel_drops == 0
        endpoint.start_reading()


async def test_closed_by_who_is_told_of_an_error() -> None:
    """Whoever is told of an error may close the endpoint, which then does nothing more."""
    sock = Full(socket.AF_INET, socket.SOCK_DGRAM)
    sock.sent = []
    sock.setblocking(False)
    sock.bind(("127.0.0.1", 0))
    endpoint = DatagramEndpoint(sock, lambda _: None, on_error=lambda _: endpoint.close())
    assert endpoint.send(b"1", TO)
    assert endpoint.send(b"2", TO)
    sock.failure = OSError(errno.EHOSTUNREACH, "no route")
    sock.is_full = False
    await eventually(lambda: endpoint.is_closed)

    assert sock.sent == []
    assert (endpoint.counts.errors, endpoint.counts.unsent) == (1, 2)


async def test_many_local_addresses() -> None:
    """What is remembered of the addresses that are answered from is bounded."""
    async with receiver("0.0.0.0") as server:
        endpoint = server.endpoint
        for number in range(3000):
            told = bytes(8) + number.to_bytes(4, "big")
            assert endpoint.reply_control([(socket.IPPROTO_IP, 8, told)]) is not None
            assert len(endpoint._controls) <= 1024
        assert endpoint.reply_control([]) is None


async def test_destination_cannot_be_told() -> None:
    """A system that does not tell destinations is refused with an error that says so."""

    class Refusing(socket.socket):
        def setsockopt(self, *args: object) -> None:
            raise OSError(errno.ENOPROTOOPT, "no such option")

    with Refusing(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 0))
        with pytest.raises(Error, match="setting IP_PKTINFO") as caught:
            DatagramEndpoint(sock, lambda _: None)

    assert caught.value.etype is ErrorType.SOCKET_ERROR


async def test_kernel_drops_are_counted() -> None:
    """What the kernel has no room for is known."""
    sock = bound()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made = Receiver(sock)
    try:
        async with client(made) as sender:
            for _ in range(200):
                sender.send(b"x" * 1000)
        assert made.endpoint.kernel_drops > 100
        made.endpoint.read_waiting(1000)
        assert len(made.arrived) + made.endpoint.kernel_drops == 200
    finally:
        made.endpoint.close()


@pytest.mark.parametrize("change", [{"max_size": 0}, {"max_size": 65536}, {"batch": 0}])
def test_options_must_make_sense(change: dict[str, int]) -> None:
    """Sizes that cannot be are refused where they are written down."""
    with pytest.raises(ValueError, match="wanted max_size"):
        DatagramOptions(**change)


def test_control_messages() -> None:
    """Groups are answered from an address of the machine; other messages say nothing."""
    ip, ipv6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
    group4 = b"\x02\0\0\0" + bytes([192, 0, 2, 1]) + bytes([239, 1, 2, 3])
    assert destination_of([(ip, 8, group4)], 53) == InetAddress("239.1.2.3", 53)
    assert answering_control(ip, 8, group4) == [
        (ip, 8, bytes(4) + bytes([192, 0, 2, 1]) + bytes(4))
    ]
    group6 = b"\xff\x02" + bytes(13) + b"\x01" + b"\x02\0\0\0"
    assert destination_of([(ipv6, 50, group6)], 53) == InetAddress("ff02::1", 53)
    assert answering_control(ipv6, 50, group6) is None
    link = b"\xfe\x80" + bytes(13) + b"\x01" + b"\x02\0\0\0"
    assert answering_control(ipv6, 50, link) == [(ipv6, 50, link)]
    assert destination_of([(ip, 2, b"")], 53) is None
    assert answering_control(ip, 2, b"") is None
