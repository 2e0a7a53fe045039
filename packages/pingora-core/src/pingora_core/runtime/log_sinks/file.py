"""Log lines into a file, or to standard output."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, final

from pingora_core.runtime.log_sinks.sink import LogSink

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["FileSink", "StdoutSink"]

_STDOUT: Final = 1


@final
class FileSink(LogSink):
    """Appends to a file.

    Each batch of lines is one write in append mode, so that several processes may share a file.

    Args:
        path: The file; made with ``mode`` if it is not there.
        mode: Its permissions.
    """

    def __init__(self, path: str | Path, *, mode: int = 0o640) -> None:
        self._path = os.fspath(path)
        self._mode = mode
        self._fd: int | None = None
        self._stale = False

    def write(self, lines: Sequence[bytes]) -> None:
        """Append lines.

        Args:
            lines: Without line ends.

        Raises:
            OSError: If the file cannot be opened or written.
        """
        if self._fd is None or self._stale:
            self._open()
        assert self._fd is not None
        _write_all(self._fd, lines)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            fd = os.open(self._path, flags, self._mode)
        except OSError:
            if self._fd is None:
                raise
            return  # the old one stays in use
        old, self._fd = self._fd, fd
        self._stale = False
        if old is not None:
            os.close(old)

    def reopen(self) -> None:
        """Open the file by its name before the next line; the old one is used until that works."""
        self._stale = True

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


@final
class StdoutSink(LogSink):
    """Writes to standard output."""

    def write(self, lines: Sequence[bytes]) -> None:
        """Write lines.

        Args:
            lines: Without line ends.
        """
        _write_all(_STDOUT, lines)


def _write_all(fd: int, lines: Sequence[bytes]) -> None:
    data = b"\n".join(lines) + b"\n"
    while data:
        data = data[os.write(fd, data) :]
