"""What a release stands on: versions, the look for breaks, repeatable builds, a rehearsed upload."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from devtool import artifacts, interface, versions
from devtool.interface import announced, changes
from devtool.rehearsal import rehearsal_index
from devtool.shell import VerbError
from devtool.versions import breaks_allowed, last_release, order, series, steps

if TYPE_CHECKING:
    from pathlib import Path

_NAME = "pingora-left"


# ------------------------------------------------------------------------------- versions


def test_versions_are_in_order() -> None:
    """Candidates come before their release, ten after nine."""
    written = ["0.1.9", "0.1.10", "0.2.0a1", "0.2.0b1", "0.2.0rc2", "0.2.0rc10", "0.2.0", "1.0.0"]

    orders = [order(version) for version in written]
    assert orders == sorted(orders)
    with pytest.raises(ValueError, match="is no version"):
        order("1.0")


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        ("0.1.9", ["0.1.10", "0.2.0", "1.0.0"]),
        ("1.4.2", ["1.4.3", "1.5.0", "2.0.0"]),
        ("0.2.0rc1", ["0.2.0"]),
    ],
)
def test_the_next_version(version: str, wanted: list[str]) -> None:
    """One step, in one place; after a candidate comes what it announces."""
    assert steps(version) == wanted


@pytest.mark.parametrize(
    ("version", "wanted"),
    [("0.2.3", ">=0.2,<0.3"), ("0.2.0rc1", ">=0.2.0rc1,<0.3"), ("1.4.0", ">=1.4,<2")],
)
def test_the_range_that_keeps_a_promise(version: str, wanted: str) -> None:
    """Minor versions break while the major one is 0, later only major ones."""
    assert series(version) == wanted


@pytest.mark.parametrize(
    ("version", "since", "allowed"),
    [
        ("0.1.1", "0.1.0", False),
        ("0.2.0", "0.1.0", True),
        ("0.2.0rc1", "0.1.9", True),
        ("1.0.0", "0.9.0", True),
        ("1.1.0", "1.0.0", False),
        ("2.0.0", "1.9.0", True),
    ],
)
def test_who_may_break(version: str, since: str, *, allowed: bool) -> None:
    """The same rule, from the other side."""
    assert breaks_allowed(version, since) is allowed


# -------------------------------------------------------------------------------- changes


class Repository:
    """A package with one release behind it, and a griffe that says what it is told to say."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.member = root / "packages" / _NAME
        self.module = self.member / "src" / "pingora_left"
        (self.member / "changelog.d").mkdir(parents=True)
        self.module.mkdir(parents=True)
        self.write("__init__.py", '__all__ = ["get", "put"]')
        self.write("part.py", '__all__ = ["open"]')
        self.write("_own.py", '__all__ = ["anything"]')
        (self.member / "CHANGELOG.md").write_text("# x\n\n## 0.1.0 (2026-01-01)\n\n- Breaking: x\n")
        self.git("init", "--quiet")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=x")
        for version in ("0.1.0", "0.1.0rc2", "0.2.0rc1", "no-version"):
            self.git("tag", f"{_NAME}-{version}")
        self.griffe_says("")

    def git(self, *arguments: str) -> None:
        settings = "-c user.name=x -c user.email=x@y -c commit.gpgSign=false -c tag.gpgSign=false"
        subprocess.run(["git", *settings.split(), *arguments], cwd=self.root, check=True)

    def write(self, name: str, text: str) -> None:
        (self.module / name).write_text(text + "\n")

    def griffe_says(self, text: str, code: int = 0) -> None:
        program = self.root / "griffe"
        program.write_text(f"#!/bin/sh\ncat << END\n{text}\nEND\nexit {code}\n")
        program.chmod(0o755)

    def changes(self) -> list[str]:
        return changes(self.root, self.member, f"{_NAME}-0.1.0")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    for module in (interface, versions):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    return Repository(tmp_path)


def test_the_last_release_is_the_greatest_tag_behind_us(repository: Repository) -> None:
    """Not a candidate, not what is no version, not what another branch has released."""
    assert last_release(_NAME) == "0.1.0"
    assert last_release("pingora") is None
    repository.git("checkout", "--quiet", "-b", "other")
    repository.git("commit", "--quiet", "--allow-empty", "--message=x")
    repository.git("tag", f"{_NAME}-0.10.0")
    assert last_release(_NAME) == "0.10.0"
    repository.git("checkout", "--quiet", "-")
    assert last_release(_NAME) == "0.1.0"


def test_an_interface_that_grew_breaks_nobody(repository: Repository) -> None:
    """More names, and whatever happens in private modules."""
    repository.write("__init__.py", '__all__ = ["get", "more", "put"]')
    repository.write("_own.py", "")

    assert repository.changes() == []


def test_breaks_are_listed(repository: Repository) -> None:
    """What griffe finds, and names that are exported no more."""
    finding = "packages/pingora-left/src/pingora_left/part.py:3: open(mode): Parameter was removed"
    repository.griffe_says(finding, 1)
    repository.write("__init__.py", '__all__ = ["get"]')
    (repository.module / "part.py").unlink()

    assert repository.changes() == [
        "pingora_left/part.py:3: open(mode): Parameter was removed",
        "pingora_left/__init__.py: put: no longer in __all__",
    ]


@pytest.mark.parametrize(("text", "code"), [("Traceback (most recent", 1), ("", 1), ("x", 2)])
def test_a_comparison_that_fails_is_no_pass(repository: Repository, text: str, code: int) -> None:
    """Nor a break: it is told as what it is."""
    repository.griffe_says(text, code)

    with pytest.raises(VerbError, match="griffe cannot compare"):
        repository.changes()


