"""The verb ``release``: what it writes, what it refuses, and that it leaves nothing half done."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from devtool import release as tool
from devtool.release import release
from devtool.shell import VerbError

if TYPE_CHECKING:
    from pathlib import Path

_LEFT = "pingora-left"
_DATE = re.compile(r"\(\d{4}-\d\d-\d\d\)")


class Workspace:
    """Two packages, one of which needs the other, and answers for the programs that are asked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.changes = ""
        self.tags: list[str] = []
        self.refused_by_index = ""
        self.left = self._package(_LEFT, "")
        self.right = self._package("pingora-right", '"pingora-left>=0.1,<0.2"')

    def _package(self, name: str, dependency: str) -> Path:
        folder = self.root / "packages" / name
        module = folder / "src" / name.replace("-", "_")
        module.mkdir(parents=True)
        (folder / "changelog.d").mkdir()
        (folder / "pyproject.toml").write_text(f"dependencies = [{dependency}]\n")
        (module / "_version.py").write_text('__version__ = "0.1.0"\n')
        (folder / "CHANGELOG.md").write_text(
            f"# Changelog of {name}\n\n## 0.1.0 (unreleased)\n\n- First.\n"
        )
        return folder

    def output(self, *command: object, cwd: object = None) -> tuple[int, str]:
        """Answer for git and twine."""
        del cwd
        words = [str(word) for word in command]
        if "status" in words:
            return 0, self.changes
        if "rev-parse" in words:
            return int(words[-1].removeprefix("refs/tags/") not in self.tags), ""
        return int(bool(self.refused_by_index)), self.refused_by_index

    def build(self, folder: Path, directory: Path) -> list[Path]:
        """Stand in for two builds."""
        text = (folder / "src" / "pingora_left" / "_version.py").read_text()
        paths = [directory / "left.whl", directory / "left.tar.gz"]
        for path in paths:
            path.write_text(text)
        return paths

    def contents(self) -> dict[Path, bytes]:
        """Read every file."""
        return {path: path.read_bytes() for path in self.root.rglob("*") if path.is_file()}

    def fragment(self, name: str, text: str) -> Path:
        """Write a fragment of the left package's changelog."""
        path = self.left / "changelog.d" / name
        path.write_text(text)
        return path

    @property
    def changelog(self) -> str:
        """The left package's changelog, whatever the day."""
        return _DATE.sub("(date)", (self.left / "CHANGELOG.md").read_text())


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    made = Workspace(tmp_path)
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "members", lambda: [made.left, made.right])
    monkeypatch.setattr(tool, "output", made.output)
    monkeypatch.setattr(tool, "environment", lambda _: tmp_path)
    monkeypatch.setattr(tool, "_built_twice", made.build)
    return made


def test_a_release_writes_version_changelog_and_files(workspace: Workspace) -> None:
    """Fragments go into the changelog in the order of their names, above what stands there."""
    fragments = [
        workspace.fragment("2.md", "- Second \\1.\n"),
        workspace.fragment("1.md", "- One."),
    ]

    release(_LEFT, "0.1.0", dry_run=False)

    assert workspace.changelog == (
        f"# Changelog of {_LEFT}\n\n## 0.1.0 (date)\n\n- One.\n- Second \\1.\n- First.\n"
    )
    assert not any(fragment.exists() for fragment in fragments)
    built = sorted(path.name for path in (workspace.root / "dist").iterdir())
    assert built == ["left.tar.gz", "left.whl"]


def test_the_next_release_stands_above_the_last(workspace: Workspace) -> None:
    """A release gets a section of its own."""
    release(_LEFT, "0.1.0", dry_run=False)
    workspace.fragment("1.md", "- New.\n")

    release(_LEFT, "0.1.1", dry_run=False)

    assert workspace.changelog == (
        f"# Changelog of {_LEFT}\n\n## 0.1.1 (date)\n\n- New.\n\n## 0.1.0 (date)\n\n- First.\n"
    )
    version = workspace.left / "src" / "pingora_left" / "_version.py"
    assert version.read_text() == '__version__ = "0.1.1"\n'


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        ("0.1.7", "pingora-left>=0.1,<0.2"),
        ("0.2.0", "pingora-left>=0.2,<0.3"),
        ("0.2.0rc1", "pingora-left>=0.2.0rc1,<0.3"),
        ("1.0.0", "pingora-left>=1.0,<1.1"),
    ],
)
def test_siblings_require_what_is_released(workspace: Workspace, version: str, wanted: str) -> None:
    """A sibling allows the minor version; a candidate is told by name, as ``>=`` leaves it out."""
    release(_LEFT, version, dry_run=False)

    project = workspace.right / "pyproject.toml"
    assert project.read_text() == f'dependencies = ["{wanted}"]\n'


