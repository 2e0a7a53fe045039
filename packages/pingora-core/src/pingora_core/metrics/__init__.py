"""Metrics: counting, reading what is counted elsewhere, adding up workers, text for Prometheus."""

from pingora_core.metrics.description import (
    BYTE_BOUNDS,
    DURATION_BOUNDS,
    Description,
    Kind,
    OverWorkers,
)
from pingora_core.metrics.exposition import OPENMETRICS, TEXT, negotiate, render
from pingora_core.metrics.registry import Registry
from pingora_core.metrics.series import Counter, FamilyOf, Gauge, Histogram
from pingora_core.metrics.snapshot import OTHER, Families, Family, Reading
from pingora_core.metrics.workers import WorkerMetrics

__all__ = [
    "BYTE_BOUNDS",
    "DURATION_BOUNDS",
    "OPENMETRICS",
    "OTHER",
    "TEXT",
    "Counter",
    "Description",
    "Families",
    "Family",
    "FamilyOf",
    "Gauge",
    "Histogram",
    "Kind",
    "OverWorkers",
    "Reading",
    "Registry",
    "WorkerMetrics",
    "negotiate",
    "render",
]
