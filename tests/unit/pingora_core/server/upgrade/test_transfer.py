"""Handing sockets from one server to the next, when all goes well."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pingora_core import __version__
from pingora_core.listeners.fds import ListenFds
from pingora_core.server.upgrade import transfer
from pingora_core.server.upgrade.transfer import UPGRADE_ERROR, Predecessor, hand_over
from pingora_error import Error
from tests.support.ports import HAS_IPV6
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "upgrade.sock")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a test enters into it."""
    with ExitStack() as stack:
        yield stack


def exists(path: str) -> bool:
    return Path(path).exists()


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def listening(stack: ExitStack, count: int = 1) -> dict[str, socket.socket]:
    sockets = {}
    for _ in range(count):
        sock = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        sockets[f"127.0.0.1:{sock.getsockname()[1]}"] = sock
    return sockets


def every_kind(stack: ExitStack, directory: Path) -> dict[str, socket.socket]:
    sockets = listening(stack, 2)
    if HAS_IPV6:
        inet6 = socket.create_server(("::1", 0), family=socket.AF_INET6)
        sockets["[::1]:0"] = stack.enter_context(inet6)
    unix = stack.enter_context(socket.socket(socket.AF_UNIX))
    unix.bind(str(directory / "listener"))
    unix.listen()
    sockets[f"unix:{directory}/listener"] = unix
    udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    udp.bind(("127.0.0.1", 0))
    sockets[f"udp:127.0.0.1:{udp.getsockname()[1]}"] = udp
    return sockets


async def receive(path: str, stack: ExitStack, retries: int = 5) -> Predecessor:
    predecessor = await asyncio.to_thread(Predecessor.receive, path, retries=retries)
    stack.callback(predecessor.close)
    for sock in predecessor.sockets.values():
        stack.enter_context(sock)
    return predecessor


async def transferred(
    path: str, sockets: dict[str, socket.socket], stack: ExitStack, *, ready_timeout: float = 5
) -> tuple[Predecessor, asyncio.Task[None]]:
    """Bring both sides to where the new one has the sockets and the old one waits for it."""
    arrived = asyncio.Event()
    old = asyncio.create_task(
        hand_over(path, sockets, retries=5, ready_timeout=ready_timeout, on_transferred=arrived.set)
    )
    new = await receive(path, stack)
    await asyncio.wait_for(arrived.wait(), 30)
    return new, old


async def test_every_kind_of_socket_arrives(path: str, tmp_path: Path, stack: ExitStack) -> None:
    """TCP, Unix and datagram sockets, as they are: the same ones, ready to be used."""
    sockets = every_kind(stack, tmp_path)

    new, old = await transferred(path, sockets, stack)

    assert list(new.sockets) == list(sockets)
    for key, sock in new.sockets.items():
        assert inode(sock) == inode(sockets[key])
        assert sock.family == sockets[key].family
        assert sock.type == sockets[key].type
        assert not sock.get_inheritable()
        assert not sock.getblocking()
    assert (new.pid, new.version) == (os.getpid(), __version__)
    new.say_ready()
    await old


async def test_the_successor_accepts_what_the_predecessor_did_not(
    path: str, stack: ExitStack
) -> None:
    """A connection that waits in the queue is not lost."""
    sockets = listening(stack)
    (address,) = [sock.getsockname() for sock in sockets.values()]
    stack.enter_context(socket.create_connection(address))

    new, old = await transferred(path, sockets, stack)
    for sock in sockets.values():
        sock.close()
    (received,) = new.sockets.values()
    connection, _ = received.accept()
    connection.close()

    new.say_ready()
    await old


async def test_what_somebody_else_keeps_is_told(path: str, stack: ExitStack) -> None:
    """The successor must not remove files that belong to systemd, either."""
    sockets = listening(stack, 3)
    kept = set(list(sockets)[:2])

    old = asyncio.create_task(hand_over(path, sockets, retries=5, ready_timeout=5, shared=kept))
    new = await receive(path, stack)

    assert new.shared == kept
    assert ListenFds(new.sockets, shared=new.shared).shared == kept
    new.say_ready()
    await old


@pytest.mark.parametrize("count", [0, 1, 64, 65, 300])
async def test_any_number_of_sockets(path: str, stack: ExitStack, count: int) -> None:
    """None, one batch, and several."""
    sockets = listening(stack, count)

    new, old = await transferred(path, sockets, stack)

    assert list(new.sockets) == list(sockets)
    assert all(inode(new.sockets[key]) == inode(sockets[key]) for key in sockets)
    new.say_ready()
    await old


async def test_more_than_the_kernel_buffers(path: str, stack: ExitStack) -> None:
    """The predecessor waits for its successor to read."""
    sockets = {
        "x" * 5000 + key: sock for key, sock in listening(stack, 300).items()
    }  # names, not addresses

    new, old = await transferred(path, sockets, stack)

    assert list(new.sockets) == list(sockets)
    new.say_ready()
    await old


