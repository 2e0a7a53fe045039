"""What the versions of a package mean, and which of them have been released.

Versions are ``X.Y.Z``, or ``X.Y.ZaN``, ``bN`` and ``rcN`` before it. While X is 0 a new Y may break
users' programs, from 1.0 on only a new X may. A released version has the tag ``PACKAGE-VERSION``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from devtool.shell import ROOT, VerbError, output

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "breaks_allowed",
    "current_version",
    "is_version",
    "last_release",
    "order",
    "series",
    "steps",
    "tag_of",
    "version_file",
]

_VERSION = re.compile(
    r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(?:(a|b|rc)(0|[1-9][0-9]*))?"
)
# A release comes after its candidates: "z" sorts behind "a", "b" and "rc".
_FINAL = "z"


def is_version(text: str) -> bool:
    """Tell whether a text is a version as we write them.

    Args:
        text: The text.

    Returns:
        Whether it is.
    """
    return _VERSION.fullmatch(text) is not None


def order(version: str) -> tuple[int, int, int, str, int]:
    """Make what versions are sorted by.

    Args:
        version: The version.

    Returns:
        The greater, the later.

    Raises:
        ValueError: If it is no version.
    """
    match = _VERSION.fullmatch(version)
    if match is None:
        msg = f"{version!r} is no version: X.Y.Z[aN|bN|rcN]"
        raise ValueError(msg)
    major, minor, patch, stage, number = match.groups()
    return int(major), int(minor), int(patch), stage or _FINAL, int(number or 0)


def steps(version: str) -> list[str]:
    """List what may come after a version: a number that was left out can never be filled in.

    Args:
        version: The version that was there before.

    Returns:
        The next versions, the smallest step first. Of a candidate its release is the first; each
        may have candidates of its own.
    """
    major, minor, patch, stage, _ = order(version)
    if stage != _FINAL:
        # What 0.2.0rc1 announced; a candidate for something else would need another base.
        return [f"{major}.{minor}.{patch}"]
    return [f"{major}.{minor}.{patch + 1}", f"{major}.{minor + 1}.0", f"{major + 1}.0.0"]


def series(version: str) -> str:
    """Write the range of versions that keep what a version promises.

    Args:
        version: The version.

    Returns:
        Such as ``>=0.2,<0.3``, from 1.0 on such as ``>=1.4,<2``.
    """
    major, minor, _, stage, _ = order(version)
    # A candidate comes before its release, so that ``>=0.2`` would leave 0.2.0rc1 out.
    least = f"{major}.{minor}" if stage == _FINAL else version
    return f">={least},<{f'0.{minor + 1}' if major == 0 else major + 1}"


def breaks_allowed(version: str, since: str) -> bool:
    """Tell whether a version may break programs that were written for an older one.

    Args:
        version: The version.
        since: The older one.

    Returns:
        Whether it may.
    """
    new, old = order(version), order(since)
    return new[0] > old[0] or (new[0] == 0 and new[1] > old[1])


def tag_of(package: str, version: str) -> str:
    """Name the tag of a release.

    Args:
        package: The package.
        version: The version.

    Returns:
        The tag.
    """
    return f"{package}-{version}"


def version_file(member: Path) -> Path:
    """Name the file that holds the version of a package.

    Args:
        member: The folder of the package.

    Returns:
        The file.
    """
    return member / "src" / member.name.replace("-", "_") / "_version.py"


def current_version(member: Path) -> str:
    """Read the version that a package says it has.

    Args:
        member: The folder of the package.

    Returns:
        The version.

    Raises:
        VerbError: It has none.
    """
    file = version_file(member)
    match = re.search(r'^__version__ = "([^"]+)"$', file.read_text(encoding="utf-8"), re.MULTILINE)
    if match is None or not is_version(match[1]):
        raise VerbError(f"{file} holds no version")
    return match[1]


def last_release(package: str) -> str | None:
    """Find the latest version that was released and is behind what is checked out.

    Args:
        package: The package.

    Returns:
        The version; None before the first release. Candidates do not count: what is new in them
        may change again.
    """
    code, tags = output("git", "tag", "--merged", "HEAD", "--list", f"{package}-*", cwd=ROOT)
    named = [tag.removeprefix(f"{package}-") for tag in tags.split()] if code == 0 else []
    released = [version for version in named if is_version(version) and order(version)[3] == _FINAL]
    return max(released, key=order, default=None)
