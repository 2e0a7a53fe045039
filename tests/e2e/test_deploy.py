"""The server as it is deployed: under a service manager, in a container, in the background."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.nginx import require_program
from tests.support.ports import free_port
from tests.support.process import ROOT, ServerProcess
from tests.support.service_manager import ServiceManager
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(300)

DEPLOY = ROOT / "examples" / "deploy"
EDGE = str(DEPLOY / "edge.py")
LIMIT = 60.0


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceManager]:
    with ServiceManager(tmp_path / "notify") as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
        yield manager


class Settings:
    """The configuration file of one server, with a port of its own for the probes."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "edge.yaml"
        self.directory = directory
        self.probes = free_port()
        self.unix = directory / "edge.sock"
        self.common = ""

    def write(self, text: str = "", *, listen: str = "") -> Settings:
        self.path.write_text(
            f"upgrade_sock: {self.directory}/upgrade.sock\n"
            "upgrade_sock_connect_accept_max_retries: 60\n"
            f"pid_file: {self.directory}/edge.pid\n"
            f"{self.common}\n{text}\n"
            "edge:\n"
            '  upstreams: ["127.0.0.1:1"]\n'
            f"  listen: [{listen}]\n"
            f"  unix: {self.unix}\n"
            f"  probes: 127.0.0.1:{self.probes}\n",
            encoding="utf-8",
        )
        return self

    @property
    def arguments(self) -> tuple[str, ...]:
        return (EDGE, "-c", str(self.path))

    def probe(self, path: str) -> int:
        """The status of a probe; 0 if nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.probes}{path}", timeout=5) as page:
                return int(page.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0

    def accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.unix)) == 0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path).write()


def parent_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.partition("PPid:")[2].split()[0])


def only_child_of(pid: int) -> int:
    [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return int(child)


async def ends(pid: int) -> None:
    """Wait for the end of a process that may be nobody's child here."""

    def is_gone() -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        except OSError:
            return True
        return state.rpartition(")")[2].split()[0] in {"Z", "X"}

    await eventually(is_gone, f"the end of process {pid}", timeout=LIMIT)


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


# ------------------------------------------------------------------------- the service manager


@pytest.mark.parametrize("workers", [1, 2], ids=["1 worker", "2 workers"])
async def test_a_service_manager_is_told_everything(
    manager: ServiceManager, settings: Settings, workers: int
) -> None:
    """That it is ready, that it reloads and has, that it stops."""
    settings.write(f"workers: {workers}")
    async with ServerProcess(*settings.arguments) as server:
        await manager.hears("READY")
        assert settings.probe("/readyz") == 200
        assert settings.probe("/livez") == 200

        server.send(signal.SIGHUP)
        assert int(await manager.hears("MONOTONIC_USEC")) > 0
        assert "RELOADING=1" in manager.heard
        await manager.hears("READY")

        server.send(signal.SIGTERM)
        await manager.hears("STOPPING")
        assert await server.wait() == 0


