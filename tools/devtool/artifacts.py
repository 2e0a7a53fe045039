"""The files of a release: built so that anybody builds the same, and judged as an index would.

The same tree gives the same bytes: the times inside are hatchling's own constant, the build tools
are those of ``build-requirements.txt``, with their checksums, and neither the folder, nor the
permissions of the files, nor their times, nor the umask count. Two builds prove it each time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from devtool.environments import hatch, hatch_variables
from devtool.rehearsal import rehearsal_index
from devtool.shell import ROOT, VerbError, output, run, say

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BUILD_REQUIREMENTS", "build_twice", "judge", "keep"]

BUILD_REQUIREMENTS = Path(__file__).with_name("build-requirements.txt")
# What hatchling takes when nothing is said, so that a plain build gives the same files.
_MOMENT = "1580601600"


def build_twice(member: Path, directory: Path) -> list[Path]:
    """Build wheel and sdist, and again elsewhere under other circumstances.

    Args:
        member: The folder of the package.
        directory: Where to build.

    Returns:
        The two files.

    Raises:
        VerbError: A build fails, or the two differ.
    """
    variables = {**hatch_variables(), "SOURCE_DATE_EPOCH": _MOMENT}
    say(f"building {member.name} ...")
    first = _built(member, directory / "first", variables, umask="022")
    say(f"building {member.name} elsewhere ...")
    copy = _copy(member, directory / "elsewhere")
    second = _built(copy, directory / "second", variables, umask="077")
    if first.keys() != second.keys():
        raise VerbError(f"two builds differ: {sorted(first)}, {sorted(second)}")
    different = sorted(name for name in first if _digest(first[name]) != _digest(second[name]))
    if different:
        raise VerbError(f"two builds differ: {', '.join(different)}")
    for name, path in first.items():
        print(f"  {name}  sha256:{_digest(path)}", flush=True)
    return list(first.values())


def judge(programs: Path, files: list[Path], package: str, version: str) -> None:
    """Check the files as the index does, and send them to one that keeps nothing.

    Args:
        programs: The folder of twine.
        files: The files.
        package: The package they are of.
        version: The version they are of.

    Raises:
        VerbError: The index would not take one of them.
    """
    code, text = output(programs / "twine", "check", "--strict", *files)
    if code != 0:
        raise VerbError(f"the index would refuse it:\n{text.rstrip()}")
    with rehearsal_index() as (address, arrived):
        login = ("--username=rehearsal", "--password=rehearsal", "--non-interactive")
        where = ("--repository-url", address, "--disable-progress-bar")
        code, text = output(programs / "twine", "upload", *where, *login, *files)
    told = {(each.fields["name"], each.fields["version"], each.filename) for each in arrived}
    wanted = {(package, version, path.name) for path in files}
    if code != 0 or told != wanted:
        raise VerbError(f"the rehearsed upload fails: {sorted(told)}\n{text.rstrip()}")
    print(f"  rehearsed the upload of {len(files)} files", flush=True)


def keep(files: list[Path]) -> list[Path]:
    """Put the files into ``dist``, both or none.

    Args:
        files: The files.

    Returns:
        Where they are.
    """
    folder = ROOT / "dist"
    folder.mkdir(exist_ok=True)
    parts = [folder / f".{path.name}.part" for path in files]
    try:
        for path, part in zip(files, parts, strict=True):
            shutil.copyfile(path, part)
        return [part.replace(folder / path.name) for path, part in zip(files, parts, strict=True)]
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _built(
    member: Path, target: Path, variables: Mapping[str, str], *, umask: str
) -> dict[str, Path]:
    uv = Path(hatch()[0]).with_name("uv")
    tools = ("--build-constraints", BUILD_REQUIREMENTS, "--require-hashes")
    build = (uv, "build", "--quiet", *tools, "--out-dir", target, member)
    masked = ("sh", "-c", f'umask {umask} && exec "$@"', "sh")
    run(*masked, *build, environment=variables, downloads=True)
    files = {path.name: path for path in sorted(target.iterdir()) if path.suffix in {".whl", ".gz"}}
    if len(files) != 2:
        raise VerbError(f"not one wheel and one sdist: {sorted(files)}")
    return files


def _copy(member: Path, directory: Path) -> Path:
    copy = directory / "packages" / member.name
    shutil.copytree(member, copy, ignore=shutil.ignore_patterns("__pycache__"))
    # An sdist holds the nearest one; where there is none it would be another file.
    shutil.copyfile(ROOT / ".gitignore", directory / ".gitignore")
    for path in [directory, *directory.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return copy


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
