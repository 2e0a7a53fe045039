"""The numbers of a process at one moment, and how those of several processes become one; no I/O.

A series is its label values and its numbers: one for counters and gauges; for histograms the counts
of the ranges, of what is beyond them, and the sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from msgspec import Struct
from msgspec.msgpack import Decoder, Encoder

# msgspec looks at the types when it decodes.
from pingora_core.metrics.description import Description, Kind, OverWorkers  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["OTHER", "Families", "Family", "Reading", "clean", "decode", "encode", "gather", "merge"]

Labels: TypeAlias = tuple[str, ...]

OTHER: Final = "other"
"""The value of the labels of what has no series of its own."""


class Reading(NamedTuple):
    """One number that was read where it is kept.

    Attributes:
        description: Of a counter or a gauge.
        value: The number.
        labels: Values for the labels of the description, in their order.
    """

    description: Description
    value: float
    labels: tuple[str, ...] = ()


class Family(Struct, array_like=True):
    """All series of a metric.

    Attributes:
        description: What it is.
        series: The numbers, by the values of the labels.
    """

    description: Description
    series: dict[tuple[str, ...], list[float]]


Families: TypeAlias = dict[str, Family]
"""The metrics of a process, or of all, by the names that Prometheus sees."""

_MAX_LABEL: Final = 200

_encoder: Final = Encoder()
_decoder: Final[Decoder[list[Family]]] = Decoder(list[Family])


def clean(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Make labels such that all workers and readers can take them.

    Args:
        labels: The values.

    Returns:
        They, without what cannot be encoded, and none longer than 200 characters.

    Raises:
        TypeError: If one is no text.
    """
    for label in labels:
        if not isinstance(label, str):
            raise TypeError(f"a label is text, not {label!r}")
        if len(label) > _MAX_LABEL or not label.isascii():
            return tuple(map(_clean, labels))
    return labels


def _clean(label: str) -> str:
    return label[:_MAX_LABEL].encode(errors="replace").decode()


def encode(families: Families) -> bytes:
    """Pack.

    Args:
        families: What.

    Returns:
        For `decode`.
    """
    return _encoder.encode(list(families.values()))


def decode(packed: bytes) -> Families:
    """Unpack.

    Args:
        packed: As `encode` has made it.

    Returns:
        What was packed.

    Raises:
        msgspec.MsgspecError: If it is something else.
    """
    return {family.description.name: family for family in _decoder.decode(packed)}


def gather(
    readings: Iterable[Reading], into: Families, max_series: int, overflows: dict[str, int]
) -> None:
    """Add what was read; what has the same name and labels is counted together.

    Args:
        readings: The numbers.
        into: What they are added to.
        max_series: Sets of labels that a metric may have; more are counted as ``other``.
        overflows: How many sets had no room, by metric; added to.

    Raises:
        TypeError: If a label is no text, or a number none.
    """
    for description, value, values in readings:
        labels = clean(values)
        number = float(value)
        name = description.name
        family = into.get(name)
        if family is None:
            family = into[name] = Family(description, {})
        series = family.series
        if labels not in series and len(series) >= max_series:
            overflows[name] = overflows.get(name, 0) + 1
            labels = (OTHER,) * len(values)
        known = series.get(labels)
        if known is None:
            series[labels] = [number]
        else:
            _combine(description, known, [number])


def merge(
    families: Families,
    into: Families,
    *,
    worker: str | None,
    counts_only: bool = False,
    max_series: int | None = None,
) -> dict[str, int]:
    """Add the numbers of another process.

    Args:
        families: The numbers; they are not changed.
        into: What they are added to.
        worker: What this process is called in the label of that name; None for none.
        counts_only: Whether gauges are left out, because the process is no more.
        max_series: Sets of labels that a metric may have; more are counted as ``other``. None
            for as many as there are.

    Returns:
        How many sets had no room, by metric.
    """
    overflows: dict[str, int] = {}
    for name, family in families.items():
        description = family.description
        is_gauge = description.kind is Kind.GAUGE
        if is_gauge and counts_only:
            continue
        known = into.get(name)
        if known is None:
            known = into[name] = Family(description, {})
        suffix: Labels = ()
        if worker is not None and is_gauge and description.over_workers is OverWorkers.EACH:
            suffix = (worker,)
        series = known.series
        for labels, numbers in family.series.items():
            key = labels + suffix
            if max_series is not None and key not in series and len(series) >= max_series:
                overflows[name] = overflows.get(name, 0) + 1
                key = (OTHER,) * len(key)
            sums = series.get(key)
            if sums is None:
                series[key] = numbers.copy()
            else:
                _combine(description, sums, numbers)
    return overflows


def _combine(description: Description, known: list[float], other: list[float]) -> None:
    if description.kind is Kind.GAUGE:
        match description.over_workers:
            case OverWorkers.LEAST:
                known[0] = min(known[0], other[0])
                return
            case OverWorkers.MOST:
                known[0] = max(known[0], other[0])
                return
            case OverWorkers.SUM | OverWorkers.EACH:
                pass
    for at, number in enumerate(other[: len(known)]):
        known[at] += number