def test_a_break_is_announced_by_an_item(repository: Repository) -> None:
    """Of a fragment, or of the changelog above the release; not of a release before."""
    folder = repository.member / "changelog.d"
    (folder / "1.md").write_text("- Not Breaking: x\n")
    assert announced(repository.member, "0.1.0") == []
    (folder / "2.md").write_text("- New.\n- Breaking: `put` is gone; use `get`.\n")
    changelog = repository.member / "CHANGELOG.md"
    changelog.write_text(
        changelog.read_text().replace("# x", "# x\n\n## 0.2.0rc1\n\n- Breaking: x")
    )

    assert announced(repository.member, "0.1.0") == ["2.md", "CHANGELOG.md"]


# ------------------------------------------------------------------------- builds, uploads


@pytest.mark.parametrize("stable", [True, False])
def test_two_builds_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stable: bool
) -> None:
    """A build that differs elsewhere is refused, with the name of the file."""
    member = tmp_path / "packages" / _NAME
    (member / "src" / "__pycache__").mkdir(parents=True)
    (member / "src" / "left.py").write_text("x")
    (tmp_path / ".gitignore").write_text("dist/\n")
    sources: list[Path] = []

    def build(*command: str | Path, environment: dict[str, str], downloads: bool) -> None:
        assert environment["SOURCE_DATE_EPOCH"] == "1580601600"
        assert "--require-hashes" in command
        source, target = command[-1], command[-2]
        assert not isinstance(source, str)
        assert not isinstance(target, str)
        sources.append(source)
        target.mkdir(parents=True)
        (target / "left.whl").write_text("wheel" if stable else f"wheel of {source}")
        (target / "left.tar.gz").write_text("sdist")
        (target / ".gitignore").write_text("*")

    monkeypatch.setattr(artifacts, "ROOT", tmp_path)
    monkeypatch.setattr(artifacts, "hatch", lambda: ["/bin/python"])
    monkeypatch.setattr(artifacts, "run", build)
    directory = tmp_path / "built"

    if stable:
        files = artifacts.build_twice(member, directory)
        assert sorted(path.name for path in files) == ["left.tar.gz", "left.whl"]
    else:
        with pytest.raises(VerbError, match=r"two builds differ: left\.whl"):
            artifacts.build_twice(member, directory)
    here, elsewhere = sources
    assert here == member
    assert [path.name for path in (elsewhere / "src").iterdir()] == ["left.py"]
    assert (elsewhere / "src" / "left.py").stat().st_mode & 0o777 == 0o600


def test_files_are_kept_both_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the second cannot be copied ``dist`` is as it was."""
    monkeypatch.setattr(artifacts, "ROOT", tmp_path)
    wheel = tmp_path / "left.whl"
    wheel.write_text("new")

    with pytest.raises(FileNotFoundError):
        artifacts.keep([wheel, tmp_path / "left.tar.gz"])
    assert list((tmp_path / "dist").iterdir()) == []

    assert artifacts.keep([wheel]) == [tmp_path / "dist" / "left.whl"]


_FIELDS = {
    ":action": "file_upload",
    "name": _NAME,
    "version": "0.1.0",
    "metadata_version": "2.4",
    "requires_python": ">=3.11",
    "description": "# left",
}
_CONTENT = bytes(range(256)) + b"\r\n\r\n--\r\n"


def _upload(address: str, fields: dict[str, str], content: bytes) -> tuple[int, str]:
    digest = hashlib.sha256(_CONTENT).hexdigest()
    parts = [
        f'--X\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in {**fields, "sha256_digest": digest}.items()
    ]
    file = b'--X\r\nContent-Disposition: form-data; name="content"; filename="left.whl"\r\n'
    body = b"".join([*parts, file, b"\r\n", content, b"\r\n--X--\r\n"])
    kind = {"Content-Type": "multipart/form-data; boundary=X"}
    request = urllib.request.Request(address, body, kind)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


def test_a_rehearsed_upload_arrives_whole() -> None:
    """What twine would send is read as an index reads it, byte by byte."""
    with rehearsal_index() as (address, arrived):
        assert _upload(address, _FIELDS, _CONTENT) == (200, "")

    (upload,) = arrived
    assert (upload.filename, upload.content) == ("left.whl", _CONTENT)
    assert upload.fields["version"] == "0.1.0"


@pytest.mark.parametrize(
    ("fields", "content", "told"),
    [
        (_FIELDS, b"other", "left.whl: has arrived damaged"),
        ({**_FIELDS, "description": ""}, _CONTENT, "left.whl: without description"),
        ({**_FIELDS, ":action": "other"}, _CONTENT, "not an upload"),
    ],
)
def test_a_rehearsed_upload_is_refused(fields: dict[str, str], content: bytes, told: str) -> None:
    """A file that is damaged or says too little of itself."""
    with rehearsal_index() as (address, arrived):
        assert _upload(address, fields, content) == (400, told)

    assert arrived == []


@pytest.mark.skipif(shutil.which("sh") is None, reason="the programs are shell scripts")
@pytest.mark.parametrize("verb", ["check", "upload"])
def test_what_the_index_says_is_passed_on(tmp_path: Path, verb: str) -> None:
    """A refusal stops the release with the words of twine."""
    program = tmp_path / "twine"
    program.write_text(f'#!/bin/sh\n[ "$1" = {verb} ] && echo "no description" && exit 1\nexit 0\n')
    program.chmod(0o755)

    with pytest.raises(VerbError, match="no description"):
        artifacts.judge(tmp_path, [tmp_path / "left.whl"], _NAME, "0.1.0")
