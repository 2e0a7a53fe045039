"""The verb ``api``: whether the public interfaces are typed, and what has changed in them.

Completeness is judged on the wheels, as users get them, by pyright's ``--verifytypes``; changes are
found by griffe, against the last tag of each package.
"""

from __future__ import annotations

import re
import tempfile
import tomllib
from pathlib import Path

from devtool.environments import environment, hatch
from devtool.shell import ROOT, VerbError, members, output, say

__all__ = ["api"]

_SCORE = re.compile(r"Type completeness score: ([0-9.]+)%")
_PROBLEM = re.compile(r"^ *(?:.*?/site-packages/)?(.*? - error: .*)$", re.MULTILINE)


def api() -> None:
    """Check the public interface of each package.

    Raises:
        VerbError: A part of one is not typed, or has changed in a way that breaks its users.
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
        code, text = output(*command, cwd=directory)
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
        pattern = f"{member.name}-*"
        _, tags = output("git", "tag", "--list", pattern, "--sort=-creatordate", cwd=ROOT)
        tag = next(iter(tags.split()), None)
        if tag is None:
            print(f"{member.name}: not released yet", flush=True)
            continue
        module = member.name.replace("-", "_")
        source = (member / "src").relative_to(ROOT)
        code, text = output(
            programs / "griffe", "check", module, "--search", source, "--against", tag, cwd=ROOT
        )
        print(f"{member.name}: {'as' if code == 0 else 'CHANGED since'} {tag}", flush=True)
        if code != 0:
            print(text.rstrip(), flush=True)
            failed.append(f"{member.name} (changed since {tag})")
    return failed
