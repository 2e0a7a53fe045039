"""Small rooms: modules and functions stay short enough to be read at one go."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

from tests.architecture.workspace import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SOURCES = tuple(
    path
    for top in ("packages", "examples", "tools")
    for path in sorted([*(ROOT / top).rglob("*.py"), ROOT / "tools" / "dev"])
    if path.is_relative_to(ROOT / top)
)
TESTS = tuple(sorted((ROOT / "tests").rglob("*.py")))


def _lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def _long_functions(path: Path, most: int) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            if size > most:
                found.append(f"{node.name} has {size} lines")
    return found


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_a_module_is_short(path: Path) -> None:
    """A module has at most 400 lines, a function in it at most 80."""
    assert _lines(path) <= 400
    assert _long_functions(path, 80) == []


@pytest.mark.parametrize("path", TESTS, ids=_name)
def test_a_test_module_is_short(path: Path) -> None:
    """A test module has at most 600 lines, a function in it at most 80."""
    assert _lines(path) <= 600
    assert _long_functions(path, 80) == []
