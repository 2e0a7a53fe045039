"""How many connections there may be: the counts, and what they make the listeners do."""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from pingora_core.listeners import (
    ConnectionLimits,
    Listeners,
    ProxyProtocolSettings,
    TcpServerAddress,
    per_worker,
)
from pingora_core.protocols.address import InetAddress
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pingora_core.listeners.serving import OnStream, ServingListeners
    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.interfaces import Stream

pytestmark = pytest.mark.usefixtures("no_leaks")

ANY = "127.0.0.1:0"
LIMIT = 60.0


@pytest.fixture
def directory() -> Iterator[Path]:
    # tmp_path may be longer than a socket's path can be.
    with tempfile.TemporaryDirectory(prefix="p") as name:
        yield Path(name)


async def echo(stream: Stream) -> None:
    """Send back what comes until the client ends."""
    while data := await stream.read(timeout=LIMIT):
        stream.write(data)


def limited(limits: ConnectionLimits | None, *addresses: str) -> Listeners:
    listeners = Listeners()
    for address in addresses or (ANY,):
        listeners.add_tcp(address)
    listeners.set_connection_limits(limits)
    return listeners


@asynccontextmanager
async def running(
    listeners: Listeners, on_stream: OnStream = echo
) -> AsyncIterator[ServingListeners]:
    serving = await listeners.serve(on_stream)
    try:
        yield serving
    finally:
        serving.close()
        await serving.cancel()


