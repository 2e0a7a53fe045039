"""Endpoints that come, go and change while connections are served."""

from __future__ import annotations

import asyncio
import resource
import socket
import stat
import tempfile
import threading
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from pingora_core.listeners import (
    L4BufferSettings,
    Listeners,
    ListenFds,
    TcpServerAddress,
    serving as serving_module,
)
from pingora_core.listeners._sockets import accept_waiting
from pingora_core.listeners.l4 import BindRetry
from pingora_core.listeners.limits import open_files
from pingora_core.protocols.address import InetAddress
from pingora_core.protocols.l4 import TcpSocketOptions
from pingora_error import Error, ErrorType
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pingora_core.listeners.serving import OnStream, ServingListeners
    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.interfaces import Stream

pytestmark = pytest.mark.usefixtures("no_leaks")

KEPT = "127.0.0.1:0"
OTHER = "127.0.0.2:0"
TAKEN = "192.0.2.1:1"  # TEST-NET-1, not an address of this machine


@pytest.fixture
def directory() -> Iterator[Path]:
    # tmp_path may be longer than a socket's path can be.
    with tempfile.TemporaryDirectory(prefix="p") as name:
        yield Path(name)


async def echo(stream: Stream) -> None:
    """Send back what comes until the client ends."""
    while data := await stream.read(timeout=30):
        stream.write(data)


class Marking:
    """An acceptor that writes a mark before the application does."""

    def __init__(self, mark: bytes) -> None:
        self.mark = mark
        self.runs = 0
        self.is_running = False

    async def accept(self, stream: Stream, /) -> Stream:
        stream.write(self.mark)
        return stream

    async def run(self) -> None:
        self.runs += 1
        self.is_running = True
        try:
            await asyncio.Event().wait()
        finally:
            self.is_running = False


@asynccontextmanager
async def running(
    listeners: Listeners, on_stream: OnStream = echo, fds: ListenFds | None = None
) -> AsyncIterator[ServingListeners]:
    serving = await listeners.serve(on_stream, fds)
    try:
        yield serving
    finally:
        serving.close()
        await serving.cancel()


async def change(serving: ServingListeners, listeners: Listeners) -> None:
    await serving.update(listeners.endpoints, listeners.policy)


async def ask(address: SocketAddress, question: bytes) -> bytes:
    """Send bytes and the end, and return all of the answer."""
    return await asyncio.to_thread(ask_blocking, address, question)


def ask_blocking(address: SocketAddress, question: bytes) -> bytes:
    with socket.socket(address.family) as sock:
        sock.settimeout(30)
        sock.connect(address.sockaddr)
        return converse(sock, question)


def converse(sock: socket.socket, question: bytes) -> bytes:
    sock.sendall(question)
    sock.shutdown(socket.SHUT_WR)
    answer = b""
    while data := sock.recv(65536):
        answer += data
    return answer


def connect_many(address: SocketAddress, count: int) -> list[socket.socket]:
    """Connect without letting anybody accept: the kernel does it alone."""
    clients = []
    for _ in range(count):
        client = socket.socket(address.family)
        client.settimeout(30)
        client.connect(address.sockaddr)
        clients.append(client)
    return clients


async def answers_of(clients: list[socket.socket]) -> list[bytes]:
    """What each of them gets for its number; they are closed."""

    def talk() -> list[bytes]:
        try:
            return [converse(client, b"%d" % i) for i, client in enumerate(clients)]
        finally:
            for client in clients:
                client.close()

    return await asyncio.to_thread(talk)


def is_refused(address: SocketAddress) -> bool:
    with socket.socket(address.family) as probe:
        probe.settimeout(0.05)
        return probe.connect_ex(address.sockaddr) != 0


# --------------------------------------------------------------------------- coming and going


async def test_an_endpoint_comes_and_goes() -> None:
    """Connections of one that is gone go on, and the others are served all the time."""
    async with running(Listeners.tcp(KEPT)) as serving:
        kept = serving.addresses[0]
        both = Listeners.tcp(OTHER)
        both.add_tcp(KEPT)

        await change(serving, both)
        other = serving.addresses[0]
        reader, writer = await asyncio.open_connection(*str(other).split(":"))
        await eventually(lambda: serving.connections == 1)
        assert serving.addresses == [other, kept]
        assert await ask(kept, b"a") == b"a"
        await change(serving, Listeners.tcp(KEPT))

        assert serving.addresses == [kept]
        await eventually(lambda: is_refused(other))
        writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"
        assert await ask(kept, b"b") == b"b"
        writer.close()
        await writer.wait_closed()


