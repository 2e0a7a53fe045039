"""Addresses that a server is to listen on, tried without listening."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest

from pingora_core.conf import ServerConf
from pingora_core.listeners.l4 import (
    BindRetry,
    TcpServerAddress,
    UdpServerAddress,
    UdsServerAddress,
    bind_blocking,
)
from pingora_core.protocols.l4.sockopt import TcpSocketOptions
from pingora_core.server.checks import Findings, _addresses as _address_checks, check_addresses
from pingora_core.services import Service
from pingora_error import Error
from tests.support.ports import HAS_IPV6, needs_ipv6

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pingora_core.listeners.l4 import ServerAddress
    from pingora_core.services import ServiceContext

# An address of TEST-NET-1 (RFC 5737): no machine has it.
FOREIGN = "192.0.2.1"


class Listening(Service):
    """Says where it would listen."""

    def __init__(self, *addresses: ServerAddress, name: str = "web") -> None:
        super().__init__(name)
        self._addresses = addresses

    @property
    def listen_addresses(self) -> tuple[ServerAddress, ...]:
        return self._addresses

    async def start_service(self, context: ServiceContext) -> None:
        raise AssertionError


def check(*addresses: ServerAddress, upgrade: bool = False) -> Findings:
    return check_addresses(ServerConf(), [Listening(*addresses)], upgrade=upgrade)


@pytest.fixture
def taken() -> Iterator[tuple[str, int]]:
    """Yield an address on which somebody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()


@pytest.fixture
def free_port() -> int:
    """Find a port that nobody has in either version."""
    with socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::", 0))
        port: int = sock.getsockname()[1]
    return port


def test_addresses_that_can_be_had(tmp_path: Path, free_port: int) -> None:
    """Nothing is found, and nothing is left behind."""
    found = check(
        TcpServerAddress("127.0.0.1:0"),
        TcpServerAddress(f"0.0.0.0:{free_port}"),
        TcpServerAddress("localhost:0"),
        *([TcpServerAddress("[::1]:0")] if HAS_IPV6 else []),
        UdpServerAddress("127.0.0.1:0"),
        UdsServerAddress(str(tmp_path / "sock")),
        UdsServerAddress(f"@test-{os.getpid()}-{free_port}"),
    )

    assert found == Findings()
    assert list(tmp_path.iterdir()) == []


