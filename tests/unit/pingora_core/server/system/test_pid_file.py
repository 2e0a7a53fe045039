"""The pid file: whole or not there, never through a link, and gone with its process."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pingora_core.server.system.pid_file import PidFile
from pingora_core.server.system.privileges import Identity
from pingora_error import Error, ErrorType
from tests.support.in_child import NOBODY, in_child

OURS = f"{os.getpid()}\n"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server.pid"


def test_it_holds_the_process_id(path: Path) -> None:
    """One line, readable by everybody whatever the umask, and nothing else in the directory."""
    umask = os.umask(0o077)
    try:
        PidFile(str(path)).write()
    finally:
        os.umask(umask)

    assert path.read_text() == OURS
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_it_is_removed(path: Path) -> None:
    """Once; a second time does nothing."""
    file = PidFile(str(path))
    file.write()

    file.remove()
    assert list(path.parent.iterdir()) == []

    path.write_text(OURS)
    file.remove()
    assert path.exists()


def test_what_was_never_written_is_not_removed(path: Path) -> None:
    """A server that has failed before leaves the file of another alone."""
    path.write_text(OURS)

    PidFile(str(path)).remove()

    assert path.exists()


def test_the_file_of_a_successor_stays(path: Path) -> None:
    """What is there when the process ends is somebody else's by then; ours, moved aside, goes."""
    file = PidFile(str(path))
    file.write()
    path.rename(file.old_path)
    path.write_text("1\n")

    file.remove()

    assert path.read_text() == "1\n"
    assert not Path(file.old_path).exists()


def test_a_file_with_our_number_that_is_not_ours_stays(path: Path) -> None:
    """The content alone proves nothing."""
    file = PidFile(str(path))
    file.write()
    path.rename(path.with_suffix(".kept"))
    path.write_text(OURS)

    file.remove()

    assert path.read_text() == OURS


def test_a_forked_process_does_not_remove_it(path: Path) -> None:
    """A worker has the object, and the file is its supervisor's."""
    file = PidFile(str(path))
    file.write()

    in_child(file.remove)

    assert path.read_text() == OURS


def test_a_predecessor_that_goes_on_gets_its_file_back(path: Path) -> None:
    """A server that was started by mistake and fails does not take the other one's file along."""
    path.write_text(f"{os.getppid()}\n")
    file = PidFile(str(path))
    file.write()

    file.remove()

    assert path.read_text() == f"{os.getppid()}\n"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("change", ["ended", "emptied", "replaced", "stale"])
def test_a_predecessor_that_is_gone_gets_nothing_back(path: Path, change: str) -> None:
    """Nor is a file that somebody else has put there touched."""
    path.write_text(f"{os.getppid()}\n")
    if change == "stale":
        os.utime(path, (1_000_000, 1_000_000))
    file = PidFile(str(path))
    file.write()
    old = Path(file.old_path)
    match change:
        case "ended":
            old.unlink()
        case "emptied":
            old.write_text("")
        case "replaced":
            old.rename(path.with_name("kept"))
            old.write_text(f"{os.getppid()}\n")
        case _:
            pass

    file.remove()

    assert not path.exists()
    assert old.exists() == (change != "ended")


def test_what_cannot_be_given_back_is_a_warning(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The end of a server is not disturbed by it."""
    path.write_text(f"{os.getppid()}\n")
    file = PidFile(str(path))
    file.write()

    def refuse(self: Path, target: object) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    file.remove()

    assert "cannot be moved back: Permission denied" in caplog.records[-1].message


# ------------------------------------------------------------------------------ what was there


def test_a_living_predecessor_is_a_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two servers with one pid file is a mistake, or an upgrade; the old file is kept aside."""
    path.write_text(f"{os.getppid()}\n")

    PidFile(str(path)).write()

    assert path.read_text() == OURS
    assert Path(f"{path}.old").read_text() == f"{os.getppid()}\n"
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert f"names process {os.getppid()}, which is alive" in record.message


def test_a_process_that_is_gone_is_no_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a crash has left is recognised."""
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    path.write_text(f"{gone.pid}\n")

    PidFile(str(path)).write()

    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert path.read_text() == OURS


def test_a_zombie_is_no_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A process that has ended and waits for its parent serves nobody."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        path.write_text(f"{ended.pid}\n")

        PidFile(str(path)).write()

    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_number_that_was_given_to_another_process_is_no_warning(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that began after the file was written is not the one it names."""
    path.write_text(f"{os.getppid()}\n")
    os.utime(path, (1_000_000, 1_000_000))

    PidFile(str(path)).write()

    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    "content", ["", "x\n", "-1\n", "0\n", "9" * 40, "\u0661", pytest.param(OURS, id="ours")]
)
def test_nonsense_in_the_file_is_no_warning(
    path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is our own number, as after the restart of a container."""
    path.write_text(content, encoding="utf-8")

    PidFile(str(path)).write()

    assert path.read_text() == OURS
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_symbolic_link_is_not_followed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody who may write to the directory cannot have another file overwritten or read."""
    victim = path.with_name("victim")
    victim.write_text("precious")
    path.symlink_to(victim)
    Path(f"{path}.old").symlink_to(victim)

    PidFile(str(path)).write()

    assert victim.read_text() == "precious"
    assert path.read_text() == OURS
    assert not path.is_symlink()
    assert Path(f"{path}.old").is_symlink()
    assert "is no file" in caplog.records[0].message


def test_a_link_in_the_place_of_the_file_is_not_removed(path: Path) -> None:
    """Nor what it points to."""
    file = PidFile(str(path))
    file.write()
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))

    file.remove()

    assert path.is_symlink()
    assert path.with_name("elsewhere").exists()


