"""The command line: ``python -m pingora_proxy new NAME`` begins a project."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pingora_proxy._version import __version__
from pingora_proxy.scaffold import create_project

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Its arguments; None for those of the process.

    Returns:
        What the process exits with.
    """
    parser = argparse.ArgumentParser(prog="python -m pingora_proxy", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("new", help="write a small, typed, tested project")
    new.add_argument("name", metavar="NAME", help="such as edge-proxy")
    new.add_argument("--directory", type=Path, help="where to; ./NAME by default")
    parsed = parser.parse_args(arguments)
    directory: Path = parsed.directory or Path(parsed.name)
    try:
        written = create_project(directory, parsed.name)
    except (OSError, ValueError) as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    for path in written:
        sys.stdout.write(f"{path}\n")
    sys.stdout.write(
        f"\nNext:\n  cd {directory}\n  python3 -m venv .venv && . .venv/bin/activate\n"
        f"  pip install -e '.[dev]'     # if it finds no pingora-proxy: see README.md\n"
        f"  pytest && mypy\n"
        f"  python -m {parsed.name.replace('-', '_')} -c {parsed.name}.yaml\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
