"""The numbers of a metric: a counter, gauge or histogram for each set of label values; no I/O.

A metric has a bounded number of them: labels beyond get the series whose labels are all ``other``,
and that is counted. So strangers who decide about labels cannot fill the memory.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, final

from pingora_core.metrics.snapshot import OTHER, Family, clean

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.metrics.description import Description

__all__ = ["Counter", "FamilyOf", "Gauge", "Histogram"]


class _Series(Protocol):
    def numbers(self) -> list[float]: ...

    def reset(self) -> None: ...


@final
class Counter:
    """What only grows.

    Attributes:
        value: How much it is.
    """

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        """Count.

        Args:
            amount: How much; not negative.
        """
        self.value += amount

    def numbers(self) -> list[float]:
        """Tell the number, for a snapshot.

        Returns:
            It.
        """
        return [float(self.value)]

    def reset(self) -> None:
        """Begin anew: what was counted until a fork is the parent's."""
        self.value = 0


@final
class Gauge:
    """What goes up and down.

    Attributes:
        value: How much it is now.
    """

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def set(self, value: float) -> None:
        """Say how much it is.

        Args:
            value: How much.
        """
        self.value = value

    def inc(self, amount: float = 1) -> None:
        """Add.

        Args:
            amount: How much.
        """
        self.value += amount

    def dec(self, amount: float = 1) -> None:
        """Take away.

        Args:
            amount: How much.
        """
        self.value -= amount

    def numbers(self) -> list[float]:
        """Tell the number, for a snapshot.

        Returns:
            It.
        """
        return [float(self.value)]

    def reset(self) -> None:
        """Go on as before: what is so in the parent is so in its child."""


@final
class Histogram:
    """How many values fell into which range.

    Args:
        bounds: The upper ends of the ranges, included.

    Attributes:
        bounds: As given.
        counts: Values in each range, and at last beyond them.
        sum: All values together.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds: tuple[float, ...] = bounds
        self.counts: list[int] = [0] * (len(bounds) + 1)
        self.sum: float = 0

    def observe(self, value: float) -> None:
        """Count a value. HOT.

        Args:
            value: Which.
        """
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def numbers(self) -> list[float]:
        """Tell the numbers, for a snapshot.

        Returns:
            The counts, and the sum.
        """
        return [*self.counts, float(self.sum)]

    def reset(self) -> None:
        """Begin anew: what was counted until a fork is the parent's."""
        self.counts[:] = [0] * len(self.counts)
        self.sum = 0


S = TypeVar("S", bound=_Series)


@final
class FamilyOf(Generic[S]):
    """A metric, with a series for each set of label values.

    Args:
        description: What it is.
        make: Makes a series.
        max_series: How many it may have.

    Attributes:
        description: As given.
        overflows: How often a set of labels had no room.
    """

    __slots__ = ("_make", "_max_series", "_series", "description", "overflows")

    def __init__(self, description: Description, make: Callable[[], S], max_series: int) -> None:
        if max_series < 1:
            raise ValueError(f"a metric has at least one series, not {max_series}")
        self.description: Description = description
        self._make = make
        self._max_series = max_series
        self._series: dict[tuple[str, ...], S] = {}
        self.overflows: int = 0

    def __len__(self) -> int:
        return len(self._series)

    def labels(self, *values: str) -> S:
        """Find a series, or begin one.

        Args:
            values: A value for each label, in the order of the description; what is longer than
                200 characters is cut.

        Returns:
            The series, which may be kept and used again; the one whose labels are all ``other``
            if there are too many.

        Raises:
            TypeError: If a value is no text.
            ValueError: If there are more values than labels, or fewer.
        """
        series = self._series.get(values)
        return self._begin(values) if series is None else series

    def _begin(self, values: tuple[str, ...]) -> S:
        if len(values) != len(self.description.labels):
            wanted = self.description.labels
            raise ValueError(f"{self.description.name}: got {values}, wanted one each of {wanted}")
        values = clean(values)
        series = self._series.get(values)
        if series is None and len(self._series) >= self._max_series:
            self.overflows += 1
            values = (OTHER,) * len(values)
            series = self._series.get(values)
        if series is None:
            series = self._series[values] = self._make()
        return series

    def reset(self) -> None:
        """Begin anew, in a process that was just forked; series that somebody keeps stay valid."""
        self.overflows = 0
        for series in self._series.values():
            series.reset()

    def read(self) -> Family:
        """Tell all numbers.

        Returns:
            A copy.
        """
        series = {labels: each.numbers() for labels, each in self._series.items()}
        return Family(self.description, series)
