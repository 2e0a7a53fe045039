"""The command line of ``tools/dev``."""

from __future__ import annotations

import subprocess
import sys

import pytest

from devtool.system import PROGRAMS, missing_packages
from tests.architecture.workspace import ROOT

_VERBS = ("demo", "test", "check", "bench", "conformance", "build", "docs", "deps", "clean")


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
