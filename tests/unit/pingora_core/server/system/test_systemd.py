"""What is said to a service manager, and what is taken from it."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pingora_core.server.system import systemd
from tests.support.in_child import HIGH, in_child
from tests.support.ports import needs_ipv6

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Manager:
    """The receiving end of the notification protocol."""

    def __init__(self, address: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.settimeout(30)
        self.sock.bind(address)

    def heard(self) -> list[str]:
        return self.sock.recv(4096).decode().split("\n")


@pytest.fixture(autouse=True)
def _silence(monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may run under a service manager themselves.
    for key in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(systemd._complaint, "is_made", False)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    path = str(tmp_path / "notify")
    manager = Manager(path)
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with manager.sock:
        yield manager


# ------------------------------------------------------------------------------------- telling


@pytest.mark.parametrize(
    ("say", "heard"),
    [
        (systemd.notify_ready, ["READY=1"]),
        (lambda: systemd.notify_ready("2 workers"), ["READY=1", "STATUS=2 workers"]),
        (
            lambda: systemd.notify_ready("new", main_pid=4711),
            ["MAINPID=4711", "READY=1", "STATUS=new"],
        ),
        (systemd.notify_stopping, ["STOPPING=1"]),
        (lambda: systemd.notify_stopping("drains"), ["STOPPING=1", "STATUS=drains"]),
        (lambda: systemd.notify_main_pid(4711), ["MAINPID=4711"]),
        (lambda: systemd.notify_status("two\nlines=1"), ["STATUS=two lines=1"]),
        (systemd.notify_watchdog, ["WATCHDOG=1"]),
        (lambda: systemd.notify("EXTEND_TIMEOUT_USEC=1000000"), ["EXTEND_TIMEOUT_USEC=1000000"]),
    ],
)
def test_what_is_said_is_heard(manager: Manager, say: Callable[[], bool], heard: list[str]) -> None:
    """Lines of sd_notify(3)."""
    assert say()
    assert manager.heard() == heard


def test_a_reload_tells_when_it_began(manager: Manager) -> None:
    """The manager ignores what was said before that moment."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

    assert systemd.notify_reloading("again")

    reloading, moment, status = manager.heard()
    assert (reloading, status) == ("RELOADING=1", "STATUS=again")
    key, _, microseconds = moment.partition("=")
    assert key == "MONOTONIC_USEC"
    assert before <= int(microseconds) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_an_abstract_socket_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers have the manager's socket there."""
    name = f"pingora-test-{os.getpid()}"
    manager = Manager(f"\0{name}")
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    with manager.sock:
        assert systemd.notify_ready()
        assert manager.heard() == ["READY=1"]


def test_without_a_manager_nothing_happens(caplog: pytest.LogCaptureFixture) -> None:
    """Started by hand a server is silent."""
    assert not systemd.notify_ready()
    assert caplog.records == []


@pytest.mark.parametrize("address", ["/nowhere/notify", "vsock:2:1234", "@" + "x" * 200])
def test_a_manager_that_cannot_be_reached_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, address: str
) -> None:
    """Nothing is raised, and a watchdog that is told every second does not fill the log."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)

    assert not systemd.notify_ready()
    assert not systemd.notify_watchdog()

    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert address in record.message


def test_a_manager_that_comes_back_is_told_and_may_go_again(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each loss is a warning of its own."""
    there = os.environ["NOTIFY_SOCKET"]
    for address in ("/nowhere/1", there, "/nowhere/2"):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        systemd.notify_watchdog()

    assert manager.heard() == ["WATCHDOG=1"]
    assert len(caplog.records) == 2


