from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pingora_core.listeners.l4 import (
    BindRetry,
    TcpServerAddress,
    UdpServerAddress,
    UdsServerAddress,
    bind,
    bind_blocking,
    resolve,
    resolve_blocking,
)
from pingora_core.protocols.address import InetAddress
from pingora_core.protocols.l4 import TcpKeepalive, TcpSocketOptions
from pingora_error import Error, ErrorType
from tests.support.ports import needs_ipv6

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("no_leaks")

ONCE = BindRetry(attempts=1)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    # tmp_path may be longer than a socket's path can be.
    directory = os.open(tmp_path, os.O_DIRECTORY)
    yield Path(f"/proc/self/fd/{directory}/s")
    os.close(directory)


def write(path: Path, text: str) -> None:
    """Make a file."""
    path.write_text(text)


def read(path: Path) -> str:
    """Look into a file."""
    return path.read_text()


def mode_of(path: Path) -> int:
    """The permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def connects(address: str | tuple[str, int]) -> bool:
    """Whether somebody listens there."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as sock:
        return sock.connect_ex(address) == 0


async def test_a_tcp_address_is_listened_on() -> None:
    """The socket listens at once and does not block."""
    with await bind(TcpServerAddress("127.0.0.1:0"), ONCE) as sock:
        assert connects(sock.getsockname())
        assert sock.getblocking() is False
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1


async def test_a_name_is_resolved() -> None:
    """The first address of a host name is taken."""
    with await bind(TcpServerAddress("localhost:0"), ONCE) as sock:
        assert sock.getsockname()[0] in {"127.0.0.1", "::1"}


async def test_a_name_that_does_not_resolve_is_a_bind_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error names the address."""

    async def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fail)
    with pytest.raises(Error, match=r"no-such-host\.invalid:80") as caught:
        await bind(TcpServerAddress("no-such-host.invalid:80"), ONCE)

    assert caught.value.etype is ErrorType.BIND_ERROR


async def test_an_address_of_another_machine_is_a_bind_error() -> None:
    """The cause is the system's error."""
    with pytest.raises(Error, match=r"192\.0\.2\.1:0") as caught:
        await bind(TcpServerAddress("192.0.2.1:0"), ONCE)

    assert caught.value.etype is ErrorType.BIND_ERROR
    assert isinstance(caught.value.cause, OSError)
    assert caught.value.cause.errno == errno.EADDRNOTAVAIL


async def test_an_address_in_use_is_tried_again() -> None:
    """As soon as the other one lets go, it is bound."""
    retry = BindRetry(attempts=1000, interval=0.001)
    other = socket.create_server(("127.0.0.1", 0))
    host, port = other.getsockname()
    task = asyncio.create_task(bind(TcpServerAddress(f"{host}:{port}"), retry))
    await asyncio.sleep(0.01)
    waiting = not task.done()

    other.close()
    sock = await task

    assert waiting
    assert sock.getsockname() == (host, port)
    sock.close()


async def test_an_address_that_stays_in_use_is_a_bind_error() -> None:
    """After the last attempt the error says so."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        host, port = other.getsockname()

        with pytest.raises(Error, match=f"{host}:{port}") as caught:
            await bind(TcpServerAddress(f"{host}:{port}"), BindRetry(attempts=2, interval=0.001))

    assert caught.value.etype is ErrorType.BIND_ERROR
    assert isinstance(caught.value.cause, OSError)
    assert caught.value.cause.errno == errno.EADDRINUSE


async def test_ipv6_only_decides_about_ipv4_clients() -> None:
    """An IPv6 wildcard serves IPv4 clients too, unless told not to."""
    for ipv6_only in (False, True):
        options = TcpSocketOptions(ipv6_only=ipv6_only)
        with await bind(TcpServerAddress("[::]:0", options), ONCE) as sock:
            port = sock.getsockname()[1]

            assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == ipv6_only
            assert connects(("127.0.0.1", port)) is not ipv6_only


async def test_options_of_the_listening_socket_are_set() -> None:
    """Fast open, reuseport, DSCP and buffer sizes are read back from the kernel."""
    options = TcpSocketOptions(
        tcp_fastopen=7, so_reuseport=True, dscp=46, tcp_snd_buf=20000, tcp_recv_buf=30000
    )
    with await bind(TcpServerAddress("127.0.0.1:0", options), ONCE) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN) == 7
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 46 << 2
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 40000
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 60000


async def test_reuseport_lets_two_sockets_share_an_address() -> None:
    """Both can listen."""
    options = TcpSocketOptions(so_reuseport=True)
    with await bind(TcpServerAddress("127.0.0.1:0", options), ONCE) as first:
        host, port = first.getsockname()

        second = await bind(TcpServerAddress(f"{host}:{port}", options), ONCE)

        assert second.getsockname() == first.getsockname()
        second.close()


@pytest.mark.parametrize(("permissions", "mode"), [(None, 0o666), (0o600, 0o600), (0o777, 0o777)])
async def test_a_unix_socket_gets_its_permissions(
    path: Path, permissions: int | None, mode: int
) -> None:
    """Whatever the umask is, the file has the mode that was asked for."""
    with await bind(UdsServerAddress(str(path), permissions), ONCE):
        assert connects(str(path))
        assert mode_of(path) == mode


async def test_a_stale_unix_socket_is_replaced(path: Path) -> None:
    """The file that a crashed server left is in nobody's way."""
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))

    with await bind(UdsServerAddress(str(path)), ONCE):
        assert connects(str(path))