class Client:
    """A connection that asks and is answered.

    Args:
        address: Whom to ask.
        source: Address to connect from.
    """

    def __init__(self, address: SocketAddress, source: str | None = None) -> None:
        self._address = address
        self._sock = socket.socket(address.family)
        self._sock.setblocking(False)
        if source is not None:
            self._sock.bind((source, 0))

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(LIMIT):
            # Who is not wanted may be reset before the loop has seen that it is connected.
            with suppress(ConnectionResetError):
                await asyncio.get_running_loop().sock_connect(self._sock, self._address.sockaddr)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sock.close()

    def close(self) -> None:
        """End the connection."""
        self._sock.close()

    async def ask(self, question: bytes = b"?") -> bytes:
        """Return the answer; empty if the connection was closed instead."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(LIMIT):
            try:
                await loop.sock_sendall(self._sock, question)
                return await loop.sock_recv(self._sock, 1000)
            except ConnectionError:
                return b""


# ------------------------------------------------------------------------------ max_connections


async def test_clients_wait_for_a_place() -> None:
    """At the limit nothing is accepted; whoever waits is served when somebody leaves."""
    limits = ConnectionLimits(max_connections=2)
    async with running(limited(limits)) as serving, Client(serving.addresses[0]) as first:
        assert await first.ask() == b"?"
        async with Client(serving.addresses[0]) as second:
            assert await second.ask() == b"?"
            assert (limits.current, limits.is_full, limits.is_holding) == (2, True, True)
            async with Client(serving.addresses[0]) as third:
                waiting = asyncio.ensure_future(third.ask(b"late"))
                await asyncio.sleep(0.02)
                assert not waiting.done()
                assert limits.current == 2
                second.close()
                assert await waiting == b"late"
        await eventually(lambda: limits.current == 1)
        assert not limits.is_holding
        assert (limits.admitted, limits.rejected, limits.waiting) == (3, 0, 0)
        assert limits.held == 2


async def test_the_limit_is_kept_under_a_crowd() -> None:
    """However many come at once, no more than the limit are served at a time, and all are."""
    limits = ConnectionLimits(max_connections=5)
    served = most = 0

    async def serve(stream: Stream) -> None:
        nonlocal served, most
        served += 1
        most = max(most, limits.current)
        await echo(stream)

    async with running(limited(limits, ANY, "127.0.0.2:0"), serve) as serving:

        async def visit(number: int) -> bytes:
            async with Client(serving.addresses[number % 2]) as client:
                return await client.ask(b"%d" % number)

        answers = await asyncio.gather(*(visit(number) for number in range(60)))

        assert answers == [b"%d" % number for number in range(60)]
        await eventually(lambda: limits.current == 0)
        assert served == limits.admitted == 60
        assert most == 5


async def test_the_others_are_refused_if_that_is_wanted() -> None:
    """With ``refuse`` a connection beyond the limit is closed at once, and counted."""
    limits = ConnectionLimits(max_connections=1, at_limit="refuse")
    async with running(limited(limits)) as serving, Client(serving.addresses[0]) as first:
        assert await first.ask() == b"?"
        for _ in range(3):
            async with Client(serving.addresses[0]) as other:
                assert await other.ask() == b""
        assert await first.ask() == b"?"
        assert (limits.current, limits.rejected, limits.refused_full) == (1, 3, 3)
        assert not limits.is_holding


async def test_two_services_share_their_limits() -> None:
    """One object given to two services holds for both together."""
    limits = ConnectionLimits(max_connections=1)
    async with (
        running(limited(limits)) as one,
        running(limited(limits)) as two,
        Client(two.addresses[0]) as first,
    ):
        assert await first.ask() == b"?"
        async with Client(one.addresses[0]) as second:
            waiting = asyncio.ensure_future(second.ask())
            await asyncio.sleep(0.02)
            assert not waiting.done()
            first.close()
            assert await waiting == b"?"


async def test_limits_change_while_connections_wait() -> None:
    """A higher limit lets in at once what waits; a lower one throws nobody out."""
    limits = ConnectionLimits(max_connections=1)
    async with (
        running(limited(limits)) as serving,
        Client(serving.addresses[0]) as first,
        Client(serving.addresses[0]) as second,
    ):
        assert await first.ask() == b"?"
        waiting = asyncio.ensure_future(second.ask())
        limits.max_connections = 2
        assert await waiting == b"?"
        limits.max_connections = 1
        assert await first.ask() == b"?"
        assert limits.current == 2
        limits.max_connections = None
        async with Client(serving.addresses[0]) as third:
            assert await third.ask() == b"?"


async def test_other_limits_for_a_running_service() -> None:
    """An update puts other limits in place: what was held goes on, the old counts run out."""
    old = ConnectionLimits(max_connections=1)
    new = ConnectionLimits(max_connections=5)
    listeners = limited(old)
    async with (
        running(listeners) as serving,
        Client(serving.addresses[0]) as first,
        Client(serving.addresses[0]) as second,
    ):
        assert await first.ask() == b"?"
        waiting = asyncio.ensure_future(second.ask())
        listeners.set_connection_limits(new)
        await serving.update(listeners.endpoints, listeners.policy)
        assert await waiting == b"?"
        # Whether the second was accepted before the update is the event loop's affair.
        assert old.current + new.current == 2
        first.close()
        second.close()
        await eventually(lambda: old.current == new.current == 0)
        # One that is full already holds them.
        full = ConnectionLimits(max_connections=1)
        permit = full.admit(None)
        assert permit is not None
        listeners.set_connection_limits(full)
        await serving.update(listeners.endpoints, listeners.policy)
        async with Client(serving.addresses[0]) as third:
            waiting = asyncio.ensure_future(third.ask())
            await asyncio.sleep(0.02)
            assert not waiting.done()
            permit.release()
            assert await waiting == b"?"


async def test_a_stop_serves_whom_it_has_let_wait() -> None:
    """What the kernel has completed when the service stops is served, still one at a time."""
    limits = ConnectionLimits(max_connections=1)
    async with running(limited(limits)) as serving, Client(serving.addresses[0]) as first:
        assert await first.ask() == b"?"
        async with Client(serving.addresses[0]) as second, Client(serving.addresses[0]) as third:
            serving.close()
            await eventually(lambda: limits.waiting == 2)
            assert limits.current == 1
            answers = [asyncio.ensure_future(each.ask()) for each in (second, third)]
            first.close()
            assert await answers[0] == b"?"
            assert not answers[1].done()
            second.close()
            assert await answers[1] == b"?"
        await serving.drain()
    assert (limits.current, limits.waiting) == (0, 0)


async def test_a_cancelled_service_gives_all_places_back() -> None:
    """Those who wait and those who are served: nobody is counted afterwards."""
    limits = ConnectionLimits(max_connections=1, max_per_address=5)
    async with running(limited(limits)) as serving, Client(serving.addresses[0]) as first:
        assert await first.ask() == b"?"
        async with Client(serving.addresses[0]):
            serving.close()
            await eventually(lambda: limits.waiting == 1)
            await serving.cancel()
    assert (limits.current, limits.waiting, limits.clients) == (0, 0, 0)


async def test_failing_to_accept_again_is_no_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where there is no descriptor to go on with, it is tried again until there is one."""
    limits = ConnectionLimits(max_connections=1)
    real = socket.socket.dup
    failures = 0

    def dup(self: socket.socket) -> socket.socket:
        nonlocal failures
        failures += 1
        if failures < 3:
            raise OSError(24, "Too many open files")
        return real(self)

    async with running(limited(limits)) as serving, Client(serving.addresses[0]) as first:
        assert await first.ask() == b"?"
        monkeypatch.setattr(socket.socket, "dup", dup)
        async with Client(serving.addresses[0]) as second:
            first.close()
            assert await second.ask() == b"?"
    assert failures >= 3
    assert "accepting again failed" in caplog.text


