"""What the page gets of the metrics."""

from __future__ import annotations

import json

from pingora_core.metrics import Description, Kind, Reading, Registry, WorkerMetrics
from pingora_core.metrics.workers import ENDS
from pingora_core.services.metrics import DESCRIPTIONS as OF_SERVICES
from pingora_proxy.admin import traffic
from pingora_proxy.admin.traffic import all_numbers, ends_of, traffic_of
from pingora_proxy.metrics import ACTIVE, DURATION


def test_requests_by_class_and_by_duration() -> None:
    """Methods and routes are added up; a request without a response has no class."""
    registry = Registry()
    durations = registry.add_histogram(DURATION)
    durations.labels("GET", "200", "/a", "http", "").observe(0.002)
    durations.labels("POST", "204", "/b", "http", "").observe(0.002)
    durations.labels("GET", "503", "/a", "http", "").observe(20.0)
    durations.labels("GET", "", "", "http", "").observe(0.0005)
    registry.add_source(lambda: [Reading(ACTIVE, 3)])

    found = traffic_of(registry.collect())

    assert found is not None
    assert found["requests"] == {"1xx": 0, "2xx": 2, "3xx": 0, "4xx": 0, "5xx": 1, "none": 1}
    assert found["bounds"] == list(DURATION.bounds)
    assert found["counts"][:3] == [1, 2, 0]
    assert found["counts"][-1] == 1
    assert sum(found["counts"]) == 4
    assert found["seconds"] == 20.0045
    assert (found["active"], found["connections"]) == (3, None)


def test_without_a_proxy_there_is_none() -> None:
    """Other metrics are not drawn."""
    assert traffic_of(Registry().collect()) is None


def test_all_numbers_can_be_written() -> None:
    """With the labels by name; what each worker has for itself has its own."""
    registry = Registry()
    registry.add_histogram(DURATION).labels("GET", "200", "", "http", "").observe(0.002)
    description = Description(otel_name="some.count", kind=Kind.COUNTER, help="?", labels=("k",))
    registry.add_counter(description).labels("v").inc(2)
    workers = WorkerMetrics(registry)
    try:
        found = json.loads(json.dumps(all_numbers(workers.collect())))
    finally:
        workers.close()

    assert found["some_count_total"] == {
        "kind": "counter",
        "help": "?",
        "unit": "",
        "series": [{"labels": {"k": "v"}, "value": 2}],
    }
    [series] = found["http_server_request_duration_seconds"]["series"]
    assert series["labels"]["http.request.method"] == "GET"
    assert sum(series["counts"]) == 1
    assert series["sum"] == 0.002
    assert found["process_memory_usage_bytes"]["series"][0]["labels"] == {"worker": "0"}


def test_the_names_are_those_of_the_metrics() -> None:
    """A metric that is called otherwise one day would leave a plot empty without a word."""
    assert DURATION.name == traffic._DURATION
    assert ACTIVE.name == traffic._ACTIVE
    assert ENDS.name == traffic._ENDS
    assert traffic._STATUS in DURATION.labels
    assert traffic._CONNECTIONS in {each.name for each in OF_SERVICES}


def test_numbers_that_json_does_not_have() -> None:
    """They are told as not known; one of them must not hide all the others."""
    registry = Registry()
    registry.add_gauge(Description(otel_name="odd", kind=Kind.GAUGE, help="?")).labels().set(
        float("inf")
    )

    found = json.loads(json.dumps(all_numbers(registry.collect()), allow_nan=False))

    assert found["odd"]["series"] == [{"labels": {}, "value": None}]


def test_processes_that_have_ended() -> None:
    """They are told by how they ended; nothing is where nobody counts."""
    registry = Registry()
    ends = registry.add_counter(ENDS)
    ends.labels("killed").inc(2)
    ends.labels("ended").inc()

    assert ends_of(registry.collect()) == {"killed": 2, "ended": 1}
    assert ends_of(Registry().collect()) == {}
