"""The verb ``check``: every gate that needs no test to run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devtool.environments import environment
from devtool.shell import ROOT, VerbError, members, output, run

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check"]

# A program of its own, because it imports the packages.
_CONFIGURATION = "tools/devtool/configuration.py"


@dataclass(frozen=True, slots=True)
class _Gate:
    name: str
    command: tuple[str | Path, ...]


def check(*, fix: bool = False) -> None:
    """Run all gates; those that fail show their output.

    Args:
        fix: First let ruff mend what it can, and write generated pages anew.

    Raises:
        VerbError: At least one gate failed.
    """
    programs = environment()
    if fix:
        run(programs / "ruff", "check", "--fix", "--quiet", ".")
        run(programs / "ruff", "format", "--quiet", ".")
        run(programs / "python", _CONFIGURATION)
    failed = [gate.name for gate in _gates(programs) if not _passes(gate)]
    if failed:
        raise VerbError(f"failed: {', '.join(failed)}")


def _gates(programs: Path) -> list[_Gate]:
    gates = [
        _Gate("format", (programs / "ruff", "format", "--check", ".")),
        _Gate("lint", (programs / "ruff", "check", "--output-format=concise", "--quiet", ".")),
        _Gate("types", (programs / "mypy",)),
        # Its cache does not see that a new module changes what an old import means.
        _Gate("layers", (programs / "lint-imports", "--no-logo", "--no-cache")),
        _Gate("configuration reference", (programs / "python", _CONFIGURATION, "--check")),
    ]
    for member in members():
        source = (member / "src").relative_to(ROOT)
        config = (member / "pyproject.toml").relative_to(ROOT)
        command = (programs / "deptry", "--no-ansi", source, "--config", config)
        gates.append(_Gate(f"dependencies of {member.name}", command))
    return gates


def _passes(gate: _Gate) -> bool:
    started = time.monotonic()
    code, text = output(*gate.command)
    seconds = time.monotonic() - started
    print(f"{'ok' if code == 0 else 'FAILED':6}  {gate.name}  ({seconds:.1f} s)", flush=True)
    if code != 0:
        print(text.rstrip(), flush=True)
    return code == 0
