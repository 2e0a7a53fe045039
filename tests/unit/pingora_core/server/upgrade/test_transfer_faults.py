"""Handing sockets from one server to the next, when the other side is not what it should be."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
import time
from array import array
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from pingora_core.server.upgrade import _rendezvous, transfer
from pingora_core.server.upgrade._wire import (
    HEADER_SIZE,
    Accepted,
    Descriptors,
    Failed,
    Hello,
    Ready,
    encode,
)
from pingora_core.server.upgrade.transfer import UPGRADE_ERROR, Predecessor, hand_over
from pingora_error import Error
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

pytestmark = pytest.mark.usefixtures("no_leaks")

KEY = "127.0.0.1:0"
NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "upgrade.sock")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the limits pass quickly."""
    monkeypatch.setattr(transfer, "_INTERVAL", 0.02)
    monkeypatch.setattr(transfer, "_EXCHANGE_TIMEOUT", 0.02)


def exists(path: str) -> bool:
    return Path(path).exists()


def connect(sock: socket.socket, path: str) -> None:
    """Connect to a successor as soon as it listens, which is a moment after its file is there."""
    while True:
        try:
            sock.connect(path)
        except ConnectionRefusedError:
            time.sleep(0.001)
        else:
            return


class Strangers:
    """Says that whoever is at the other end is of another user."""

    size = 12

    @staticmethod
    def unpack(_: bytes) -> tuple[int, int, int]:
        return 4711, 4242, 4242


def hear_out(connection: socket.socket) -> bytes:
    """Read to the end, as far as there is one."""
    heard = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            heard += piece
    return heard


# ------------------------------------------------------------------------------ nobody there


@pytest.mark.usefixtures("short")
async def test_nobody_comes(path: str) -> None:
    """The new server gives up, and takes its file away."""
    with pytest.raises(Error, match="no running server has come to the upgrade socket") as caught:
        await asyncio.to_thread(Predecessor.receive, path, retries=1)

    assert caught.value.etype == UPGRADE_ERROR
    assert not exists(path)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("retries", [0, 1])
async def test_nobody_listens(path: str, retries: int) -> None:
    """The old server goes on."""
    with pytest.raises(Error, match="no successor listens on the upgrade socket") as caught:
        await hand_over(path, {}, retries=retries, ready_timeout=1)

    assert path in str(caught.value)


async def test_a_path_that_is_no_socket_is_nobody(tmp_path: Path) -> None:
    """It is not waited for: it will not become one."""
    with pytest.raises(Error, match="no successor listens"):
        await hand_over(str(tmp_path / ("x" * 200)), {}, retries=60, ready_timeout=1)


# ---------------------------------------------------------------------------------- the file


def stale(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)


async def test_a_stale_file_is_replaced(path: str) -> None:
    """One that a crash has left."""
    stale(path)
    old = asyncio.create_task(hand_over(path, {}, retries=5, ready_timeout=5))

    new = await asyncio.to_thread(Predecessor.receive, path, retries=5)

    new.say_ready()
    await old