async def test_a_live_unix_socket_is_not_stolen(path: Path) -> None:
    """Another server that listens there keeps its file."""
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen()

        with pytest.raises(Error) as caught:
            await bind(UdsServerAddress(str(path)), ONCE)

        assert caught.value.etype is ErrorType.BIND_ERROR
        assert connects(str(path))


async def test_a_busy_unix_socket_is_alive(path: Path) -> None:
    """A full backlog is no reason to take the file away."""
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))

        with pytest.raises(Error):
            await bind(UdsServerAddress(str(path)), ONCE)

        assert mode_of(path)


async def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    """A mistaken path must not cost anybody their data."""
    write(path, "precious")

    with pytest.raises(Error, match="no socket") as caught:
        await bind(UdsServerAddress(str(path)), ONCE)

    assert caught.value.etype is ErrorType.BIND_ERROR
    assert read(path) == "precious"


async def test_a_missing_directory_is_a_bind_error(path: Path) -> None:
    """It is not made."""
    with pytest.raises(Error) as caught:
        await bind(UdsServerAddress(str(path / "missing")), ONCE)

    assert caught.value.etype is ErrorType.BIND_ERROR


async def test_the_abstract_namespace_needs_no_file() -> None:
    """A leading @ stands for Linux's abstract namespace."""
    name = f"@pingora-test-{os.getpid()}"

    with await bind(UdsServerAddress(name), ONCE):
        assert connects("\0" + name[1:])


