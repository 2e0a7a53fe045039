"""At most so much within any stretch of time of a given length, by key."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, final

from pingora_limits._counters import Counters
from pingora_limits._faces import WindowLimiter
from pingora_limits._tally import Geometry, check_amount

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SlidingWindow"]


@final
class SlidingWindow(WindowLimiter):
    """A limiter: so much within the last ``window`` seconds, as well as two counts can tell.

    What was allowed in the previous interval is taken for evenly spread over it. Who comes evenly
    is treated exactly; who saved everything for the end of an interval can get up to twice the
    limit within one window, but never more than the limit within one interval. For a bound without
    an exception there is ``TokenBucket``.

    Keys are counted as in ``Rate``: exactly up to a number of them, then by estimates that are
    never too low. Only what was allowed counts. Jumps of the clock are treated as there. Not for
    use from several threads at once.

    Args:
        limit: What is allowed within a window, at least 1.
        window: Length of the window in seconds, above 0.
        expected_keys: Keys that are expected within a window, at least 1.
        exact_keys: Keys counted exactly; None for as many as are expected.
        counts_refused: Whether what was refused counts too, so that who does not slow down stays
            refused (the samples of the original do so).
        clock: Seconds that only grow.

    Raises:
        ValueError: If a number is out of range.

    Examples:
        >>> limiter = SlidingWindow(2, 1.0)
        >>> [limiter.acquire("10.0.0.1").is_allowed for _ in range(3)]
        [True, True, False]
    """

    __slots__ = ()

    def __init__(
        self,
        limit: int,
        window: float,
        *,
        expected_keys: int = 10_000,
        exact_keys: int | None = None,
        counts_refused: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_amount(limit, 1)
        counters = Counters(window, Geometry(expected_keys, exact_keys), clock)
        super().__init__(limit, counters, counts_refused=counts_refused)