def test_a_living_one_is_left_alone(path: str) -> None:
    """Two successors at a time make no sense."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen(1)
        with pytest.raises(Error, match="another process waits on the upgrade socket"):
            Predecessor.receive(path, retries=1)
        assert exists(path)


def test_a_living_one_that_is_busy_is_left_alone(path: str) -> None:
    """Even if it does not let anybody in at the moment."""
    with ExitStack() as stack:
        other = stack.enter_context(socket.socket(socket.AF_UNIX))
        other.bind(path)
        other.listen(0)
        with suppress(BlockingIOError):
            while True:
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.settimeout(0)
                client.connect(path)
        with pytest.raises(Error, match="another process waits on the upgrade socket"):
            Predecessor.receive(path, retries=1)


def test_a_file_that_is_no_socket_is_left_alone(path: str) -> None:
    """It is certainly not ours."""
    Path(path).write_text("precious")

    with pytest.raises(Error, match="is a file that is no socket: remove it"):
        Predecessor.receive(path, retries=1)

    assert Path(path).read_text() == "precious"


def test_a_file_of_another_user_is_left_alone(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for the sockets of others there is not helped."""
    stale(path)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)

    with pytest.raises(Error, match=f"belongs to another user: {os.getuid()}"):
        Predecessor.receive(path, retries=1)

    assert exists(path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """The message names the file."""
    with pytest.raises(Error, match=r"nowhere/upgrade\.sock cannot be made"):
        Predecessor.receive(str(tmp_path / "nowhere" / "upgrade.sock"), retries=1)


def test_somebody_elses_file_is_not_removed(path: str) -> None:
    """What has been put in the place of the file stays."""
    with _rendezvous.rendezvous(path, None):
        Path(path).unlink()
        Path(path).write_text("another")

    assert Path(path).read_text() == "another"


def test_a_file_that_is_gone_already_is_no_error(path: str) -> None:
    """Somebody has cleaned up."""
    with _rendezvous.rendezvous(path, None):
        Path(path).unlink()


# ----------------------------------------------------------------------------- other users


async def test_the_predecessor_trusts_no_other_user(
    path: str, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sockets are given to our own user and to root only."""
    monkeypatch.setattr(_rendezvous, "_CREDENTIALS", Strangers)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(path)
        stranger.listen(1)
        with pytest.raises(
            Error, match="4711 at the other end is of user 4242, who is not trusted"
        ):
            await hand_over(path, {KEY: listener}, retries=1, ready_timeout=1)


@pytest.mark.usefixtures("short")
async def test_the_successor_waits_on_when_another_user_comes(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stranger cannot end an upgrade either."""
    monkeypatch.setattr(_rendezvous, "_CREDENTIALS", Strangers)
    monkeypatch.setattr(transfer, "_INTERVAL", 0.5)
    receiving = asyncio.create_task(asyncio.to_thread(Predecessor.receive, path, retries=1))
    await eventually(lambda: exists(path))
    with socket.socket(socket.AF_UNIX) as stranger:
        connect(stranger, path)
        await eventually(lambda: "4242, who is not trusted" in caplog.text)

    with pytest.raises(Error, match="no running server has come"):
        await receiving


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_cannot_even_connect() -> None:
    """The file keeps everybody else out."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        path = f"{directory}/upgrade.sock"
        with _rendezvous.rendezvous(path, None), socket.socket(socket.AF_UNIX) as stranger:
            os.seteuid(NOBODY)
            try:
                with pytest.raises(PermissionError):
                    stranger.connect(path)
            finally:
                os.seteuid(0)


# ------------------------------------------------------------- a predecessor that is none


def attached(descriptors: Sequence[int]) -> list[tuple[int, int, array[int]]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []


Step = tuple[bytes, "Sequence[int]"]


async def talk(path: str, steps: Sequence[Step]) -> tuple[Error, bytes]:
    """Say things to a successor, then go; return what it makes of that, and what it answers."""
    receiving = asyncio.create_task(asyncio.to_thread(Predecessor.receive, path, retries=1))
    await eventually(lambda: receiving.done() or exists(path))

    def play() -> bytes:
        with socket.socket(socket.AF_UNIX) as old, suppress(BrokenPipeError, ConnectionResetError):
            old.settimeout(30)
            connect(old, path)
            for data, descriptors in steps:
                old.sendmsg([data], attached(descriptors))
            old.shutdown(socket.SHUT_WR)
            return hear_out(old)
        return b""

    answer = await asyncio.to_thread(play)
    with pytest.raises(Error) as caught:
        await receiving
    assert caught.value.etype == UPGRADE_ERROR
    assert not exists(path)
    return caught.value, answer


def hello(*keys: str) -> bytes:
    return encode(Hello(1, 1, "0.1.0", keys))


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ([b"GET / HTTP/1.1\r\n\r\n"], "is announced: at most"),
        ([b"\0\0\0\4null"], "no message of a hand-over"),
        ([encode(Ready())], "begins with Ready"),
        ([encode(Hello(2, 1, "9", (KEY,)))], "version 2 of the hand-over is spoken there"),
        ([hello(KEY, KEY)], "announced twice"),
        ([hello(KEY), encode(Ready())], "sockets were expected, not Ready"),
        ([hello(KEY), encode(Failed("no space"))], "the predecessor failed: no space"),
        ([hello(KEY), encode(Descriptors(1))], "0 sockets were received, 1 were sent"),
        ([hello(KEY), encode(Descriptors(0))], "0 sockets were received, 0 were sent"),
        ([hello(KEY), encode(Descriptors(-1))], "0 sockets were received, -1 were sent"),
    ],
)
async def test_garbage_is_answered_with_the_reason(
    path: str, steps: list[bytes], problem: str
) -> None:
    """The old server's log tells what the new one did not like."""
    error, answer = await talk(path, [(data, ()) for data in steps])

    assert problem in error.context
    assert problem.encode() in answer


@pytest.mark.parametrize("counts", [(2, 1), (1, 2), (2, 3), (3, 3)])
async def test_the_number_of_sockets_must_match(
    path: str, listener: socket.socket, counts: tuple[int, int]
) -> None:
    """As many as were announced, as many as the batch says, and no more than were announced."""
    attaching, said = counts
    descriptors = [listener.fileno()] * attaching

    error, _ = await talk(
        path, [(hello(KEY, "[::1]:0"), ()), (encode(Descriptors(said)), descriptors)]
    )

    assert f"{attaching} sockets were received, {said} were sent, 2 were expected" in error.context


@pytest.mark.parametrize("position", ["hello", "batch"])
async def test_too_many_descriptors_are_refused(
    path: str, listener: socket.socket, position: str
) -> None:
    """More than a batch may have are dropped by the kernel: that is no hand-over."""
    many = [listener.fileno()] * 65
    early, late = (many, []) if position == "hello" else ([], many)

    error, _ = await talk(path, [(hello(KEY), early), (encode(Descriptors(65)), late)])

    assert "sockets were lost" in error.context


async def test_sockets_that_nobody_asked_for_are_refused(
    path: str, listener: socket.socket
) -> None:
    """Attached to the first message, for instance."""
    error, _ = await talk(path, [(hello(), [listener.fileno()])])

    assert "sockets came with the first message" in error.context


async def test_a_wrong_socket_closes_all(path: str, listener: socket.socket) -> None:
    """The good ones that came before it too."""
    with socket.socket() as idle:
        error, answer = await talk(
            path,
            [
                (hello(KEY, "127.0.0.2:0"), ()),
                (encode(Descriptors(2)), [listener.fileno(), idle.fileno()]),
            ],
        )

    assert error.context == "the socket received for 127.0.0.2:0 does not listen"
    assert b"127.0.0.2:0 does not listen" in answer


async def test_the_predecessor_may_end_after_any_byte(
    path: str, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it breaks off, the successor gives up in order and leaves nothing open."""
    first, second = hello(KEY, "127.0.0.2:0"), encode(Descriptors(1))
    monkeypatch.setattr(transfer, "_INTERVAL", 0.3)
    for end in [1, HEADER_SIZE, HEADER_SIZE + 1, len(first) - 1, len(first)]:
        error, _ = await talk(path, [(first[:end], ())])
        assert "ended in the middle" in error.context
    for end in [1, HEADER_SIZE, len(second) - 1, len(second)]:
        error, _ = await talk(path, [(first, ()), (second[:end], [listener.fileno()])])
        assert "ended in the middle" in error.context


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("said", [b"\0", b"\0\0\0\2{", hello(KEY)])
async def test_a_predecessor_that_falls_silent_is_not_waited_for(
    path: str, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """However far it had come."""
    monkeypatch.setattr(transfer, "_INTERVAL", 1.0)
    receiving = asyncio.create_task(asyncio.to_thread(Predecessor.receive, path, retries=1))
    await eventually(lambda: exists(path))
    with socket.socket(socket.AF_UNIX) as old:
        connect(old, path)
        old.send(said)
        with pytest.raises(Error, match=r"hearing from the predecessor|receiving sockets"):
            await receiving


# --------------------------------------------------------------- a successor that is none


async def answered(
    path: str, listener: socket.socket, play: Callable[[socket.socket], object]
) -> Error:
    """Hand over to a successor that does as it likes; return what comes of it."""
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.settimeout(30)
        waiting.bind(path)
        waiting.listen(1)

        def successor() -> None:
            connection, _ = waiting.accept()
            with connection, suppress(BrokenPipeError, ConnectionResetError):
                connection.settimeout(30)
                play(connection)

        thread = asyncio.create_task(asyncio.to_thread(successor))
        with pytest.raises(Error) as caught:
            await hand_over(path, {KEY: listener}, retries=1, ready_timeout=0.02)
        await thread
    assert caught.value.etype == UPGRADE_ERROR
    return caught.value


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"", "has ended before it was ready"),
        (b"\0\0", "has ended before it was ready"),
        (encode(Accepted()), "has ended before it was ready"),
        (encode(Accepted())[:-1], "has ended before it was ready"),
        (encode(Accepted()) + encode(Ready())[:-1], "has ended before it was ready"),
        (encode(Failed("too hot")), "failed: too hot"),
        (encode(Accepted()) + encode(Failed("too cold")), "failed: too cold"),
        (encode(Ready()), "says Ready out of turn"),
        (encode(Accepted()) * 2, "says Accepted out of turn"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is announced: at most"),
        (b"\0\0\0\4null", "no message of a hand-over"),
    ],
)
@pytest.mark.parametrize("reads", [True, False])
async def test_a_successor_that_says_something_else(
    path: str, listener: socket.socket, answer: bytes, problem: str, reads: bool
) -> None:
    """The predecessor goes on, whether the other has heard it out or not."""

    def play(connection: socket.socket) -> None:
        if reads:
            connection.recv(65536)
        connection.sendall(answer)

    error = await answered(path, listener, play)

    assert problem in str(error)


@pytest.mark.usefixtures("short")
async def test_a_successor_that_never_answers(path: str, listener: socket.socket) -> None:
    """There is a limit to taking the sockets."""
    error = await answered(path, listener, hear_out)

    assert "does not take the sockets" in error.context


@pytest.mark.usefixtures("short")
async def test_a_successor_that_does_not_read(path: str) -> None:
    """The loop is not held up by it, however much there is to send."""
    sockets: dict[str, socket.socket] = {}
    with ExitStack() as stack:
        for number in range(300):
            sock = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            sockets[f"{'x' * 5000}{number}"] = sock
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
        waiting.bind(path)
        waiting.listen(1)
        with pytest.raises(Error, match="does not take the sockets"):
            await hand_over(path, sockets, retries=1, ready_timeout=1)


async def test_a_socket_that_is_closed_meanwhile_cannot_be_given(
    path: str, listener: socket.socket
) -> None:
    """The successor learns why nothing comes of it."""
    receiving = asyncio.create_task(asyncio.to_thread(Predecessor.receive, path, retries=5))
    listener.close()

    with pytest.raises(Error, match="sending sockets to successor"):
        await hand_over(path, {KEY: listener}, retries=5, ready_timeout=1)
    with pytest.raises(Error, match="sending sockets to successor"):
        await receiving


def test_accepting_may_fail(path: str) -> None:
    """With no descriptor left, for instance."""
    with (
        socket.socket(socket.AF_UNIX) as never_bound,
        pytest.raises(Error, match="accepting on the upgrade socket"),
    ):
        transfer._meet(never_bound, path, 1, None)


# ----------------------------------------------------------------------------- processes

SUCCESSOR = """
import sys, time
from pingora_core.server.upgrade.transfer import Predecessor
predecessor = Predecessor.receive(sys.argv[1], retries=10)
print(*predecessor.sockets, flush=True)
sys.stdin.readline()
predecessor.say_ready()
print("ready", flush=True)
sys.stdin.readline()
"""


class Process:
    """A successor in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        assert process.stdout is not None
        assert process.stdin is not None
        self.stdout = process.stdout
        self.stdin = process.stdin

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stdin.close()
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    @classmethod
    async def start(cls, path: str) -> Process:
        pipe = asyncio.subprocess.PIPE
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", SUCCESSOR, path, stdin=pipe, stdout=pipe
            )
        )


async def test_a_process_takes_over(path: str, listener: socket.socket) -> None:
    """Between real processes."""
    async with await Process.start(path) as new:
        old = asyncio.create_task(hand_over(path, {KEY: listener}, retries=10, ready_timeout=10))
        assert await new.stdout.readline() == f"{KEY}\n".encode()
        new.stdin.write(b"\n")
        await old
        assert await new.stdout.readline() == b"ready\n"


async def test_a_process_that_is_killed_has_not_taken_over(
    path: str, listener: socket.socket
) -> None:
    """kill -9 of the successor while it comes up: the predecessor learns it at once."""
    async with await Process.start(path) as new:
        old = asyncio.create_task(hand_over(path, {KEY: listener}, retries=10, ready_timeout=60))
        assert await new.stdout.readline()
        new.process.send_signal(signal.SIGKILL)
        with pytest.raises(Error, match="has ended before it was ready"):
            await old
