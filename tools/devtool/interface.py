"""What has changed in the public interface of a package, in a way that may break its users.

Griffe compares signatures, classes, functions and values; it does not see a name that left
``__all__`` while the module still has it, which is looked for here. Neither sees a type that became
another one: the type checker of the tests does, where they use it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

from devtool.shell import ROOT, VerbError, output

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["announced", "changes"]

_ANNOUNCED = re.compile(r"^- Breaking:", re.MULTILINE)


def changes(programs: Path, member: Path, tag: str) -> list[str]:
    """List what programs that were written for a release may stumble over.

    Args:
        programs: The folder of griffe.
        member: The folder of the package.
        tag: The tag of the release.

    Returns:
        A line for each.

    Raises:
        VerbError: The two cannot be compared.
    """
    module = member.name.replace("-", "_")
    source = (member / "src").relative_to(ROOT)
    command = (programs / "griffe", "check", module, "--search", source, "--against", tag)
    code, text = output(*command, "--format=oneline", "--no-color", cwd=ROOT)
    lines = [line for line in text.splitlines() if line.strip()]
    if code != 0 and not (code == 1 and lines and all(_is_finding(line) for line in lines)):
        raise VerbError(f"griffe cannot compare {member.name} with {tag}:\n{text.rstrip()}")
    found = [] if code == 0 else [line.removeprefix(f"{source}/") for line in lines]
    return [*found, *_no_longer_exported(source / module, tag)]


def announced(member: Path, since: str) -> list[str]:
    """List where the changelog tells of a break since a release.

    Args:
        member: The folder of the package.
        since: The version of the release.

    Returns:
        Names of files that have an item which begins with ``- Breaking:``: fragments, and the
        changelog itself if what it tells above that version has one.
    """
    told = {
        each.name: each.read_text(encoding="utf-8")
        for each in sorted((member / "changelog.d").glob("*.md"))
    }
    changelog = (member / "CHANGELOG.md").read_text(encoding="utf-8")
    told["CHANGELOG.md"] = changelog.partition(f"\n## {since} ")[0]
    return [name for name, text in told.items() if _ANNOUNCED.search(text)]


def _is_finding(line: str) -> bool:
    return re.match(r".+?:\d+: .+: .+", line) is not None


def _no_longer_exported(folder: Path, tag: str) -> Iterator[str]:
    code, listed = output("git", "ls-tree", "-r", "--name-only", tag, "--", folder, cwd=ROOT)
    if code != 0:
        raise VerbError(f"{tag} cannot be read:\n{listed.rstrip()}")
    for path in map(Path, listed.splitlines()):
        inner = path.relative_to(folder)
        parts = [part for part in inner.with_suffix("").parts if part != "__init__"]
        # A module that is gone, or that is nobody's business, griffe has judged.
        if path.suffix != ".py" or any(part.startswith("_") for part in parts):
            continue
        if not (ROOT / path).exists():
            continue
        _, before = output("git", "show", f"{tag}:{path}", cwd=ROOT)
        now = _exported((ROOT / path).read_text(encoding="utf-8"))
        for name in sorted(_exported(before) - now):
            yield f"{path.relative_to(folder.parent)}: {name}: no longer in __all__"


def _exported(source: str) -> set[str]:
    for statement in ast.parse(source).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=ast.List(elts=names)):
                return {
                    name.value
                    for name in names
                    if isinstance(name, ast.Constant) and isinstance(name.value, str)
                }
            case _:
                pass
    return set()
