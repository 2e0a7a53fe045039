"""The arithmetic of a sliding window over two intervals.

The events of the previous interval are taken for evenly spread over it; the share of them that is
not yet older than one interval counts beside those of the current one.
"""

from __future__ import annotations

import math
from typing import Final

from pingora_limits.limiter import Decision

__all__ = ["weigh"]

# A thousandth of a millionth of an event: what rounding may add to a sum that is just full.
_SLACK: Final = 1e-9


def weigh(
    limit: int, cost: int, counts: tuple[int, int], *, elapsed: float, interval: float
) -> Decision:
    """Decide whether something fits into the window.

    Args:
        limit: What the window holds.
        cost: What is asked for.
        counts: What was counted in the previous and in the current interval.
        elapsed: Seconds since the current interval began.
        interval: Length of an interval, and of the window, in seconds.

    Returns:
        The decision; if it is allowed, as things are after it was taken.
    """
    previous, current = counts
    left = interval - elapsed
    room = limit - previous * left / interval - current + _SLACK
    is_allowed = room >= cost
    wait = 0.0
    if is_allowed:
        room -= cost
        current += cost
    else:
        wait = _wait(limit - cost, counts, left, interval)
    reset_after = left + interval if current else left if previous else 0.0
    # An estimate of the sketch can rise above the limit by itself.
    return Decision(is_allowed, limit, int(room) if room > 0 else 0, wait, reset_after)


def _wait(room: int, counts: tuple[int, int], left: float, interval: float) -> float:
    # In how many seconds no more than ``room`` is used.
    previous, current = counts
    if room < 0:
        return math.inf
    if current <= room:
        # It will happen within this interval, as the previous one moves out of the window.
        return max(0.0, left - interval * (room - current) / previous)
    return left + interval * (1 - room / current)
