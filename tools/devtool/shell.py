"""Running other programs, and saying what went wrong in one line."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ROOT", "VerbError", "members", "output", "replace_process", "run", "say"]

ROOT = Path(__file__).resolve().parents[2]


class VerbError(Exception):
    """Stops a verb; its text is all that the user is told.

    Attributes:
        exit_code: What ``tools/dev`` exits with.
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def say(text: str) -> None:
    """Print a line of progress.

    Args:
        text: The line.
    """
    print(text, file=sys.stderr, flush=True)


def members() -> list[Path]:
    """List the packages of the workspace.

    Returns:
        Their folders, sorted by name.
    """
    return sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))


def run(*command: str | Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a program in the root of the repository, its output shown.

    Args:
        command: The program and its arguments.
        environment: Variables set on top of the present ones.

    Raises:
        VerbError: The program is missing or exits with anything but 0.
    """
    arguments = [str(part) for part in command]
    try:
        done = subprocess.run(arguments, cwd=ROOT, env=_with(environment), check=False)
    except FileNotFoundError:
        raise VerbError(f"{arguments[0]}: not found") from None
    if done.returncode != 0:
        raise VerbError(f"exit code {done.returncode}: {shlex.join(arguments)}")


def output(
    *command: str | Path, cwd: Path = ROOT, environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run a program and keep what it prints on both channels.

    Args:
        command: The program and its arguments.
        cwd: The folder it runs in.
        environment: Variables set on top of the present ones.

    Returns:
        Its exit code and its output.

    Raises:
        VerbError: The program is missing.
    """
    arguments = [str(part) for part in command]
    try:
        done = subprocess.run(
            arguments,
            cwd=cwd,
            env=_with(environment),
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except FileNotFoundError:
        raise VerbError(f"{arguments[0]}: not found") from None
    return done.returncode, done.stdout


def replace_process(*command: str | Path, environment: Mapping[str, str] | None = None) -> NoReturn:
    """Become another program, so that signals and the exit code are its own.

    Args:
        command: The program and its arguments.
        environment: Variables set on top of the present ones.
    """
    arguments = [str(part) for part in command]
    sys.stdout.flush()
    sys.stderr.flush()
    os.chdir(ROOT)
    os.execvpe(arguments[0], arguments, _with(environment))  # noqa: S606  # no shell is wanted


def _with(environment: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, **(environment or {})}