async def test_an_endpoint_that_stays_serves_in_the_new_way() -> None:
    """Its socket is the same one; acceptor, buffers and filter are those of the new set."""

    class Nobody:
        async def should_accept(self, addr: SocketAddress | None, /) -> bool:
            return False

    fds = ListenFds()
    async with running(Listeners.tcp(KEPT), fds=fds) as serving:
        address = serving.addresses[0]
        sock = fds.sockets[KEPT]
        fresh = Listeners()
        fresh.add_endpoint(
            TcpServerAddress(KEPT), acceptor=Marking(b"new "), buffers=L4BufferSettings(read=1)
        )

        await change(serving, fresh)
        served = await ask(address, b"x")
        fresh.set_connection_filter(Nobody())
        await change(serving, fresh)
        with pytest.raises(ConnectionResetError):
            await ask(address, b"")

        assert served == b"new x"
        assert fds.sockets[KEPT] is sock
        assert serving.addresses == [address]


async def test_background_work_follows_the_endpoints() -> None:
    """What is new begins, what is gone ends, what stays is not begun again."""
    stays, goes, comes = Marking(b"s"), Marking(b"g"), Marking(b"c")

    def listeners(acceptor: Marking) -> Listeners:
        made = Listeners()
        made.add_endpoint(TcpServerAddress(KEPT), acceptor=stays)
        made.add_endpoint(TcpServerAddress(OTHER), acceptor=acceptor)
        return made

    async with running(listeners(goes)) as serving:
        await eventually(lambda: stays.is_running and goes.is_running)

        await change(serving, listeners(comes))
        await eventually(lambda: comes.is_running and not goes.is_running)

        assert stays.is_running
        assert stays.runs == 1
    assert (stays.is_running, comes.is_running) == (False, False)


async def test_permissions_change_with_the_endpoint(directory: Path) -> None:
    """The file is the same one."""
    path = directory / "s"
    async with running(Listeners.uds(str(path), 0o600)) as serving:
        inode = path.stat().st_ino

        await change(serving, Listeners.uds(str(path), 0o660))

        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert path.stat().st_ino == inode