def test_a_manager_that_does_not_listen_is_not_waited_for_without_limit(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its queue is full: what does not fit is lost."""
    monkeypatch.setattr(systemd, "_SEND_TIMEOUT", 0.02)
    told = 0
    while systemd.notify_watchdog():
        told += 1
        assert told < 100_000

    assert manager.heard() == ["WATCHDOG=1"]
    assert systemd.notify_ready()


# ------------------------------------------------------------------------------------- watchdog


def test_the_watchdog_is_told_twice_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what the manager waits, in seconds."""
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert systemd.watchdog_interval() == 15.0

    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert systemd.watchdog_interval() == 15.0


def test_the_watchdog_of_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker has the variables of its supervisor."""
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getppid()))

    assert systemd.watchdog_interval() is None


def test_without_a_watchdog_there_is_nothing_to_tell() -> None:
    """Started by hand."""
    assert systemd.watchdog_interval() is None


@pytest.mark.parametrize("text", ["", "0", "-5", "soon", "9" * 30])
def test_a_watchdog_that_makes_no_sense_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """It is not guessed at."""
    monkeypatch.setenv("WATCHDOG_USEC", text)

    assert systemd.watchdog_interval() is None
    assert "WATCHDOG_USEC" in caplog.records[0].message


def test_a_successor_gets_what_holds_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may tell the manager, and its watchdog; nothing else of its parent's is said to it."""
    variables = {
        "NOTIFY_SOCKET": "/run/notify",
        "WATCHDOG_USEC": "1000000",
        "WATCHDOG_PID": "1",
        "LISTEN_PID": "1",
        "LISTEN_FDS": "1",
        "LISTEN_FDNAMES": "web",
    }
    for key, value in variables.items():
        monkeypatch.setenv(key, value)

    environment = systemd.environment_of_successor()

    assert {key: environment[key] for key in variables if key in environment} == {
        "NOTIFY_SOCKET": "/run/notify",
        "WATCHDOG_USEC": "1000000",
    }
    assert environment["PATH"] == os.environ["PATH"]


# ------------------------------------------------------------------------------------- sockets


def passed(*files: int, pid: int | None = None, names: str = "", count: str = "") -> list[str]:
    """What a process takes that was passed these descriptors; "-" for those that are closed."""

    def take() -> list[str]:
        for number, file in enumerate(files, systemd.FIRST_SOCKET):
            if file < 0:
                own = os.open(os.devnull, os.O_RDONLY)
                os.dup2(own, number, inheritable=False)
            else:
                os.dup2(file, number)
        os.environ["LISTEN_PID"] = str(os.getpid() if pid is None else pid)
        os.environ["LISTEN_FDS"] = count or str(len(files))
        os.environ["LISTEN_FDNAMES"] = names
        sockets = systemd.inherited_sockets()
        assert not any(sock.get_inheritable() for sock in sockets.values())
        assert systemd.inherited_sockets() == {}
        assert not [key for key in os.environ if key.startswith("LISTEN_")]
        closed = []
        for number in range(systemd.FIRST_SOCKET, systemd.FIRST_SOCKET + len(files)):
            try:
                os.fstat(number)
            except OSError:
                closed.append("-")
        return [*sockets, *closed]

    # Far above the numbers that are taken.
    moved = [
        fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, HIGH) if file >= 0 else file for file in files
    ]
    files = tuple(moved)
    try:
        return in_child(take)
    finally:
        for file in {*moved} - {-1}:
            os.close(file)


@needs_ipv6
def test_sockets_are_filed_by_what_they_are_bound_to(tmp_path: Path) -> None:
    """In the form in which a service writes its addresses."""
    path = str(tmp_path / "s")
    name = f"\0pingora-test-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as inet,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as inet6,
        socket.create_server(("0.0.0.0", 0)) as everywhere,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        unix.bind(path)
        abstract.bind(name)
        udp.bind(("127.0.0.1", 0))
        unix.listen()
        abstract.listen()
        files = [inet, inet6, everywhere, unix, abstract, udp]

        assert passed(*(sock.fileno() for sock in files), names="a:b") == [
            f"127.0.0.1:{inet.getsockname()[1]}",
            f"[::1]:{inet6.getsockname()[1]}",
            f"0.0.0.0:{everywhere.getsockname()[1]}",
            f"unix:{path}",
            f"unix:@pingora-test-{os.getpid()}",
            f"udp:127.0.0.1:{udp.getsockname()[1]}",
        ]


def test_what_a_server_cannot_use_is_closed() -> None:
    """Connections (Accept=yes), pipes, other kinds of sockets, the same address twice."""
    one, other = socket.socketpair()
    with (
        one,
        other,
        socket.create_server(("127.0.0.1", 0)) as good,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as packets,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as letters,
        Path(os.devnull).open() as file,
    ):
        unusable = [one.fileno(), packets.fileno(), letters.fileno(), file.fileno()]
        files = [good.fileno(), *unusable, good.fileno()]

        address = f"127.0.0.1:{good.getsockname()[1]}"
        assert passed(*files) == [address, *["-"] * 5]


def test_a_file_of_the_program_is_not_taken() -> None:
    """What did not come through an exec was not passed, whatever the variables say."""
    assert passed(-1) == []


def test_more_than_was_passed_is_not_there() -> None:
    """A count that is too high finds nothing."""
    with socket.create_server(("127.0.0.1", 0)) as good:
        [address] = passed(good.fileno(), count="1")
    assert address.startswith("127.0.0.1:")
    assert passed(count="0") == []


def test_sockets_for_another_process_are_left_alone() -> None:
    """``LISTEN_PID`` says whose they are."""
    with socket.create_server(("127.0.0.1", 0)) as good:
        assert passed(good.fileno(), pid=1) == []


@pytest.mark.parametrize("count", ["x", "-1", "12345", "\u0661"])
def test_a_count_that_makes_no_sense_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, count: str
) -> None:
    """Nothing is taken then."""
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", count)

    assert systemd.inherited_sockets() == {}
    assert "LISTEN_FDS" in caplog.records[0].message
    assert "LISTEN_FDS" not in os.environ


def test_without_activation_there_are_none() -> None:
    """Started by hand."""
    assert systemd.inherited_sockets() == {}
