from __future__ import annotations

import asyncio
import logging
import resource
import socket
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pingora_core.listeners import (
    L4BufferSettings,
    Listeners,
    ListenFds,
    TcpServerAddress,
)
from pingora_core.protocols.address import InetAddress, UnixAddress
from pingora_core.protocols.l4 import TcpKeepalive, TcpSocketOptions
from pingora_error import Error, ErrorType
from tests.support.leaks import open_files
from tests.support.ports import needs_ipv6
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pingora_core.listeners.l4 import ServerAddress
    from pingora_core.listeners.serving import OnStream, ServingListeners
    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.interfaces import Stream

pytestmark = pytest.mark.usefixtures("no_leaks")

ANY = "127.0.0.1:0"


@pytest.fixture
def directory() -> Iterator[Path]:
    # tmp_path may be longer than a socket's path can be.
    with tempfile.TemporaryDirectory(prefix="p") as name:
        yield Path(name)


async def echo(stream: Stream) -> None:
    """Send back what comes until the client ends."""
    while data := await stream.read(timeout=30):
        stream.write(data)


@asynccontextmanager
async def running(listeners: Listeners, on_stream: OnStream) -> AsyncIterator[ServingListeners]:
    serving = await listeners.serve(on_stream)
    try:
        yield serving
    finally:
        serving.close()
        await serving.cancel()


async def connect(address: SocketAddress) -> socket.socket:
    """Connect a bare socket."""
    sock = socket.socket(address.family)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, address.sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


async def ask(address: SocketAddress, question: bytes) -> bytes:
    """Send bytes and the end, and return all of the answer."""
    loop = asyncio.get_running_loop()
    answer = b""
    with await connect(address) as sock:
        await loop.sock_sendall(sock, question)
        sock.shutdown(socket.SHUT_WR)
        while data := await loop.sock_recv(sock, 65536):
            answer += data
    return answer


async def test_a_tcp_endpoint_serves_connections() -> None:
    """Each connection gets its own call, and its stream is closed after it."""
    async with running(Listeners.tcp(ANY), echo) as serving:
        answers = await asyncio.gather(*(ask(serving.addresses[0], b"%d" % i) for i in range(20)))

        assert answers == [b"%d" % i for i in range(20)]
        await eventually(lambda: serving.connections == 0)


@needs_ipv6
async def test_ipv6_and_unix_sockets_serve_alike(directory: Path) -> None:
    """Several endpoints serve with one function."""
    listeners = Listeners.uds(str(directory / "s"), permissions=0o600)
    listeners.add_tcp("[::1]:0")
    async with running(listeners, echo) as serving:
        unix, ipv6 = serving.addresses

        assert unix == UnixAddress(str(directory / "s"))
        assert isinstance(ipv6, InetAddress)
        assert ipv6.is_ipv6
        assert await ask(unix, b"unix") == b"unix"
        assert await ask(ipv6, b"ipv6") == b"ipv6"


async def test_close_refuses_new_connections_and_keeps_old_ones(directory: Path) -> None:
    """What is open goes on; drain waits for it; the Unix socket's file is removed."""
    listeners = Listeners.tcp(ANY)
    listeners.add_uds(str(directory / "s"))
    async with running(listeners, echo) as serving:
        address = serving.addresses[0]
        loop = asyncio.get_running_loop()
        sock = await connect(address)
        await eventually(lambda: serving.connections == 1)

        serving.close()
        serving.close()

        assert not serving.is_accepting
        await asyncio.sleep(0)
        with pytest.raises(ConnectionRefusedError):
            await connect(address)
        assert not (directory / "s").exists()
        assert await serving.drain(timeout=0.01) is False
        await loop.sock_sendall(sock, b"still here")
        assert await loop.sock_recv(sock, 100) == b"still here"
        sock.close()
        assert await serving.drain(timeout=30) is True
        assert await serving.drain() is True


async def test_drain_waits_for_the_last_byte() -> None:
    """A connection counts as open until what was written is sent."""
    data = b"x" * 8_000_000

    async def send(stream: Stream) -> None:
        await stream.read()
        stream.write(data)

    async with running(Listeners.tcp(ANY), send) as serving:
        loop = asyncio.get_running_loop()
        with await connect(serving.addresses[0]) as sock:
            await loop.sock_sendall(sock, b"go")
            await eventually(lambda: serving.connections)
            early = await serving.drain(timeout=0.05)
            received = 0
            while piece := await loop.sock_recv(sock, 1_000_000):
                received += len(piece)

        assert early is False
        assert received == len(data)
        assert await serving.drain(timeout=30)


