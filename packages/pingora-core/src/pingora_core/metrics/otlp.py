"""Metrics in the words of OpenTelemetry, to be sent by its exporter: the extra ``otel``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from pingora_core._version import __version__
from pingora_core.metrics.description import Kind, OverWorkers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pingora_core.metrics.snapshot import Families, Family

__all__ = ["make_metrics_data"]

_SCHEMA: Final = "https://opentelemetry.io/schemas/1.30.0"
_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE
# The SDK tells the least and the greatest value; here nobody has kept them.
_UNKNOWN: Final = cast("float", None)


def make_metrics_data(
    families: Families, resource: Mapping[str, str], *, started: int, now: int
) -> MetricsData:
    """Translate.

    Args:
        families: The numbers of one process.
        resource: Attributes that tell which process that is, besides those of
            ``OTEL_RESOURCE_ATTRIBUTES``.
        started: Since when counters count, nanoseconds since the epoch.
        now: The time, nanoseconds since the epoch.

    Returns:
        For ``MetricExporter.export``.
    """
    metrics = [
        _metric(family, started=started, now=now) for family in families.values() if family.series
    ]
    scope = ScopeMetrics(InstrumentationScope("pingora", __version__), metrics, _SCHEMA)
    return MetricsData([ResourceMetrics(Resource.create(dict(resource)), [scope], _SCHEMA)])


def _metric(family: Family, *, started: int, now: int) -> Metric:
    description = family.description
    data: Sum | Gauge | Histogram
    match description.kind:
        case Kind.COUNTER:
            data = Sum(_numbers(family, started, now), _CUMULATIVE, is_monotonic=True)
        case Kind.GAUGE if description.over_workers is OverWorkers.SUM:
            # What the conventions call an UpDownCounter: a collector may add up those of workers.
            data = Sum(_numbers(family, started, now), _CUMULATIVE, is_monotonic=False)
        case Kind.GAUGE:
            data = Gauge(_numbers(family, started, now))
        case Kind.HISTOGRAM:
            data = Histogram(_histograms(family, started, now), _CUMULATIVE)
    return Metric(description.otel_name, description.help, description.unit, data)


def _numbers(family: Family, started: int, now: int) -> list[NumberDataPoint]:
    return [
        NumberDataPoint(_attributes(family, labels), started, now, numbers[0])
        for labels, numbers in family.series.items()
    ]


def _histograms(family: Family, started: int, now: int) -> list[HistogramDataPoint]:
    points: list[HistogramDataPoint] = []
    for labels, (*counts, total) in family.series.items():
        whole = [int(count) for count in counts]
        points.append(
            HistogramDataPoint(
                attributes=_attributes(family, labels),
                start_time_unix_nano=started,
                time_unix_nano=now,
                count=sum(whole),
                sum=total,
                bucket_counts=whole,
                explicit_bounds=family.description.bounds,
                min=_UNKNOWN,
                max=_UNKNOWN,
            )
        )
    return points


def _attributes(family: Family, labels: tuple[str, ...]) -> dict[str, str]:
    pairs = zip(family.description.labels, labels, strict=False)
    return {name: value for name, value in pairs if value}