async def test_the_predecessor_stays_until_the_successor_is_ready(
    path: str, stack: ExitStack
) -> None:
    """Having the sockets is not serving."""
    new, old = await transferred(path, listening(stack), stack)

    await asyncio.sleep(0.02)
    assert not old.done()

    new.say_ready()
    await old


async def test_the_socket_is_its_owners_alone_and_goes_away(path: str, stack: ExitStack) -> None:
    """Mode 0600 from the start, and no file is left behind."""
    receiving = asyncio.create_task(receive(path, stack))
    await eventually(lambda: exists(path))
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600

    old = asyncio.create_task(hand_over(path, {}, retries=5, ready_timeout=5))
    new = await receiving

    assert not exists(path)
    new.say_ready()
    await old


async def test_either_may_come_first(
    path: str, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The predecessor waits for the file, the successor for the connection."""
    monkeypatch.setattr(transfer, "_INTERVAL", 5.0)
    old = asyncio.create_task(hand_over(path, {}, retries=1, ready_timeout=5))
    await asyncio.sleep(0.02)
    assert not old.done()

    new = await receive(path, stack, retries=1)

    new.say_ready()
    await old


async def test_who_looks_whether_somebody_listens_does_no_harm(path: str, stack: ExitStack) -> None:
    """A connection that says nothing is not the predecessor."""
    receiving = asyncio.create_task(receive(path, stack))
    await eventually(lambda: exists(path))
    with socket.socket(socket.AF_UNIX) as probe:
        await eventually(lambda: probe.connect_ex(path) == 0)

    old = asyncio.create_task(hand_over(path, {}, retries=5, ready_timeout=5))

    (await receiving).say_ready()
    await old


async def test_whoever_waits_learns_that_the_socket_is_there(path: str, stack: ExitStack) -> None:
    """From then on the running server can be told."""
    seen: list[bool] = []
    receiving = asyncio.create_task(
        asyncio.to_thread(
            Predecessor.receive, path, retries=5, on_listening=lambda: seen.append(exists(path))
        )
    )
    await eventually(lambda: seen)

    old = asyncio.create_task(hand_over(path, {}, retries=0, ready_timeout=5))
    new = await receiving
    stack.callback(new.close)

    assert seen == [True]
    new.say_ready()
    await old


async def test_the_file_is_given_to_the_user_that_the_predecessor_runs_as(
    path: str, stack: ExitStack
) -> None:
    """A successor that is still root meets a predecessor that is not any more."""
    owner = 65534 if os.geteuid() == 0 else os.geteuid()
    receiving = asyncio.create_task(
        asyncio.to_thread(Predecessor.receive, path, retries=5, owner=owner)
    )
    await eventually(lambda: exists(path))
    await eventually(lambda: os.lstat(path).st_uid == owner)

    old = asyncio.create_task(hand_over(path, {}, retries=5, ready_timeout=5))
    new = await receiving
    stack.callback(new.close)
    new.say_ready()
    await old


# ------------------------------------------------------------------- not ready after all


async def test_a_successor_that_fails_tells_why(path: str, stack: ExitStack) -> None:
    """The predecessor's error has the reason in it."""
    new, old = await transferred(path, listening(stack), stack)

    new.say_failed("service 'web': no certificate")

    with pytest.raises(Error, match="failed: service 'web': no certificate") as caught:
        await old
    assert caught.value.etype == UPGRADE_ERROR


async def test_a_successor_that_goes_without_a_word_has_failed(path: str, stack: ExitStack) -> None:
    """As the kernel tells when a process is killed."""
    new, old = await transferred(path, listening(stack), stack)

    new.close()

    with pytest.raises(Error, match="has ended before it was ready"):
        await old


async def test_a_successor_that_is_late_learns_that_it_must_not_stay(
    path: str, stack: ExitStack
) -> None:
    """There are never two servers that both believe to be the one."""
    new, old = await transferred(path, listening(stack), stack, ready_timeout=0.01)
    with pytest.raises(Error, match=r"is not ready after 0\.01 s"):
        await old

    with pytest.raises(Error, match=r"goes on serving: successor .* is not ready after"):
        new.say_ready()


async def test_a_word_that_was_on_its_way_counts(
    path: str, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The successor says that it is ready while the predecessor gives up: they agree."""
    new, old = await transferred(path, listening(stack), stack, ready_timeout=0.03)

    # The loop sees both, the time that is up and the word, in the same turn.
    loop = asyncio.get_running_loop()
    late = loop.time() + 0.03
    new.say_ready()
    while loop.time() <= late:
        pass

    await old


async def test_a_predecessor_that_has_died_is_not_missed(path: str, stack: ExitStack) -> None:
    """The successor serves in its place, whether it could say so or not."""
    new, old = await transferred(path, listening(stack), stack)
    old.cancel()
    with pytest.raises(asyncio.CancelledError):
        await old

    new.say_ready()


async def test_cancelling_closes_everything(path: str) -> None:
    """While it waits for a successor, too."""
    old = asyncio.create_task(hand_over(path, {}, retries=50, ready_timeout=5))
    await asyncio.sleep(0.01)

    old.cancel()

    with pytest.raises(asyncio.CancelledError):
        await old
