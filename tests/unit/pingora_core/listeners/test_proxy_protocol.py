"""Accepting the PROXY protocol on real sockets."""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pingora_core.listeners import (
    L4BufferSettings,
    Listeners,
    ProxyProtocolSettings,
    TcpServerAddress,
)
from pingora_core.protocols.address import InetAddress, UnixAddress
from pingora_core.protocols.proxy_protocol import (
    ProxyCommand,
    ProxyHeader,
    TlvType,
    encode_proxy_header,
)
from tests.support.ports import needs_ipv6
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pingora_core.listeners import ServingListeners
    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.interfaces import Stream

pytestmark = pytest.mark.usefixtures("no_leaks")

ANY = "127.0.0.1:0"
TRUSTED = ("127.0.0.0/8", "::1")
CLIENT = InetAddress("192.0.2.1", 56324)
SERVER = InetAddress("198.51.100.7", 443)
V1 = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
V2 = encode_proxy_header(
    ProxyHeader(
        source=CLIENT, destination=SERVER, tlvs=((TlvType.UNIQUE_ID, b"id"),), checksum=True
    )
)
LONG = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x10\x01"
REFUSED = b"refused"


class Served:
    """An application that answers what it has read, and keeps what it was told of the client.

    Attributes:
        peers: Announced or real address of each client.
        locals: Announced or real address that it connected to.
        transport_peers: Real address of each client.
        headers: Header of each connection.
    """

    def __init__(self) -> None:
        self.peers: list[SocketAddress | None] = []
        self.locals: list[SocketAddress | None] = []
        self.transport_peers: list[SocketAddress | None] = []
        self.headers: list[ProxyHeader | None] = []

    async def __call__(self, stream: Stream) -> None:
        digest = stream.digest
        assert digest.socket_digest is not None
        self.peers.append(digest.socket_digest.peer_addr)
        self.locals.append(digest.socket_digest.local_addr)
        self.transport_peers.append(digest.socket_digest.transport_peer_addr)
        self.headers.append(digest.proxy_protocol)
        while data := await stream.read(timeout=30):
            stream.write(data)


@pytest.fixture
def served() -> Served:
    return Served()


@pytest.fixture
def directory() -> Iterator[Path]:
    # tmp_path may be longer than a socket's path can be.
    with tempfile.TemporaryDirectory(prefix="p") as name:
        yield Path(name)


@asynccontextmanager
async def running(listeners: Listeners, served: Served) -> AsyncIterator[ServingListeners]:
    serving = await listeners.serve(served)
    try:
        yield serving
    finally:
        serving.close()
        await serving.cancel()


def listening(
    settings: ProxyProtocolSettings | None = None, *, read_buffer: int = 65536
) -> Listeners:
    """Make listeners with one endpoint that accepts headers."""
    listeners = Listeners()
    listeners.add_endpoint(
        TcpServerAddress(ANY),
        buffers=L4BufferSettings(read=read_buffer),
        proxy_protocol=settings or ProxyProtocolSettings(TRUSTED),
    )
    return listeners


@asynccontextmanager
async def connected(address: SocketAddress) -> AsyncIterator[socket.socket]:
    """Connect without a turn of the loop: what is sent next is there before it is accepted."""
    with socket.socket(address.family) as sock:
        sock.connect(address.sockaddr)
        sock.setblocking(False)
        yield sock


async def answer(sock: socket.socket) -> bytes:
    """Read until the other side ends; `REFUSED` if it resets."""
    received = b""
    try:
        while data := await asyncio.get_running_loop().sock_recv(sock, 65536):
            received += data
    except ConnectionResetError:
        return REFUSED
    return received


async def ask(address: SocketAddress, *pieces: bytes) -> bytes:
    """Send pieces, each in a segment of its own, then the end; return all of the answer."""
    async with connected(address) as sock:
        if address.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in pieces:
                await asyncio.get_running_loop().sock_sendall(sock, piece)
                await asyncio.sleep(0)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            return REFUSED
        return await answer(sock)


# ---------------------------------------------------------------------- reading


@pytest.mark.parametrize("header", [V1, V2])
@pytest.mark.parametrize("read_buffer", [1, 65536])
async def test_the_announced_client_is_what_the_application_sees(
    served: Served, header: bytes, read_buffer: int
) -> None:
    """In both versions, with what follows the header in one segment and in several."""
    async with running(listening(read_buffer=read_buffer), served) as serving:
        address = serving.addresses[0]

        assert await ask(address, header + b"hello") == b"hello"
        assert await ask(address, header, b"hello") == b"hello"
        assert await ask(address, *(bytes((byte,)) for byte in header + b"hello")) == b"hello"

    assert served.peers == [CLIENT] * 3
    assert served.locals == [SERVER] * 3
    assert all(found is not None for found in served.headers)
    for real in served.transport_peers:
        assert isinstance(real, InetAddress)
        assert real.host == "127.0.0.1"


