"""What takes log lines in the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LogSink", "PartlyWrittenError"]


class PartlyWrittenError(OSError):
    """Some lines of a batch were written, the others were not.

    Args:
        written: How many were.
        cause: Why the others were not.

    Attributes:
        written: As given.
    """

    def __init__(self, written: int, cause: OSError) -> None:
        super().__init__(*cause.args)
        self.written: int = written


class LogSink(ABC):
    """Writes lines. Called by one thread at a time, which may be held up."""

    @abstractmethod
    def write(self, lines: Sequence[bytes]) -> None:
        """Write lines.

        Args:
            lines: Without line ends.

        Raises:
            OSError: If they cannot be written; `PartlyWrittenError` if some of them were.
        """

    def reopen(self) -> None:  # noqa: B027 - most have nothing to open anew
        """Open anew what was opened by name; for log rotation. Does not fail: `write` may."""

    def close(self) -> None:  # noqa: B027 - some have nothing to close
        """Let go of everything; nothing on the second call.

        Also called in a process that was forked from one that writes, and may be written to
        afterwards: what the two shared is not to be used by both.
        """