async def test_cancel_resets_what_is_left() -> None:
    """A connection that is broken off does not look like one that ended well."""
    served: list[Stream] = []

    async def note(stream: Stream) -> None:
        served.append(stream)
        await echo(stream)

    async with running(Listeners.tcp(ANY), note) as serving:
        with await connect(serving.addresses[0]) as sock:
            await eventually(lambda: served)

            ended = await serving.cancel(timeout=1)

            assert ended
            assert serving.connections == 0
            with pytest.raises(ConnectionResetError):
                await asyncio.get_running_loop().sock_recv(sock, 1)


async def test_a_connection_cancelled_before_it_began_is_reset_too() -> None:
    """Its task has not taken its first step, and yet its socket is closed."""
    served: list[Stream] = []

    async def note(stream: Stream) -> None:
        served.append(stream)

    async with running(Listeners.tcp(ANY), note) as serving:
        address = serving.addresses[0]
        with socket.socket(address.family) as sock:
            sock.connect(address.sockaddr)  # the kernel does it alone
            sock.setblocking(False)
            while serving.connections == 0:  # noqa: ASYNC110 - to be there in the same turn
                await asyncio.sleep(0)

            await serving.cancel(timeout=1)

            with pytest.raises(ConnectionResetError):
                await asyncio.get_running_loop().sock_recv(sock, 1)


async def test_cancel_says_when_a_connection_will_not_end() -> None:
    """The caller's time is limited, whatever the application does."""
    begun, release = asyncio.Event(), asyncio.Event()

    async def stubborn(_: Stream) -> None:
        begun.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with running(Listeners.tcp(ANY), stubborn) as serving:
        with await connect(serving.addresses[0]):
            await begun.wait()

            ended = await serving.cancel(timeout=0.01)
            release.set()

            assert ended is False


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("broken application"), "broken application"),
        (Error(ErrorType.INTERNAL_ERROR, "known trouble"), "known trouble"),
    ],
    ids=["exception", "error"],
)
async def test_an_exception_is_logged_with_the_peer(
    caplog: pytest.LogCaptureFixture, error: Exception, text: str
) -> None:
    """It costs this connection, which is reset, and no other."""

    async def fail(stream: Stream) -> None:
        if await stream.read() == b"bad":
            raise error
        await echo(stream)

    async with running(Listeners.tcp(ANY), fail) as serving:
        loop = asyncio.get_running_loop()
        with await connect(serving.addresses[0]) as sock:
            local = sock.getsockname()
            with caplog.at_level(logging.WARNING):
                await loop.sock_sendall(sock, b"bad")
                with pytest.raises(ConnectionResetError):
                    await loop.sock_recv(sock, 1)

        assert text in caplog.text
        assert f"{local[0]}:{local[1]}" in caplog.text
        assert await ask(serving.addresses[0], b"") == b""


class RecordingFilter:
    """Lets in who is told to be let in, after a while."""

    def __init__(self, *, accept: bool = True, delay: float = 0.0) -> None:
        self.accept = accept
        self.delay = delay
        self.asked: list[SocketAddress | None] = []

    async def should_accept(self, addr: SocketAddress | None, /) -> bool:
        self.asked.append(addr)
        if self.delay:
            await asyncio.sleep(self.delay)
        return self.accept


async def served_nothing(address: SocketAddress) -> bool:
    """Whether a connection is dropped without an answer."""
    try:
        return await ask(address, b"x") == b""
    except ConnectionError:
        return True


async def test_a_filter_sees_the_client_and_lets_it_in() -> None:
    """It is asked once per connection, with the client's address."""
    connection_filter = RecordingFilter()
    listeners = Listeners.tcp(ANY)
    listeners.set_connection_filter(connection_filter)
    async with running(listeners, echo) as serving:
        with await connect(serving.addresses[0]) as sock:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, b"x")

            assert await loop.sock_recv(sock, 1) == b"x"
            assert connection_filter.asked == [InetAddress(*sock.getsockname())]


