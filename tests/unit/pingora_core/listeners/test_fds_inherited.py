"""Sockets that another process has made: found, checked, taken over, closed."""

from __future__ import annotations

import logging
import os
import socket
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pingora_core.listeners.fds import ListenFds
from pingora_core.listeners.l4 import (
    BindRetry,
    TcpServerAddress,
    UdpServerAddress,
    UdsServerAddress,
)
from pingora_error import Error, ErrorType
from tests.support.ports import needs_ipv6

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_core.listeners.l4 import ServerAddress

pytestmark = pytest.mark.usefixtures("no_leaks")

ONCE = BindRetry(attempts=1)


@pytest.fixture
def directory() -> Iterator[Path]:
    # tmp_path may be longer than a socket's path can be.
    with tempfile.TemporaryDirectory(prefix="p") as name:
        yield Path(name)


def tcp(host: str = "127.0.0.1", *, listening: bool = True) -> tuple[socket.socket, int]:
    """Make a bound socket, and tell its port."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.bind((host, 0))
    if listening:
        sock.listen()
    return sock, sock.getsockname()[1]


def unix(path: Path | str) -> socket.socket:
    """Make a listening Unix socket."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


def same_socket(one: socket.socket, other: socket.socket) -> bool:
    """Whether two descriptors stand for one socket."""
    return os.path.sameopenfile(one.fileno(), other.fileno())


def relative(path: Path) -> str:
    """A path as seen from the working directory."""
    return os.path.relpath(path)