async def test_a_watchdog_is_fed(
    manager: ServiceManager, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again and again."""
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    async with ServerProcess(*settings.arguments):
        for _ in range(3):
            await manager.hears("WATCHDOG")


@pytest.mark.parametrize("workers", [1, 2], ids=["1 worker", "2 workers"])
async def test_a_successor_becomes_the_main_process(
    manager: ServiceManager, settings: Settings, workers: int
) -> None:
    """It is announced, and nobody's child by then: systemd would not wait for its end."""
    settings.write(f"workers: {workers}")
    async with ServerProcess(*settings.arguments) as server:
        await manager.hears("READY")
        server.send(signal.SIGUSR2)
        pid = int(await manager.hears("MAINPID"))
        try:
            assert parent_of(pid) != server.process.pid
            await manager.hears("READY")
            # The successor goes on with the log, which is what waiting waits for.
            await ends(server.process.pid)
            assert settings.probe("/readyz") == 200
            assert "STOPPING=1" not in manager.heard
        finally:
            os.kill(pid, signal.SIGTERM)
            await ends(pid)
        assert await server.wait() == 0


async def test_sockets_of_the_manager_survive_upgrade_and_stop(
    manager: ServiceManager, settings: Settings
) -> None:
    """They are the manager's: the file stays, so that the next start finds it."""
    program = require_program("systemd-socket-activate")
    settings.write("workers: 2")
    command = [program, "-E", "LD_LIBRARY_PATH", "-E", "NOTIFY_SOCKET", "-l", str(settings.unix)]
    server = await asyncio.create_subprocess_exec(
        *command, sys.executable, *settings.arguments, stderr=asyncio.subprocess.DEVNULL
    )
    pid = server.pid
    try:
        await eventually(settings.accepts, "the socket of the manager", timeout=LIMIT)
        await manager.hears("READY")

        os.kill(pid, signal.SIGUSR2)
        pid = int(await manager.hears("MAINPID"))
        assert await asyncio.wait_for(server.wait(), LIMIT) == 0
        assert settings.accepts()

        os.kill(pid, signal.SIGTERM)
        await ends(pid)
        assert settings.unix.is_socket()
    finally:
        kill(pid)
        if server.returncode is None:
            server.kill()
            await server.wait()


def unit(directory: Path, name: str) -> Path:
    """A unit file with the paths of this machine."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    copy = directory / name
    copy.write_text(text.replace("/opt/edge/venv/bin/python", sys.executable), encoding="utf-8")
    return copy


def test_the_unit_files_are_valid(tmp_path: Path) -> None:
    """Nothing is unknown, misspelt or contradictory."""
    program = require_program("systemd-analyze")
    units = [str(unit(tmp_path, name)) for name in ("edge.service", "edge.socket")]

    done = subprocess.run([program, "verify", *units], capture_output=True, text=True, check=False)

    complaints = [line for line in done.stderr.splitlines() if "edge." in line]
    assert (done.returncode, complaints) == (0, [])


@pytest.mark.parametrize("name", ["edge.yaml", "edge-container.yaml"])
def test_the_configurations_are_valid(name: str) -> None:
    """As ``-t`` sees them; what may be taken here by others is no mistake of theirs."""
    command = [sys.executable, EDGE, "-t", "-u", "-c", str(DEPLOY / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert f"configuration is valid: {DEPLOY / name}" in done.stderr


# --------------------------------------------------------------------------------- containers


def test_a_container_has_what_its_file_names() -> None:
    """Each file that is copied is there; it runs as a number, and without a shell."""
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    for copied in re.findall(r"^COPY (examples/\S+)", text, re.MULTILINE):
        assert (ROOT / copied).is_file()
    assert re.search(r"^USER \d+:\d+$", text, re.MULTILINE)
    assert re.search(r"^ENTRYPOINT \[", text, re.MULTILINE)


@pytest.fixture
def first_process() -> list[str]:
    """What makes a program the first process of its own world, as a container does."""
    command = [require_program("unshare"), "--fork", "--pid", "--mount-proc", "--kill-child"]
    if os.geteuid() != 0:
        command += ["--user", "--map-root-user"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody make a process namespace")
    return command


@pytest.mark.parametrize("workers", [1, 2], ids=["1 worker", "2 workers"])
async def test_as_the_first_process_it_stops_when_told(
    settings: Settings, first_process: list[str], workers: int
) -> None:
    """SIGTERM has no default action there: the server hears it, says not ready, and exits 0."""
    settings.write(f"workers: {workers}\nlame_duck_seconds: 1.5")
    command = [*first_process, sys.executable, *settings.arguments]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        await eventually(lambda: settings.probe("/readyz") == 200, "readiness", timeout=LIMIT)
        os.kill(only_child_of(process.pid), signal.SIGTERM)

        await eventually(lambda: settings.probe("/readyz") == 503, "the lame duck", timeout=LIMIT)
        assert settings.accepts()
        assert await asyncio.wait_for(process.wait(), LIMIT) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


# ----------------------------------------------------------------------------- the background


@pytest.fixture
def in_background(settings: Settings) -> Iterator[Settings]:
    """A configuration for ``-d``; whoever is named by its pid files in the end is killed."""
    log = settings.directory / "edge.log"
    settings.common = f"daemon_wait_for_ready: true\nerror_log: {log}"
    yield settings.write()
    for name in ("edge.pid", "edge.pid.old"):
        with suppress(OSError, ValueError):
            kill(int((settings.directory / name).read_text(encoding="utf-8")))


async def start(settings: Settings, *arguments: str) -> tuple[int, str]:
    """Start in the background; return the exit code and what the terminal says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *settings.arguments, "-d", *arguments, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(LIMIT):
        _, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


def pid_of(settings: Settings) -> int:
    return int((settings.directory / "edge.pid").read_text(encoding="utf-8"))


async def test_a_daemon_serves_when_its_start_has_ended(in_background: Settings) -> None:
    """Exit code 0 means ready; it is stopped by the process id in its file, which goes with it."""
    code, _ = await start(in_background)
    assert code == 0
    assert in_background.probe("/readyz") == 200

    pid = pid_of(in_background)
    os.kill(pid, signal.SIGTERM)
    await ends(pid)

    assert not (in_background.directory / "edge.pid").exists()
    log = (in_background.directory / "edge.log").read_text(encoding="utf-8")
    assert log.splitlines()[-1] == "INFO phase Terminated"


async def test_a_daemon_that_cannot_serve_tells_the_terminal(in_background: Settings) -> None:
    """An address that is not this machine's: one line more on the terminal, exit code 1."""
    in_background.write(listen='"192.0.2.1:1"')
    code, said = await start(in_background)

    assert code == 1
    [line] = [line for line in said.splitlines() if line.startswith("edge.py: error: ")]
    assert "192.0.2.1:1" in line
    assert "Cannot assign requested address" in line
    pid_file = in_background.directory / "edge.pid"
    await eventually(lambda: not pid_file.exists(), "the end of the daemon", timeout=LIMIT)


async def test_a_second_start_by_mistake_changes_nothing(in_background: Settings) -> None:
    """It fails, and the pid file names the server that serves."""
    code, _ = await start(in_background)
    assert code == 0
    pid = pid_of(in_background)

    # An address in use would be tried again for a while.
    in_background.write(listen='"192.0.2.1:1"')
    code, _ = await start(in_background)

    assert code == 1
    pid_file = in_background.directory / "edge.pid"
    old = in_background.directory / "edge.pid.old"
    await eventually(lambda: not old.exists() and pid_file.exists(), "its file", timeout=LIMIT)
    assert pid_of(in_background) == pid
    assert in_background.probe("/readyz") == 200


async def test_a_log_that_was_renamed_is_let_go(in_background: Settings) -> None:
    """SIGUSR1: the next line is in a new file."""
    code, _ = await start(in_background)
    assert code == 0
    log = in_background.directory / "edge.log"
    log.rename(log.with_suffix(".1"))

    os.kill(pid_of(in_background), signal.SIGUSR1)

    await eventually(
        lambda: log.exists() and "log files were opened anew" in log.read_text(encoding="utf-8"),
        "a new log",
        timeout=LIMIT,
    )


async def test_a_daemon_is_replaced_by_hand(in_background: Settings) -> None:
    """-u -d returns when the old server may be told; SIGQUIT to the old one does the rest."""
    code, _ = await start(in_background)
    assert code == 0
    old = pid_of(in_background)

    code, said = await start(in_background, "-u")
    assert code == 0
    assert said.splitlines()[-1] == "edge.py: waiting for the running server"
    new = pid_of(in_background)
    assert (in_background.directory / "edge.pid.old").read_text() == f"{old}\n"
    os.kill(old, signal.SIGQUIT)
    await ends(old)

    assert in_background.probe("/readyz") == 200
    assert new == pid_of(in_background)
    assert not (in_background.directory / "edge.pid.old").exists()
    os.kill(new, signal.SIGTERM)
    await ends(new)


async def test_a_daemon_starts_its_successor(in_background: Settings) -> None:
    """SIGUSR2: the successor goes to the background as the first one did."""
    code, _ = await start(in_background)
    assert code == 0
    old = pid_of(in_background)

    os.kill(old, signal.SIGUSR2)
    await ends(old)

    new = pid_of(in_background)
    assert new != old
    assert in_background.probe("/readyz") == 200
    os.kill(new, signal.SIGTERM)
    await ends(new)


async def test_after_a_crash_a_daemon_starts_again(in_background: Settings) -> None:
    """The pid file and the Unix socket that are left over are in nobody's way."""
    for _ in range(2):
        code, _ = await start(in_background)
        assert code == 0
        assert in_background.accepts()
        pid = pid_of(in_background)
        os.kill(pid, signal.SIGKILL)
        await ends(pid)
