"""Metrics as text: the Prometheus format 0.0.4 and OpenMetrics 1.0; no I/O.

Source: prometheus.io/docs/instrumenting/exposition_formats, RFC-like document of
openmetrics.io (prometheus/OpenMetrics, specification/OpenMetrics.md).
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Final

from pingora_core.metrics.description import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_core.metrics.snapshot import Families, Family

__all__ = ["OPENMETRICS", "TEXT", "negotiate", "render"]

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_SERIES: Final = 64
"""Of how many series a piece of text is."""

_OPENMETRICS_UNITS: Final = {"s": "seconds", "By": "bytes"}


def negotiate(accept: str | None) -> str:
    """Choose a format.

    Args:
        accept: What the client accepts, the field ``Accept``; None if it does not say.

    Returns:
        `OPENMETRICS` if the client prefers it, or likes both alike; else `TEXT`.
    """
    best = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for part in (accept or "").lower().split(","):
        media, *parameters = (each.strip() for each in part.split(";"))
        if media not in best:
            continue
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name == "q":
                quality = _quality(value)
            elif name == "version" and media != "text/plain" and value not in {"0.0.1", "1.0.0"}:
                quality = 0.0
        best[media] = max(best[media], quality)
    openmetrics, text = best.values()
    return OPENMETRICS if openmetrics > 0 and openmetrics >= text else TEXT


def _quality(value: str) -> float:
    try:
        return min(max(float(value), 0.0), 1.0)
    except ValueError:
        return 0.0


def render(families: Families, content_type: str = TEXT) -> Iterator[bytes]:
    """Write metrics.

    Args:
        families: What, by name.
        content_type: `TEXT` or `OPENMETRICS`.

    Yields:
        The text, in pieces of some series of a metric: no piece takes long.
    """
    is_openmetrics = content_type == OPENMETRICS
    for name in sorted(families):
        family = families[name]
        if family.series:
            yield from _render(name, family, is_openmetrics=is_openmetrics)
    if is_openmetrics:
        yield b"# EOF\n"


def _render(name: str, family: Family, *, is_openmetrics: bool) -> Iterator[bytes]:
    description = family.description
    title = name
    lines: list[str] = []
    if is_openmetrics:
        title = name.removesuffix("_total") if description.kind is Kind.COUNTER else name
        unit = _OPENMETRICS_UNITS.get(description.unit)
        if unit is not None:
            lines.append(f"# UNIT {title} {unit}")
    text = _escape(description.help, quotes=is_openmetrics)
    lines = [f"# HELP {title} {text}", f"# TYPE {title} {description.kind.value}", *lines]
    names = description.label_names
    bounds = [_bound(bound, exact=is_openmetrics) for bound in description.bounds]
    for at, (values, numbers) in enumerate(sorted(family.series.items()), 1):
        labels = _labels(names, values)
        if bounds:
            lines += _histogram(name, labels, [*bounds, "+Inf"], numbers)
        else:
            braces = f"{{{labels}}}" if labels else ""
            lines.append(f"{name}{braces} {_number(numbers[0])}")
        if at % _SERIES == 0:
            yield _text(lines)
            lines.clear()
    if lines:
        yield _text(lines)


def _text(lines: list[str]) -> bytes:
    lines.append("")
    return "\n".join(lines).encode()


def _histogram(name: str, labels: str, ends: list[str], numbers: list[float]) -> list[str]:
    *counts, total = numbers
    comma = f"{labels}," if labels else ""
    lines = [
        f'{name}_bucket{{{comma}le="{end}"}} {_number(count)}'
        for end, count in zip(ends, accumulate(counts), strict=False)
    ]
    braces = f"{{{labels}}}" if labels else ""
    lines += [
        f"{name}_sum{braces} {_number(total)}",
        f"{name}_count{braces} {_number(sum(counts))}",
    ]
    return lines


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    # A label without a value is the same as no label.
    pairs = zip(names, values, strict=False)
    return ",".join(f'{name}="{_escape(value)}"' for name, value in pairs if value)


def _escape(text: str, *, quotes: bool = True) -> str:
    if "\\" in text:
        text = text.replace("\\", "\\\\")
    if "\n" in text:
        text = text.replace("\n", "\\n")
    if quotes and '"' in text:
        text = text.replace('"', '\\"')
    return text


def _bound(bound: float, *, exact: bool) -> str:
    # OpenMetrics wants them as floats, always written alike; Prometheus 3 makes the same of all.
    return repr(float(bound)) if exact else _number(bound)


def _number(value: float) -> str:
    if value != value:  # noqa: PLR0124 - not a number
        return "NaN"
    if value in {float("inf"), float("-inf")}:
        return "+Inf" if value > 0 else "-Inf"
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return repr(float(value))
