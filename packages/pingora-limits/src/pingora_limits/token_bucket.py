"""A steady rate with a bounded burst, by key."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, final

from pingora_limits._buckets import Buckets
from pingora_limits._faces import BucketLimiter
from pingora_limits._tally import Geometry, check_amount

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["TokenBucket"]


@final
class TokenBucket(BucketLimiter):
    """A limiter: each key has a bucket of ``burst`` tokens that fills at ``rate`` per second.

    Within any stretch of t seconds at most ``burst + rate * t`` are allowed. It is computed as the
    generic cell rate algorithm (GCRA), which keeps one number for each key. Keys have a number of
    their own up to ``exact_keys`` of them; those that come after share a sketch, where a bucket may
    look emptier than it is, but never fuller. Memory is bounded, whatever keys come. Not for use
    from several threads at once.

    After a jump of the clock ahead buckets are full; after one back, at the latest when an empty
    one would be.

    Args:
        rate: Tokens per second, above 0.
        burst: Tokens that a bucket holds, at least 1.
        expected_keys: Keys that are expected within the time that a bucket takes to fill, at
            least 1.
        exact_keys: Keys with a number of their own; None for as many as are expected.
        clock: Seconds that only grow.

    Raises:
        ValueError: If a number is out of range.

    Examples:
        >>> limiter = TokenBucket(rate=0.5, burst=2)
        >>> [limiter.acquire("10.0.0.1").is_allowed for _ in range(3)]
        [True, True, False]
    """

    __slots__ = ()

    def __init__(
        self,
        rate: float,
        burst: int,
        *,
        expected_keys: int = 10_000,
        exact_keys: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_amount(burst, 1)
        super().__init__(Buckets(rate, burst, Geometry(expected_keys, exact_keys), clock))
