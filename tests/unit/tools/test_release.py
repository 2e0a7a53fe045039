"""The verb ``release``: what it writes, what it refuses, and that it leaves nothing half done."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from devtool import release as tool, versions
from devtool.release import release
from devtool.shell import VerbError

if TYPE_CHECKING:
    from pathlib import Path

_LEFT = "pingora-left"
_DATE = re.compile(r"\(\d{4}-\d\d-\d\d\)")
_IDENTITY = ("-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "tag.gpgSign=false")


class Workspace:
    """A repository of two packages, one of which needs the other; builds are played."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.refused_by_index = ""
        self.changes: list[str] = []
        self.left = self._package(_LEFT, "")
        self.right = self._package("pingora-right", '"pingora-left>=0.1,<0.2"')
        self.git("init", "--quiet", "--initial-branch=main")
        (root / ".gitignore").write_text("dist/\n")
        self.commit()

    def _package(self, name: str, dependency: str) -> Path:
        folder = self.root / "packages" / name
        module = folder / "src" / name.replace("-", "_")
        module.mkdir(parents=True)
        (folder / "changelog.d").mkdir()
        (folder / "changelog.d" / ".gitkeep").touch()
        (folder / "pyproject.toml").write_text(f"dependencies = [{dependency}]\n")
        (module / "_version.py").write_text('__version__ = "0.1.0"\n')
        (folder / "CHANGELOG.md").write_text(
            f"# Changelog of {name}\n\n## 0.1.0 (unreleased)\n\n- First.\n"
        )
        return folder

    def git(self, *arguments: str) -> None:
        """Run git, whatever its user has configured."""
        settings = ("-c", "commit.gpgSign=false", *_IDENTITY)
        subprocess.run(["git", *settings, *arguments], cwd=self.root, check=True)

    def commit(self) -> None:
        """Commit all there is."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message=x")

    def publish(self, version: str) -> None:
        """Release, and do what the verb asks for then."""
        release(_LEFT, version, dry_run=False)
        self.commit()
        self.git("tag", f"{_LEFT}-{version}")

    def build(self, folder: Path, directory: Path) -> list[Path]:
        """Stand in for the builds."""
        text = (folder / "src" / "pingora_left" / "_version.py").read_text()
        paths = [directory / "left.whl", directory / "left.tar.gz"]
        for path in paths:
            path.write_text(text)
        return paths

    def judge(self, *_: object) -> None:
        """Stand in for the index."""
        if self.refused_by_index:
            raise VerbError(self.refused_by_index)

    def contents(self) -> dict[Path, bytes]:
        """Read every file that is not git's."""
        files = (path for path in self.root.rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in files if ".git" not in path.parts}

    def fragment(self, name: str, text: str) -> Path:
        """Write and commit a fragment of the left package's changelog."""
        path = self.left / "changelog.d" / name
        path.write_text(text)
        self.commit()
        return path

    @property
    def changelog(self) -> str:
        """The left package's changelog, whatever the day."""
        return _DATE.sub("(date)", (self.left / "CHANGELOG.md").read_text())

    @property
    def needed(self) -> str:
        """What the right package requires."""
        return (self.right / "pyproject.toml").read_text()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    made = Workspace(tmp_path)
    for module in (tool, versions):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr("devtool.artifacts.ROOT", tmp_path)
    monkeypatch.setattr(tool, "members", lambda: [made.left, made.right])
    monkeypatch.setattr(tool, "environment", lambda _: tmp_path)
    monkeypatch.setattr(tool, "build_twice", made.build)
    monkeypatch.setattr(tool, "judge", made.judge)
    monkeypatch.setattr(tool, "changes", lambda *_: made.changes)
    return made


# ------------------------------------------------------------------------- what it writes


def test_a_first_release_writes_version_changelog_and_files(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
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
    assert "  twine upload dist/left.whl dist/left.tar.gz\n" in capsys.readouterr().out


def test_the_next_release_stands_above_the_last(workspace: Workspace) -> None:
    """A release gets a section of its own."""
    workspace.publish("0.1.0")
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
        ("0.2.0", "pingora-left>=0.2,<0.3"),
        ("0.2.0rc1", "pingora-left>=0.2.0rc1,<0.3"),
        ("1.0.0", "pingora-left>=1.0,<2"),
    ],
)
def test_siblings_require_what_is_released(workspace: Workspace, version: str, wanted: str) -> None:
    """Their range follows, and their users are told; a candidate is named, ``>=`` leaves it out."""
    release(_LEFT, version, dry_run=False)

    assert workspace.needed == f'dependencies = ["{wanted}"]\n'
    told = workspace.right / "changelog.d" / "requires-pingora-left.md"
    assert told.read_text() == f"- Requires `{wanted}`.\n"


@pytest.mark.parametrize("needed", ["pingora-left>=0.1,<0.2", "pingora-left>=0.1.1,<0.2"])
def test_a_range_that_fits_is_left(workspace: Workspace, needed: str) -> None:
    """Above all a bound that somebody has raised is not lowered again."""
    (workspace.right / "pyproject.toml").write_text(f'dependencies = ["{needed}"]\n')
    workspace.commit()

    release(_LEFT, "0.1.1", dry_run=False)

    assert workspace.needed == f'dependencies = ["{needed}"]\n'
    assert [path.name for path in (workspace.right / "changelog.d").iterdir()] == [".gitkeep"]