# ------------------------------------------------------------------------------- max_per_address


async def test_one_address_cannot_have_them_all() -> None:
    """A client with its share is closed at once; others are not concerned."""
    limits = ConnectionLimits(max_per_address=2)
    async with running(limited(limits)) as serving:
        where = serving.addresses[0]
        async with Client(where) as one, Client(where) as two:
            assert await one.ask() == b"?"
            assert await two.ask() == b"?"
            async with Client(where) as three, Client(where, "127.0.0.9") as other:
                assert await three.ask() == b""
                assert await other.ask() == b"?"
            assert limits.count_of(InetAddress("127.0.0.1", 1)) == 2
            assert (limits.refused_address, limits.rejected, limits.clients) == (1, 1, 2)
        await eventually(lambda: limits.current == 0)
        assert limits.clients == 0
        async with Client(where) as again:
            assert await again.ask() == b"?"


async def test_exempt_networks_and_unix_sockets(directory: Path) -> None:
    """A balancer's address is not counted, nor is a client without an address."""
    limits = ConnectionLimits(max_per_address=1, exempt=["127.0.0.0/8"])
    listeners = limited(limits)
    listeners.add_uds(str(directory / "s"))
    async with running(listeners) as serving:
        for where in serving.addresses:
            async with Client(where) as one, Client(where) as two:
                assert await one.ask() == b"?"
                assert await two.ask() == b"?"
                assert limits.clients == 0
                assert limits.current >= 2
    assert limits.rejected == 0


@pytest.mark.parametrize("new", [None, ConnectionLimits(max_connections=1)])
async def test_who_was_accepted_does_not_wait_for_limits_that_are_gone(
    new: ConnectionLimits | None,
) -> None:
    """Whoever waited for a place has it when a service has other limits, or none."""
    old = ConnectionLimits(max_connections=1)
    listeners = limited(old)
    async with running(listeners) as serving:
        permits = [old.admit(None) for _ in range(3)]
        turns = [permit.turn for permit in permits if permit is not None and permit.turn]
        assert (len(turns), old.current, old.waiting) == (2, 1, 2)

        listeners.set_connection_limits(new)
        await serving.update(listeners.endpoints, listeners.policy)

        assert all(turn.done() for turn in turns)
        assert (old.current, old.waiting) == (3, 0)
        for permit in permits:
            if permit is not None:
                permit.release()
        assert old.current == 0


async def test_limits_that_another_service_has_still_hold() -> None:
    """Who waits goes on waiting for a place among those of both."""
    limits = ConnectionLimits(max_connections=1)
    listeners = limited(limits)
    async with running(listeners) as serving, running(limited(limits)):
        permits = [limits.admit(None) for _ in range(2)]
        listeners.set_connection_limits(None)
        await serving.update(listeners.endpoints, listeners.policy)

        assert (limits.current, limits.waiting) == (1, 1)
        for permit in permits:
            if permit is not None:
                permit.release()


async def test_unix_sockets_count_in_all(directory: Path) -> None:
    """They use what other connections use."""
    limits = ConnectionLimits(max_connections=1, at_limit="refuse")
    listeners = limited(limits)
    listeners.add_uds(str(directory / "s"))
    async with running(listeners) as serving:
        tcp, unix = serving.addresses
        async with Client(unix) as one:
            assert await one.ask() == b"?"
            async with Client(tcp) as two:
                assert await two.ask() == b""


