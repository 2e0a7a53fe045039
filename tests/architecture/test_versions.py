"""Versions, changelogs and the ranges between siblings say the same."""

from __future__ import annotations

import tomllib
from importlib import import_module
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

from tests.architecture.workspace import MEMBERS

if TYPE_CHECKING:
    from pathlib import Path

VERSIONS = {
    member.name: str(import_module(member.name.replace("-", "_")).__version__) for member in MEMBERS
}
# DESIGN 2: who may need whom.
ARROWS = {
    "pingora-error": set(),
    "pingora-limits": set(),
    "pingora-pool": set(),
    "pingora-http": {"pingora-error"},
    "pingora-core": {"pingora-error", "pingora-http", "pingora-pool"},
    "pingora-load-balancing": {"pingora-error", "pingora-http", "pingora-core"},
    "pingora-cache": {"pingora-error", "pingora-http"},
    "pingora-proxy": {"pingora-error", "pingora-http", "pingora-core", "pingora-cache"},
}


def _siblings(member: Path) -> list[Requirement]:
    text = (member / "pyproject.toml").read_text(encoding="utf-8")
    dependencies: list[str] = tomllib.loads(text)["project"]["dependencies"]
    requirements = [Requirement(dependency) for dependency in dependencies]
    return [requirement for requirement in requirements if requirement.name in VERSIONS]


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_the_changelog_knows_the_version(member: Path) -> None:
    """The changelog has a heading for the version that the package claims."""
    changelog = (member / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = [line.split()[1] for line in changelog.splitlines() if line.startswith("## ")]

    assert VERSIONS[member.name] in headings


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_sibling_ranges_fit(member: Path) -> None:
    """A package accepts the siblings that stand beside it, within one series."""
    for requirement in _siblings(member):
        assert requirement.specifier.contains(VERSIONS[requirement.name]), str(requirement)
        assert {clause.operator for clause in requirement.specifier} == {">=", "<"}


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_arrows_point_as_designed(member: Path) -> None:
    """A package declares no sibling that the design does not allow it."""
    declared = {requirement.name for requirement in _siblings(member)}

    assert declared - ARROWS[member.name] == set()


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_the_package_is_typed(member: Path) -> None:
    """Type checkers of users see our annotations."""
    assert (member / "src" / member.name.replace("-", "_") / "py.typed").is_file()