def test_a_pipe_is_not_waited_for(path: Path) -> None:
    """What is no file is moved aside unread."""
    os.mkfifo(path)

    PidFile(str(path)).write()

    assert path.read_text() == OURS


# ------------------------------------------------------------------------------ what is wrong


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """The file is named, with the reason."""
    with pytest.raises(Error) as raised:
        PidFile(str(tmp_path / "no" / "server.pid")).write()

    assert raised.value.etype is ErrorType.FILE_CREATE_ERROR
    expected = f"pid file {tmp_path}/no/server.pid: No such file or directory"
    assert raised.value.context == expected


def test_a_directory_in_the_place_of_the_file_is_an_error(path: Path) -> None:
    """It is not moved away."""
    path.mkdir()

    with pytest.raises(Error, match="Is a directory"):
        PidFile(str(path)).write()

    assert list(path.parent.iterdir()) == [path]


def test_a_disk_that_is_full_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No half a file is left."""

    def fail(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(Error, match="No space left on device"):
        PidFile(str(path)).write()
    monkeypatch.undo()

    assert list(path.parent.iterdir()) == []


def test_a_process_that_cannot_be_looked_at_counts_as_alive(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where ``/proc`` hides the processes of others."""

    def hide(self: Path, *args: object, **kwargs: object) -> str:
        raise PermissionError(13, "Permission denied")

    path.write_text(f"{os.getppid()}\n")
    monkeypatch.setattr(Path, "read_text", hide)

    PidFile(str(path)).write()

    assert "which is alive" in caplog.records[0].message


# --------------------------------------------------------------------------------- other users


@needs_root
def test_it_is_given_to_the_user(path: Path) -> None:
    """A server that will be somebody else leaves the file to that user."""
    PidFile(str(path)).write(Identity("nobody", "nogroup", NOBODY, NOBODY, (NOBODY,)))

    assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY, NOBODY)


@needs_root
def test_what_cannot_be_removed_is_emptied(path: Path) -> None:
    """In a directory of root's the user may not remove the file, but it names nobody any more."""
    path.parent.chmod(0o755)

    def write_and_remove() -> None:
        file = PidFile(str(path))
        file.write(Identity("nobody", "nogroup", NOBODY, NOBODY, (NOBODY,)))
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        file.remove()

    _open_to_others(path.parent)
    in_child(write_and_remove)

    assert path.read_text() == ""


@needs_root
def test_what_cannot_even_be_emptied_is_a_warning(path: Path) -> None:
    """The end of a server is not disturbed by it."""
    _open_to_others(path.parent)

    def write_and_remove() -> None:
        file = PidFile(str(path))
        file.write()
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        file.remove()

    in_child(write_and_remove)

    assert path.exists()


@needs_root
def test_an_ordinary_user_is_told_what_it_may_not(path: Path) -> None:
    """A directory of root's is none to write a pid file to."""
    _open_to_others(path.parent)

    def write() -> str:
        try:
            PidFile(str(path)).write()
        except Error as error:
            return error.context
        return ""

    assert in_child(write, user=NOBODY) == f"pid file {path}: Permission denied"


def _open_to_others(directory: Path) -> None:
    for each in (directory, *directory.parents):
        if each.stat().st_uid == os.getuid() and each.parent != each:
            each.chmod(each.stat().st_mode | 0o011)