async def test_announced_clients_count() -> None:
    """Behind a proxy it is whom it announces, not the proxy; its own checks are free."""
    limits = ConnectionLimits(max_per_address=1)
    listeners = Listeners()
    settings = ProxyProtocolSettings(["127.0.0.1"], mode="optional")
    listeners.add_endpoint(TcpServerAddress(ANY), proxy_protocol=settings)
    listeners.set_connection_limits(limits)
    local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"

    def announce(host: str) -> bytes:
        return b"PROXY TCP4 %s 192.0.2.1 1000 80\r\n?" % host.encode()

    async with running(listeners) as serving:
        where = serving.addresses[0]
        async with Client(where) as one, Client(where) as two, Client(where) as three:
            assert await one.ask(announce("198.51.100.1")) == b"?"
            assert await two.ask(announce("198.51.100.2")) == b"?"
            assert await three.ask(announce("198.51.100.1")) == b""
        async with Client(where) as one, Client(where) as two, Client(where) as direct:
            assert await one.ask(local + b"?") == b"?"
            assert await two.ask(b"PROXY UNKNOWN\r\n?") == b"?"
            await eventually(lambda: limits.clients == 0)
            assert await direct.ask() == b"?"
            assert limits.count_of(InetAddress("127.0.0.1", 1)) == 1
        await eventually(lambda: limits.current == 0)
    assert (limits.clients, limits.refused_address) == (0, 1)


def test_an_ipv6_client_is_a_network() -> None:
    """A /64 unless said otherwise; IPv4 in IPv6's clothes is IPv4; zones do not matter."""
    limits = ConnectionLimits(max_per_address=2)
    for host in ("2001:db8::1", "2001:db8::ffff:2"):
        assert limits.admit(InetAddress(host, 1)) is not None
    assert limits.admit(InetAddress("2001:db8::3", 1)) is None
    assert limits.admit(InetAddress("2001:db8:0:1::3", 1)) is not None
    assert limits.admit(InetAddress("::ffff:192.0.2.1", 1)) is not None
    assert limits.count_of(InetAddress("192.0.2.1", 1)) == 1

    wide = ConnectionLimits(max_per_address=1, ipv4_prefix=24, ipv6_prefix=48)
    assert wide.admit(InetAddress("192.0.2.1", 1)) is not None
    assert wide.admit(InetAddress("192.0.2.2", 1)) is None
    assert wide.admit(InetAddress("2001:db8::1", 1)) is not None
    assert wide.admit(InetAddress("2001:db8:0:9::1", 1)) is None
    assert wide.count_of(InetAddress("fe80::1", 1, 0, 3)) == 0


def test_refusals_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A few lines, however many are refused."""
    caplog.set_level(logging.WARNING)
    limits = ConnectionLimits(max_per_address=1)
    permits = [limits.admit(InetAddress("192.0.2.1", port)) for port in range(500)]

    assert sum(permit is not None for permit in permits) == 1
    assert limits.refused_address == 499
    assert 1 <= len(caplog.records) <= 6
    assert "192.0.2.1:1 refused: 1 from its address are open" in caplog.text


def test_setting_a_limit_for_addresses_later() -> None:
    """It holds for new connections; those that are not counted are not missed at their end."""
    limits = ConnectionLimits()
    client = InetAddress("192.0.2.1", 1)
    early = limits.admit(client)
    limits.max_per_address = 1
    late = limits.admit(client)
    assert early is not None
    assert late is not None
    assert limits.admit(client) is None
    early.release()
    assert limits.admit(client) is None
    late.release()
    late.release()
    assert (limits.current, limits.clients) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_connections": 0}, ValueError),
        ({"max_per_address": -1}, ValueError),
        ({"at_limit": "panic"}, ValueError),
        ({"ipv4_prefix": 33}, ValueError),
        ({"ipv6_prefix": 0}, ValueError),
        ({"exempt": ["example.org"]}, ValueError),
        ({"exempt": "10.0.0.0/8"}, TypeError),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: dict[str, object], error: type[Exception]
) -> None:
    """Limits that cannot be meant are told where they are written."""
    with pytest.raises(error):
        ConnectionLimits(**arguments)  # type: ignore[arg-type]


def test_dividing_among_workers() -> None:
    """Rounded up, so that nobody has nothing."""
    assert [per_worker(100, workers) for workers in (1, 3, 200)] == [100, 34, 1]
    with pytest.raises(ValueError, match="at least 1"):
        per_worker(0, 2)
    with pytest.raises(ValueError, match="at least 1"):
        per_worker(10, 0)
