"""The verb ``release``: one package, from its changelog fragments to files that can be uploaded.

What it does, in this order: it checks that the version is new and the tree is clean; it puts the
fragments of ``changelog.d`` into the changelog, writes the version and, where the minor number
changes, the ranges by which siblings require the package; it builds wheel and sdist twice and
compares them byte by byte; it checks them as the index does. Nothing is uploaded and nothing is
tagged: the commands for that are printed. ``--dry-run`` leaves the tree as it was.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from devtool.environments import environment, hatch, hatch_variables
from devtool.shell import ROOT, VerbError, members, output, run, say

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["release"]

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:(a|b|rc)(\d+))?")
_UNRELEASED = re.compile(r"^## .*\(unreleased\)\n\n?", re.MULTILINE)


def release(package: str, version: str, *, dry_run: bool) -> None:
    """Prepare a release.

    Args:
        package: The package, such as ``pingora-http``.
        version: The version to release.
        dry_run: Whether to leave the tree as it was.

    Raises:
        VerbError: If something stands in the way; the tree is as it was then.
    """
    folder = _folder_of(package)
    current = _current_version(folder)
    _require(
        _VERSION.fullmatch(version) is not None, f"{version!r} is no version: X.Y.Z[aN|bN|rcN]"
    )
    _require(_order(version) >= _order(current), f"{version} is older than {current}")
    code, changes = output("git", "status", "--porcelain", cwd=ROOT)
    _require(dry_run or (code == 0 and not changes.strip()), "the tree is not clean: commit first")
    code, _ = output("git", "rev-parse", "--verify", f"refs/tags/{package}-{version}", cwd=ROOT)
    _require(code != 0, f"{package}-{version} is tagged already")

    touched = _rewritten(package, folder, version)
    before = {path: path.read_bytes() if path.exists() else None for path in touched}
    fragments = sorted((folder / "changelog.d").glob("*.md"))
    try:
        for path, text in touched.items():
            path.write_text(text)
        with tempfile.TemporaryDirectory(prefix="pingora-release-") as name:
            files = _built_twice(folder, Path(name))
            _checked(files)
            if not dry_run:
                _keep(files)
    except BaseException:
        _restore(before)
        raise
    if dry_run:
        _restore(before)
        say("nothing was changed; without --dry-run:")
    else:
        for fragment in fragments:
            fragment.unlink()
    tag = f"{package}-{version}"
    print(
        f"  git commit -am 'release {tag}' && git tag -s {tag}\n"
        f"  twine upload dist/{package.replace('-', '_')}-{version}*",
        flush=True,
    )


def _folder_of(package: str) -> Path:
    for member in members():
        if member.name == package:
            return member
    names = ", ".join(member.name for member in members())
    raise VerbError(f"there is no package {package}: {names}")


def _version_file(folder: Path) -> Path:
    return folder / "src" / folder.name.replace("-", "_") / "_version.py"


def _current_version(folder: Path) -> str:
    match = re.search(r'"([^"]+)"', _version_file(folder).read_text().split("__version__", 1)[1])
    if match is None:
        raise VerbError(f"{_version_file(folder)} holds no version")
    return match[1]


def _order(version: str) -> tuple[int, int, int, str, int]:
    match = _VERSION.fullmatch(version)
    if match is None:
        return (0, 0, 0, "", 0)
    major, minor, patch, stage, number = match.groups()
    # A release comes after its candidates: "z" sorts behind "a", "b" and "rc".
    return int(major), int(minor), int(patch), stage or "z", int(number or 0)


def _require(holds: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not holds:
        raise VerbError(otherwise)


# ------------------------------------------------------------------------- what changes


def _rewritten(package: str, folder: Path, version: str) -> dict[Path, str]:
    file = _version_file(folder)
    text = file.read_text()
    changed = {file: text.replace(_current_version(folder), version)}
    changed[folder / "CHANGELOG.md"] = _changelog(folder, version)
    changed.update(_sibling_ranges(package, version))
    return changed


def _changelog(folder: Path, version: str) -> str:
    text = (folder / "CHANGELOG.md").read_text()
    fragments = sorted((folder / "changelog.d").glob("*.md"))
    entries = "".join(fragment.read_text().strip() + "\n" for fragment in fragments)
    heading = f"## {version} ({dt.datetime.now(dt.UTC).date()})\n"
    if _UNRELEASED.search(text):
        return _UNRELEASED.sub(lambda _: f"{heading}\n{entries}", text, count=1)
    _require(bool(entries), f"{folder.name}: nothing to tell: no fragment in changelog.d")
    title, _, rest = text.partition("\n\n")
    return f"{title}\n\n{heading}\n{entries}\n{rest}"


def _sibling_ranges(package: str, version: str) -> Iterator[tuple[Path, str]]:
    major, minor, _, stage, _ = _order(version)
    # A candidate comes before its release, so that ``>=0.2`` would leave 0.2.0rc1 out.
    least = f"{major}.{minor}" if stage == "z" else version
    wanted = f'"{package}>={least},<{major}.{minor + 1}"'
    pattern = re.compile(rf'"{re.escape(package)}>=[\w.]+,<[\w.]+"')
    for member in members():
        project = member / "pyproject.toml"
        text = project.read_text()
        if pattern.search(text):
            yield project, pattern.sub(wanted, text)


def _restore(before: Mapping[Path, bytes | None]) -> None:
    for path, content in before.items():
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(content)


# ------------------------------------------------------------------------- what is built


def _built_twice(folder: Path, directory: Path) -> list[Path]:
    uv = Path(hatch()[0]).with_name("uv")
    _, moment = output("git", "log", "-1", "--format=%ct", cwd=ROOT)
    variables = {**hatch_variables(), "SOURCE_DATE_EPOCH": moment.strip() or "0"}
    runs: list[dict[str, Path]] = []
    for number in ("first", "second"):
        say(f"building {folder.name}, {number} time ...")
        target = directory / number
        run(uv, "build", "--quiet", "--out-dir", target, folder, environment=variables)
        runs.append(
            {path.name: path for path in target.iterdir() if path.suffix in {".whl", ".gz"}}
        )
    first, second = runs
    _require(
        len(first) == 2 and first.keys() == second.keys(), f"not one wheel and one sdist: {first}"
    )
    different = [name for name in first if _digest(first[name]) != _digest(second[name])]
    _require(not different, f"two builds differ: {', '.join(different)}")
    for name, path in first.items():
        print(f"  {name}  sha256:{_digest(path)}", flush=True)
    return list(first.values())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _checked(files: list[Path]) -> None:
    programs = environment("release")
    code, text = output(programs / "twine", "check", "--strict", *files)
    _require(code == 0, f"the index would refuse it:\n{text.rstrip()}")


def _keep(files: list[Path]) -> None:
    (ROOT / "dist").mkdir(exist_ok=True)
    for path in files:
        shutil.copy(path, ROOT / "dist" / path.name)
