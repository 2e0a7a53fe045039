from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.address import InetAddress, UnixAddress
from pingora_core.protocols.digest import (
    Digest,
    ProxyDigest,
    SocketDigest,
    SslDigest,
    TcpInfo,
    TimingDigest,
)
from pingora_http import ResponseHeader
from tests.support.ports import needs_ipv6

if TYPE_CHECKING:
    from collections.abc import Iterator


class Transport(asyncio.BaseTransport):
    """A transport that only knows a socket."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__({"socket": sock})
        self.sock = sock
        self.closing = False

    def get_extra_info(self, name: str, default: object = None) -> object:
        match name:
            case "peername":
                return self.sock.getpeername()
            case "sockname":
                return self.sock.getsockname()
            case _:
                return super().get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self.closing


@pytest.fixture(params=["127.0.0.1", pytest.param("::1", marks=needs_ipv6)], ids=["ipv4", "ipv6"])
def connected(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with (
        socket.create_server((request.param, 0), family=family) as listener,
        socket.create_connection(listener.getsockname()[:2]) as sock,
        listener.accept()[0],
    ):
        yield sock


def test_addresses_are_read_when_first_asked_for(connected: socket.socket) -> None:
    """Afterwards the socket is not asked again, so they outlive it."""
    transport = Transport(connected)
    digest = SocketDigest(transport)
    peer = InetAddress(*connected.getpeername())
    local = InetAddress(*connected.getsockname())

    before = (digest.peer_addr, digest.local_addr)
    connected.close()
    transport.closing = True

    assert before == (peer, local)
    assert (digest.peer_addr, digest.local_addr) == (peer, local)


def test_addresses_asked_too_late_are_none(connected: socket.socket) -> None:
    """A transport that cannot tell any more raises; the digest does not."""
    digest = SocketDigest(Transport(connected))
    connected.close()

    assert digest.peer_addr is None
    assert digest.local_addr is None


@pytest.mark.parametrize("error", [AttributeError, OSError, ValueError])
def test_whatever_a_closed_transport_raises_is_no_error(
    connected: socket.socket, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """uvloop has three ways of not having the socket any more."""
    transport = Transport(connected)

    def ask(name: str, default: object = None) -> object:
        raise error("negative file descriptor")

    monkeypatch.setattr(transport, "get_extra_info", ask)

    assert SocketDigest(transport).peer_addr is None


def test_the_kernel_is_asked_about_an_open_connection(connected: socket.socket) -> None:
    """TCP_INFO and buffer sizes; nothing was redirected."""
    digest = SocketDigest(Transport(connected))

    info = digest.tcp_info()

    assert info is not None
    assert info.state == 1
    assert info.snd_mss > 500
    assert 0 < info.rto < 10
    assert 0 < info.rtt < 1
    assert info.snd_cwnd > 0
    assert digest.get_recv_buf() == connected.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert digest.get_snd_buf() == connected.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    assert digest.original_dst is None


def test_a_closing_connection_is_not_asked(connected: socket.socket) -> None:
    """Its descriptor may be closed, or somebody else's, by now."""
    transport = Transport(connected)
    digest = SocketDigest(transport)

    transport.closing = True

    assert digest.tcp_info() is None
    assert digest.get_recv_buf() is None
    assert digest.get_snd_buf() is None


def test_a_closed_socket_is_no_error(connected: socket.socket) -> None:
    """Even when the transport does not know that it is closed."""
    digest = SocketDigest(Transport(connected))
    connected.close()

    assert digest.tcp_info() is None
    assert digest.get_recv_buf() is None
    assert digest.get_snd_buf() is None


def test_a_unix_socket_has_no_tcp_facts() -> None:
    """Only addresses and buffers."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        digest = SocketDigest(Transport(ours))

        assert digest.peer_addr == UnixAddress("")
        assert digest.tcp_info() is None
        assert digest.original_dst is None
        assert digest.get_recv_buf()


class RedirectedSocket(socket.socket):
    """Says what the firewall would."""

    answer = b""

    def getsockopt(self, level: int, option: int, size: int = 0, /) -> bytes:  # type: ignore[override]
        assert option == 80
        return self.answer[:size]


@pytest.mark.parametrize(
    ("family", "answer", "address"),
    [
        (
            socket.AF_INET,
            struct.pack("=H", socket.AF_INET) + b"\x01\xbb" + bytes([192, 0, 2, 7]) + bytes(8),
            InetAddress("192.0.2.7", 443),
        ),
        pytest.param(
            socket.AF_INET6,
            struct.pack("=H", socket.AF_INET6)
            + b"\x00\x50"
            + bytes(4)
            + socket.inet_pton(socket.AF_INET6, "2001:db8::7")
            + struct.pack("=I", 3),
            InetAddress("2001:db8::7", 80, 0, 3),
            marks=needs_ipv6,
        ),
        (socket.AF_INET, struct.pack("=H", 99) + bytes(14), None),
        (socket.AF_INET, b"", None),
    ],
    ids=["ipv4", "ipv6", "unknown", "short"],
)
def test_the_original_destination_is_read(
    family: socket.AddressFamily, answer: bytes, address: InetAddress | None
) -> None:
    """As the kernel's sockaddr, in both families, and only once."""
    with RedirectedSocket(family) as sock:
        sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        sock.answer = answer
        digest = SocketDigest(Transport(sock))

        first = digest.original_dst
        again = digest.original_dst

        assert first == address
        assert again == address


def test_tcp_info_reads_the_kernels_struct() -> None:
    """Fields are where linux/tcp.h has them, times become seconds; too little is refused."""
    words = list(range(1_000_000, 25_000_000, 1_000_000))
    raw = struct.pack("=8B24I", 1, 0, 2, 0, 0, 0, 0, 0, *words) + bytes(100)

    info = TcpInfo.from_bytes(raw)

    assert info == TcpInfo(
        state=1,
        retransmits=2,
        rto=1.0,
        snd_mss=3_000_000,
        rcv_mss=4_000_000,
        unacked=5_000_000,
        lost=7_000_000,
        retrans=8_000_000,
        pmtu=14_000_000,
        rtt=16.0,
        rtt_var=17.0,
        snd_cwnd=19_000_000,
        rcv_rtt=21.0,
        total_retrans=24_000_000,
    )
    with pytest.raises(ValueError, match="104"):
        TcpInfo.from_bytes(raw[:103])


def test_a_digest_collects_what_is_known() -> None:
    """Empty at first; each layer adds its part."""
    digest = Digest()
    assert digest == Digest(None, [], None, None)

    digest.timing_digest.append(TimingDigest(1.5))
    digest.ssl_digest = SslDigest("TLS_AES_128_GCM_SHA256", "TLSv1.3")
    digest.proxy_digest = ProxyDigest(ResponseHeader(200))

    assert Digest().timing_digest == []
    assert digest.ssl_digest.cert_digest == b""
    assert digest.proxy_digest.user_data is None
