"""The parts of going to the background that need no process of their own; see the e2e tests."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from pingora_core.conf import CONFIG_ERROR, ServerConf
from pingora_core.server.system.daemon import (
    NO_PIPE,
    ReadyPipe,
    daemonize,
    open_error_log,
    resolve_paths,
)
from pingora_core.server.system.privileges import Identity
from pingora_error import Error, ErrorType
from tests.support.in_child import NOBODY
from tests.support.leaks import open_files

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


# --------------------------------------------------------------------------------------- paths


def test_relative_paths_belong_to_the_directory_of_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the server goes afterwards."""
    monkeypatch.chdir(tmp_path)
    conf = ServerConf(
        pid_file="a.pid",
        upgrade_sock="run/a.sock",
        error_log="log/a.log",
        ca_file="../ca.pem",
        working_directory="w",
    )

    resolved = resolve_paths(conf)

    assert resolved.pid_file == f"{tmp_path}/a.pid"
    assert resolved.upgrade_sock == f"{tmp_path}/run/a.sock"
    assert resolved.error_log == f"{tmp_path}/log/a.log"
    assert resolved.ca_file == f"{tmp_path}/../ca.pem"
    assert resolved.working_directory == f"{tmp_path}/w"
    assert resolve_paths(resolved) == resolved


def test_what_is_not_set_stays_so() -> None:
    """Only paths that are there are resolved; the defaults are absolute."""
    assert resolve_paths(ServerConf()) == ServerConf()


# ----------------------------------------------------------------------------------- error log


def test_the_error_log_is_made_for_owner_and_group(tmp_path: Path) -> None:
    """0640 whatever the umask; closed in other programs."""
    umask = os.umask(0)
    try:
        fd = open_error_log(str(tmp_path / "log"))
    finally:
        os.umask(umask)
    try:
        assert not os.get_inheritable(fd)
        os.write(fd, b"line\n")
    finally:
        os.close(fd)
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o640


def test_an_error_log_that_is_there_is_appended_to(tmp_path: Path) -> None:
    """Its mode and owner are the operator's."""
    path = tmp_path / "log"
    path.write_text("before\n")
    path.chmod(0o600)
    fd = open_error_log(str(path), Identity("nobody", "nogroup", NOBODY, NOBODY, (NOBODY,)))
    os.write(fd, b"after\n")
    os.close(fd)

    assert path.read_text() == "before\nafter\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_uid == os.geteuid()


def test_a_pipe_without_a_reader_is_not_waited_for(tmp_path: Path) -> None:
    """It is refused instead."""
    os.mkfifo(tmp_path / "log")
    with pytest.raises(OSError, match="No such device"):
        open_error_log(str(tmp_path / "log"))


@needs_root
def test_a_new_error_log_belongs_to_the_user(tmp_path: Path) -> None:
    """Who has to open it again after a rotation."""
    path = tmp_path / "log"
    os.close(open_error_log(str(path), Identity("n", "n", NOBODY, NOBODY, (NOBODY,))))

    assert path.stat().st_uid == NOBODY


def test_an_error_log_that_cannot_be_given_away_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptor is lost when that fails."""
    before = open_files()

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(PermissionError):
        open_error_log(str(tmp_path / "log"), Identity("n", "n", 54321, 54321, (54321,)))
    assert open_files().keys() == before.keys()


# ---------------------------------------------------------------------------------- ready pipe


def told(*steps: str) -> list[str]:
    reader, writer = os.pipe()
    pipe = ReadyPipe(writer)
    for step in steps:
        match step:
            case "ready":
                pipe.say_ready()
            case "failed":
                pipe.say_failed("first\nsecond", 2)
            case "next":
                pipe.say_next_step("waits")
            case "long":
                pipe.say_failed("x" * 10_000)
            case _:
                pipe.close()
    pipe.close()
    with os.fdopen(reader) as lines:
        return lines.read().splitlines()


def test_the_first_answer_counts() -> None:
    """Afterwards nobody listens."""
    assert told("ready", "failed") == ["ready"]
    assert told("failed", "ready") == ["failed 2 first second"]
    assert told("next", "failed") == ["ready waits"]
    assert told("close", "ready") == []


def test_an_answer_is_short_enough_to_arrive_whole() -> None:
    """A pipe keeps lines below PIPE_BUF together."""
    [line] = told("long")
    assert len(line) < 4096


def test_nobody_has_to_wait() -> None:
    """In the foreground, or after the one who waits has gone, an answer goes nowhere."""
    NO_PIPE.say_ready()
    NO_PIPE.say_failed("whatever")
    NO_PIPE.close()
    reader, writer = os.pipe()
    os.close(reader)
    ReadyPipe(writer).say_ready()


# --------------------------------------------------------------------- what fails before a fork


async def test_an_event_loop_cannot_go_to_the_background() -> None:
    """A program that runs one has to decide before."""
    with pytest.raises(RuntimeError, match="before it runs an event loop"):
        daemonize(ServerConf())


def test_a_system_without_processes_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told with its reason, and everything that was opened is closed."""

    def fail() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fail)
    before = open_files()

    with pytest.raises(Error, match="Resource temporarily unavailable") as raised:
        daemonize(ServerConf(error_log=str(tmp_path / "log")))

    assert raised.value.etype is ErrorType.INTERNAL_ERROR
    assert open_files().keys() == before.keys()


@pytest.mark.parametrize("key", ["error_log", "working_directory"])
def test_a_mistake_leaves_everything_as_it_was(tmp_path: Path, key: str) -> None:
    """The working directory, and what is open."""
    before, where = open_files(), Path.cwd()
    wrong = str(tmp_path / "no" / "such")
    conf = ServerConf(source="server.yaml")
    if key == "error_log":
        conf = ServerConf(source="server.yaml", error_log=wrong, working_directory=str(tmp_path))
    else:
        conf = ServerConf(source="server.yaml", working_directory=wrong)

    with pytest.raises(Error) as raised:
        daemonize(conf)

    assert raised.value.etype == CONFIG_ERROR
    assert raised.value.context.startswith(f"server.yaml: {key}: got {wrong!r}, allowed: ")
    assert raised.value.context.endswith("(No such file or directory)")
    assert open_files().keys() == before.keys()
    assert Path.cwd() == where
