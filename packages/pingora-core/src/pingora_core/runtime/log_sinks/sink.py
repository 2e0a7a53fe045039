"""What takes log lines in the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LogSink"]


class LogSink(ABC):
    """Writes lines. Called by one thread at a time, which may be held up."""

    @abstractmethod
    def write(self, lines: Sequence[bytes]) -> None:
        """Write lines.

        Args:
            lines: Without line ends.

        Raises:
            OSError: If they cannot be written, all or some of them.
        """

    def reopen(self) -> None:  # noqa: B027 - most have nothing to open anew
        """Open anew what was opened by name, before the next line; for log rotation."""

    def close(self) -> None:  # noqa: B027 - some have nothing to close
        """Let go of everything; nothing on the second call."""
