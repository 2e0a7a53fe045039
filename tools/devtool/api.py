"""The verb ``api``: whether the public interfaces are typed, and what has changed in them.

Completeness is judged on the wheels, as users get them, by pyright's ``--verifytypes``; changes are
found by comparing each package with its last release. What breaks users has to be told in the
changelog, and then asks for the version that may: ``release`` refuses another.
"""

from __future__ import annotations

import re
import tempfile
import tomllib
from pathlib import Path

from devtool.environments import environment, hatch
from devtool.interface import announced, changes
from devtool.shell import VerbError, members, output, say
from devtool.versions import last_release, tag_of

__all__ = ["api"]

_SCORE = re.compile(r"Type completeness score: ([0-9.]+)%")
_PROBLEM = re.compile(r"^ *(?:.*?/site-packages/)?(.*? - error: .*)$", re.MULTILINE)


def api() -> None:
    """Check the public interface of each package.

    Raises:
        VerbError: A part of one is not typed, or breaks its users and the changelog says nothing.
    """
    programs = environment("release")
    failed = [*_untyped(programs), *_broken(programs)]
    if failed:
        raise VerbError(f"failed: {', '.join(failed)}")


def _untyped(programs: Path) -> list[str]:
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="pingora-api-") as name:
        python = _installed(Path(name))
        variables = {"PATH": f"{python.parent}:{programs}:/usr/local/bin:/usr/bin:/bin"}
        for member in members():
            module = member.name.replace("-", "_")
            command = (programs / "pyright", "--ignoreexternal", "--verifytypes", module)
            _, text = output(*command, cwd=Path(name), environment=variables)
            score = _SCORE.search(text)
            told = "no answer" if score is None else f"{score[1]} % typed"
            print(f"{member.name}: {told}", flush=True)
            if score is None or float(score[1]) < 100:
                failed.append(f"{member.name} ({told})")
                print("\n".join(_PROBLEM.findall(text)[:40]) or text, flush=True)
    return failed


def _installed(directory: Path) -> Path:
    uv = Path(hatch()[0]).with_name("uv")
    say("installing the packages as users get them ...")
    environment_dir = directory / "env"
    python = environment_dir / "bin" / "python"
    wanted = [f"{member}[{','.join(_extras_of(member))}]" for member in members()]
    commands: list[list[str | Path]] = [
        [uv, "venv", "--quiet", environment_dir],
        [uv, "pip", "install", "--quiet", "--python", python, *wanted],
    ]
    for command in commands:
        code, text = output(*command, cwd=directory, downloads=True)
        if code != 0:
            raise VerbError(f"the packages cannot be installed:\n{text.rstrip()}")
    return python


def _extras_of(member: Path) -> list[str]:
    # With all of them, since an import that cannot be resolved is a type that is not known.
    with (member / "pyproject.toml").open("rb") as file:
        project: dict[str, dict[str, object]] = tomllib.load(file)["project"]
    return list(project.get("optional-dependencies", {}))


def _broken(programs: Path) -> list[str]:
    failed: list[str] = []
    for member in members():
        since = last_release(member.name)
        if since is None:
            print(f"{member.name}: not released yet", flush=True)
            continue
        found = changes(programs, member, tag_of(member.name, since))
        told = announced(member, since)
        print(f"{member.name}: {'BREAKS users of' if found else 'as'} {since}", flush=True)
        for line in found:
            print(f"  {line}", flush=True)
        if found and not told:
            print("  and no item of its changelog.d begins with '- Breaking:'", flush=True)
            failed.append(f"{member.name} (breaks users of {since} and does not say so)")
    return failed