async def test_a_filter_is_asked_for_unix_sockets_without_an_address(directory: Path) -> None:
    """There is no address to tell; endpoints added before the filter have it too."""
    connection_filter = RecordingFilter()
    listeners = Listeners.uds(str(directory / "s"))
    listeners.set_connection_filter(connection_filter)
    async with running(listeners, echo) as serving:
        assert await ask(serving.addresses[0], b"x") == b"x"

    assert connection_filter.asked == [None]


async def test_a_filter_drops_connections() -> None:
    """The application never sees them."""
    seen: list[Stream] = []

    async def note(stream: Stream) -> None:
        seen.append(stream)
        await echo(stream)

    listeners = Listeners.tcp(ANY)
    listeners.set_connection_filter(RecordingFilter(accept=False))
    async with running(listeners, note) as serving:
        assert await served_nothing(serving.addresses[0])

    assert seen == []


async def test_a_slow_filter_delays_nobody_else() -> None:
    """One client is still being thought about while others are served."""
    first = asyncio.Event()

    class SlowForTheFirst:
        def __init__(self) -> None:
            self.count = 0

        async def should_accept(self, addr: SocketAddress | None, /) -> bool:
            self.count += 1
            if self.count == 1:
                await first.wait()
            return True

    listeners = Listeners.tcp(ANY)
    listeners.set_connection_filter(SlowForTheFirst())
    async with running(listeners, echo) as serving:
        address = serving.addresses[0]
        slow = asyncio.create_task(ask(address, b"slow"))
        await eventually(lambda: serving.connections == 1)

        others = await asyncio.gather(*(ask(address, b"fast") for _ in range(10)))
        waiting = not slow.done()
        first.set()

        assert others == [b"fast"] * 10
        assert waiting
        assert await slow == b"slow"


async def test_a_filter_that_takes_too_long_says_no(caplog: pytest.LogCaptureFixture) -> None:
    """After the deadline the connection is dropped, and the log tells."""
    listeners = Listeners(filter_timeout=0.01)
    listeners.add_tcp(ANY)
    listeners.set_connection_filter(RecordingFilter(delay=60))
    async with running(listeners, echo) as serving:
        assert await served_nothing(serving.addresses[0])

    assert "not done within 0.01 s" in caplog.text


async def test_a_filter_that_fails_says_no(caplog: pytest.LogCaptureFixture) -> None:
    """Who cannot be judged is not let in."""

    class Broken:
        async def should_accept(self, addr: SocketAddress | None, /) -> bool:
            raise ValueError("broken filter")

    listeners = Listeners.tcp(ANY)
    listeners.set_connection_filter(Broken())
    async with running(listeners, echo) as serving:
        assert await served_nothing(serving.addresses[0])

    assert "broken filter" in caplog.text


async def test_options_reach_accepted_connections() -> None:
    """Keep-alive, DSCP and buffer sizes are read back; nodelay is always on."""
    values: dict[str, int] = {}

    async def look(stream: Stream) -> None:
        sock = socket.socket(fileno=stream.id)
        values["nodelay"] = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        values["keepalive"] = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        values["idle"] = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        values["interval"] = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
        values["count"] = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
        values["user"] = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        values["tos"] = sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS)
        values["snd"] = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        values["rcv"] = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        sock.detach()

    options = TcpSocketOptions(
        dscp=10,
        tcp_keepalive=TcpKeepalive(idle=11, interval=5, count=3, user_timeout=2),
        tcp_snd_buf=50000,
        tcp_recv_buf=60000,
    )
    listeners = Listeners()
    listeners.add_tcp_with_settings(ANY, options)
    async with running(listeners, look) as serving:
        await ask(serving.addresses[0], b"")

    assert values == {
        "nodelay": 1,
        "keepalive": 1,
        "idle": 11,
        "interval": 5,
        "count": 3,
        "user": 2000,
        "tos": 40,
        "snd": 100000,
        "rcv": 120000,
    }


async def test_buffers_bound_what_an_idle_application_holds() -> None:
    """A client that sends to an application that does not read is held back."""
    held: list[Stream] = []
    release = asyncio.Event()

    async def hold(stream: Stream) -> None:
        held.append(stream)
        await release.wait()

    listeners = Listeners()
    options = TcpSocketOptions(tcp_recv_buf=16384)
    listeners.add_endpoint(TcpServerAddress(ANY, options), buffers=L4BufferSettings(read=1024))
    async with running(listeners, hold) as serving:
        with await connect(serving.addresses[0]) as sock:
            sending = asyncio.get_running_loop().sock_sendall(sock, b"x" * 8_000_000)
            task = asyncio.ensure_future(sending)
            await asyncio.sleep(0.03)

            assert not task.done()
            assert 1024 <= held[0].buffered <= 1024 + 2 * 262144
            task.cancel()
            await asyncio.wait([task])
        release.set()


