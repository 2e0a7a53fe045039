"""The standard streams at the end of a program."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["settle_streams"]


def settle_streams() -> None:
    """Let go of what the standard streams could not write, so that it does not fail the exit.

    The interpreter writes it once more when it ends; if that fails, for instance on a full disk,
    the exit code is 120 whatever the program has chosen.
    """
    for stream in (sys.stdout, sys.stderr):
        # None in a program without a terminal, whatever the types say.
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except OSError:
            _discard(stream)


def _discard(stream: TextIO) -> None:
    with suppress(OSError, ValueError):  # no stream of a file
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.dup2(null, stream.fileno())
        finally:
            os.close(null)
        stream.flush()