def test_siblings_follow_from_a_candidate_to_its_release(workspace: Workspace) -> None:
    """What a candidate wrote is found again."""
    release(_LEFT, "0.2.0rc1", dry_run=False)
    workspace.fragment("1.md", "- Done.\n")

    release(_LEFT, "0.2.0", dry_run=False)

    assert '"pingora-left>=0.2,<0.3"' in (workspace.right / "pyproject.toml").read_text()


def test_versions_are_in_order() -> None:
    """Candidates come before their release, ten after nine."""
    versions = ["0.1.9", "0.1.10", "0.2.0a1", "0.2.0b1", "0.2.0rc2", "0.2.0rc10", "0.2.0", "1.0.0"]

    orders = [tool._order(version) for version in versions]
    assert orders == sorted(orders)


def test_a_dry_run_leaves_the_tree(workspace: Workspace) -> None:
    """Even one that is not clean."""
    workspace.fragment("1.md", "- One.\n")
    workspace.changes = " M README.md\n"
    before = workspace.contents()

    release(_LEFT, "0.2.0", dry_run=True)

    assert workspace.contents() == before


def test_what_fails_leaves_the_tree(workspace: Workspace) -> None:
    """When the index would refuse it, everything is as it was, fragments too."""
    workspace.fragment("1.md", "- One.\n")
    workspace.refused_by_index = "no description"
    before = workspace.contents()

    with pytest.raises(VerbError, match="no description"):
        release(_LEFT, "0.2.0", dry_run=False)

    assert workspace.contents() == before


@pytest.mark.parametrize(
    ("package", "version", "told"),
    [
        ("pingora-middle", "0.2.0", "there is no package pingora-middle: pingora-left, "),
        (_LEFT, "2", "is no version"),
        (_LEFT, "0.0.9", "0.0.9 is older than 0.1.0"),
        (_LEFT, "0.1.0rc1", "0.1.0rc1 is older than 0.1.0"),
        (_LEFT, "0.3.0", "tagged already"),
    ],
)
def test_what_cannot_be_released_is_refused(
    workspace: Workspace, package: str, version: str, told: str
) -> None:
    """Before anything is written."""
    workspace.tags = [f"{_LEFT}-0.3.0"]
    before = workspace.contents()

    with pytest.raises(VerbError, match=told):
        release(package, version, dry_run=False)

    assert workspace.contents() == before


def test_a_tree_with_changes_is_refused(workspace: Workspace) -> None:
    """What is released is what is committed."""
    workspace.changes = " M README.md\n"

    with pytest.raises(VerbError, match="not clean"):
        release(_LEFT, "0.2.0", dry_run=False)


def test_a_release_tells_something(workspace: Workspace) -> None:
    """Without a fragment there is nothing to release."""
    release(_LEFT, "0.1.0", dry_run=False)

    with pytest.raises(VerbError, match="no fragment in changelog"):
        release(_LEFT, "0.1.1", dry_run=False)


@pytest.mark.parametrize("stable", [True, False])
def test_two_builds_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stable: bool
) -> None:
    """A build that differs from the one before is refused, with the name of the file."""
    built: list[Path] = []

    def build(*command: object, environment: dict[str, str]) -> None:
        assert environment["SOURCE_DATE_EPOCH"] == "1700000000"
        target = tmp_path / str(command[4]).rsplit("/", 1)[-1]
        target.mkdir()
        (target / "left.whl").write_text("wheel" if stable else f"wheel {len(built)}")
        (target / "left.tar.gz").write_text("sdist")
        (target / ".gitignore").write_text("*")
        built.append(target)

    monkeypatch.setattr(tool, "hatch", lambda: ["/bin/python"])
    monkeypatch.setattr(tool, "output", lambda *_, cwd: (0, "1700000000\n"))
    monkeypatch.setattr(tool, "run", build)
    folder = tmp_path / "packages" / _LEFT

    if stable:
        files = tool._built_twice(folder, tmp_path)
        assert sorted(path.name for path in files) == ["left.tar.gz", "left.whl"]
    else:
        with pytest.raises(VerbError, match=r"two builds differ: left\.whl"):
            tool._built_twice(folder, tmp_path)
    assert len(built) == 2
