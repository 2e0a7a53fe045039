"""The generic cell rate algorithm, for many keys in bounded memory.

Rules of this file: hashes come in, no key does; no I/O; the clock is the caller's.

Theory of operation: of each key one number is kept, the time at which its bucket will be full again
(the theoretical arrival time of ITU-T I.371). Time is counted in tokens, seconds times rate: then a
token is exactly 1, and no rate is too odd for exact sums.

A key that has not come for as long as an empty bucket takes to fill is as good as never seen. Two
dicts take turns, as ``_intervals`` has it, no faster than that, so that what is forgotten is full.
Keys that find the dict full share a sketch: each has a cell in every row, the least of them is its
time or a later one, and cells that lie in the past are empty by themselves.

What a clock that jumps does: ahead, buckets are full. Back, no bucket is emptier than empty from
when it is next asked for, so that it is full after the time it takes to fill one; those that share
the sketch are full at once.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Final, final

from pingora_limits._deadlines import Deadlines
from pingora_limits._grid import Grid
from pingora_limits.limiter import Decision

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_limits._tally import Geometry

__all__ = ["SLACK", "Buckets"]

# Rounding may not cost anybody a token; a millionth of one is no gift.
SLACK: Final = 1e-6
_SHORTEST_TURN: Final = 1.0


@final
class Buckets(Grid):
    """Token buckets of one size.

    Args:
        rate: Tokens that flow into each bucket per second, above 0.
        burst: Tokens that a bucket holds, at least 1.
        geometry: For how many keys there is room.
        clock: Seconds that only grow.

    Attributes:
        burst: Tokens that a bucket holds.
        rate: Tokens per second.

    Raises:
        ValueError: If the rate or the time to fill a bucket is no positive number.
    """

    __slots__ = (
        "_clock",
        "_crowd",
        "_current",
        "_geometry",
        "_origin",
        "_previous",
        "burst",
        "rate",
    )

    def __init__(
        self, rate: float, burst: int, geometry: Geometry, clock: Callable[[], float]
    ) -> None:
        if not 0 < rate < math.inf:
            msg = f"tokens flow at a rate above 0 per second, not {rate}"
            raise ValueError(msg)
        super().__init__(max(burst / rate, _SHORTEST_TURN))
        self.rate = rate
        self.burst = burst
        self._geometry = geometry
        self._clock = clock
        self._origin = math.nan
        self._current: dict[int, float] = {}
        self._previous: dict[int, float] = {}
        self._crowd: Deadlines | None = None

    @property
    def memory(self) -> int:
        """Bytes that the buckets take now."""
        crowd = 0 if self._crowd is None else self._crowd.memory
        dicts = (self._current, self._previous)
        return crowd + sum(sys.getsizeof(each) + 56 * len(each) for each in dicts)

    @property
    def max_memory(self) -> int:
        """Bytes that the buckets take at most."""
        return 2 * self._geometry.max_memory

    def decide(self, hashed: int, cost: int, /, *, takes: bool) -> Decision:
        """Decide whether a bucket holds enough.

        Args:
            hashed: The hash of the key.
            cost: Tokens, at least 1.
            takes: Whether to take the tokens if it does.

        Returns:
            The decision; if tokens were taken, as things are after that.
        """
        now = self._clock()
        if not self.start <= now < self.end:
            self._turn(now)
        rate, burst = self.rate, self.burst
        instant = (now - self._origin) * rate
        debt = self._full_at(hashed) - instant
        if debt > burst:  # the clock went back
            debt = burst
            self._store(hashed, instant + burst)
        elif debt < 0:
            debt = 0.0
        after = debt + cost
        is_allowed = after <= burst + SLACK
        wait = 0.0
        if not is_allowed:
            wait = math.inf if cost > burst else (after - burst) / rate
        elif takes:
            debt = after
            self._store(hashed, instant + after)
        return Decision(is_allowed, burst, int(burst - debt + SLACK), wait, debt / rate)

    def _full_at(self, hashed: int) -> float:
        # A time in the past if the bucket is full.
        full_at = self._current.get(hashed)
        if full_at is not None:
            return full_at
        full_at = self._previous.get(hashed, -math.inf)
        return full_at if self._crowd is None else max(full_at, self._crowd.get(hashed))

    def _store(self, hashed: int, full_at: float) -> None:
        current, geometry = self._current, self._geometry
        if hashed in current or len(current) < geometry.exact_keys:
            current[hashed] = full_at
            return
        if self._crowd is None:
            self._crowd = Deadlines(geometry.hashes, geometry.slots)
        self._crowd.put_off(hashed, full_at)

    def _turn(self, now: float) -> None:
        if math.isnan(self._origin):
            self._origin = now
        if now < self.start:
            self._crowd = None  # its times cannot be moved to the new reading
        passed = self.advance(now)
        if passed:
            self._previous = self._current if passed == 1 else {}
            self._current = {}
            crowd = self._crowd
            if crowd is not None and crowd.last <= (now - self._origin) * self.rate:
                self._crowd = None
