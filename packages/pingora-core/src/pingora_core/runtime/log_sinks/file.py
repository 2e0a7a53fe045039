"""Log lines into a file, or to standard output."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Final, final

from pingora_core.runtime.log_sinks.sink import LogSink, PartlyWrittenError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["FileSink", "StdoutSink"]

_STDOUT: Final = 1
_LINE_END: Final = 0x0A
_PATIENCE_MS: Final = 2000
"""How long a pipe that is full is waited for, where nobody has made it a blocking one."""


@final
class FileSink(LogSink):
    """Appends to a file.

    Each batch of lines is one write in append mode, so that several processes may share a file. A
    line that a full disk has cut short is ended by the next one that can be written.

    Args:
        path: The file; made with ``mode`` if it is not there.
        mode: Its permissions.
    """

    def __init__(self, path: str | Path, *, mode: int = 0o640) -> None:
        self._path = os.fspath(path)
        self._mode = mode
        self._fd: int | None = None
        self._stale = False
        self._lines = _Lines()

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
        self._lines.write(self._fd, lines)

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
        self._lines = _Lines()
        if old is not None:
            os.close(old)

    def reopen(self) -> None:
        """Open the file by its name; the old one is used until that works."""
        self._stale = True
        if self._fd is not None:
            self._open()

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


@final
class StdoutSink(LogSink):
    """Writes to standard output."""

    def __init__(self) -> None:
        self._lines = _Lines()

    def write(self, lines: Sequence[bytes]) -> None:
        """Write lines.

        Args:
            lines: Without line ends.

        Raises:
            OSError: If nobody reads them any more, or not for two seconds.
        """
        self._lines.write(_STDOUT, lines)


class _Lines:
    # Writes whole lines: what was cut short is ended before anything else is written.
    __slots__ = ("_is_torn",)

    def __init__(self) -> None:
        self._is_torn = False

    def write(self, fd: int, lines: Sequence[bytes]) -> None:
        data = b"\n".join(lines) + b"\n"
        rest = memoryview(b"\n" + data if self._is_torn else data)
        while rest:
            try:
                rest = rest[os.write(fd, rest) :]
            except BlockingIOError as error:
                poll = select.poll()
                poll.register(fd, select.POLLOUT)
                if not poll.poll(_PATIENCE_MS):
                    self._failed(data, len(rest), error)
            except OSError as error:
                self._failed(data, len(rest), error)
        self._is_torn = False

    def _failed(self, data: bytes, left: int, cause: OSError) -> None:
        done = len(data) - left
        if done < 0:
            raise cause  # not even the end of the torn one
        self._is_torn = done > 0 and data[done - 1] != _LINE_END
        raise PartlyWrittenError(data.count(b"\n", 0, done), cause) from cause