def mode_of(path: Path) -> int:
    """The permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


async def is_adopted(fds: ListenFds, address: ServerAddress, inherited: socket.socket) -> bool:
    """Acquire an address, and tell whether that is an inherited socket."""
    with await fds.acquire(address) as sock:
        same = same_socket(sock, inherited)
    assert address.key in fds
    return same


# ------------------------------------------------------------------------------------- finding


@pytest.mark.parametrize(
    ("bound", "written"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("::", "[::]"),
        pytest.param("::1", "[0:0:0:0:0:0:0:1]", marks=needs_ipv6),
        ("127.0.0.1", "localhost"),
    ],
)
async def test_a_socket_is_found_by_where_it_is_bound(bound: str, written: str) -> None:
    """Under whatever name it comes; from then on it has the key that is in use."""
    inherited, port = tcp(bound)
    fds = ListenFds({"http": inherited}, ONCE)

    assert await is_adopted(fds, TcpServerAddress(f"{written}:{port}"), inherited)
    assert list(fds.sockets) == [f"{written}:{port}"]
    fds.close()


async def test_an_all_zero_address_is_not_that_of_the_other_family() -> None:
    """0.0.0.0 is not [::]: who asks for one is not given the other."""
    inherited, port = tcp("::")
    fds = ListenFds({"http": inherited}, ONCE)

    with pytest.raises(Error, match="inherited and not asked for so far: http") as caught:
        await fds.acquire(TcpServerAddress(f"0.0.0.0:{port}"))

    assert caught.value.etype is ErrorType.BIND_ERROR
    assert fds.close_unclaimed() == ["http"]


async def test_a_unix_socket_is_found_by_its_path(directory: Path) -> None:
    """However the path is written."""
    inherited = unix(directory / "s")
    fds = ListenFds({"app": inherited})

    assert await is_adopted(fds, UdsServerAddress(relative(directory / "s")), inherited)
    fds.close()


async def test_an_abstract_socket_is_found_by_its_name() -> None:
    """It has no file."""
    name = f"pingora-inherited-{os.getpid()}"
    inherited = unix("\0" + name)
    fds = ListenFds({"app": inherited})

    assert await is_adopted(fds, UdsServerAddress("@" + name), inherited)
    fds.close()


async def test_a_udp_socket_is_found_among_others() -> None:
    """A TCP socket on the same port is something else."""
    stream, port = tcp()
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagram.bind(("127.0.0.1", port))
    fds = ListenFds({"web": stream, "dns": datagram})

    assert await is_adopted(fds, UdpServerAddress(f"127.0.0.1:{port}"), datagram)
    assert await is_adopted(fds, TcpServerAddress(f"127.0.0.1:{port}"), stream)
    fds.close()


async def test_port_zero_is_found_by_its_key_only() -> None:
    """A socket with some port is not the one that the kernel would choose."""
    inherited, _ = tcp()
    address = TcpServerAddress("127.0.0.1:0")
    fds = ListenFds({"http": inherited})

    assert not await is_adopted(fds, address, inherited)
    assert fds.close_unclaimed() == ["http"]
    fds.close()

    again, _ = tcp()
    fds = ListenFds({address.key: again})
    assert await is_adopted(fds, address, again)
    fds.close()


async def test_a_claimed_socket_is_not_found_under_another_name() -> None:
    """As at a first start, two addresses that are the same one are a mistake."""
    inherited, port = tcp()
    fds = ListenFds({"http": inherited}, ONCE)
    assert await is_adopted(fds, TcpServerAddress(f"127.0.0.1:{port}"), inherited)

    with pytest.raises(Error):
        await fds.acquire(TcpServerAddress(f"localhost:{port}"))
    fds.close()


def test_a_socket_is_found_without_a_loop() -> None:
    """Before privileges are dropped, and before a supervisor forks."""
    inherited, port = tcp()
    address = TcpServerAddress(f"localhost:{port}")
    fds = ListenFds({"http": inherited}, ONCE)

    fds.acquire_blocking(address)
    fds.acquire_blocking(address)

    assert fds.sockets == {address.key: inherited}
    assert fds.close_unclaimed() == []
    fds.close()


# -------------------------------------------------------------------------------- taking over


async def test_a_socket_that_does_not_listen_yet_does_then() -> None:
    """systemd may hand over what is only bound."""
    inherited, port = tcp(listening=False)
    fds = ListenFds({"http": inherited})

    assert await is_adopted(fds, TcpServerAddress(f"127.0.0.1:{port}"), inherited)
    with socket.create_connection(("127.0.0.1", port)):
        pass
    fds.close()


@pytest.mark.parametrize(("permissions", "mode"), [(0o600, 0o600), (None, 0o666)])
async def test_permissions_are_applied_again(
    directory: Path, permissions: int | None, mode: int
) -> None:
    """The configuration may have changed between two servers."""
    path = directory / "s"
    inherited = unix(path)
    path.chmod(0o640)
    address = UdsServerAddress(str(path), permissions)
    fds = ListenFds({address.key: inherited})

    assert await is_adopted(fds, address, inherited)
    assert mode_of(path) == mode
    fds.close()


async def test_permissions_that_systemd_has_set_stay(directory: Path) -> None:
    """Unless the configuration asks for others."""
    path = directory / "s"
    inherited = unix(path)
    path.chmod(0o640)
    fds = ListenFds()
    fds.adopt("app", inherited, is_shared=True)

    assert await is_adopted(fds, UdsServerAddress(str(path)), inherited)
    kept = mode_of(path)
    fds.refresh(UdsServerAddress(str(path), 0o600))

    assert kept == 0o640
    assert mode_of(path) == 0o600
    fds.close()
    assert path.exists()


async def test_a_file_that_is_more_open_than_asked_for_is_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is somebody else's cannot be changed: if it is stricter, that is told and goes."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    path = directory / "s"
    inherited = unix(path)
    path.chmod(0o640)
    fds = ListenFds({"app": inherited})
    monkeypatch.setattr(Path, "chmod", refuse)

    with pytest.raises(Error, match="inherited") as caught:
        await fds.acquire(UdsServerAddress(str(path), 0o600))
    unclaimed = list(fds.sockets)
    assert await is_adopted(fds, UdsServerAddress(str(path), 0o660), inherited)

    assert caught.value.etype is ErrorType.BIND_ERROR
    assert unclaimed  # and whoever asks for less gets it
    assert "the mode stays 0o640, not 0o660" in caplog.text
    fds.close()


async def test_a_socket_without_its_file_is_told_of(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It can be adopted, but nobody can connect."""
    path = directory / "s"
    address = UdsServerAddress(str(path))
    inherited = unix(path)
    path.unlink()
    fds = ListenFds({address.key: inherited})

    assert await is_adopted(fds, address, inherited)
    assert "the file of the socket is gone" in caplog.text
    fds.close()


