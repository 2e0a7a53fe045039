"""What the architecture tests know about the repository."""

from __future__ import annotations

import pkgutil
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MEMBERS = tuple(sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml")))
PACKAGES = tuple(member.name.replace("-", "_") for member in MEMBERS)


def modules(package: str) -> list[str]:
    """Name a package and every module below it."""
    found = pkgutil.walk_packages(import_module(package).__path__, f"{package}.")
    return [package, *(info.name for info in found)]


def tracked_files() -> list[Path]:
    """List what is in the repository or about to be."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git work tree: nothing is tracked")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]
