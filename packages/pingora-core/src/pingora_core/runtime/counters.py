"""What this process has done so far, counted where it is done.

Plain integers that only the event loop's thread changes: counting must cost nothing. Whoever watches
them (recycling of worker processes, metrics) reads them from time to time. A process that is forked
goes on counting from where its parent was, in a copy of its own.
"""

from __future__ import annotations

from typing import Final

__all__ = ["COUNTERS", "ProcessCounters"]


class ProcessCounters:
    """The counts of one process.

    Attributes:
        requests: HTTP requests whose head has arrived, whatever became of them.
    """

    __slots__ = ("requests",)

    def __init__(self) -> None:
        self.requests: int = 0


#: This process's own.
COUNTERS: Final = ProcessCounters()
