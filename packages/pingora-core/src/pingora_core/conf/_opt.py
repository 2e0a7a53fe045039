"""The command line that every server program understands."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, final

from pingora_core.conf._environment import CONF_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Opt", "program_name"]


def program_name() -> str:
    """Say what the program of this process is called, for messages.

    Returns:
        The name of its file, or of the package that was run with ``python -m``.
    """
    path = Path(sys.argv[0] or "pingora")
    return path.parent.name if path.name == "__main__.py" and path.parent.name else path.name


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # The usage text that argparse prints first hides the one line that matters.
        text = " ".join(message.split())
        if text.startswith("unrecognized"):
            text = f"{text}, {self.format_usage().removeprefix('usage: ')}"
        self.exit(2, f"{self.prog}: error: {' '.join(text.split())}\n")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Opt:
    """The options of a server program.

    Attributes:
        upgrade: Take the listening sockets over from the server that runs (``-u``).
        daemon: Go to the background (``-d``); the configuration file may ask for it too.
        test: Check the configuration and exit: 0 if it is good, 2 if not (``-t``).
        conf: Path of the configuration file (``-c``, else the environment variable
            ``PINGORA_CONF``); None for the defaults.
        nocapture: Accepted for Pingora's test harness, without effect.

    Source: pingora-core/src/server/configuration/mod.rs.
    """

    upgrade: bool = False
    daemon: bool = False
    test: bool = False
    conf: str | None = None
    nocapture: bool = False

    @classmethod
    def parse_args(
        cls, args: Sequence[str] | None = None, *, conf: str | os.PathLike[str] | None = None
    ) -> Opt:
        """Read the options from a command line.

        Args:
            args: The arguments without the program's name; None for those of this process.
            conf: The configuration file to use if nobody names another one; None for none.

        Returns:
            The options.

        Raises:
            SystemExit: 2 after one line on standard error if an argument is wrong; 0 for
                ``--help``.
        """
        namespace = cls.parser().parse_args(args)
        if conf is not None and namespace.conf is None:
            namespace.conf = os.fspath(conf)
        return cls.from_namespace(namespace)

    @classmethod
    def parser(cls, description: str | None = None) -> argparse.ArgumentParser:
        """Make a parser with these options, for a program that adds its own.

        Args:
            description: What the program does, for its ``--help``.

        Returns:
            A parser whose errors are one line and exit code 2.
        """
        parser = _OneLineParser(prog=program_name(), description=description, allow_abbrev=False)
        add = parser.add_argument
        add("-u", "--upgrade", action="store_true", help="take over from the running server")
        add("-d", "--daemon", action="store_true", help="run in the background")
        add("-t", "--test", action="store_true", help="check the configuration and exit")
        add(
            "-c",
            "--conf",
            metavar="FILE",
            default=os.environ.get(CONF_VARIABLE) or None,
            help=f"configuration file (YAML); else the one that {CONF_VARIABLE} names",
        )
        add("--nocapture", action="store_true", help=argparse.SUPPRESS)
        return parser

    @classmethod
    def from_namespace(cls, namespace: argparse.Namespace) -> Opt:
        """Pick the options out of what a `parser` returned.

        Args:
            namespace: The parsed arguments; may hold others.

        Returns:
            The options.
        """
        conf: str | None = namespace.conf
        return cls(
            upgrade=bool(namespace.upgrade),
            daemon=bool(namespace.daemon),
            test=bool(namespace.test),
            conf=conf,
            nocapture=bool(namespace.nocapture),
        )
