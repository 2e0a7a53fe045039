"""Nothing in the repository names one machine's paths or one registry's address."""

from __future__ import annotations

import re

from tests.architecture.workspace import ROOT, tracked_files

# Put together, or this file would find itself.
_PATHS = re.compile(
    r"(?<![\w.])/(?:" + "|".join(["wo" + "rk", "fa" + "rm", "ro" + "ot", "Us" + "ers"]) + r")/"
    r"|(?<![\w.])/ho" + r"me/\w"
    r"|/tm" + r"p/(?:bash_|team/)"
)
_REGISTRIES = re.compile(
    "pythonhosted" + r"\.org|pypi\.org/" + r"simple|extra-index" + r"-url|index" + r"-url\s*="
    r"|find-links\s*=\s*\S*://",
    re.IGNORECASE,
)
_MOST_BYTES = 1_000_000


def _complaints(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in tracked_files():
        if path.stat().st_size > _MOST_BYTES:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"{path.relative_to(ROOT)}:{line} {match.group()!r}")
    return found


def test_no_path_of_one_machine() -> None:
    """No file names a home folder or a working folder."""
    assert _complaints(_PATHS) == []


def test_no_registry_address() -> None:
    """Where packages come from is the business of whoever installs them."""
    assert _complaints(_REGISTRIES) == []
