"""The verb ``release``: one package, from its changelog fragments to files that can be uploaded.

What it does, in this order: it checks that the version is the next one, the tree is clean, and the
public interface breaks its users in no release that may not; it puts the fragments of
``changelog.d`` into the changelog, writes the version and, where it leaves the range by which
siblings require the package, that range and a fragment of theirs; it builds wheel and sdist twice
and compares them byte by byte; it checks them as the index does and rehearses the upload. Nothing
is uploaded and nothing is tagged: the commands for that are printed. ``--dry-run`` leaves the tree
as it was, and so does a release that fails.
"""

from __future__ import annotations

import datetime as dt
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from devtool.artifacts import build_twice, judge, keep
from devtool.environments import environment
from devtool.interface import announced, changes
from devtool.shell import ROOT, VerbError, members, output, say
from devtool.versions import (
    breaks_allowed,
    current_version,
    is_version,
    last_release,
    order,
    series,
    steps,
    tag_of,
    version_file,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["release"]

_UNRELEASED = re.compile(r"^## .*\(unreleased\)\n\n?", re.MULTILINE)


def release(package: str, version: str, *, dry_run: bool) -> None:
    """Prepare a release.

    Args:
        package: The package, such as ``pingora-http``.
        version: The version to release.
        dry_run: Whether to leave the tree as it was, whatever is in it.

    Raises:
        VerbError: If something stands in the way; the tree is as it was then.
    """
    folder = _folder_of(package)
    _refuse_another_version(package, version, current_version(folder))
    if not dry_run:
        _refuse_changes()
    programs = environment("release")
    _refuse_untold_breaks(programs, folder, version)

    touched = _rewritten(package, folder, version)
    before = {path: path.read_bytes() if path.exists() else None for path in touched}
    kept: list[Path] = []
    try:
        _write(touched)
        with tempfile.TemporaryDirectory(prefix="pingora-release-") as name:
            files = build_twice(folder, Path(name))
            judge(programs, files, package, version)
            if not dry_run:
                kept = keep(files)
    except BaseException:
        _write(before)
        raise
    if dry_run:
        _write(before)
        print(f"{package} {version} can be released; nothing was changed", flush=True)
        return
    _tell_what_is_left(tag_of(package, version), kept)


def _tell_what_is_left(tag: str, files: list[Path]) -> None:
    names = " ".join(str(path.relative_to(ROOT)) for path in files)
    say("read the diff, then:")
    print(
        f"  git add packages && git commit -m 'release {tag}' && git tag -s -m {tag} {tag}\n"
        f"  twine upload {names}\n"
        f"  git push --follow-tags",
        flush=True,
    )


# ------------------------------------------------------------------------- what is refused


def _folder_of(package: str) -> Path:
    for member in members():
        if member.name == package:
            return member
    names = ", ".join(member.name for member in members())
    raise VerbError(f"there is no package {package}: {names}")


def _refuse_another_version(package: str, version: str, current: str) -> None:
    if not is_version(version):
        raise VerbError(f"{version!r} is no version: X.Y.Z[aN|bN|rcN]")
    if _is_tagged(package, version):
        raise VerbError(f"{tag_of(package, version)} is tagged already")
    if order(version) < order(current):
        raise VerbError(f"{version} is older than {current}")
    wanted = steps(current) if _is_tagged(package, current) else [current, *steps(current)]
    if re.split("a|b|rc", version)[0] not in {re.split("a|b|rc", each)[0] for each in wanted}:
        raise VerbError(f"{version} leaves versions out: the next is {', '.join(wanted)}")


def _is_tagged(package: str, version: str) -> bool:
    name = f"refs/tags/{tag_of(package, version)}"
    return output("git", "rev-parse", "--quiet", "--verify", name, cwd=ROOT)[0] == 0


def _refuse_changes() -> None:
    code, changed = output("git", "status", "--porcelain", cwd=ROOT)
    if code != 0:
        raise VerbError(f"git cannot tell whether the tree is clean:\n{changed.rstrip()}")
    if changed.strip():
        raise VerbError(f"the tree is not clean, commit first:\n{changed.rstrip()}")


def _refuse_untold_breaks(programs: Path, folder: Path, version: str) -> None:
    since = last_release(folder.name)
    if since is None:
        return
    found = changes(programs, folder, tag_of(folder.name, since))
    told = announced(folder, since)
    lines = "".join(f"\n  {line}" for line in found)
    if not breaks_allowed(version, since):
        allowed = next(each for each in steps(since) if breaks_allowed(each, since))
        if found:
            raise VerbError(f"{version} would break users of {since}: only {allowed} may{lines}")
        if told:
            where = ", ".join(told)
            raise VerbError(f"{where} tells users of {since} of a break: only {allowed} may")
    elif found and not told:
        raise VerbError(
            f"no fragment in changelog.d has an item that begins with '- Breaking:', but users "
            f"of {since} will meet{lines}"
        )


# ------------------------------------------------------------------------- what changes


def _rewritten(package: str, folder: Path, version: str) -> dict[Path, bytes | None]:
    # The new content of each file that changes; None for one that goes.
    file = version_file(folder)
    current = current_version(folder)
    texts = {
        file: file.read_text().replace(f'"{current}"', f'"{version}"'),
        folder / "CHANGELOG.md": _changelog(folder, current, version),
    }
    texts.update(_sibling_ranges(package, version))
    gone = dict.fromkeys((folder / "changelog.d").glob("*.md"))
    return {**{path: text.encode() for path, text in texts.items()}, **gone}


def _changelog(folder: Path, current: str, version: str) -> str:
    text = (folder / "CHANGELOG.md").read_text(encoding="utf-8")
    fragments = sorted((folder / "changelog.d").glob("*.md"))
    entries = "".join(each.read_text(encoding="utf-8").strip() + "\n" for each in fragments)
    heading = f"## {version} ({dt.datetime.now(dt.UTC).date()})\n"
    if _UNRELEASED.search(text):
        return _UNRELEASED.sub(lambda _: f"{heading}\n{entries}", text, count=1)
    if not entries and order(current)[:3] == order(version)[:3]:
        entries = f"- As {current}.\n"
    if not entries:
        raise VerbError(f"{folder.name}: nothing to tell: no fragment in changelog.d")
    title, _, rest = text.partition("\n\n")
    return f"{title}\n\n{heading}\n{entries}\n{rest}"


def _sibling_ranges(package: str, version: str) -> Iterator[tuple[Path, str]]:
    pattern = re.compile(rf'"{re.escape(package)}(>=([\w.]+),<([\w.]+))"')
    for member in members():
        project = member / "pyproject.toml"
        text = project.read_text(encoding="utf-8")
        match = pattern.search(text)
        if match is None or _still_fits(match[2], match[3], version):
            continue
        yield project, pattern.sub(f'"{package}{series(version)}"', text)
        fragment = member / "changelog.d" / f"requires-{package}.md"
        yield fragment, f"- Requires `{package}{series(version)}`.\n"


def _still_fits(least: str, below: str, version: str) -> bool:
    # A least version that somebody has raised is not lowered again; a candidate's goes with it.
    is_candidate = re.search("[abc]", least) is not None
    is_same_series = series(version).endswith(f",<{below}")
    return is_same_series and (not is_candidate or re.search("[abc]", version) is not None)


def _write(contents: Mapping[Path, bytes | None]) -> None:
    for path, content in contents.items():
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(content)