async def test_nothing_behind_the_header_is_waited_for(served: Served) -> None:
    """A protocol in which the server speaks first gets its turn."""
    async with (
        running(listening(), served) as serving,
        connected(serving.addresses[0]) as sock,
    ):
        await asyncio.get_running_loop().sock_sendall(sock, V2)

        await eventually(lambda: served.headers)

    header = served.headers[0]
    assert header is not None
    assert header.unique_id == b"id"
    assert header.checksum


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN\r\n",
        encode_proxy_header(ProxyHeader()),
        encode_proxy_header(ProxyHeader.local()),
    ],
)
async def test_without_announced_addresses_the_sockets_own_hold(
    served: Served, header: bytes
) -> None:
    """UNKNOWN, unspecified addresses, and the proxy's own health checks."""
    async with running(listening(), served) as serving:
        assert await ask(serving.addresses[0], header + b"hello") == b"hello"

        assert served.peers == served.transport_peers
        assert served.locals == [serving.addresses[0]]
        assert served.headers != [None]


@needs_ipv6
async def test_unix_sockets_and_ipv6(served: Served, directory: Path) -> None:
    """Any listener will do, and any kind of address can be announced through it."""
    unix = ProxyHeader(source=UnixAddress("/a"), destination=UnixAddress("/b"))
    listeners = Listeners()
    listeners.add_uds(str(directory / "s"), proxy_protocol=ProxyProtocolSettings(trust_unix=True))
    listeners.add_tcp("[::1]:0", proxy_protocol=ProxyProtocolSettings(TRUSTED))
    async with running(listeners, served) as serving:
        assert await ask(serving.addresses[0], V1 + b"one") == b"one"
        assert await ask(serving.addresses[1], encode_proxy_header(unix) + b"two") == b"two"

    assert served.peers == [CLIENT, UnixAddress("/a")]
    assert served.locals == [SERVER, UnixAddress("/b")]