@pytest.mark.parametrize("kind", ["udp", "unix"])
async def test_a_tcp_address_adopts_nothing_else(directory: Path, kind: str) -> None:
    """Not even under its own key; the error says what the socket is."""
    if kind == "udp":
        inherited = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        inherited.bind(("127.0.0.1", 0))
        said = "an IP datagram socket"
    else:
        inherited = unix(directory / "s")
        said = "a Unix stream socket"
    fds = ListenFds({"127.0.0.1:80": inherited})

    with pytest.raises(Error, match=rf"127\.0\.0\.1:80.*{said}") as caught:
        await fds.acquire(TcpServerAddress("127.0.0.1:80"))
    with pytest.raises(Error):
        fds.acquire_blocking(TcpServerAddress("127.0.0.1:80"))

    assert caught.value.etype is ErrorType.BIND_ERROR
    assert fds.close_unclaimed() == ["127.0.0.1:80"]


async def test_a_unix_address_adopts_no_tcp_socket() -> None:
    """The other way round it is the same."""
    inherited, _ = tcp()
    fds = ListenFds({"unix:/run/x": inherited})

    with pytest.raises(Error, match="an IP stream socket, bound to 127"):
        await fds.acquire(UdsServerAddress("/run/x"))
    fds.close()


def test_a_key_is_adopted_once() -> None:
    """The second socket stays the caller's."""
    first, _ = tcp()
    second, _ = tcp()
    fds = ListenFds()
    fds.adopt("http", first)

    with pytest.raises(ValueError, match="'http'"):
        fds.adopt("http", second)

    assert second.fileno() != -1
    second.close()
    fds.close()


async def test_a_socket_that_comes_from_two_sides_is_one(directory: Path) -> None:
    """From a predecessor and from systemd, which keeps it: its file stays at the end."""
    path = directory / "s"
    inherited = unix(path)
    address = UdsServerAddress(str(path))
    fds = ListenFds({address.key: inherited})

    fds.adopt("app.socket", inherited.dup(), is_shared=True)

    assert list(fds.sockets) == [address.key]
    assert await is_adopted(fds, address, inherited)
    fds.release(address)
    assert path.exists()


# ------------------------------------------------------------------------------------ closing


async def test_what_nobody_asks_for_is_closed(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once all services are ready, and with its file; what is in use stays."""
    caplog.set_level(logging.INFO)
    used, port = tcp()
    unused = unix(directory / "s")
    fds = ListenFds({"http": used, "old": unused})
    assert await is_adopted(fds, TcpServerAddress(f"127.0.0.1:{port}"), used)

    assert fds.close_unclaimed() == ["old"]
    assert fds.close_unclaimed() == []

    assert unused.fileno() == -1
    assert not (directory / "s").exists()
    assert list(fds.sockets) == [f"127.0.0.1:{port}"]
    fds.close()


# --------------------------------------------------------------------------------------- lent


async def test_what_is_lent_is_left_as_it_was_by_a_server_that_does_not_come_up(
    directory: Path,
) -> None:
    """The predecessor goes on with it: neither is its file removed nor its queue emptied."""
    path = directory / "s"
    with unix(path) as predecessors:
        address = UdsServerAddress(str(path))
        fds = ListenFds({address.key: predecessors.dup()}, is_lent=True)
        assert fds.is_lent
        (await fds.acquire(address)).close()

        assert fds.retire(address) is None
        fds.close()

        assert path.exists()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            predecessors.accept()[0].close()


async def test_what_was_lent_is_owned_once_the_server_has_come_up(directory: Path) -> None:
    """The file goes with the last user, and the queue is that user's to empty."""
    path = directory / "s"
    address = UdsServerAddress(str(path))
    fds = ListenFds({address.key: unix(path)}, is_lent=True)
    (await fds.acquire(address)).close()

    fds.take_over()

    assert not fds.is_lent
    queue = fds.retire(address)
    assert queue is not None
    queue.close()
    assert not path.exists()
