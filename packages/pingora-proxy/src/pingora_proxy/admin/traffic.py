"""The few numbers of the metrics that the page draws; no I/O.

Theory of operation. The page computes rates and percentiles itself, from the differences between
two answers: whoever polls slower loses resolution, not numbers, and the server keeps nothing for it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_core.metrics.snapshot import Families, Family

__all__ = ["Traffic", "all_numbers", "ends_of", "traffic_of"]

_DURATION: Final = "http_server_request_duration_seconds"
_ACTIVE: Final = "http_server_active_requests"
_CONNECTIONS: Final = "pingora_server_connections"
_ENDS: Final = "pingora_worker_ends_total"
_STATUS: Final = "http.response.status_code"
_CLASSES: Final = ("1xx", "2xx", "3xx", "4xx", "5xx")
_NO_STATUS: Final = "none"


class Traffic(TypedDict):
    """Requests so far.

    Attributes:
        requests: How many have ended, by class of their status; ``none`` without a response.
        bounds: Upper ends of ranges of durations, seconds, growing.
        counts: Requests in each range, and at last beyond them.
        seconds: All durations together.
        active: Requests in flight; None if that is not known.
        connections: Connections of clients; None if nobody watches them.
    """

    requests: dict[str, int]
    bounds: list[float]
    counts: list[int]
    seconds: float
    active: int | None
    connections: int | None


def traffic_of(families: Families) -> Traffic | None:
    """Pick what the page draws.

    Args:
        families: All metrics.

    Returns:
        The numbers; None if no proxy has metrics.
    """
    durations = families.get(_DURATION)
    if durations is None:
        return None
    bounds = list(durations.description.bounds)
    requests = dict.fromkeys((*_CLASSES, _NO_STATUS), 0)
    counts = [0] * (len(bounds) + 1)
    seconds = 0.0
    for status, numbers in _by_status(durations):
        *ranges, total = numbers
        requests[status] += int(sum(ranges))
        seconds += total
        for at, number in enumerate(ranges[: len(counts)]):
            counts[at] += int(number)
    return {
        "requests": requests,
        "bounds": bounds,
        "counts": counts,
        "seconds": seconds,
        "active": _total(families.get(_ACTIVE)),
        "connections": _total(families.get(_CONNECTIONS)),
    }


def ends_of(families: Families) -> dict[str, int]:
    """Tell how many processes have ended.

    Args:
        families: All metrics.

    Returns:
        How many, by how: ``ended`` in order, or ``killed``; empty if that is not counted.
    """
    family = families.get(_ENDS)
    ends: dict[str, int] = {}
    for values, numbers in family.series.items() if family is not None else ():
        reason = values[0] if values else "ended"
        ends[reason] = ends.get(reason, 0) + int(numbers[0])
    return ends


def all_numbers(families: Families) -> dict[str, object]:
    """Make something that can be written as JSON of all metrics.

    Args:
        families: The metrics.

    Returns:
        By name: kind, help, unit, and each series with its labels.
    """
    return {
        name: {
            "kind": family.description.kind.value,
            "help": family.description.help,
            "unit": family.description.unit,
            "series": list(_series(family)),
        }
        for name, family in families.items()
    }


def _total(family: Family | None) -> int | None:
    return None if family is None else int(sum(each[0] for each in family.series.values()))


def _series(family: Family) -> Iterator[dict[str, object]]:
    description = family.description
    names = (*description.labels, "worker")
    for values, numbers in family.series.items():
        labels = dict(zip(names, values, strict=False))
        if description.bounds:
            *counts, total = numbers
            yield {
                "labels": labels,
                "bounds": list(description.bounds),
                "counts": counts,
                "sum": _finite(total),
            }
        else:
            yield {"labels": labels, "value": _finite(numbers[0])}


def _finite(number: float) -> float | None:
    # JSON has no other numbers (RFC 8259 section 6).
    return number if math.isfinite(number) else None


def _by_status(family: Family) -> Iterator[tuple[str, list[float]]]:
    labels = family.description.labels
    at = labels.index(_STATUS) if _STATUS in labels else None
    for values, numbers in family.series.items():
        # Codes and classes alike: the first digit counts.
        status = "" if at is None or at >= len(values) else f"{values[at][:1]}xx"
        yield status if status in _CLASSES else _NO_STATUS, numbers
