"""Test suites that come as npm packages, installed into ``.venv/tools/node``.

``tools/conformance/node`` names each with its version and everything it is made of, with the
checksums of all: the same files come out everywhere. Nothing of them is run while installing.
"""

from __future__ import annotations

import hashlib
import shutil

from devtool.shell import ROOT, VerbError, output, say

__all__ = [
    "AXE",
    "CACHE_TESTS",
    "SCRIPTS",
    "are_cache_tests_current",
    "missing_cache_tests",
    "require_cache_tests",
]

SCRIPTS = ROOT / "tools" / "conformance" / "node"
_FOLDER = ROOT / ".venv" / "tools" / "node"
CACHE_TESTS = _FOLDER / "node_modules" / "http-cache-tests"
AXE = _FOLDER / "node_modules" / "axe-core" / "axe.min.js"
"""Judges the accessibility of a page, within the page."""
_STAMP = _FOLDER / ".stamp"
_FILES = ("package.json", "package-lock.json")


def are_cache_tests_current() -> bool:
    """Tell whether http-cache-tests are there, in the version that is wanted.

    Returns:
        Whether they can be run.
    """
    try:
        return shutil.which("node") is not None and _STAMP.read_text() == _wanted()
    except FileNotFoundError:
        return False


def missing_cache_tests() -> str:
    """Say why http-cache-tests cannot be had here.

    Returns:
        The reason; empty when they are there or can be installed.
    """
    if are_cache_tests_current():
        return ""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    return f"http-cache-tests need {' and '.join(missing)} on the path" if missing else ""


def require_cache_tests() -> None:
    """Install http-cache-tests unless they are there.

    Raises:
        VerbError: There is no Node.js or npm, or npm fails.
    """
    if are_cache_tests_current():
        return
    reason = missing_cache_tests()
    if reason:
        raise VerbError(reason)
    say(f"installing http-cache-tests into {_FOLDER.relative_to(ROOT)} ...")
    _FOLDER.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        shutil.copyfile(SCRIPTS / name, _FOLDER / name)
    quiet = ("--ignore-scripts", "--no-audit", "--no-fund")
    code, text = output("npm", "ci", *quiet, cwd=_FOLDER, downloads=True)
    if code != 0:
        raise VerbError(f"npm does not install http-cache-tests:\n{text.rstrip()}")
    _STAMP.write_text(_wanted())


def _wanted() -> str:
    digest = hashlib.sha256()
    for name in _FILES:
        digest.update((SCRIPTS / name).read_bytes())
    return digest.hexdigest()
