"""At most so much within a window of time, over all worker processes of a server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, final

from pingora_limits._faces import WindowLimiter
from pingora_limits._tally import check_amount
from pingora_limits.shared._counters import SharedCounters

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SharedSlidingWindow"]


@final
class SharedSlidingWindow(WindowLimiter):
    """``SlidingWindow`` over all processes that are forked after it was made.

    How it counts is told in ``SharedRate``. Two processes that decide at the same moment do not see
    each other's decision: each worker beyond the first may thus allow one too many.

    Args:
        limit: What is allowed within a window in all processes together, at least 1.
        window: Length of the window in seconds, above 0.
        processes: Processes that count at the same time at most.
        expected_keys: Keys that a process is expected to see within a window, at least 1.
        counts_refused: Whether what was refused counts too.
        clock: Seconds that only grow, the same in all processes.

    Raises:
        ValueError: If a number is out of range.
    """

    __slots__ = ("_shared",)

    def __init__(
        self,
        limit: int,
        window: float,
        *,
        processes: int = 64,
        expected_keys: int = 10_000,
        counts_refused: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_amount(limit, 1)
        self._shared = SharedCounters(
            window, processes=processes, expected_keys=expected_keys, clock=clock
        )
        super().__init__(limit, self._shared, counts_refused=counts_refused)

    def close(self) -> None:
        """Give the memory back; nothing can be counted in this process any more."""
        self._shared.close()