@pytest.mark.parametrize(("read", "write"), [(0, 1), (1, -1)])
def test_buffer_sizes_are_checked(read: int, write: int) -> None:
    """A stream that never reads is a mistake."""
    with pytest.raises(ValueError, match="buffer"):
        L4BufferSettings(read, write)


class Upper:
    """A handshake: waits for HELLO, then serves the rest of the stream."""

    async def accept(self, stream: Stream, /) -> Stream:
        hello = await stream.read()
        if hello != b"HELLO":
            raise Error(ErrorType.HANDSHAKE_ERROR, f"not {hello!r}")
        stream.write(b"WELCOME ")
        return stream


async def test_an_acceptor_comes_before_the_application() -> None:
    """What it returns is what is served; if it raises, the application is not called."""
    served: list[Stream] = []

    async def once(stream: Stream) -> None:
        served.append(stream)
        stream.write(b"served")

    listeners = Listeners()
    listeners.add_endpoint(TcpServerAddress(ANY), acceptor=Upper())
    async with running(listeners, once) as serving:
        assert await ask(serving.addresses[0], b"HELLO") == b"WELCOME served"
        assert await served_nothing(serving.addresses[0])

    assert len(served) == 1


async def test_a_handshake_has_a_deadline(caplog: pytest.LogCaptureFixture) -> None:
    """A client that says nothing is dropped."""
    listeners = Listeners(handshake_timeout=0.01)
    listeners.add_endpoint(TcpServerAddress(ANY), acceptor=Upper())
    async with running(listeners, echo) as serving:
        with await connect(serving.addresses[0]) as sock, pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().sock_recv(sock, 1)

    assert "not done within 0.01 s" in caplog.text


async def test_an_endpoint_that_cannot_be_bound_stops_all() -> None:
    """The error names the address, and the endpoints before it are closed again."""
    addresses: list[InetAddress] = []

    class Fds(ListenFds):
        async def acquire(self, address: ServerAddress) -> socket.socket:
            sock = await super().acquire(address)
            addresses.append(InetAddress(*sock.getsockname()))
            return sock

    listeners = Listeners.tcp(ANY)
    listeners.add_tcp("192.0.2.1:1")

    with pytest.raises(Error, match=r"192\.0\.2\.1:1") as caught:
        await listeners.serve(echo, Fds())

    assert caught.value.etype is ErrorType.BIND_ERROR
    await asyncio.sleep(0)
    with pytest.raises(ConnectionRefusedError):
        await connect(addresses[0])


async def test_a_server_that_cannot_be_made_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the socket nor its place in the table."""

    async def fail(*_: object, **__: object) -> None:
        raise OSError("no server")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_server", fail)
    fds = ListenFds()

    with pytest.raises(OSError, match="no server"):
        await Listeners.tcp(ANY).serve(echo, fds)

    assert len(fds) == 0


async def test_two_services_may_share_an_address() -> None:
    """Both accept from the same socket; it listens until both have closed."""
    fds = ListenFds()
    first = await Listeners.tcp(ANY).serve(echo, fds)
    second = await Listeners.tcp(ANY).serve(echo, fds)
    address = first.addresses[0]

    first.close()
    answer = await ask(address, b"x")
    second.close()
    await asyncio.sleep(0)

    assert second.addresses == first.addresses
    assert answer == b"x"
    with pytest.raises(ConnectionRefusedError):
        await connect(address)
    assert await second.drain(timeout=30)


async def test_running_out_of_descriptors_does_not_end_the_listener(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Some clients may be dropped meanwhile, but afterwards it serves again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with running(Listeners.tcp(ANY), echo) as serving:
        address = serving.addresses[0]
        assert await ask(address, b"before") == b"before"
        clients = [socket.socket() for _ in range(3)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_files()) + 1, hard))
        try:
            for client in clients:
                client.setblocking(False)
                client.connect_ex(address.sockaddr)
            await asyncio.sleep(0.02)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for client in clients:
                client.close()

        # asyncio waits for a second before it accepts again (selector_events.py).
        assert await ask(address, b"after") == b"after"
