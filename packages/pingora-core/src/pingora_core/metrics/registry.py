"""Counters, gauges and histograms of a process, and the sources of numbers that are kept elsewhere.

Theory of operation: whoever counts often asks a family once for the series of certain labels, and
then changes plain numbers of that series. What others count already is not counted twice: it is read
when somebody wants to see it, by sources.

Rules of this file: all of it belongs to the event loop's thread; no I/O, no clock.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, TypeAlias, final

from pingora_core.metrics.description import DURATION_BOUNDS, Description, Kind, OverWorkers
from pingora_core.metrics.series import Counter, FamilyOf, Gauge, Histogram
from pingora_core.metrics.snapshot import Reading, gather

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pingora_core.metrics.snapshot import Families

    Source: TypeAlias = Callable[[], Iterable[Reading]]

__all__ = ["DESCRIPTIONS", "OVERFLOWS", "Registry"]

_logger = logging.getLogger(__name__)

OVERFLOWS: Final = Description.counter(
    "pingora.metrics.overflows",
    "How often a metric had no room for another set of labels.",
    "metric",
)
SOURCE_FAILURES: Final = Description.counter(
    "pingora.metrics.source.failures", "How often numbers could not be read."
)

DESCRIPTIONS: Final = (OVERFLOWS, SOURCE_FAILURES)


@final
class Registry:
    """The metrics of a process.

    Made before worker processes are forked; each goes on with a copy of its own, and
    ``WorkerMetrics`` brings them together.

    Args:
        max_series: Sets of labels that a metric may have; more are counted as ``other``.

    Attributes:
        max_series: As given.
        source_failures: How often a source has raised.

    Examples:
        >>> registry = Registry()
        >>> tokens = registry.counter("llm.tokens", "Tokens passed on.", labels=("model",))
        >>> tokens.labels("small").inc(12)
        >>> registry.collect()["llm_tokens_total"].series
        {('small',): [12.0]}
    """

    def __init__(self, *, max_series: int = 1000) -> None:
        self.max_series: int = max_series
        self._families: dict[str, FamilyOf[Counter] | FamilyOf[Gauge] | FamilyOf[Histogram]] = {}
        self._sources: list[Source] = []
        self._overflows: dict[str, int] = {}
        self.source_failures: int = 0

    # ---------------------------------------------------------------- making

    def counter(
        self,
        name: str,
        help: str,  # noqa: A002 - what it is called everywhere
        *,
        unit: str = "",
        labels: tuple[str, ...] = (),
    ) -> FamilyOf[Counter]:
        """Make a counter.

        Args:
            name: Dotted; what Prometheus sees ends in ``_total``.
            help: What it counts.
            unit: As for `Description`.
            labels: Dotted names.

        Returns:
            The metric.

        Raises:
            ValueError: If there is one of that name, or the name is none.
        """
        return self.add_counter(Description.counter(name, help, *labels, unit=unit))

    def gauge(
        self,
        name: str,
        help: str,  # noqa: A002
        *,
        unit: str = "",
        labels: tuple[str, ...] = (),
        over_workers: OverWorkers = OverWorkers.SUM,
    ) -> FamilyOf[Gauge]:
        """Make a gauge.

        Args:
            name: Dotted.
            help: What it tells.
            unit: As for `Description`.
            labels: Dotted names.
            over_workers: What it is over several processes.

        Returns:
            The metric.

        Raises:
            ValueError: If there is one of that name, or the name is none.
        """
        return self.add_gauge(Description.gauge(name, help, *labels, unit=unit, over=over_workers))

    def histogram(
        self,
        name: str,
        help: str,  # noqa: A002
        *,
        unit: str = "s",
        labels: tuple[str, ...] = (),
        bounds: tuple[float, ...] = DURATION_BOUNDS,
    ) -> FamilyOf[Histogram]:
        """Make a histogram.

        Args:
            name: Dotted.
            help: What is measured.
            unit: As for `Description`.
            labels: Dotted names.
            bounds: The upper ends of its ranges, included, growing.

        Returns:
            The metric.

        Raises:
            ValueError: If there is one of that name, or a name or the bounds are none.
        """
        return self.add_histogram(
            Description.histogram(name, help, *labels, unit=unit, bounds=bounds)
        )

    def add_counter(self, description: Description) -> FamilyOf[Counter]:
        """Make a counter.

        Args:
            description: What it is.

        Returns:
            The metric.

        Raises:
            ValueError: If there is one of that name.
        """
        self._check(description, Kind.COUNTER)
        family = FamilyOf(description, Counter, self.max_series)
        self._families[description.name] = family
        return family

    def add_gauge(self, description: Description) -> FamilyOf[Gauge]:
        """Make a gauge.

        Args:
            description: What it is.

        Returns:
            The metric.

        Raises:
            ValueError: If there is one of that name.
        """
        self._check(description, Kind.GAUGE)
        family = FamilyOf(description, Gauge, self.max_series)
        self._families[description.name] = family
        return family

    def add_histogram(self, description: Description) -> FamilyOf[Histogram]:
        """Make a histogram.

        Args:
            description: What it is.

        Returns:
            The metric.

        Raises:
            ValueError: If there is one of that name.
        """
        self._check(description, Kind.HISTOGRAM)
        bounds = description.bounds
        family = FamilyOf(description, lambda: Histogram(bounds), self.max_series)
        self._families[description.name] = family
        return family

    def _check(self, description: Description, kind: Kind) -> None:
        if description.kind is not kind:
            raise ValueError(f"{description.name} is described as a {description.kind.value}")
        if description.name in self._families:
            raise ValueError(f"there is a metric {description.name} already")

    def reset(self) -> None:
        """Begin to count anew, in a process that was just forked."""
        self.source_failures = 0
        for family in self._families.values():
            family.reset()

    # --------------------------------------------------------------- reading

    def add_source(self, source: Source) -> Callable[[], None]:
        """Have numbers read that are kept elsewhere, whenever somebody wants to see them.

        Args:
            source: Reads them; quickly, and without waiting. What it raises is counted, and
                logged now and then.

        Returns:
            Call it to have them read no more.
        """
        self._sources.append(source)

        def remove() -> None:
            if source in self._sources:
                self._sources.remove(source)

        return remove

    def collect(self) -> Families:
        """Read everything.

        Returns:
            The numbers of this process.
        """
        families: Families = {}
        for name, family in self._families.items():
            read = family.read()
            families[name] = read
        overflows: dict[str, int] = {}
        for source in tuple(self._sources):
            try:
                gather(source(), families, self.max_series, overflows)
            except Exception:
                self.source_failures += 1
                # One that always fails is in the log the 1st, 2nd, 4th, 8th ... time.
                if self.source_failures & (self.source_failures - 1) == 0:
                    _logger.exception("numbers cannot be read: %d times", self.source_failures)
        for name, count in overflows.items():
            # Met again whenever they are read: not to be added up.
            self._overflows[name] = max(count, self._overflows.get(name, 0))
        gather(self._own(), families, self.max_series, {})
        return families

    def _own(self) -> Iterable[Reading]:
        yield Reading(SOURCE_FAILURES, self.source_failures)
        for name, count in self._overflows.items():
            yield Reading(OVERFLOWS, count, (name,))
        for name, family in self._families.items():
            if family.overflows:
                yield Reading(OVERFLOWS, family.overflows, (name,))
