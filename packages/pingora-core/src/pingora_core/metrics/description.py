"""What a metric is called, what it counts, and what it means over several processes; no I/O.

Names and labels are those of the OpenTelemetry semantic conventions, dotted, with a UCUM unit. What
Prometheus sees is derived from them by the rules of the OpenTelemetry specification: dots become
underscores, the unit is spelled out at the end, counters end in ``_total``.

Source: opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics.
"""

from __future__ import annotations

import math
import re
from enum import Enum
from typing import Final, Self

from msgspec import Struct

__all__ = ["BYTE_BOUNDS", "DURATION_BOUNDS", "Description", "Kind", "OverWorkers"]

DURATION_BOUNDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0
)  # fmt: skip
"""Seconds: those of the convention for ``http.server.request.duration``, and two below them."""

BYTE_BOUNDS: Final = (256, 1024, 4096, 16384, 65536, 262144, 1048576, 16777216, 268435456)
"""Bytes of bodies."""

_NAME: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*")
_UNITS: Final = {"s": "seconds", "By": "bytes", "1": "ratio"}


class Kind(Enum):
    """What sort of numbers a metric has.

    Attributes:
        COUNTER: What only grows.
        GAUGE: What goes up and down.
        HISTOGRAM: How many values fell into which range, and their sum.
    """

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class OverWorkers(Enum):
    """What a gauge is over several processes. Counters and histograms are always added up.

    Attributes:
        SUM: All together.
        LEAST: The lowest of them.
        MOST: The highest of them.
        EACH: Each for itself, with the label ``worker``.
    """

    SUM = "sum"
    LEAST = "least"
    MOST = "most"
    EACH = "each"


class Description(Struct, frozen=True, kw_only=True, array_like=True):
    """What a metric is.

    Attributes:
        otel_name: Its dotted name; lower case.
        kind: What sort of numbers it has.
        help: What it counts, in a sentence.
        unit: UCUM: ``s``, ``By``, ``1`` for a share, ``{request}`` and the like for numbers of
            things; empty for none.
        labels: Dotted names of its labels.
        bounds: Of a histogram: the upper ends of its ranges, included, growing.
        over_workers: Of a gauge: what it is over several processes.

    Raises:
        ValueError: If a name is none, or the bounds do not fit.
    """

    otel_name: str
    kind: Kind
    help: str
    unit: str = ""
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    over_workers: OverWorkers = OverWorkers.SUM

    def __post_init__(self) -> None:
        for name in (self.otel_name, *self.labels):
            if _NAME.fullmatch(name) is None:
                raise ValueError(f"{name!r} is no name: lower case, digits, dots, underscores")
        if len(set(self.labels)) < len(self.labels) or "worker" in self.labels:
            raise ValueError(f"labels must differ, and none is worker: {self.labels}")
        if (self.kind is Kind.HISTOGRAM) != bool(self.bounds):
            raise ValueError(f"{self.otel_name}: a histogram has bounds, and nothing else has")
        pairs = zip(self.bounds, self.bounds[1:], strict=False)
        if any(low >= high for low, high in pairs) or not all(map(math.isfinite, self.bounds)):
            raise ValueError(f"bounds must grow, and be finite: {self.bounds}")

    @classmethod
    def counter(
        cls,
        name: str,
        help: str,  # noqa: A002 - what it is called everywhere
        *labels: str,
        unit: str = "",
    ) -> Self:
        """Describe a counter.

        Args:
            name: Dotted.
            help: What it counts.
            *labels: Dotted names.
            unit: As above.

        Returns:
            The description.

        Raises:
            ValueError: If a name is none.
        """
        return cls(otel_name=name, kind=Kind.COUNTER, help=help, unit=unit, labels=labels)

    @classmethod
    def gauge(
        cls,
        name: str,
        help: str,  # noqa: A002
        *labels: str,
        unit: str = "",
        over: OverWorkers = OverWorkers.SUM,
    ) -> Self:
        """Describe a gauge.

        Args:
            name: Dotted.
            help: What it tells.
            *labels: Dotted names.
            unit: As above.
            over: What it is over several processes.

        Returns:
            The description.

        Raises:
            ValueError: If a name is none.
        """
        return cls(
            otel_name=name,
            kind=Kind.GAUGE,
            help=help,
            unit=unit,
            labels=labels,
            over_workers=over,
        )

    @classmethod
    def histogram(
        cls,
        name: str,
        help: str,  # noqa: A002
        *labels: str,
        unit: str = "s",
        bounds: tuple[float, ...] = DURATION_BOUNDS,
    ) -> Self:
        """Describe a histogram.

        Args:
            name: Dotted.
            help: What is measured.
            *labels: Dotted names.
            unit: As above.
            bounds: The upper ends of its ranges, included, growing.

        Returns:
            The description.

        Raises:
            ValueError: If a name or the bounds are none.
        """
        return cls(
            otel_name=name,
            kind=Kind.HISTOGRAM,
            help=help,
            unit=unit,
            labels=labels,
            bounds=bounds,
        )

    @property
    def name(self) -> str:
        """The name that Prometheus sees."""
        name = self.otel_name.replace(".", "_")
        suffix = _UNITS.get(self.unit, "")
        # A share is one only where it is no count of things.
        if suffix and not (suffix == "ratio" and self.kind is not Kind.GAUGE):
            name = f"{name}_{suffix}"
        return f"{name}_total" if self.kind is Kind.COUNTER else name

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels that Prometheus sees."""
        names = tuple(label.replace(".", "_") for label in self.labels)
        return (*names, "worker") if self.over_workers is OverWorkers.EACH else names
