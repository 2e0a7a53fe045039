"""The log: its level, files that are opened anew, and disks that are full."""

from __future__ import annotations

import io
import logging
import logging.handlers
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pingora_core.conf import ServerConf
from pingora_core.server import logs
from pingora_core.server._streams import settle_streams
from pingora_core.server.logs import configure_logging, on_reopen, reopen_logs

if TYPE_CHECKING:
    from collections.abc import Iterator

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """Yield a logger of the test's own, whose handlers are closed at the end."""
    own = logging.getLogger("tests.logs")
    own.setLevel("INFO")
    own.propagate = False
    yield own
    own.propagate = True
    for handler in list(own.handlers):
        own.removeHandler(handler)
        if isinstance(handler, logging.handlers.MemoryHandler) and handler.target is not None:
            handler.target.close()
        handler.close()


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    """Restore the root logger's level, and what the module remembers of it."""
    own = logging.getLogger()
    monkeypatch.setattr(own, "level", logging.WARNING)
    monkeypatch.setattr(logs._State, "level_of_program", None)
    return own


# ------------------------------------------------------------------------------------------- level


def test_the_level_follows_the_configuration(root: logging.Logger) -> None:
    """Up and down with each reload, and back to the program's own without one."""
    configure_logging(ServerConf(log_level="debug"))
    assert root.level == logging.DEBUG
    configure_logging(ServerConf(log_level="error"))
    assert root.level == logging.ERROR
    configure_logging(ServerConf())
    assert root.level == logging.WARNING


def test_without_a_level_nothing_is_changed(root: logging.Logger) -> None:
    """What the program sets later on stays."""
    configure_logging(ServerConf())
    root.setLevel(logging.INFO)
    configure_logging(ServerConf())

    assert root.level == logging.INFO


def test_a_program_that_has_set_nothing_up_is_heard() -> None:
    """A level is of no use without anything that writes."""
    done = run(
        """
        configure_logging(ServerConf(log_level="info"))
        logging.getLogger("a.b").info("heard")
        logging.getLogger("a.b").debug("not heard")
        """
    )

    assert done.returncode == 0
    assert done.stderr.endswith(" INFO a.b: heard\n")
    assert done.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------ opening anew


def rotate(path: Path) -> Path:
    """Do what logrotate does first."""
    return path.rename(path.with_suffix(".1"))


def test_files_are_opened_by_their_name(tmp_path: Path, logger: logging.Logger) -> None:
    """After a rotation the log goes on in a new file, also behind a handler with a buffer."""
    path, buffered = tmp_path / "a.log", tmp_path / "b.log"
    logger.addHandler(logging.FileHandler(path))
    memory = logging.handlers.MemoryHandler(1, target=logging.FileHandler(buffered))
    logger.addHandler(memory)
    logger.info("one")
    rotated = rotate(path), rotate(buffered)

    reopen_logs(ServerConf())
    logger.info("two")

    assert [file.read_text() for file in rotated] == ["one\n", "one\n"]
    assert [file.read_text() for file in (path, buffered)] == ["two\n", "two\n"]


def test_nothing_is_lost_without_a_rotation(tmp_path: Path, logger: logging.Logger) -> None:
    """A handler that has begun with an empty file does not empty it again."""
    path = tmp_path / "a.log"
    logger.addHandler(logging.FileHandler(path, "w"))
    logger.info("one")

    reopen_logs(ServerConf())
    logger.info("two")

    assert path.read_text() == "one\ntwo\n"


def test_a_file_that_is_not_open_stays_so(tmp_path: Path, logger: logging.Logger) -> None:
    """A handler that has not written yet opens its file when it does."""
    path = tmp_path / "a.log"
    logger.addHandler(logging.FileHandler(path, delay=True))

    reopen_logs(ServerConf())

    assert not path.exists()