# --------------------------------------------------------------------- refusing


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "begins like this"),
        (b"\x16\x03\x01\x02\x00\x01", "begins like this"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\nhello", "not in 0..65535"),
        (b"PROXY UNKNOWN " + b"x" * 100, "107"),
        (LONG, "allowed: 4096"),
        (V2[:-1] + b"\0", "checksum"),
    ],
)
async def test_garbage_is_dropped(
    served: Served, data: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that does not keep to the protocol is reset at once, and the log says why."""
    async with (
        running(listening(), served) as serving,
        connected(serving.addresses[0]) as sock,
    ):
        await asyncio.get_running_loop().sock_sendall(sock, data)

        assert await answer(sock) == REFUSED
        await eventually(lambda: serving.connections == 0)

    assert served.headers == []
    assert why in caplog.text
    assert "connection from 127.0.0.1:" in caplog.text


@pytest.mark.parametrize("cut", [1, 20, len(V2) - 1])
async def test_a_header_that_breaks_off_is_refused(
    served: Served, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The end of the stream does not complete it."""
    async with running(listening(), served) as serving:
        assert await ask(serving.addresses[0], V2[:cut]) == REFUSED
        await eventually(lambda: serving.connections == 0)

    assert f"ended after {cut} bytes" in caplog.text
    assert served.headers == []


@pytest.mark.parametrize("linger", [False, True])
async def test_a_check_whether_somebody_listens_is_no_news(
    served: Served, caplog: pytest.LogCaptureFixture, *, linger: bool
) -> None:
    """Balancers connect and go without a word, with FIN or RST; neither is logged nor served."""
    async with running(listening(), served) as serving:
        async with connected(serving.addresses[0]) as sock:
            await eventually(lambda: serving.connections == 1)
            if linger:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await eventually(lambda: serving.connections == 0)

    assert served.headers == []
    assert caplog.records == []


async def test_a_client_that_is_gone_at_once_is_no_news(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """It was reset before its address could be asked for, so nobody knows who it was."""
    async with running(listening(), served) as serving:
        async with connected(serving.addresses[0]) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert await ask(serving.addresses[0], V1 + b"hello") == b"hello"
        await eventually(lambda: serving.connections == 0)

    assert served.peers == [CLIENT]
    assert caplog.records == []


async def test_a_slow_header_meets_its_deadline(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """The deadline is for all of it: single bytes that keep coming do not move it."""
    settings = ProxyProtocolSettings(TRUSTED, timeout=0.05)
    async with (
        running(listening(settings), served) as serving,
        connected(serving.addresses[0]) as sock,
    ):
        loop = asyncio.get_running_loop()
        reading = loop.create_task(answer(sock))
        for byte in LONG[:14] + b"\x0f\xff" + bytes(4000):
            if reading.done():
                break
            try:
                await loop.sock_sendall(sock, bytes((byte,)))
            except OSError:
                break
            await asyncio.sleep(0.01)

        # The reset may have been told to the one who sends.
        assert await reading in {REFUSED, b""}

    assert served.headers == []
    assert "no complete header within 0.05 s" in caplog.text


async def test_a_client_that_is_not_trusted_is_dropped(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a header is required, others are dropped without being read."""
    settings = ProxyProtocolSettings(["10.0.0.0/8", "::1"], trust_unix=True)
    async with (
        running(listening(settings), served) as serving,
        connected(serving.addresses[0]) as sock,
    ):
        assert await answer(sock) == REFUSED

    assert served.headers == []
    assert "not from a trusted proxy" in caplog.text


async def test_a_unix_socket_is_not_trusted_by_itself(served: Served, directory: Path) -> None:
    """It has to be said that its clients are proxies."""
    listeners = Listeners()
    listeners.add_uds(str(directory / "s"), proxy_protocol=ProxyProtocolSettings(TRUSTED))
    async with running(listeners, served) as serving:
        assert await ask(serving.addresses[0], V1 + b"hello") in {REFUSED, b""}

    assert served.headers == []


async def test_garbage_is_logged_at_a_limited_rate(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """Strangers cannot fill the disk: a burst is logged, the others are counted."""
    async with running(listening(), served) as serving:
        for _ in range(40):
            await ask(serving.addresses[0], b"garbage")
        await eventually(lambda: serving.connections == 0)

    assert 10 <= len(caplog.records) < 30


# --------------------------------------------------------------------- optional


OPTIONAL = ProxyProtocolSettings(TRUSTED, mode="optional")
IMPATIENT = ProxyProtocolSettings(TRUSTED, mode="optional", timeout=0.02)


@pytest.mark.parametrize("data", [b"POST /", b"P", b"\r\n\r\nGET", b"\r", b"hello", b""])
async def test_optional_serves_who_sends_no_header(served: Served, data: bytes) -> None:
    """What begins otherwise, or ends before it can be told, is the application's, unread."""
    async with running(listening(OPTIONAL), served) as serving:
        assert await ask(serving.addresses[0], *(bytes((byte,)) for byte in data)) == data

    assert served.headers == [None]
    assert served.peers == served.transport_peers


async def test_optional_serves_who_says_nothing_yet(served: Served) -> None:
    """After the deadline the application waits for the first byte, by its own rules."""
    async with (
        running(listening(IMPATIENT), served) as serving,
        connected(serving.addresses[0]) as sock,
    ):
        await asyncio.get_running_loop().sock_sendall(sock, b"PRO")
        await eventually(lambda: served.headers == [None])
        await asyncio.get_running_loop().sock_sendall(sock, b"CEED")
        sock.shutdown(socket.SHUT_WR)

        assert await answer(sock) == b"PROCEED"


@pytest.mark.parametrize("header", [V1, V2])
async def test_optional_reads_the_header_of_who_is_trusted(served: Served, header: bytes) -> None:
    """If one begins it must be right, and end in time."""
    async with running(listening(OPTIONAL), served) as serving:
        assert await ask(serving.addresses[0], header + b"hello") == b"hello"
        assert await ask(serving.addresses[0], b"PROXY TCP4 nonsense\r\n") == REFUSED
        assert await ask(serving.addresses[0], V2[:-1]) == REFUSED

    assert served.peers == [CLIENT]


@pytest.mark.parametrize("header", [V1, V2])
async def test_optional_does_not_wait_for_ever_either(served: Served, header: bytes) -> None:
    """A header that was begun is not served as something else when its time is up."""
    async with (
        running(listening(IMPATIENT), served) as serving,
        connected(serving.addresses[0]) as sock,
    ):
        await asyncio.get_running_loop().sock_sendall(sock, header[:13])

        assert await answer(sock) == REFUSED


@pytest.mark.parametrize("header", [V1, V2])
async def test_optional_does_not_look_at_what_others_send(served: Served, header: bytes) -> None:
    """A client that is not trusted cannot announce itself as somebody else."""
    settings = ProxyProtocolSettings(["10.0.0.0/8"], mode="optional")
    async with running(listening(settings), served) as serving:
        assert await ask(serving.addresses[0], header + b"hello") == header + b"hello"

    assert served.headers == [None]
    assert served.peers == served.transport_peers


# ---------------------------------------------------------------------- filters


class Only:
    """Lets one host in.

    Attributes:
        asked: The addresses it was asked about.
    """

    def __init__(self, host: str | None) -> None:
        self._host = host
        self.asked: list[SocketAddress | None] = []

    async def should_accept(self, addr: SocketAddress | None, /) -> bool:
        self.asked.append(addr)
        return addr is not None and isinstance(addr, InetAddress) and addr.host == self._host


async def test_the_connection_filter_sees_the_proxy_and_the_client_filter_the_client(
    served: Served,
) -> None:
    """Both must say yes; the proxy's own connections have no client to be asked about."""
    proxies, clients = Only("127.0.0.1"), Only(CLIENT.host)
    listeners = listening(ProxyProtocolSettings(TRUSTED, client_filter=clients))
    listeners.set_connection_filter(proxies)
    stranger = V1.replace(b"192.0.2.1", b"192.0.2.9")
    async with running(listeners, served) as serving:
        address = serving.addresses[0]
        assert await ask(address, V1 + b"hello") == b"hello"
        assert await ask(address, stranger + b"hello") == REFUSED
        assert await ask(address, b"PROXY UNKNOWN\r\nhello") == REFUSED
        assert await ask(address, encode_proxy_header(ProxyHeader.local()) + b"x") == b"x"

    assert {str(addr).rpartition(":")[0] for addr in proxies.asked} == {"127.0.0.1"}
    assert clients.asked == [CLIENT, InetAddress("192.0.2.9", CLIENT.port), None]
    assert [header is not None and header.command for header in served.headers] == [
        ProxyCommand.PROXY,
        ProxyCommand.LOCAL,
    ]


async def test_the_acceptor_gets_what_follows_the_header(served: Served) -> None:
    """The handshake begins behind the header, of which the acceptor sees nothing but the digest."""
    seen: list[bytes] = []

    class Handshake:
        async def accept(self, stream: Stream, /) -> Stream:
            assert stream.digest.proxy_protocol is not None
            seen.append(await stream.read(timeout=30))
            stream.write(b"shaken ")
            return stream

    listeners = Listeners()
    listeners.add_endpoint(
        TcpServerAddress(ANY),
        acceptor=Handshake(),
        proxy_protocol=ProxyProtocolSettings(TRUSTED),
    )
    async with (
        running(listeners, served) as serving,
        connected(serving.addresses[0]) as sock,
    ):
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, V2 + b"hand")
        assert await loop.sock_recv(sock, 100) == b"shaken "

    assert seen == [b"hand"]
    assert served.peers == [CLIENT]


async def test_a_failure_behind_the_header_names_both(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """Who is to be asked about it: the client that was announced, and by whom."""
    clients = Only(None)
    listeners = Listeners(filter_timeout=0.01)
    listeners.add_tcp(ANY, proxy_protocol=ProxyProtocolSettings(TRUSTED, client_filter=clients))

    async def never(addr: SocketAddress | None, /) -> bool:
        await asyncio.Event().wait()
        return True

    clients.should_accept = never  # type: ignore[method-assign]
    async with running(listeners, served) as serving:
        assert await ask(serving.addresses[0], V1 + b"hello") == REFUSED

    assert "192.0.2.1:56324, announced by 127.0.0.1:" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


# --------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({}, "nobody is trusted"),
        ({"trusted": ["10.0.0.1/8"]}, "10.0.0.1/8"),
        ({"trusted": ["a.example"]}, "a.example"),
        ({"mode": "sometimes"}, "'required' or 'optional'"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"max_size": 231}, "max_size"),
        ({"max_size": 65552}, "max_size"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments: dict[str, object], why: str) -> None:
    """A header that everybody may send, or that has no limit, cannot be asked for."""
    settings = {"trusted": TRUSTED} | arguments if arguments else {}

    with pytest.raises(ValueError, match=why):
        ProxyProtocolSettings(**settings)  # type: ignore[arg-type]


def test_one_network_is_not_taken_for_a_list_of_letters() -> None:
    """The usual mistake is named."""
    with pytest.raises(TypeError, match=r"10\.0\.0\.0/8"):
        ProxyProtocolSettings("10.0.0.0/8")


def test_settings_say_what_they_are() -> None:
    """For logs."""
    assert repr(ProxyProtocolSettings(TRUSTED)) == "<ProxyProtocolSettings required, 5.0 s>"
