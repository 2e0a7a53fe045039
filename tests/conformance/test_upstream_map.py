"""UPSTREAM.md tells the truth: every test of the original is there, and what it names exists."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_ROOT = _HERE.parent.parent
_ROW = re.compile(r"\| `(?P<name>[^`]+)` \| (?P<status>[^|]+) \| (?P<note>[^|]*) \|")
_NODE = re.compile(r"`(tests/[\w/]+\.py::\w+)`")
_STATUS = re.compile(r"ours|departs|issue [5-7]|n/a")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    status: str
    note: str

    @property
    def nodes(self) -> list[str]:
        """The tests of ours that it names."""
        return _NODE.findall(self.note)


def _rows() -> list[Row]:
    text = (_HERE / "UPSTREAM.md").read_text(encoding="utf-8")
    return [
        Row(match["name"], match["status"].strip(), match["note"].strip())
        for match in map(_ROW.fullmatch, text.splitlines())
        if match is not None
    ]


def _names() -> list[str]:
    lines = (_HERE / "upstream_tests.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith(("#", "["))]


@cache
def _tests_in(path: str) -> frozenset[str]:
    """Names of the test functions that a file defines."""
    source = (_ROOT / path).read_text(encoding="utf-8")
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    )


def test_every_upstream_test_has_one_row() -> None:
    """Nothing of the original is forgotten, and nothing is mapped twice."""
    names = [row.name for row in _rows()]

    assert sorted(names) == sorted(_names())
    assert len(names) == len(set(names))


def test_every_table_line_is_understood() -> None:
    """No row escapes the checks by being malformed."""
    text = (_HERE / "UPSTREAM.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| `")]

    assert len(lines) == len(_rows())


@pytest.mark.parametrize("row", _rows(), ids=lambda row: row.name)
def test_row(row: Row) -> None:
    """A row has a known status; what it names exists; what has no test says why."""
    assert _STATUS.fullmatch(row.status), row.status
    for node in row.nodes:
        path, _, test = node.partition("::")
        assert (_ROOT / path).is_file(), node
        assert test in _tests_in(path), node
    match row.status:
        case "ours":
            assert row.nodes
        case "departs":
            assert row.nodes
            assert _NODE.sub("", row.note).strip(" ,;")
        case "n/a":
            assert row.note
        case _:
            pass
