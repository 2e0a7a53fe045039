"""Going to the background: what the terminal is told, what the daemon is, what it leaves."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import Daemon, wait_for
from tests.support.nginx import require_program

if TYPE_CHECKING:
    from collections.abc import Sequence

WAITING = "daemon_wait_for_ready: true\n"
NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


class Maker:
    """Makes daemons whose pid file and error log are in one directory."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(
        self,
        conf: str,
        *arguments: str,
        launcher: Sequence[str] = (),
        passed: Sequence[int] = (),
    ) -> Daemon:
        file = self.home / "conf.yaml"
        file.write_text(f"pid_file: daemon.pid\nerror_log: daemon.log\n{conf}", encoding="utf-8")
        file.chmod(0o644)  # whatever the umask: some who read it are not us
        return Daemon(self.home, "-c", str(file), *arguments, launcher=launcher, passed=passed)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where a daemon is started: everybody may write there, as some become others."""
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    return tmp_path


@pytest.fixture
def daemon(home: Path) -> Maker:
    """A daemon with the configuration that is given, its files in ``home``."""
    return Maker(home)


# --------------------------------------------------------------------------------- readiness


def test_the_start_waits_until_the_daemon_is_ready(daemon: Maker) -> None:
    """Exit code 0 and a silent terminal; the daemon is there and has said so in its log."""
    with daemon(WAITING) as started:
        assert (started.exit_code, started.said) == (0, [])
        log = started.directory / "daemon.log"
        assert log.read_text(encoding="utf-8") == "daemon_program.py: in the background\n"
        assert (started.directory / "daemon.pid").read_text() == f"{started.facts.pid}\n"


def test_without_waiting_the_start_ends_at_once(daemon: Maker) -> None:
    """Exit code 0 though the daemon never says that it is ready."""
    with daemon("", "--act", "hang") as started:
        assert (started.exit_code, started.said) == (0, [])
        assert started.facts.pid


def test_a_daemon_that_fails_tells_the_terminal_why(daemon: Maker) -> None:
    """One line and the exit code that the daemon chose."""
    with daemon(WAITING, "--act", "fail") as started:
        assert started.exit_code == 3
        assert started.said == ["daemon_program.py: error: the ground is wet"]


def test_a_daemon_that_dies_fails_the_start(daemon: Maker) -> None:
    """Death without a word is told as such, with the place where more may be found."""
    with daemon(WAITING, "--act", "die") as started:
        assert started.exit_code == 1
        log = started.directory / "daemon.log"
        said = f"error: the background process ended before it was ready; see {log}"
        assert started.said == [f"daemon_program.py: {said}"]


def test_a_daemon_that_is_not_ready_in_time_is_left_running(
    daemon: Maker,
) -> None:
    """Exit code 1, the limit and the process are named, and the process is there."""
    conf = f"{WAITING}daemon_ready_timeout_seconds: 1.5\n"
    with daemon(conf, "--act", "hang") as started:
        pid = started.facts.pid
        assert started.exit_code == 1
        said = f"error: process {pid} is not ready after 1.5 s, it is left running"
        assert started.said == [f"daemon_program.py: {said}; see {started.directory}/daemon.log"]
        os.kill(pid, 0)


def test_a_daemon_that_waits_for_a_predecessor_lets_the_start_go_on(
    daemon: Maker,
) -> None:
    """Whoever starts a successor is released to signal the old server."""
    with daemon(WAITING, "--act", "next") as started:
        assert started.exit_code == 0
        assert started.said == ["daemon_program.py: waits for the old server"]


def test_the_waiting_process_can_be_interrupted(daemon: Maker) -> None:
    """SIGTERM ends the process that waits, not the daemon."""
    started = daemon(WAITING, "--act", "hang")
    with started.start() as process:
        pid = started.facts.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM
        os.kill(pid, 0)
        started.__exit__()


# ---------------------------------------------------------------------------- what it becomes


def test_the_daemon_is_on_its_own(daemon: Maker) -> None:
    """It leads no session, shares none with the terminal, and reads and writes nowhere."""
    with daemon(WAITING) as started:
        facts = started.facts

        assert facts.session not in {facts.pid, os.getsid(0)}
        assert facts.parent != os.getpid()
        assert facts.umask == 0o007
        assert facts.cwd == str(started.directory)
        log = str(started.directory / "daemon.log")
        streams = {"0": "/dev/null", "1": "/dev/null", "2": log}
        assert {fd: facts.descriptors[fd] for fd in streams} == streams


def test_umask_and_working_directory_are_those_of_the_configuration(
    daemon: Maker, home: Path
) -> None:
    """Relative paths of the configuration belong to where the program was started all the same."""
    (home / "inside").mkdir()
    conf = f"{WAITING}umask: 0o027\nworking_directory: inside\n"
    with daemon(conf) as started:
        assert (started.facts.umask, started.facts.cwd) == (0o027, str(home / "inside"))
        assert (home / "daemon.pid").exists()
        assert (home / "daemon.log").exists()


def test_the_error_log_is_appended_to(daemon: Maker, home: Path) -> None:
    """What was there stays; a new one can be read by owner and group only."""
    with daemon(WAITING) as first:
        first.kill(signal.SIGTERM)
        first.wait()
    with daemon(WAITING):
        lines = (home / "daemon.log").read_text(encoding="utf-8").splitlines()
    assert lines == ["daemon_program.py: in the background"] * 2
    assert stat.S_IMODE((home / "daemon.log").stat().st_mode) == 0o640


def test_without_an_error_log_the_terminal_keeps_the_errors(home: Path) -> None:
    """Standard error stays where it is; a reason is told once."""
    conf = home / "conf.yaml"
    conf.write_text(f"pid_file: {home}/daemon.pid\n{WAITING}", encoding="utf-8")
    with Daemon(home, "-c", str(conf), "--act", "fail") as started:
        assert started.exit_code == 3
        assert started.said == ["daemon_program.py: in the background"]


def test_no_descriptor_comes_along_by_accident(daemon: Maker) -> None:
    """What the starter left open is closed in the daemon; the starter sees the end of its pipe."""
    reader, writer = os.pipe()
    try:
        with daemon(WAITING, passed=[writer]) as started:
            os.close(writer)
            writer = -1
            above = {fd: what for fd, what in started.facts.descriptors.items() if int(fd) > 2}
            # The pipe to the process that waits, and the listing itself.
            assert len([what for what in above.values() if what.startswith("pipe:")]) == 1, above
            assert len(above) <= 2, above
            assert os.read(reader, 1) == b""
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)


def test_standard_streams_that_are_closed_do_no_harm(daemon: Maker, home: Path) -> None:
    """Started by something that closes 0, 1 and 2, a daemon has them nevertheless."""
    closing = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    with daemon(WAITING, launcher=closing) as started:
        assert started.exit_code == 0
        assert started.facts.descriptors["0"] == "/dev/null"
        assert started.facts.descriptors["2"] == str(home / "daemon.log")


def test_threads_that_are_lost_are_told(daemon: Maker) -> None:
    """A thread that a program has started before is not there in the daemon."""
    with daemon(WAITING, "--act", "thread") as started:
        said = "threads started too early, not there in the background: ['early bird']"
        assert said in started.said


def test_a_service_manager_is_told_the_daemon_s_id(daemon: Maker) -> None:
    """The watchdog's variable, which names the process that was started, names the daemon."""
    naming = ["/bin/sh", "-c", 'export WATCHDOG_PID=$$; exec "$@"', "sh"]
    with daemon(WAITING, launcher=naming) as started:
        assert started.facts.watchdog_pid == str(started.facts.pid)