def test_siblings_follow_from_a_candidate_to_its_release(workspace: Workspace) -> None:
    """What a candidate wrote is found again, and a release need not tell anything new."""
    workspace.publish("0.2.0rc1")
    workspace.fragment("1.md", "- Done.\n")
    workspace.publish("0.2.0rc2")
    assert '"pingora-left>=0.2.0rc1,<0.3"' in workspace.needed

    release(_LEFT, "0.2.0", dry_run=False)

    assert '"pingora-left>=0.2,<0.3"' in workspace.needed
    assert "## 0.2.0 (date)\n\n- As 0.2.0rc2.\n\n## 0.2.0rc2 (date)" in workspace.changelog


# ------------------------------------------------------------------------- what it leaves


def test_a_dry_run_leaves_the_tree(workspace: Workspace) -> None:
    """Even one that is not clean."""
    workspace.fragment("1.md", "- One.\n")
    (workspace.root / "README.md").write_text("changed")
    before = workspace.contents()

    release(_LEFT, "0.2.0", dry_run=True)

    assert workspace.contents() == before


@pytest.mark.parametrize("step", ["judge", "keep"])
@pytest.mark.parametrize("failure", [VerbError("no"), KeyboardInterrupt(), OSError("disk full")])
def test_what_fails_leaves_the_tree(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, step: str, failure: BaseException
) -> None:
    """Whatever goes wrong, everything is as it was, fragments and siblings too."""
    workspace.fragment("1.md", "- One.\n")
    before = workspace.contents()

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(tool, step, fail)

    with pytest.raises(type(failure)):
        release(_LEFT, "0.2.0", dry_run=False)

    assert workspace.contents() == before


# ------------------------------------------------------------------------ what it refuses


@pytest.mark.parametrize(
    ("package", "version", "told"),
    [
        ("pingora-middle", "0.2.0", "there is no package pingora-middle: pingora-left, "),
        (_LEFT, "2", "is no version"),
        (_LEFT, "0.01.1", "is no version"),
        (_LEFT, "0.1.1\n", "is no version"),
        (_LEFT, "0.0.9", "0.0.9 is older than 0.1.0"),
        (_LEFT, "0.1.0rc1", "0.1.0rc1 is older than 0.1.0"),
        (_LEFT, "0.1.0", "tagged already"),
        (_LEFT, "0.1.2", r"leaves versions out: the next is 0\.1\.1, 0\.2\.0, 1\.0\.0"),
        (_LEFT, "0.11.0", "leaves versions out"),
        (_LEFT, "0.2.1rc1", "leaves versions out"),
    ],
)
def test_what_cannot_be_released_is_refused(
    workspace: Workspace, package: str, version: str, told: str
) -> None:
    """Before anything is written."""
    workspace.publish("0.1.0")
    workspace.fragment("1.md", "- New.\n")
    before = workspace.contents()

    with pytest.raises(VerbError, match=told):
        release(package, version, dry_run=False)

    assert workspace.contents() == before


@pytest.mark.parametrize("name", ["README.md", "packages/pingora-left/CHANGELOG.md"])
def test_a_tree_with_changes_is_refused(workspace: Workspace, name: str) -> None:
    """What is released is what is committed, and what is in the way is named."""
    (workspace.root / name).write_text("changed")

    with pytest.raises(VerbError, match=rf"not clean, commit first:\n.*{name}"):
        release(_LEFT, "0.2.0", dry_run=False)


def test_a_release_tells_something(workspace: Workspace) -> None:
    """Without a fragment there is nothing to release."""
    workspace.publish("0.1.0")

    with pytest.raises(VerbError, match="no fragment in changelog"):
        release(_LEFT, "0.1.1", dry_run=False)


def test_what_breaks_users_is_no_patch(workspace: Workspace) -> None:
    """What would break is listed, with the version that may."""
    workspace.publish("0.1.0")
    workspace.fragment("1.md", "- New.\n")
    workspace.changes = ["left.py:1: put(key): Parameter was removed"]

    with pytest.raises(VerbError, match=r"break users of 0\.1\.0: only 0\.2\.0 may\n  left.*put"):
        release(_LEFT, "0.1.1", dry_run=False)


def test_a_break_that_only_the_changelog_knows_is_no_patch(workspace: Workspace) -> None:
    """A changed behaviour is in no signature: the fragment's word counts."""
    workspace.publish("0.1.0")
    workspace.fragment("1.md", "- Breaking: `put` waits.\n")

    with pytest.raises(VerbError, match=r"1\.md tells users of 0\.1\.0 of a break: only 0\.2\.0"):
        release(_LEFT, "0.1.1", dry_run=False)
    release(_LEFT, "0.2.0", dry_run=False)


def test_what_breaks_users_is_told(workspace: Workspace) -> None:
    """No break without a word in the changelog; one in a candidate's section is enough."""
    workspace.publish("0.1.0")
    workspace.fragment("1.md", "- New.\n")
    workspace.changes = ["left.py:1: put(key): Parameter was removed"]
    with pytest.raises(VerbError, match="'- Breaking:'"):
        release(_LEFT, "0.2.0", dry_run=False)
    workspace.fragment("1.md", "- New.\n- Breaking: `put` has no key; give it to `open`.\n")

    workspace.publish("0.2.0rc1")
    release(_LEFT, "0.2.0", dry_run=False)
