"""A steady rate with a bounded burst, over all worker processes of a server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, final

from pingora_limits._faces import BucketLimiter
from pingora_limits._tally import check_amount
from pingora_limits.shared._buckets import SharedBuckets

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["SharedTokenBucket"]


@final
class SharedTokenBucket(BucketLimiter):
    """``TokenBucket`` over all processes that are forked after it was made.

    Make it before the server forks its workers, and use it in them. Each process keeps in memory of
    its own what it took, and all others read it; what a process took before it died stays taken.
    Two processes that decide at the same moment do not see each other's decision: each worker
    beyond the first may thus allow one too many.

    A process has room for ``expected_keys`` keys within the time that a bucket takes to fill;
    further ones share a sketch, where a bucket may look emptier than it is, but never fuller. A
    process that finds no slot free has buckets for itself alone, and says so in the log.

    When the clock goes back, buckets are full again at the latest after twice the time that an
    empty one takes to fill.

    Args:
        rate: Tokens per second in all processes together, above 0 and at most 4 Gi.
        burst: Tokens that a bucket holds, at least 1.
        processes: Processes that take tokens at the same time at most. A slot that was never used
            costs no memory.
        expected_keys: Keys that a process is expected to see within the time that a bucket takes
            to fill, at least 1.
        clock: Seconds that only grow, the same in all processes.

    Raises:
        ValueError: If a number is out of range.
    """

    __slots__ = ("_shared",)

    def __init__(
        self,
        rate: float,
        burst: int,
        *,
        processes: int = 64,
        expected_keys: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_amount(burst, 1)
        self._shared = SharedBuckets(
            rate, burst, processes=processes, expected_keys=expected_keys, clock=clock
        )
        super().__init__(self._shared)

    def close(self) -> None:
        """Give the memory back; no token can be taken in this process any more."""
        self._shared.close()
