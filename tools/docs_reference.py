"""Writes the pages of the reference, one for each place to import from: ``python tools/docs_reference.py``.

A name is documented where it is meant to be imported from. A module all of whose names its package
exports has no page of its own. The pages and their part of the menu are in the repository, and a test
says when they are no longer what this writes: after a module was added, for example.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

__all__ = ["MENU", "PAGES", "main", "make_menu", "make_pages"]

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = ROOT / "docs" / "reference" / "api"
MENU: Final = ROOT / "mkdocs.yml"

# As they build on each other.
_PACKAGES: Final = ("error", "http", "limits", "pool", "core", "load-balancing", "cache", "proxy")
_BLOCK: Final = re.compile(
    r"(?<=# begin of the reference\n).*?(?= *# end of the reference\n)", re.DOTALL
)
_PAGE: Final = """\
# {name}

::: {name}
    options:
      show_root_heading: false
      show_root_toc_entry: false
      inherited_members: true
      show_submodules: false
"""


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    # What is public below a package, in alphabetical order, each package before its modules.
    yield package
    for info in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if info.name.rpartition(".")[2].startswith("_"):
            continue
        module = importlib.import_module(info.name)
        if info.ispkg:
            yield from _modules(module)
        else:
            yield module


def _exports(module: ModuleType) -> dict[str, object]:
    names: list[str] = getattr(module, "__all__", [])
    return {name: getattr(module, name) for name in names}


def _is_news(module: ModuleType, known: dict[str, ModuleType]) -> bool:
    # Whether a module has a name that no package above it exports.
    parents = []
    parent = module.__name__.rpartition(".")[0]
    while parent:
        parents.append(_exports(known[parent]))
        parent = parent.rpartition(".")[0]
    nothing = object()
    return any(
        all(above.get(name, nothing) is not value for above in parents)
        for name, value in _exports(module).items()
    )


def find_places(package: str) -> list[str]:
    """Find the modules of a package that have a page.

    Args:
        package: Its name for imports.

    Returns:
        The names of the modules.
    """
    modules = {module.__name__: module for module in _modules(importlib.import_module(package))}
    return [
        name for name, module in modules.items() if name == package or _is_news(module, modules)
    ]


def make_pages() -> dict[str, str]:
    """Make all pages.

    Returns:
        The text of each, by its name in the directory.
    """
    names = [name for short in _PACKAGES for name in find_places(_import_name(short))]
    return {f"{name}.md": _PAGE.format(name=name) for name in names}


def make_menu() -> str:
    """Make the part of the menu.

    Returns:
        Lines of YAML, each with its end.
    """
    lines = []
    for short in _PACKAGES:
        lines += [f"      - pingora-{short}:", f"          - Overview: reference/{short}.md"]
        lines += [
            f"          - {name}: reference/api/{name}.md"
            for name in find_places(_import_name(short))
        ]
    return "".join(f"{line}\n" for line in lines)


def main() -> None:
    """Write the pages and the menu, and remove pages of what is gone."""
    PAGES.mkdir(parents=True, exist_ok=True)
    pages = make_pages()
    for path in PAGES.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        (PAGES / name).write_text(text, encoding="utf-8")
    menu = MENU.read_text(encoding="utf-8")
    menu = _BLOCK.sub(lambda _: make_menu(), menu)
    MENU.write_text(menu, encoding="utf-8")


def _import_name(short: str) -> str:
    return "pingora_" + short.replace("-", "_")


if __name__ == "__main__":
    main()
