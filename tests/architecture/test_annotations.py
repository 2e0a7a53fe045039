"""Public attributes and variables are annotated, so that every type checker sees the same type.

``./tools/dev api`` has pyright judge the wheels; this is quick, and says which line is missing.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from tests.architecture.workspace import MEMBERS, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOURCES = tuple(path for member in MEMBERS for path in sorted((member / "src").rglob("*.py")))
PUBLIC = tuple(
    path
    for path in SOURCES
    if not any(part.startswith("_") for part in path.with_suffix("").parts if part != "__init__")
)


def _attribute(target: ast.expr) -> str | None:
    if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
        return target.attr if target.value.id == "self" else None
    return None


def _classes(path: Path) -> Iterator[ast.ClassDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def _declared_by(cls: ast.ClassDef) -> set[str]:
    inside = [node for node in ast.walk(cls) if isinstance(node, ast.AnnAssign)]
    names = {node.target.id for node in inside if isinstance(node.target, ast.Name)}
    properties = {node.name for node in cls.body if isinstance(node, ast.FunctionDef)}
    return names | properties | {_attribute(node.target) or "" for node in inside}


def _base_names(cls: ast.ClassDef) -> Iterator[str]:
    for base in cls.bases:
        named = base.value if isinstance(base, ast.Subscript) else base
        yield named.attr if isinstance(named, ast.Attribute) else getattr(named, "id", "")


@pytest.fixture(scope="module")
def declared() -> dict[str, set[str]]:
    """What each class declares, with its bases; classes of one name are taken together."""
    own: dict[str, set[str]] = defaultdict(set)
    bases: dict[str, set[str]] = defaultdict(set)
    for path in SOURCES:
        for cls in _classes(path):
            own[cls.name] |= _declared_by(cls)
            bases[cls.name] |= set(_base_names(cls))
    for _ in range(8):
        for name, above in bases.items():
            own[name] = own[name].union(*(own[base] for base in above if base in own))
    return own


def _assigned(cls: ast.ClassDef) -> Iterator[tuple[int, str]]:
    for node in ast.walk(cls):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                parts = target.elts if isinstance(target, ast.Tuple) else [target]
                for name in filter(None, map(_attribute, parts)):
                    yield node.lineno, name


@pytest.mark.parametrize("path", PUBLIC, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_attributes_are_annotated(path: Path, declared: dict[str, set[str]]) -> None:
    """What a public class sets without an underscore is declared by it or by a base."""
    missing = [
        f"line {line}: {cls.name}.{name}"
        for cls in _classes(path)
        for line, name in _assigned(cls)
        if cls.name[0] != "_" and name[0] != "_" and name not in declared[cls.name]
    ]

    assert missing == []
