"""Counting, reading what others count, and the bounds of both."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from pingora_core.metrics import Description, Kind, OverWorkers, Reading, Registry

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPTH = Description(otel_name="queue.depth", kind=Kind.GAUGE, help="x", labels=("queue",))


def series(registry: Registry, name: str) -> dict[tuple[str, ...], list[float]]:
    return registry.collect()[name].series


def test_names_follow_the_conventions() -> None:
    """Dots become underscores, the unit and ``_total`` come at the end."""
    registry = Registry()
    registry.counter("http.server.io", "x", unit="By", labels=("network.io.direction",))
    registry.gauge("cache.hit.share", "x", unit="1")
    registry.histogram("http.server.request.duration", "x")
    registry.counter("http.server.requests", "x", unit="{request}")

    families = registry.collect()

    assert {name for name in families if not name.startswith("pingora")} == {
        "http_server_io_bytes_total",
        "cache_hit_share_ratio",
        "http_server_request_duration_seconds",
        "http_server_requests_total",
    }
    description = families["http_server_io_bytes_total"].description
    assert description.label_names == ("network_io_direction",)


def test_a_counter_a_gauge_and_a_histogram() -> None:
    """Each keeps its numbers by the values of its labels."""
    registry = Registry()
    tokens = registry.counter("tokens", "x", labels=("model",))
    tokens.labels("small").inc()
    tokens.labels("small").inc(2.5)
    depth = registry.gauge("depth", "x").labels()
    depth.set(5)
    depth.inc(2)
    depth.dec()
    sizes = registry.histogram("size", "x", unit="By", bounds=(10, 20)).labels()
    for size in (0, 10, 10.5, 20, 21):
        sizes.observe(size)

    assert series(registry, "tokens_total") == {("small",): [3.5]}
    assert series(registry, "depth") == {(): [6.0]}
    assert series(registry, "size_bytes") == {(): [2, 2, 1, 61.5]}


def test_labels_that_explode_are_counted_as_other() -> None:
    """A metric has so many series and no more; how often one had no room is told."""
    registry = Registry(max_series=3)
    paths = registry.counter("paths", "x", labels=("path", "method"))
    for number in range(10):
        paths.labels(f"/{number}", "GET").inc()
    paths.labels("/1", "GET").inc()

    found = series(registry, "paths_total")
    assert found[("other", "other")] == [7.0]
    assert found[("/1", "GET")] == [2.0]
    assert len(paths) == len(found) == 4
    assert series(registry, "pingora_metrics_overflows_total") == {("paths_total",): [7.0]}


def test_what_sources_read_is_bounded_as_well() -> None:
    """What is beyond is added up as other, at each reading anew; it is told once."""
    registry = Registry(max_series=2)
    registry.add_source(lambda: [Reading(DEPTH, 1, (str(each),)) for each in range(5)])

    for _ in range(2):
        found = series(registry, "queue_depth")
        assert found == {("0",): [1.0], ("1",): [1.0], ("other",): [3.0]}
    assert series(registry, "pingora_metrics_overflows_total") == {("queue_depth",): [3.0]}


def test_labels_are_text_of_a_bounded_length() -> None:
    """What is longer is cut, what cannot be encoded is replaced; anything else is a mistake."""
    registry = Registry()
    names = registry.counter("names", "x", labels=("name",))
    names.labels("x" * 1000).inc()
    names.labels("x" * 2000).inc()
    names.labels("a\udcffb").inc()

    assert series(registry, "names_total") == {("x" * 200,): [2.0], ("a?b",): [1.0]}
    with pytest.raises(ValueError, match="wanted one each"):
        names.labels()
    with pytest.raises(TypeError, match="is text"):
        names.labels(5)  # type: ignore[arg-type]


def test_sources_of_the_same_name_are_counted_together() -> None:
    """Two queues that are called alike are one; those that take the least keep the least."""
    least = Description(
        otel_name="expiry", kind=Kind.GAUGE, help="x", over_workers=OverWorkers.LEAST
    )
    most = Description(otel_name="age", kind=Kind.GAUGE, help="x", over_workers=OverWorkers.MOST)
    registry = Registry()
    remove = registry.add_source(lambda: [Reading(DEPTH, 1, ("a",)), Reading(least, 7)])
    registry.add_source(lambda: [Reading(DEPTH, 2, ("a",)), Reading(least, 9), Reading(most, 1)])
    registry.add_source(lambda: [Reading(most, 3)])

    assert series(registry, "queue_depth") == {("a",): [3.0]}
    assert series(registry, "expiry") == {(): [7.0]}
    assert series(registry, "age") == {(): [3.0]}
    remove()
    remove()
    assert series(registry, "queue_depth") == {("a",): [2.0]}
    assert series(registry, "expiry") == {(): [9.0]}


def test_a_source_that_fails_hides_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    """What it has read before stays; the failure is counted, and logged now and then."""

    def broken() -> Iterator[Reading]:
        yield Reading(DEPTH, 1, ("a",))
        msg = "gone"
        raise RuntimeError(msg)

    registry = Registry()
    registry.add_source(broken)
    registry.add_source(lambda: [Reading(DEPTH, 1, (5,))])  # type: ignore[arg-type]
    registry.add_source(lambda: [Reading(DEPTH, 2, ("b",))])

    with caplog.at_level(logging.ERROR):
        for count in range(1, 6):
            assert series(registry, "queue_depth") == {("a",): [1.0], ("b",): [2.0]}
            assert registry.source_failures == 2 * count
    assert len(caplog.records) == 4  # the 1st, 2nd, 4th and 8th
    assert series(registry, "pingora_metrics_source_failures_total") == {(): [12.0]}


def test_mistakes_are_told_at_once() -> None:
    """Names that are none or are taken, bounds that do not grow, labels twice, no room at all."""
    registry = Registry()
    counter = registry.counter("a", "x")
    with pytest.raises(ValueError, match="already"):
        registry.counter("a", "x")
    with pytest.raises(ValueError, match="is no name"):
        registry.counter("A-b", "x")
    with pytest.raises(ValueError, match="is no name"):
        registry.gauge("b", "x", labels=("Bad",))
    with pytest.raises(ValueError, match="must differ"):
        registry.gauge("b", "x", labels=("worker",))
    with pytest.raises(ValueError, match="must grow"):
        registry.histogram("b", "x", bounds=(1, 1))
    with pytest.raises(ValueError, match="has bounds"):
        registry.histogram("b", "x", bounds=())
    with pytest.raises(ValueError, match="described as a counter"):
        registry.add_gauge(counter.description)
    with pytest.raises(ValueError, match="at least one"):
        Registry(max_series=0).counter("a", "x")
