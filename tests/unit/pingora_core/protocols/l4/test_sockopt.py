from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.address import InetAddress
from pingora_core.protocols.l4 import BindTo, TcpKeepalive, TcpSocketOptions, sockopt
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket() as made:
        yield made


@pytest.fixture
def sock6() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET6) as made:
        yield made


def test_nodelay_is_set_and_cleared(sock: socket.socket) -> None:
    """Read back from the kernel."""
    sockopt.set_nodelay(sock)
    on = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    sockopt.set_nodelay(sock, enabled=False)

    assert on == 1
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0


def test_keepalive_sets_all_its_parts(sock: socket.socket) -> None:
    """Without a user timeout the system's own is left."""
    sockopt.set_keepalive(sock, TcpKeepalive(idle=9, interval=4, count=3))

    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 9
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 4
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0


def test_dscp_is_shifted_into_the_field(sock: socket.socket, sock6: socket.socket) -> None:
    """The two lowest bits belong to ECN, in both families."""
    sockopt.set_dscp(sock, 46)
    sockopt.set_dscp(sock6, 46)

    assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 184
    assert sock6.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS) == 184


def test_buffers_are_doubled_by_the_kernel(sock: socket.socket) -> None:
    """socket(7) says so."""
    sockopt.set_recv_buf(sock, 30000)
    sockopt.set_snd_buf(sock, 40000)

    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 60000
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 80000


def test_fastopen_connect(sock: socket.socket) -> None:
    """Option 30 of TCP."""
    sockopt.set_fastopen_connect(sock)

    assert sock.getsockopt(socket.IPPROTO_TCP, 30) == 1


def test_bind_address_no_port(sock: socket.socket) -> None:
    """Option 24 of IP: binding an address does not take a port yet."""
    sockopt.set_bind_address_no_port(sock)
    sock.bind(("127.0.0.1", 0))

    assert sock.getsockopt(socket.IPPROTO_IP, 24) == 1
    assert sock.getsockname() == ("127.0.0.1", 0)


def test_local_port_range(sock: socket.socket) -> None:
    """The port is chosen from the range, where the kernel knows the option."""
    try:
        sockopt.set_local_port_range(sock, 42000, 42099)
    except Error:
        pytest.skip(f"IP_LOCAL_PORT_RANGE needs Linux 6.3: this is {os.uname().release}")
    sock.bind(("127.0.0.1", 0))

    assert 42000 <= sock.getsockname()[1] <= 42099


def test_reset_on_close(sock: socket.socket) -> None:
    """SO_LINGER on, with zero seconds."""
    sockopt.set_reset_on_close(sock)

    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
    assert struct.unpack("ii", raw) == (1, 0)


def test_accepted_options_skip_what_is_for_the_listener(sock: socket.socket) -> None:
    """Nothing is set that was not asked for."""
    before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    sockopt.apply_accepted_options(sock, TcpSocketOptions(so_reuseport=True, tcp_fastopen=1))

    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == before


def test_listener_options_leave_ipv4_alone_with_ipv6_only(sock: socket.socket) -> None:
    """The option exists for IPv6 sockets only; on others it means nothing."""
    sockopt.apply_listener_options(sock, TcpSocketOptions(ipv6_only=True))


def test_a_refused_option_is_named() -> None:
    """SOCKET_ERROR with the option, the value and the system's error."""
    with socket.socket(socket.AF_UNIX) as unix, pytest.raises(Error, match="TCP_NODELAY") as caught:
        sockopt.set_nodelay(unix)

    assert caught.value.etype is ErrorType.SOCKET_ERROR
    assert isinstance(caught.value.cause, OSError)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TcpSocketOptions(dscp=64),
        lambda: TcpSocketOptions(dscp=-1),
        lambda: TcpSocketOptions(tcp_fastopen=-1),
        lambda: TcpSocketOptions(tcp_snd_buf=0),
        lambda: TcpSocketOptions(tcp_recv_buf=-1),
        lambda: TcpKeepalive(idle=0, interval=1, count=1),
        lambda: TcpKeepalive(idle=1, interval=0.5, count=1),
        lambda: TcpKeepalive(idle=1, interval=1, count=0),
        lambda: TcpKeepalive(idle=1, interval=1, count=128),
        lambda: TcpKeepalive(idle=1, interval=1, count=1, user_timeout=-1),
        lambda: BindTo(port_range=(0, 1)),
        lambda: BindTo(port_range=(2, 1)),
        lambda: BindTo(port_range=(1, 65536)),
    ],
    ids=lambda _: "",
)
def test_values_out_of_range_are_refused(make: Callable[[], object]) -> None:
    """When they are made, not when they are used."""
    with pytest.raises(ValueError, match=r"."):
        make()


def test_bind_to_holds_an_address_and_a_range() -> None:
    """Both, either or none; equal ones are one key."""
    bind_to = BindTo(addr=InetAddress("127.0.0.1", 0), port_range=(1000, 2000), fallback=True)

    assert bind_to == BindTo(
        addr=InetAddress("127.0.0.1", 0), port_range=(1000, 2000), fallback=True
    )
    assert hash(BindTo()) == hash(BindTo())
