"""Sockets that several processes have: workers, a supervisor, a successor; who may do what."""

from __future__ import annotations

import asyncio
import gc
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pingora_core.listeners._sockets import refuse_new
from pingora_core.listeners.fds import ListenFds
from pingora_core.listeners.l4 import (
    BindRetry,
    TcpServerAddress,
    UdpServerAddress,
    UdsServerAddress,
    bind,
)
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_core.listeners.l4 import ServerAddress

pytestmark = pytest.mark.usefixtures("no_leaks")

ONCE = BindRetry(attempts=1)
TCP = TcpServerAddress("127.0.0.1:0")


def _system_refuses_connections() -> bool:
    # A hardened system may keep filters on sockets for root; then nothing happens.
    with socket.create_server(("127.0.0.1", 0)) as sock:
        refuse_new(sock)
        return outcome(sock) != "connected"


@pytest.fixture
def directory() -> Iterator[Path]:
    # tmp_path may be longer than a socket's path can be.
    with tempfile.TemporaryDirectory(prefix="p") as name:
        yield Path(name)


class Supervisor:
    """Has sockets, and notes what it is asked."""

    def __init__(self) -> None:
        self.made: list[socket.socket] = []
        self.asked: list[str] = []
        self.released_keys: list[str] = []

    async def obtain(self, address: ServerAddress) -> socket.socket:
        self.asked.append(address.key)
        if address.key.startswith("192.0.2."):
            raise Error(ErrorType.BIND_ERROR, f"listen on {address.key}")
        sock = await bind(address, ONCE)
        self.made.append(sock)
        return sock.dup()

    def released(self, address: ServerAddress) -> None:
        self.released_keys.append(address.key)

    def close(self) -> None:
        for sock in self.made:
            sock.close()


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    made = Supervisor()
    yield made
    made.close()


def connect(sock: socket.socket) -> socket.socket:
    """Connect to a listening socket, which need not accept."""
    client = socket.socket(sock.family)
    client.settimeout(30)
    client.connect(sock.getsockname())
    return client


def outcome(sock: socket.socket) -> str:
    """What becomes of a new connection."""
    with socket.socket(sock.family) as client:
        client.settimeout(0.05)
        try:
            client.connect(sock.getsockname())
        except OSError as error:
            return type(error).__name__
    return "connected"


needs_filters = pytest.mark.skipif(
    not _system_refuses_connections(), reason="filters on sockets are not allowed here"
)


# ------------------------------------------------------------------------------------- workers


async def test_a_worker_has_the_sockets_of_its_parent(
    directory: Path, supervisor: Supervisor
) -> None:
    """They are there without asking, and their files are not the worker's to remove."""
    uds = UdsServerAddress(str(directory / "s"))
    parent = ListenFds()
    parent.acquire_blocking(TCP)
    parent.acquire_blocking(uds)
    keys = set(parent.sockets)

    worker = parent.for_worker(supervisor)
    sock = await worker.acquire(uds)

    assert set(worker.sockets) == keys == {TCP.key, uds.key}
    assert worker.in_use == {uds.key}
    assert len(parent) == 0
    sock.close()
    worker.release(uds)
    worker.close()
    assert (directory / "s").exists()
    assert supervisor.asked == []


async def test_what_a_worker_does_not_have_comes_from_its_source(supervisor: Supervisor) -> None:
    """Once, even if two services ask at the same time; the source hears of the last release."""
    worker = ListenFds(source=supervisor)

    first, second = await asyncio.gather(worker.acquire(TCP), worker.acquire(TCP))
    first.close()
    worker.release(TCP)
    early = list(supervisor.released_keys)
    second.close()
    worker.release(TCP)

    assert first.family == socket.AF_INET
    assert supervisor.asked == [TCP.key]
    assert early == []
    assert supervisor.released_keys == [TCP.key]
    assert len(worker) == 0


async def test_a_source_that_fails_leaves_nothing(supervisor: Supervisor) -> None:
    """Its error goes to who asked; the next one asks again."""
    worker = ListenFds(source=supervisor)
    address = TcpServerAddress("192.0.2.1:1")

    for _ in range(2):
        with pytest.raises(Error, match=r"192\.0\.2\.1:1"):
            await worker.acquire(address)

    assert supervisor.asked == [address.key] * 2
    assert len(worker) == 0
    worker.release(address)
    assert supervisor.released_keys == []


async def test_a_supervisor_makes_sockets_that_it_does_not_use() -> None:
    """They are there until they are dropped."""
    fds = ListenFds(retry=ONCE)

    await fds.ensure(TCP)
    await fds.ensure(TCP)
    sock = fds.sockets[TCP.key]

    assert fds.in_use == frozenset()
    assert fds.close_unclaimed() == []
    fds.drop(TCP.key)
    fds.drop(TCP.key)
    assert sock.fileno() == -1


async def test_a_lock_is_there_only_as_long_as_somebody_waits(supervisor: Supervisor) -> None:
    """Addresses may come and go for ever without anything being kept of them."""
    worker = ListenFds(source=supervisor)
    for number in range(3):
        address = TcpServerAddress(f"127.0.0.{number + 1}:0")
        (await worker.acquire(address)).close()
        worker.release(address)
    gc.collect()

    assert len(worker._locks) == 0


