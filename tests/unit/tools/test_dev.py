"""The command line of ``tools/dev``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from devtool import golang, shell
from devtool.shell import VerbError
from devtool.system import PROGRAMS, missing_packages
from tests.architecture.workspace import ROOT

if TYPE_CHECKING:
    from pathlib import Path

_VERBS = (
    "demo", "test", "check", "bench", "conformance", "build", "api", "release", "lowest", "docs",
    "deps", "clean",
)  # fmt: skip


def _dev(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "dev"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_names_every_verb() -> None:
    """A stranger who asks for help sees all verbs."""
    done = _dev("--help")

    assert done.returncode == 0
    assert [verb for verb in _VERBS if f"\n    {verb} " not in done.stdout] == ["conformance"]
    assert "\n    conformance\n" in done.stdout


@pytest.mark.parametrize(
    "arguments", [(), ("no-such-verb",), ("check", "--no-such-option")], ids=lambda words: words
)
def test_a_wrong_command_line_exits_with_2(arguments: tuple[str, ...]) -> None:
    """The usage goes to standard error."""
    done = _dev(*arguments)

    assert done.returncode == 2
    assert done.stdout == ""
    assert "usage: tools/dev" in done.stderr


def test_missing_programs_are_named_by_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not on the path is named by the package that brings it."""
    monkeypatch.setitem(PROGRAMS, "no-such-program", "no-such-package")

    assert "no-such-package" in missing_packages()


@pytest.mark.parametrize("go", [None, "/usr/bin/go"])
def test_h2spec_is_missing_where_it_cannot_be_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, go: str | None
) -> None:
    """Without the program and without Go the reason is told; with Go it can be had."""
    monkeypatch.setattr(golang, "H2SPEC", tmp_path / "h2spec")
    monkeypatch.setattr(shutil, "which", lambda _: go)

    assert ("Go 1.21" in golang.missing_h2spec()) is (go is None)


def test_h2spec_is_built_again_when_its_module_changes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The program counts only with the stamp of the module it was built from."""
    program, stamp = tmp_path / "h2spec", tmp_path / "stamp"
    monkeypatch.setattr(golang, "H2SPEC", program)
    monkeypatch.setattr(golang, "_STAMP", stamp)
    program.touch()
    assert not golang.is_h2spec_current()

    stamp.write_text(golang._wanted())
    assert golang.is_h2spec_current()

    monkeypatch.setattr(golang, "MODULE", tmp_path)
    for name in ("go.mod", "go.sum"):
        (tmp_path / name).write_text("another")
    assert not golang.is_h2spec_current()


@pytest.mark.parametrize("successful", [1, 3, 4])
def test_what_downloads_is_tried_three_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, successful: int
) -> None:
    """A registry that does not answer once or twice stops nothing; other programs run once."""
    monkeypatch.setattr(shell, "_PAUSES", (0.0, 0.0))
    tries = tmp_path / "tries"
    script = f'echo x >> {tries}; test "$(grep -c x {tries})" = {successful}'

    code, _ = shell.output("sh", "-c", script, downloads=True)

    assert code == (successful > 3)
    assert len(tries.read_text().split()) == min(successful, 3)
    tries.unlink()
    with pytest.raises(VerbError, match="exit code 1: sh"):
        shell.run("sh", "-c", f"echo x >> {tries}; exit 1")
    assert len(tries.read_text().split()) == 1