def test_an_address_in_use_is_a_note(taken: tuple[str, int], tmp_path: Path) -> None:
    """The server that runs has it, as a rule; whoever it is, nothing happens to it."""
    key = f"{taken[0]}:{taken[1]}"
    path = tmp_path / "sock"
    abstract = f"@test-{os.getpid()}-{taken[1]}"
    with (
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as named,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        unix.bind(str(path))
        named.bind("\0" + abstract[1:])
        udp.bind(("127.0.0.1", 0))
        datagrams = f"udp:127.0.0.1:{udp.getsockname()[1]}"
        found = check(
            TcpServerAddress(key),
            UdsServerAddress(str(path)),
            UdsServerAddress(abstract),
            UdpServerAddress(datagrams),
        )

    fine = "is in use; fine if by the server that runs"
    assert found.problems == []
    assert found.notes == [
        f"service 'web': {key} {fine}",
        f"service 'web': unix:{path} is there; fine if it is the running server's or left over",
        f"service 'web': unix:{abstract} {fine}",
        f"service 'web': {datagrams} {fine}",
    ]
    assert path.is_socket()
    with socket.create_connection(taken):
        pass


def test_what_cannot_be_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason of the resolver is told."""

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", fail)

    allowed = "a name that can be looked up (Name or service not known)"
    assert check(TcpServerAddress("nowhere.example:80")).problems == [
        f"service 'web': address: got 'nowhere.example:80', allowed: {allowed}"
    ]


def test_an_address_of_another_machine() -> None:
    """Nobody can listen there."""
    allowed = "an address of this machine (Cannot assign requested address)"
    assert check(TcpServerAddress(f"{FOREIGN}:80")).problems == [
        f"service 'web': address: got '{FOREIGN}:80', allowed: {allowed}"
    ]


@pytest.mark.parametrize("upgrade", [False, True])
def test_a_port_that_takes_rights(monkeypatch: pytest.MonkeyPatch, *, upgrade: bool) -> None:
    """A problem, but not for who gets the socket from a predecessor or a service manager."""

    class Denied(socket.socket):
        def bind(self, address: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("socket.socket", Denied)
    found = check(TcpServerAddress("127.0.0.1:80"), upgrade=upgrade)

    (said,) = found.notes if upgrade else found.problems
    assert len(found.notes) + len(found.problems) == 1
    assert said.startswith("service 'web': address: got '127.0.0.1:80', allowed: a port from ")
    assert said.endswith(" up, or any for root (Permission denied)")


def test_the_first_port_for_everybody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the kernel says; 1024 where it does not."""
    file = tmp_path / "start"
    monkeypatch.setattr(_address_checks, "_UNPRIVILEGED", file)
    assert _address_checks._first_unprivileged() == 1024

    file.write_text("80\n")
    assert _address_checks._first_unprivileged() == 80


def test_a_unix_socket_where_none_can_be(tmp_path: Path) -> None:
    """The directory has to be there, and nothing but a socket in the way."""
    file = tmp_path / "file"
    file.touch()
    found = check(
        UdsServerAddress(f"{tmp_path}/no/sock"), UdsServerAddress(str(file)), upgrade=True
    )

    said = "service 'web': address: got 'unix:{}', allowed: a socket that can be made ({})"
    assert found.problems == [
        said.format(f"{tmp_path}/no/sock", f"{tmp_path}/no: No such file or directory"),
        said.format(file, "there is a file that is no socket"),
    ]


def test_an_option_that_the_system_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told with the address."""

    class Old(socket.socket):
        def setsockopt(self, *arguments: object) -> None:
            if arguments[1] == socket.SO_SNDBUF:
                raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))

    monkeypatch.setattr("socket.socket", Old)
    options = TcpSocketOptions(tcp_snd_buf=4096)
    (problem,) = check(TcpServerAddress("127.0.0.1:0", options)).problems

    assert problem.startswith("service 'web': address '127.0.0.1:0': ")
    assert "SO_SNDBUF" in problem


@needs_ipv6
def test_source_addresses_of_another_machine() -> None:
    """Connections to upstreams could not come from there."""
    conf = ServerConf(
        client_bind_to_ipv4=("127.0.0.1", FOREIGN), client_bind_to_ipv6=("::1", "2001:db8::1")
    )
    reason = "allowed: an address of this machine (Cannot assign requested address)"

    assert check_addresses(conf, []).problems == [
        f"ServerConf: client_bind_to_ipv4[1]: got '{FOREIGN}', {reason}",
        f"ServerConf: client_bind_to_ipv6[1]: got '2001:db8::1', {reason}",
    ]


# ---------------------------------------------------------------------------------------- overlaps

OPEN = TcpSocketOptions(ipv6_only=False)
V6_ONLY = TcpSocketOptions(ipv6_only=True)
SHARED = TcpSocketOptions(so_reuseport=True)


@pytest.mark.parametrize(
    ("first", "options", "second", "more_options", "overlaps"),
    [
        ("0.0.0.0", None, "127.0.0.1", None, True),
        ("127.0.0.1", None, "0.0.0.0", None, True),
        ("[::]", OPEN, "0.0.0.0", None, True),
        ("[::]", OPEN, "127.0.0.1", None, True),
        ("[::]", V6_ONLY, "0.0.0.0", None, False),
        pytest.param("[::]", V6_ONLY, "[::1]", None, True, marks=needs_ipv6),
        pytest.param("[::1]", None, "127.0.0.1", None, False, marks=needs_ipv6),
        ("127.0.0.1", None, "127.0.0.2", None, False),
        ("localhost", None, "127.0.0.1", None, True),
        ("0.0.0.0", SHARED, "127.0.0.1", SHARED, False),
        ("0.0.0.0", SHARED, "127.0.0.1", None, True),
    ],
)
@pytest.mark.parametrize("kind", [TcpServerAddress, UdpServerAddress])
def test_overlaps_are_what_the_kernel_refuses(
    monkeypatch: pytest.MonkeyPatch,
    free_port: int,
    first: str,
    options: TcpSocketOptions | None,
    second: str,
    more_options: TcpSocketOptions | None,
    overlaps: bool,
    kind: type[TcpServerAddress | UdpServerAddress],
) -> None:
    """Addresses that include each other are found before the second one is in use."""
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        "socket.getaddrinfo", lambda *_, **more: look_up("127.0.0.1", free_port, **more)
    )
    one = kind(f"{first}:{free_port}", options or TcpSocketOptions())
    other = kind(f"{second}:{free_port}", more_options or TcpSocketOptions())

    found = check_addresses(
        ServerConf(), [Listening(one, name="a"), Listening(other, name="b")]
    ).problems

    with bind_blocking(one, BindRetry(1)):
        try:
            bind_blocking(other, BindRetry(1)).close()
        except Error:
            allowed = f"an address that {one.key!r} of service 'a' does not include"
            assert found == [f"service 'b': address: got {other.key!r}, allowed: {allowed}"]
            assert overlaps
        else:
            assert found == []
            assert not overlaps


def test_what_does_not_overlap(free_port: int) -> None:
    """One address for two services is one socket; other ports and datagrams are other addresses."""
    found = check_addresses(
        ServerConf(),
        [
            Listening(TcpServerAddress(f"0.0.0.0:{free_port}"), TcpServerAddress("127.0.0.1:0")),
            Listening(TcpServerAddress(f"0.0.0.0:{free_port}"), TcpServerAddress("127.0.0.2:0")),
            Listening(UdpServerAddress(f"127.0.0.1:{free_port}")),
        ],
    )

    assert found == Findings()