# ------------------------------------------------------------------------------------ retiring


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@needs_filters
async def test_who_retires_an_address_gets_its_queue(directory: Path, kind: str) -> None:
    """What is complete can be accepted, and nothing new comes; the socket is the caller's."""
    address = TCP if kind == "tcp" else UdsServerAddress(str(directory / "s"))
    fds = ListenFds()
    (await fds.acquire(address)).close()
    waiting = connect(fds.sockets[address.key])

    sock = fds.retire(address)

    assert sock is not None
    assert len(fds) == 0
    assert outcome(sock) != "connected"
    accepted, _ = sock.accept()
    waiting.sendall(b"x")
    accepted.settimeout(30)
    assert accepted.recv(1) == b"x"
    with pytest.raises(BlockingIOError):
        sock.accept()
    for each in (sock, accepted, waiting):
        each.close()


async def test_only_the_last_user_gets_the_queue() -> None:
    """The other service goes on to accept."""
    fds = ListenFds()
    first, second = await fds.acquire(TCP), await fds.acquire(TCP)
    first.close()

    assert fds.retire(TCP) is None
    assert outcome(second) == "connected"

    second.close()
    sock = fds.retire(TCP)
    assert sock is not None
    sock.close()
    assert fds.retire(TCP) is None


async def test_a_worker_leaves_the_queue_to_the_others(supervisor: Supervisor) -> None:
    """Unless all of them give the address up; and even then it does not touch the socket."""
    parent = ListenFds()
    parent.acquire_blocking(TCP)
    shared = parent.sockets[TCP.key].dup()
    worker = parent.for_worker(supervisor)
    (await worker.acquire(TCP)).close()

    assert worker.retire(TCP) is None
    (await worker.acquire(TCP)).close()
    sock = worker.retire(TCP, everywhere=True)

    assert sock is not None
    assert outcome(shared) == "connected"
    assert supervisor.released_keys == [TCP.key, TCP.key]
    sock.close()
    shared.close()


@needs_filters
async def test_a_worker_that_stops_with_all_others_empties_the_queue(
    supervisor: Supervisor,
) -> None:
    """It is told so; its supervisor refuses what is new."""
    parent = ListenFds()
    parent.acquire_blocking(TCP)
    worker = ListenFds(source=supervisor)
    worker.disown_files()
    worker.adopt(TCP.key, parent.sockets[TCP.key].dup())
    (await worker.acquire(TCP)).close()
    waiting = connect(parent.sockets[TCP.key])

    parent.refuse_connections()
    worker.serves_backlog = True
    refused = outcome(parent.sockets[TCP.key])
    sock = worker.retire(TCP)

    assert refused != "connected"
    assert sock is not None
    accepted, _ = sock.accept()
    for each in (sock, accepted, waiting):
        each.close()
    parent.close()


@needs_filters
async def test_one_address_is_refused_alone() -> None:
    """All others go on."""
    other = TcpServerAddress("127.0.0.2:0")
    fds = ListenFds()
    fds.acquire_blocking(TCP)
    fds.acquire_blocking(other)

    fds.refuse_connections(other)

    assert outcome(fds.sockets[TCP.key]) == "connected"
    assert outcome(fds.sockets[other.key]) != "connected"
    fds.close()


async def test_datagrams_are_not_refused() -> None:
    """Those that come are for whoever retires the address to answer, while the socket is open."""
    address = UdpServerAddress("127.0.0.1:0")
    fds = ListenFds()
    (await fds.acquire(address)).close()
    fds.refuse_connections()

    sock = fds.retire(address)

    assert sock is not None
    with sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"y" * 100, sock.getsockname())
        assert await asyncio.get_running_loop().sock_recv(sock, 200) == b"y" * 100


# ----------------------------------------------------------------------------- handing over


async def test_a_handed_over_socket_is_not_touched(directory: Path) -> None:
    """The successor accepts what is waiting, and has the files."""
    uds = UdsServerAddress(str(directory / "s"))
    fds = ListenFds()
    for address in (TCP, uds):
        (await fds.acquire(address)).close()
    successor = {key: sock.dup() for key, sock in fds.sockets.items()}

    fds.disown_files()
    retired = [fds.retire(address) for address in (TCP, uds)]

    assert retired == [None, None]
    assert {outcome(sock) for sock in successor.values()} == {"connected"}
    for sock in successor.values():
        sock.close()


async def test_a_successor_that_is_not_ready_yet_is_not_harmed() -> None:
    """An address that is given up meanwhile is emptied, but its socket goes on for others."""
    fds = ListenFds()
    (await fds.acquire(TCP)).close()
    successor = fds.sockets[TCP.key].dup()

    fds.mark_transferred()
    sock = fds.retire(TCP)

    assert sock is not None
    assert outcome(successor) == "connected"
    sock.close()
    successor.close()


async def test_an_inherited_queue_is_emptied_but_not_refused() -> None:
    """Whoever had the socket before may still have it."""
    predecessor = socket.create_server(("127.0.0.1", 0))
    fds = ListenFds({TCP.key: predecessor.dup()})
    (await fds.acquire(TCP)).close()

    sock = fds.retire(TCP)

    assert sock is not None
    assert outcome(predecessor) == "connected"
    sock.close()
    predecessor.close()


async def test_what_systemd_keeps_is_left_as_it_is(directory: Path) -> None:
    """Its file stays, and who is waiting is served by whatever systemd starts next."""
    path = directory / "s"
    systemd = socket.socket(socket.AF_UNIX)
    systemd.bind(str(path))
    systemd.listen()
    address = UdsServerAddress(str(path))
    fds = ListenFds()
    fds.adopt("app.socket", systemd.dup(), is_shared=True)
    (await fds.acquire(address)).close()
    waiting = connect(systemd)

    assert fds.retire(address) is None
    fds.refuse_connections()

    assert path.exists()
    assert outcome(systemd) == "connected"
    systemd.accept()[0].close()
    waiting.close()
    systemd.close()