async def test_permissions_that_cannot_change_are_told(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest of the change is made, and the socket works."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    path = directory / "s"
    async with running(Listeners.uds(str(path), 0o660)) as serving:
        monkeypatch.setattr(Path, "chmod", refuse)
        both = Listeners.uds(str(path), 0o600)
        both.add_tcp(KEPT)

        await change(serving, both)

        assert len(serving.addresses) == 2
        assert f"permissions of unix:{path}" in caplog.text


# ------------------------------------------------------------------------------ all or nothing


async def test_an_address_that_cannot_be_had_changes_nothing(directory: Path) -> None:
    """Neither what was new before it, nor what would have gone or changed."""
    path = directory / "s"
    fds = ListenFds(retry=BindRetry(1))
    listeners = Listeners.tcp(KEPT)
    listeners.add_uds(str(path))
    async with running(listeners, fds=fds) as serving:
        before = serving.addresses
        fresh = Listeners()
        fresh.add_endpoint(TcpServerAddress(KEPT), acceptor=Marking(b"new"))
        fresh.add_tcp(OTHER)
        fresh.add_tcp(TAKEN)

        with pytest.raises(Error, match=TAKEN) as caught:
            await change(serving, fresh)

        assert caught.value.etype is ErrorType.BIND_ERROR
        assert serving.addresses == before
        assert set(fds.sockets) == {KEPT, f"unix:{path}"}
        for address in before:
            assert await ask(address, b"old") == b"old"


async def test_a_server_that_cannot_be_made_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The address was bound, but the event loop refuses: it is released."""

    async def fail(*_: object, **__: object) -> None:
        raise OSError("no server")

    fds = ListenFds()
    async with running(Listeners.tcp(KEPT), fds=fds) as serving:
        both = Listeners.tcp(KEPT)
        both.add_tcp(OTHER)
        monkeypatch.setattr(asyncio.get_running_loop(), "create_server", fail)

        with pytest.raises(OSError, match="no server"):
            await change(serving, both)

        assert set(fds.sockets) == {KEPT}
        assert await ask(serving.addresses[0], b"x") == b"x"


async def test_the_same_address_twice_is_refused() -> None:
    """Their settings would apply to whichever happens to accept."""
    listeners = Listeners.tcp(KEPT)
    listeners.add_tcp(KEPT)

    with pytest.raises(ValueError, match=KEPT):
        await listeners.serve(echo)


async def test_changes_come_one_after_the_other() -> None:
    """The last one that was asked for is what holds."""
    sets = [Listeners.tcp(KEPT), Listeners.tcp(OTHER), Listeners.tcp("127.0.0.3:0")]
    async with running(Listeners.tcp(KEPT)) as serving:
        await asyncio.gather(*(change(serving, each) for each in sets))

        (address,) = serving.addresses
        assert isinstance(address, InetAddress)
        assert address.host == "127.0.0.3"


async def test_nothing_is_opened_after_the_end() -> None:
    """Neither if it has come, nor if it comes while an address is being bound."""
    fds = ListenFds()
    entered, leave = asyncio.Event(), asyncio.Event()

    class Slow(ListenFds):
        async def acquire(self, address: TcpServerAddress) -> socket.socket:  # type: ignore[override]
            entered.set()
            await leave.wait()
            return await super().acquire(address)

    async with running(Listeners.tcp(KEPT), fds=fds) as serving:
        serving.close()
        with pytest.raises(Error, match="the service stops"):
            await change(serving, Listeners.tcp(OTHER))
        assert len(fds) == 0

    slow = Slow()
    async with running(Listeners(), fds=slow) as serving:
        task = asyncio.create_task(change(serving, Listeners.tcp(OTHER)))
        await entered.wait()
        serving.close()
        leave.set()
        with pytest.raises(Error, match="the service stops"):
            await task
        assert len(slow) == 0


# ---------------------------------------------------------------------- what the kernel has done


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_connections_in_the_queue_are_served_at_the_end(directory: Path, kind: str) -> None:
    """200 that the kernel has completed, and none of them was accepted: each gets its answer."""
    listeners = Listeners.tcp(KEPT) if kind == "tcp" else Listeners.uds(str(directory / "s"))
    async with running(listeners) as serving:
        clients = connect_many(serving.addresses[0], 200)

        serving.close()

        assert await answers_of(clients) == [b"%d" % i for i in range(200)]
        assert await serving.drain(timeout=30)


async def test_connections_in_the_queue_of_one_that_goes_are_served() -> None:
    """Also when it goes by a change."""
    listeners = Listeners.tcp(KEPT)
    listeners.add_tcp(OTHER)
    async with running(listeners) as serving:
        clients = connect_many(serving.addresses[1], 50)

        await change(serving, Listeners.tcp(KEPT))

        assert await answers_of(clients) == [b"%d" % i for i in range(50)]


async def test_connections_in_the_queue_have_options_and_acceptors() -> None:
    """They are served like all others."""
    listeners = Listeners()
    listeners.add_endpoint(
        TcpServerAddress(KEPT, TcpSocketOptions(tcp_snd_buf=65536)), acceptor=Marking(b"m")
    )
    async with running(listeners) as serving:
        clients = connect_many(serving.addresses[0], 3)

        serving.close()

        assert await answers_of(clients) == [b"m0", b"m1", b"m2"]


async def test_a_queue_is_not_emptied_for_nothing() -> None:
    """A successor has the socket: who waits there is served by it."""
    fds = ListenFds()
    async with running(Listeners.tcp(KEPT), fds=fds) as serving:
        successor = {key: sock.dup() for key, sock in fds.sockets.items()}
        clients = connect_many(serving.addresses[0], 3)
        fds.disown_files()

        serving.close()
        await serving.drain()

        accepted, is_all = accept_waiting(successor[KEPT])
        assert (len(accepted), is_all) == (3, True)
        for sock in (*accepted, *clients, *successor.values()):
            sock.close()


@pytest.mark.parametrize("turns", range(5))
async def test_nobody_is_forgotten_in_whatever_turn_accepting_ends(turns: int) -> None:
    """Who was accepted in the turn before is served like those in the queue."""
    async with running(Listeners.tcp(KEPT)) as serving:
        clients = connect_many(serving.addresses[0], 20)
        for _ in range(turns):
            await asyncio.sleep(0)

        serving.close()

        assert await answers_of(clients) == [b"%d" % number for number in range(20)]
        assert await serving.drain(timeout=30)


async def test_cancelling_breaks_the_queue_off_too() -> None:
    """Whoever does not want to wait does not wait for these either."""
    async with running(Listeners.tcp(KEPT)) as serving:
        clients = connect_many(serving.addresses[0], 20)

        serving.close()
        ended = await serving.cancel(timeout=30)

        assert ended
        assert serving.connections == 0
        for client in clients:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            client.close()


async def test_the_queue_waits_for_descriptors(caplog: pytest.LogCaptureFixture) -> None:
    """Without any, the last connections are served as soon as there are some; drain waits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with running(Listeners.tcp(KEPT)) as serving:
        clients = connect_many(serving.addresses[0], 20)
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() // 2, hard))
        try:
            serving.close()
            early = await serving.drain(timeout=0.02)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        assert early is False
        assert await answers_of(clients) == [b"%d" % i for i in range(20)]
        assert await serving.drain(timeout=30)
    assert "the last connections wait for file descriptors" in caplog.text


# ----------------------------------------------------------------------------- under load


class Load:
    """Threads that connect, ask and check, again and again."""

    def __init__(self, address: SocketAddress, *, count: int = 3) -> None:
        self._address = address
        self._stop = threading.Event()
        self.served = 0
        self.refused = 0
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def serves(self, count: int) -> None:
        """Wait until so many more connections were served, or one was not."""
        wanted = self.served + count
        await eventually(lambda: self.served >= wanted or self.failures)

    async def is_refused(self) -> None:
        """Wait until nobody gets a connection any more."""
        await eventually(lambda: self.refused == len(self._threads))

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            with socket.socket(self._address.family) as sock:
                sock.settimeout(0.2)
                try:
                    sock.connect(self._address.sockaddr)
                except (ConnectionRefusedError, TimeoutError):
                    self.refused += 1
                    return
                sock.settimeout(30)
                try:
                    if converse(sock, b"question") != b"question":
                        self.failures.append("no answer")
                    self.served += 1
                except OSError as error:
                    self.failures.append(repr(error))


async def test_changes_lose_no_connection() -> None:
    """Clients of an address that stays notice nothing of 20 changes around it."""
    async with running(Listeners.tcp(KEPT)) as serving:
        address = serving.addresses[0]
        with Load(address) as load:
            for number in range(20):
                fresh = Listeners.tcp(KEPT)
                fresh.add_tcp(f"127.0.0.{2 + number % 3}:0")
                await change(serving, fresh)
                await load.serves(1)
            await asyncio.to_thread(load.stop)

        assert load.failures == []
        assert load.refused == 0


async def test_an_address_that_goes_resets_nobody() -> None:
    """Whoever gets a connection gets an answer; from some moment on nobody does."""
    both = Listeners.tcp(KEPT)
    both.add_tcp(OTHER)
    async with running(Listeners.tcp(KEPT)) as serving:
        for _ in range(5):
            await change(serving, both)
            with Load(serving.addresses[1]) as load:
                await load.serves(20)
                await change(serving, Listeners.tcp(KEPT))
                await load.is_refused()

            assert load.failures == []


class Patient:
    """An acceptor that waits for the client's first word."""

    async def accept(self, stream: Stream, /) -> Stream:
        await stream.read()
        return stream


@pytest.mark.parametrize("is_begun", [True, False])
async def test_a_silent_client_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch, *, is_begun: bool
) -> None:
    """A handshake that makes no progress is broken off a while after the listener has closed."""
    monkeypatch.setattr(serving_module, "_LAST_HANDSHAKES", 0.02)
    listeners = Listeners()
    listeners.add_endpoint(TcpServerAddress(KEPT), acceptor=Patient())
    serving = await listeners.serve(echo)
    (address,) = serving.addresses
    assert isinstance(address, InetAddress)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    if is_begun:
        await eventually(lambda: serving.preparing == 1, "the handshake")

    serving.close()

    assert await serving.drain(timeout=30)
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    writer.close()
