"""The text formats, as the parsers of prometheus_client read them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from pingora_core.metrics import OPENMETRICS, TEXT, OverWorkers, Registry, negotiate, render
from pingora_core.metrics.snapshot import decode, encode, merge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client import Metric

    from pingora_core.metrics import Families

PARSERS: list[tuple[str, Callable[[str], Iterable[Metric]]]] = [
    (TEXT, parse_text),
    (OPENMETRICS, parse_openmetrics),
]


def text(families: Families, content_type: str) -> str:
    return b"".join(render(families, content_type)).decode()


def parsed(registry: Registry, content_type: str, parse: Callable[[str], Iterable[Metric]]) -> dict[
    tuple[str, tuple[tuple[str, str], ...]], float
]:  # fmt: skip
    return {
        (sample.name, tuple(sample.labels.items())): sample.value
        for metric in parse(text(registry.collect(), content_type))
        for sample in metric.samples
    }


@pytest.mark.parametrize(("content_type", "parse"), PARSERS)
def test_all_kinds_are_read_back(
    content_type: str, parse: Callable[[str], Iterable[Metric]]
) -> None:
    """With types, units, help, labels, ranges that are added up, and numbers of all sorts."""
    registry = Registry()
    registry.counter("a.b", 'Help: "a" \\ b\nc', labels=("x.y", "z")).labels("1", "").inc(3)
    registry.gauge("depth", "x").labels().set(-0.25)
    registry.gauge("endless", "x").labels().set(math.inf)
    histogram = registry.histogram("d", "x", bounds=(0.1, 1.0), labels=("route",)).labels("/")
    for value in (0.05, 0.5, 0.5, 7):
        histogram.observe(value)

    families = {each.name: each for each in parse(text(registry.collect(), content_type))}
    found = parsed(registry, content_type, parse)

    assert found[("a_b_total", (("x_y", "1"),))] == 3
    assert found[("depth", ())] == -0.25
    assert found[("endless", ())] == math.inf
    ends = ["0.1", "1.0" if content_type == OPENMETRICS else "1", "+Inf"]
    for end, count in zip(ends, (1, 3, 4), strict=True):
        assert found[("d_seconds_bucket", (("route", "/"), ("le", end)))] == count
    assert found[("d_seconds_sum", (("route", "/"),))] == 8.05
    assert found[("d_seconds_count", (("route", "/"),))] == 4
    assert families["d_seconds"].type == "histogram"
    assert families["a_b"].type == "counter"
    assert families["a_b"].documentation == 'Help: "a" \\ b\nc'
    if content_type == OPENMETRICS:
        assert families["d_seconds"].unit == "seconds"


@settings(max_examples=60)
@given(value=st.text(max_size=40), number=st.floats(allow_nan=False))
@pytest.mark.parametrize(("content_type", "parse"), PARSERS)
def test_whatever_a_label_holds_is_read_back(
    content_type: str, parse: Callable[[str], Iterable[Metric]], value: str, number: float
) -> None:
    """Quotes, backslashes, line ends and other scripts cannot make lines or labels of their own."""
    registry = Registry()
    registry.gauge("g", "x", labels=("l",)).labels(value).set(number)

    # In 0.0.4 the parser takes other line ends for line ends, where the format does not.
    if content_type == TEXT and len(value.splitlines()) > 1:
        return
    found = parsed(registry, content_type, parse)
    clean = value.encode(errors="replace").decode()
    assert found[("g", (("l", clean),) if value else ())] == number


def test_numbers_survive_the_way_to_another_worker() -> None:
    """What is packed and unpacked is the same; gauges of each worker gain its label."""
    registry = Registry()
    registry.gauge("lag", "x", over_workers=OverWorkers.EACH).labels().set(1)
    registry.counter("c", "x", labels=("l",)).labels("ü").inc()
    families = registry.collect()

    assert decode(encode(families)) == families
    together: Families = {}
    merge(families, together, worker="0")
    merge(families, together, worker="1")
    assert 'lag{worker="1"} 1\n' in text(together, TEXT)
    assert 'c_total{l="ü"} 2\n' in text(together, TEXT)
    gone: Families = {}
    merge(families, gone, worker="0", counts_only=True)
    assert "lag" not in gone


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, TEXT),
        ("", TEXT),
        ("*/*", TEXT),
        ("text/plain", TEXT),
        ("application/openmetrics-text; version=1.0.0", OPENMETRICS),
        ("application/openmetrics-text;version=2.0.0", TEXT),
        ("application/openmetrics-text;q=0, text/plain", TEXT),
        ("application/openmetrics-text;q=0.4,text/plain;version=0.0.4;q=0.5", TEXT),
        ("application/openmetrics-text;q=nonsense", TEXT),
        # What Prometheus 3 sends.
        (
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
                "application/openmetrics-text;version=0.0.1;q=0.5,"
                "text/plain;version=1.0.0;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
            ),
            OPENMETRICS,
        ),
    ],
)
def test_the_client_chooses_the_format(accept: str | None, expected: str) -> None:
    """OpenMetrics for who names it and likes it as well as text; text for everybody else."""
    assert negotiate(accept) == expected


@pytest.mark.parametrize("series", [64, 1000])
def test_a_metric_of_many_series_comes_in_pieces(series: int) -> None:
    """So that others have their turn in between; together they are the same text."""
    registry = Registry()
    family = registry.histogram("d", "x", labels=("l",))
    for number in range(series):
        family.labels(str(number)).observe(number)
    families = {"d_seconds": registry.collect()["d_seconds"]}
    pieces = list(render(families))
    assert max(map(len, pieces)) < 100_000
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert b"".join(pieces).count(b"d_seconds_count{") == series
