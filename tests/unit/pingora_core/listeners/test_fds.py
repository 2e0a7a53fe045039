from __future__ import annotations

import asyncio
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pingora_core.listeners.fds import ListenFds
from pingora_core.listeners.l4 import BindRetry, TcpServerAddress, UdsServerAddress
from pingora_error import Error

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("no_leaks")

TCP = TcpServerAddress("127.0.0.1:0")


@pytest.fixture
def directory() -> Iterator[Path]:
    # tmp_path may be longer than a socket's path can be.
    with tempfile.TemporaryDirectory(prefix="p") as name:
        yield Path(name)


def refuses(address: tuple[str, int]) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(address) != 0


async def test_a_socket_is_made_once_and_shared() -> None:
    """Who asks second gets the same listening socket, even at the same time."""
    fds = ListenFds()

    first, second = await asyncio.gather(fds.acquire(TCP), fds.acquire(TCP))

    assert first.getsockname() == second.getsockname()
    assert first.fileno() != second.fileno()
    assert len(fds) == 1
    first.close()
    second.close()
    fds.close()


async def test_the_last_release_closes_the_socket() -> None:
    """As long as one user is left, connections are accepted by the kernel."""
    fds = ListenFds()
    first, second = await fds.acquire(TCP), await fds.acquire(TCP)
    address = first.getsockname()
    first.close()
    second.close()

    fds.release(TCP)
    after_one = refuses(address)
    fds.release(TCP)
    fds.release(TCP)

    assert after_one is False
    assert refuses(address)
    assert TCP.key not in fds


async def test_an_inherited_socket_is_adopted() -> None:
    """Nothing is bound, and options of the address do not matter."""
    inherited = socket.create_server(("127.0.0.1", 0))
    fds = ListenFds({TCP.key: inherited})

    sock = await fds.acquire(TCP)

    assert sock.getsockname() == inherited.getsockname()
    assert TCP.key in fds
    sock.close()
    fds.release(TCP)
    assert inherited.fileno() == -1


async def test_sockets_are_what_a_successor_is_given() -> None:
    """By key, as the next table takes them."""
    fds = ListenFds()
    sock = await fds.acquire(TCP)

    successor = ListenFds({key: each.dup() for key, each in fds.sockets.items()})
    adopted = await successor.acquire(TCP)

    assert adopted.getsockname() == sock.getsockname()
    for each in (sock, adopted):
        each.close()
    for table in (fds, successor):
        table.release(TCP)


async def test_close_closes_what_nobody_has_adopted() -> None:
    """A socket that the new configuration does not use any more does not linger."""
    inherited = socket.create_server(("127.0.0.1", 0))
    address = inherited.getsockname()

    ListenFds({"old": inherited}).close()

    assert refuses(address)


async def test_a_failed_bind_leaves_nothing() -> None:
    """The next one who asks tries again."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        host, port = other.getsockname()
        address = TcpServerAddress(f"{host}:{port}")
        fds = ListenFds(retry=BindRetry(attempts=1))
        with pytest.raises(Error):
            await fds.acquire(address)
        count = len(fds)

    sock = await fds.acquire(address)

    assert count == 0
    sock.close()
    fds.close()


async def test_the_file_of_a_unix_socket_goes_with_it(directory: Path) -> None:
    """Made or inherited, it is removed at the end."""
    address = UdsServerAddress(str(directory / "s"))
    fds = ListenFds()
    first = await fds.acquire(address)
    successor = ListenFds({address.key: first})

    fds.disown_files()
    fds.release(address)
    handed_over = (directory / "s").exists()
    successor.close()

    assert handed_over
    assert not (directory / "s").exists()


async def test_somebody_elses_file_is_not_removed(directory: Path) -> None:
    """Who replaced the file in the meantime keeps it."""
    path = directory / "s"
    address = UdsServerAddress(str(path))
    fds = ListenFds()
    sock = await fds.acquire(address)
    path.rename(directory / "moved")
    path.write_text("other")

    sock.close()
    fds.release(address)

    assert path.read_text() == "other"


async def test_a_file_that_is_gone_already_is_no_problem(directory: Path) -> None:
    """Closing works all the same."""
    path = directory / "s"
    fds = ListenFds()
    sock = await fds.acquire(UdsServerAddress(str(path)))
    path.unlink()

    sock.close()
    fds.close()

    assert len(fds) == 0


async def test_an_inherited_socket_without_its_file_is_adopted(directory: Path) -> None:
    """There is nothing to remove then."""
    path = directory / "s"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        path.unlink()

        ListenFds({"unix:s": sock.dup()}).close()
