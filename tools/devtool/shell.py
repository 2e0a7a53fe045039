"""Running other programs, and saying what went wrong in one line."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["ROOT", "VerbError", "members", "output", "replace_process", "run", "say"]

ROOT = Path(__file__).resolve().parents[2]

# A registry that does not answer now often does soon; one that says no does so three times.
_PAUSES = (2.0, 10.0)


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


def run(
    *command: str | Path, environment: Mapping[str, str] | None = None, downloads: bool = False
) -> None:
    """Run a program in the root of the repository, its output shown.

    Args:
        command: The program and its arguments.
        environment: Variables set on top of the present ones.
        downloads: Whether it asks a registry: then it is run up to three times.

    Raises:
        VerbError: The program is missing or exits with anything but 0.
    """
    arguments = [str(part) for part in command]
    code, _ = _attempts(
        lambda: subprocess.run(arguments, cwd=ROOT, env=_with(environment), check=False, text=True),
        arguments,
        downloads=downloads,
    )
    if code != 0:
        raise VerbError(f"exit code {code}: {shlex.join(arguments)}")


def output(
    *command: str | Path,
    cwd: Path = ROOT,
    environment: Mapping[str, str] | None = None,
    downloads: bool = False,
) -> tuple[int, str]:
    """Run a program and keep what it prints on both channels.

    Args:
        command: The program and its arguments.
        cwd: The folder it runs in.
        environment: Variables set on top of the present ones.
        downloads: Whether it asks a registry: then it is run up to three times.

    Returns:
        Its exit code and its output, those of the last time.

    Raises:
        VerbError: The program is missing.
    """
    arguments = [str(part) for part in command]
    return _attempts(
        lambda: subprocess.run(
            arguments,
            cwd=cwd,
            env=_with(environment),
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ),
        arguments,
        downloads=downloads,
    )


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


def _attempts(
    attempt: Callable[[], subprocess.CompletedProcess[str]],
    arguments: list[str],
    *,
    downloads: bool,
) -> tuple[int, str]:
    try:
        done = attempt()
        for pause in _PAUSES if downloads else ():
            if done.returncode == 0:
                break
            say(f"exit code {done.returncode} of {arguments[0]}: once more in {pause:g} s ...")
            time.sleep(pause)
            done = attempt()
    except (FileNotFoundError, PermissionError) as failure:
        raise VerbError(f"{arguments[0]}: {failure.strerror}") from None
    return done.returncode, done.stdout


def _with(environment: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, **(environment or {})}
