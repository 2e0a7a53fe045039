"""The verb ``build``: every wheel and sdist, as a release would have them, each wheel proved alone.

Each is built twice, in two places, and has to come out the same; an index has to accept it.
A wheel is installed into an empty environment with nothing but what it declares; siblings may
only come from ``dist``, never from an index where somebody else could own the name. There it is
imported, and the sample program of its package is run and type-checked as a user would.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from devtool.artifacts import build_twice, judge, keep
from devtool.environments import environment, hatch
from devtool.shell import ROOT, VerbError, members, output
from devtool.versions import current_version

__all__ = ["build"]

_DIST = ROOT / "dist"
_SAMPLES = ROOT / "tests" / "typing" / "downstream"


def build() -> None:
    """Fill a clean ``dist`` and prove what is in it.

    Raises:
        VerbError: A build fails or is not repeatable, an index would refuse it, or a wheel does not
            stand alone.
    """
    programs = environment()
    judges = environment("release")
    shutil.rmtree(_DIST, ignore_errors=True)
    wheels = {member.name: _built(member, judges) for member in members()}
    with tempfile.TemporaryDirectory(prefix="pingora-build-") as name:
        directory = Path(name)
        constraints = directory / "constraints.txt"
        lines = [f"{package} @ {wheel.as_uri()}\n" for package, wheel in wheels.items()]
        constraints.write_text("".join(lines))
        failed = [
            package
            for package in wheels
            if not _stands_alone(package, directory / package, constraints, programs)
        ]
    if failed:
        raise VerbError(f"failed: {', '.join(failed)}")
    print(f"{len(wheels)} wheels and {len(wheels)} sdists in {_DIST.relative_to(ROOT)}", flush=True)


def _built(member: Path, judges: Path) -> Path:
    with tempfile.TemporaryDirectory(prefix="pingora-dist-") as name:
        files = build_twice(member, Path(name))
        judge(judges, files, member.name, current_version(member))
        return next(path for path in keep(files) if path.suffix == ".whl")


def _stands_alone(package: str, directory: Path, constraints: Path, programs: Path) -> bool:
    sample = _SAMPLES / f"use_{package.removeprefix('pingora-').replace('-', '_')}.py"
    directory.mkdir()
    shutil.copy(sample, directory)
    python = directory / "env" / "bin" / "python"
    uv = str(Path(hatch()[0]).with_name("uv"))
    into = ("--quiet", "--python", str(python))
    mypy = ("--strict", "--config-file=", "--cache-dir", str(directory / "cache"))
    steps: dict[str, tuple[str | Path, ...]] = {
        "make environment": (uv, "venv", "--quiet", "--python", programs / "python", "env"),
        "install": (uv, "pip", "install", *into, "--constraint", constraints, package),
        "consistent": (uv, "pip", "check", *into),
        "import": (python, "-I", "-W", "error", "-c", f"import {package.replace('-', '_')}"),
        "run sample": (python, "-I", "-W", "error", sample.name),
        "type-check sample": (programs / "mypy", *mypy, "--python-executable", python, sample.name),
    }
    for name, command in steps.items():
        code, text = output(*command, cwd=directory, downloads=name == "install")
        if code != 0:
            print(f"FAILED  {package}: {name}\n{text.rstrip()}", flush=True)
            return False
    print(f"ok      {package}", flush=True)
    return True