def test_sockets_of_a_service_manager_come_along(daemon: Maker, home: Path) -> None:
    """Socket activation and the background together: the sockets reach the daemon."""
    path = home / "s"
    activate = [
        require_program("systemd-socket-activate"),
        "-E",
        "LD_LIBRARY_PATH",
        "-l",
        str(path),
    ]
    started = daemon(WAITING, launcher=activate)

    def connects() -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(path)) == 0

    with started.start() as process:
        wait_for(connects, "the socket of the manager")
        assert process.wait(30) == 0, started.said
        assert started.facts.sockets == [f"unix:{path}"]
        started.__exit__()


# ------------------------------------------------------------------------ losing the parent only


def test_a_successor_loses_the_parent_and_nothing_else(daemon: Maker) -> None:
    """Session, streams and umask stay; the manager's variables name the new process."""
    naming = ["/bin/sh", "-c", 'export WATCHDOG_PID=$$; exec "$@"', "sh"]
    with daemon("umask: 0o027", "--leave", "--act", "next", launcher=naming) as started:
        facts = started.facts
        assert started.exit_code == 0
        said = ["in the background", "waits for the old server"]
        assert started.said == ["to nowhere", *(f"daemon_program.py: {line}" for line in said)]
        assert facts.session == os.getsid(0)
        assert facts.umask != 0o027
        assert facts.watchdog_pid == str(facts.pid)
        assert facts.parent != os.getpid()


@pytest.mark.parametrize(("act", "code"), [("fail", 3), ("die", 1)])
def test_a_successor_that_fails_fails_the_start(daemon: Maker, act: str, code: int) -> None:
    """Whoever has started it learns of it by the exit code."""
    with daemon("", "--leave", "--act", act) as started:
        assert started.exit_code == code


