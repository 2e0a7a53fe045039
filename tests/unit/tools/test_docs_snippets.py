"""Python in the documentation comes from files that tests run."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BLOCK = re.compile(r"^ *```python\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INCLUDE = re.compile(r' *--8<-- "([^":]+)(?::[\w-]+)?"')


def _lines() -> list[tuple[str, str]]:
    return [
        (page.relative_to(ROOT).as_posix(), line)
        for page in (ROOT / "docs").rglob("*.md")
        for block in BLOCK.findall(page.read_text())
        for line in block.splitlines()
        if line.strip()
    ]


def test_no_page_has_code_of_its_own() -> None:
    """A block consists of what it includes; the strict build says whether that is there."""
    assert {page for page, line in _lines() if INCLUDE.fullmatch(line) is None} == set()


def test_what_is_included_is_run() -> None:
    """Each file is a test, or an example that a test names."""
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    files = {match[1] for _, line in _lines() if (match := INCLUDE.fullmatch(line))}

    assert len(files) > 30
    unknown = [
        file for file in files if not file.startswith("tests/") and Path(file).stem not in tests
    ]
    assert unknown == []