def test_what_cannot_be_opened_is_told_once(
    tmp_path: Path, logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    """The old file stays in use, however many loggers have the handler."""
    folder = tmp_path / "logs"
    folder.mkdir()
    handler = logging.FileHandler(folder / "a.log")
    logger.addHandler(handler)
    child = logger.getChild("child")
    child.addHandler(handler)
    moved = folder.rename(tmp_path / "moved")

    reopen_logs(ServerConf())
    logger.info("still here")
    child.removeHandler(handler)

    assert (moved / "a.log").read_text() == "still here\n"
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert warning.getMessage() == (
        f"log file {folder}/a.log cannot be opened anew, the old one stays in use: "
        "No such file or directory"
    )


def test_programs_open_their_own_files(caplog: pytest.LogCaptureFixture) -> None:
    """Callbacks are called until they are taken back; one that raises stops nothing."""
    calls: list[str] = []

    def fail() -> None:
        calls.append("fail")
        raise ValueError

    forget = [on_reopen(fail), on_reopen(lambda: calls.append("good"))]
    reopen_logs(ServerConf())
    for each in (*forget, *forget):
        each()
    reopen_logs(ServerConf())

    assert calls == ["fail", "good"]
    assert "a callback for opening logs anew failed" in caplog.text


PRELUDE = """
import logging, os, pathlib, sys
from pingora_core.conf import ServerConf
from pingora_core.server.logs import *
from pingora_core.server._streams import settle_streams
"""


def run(program: str, *arguments: str, **streams: object) -> subprocess.CompletedProcess[str]:
    """Run lines of Python with what this module is about at hand."""
    lines = [line.strip() for line in program.strip().splitlines()]
    command = [sys.executable, "-c", PRELUDE + "\n".join(lines), *arguments]
    # Streams with a buffer, as a service manager starts programs.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    options = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "env": env, **streams}
    return subprocess.run(command, text=True, timeout=110, check=False, **options)  # type: ignore[call-overload, no-any-return]


def test_standard_error_is_opened_anew_in_the_background(tmp_path: Path) -> None:
    """Where the error log is; and stays what it is if that fails, or in the foreground."""
    path = tmp_path / "error.log"
    done = run(
        """
        path = pathlib.Path(sys.argv[1])
        conf = ServerConf(daemon=True, error_log=sys.argv[1])
        reopen_logs(ServerConf(error_log=sys.argv[1]))
        os.write(2, b"foreground;")
        reopen_logs(ServerConf(daemon=True, error_log=sys.argv[1] + "/no"))
        reopen_logs(conf)
        os.write(2, b"first")
        path.rename(sys.argv[1] + ".1")
        reopen_logs(conf)
        print("second", file=sys.stderr)
        """,
        str(path),
    )

    assert done.returncode == 0
    assert done.stderr.startswith("foreground;log file ")
    assert done.stderr.count("\n") == 1
    assert path.with_name("error.log.1").read_text() == "first"
    assert path.read_text() == "second\n"


# ---------------------------------------------------------------------------------- disks are full


@needs_full
def test_a_full_disk_costs_lines_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, logger: logging.Logger
) -> None:
    """A handler whose file takes nothing neither raises nor grows, opened anew or not."""
    monkeypatch.setattr("sys.stderr", io.StringIO())  # where logging itself complains
    handler = logging.FileHandler(FULL)
    logger.addHandler(handler)
    for _ in range(100):
        logger.info("%s", "x" * 1000)

    first = handler.stream
    reopen_logs(ServerConf())

    assert first is not None
    assert first.closed
    assert handler.stream is not first


@needs_full
def test_a_full_error_log_does_not_change_the_exit_code() -> None:
    """The interpreter would end with 120 because of what it could not write."""
    program = """
        print("standard output")
        sys.stderr.write("standard error")
        logging.getLogger().error("a line")
        reopen_logs(ServerConf(daemon=True, error_log="/dev/full"))
        os.write(1, b"alive") if len(sys.argv) > 1 else None
        settle_streams()
        sys.exit(3)
    """
    with FULL.open("w") as full:
        both = run(program, stdout=full.fileno(), stderr=full.fileno())
        alive = run(program, "x", stderr=full.fileno())

    assert both.returncode == 3
    assert alive.returncode == 3
    assert "alive" in alive.stdout
    assert "standard output" in alive.stdout


def test_streams_that_are_gone_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed ones and none at all are nothing to settle."""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", closed)

    settle_streams()

    assert closed.closed


def test_a_stream_without_a_file_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to put in its place, and nothing happens."""

    class Failing(io.StringIO):
        def flush(self) -> None:
            raise OSError

    monkeypatch.setattr("sys.stdout", Failing())

    settle_streams()
