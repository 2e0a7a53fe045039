"""What the documentation names exists: in its explanations, its reference, its table from Rust."""

from __future__ import annotations

import ast
import importlib
import re
import textwrap
from pathlib import Path

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGE = DOCS / "explanation" / "differences-from-rust.md"
PAGES = sorted(DOCS.rglob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"`(pingora_[a-z_]+(?:\.\w+)*)`")


def _names() -> list[str]:
    # The middle column of all tables below the heading.
    _, _, tables = PAGE.read_text(encoding="utf-8").partition("## Name by name")
    cells = [line.split("|")[2] for line in tables.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in NAME.findall(cell)]


def _exists(name: str) -> bool:
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_names_are_found_in_the_page() -> None:
    """The tables are read: there are as many names as a whole public interface has."""
    assert len(_names()) > 150
    assert not _exists("pingora_core.NoSuchName")


def test_python_names_exist() -> None:
    """Every Python name that the table gives for a Rust name can be imported or looked up."""
    assert [name for name in _names() if not _exists(name)] == []


def test_modules_and_names_in_prose_exist() -> None:
    """So does whatever is written with its package in explanations and in the reference."""
    missing = {
        (page.name, name)
        for page in PAGES
        for name in NAME.findall(page.read_text(encoding="utf-8"))
        if "." in name and not _exists(name)  # without a dot it may be a metric
    }
    assert missing == set()


def test_what_snippets_import_exists() -> None:
    """Snippets that stand in a page itself are Python, and take from the packages what is there."""
    wrong = []
    for page in PAGES:
        for block in BLOCK.findall(page.read_text(encoding="utf-8")):
            if "--8<--" in block or "..." in block or block.startswith(">>>"):
                continue
            for node in ast.walk(ast.parse(textwrap.dedent(block))):
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("pingora_"):
                    names = [f"{node.module}.{each.name}" for each in node.names]
                    wrong += [(page.name, name) for name in names if not _exists(name)]
    assert wrong == []


def test_every_page_is_in_the_navigation() -> None:
    """No page is left out of the menu."""
    navigation = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert {page for page in pages if f" {page}\n" not in navigation} == set()
