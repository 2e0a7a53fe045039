"""Every distribution carries the licence, and those of what it needs are told."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from importlib.metadata import distribution
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

from tests.architecture.workspace import MEMBERS, ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_the_licence_is_a_true_copy(member: Path) -> None:
    """A link would dangle in the sdist; a copy must not drift."""
    licence = member / "LICENSE"

    assert not licence.is_symlink()
    assert licence.read_bytes() == (ROOT / "LICENSE").read_bytes()


_ROW = re.compile(r"^\| ([\w-]+) \| ([^|]+) \| ([^|]+) \| [^|]+ \|$", re.MULTILINE)
# What the metadata of a release says, where it is not one of the names of SPDX.
_SPDX = {"MIT License": "MIT", "Apache License, Version 2.0": "Apache-2.0"}


def _listed() -> dict[str, tuple[str, set[str]]]:
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    rows = (match.groups() for match in _ROW.finditer(page))
    return {
        name: (licence, {f"pingora-{user}" for user in users.split(", ")})
        for name, licence, users in rows
        if name != "dependency"
    }


def _declared() -> dict[str, set[str]]:
    users: dict[str, set[str]] = defaultdict(set)
    for member in MEMBERS:
        project = tomllib.loads((member / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        extras: dict[str, list[str]] = project.get("optional-dependencies", {})
        needs = {member.name: project["dependencies"]}
        needs.update({f"{member.name}[{extra}]": wanted for extra, wanted in extras.items()})
        for user, requirements in needs.items():
            for requirement in requirements:
                users[Requirement(requirement).name].add(user)
    return {name: who for name, who in users.items() if not name.startswith("pingora-")}


def test_the_page_lists_every_dependency() -> None:
    """With all packages and extras that need it, and nothing else."""
    assert {name: users for name, (_, users) in _listed().items()} == _declared()


@pytest.mark.parametrize("name", sorted(_declared()))
def test_the_page_tells_the_licence(name: str) -> None:
    """The one that the installed release states; of several it may be any."""
    metadata = distribution(name).metadata
    (stated, *_) = [
        metadata[field] for field in ("License-Expression", "License") if field in metadata
    ]

    licence, _ = _listed()[name]
    assert _SPDX.get(stated, stated).split(" OR ")[0] in licence.split(" or ")