@pytest.mark.parametrize(
    "address", ["unix:/tmp/x", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", "::1:80", ""]
)
def test_a_tcp_address_is_checked_when_it_is_made(address: str) -> None:
    """A mistake is found before anything runs."""
    with pytest.raises(ValueError, match=r"."):
        TcpServerAddress(address)


@pytest.mark.parametrize(
    ("path", "permissions"),
    [("", None), ("/tmp/x", 0o1000), ("/tmp/x", -1), ("/" + "x" * 107, None), ("a\0b", None)],
    ids=["empty", "sticky", "negative", "long", "nul"],
)
def test_a_unix_address_is_checked_when_it_is_made(path: str, permissions: int | None) -> None:
    """Empty, too long, or with a mode that is none."""
    with pytest.raises(ValueError, match=r"."):
        UdsServerAddress(path, permissions)


def test_the_key_of_a_unix_address_has_one_form() -> None:
    """With or without the prefix it is the same socket."""
    assert UdsServerAddress("/tmp/x").key == UdsServerAddress("unix:/tmp/x").key == "unix:/tmp/x"


# ---------------------------------------------------------------------------------- datagrams


async def test_a_udp_address_receives_datagrams() -> None:
    """The socket does not block and is nobody else's: not even SO_REUSEADDR lets one share it."""
    with (
        await bind(UdpServerAddress("127.0.0.1:0"), ONCE) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.sendto(b"x", sock.getsockname())

        assert await asyncio.get_running_loop().sock_recv(sock, 10) == b"x"
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
        host, port = sock.getsockname()
        with pytest.raises(Error, match=f"udp:{host}:{port}") as caught:
            await bind(UdpServerAddress(f"{host}:{port}"), ONCE)
        assert caught.value.etype is ErrorType.BIND_ERROR


async def test_udp_and_tcp_share_a_port_but_no_key() -> None:
    """They are different things to the kernel and in the table."""
    with await bind(TcpServerAddress("127.0.0.1:0"), ONCE) as tcp:
        host, port = tcp.getsockname()
        address = UdpServerAddress(f"udp:{host}:{port}")

        with await bind(address, ONCE) as udp:
            assert udp.getsockname() == tcp.getsockname()
        assert address.key == UdpServerAddress(f"{host}:{port}").key == f"udp:{host}:{port}"


@needs_ipv6
async def test_options_of_a_udp_socket_are_set() -> None:
    """Those that have a meaning without connections."""
    options = TcpSocketOptions(so_reuseport=True, dscp=46, tcp_recv_buf=30000, ipv6_only=True)
    with await bind(UdpServerAddress("[::1]:0", options), ONCE) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 60000
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


@pytest.mark.parametrize(
    ("address", "options"),
    [
        ("unix:/tmp/x", TcpSocketOptions()),
        ("127.0.0.1", TcpSocketOptions()),
        ("127.0.0.1:1", TcpSocketOptions(tcp_fastopen=1)),
        ("127.0.0.1:1", TcpSocketOptions(tcp_keepalive=TcpKeepalive(1, 1, 1))),
    ],
    ids=["unix", "no port", "fast open", "keepalive"],
)
def test_a_udp_address_is_checked_when_it_is_made(address: str, options: TcpSocketOptions) -> None:
    """A mistake is found before anything runs."""
    with pytest.raises(ValueError, match=r"."):
        UdpServerAddress(address, options)


# ----------------------------------------------------------------------------- without a loop


@pytest.mark.parametrize(
    "address",
    [TcpServerAddress("localhost:0"), UdpServerAddress("localhost:0")],
    ids=["tcp", "udp"],
)
def test_binding_works_without_a_loop(address: TcpServerAddress | UdpServerAddress) -> None:
    """A name is resolved, and the socket is the same as from `bind`."""
    with bind_blocking(address, ONCE) as sock:
        assert sock.getsockname()[0] in {"127.0.0.1", "::1"}
        assert sock.getblocking() is False


def test_a_unix_socket_is_bound_without_a_loop(path: Path) -> None:
    """With its permissions."""
    with bind_blocking(UdsServerAddress(str(path), 0o600), ONCE):
        assert connects(str(path))
        assert mode_of(path) == 0o600


def test_binding_without_a_loop_tries_again() -> None:
    """It waits between two attempts, and takes the address as soon as it is free."""
    other = socket.create_server(("127.0.0.1", 0))
    host, port = other.getsockname()
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            other.close()

    with bind_blocking(TcpServerAddress(f"{host}:{port}"), BindRetry(3, 0.5), sleep) as sock:
        assert sock.getsockname() == (host, port)
    assert waited == [0.5, 0.5]


def test_binding_without_a_loop_gives_up() -> None:
    """After the last attempt the error names the address."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        host, port = other.getsockname()
        waited: list[float] = []

        with pytest.raises(Error, match=f"{host}:{port}") as caught:
            bind_blocking(TcpServerAddress(f"{host}:{port}"), BindRetry(3, 0.5), waited.append)

    assert caught.value.etype is ErrorType.BIND_ERROR
    assert waited == [0.5, 0.5]


async def test_a_name_stands_for_all_its_addresses() -> None:
    """Both ways of asking give the same, with the port that was asked for."""
    address = TcpServerAddress("localhost:81")

    found = await resolve(address)

    assert InetAddress("127.0.0.1", 81) in found
    assert found == resolve_blocking(address)


def test_an_unknown_name_is_a_bind_error_without_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the address."""

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(Error, match=r"no-such-host\.invalid:80") as caught:
        bind_blocking(TcpServerAddress("no-such-host.invalid:80"), ONCE)

    assert caught.value.etype is ErrorType.BIND_ERROR


async def test_an_option_that_the_system_refuses_is_a_bind_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says which address, and which option."""
    monkeypatch.setattr(socket, "SO_REUSEPORT", 9999)

    with pytest.raises(Error, match=r"127\.0\.0\.1:0.*SO_REUSEPORT") as caught:
        await bind(TcpServerAddress("127.0.0.1:0", TcpSocketOptions(so_reuseport=True)), ONCE)

    assert caught.value.etype is ErrorType.BIND_ERROR
