"""The virtual environments: hatch in ``.venv/hatch``, and what hatch makes beside it.

An environment carries a stamp of everything it was made from. While the stamp fits, hatch is not
even started; when a project file changed, hatch installs what is new.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import sys
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from devtool.shell import ROOT, VerbError, members, output, run, say

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["environment", "hatch", "hatch_variables"]

_HATCH_REQUIREMENT = "hatch>=1.18,<2"
_HATCH = ROOT / ".venv" / "hatch"


def environment(name: str = "default") -> Path:
    """Make an environment, or bring it up to date.

    Args:
        name: Its name in the root ``pyproject.toml``.

    Returns:
        The folder of its programs.

    Raises:
        VerbError: It cannot be made.
    """
    folder = ROOT / _path_of(name)
    stamp = folder / ".stamp"
    wanted = _stamp_of(name)
    with _lock():
        if not _is_current(stamp, wanted):
            if folder.exists() and not _belongs_here(stamp):
                shutil.rmtree(folder)
            say(f"preparing {folder.relative_to(ROOT)} ...")
            run(
                *hatch("env", "run", "-e", name, "--", "python", "-c", ""),
                environment=hatch_variables(),
                downloads=True,
            )
            stamp.write_text(wanted)
    return folder / "bin"


def hatch(*arguments: str) -> list[str]:
    """Make the command line of a hatch call, installing hatch on first use.

    Args:
        arguments: Arguments of hatch.

    Returns:
        The command line.

    Raises:
        VerbError: Hatch cannot be installed.
    """
    python = _HATCH / "bin" / "python"
    command = [str(python), "-m", "hatch", "--no-color", "-q"]
    if not python.exists() or output(*command, "--version")[0] != 0:
        say(f"installing {_HATCH_REQUIREMENT} into {_HATCH.relative_to(ROOT)} ...")
        code, text = output(sys.executable, "-m", "venv", "--clear", _HATCH)
        if code != 0:
            advice = "this Python cannot make virtual environments; try ./tools/dev deps"
            raise VerbError(f"{text.rstrip()}\n{advice}")
        install = ("-m", "pip", "install", "--quiet", _HATCH_REQUIREMENT)
        run(python, *install, downloads=True)
    return [*command, *arguments]


def hatch_variables() -> dict[str, str]:
    """Keep everything that hatch makes inside the repository.

    Returns:
        Variables for its process.
    """
    return {"HATCH_DATA_DIR": str(ROOT / ".venv" / ".hatch")}


def _path_of(name: str) -> Path:
    with (ROOT / "pyproject.toml").open("rb") as file:
        configured: dict[str, dict[str, str]] = tomllib.load(file)["tool"]["hatch"]["envs"]
    return Path(configured[name]["path"])


def _stamp_of(name: str) -> str:
    digest = hashlib.sha256(f"{name}\n{sys.version_info[:2]}\n".encode())
    for path in (ROOT / "pyproject.toml", *(member / "pyproject.toml" for member in members())):
        digest.update(path.read_bytes())
    return f"{ROOT}\n{digest.hexdigest()}\n"


def _is_current(stamp: Path, wanted: str) -> bool:
    try:
        return stamp.read_text() == wanted
    except FileNotFoundError:
        return False


def _belongs_here(stamp: Path) -> bool:
    # An environment names its own path in many files: a moved or copied one is of no use.
    try:
        return stamp.read_text().startswith(f"{ROOT}\n")
    except FileNotFoundError:
        return True


@contextmanager
def _lock() -> Iterator[None]:
    (ROOT / ".venv").mkdir(exist_ok=True)
    with (ROOT / ".venv" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