# ------------------------------------------------------------------------------ what is wrong


@pytest.mark.parametrize("waiting", ["", WAITING], ids=["not waiting", "waiting"])
@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ("error_log: /nowhere/at/all.log", "error_log: got '/nowhere/at/all.log', allowed: a file"),
        ("working_directory: /nowhere", "working_directory: got '/nowhere', allowed: a directory"),
        ("user: no-such-user", "user: got 'no-such-user', allowed: a user that this system has"),
    ],
    ids=["error log", "working directory", "user"],
)
def test_a_mistake_is_told_on_the_terminal(home: Path, conf: str, said: str, waiting: str) -> None:
    """One line and exit code 2, and nothing has gone to the background."""
    file = home / "conf.yaml"
    file.write_text(f"{conf}\n{waiting}", encoding="utf-8")

    with Daemon(home, "-c", str(file)) as started:
        assert started.exit_code == 2
        assert len(started.said) == 1
        assert started.said[0].startswith(f"daemon_program.py: error: {file}: {said}")


@needs_root
def test_who_is_not_root_cannot_become_another_user(home: Path) -> None:
    """An ordinary user is told on the terminal, before anything has happened."""
    file = home / "conf.yaml"
    file.write_text("user: root\n", encoding="utf-8")
    file.chmod(0o644)

    with Daemon(home, "-c", str(file), "--as", str(NOBODY)) as started:
        assert started.exit_code == 2
        assert f"{file}: user: got 'root', allowed: " in started.said[0]
        assert "only root may do that" in started.said[0]


@needs_root
def test_root_becomes_the_user_and_leaves_files_to_it(daemon: Maker, home: Path) -> None:
    """The daemon is somebody else for good; its log and pid file are that user's; no pid file is left."""
    name = pwd.getpwuid(NOBODY).pw_name
    with daemon(f"{WAITING}user: {name}\n") as started:
        assert started.exit_code == 0, started.said
        facts = started.facts
        assert list(facts.user) == [NOBODY] * 3
        assert list(facts.group) == [pwd.getpwuid(NOBODY).pw_gid] * 3
        assert facts.groups == [pwd.getpwuid(NOBODY).pw_gid]
        assert (home / "daemon.log").stat().st_uid == NOBODY
        assert (home / "daemon.pid").stat().st_uid == NOBODY

        started.kill(signal.SIGTERM)
        started.wait()
    assert not (home / "daemon.pid").exists()


@needs_root
def test_an_ordinary_user_can_run_a_daemon(daemon: Maker, home: Path) -> None:
    """Nothing about the background needs root."""
    with daemon(WAITING, "--as", str(NOBODY)) as started:
        assert (started.exit_code, started.said) == (0, [])
        assert list(started.facts.user) == [NOBODY] * 3


# ----------------------------------------------------------------------------------- pid file


def test_the_pid_file_goes_with_the_daemon(daemon: Maker, home: Path) -> None:
    """It is there while the daemon is, and readable by everybody."""
    with daemon(WAITING) as started:
        assert stat.S_IMODE((home / "daemon.pid").stat().st_mode) == 0o644
        started.kill(signal.SIGTERM)
        started.wait()
    assert not (home / "daemon.pid").exists()


def test_a_successor_has_the_pid_file_and_the_predecessor_the_old_one(
    daemon: Maker, home: Path
) -> None:
    """During an upgrade both can be found; who ends takes only its own file away."""
    with daemon(WAITING) as old, daemon(WAITING) as new:
        assert (home / "daemon.pid").read_text() == f"{new.facts.pid}\n"
        assert (home / "daemon.pid.old").read_text() == f"{old.facts.pid}\n"
        warning = f"names process {old.facts.pid}, which is alive"
        assert warning in (home / "daemon.log").read_text(encoding="utf-8")

        old.kill(signal.SIGTERM)
        old.wait()
        assert (home / "daemon.pid").read_text() == f"{new.facts.pid}\n"
        assert not (home / "daemon.pid.old").exists()


def test_after_a_crash_the_next_start_works(daemon: Maker, home: Path) -> None:
    """A pid file of a process that is gone is in nobody's way."""
    with daemon(WAITING) as crashed:
        crashed.kill(signal.SIGKILL)
        crashed.wait()
        with daemon(WAITING) as started:
            assert started.exit_code == 0
            assert (home / "daemon.pid").read_text() == f"{started.facts.pid}\n"
            assert "which is alive" not in (home / "daemon.log").read_text(encoding="utf-8")
