"""The time in which nearly all requests are answered."""

from __future__ import annotations

import math
from typing import Final, final

__all__ = ["LatencyQuantile"]

# How many new latencies make it worth while to sort again.
_REFRESH: Final = 16


@final
class LatencyQuantile:
    """The time in which a share of the latest requests was answered: when to hedge.

    Args:
        quantile: The share, more than 0 and less than 1.
        size: How many of the latest latencies count.
        initially: Seconds; the answer as long as fewer than a tenth of these are known.

    Raises:
        ValueError: If an argument is out of its range.

    Examples:
        >>> quantile = LatencyQuantile(0.9, size=100, initially=1.0)
        >>> quantile()
        1.0
        >>> for milliseconds in range(1, 101):
        ...     quantile.add(milliseconds / 1000)
        >>> quantile()
        0.09
    """

    __slots__ = ("_added", "_latencies", "_next", "_size", "_value", "quantile")

    def __init__(self, quantile: float = 0.95, *, size: int = 512, initially: float = 1.0) -> None:
        if not 0 < quantile < 1:
            msg = f"quantile must be more than 0 and less than 1, not {quantile}"
            raise ValueError(msg)
        if size < 1 or not initially >= 0:
            msg = f"wanted size at least 1 and initially at least 0, not {size} and {initially}"
            raise ValueError(msg)
        self.quantile: float = quantile
        self._size = size
        self._value = initially
        self._latencies: list[float] = []
        self._next = 0
        self._added = 0

    def add(self, latency: float) -> None:
        """Take a latency in.

        Args:
            latency: Seconds.
        """
        if len(self._latencies) < self._size:
            self._latencies.append(latency)
        else:
            self._latencies[self._next] = latency
            self._next = (self._next + 1) % self._size
        self._added += 1

    def __call__(self) -> float:
        """Tell the time.

        Returns:
            Seconds; up to some requests old.
        """
        latencies = self._latencies
        is_enough = len(latencies) * 10 >= self._size
        if is_enough and self._added >= min(_REFRESH, len(latencies)):
            self._added = 0
            self._value = sorted(latencies)[math.ceil(self.quantile * len(latencies)) - 1]
        return self._value
