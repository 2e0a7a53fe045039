"""Metrics for an OpenTelemetry collector, which is there, away, slow or unwilling."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from pingora_core.metrics import OverWorkers, Registry
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services.otlp import OtlpMetrics
from tests.support.collectors import Collector
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from opentelemetry.proto.common.v1.common_pb2 import KeyValue
    from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric


@pytest.fixture
def registry() -> Registry:
    """One metric of each kind."""
    registry = Registry()
    registry.counter("app.tokens", "Tokens.", unit="{token}", labels=("llm.model",)).labels(
        "small"
    ).inc(3)
    registry.gauge("app.depth", "Depth.").labels().set(-1.5)
    registry.gauge("app.oldest", "Age.", over_workers=OverWorkers.MOST).labels().set(7)
    waits = registry.histogram("app.wait", "Waits.", bounds=(0.1, 1.0)).labels()
    for value in (0.05, 0.5, 7):
        waits.observe(value)
    return registry


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector."""
    with Collector() as collector:
        yield collector


@asynccontextmanager
async def pushing(push: OtlpMetrics) -> AsyncIterator[None]:
    switch = ShutdownSwitch()
    task = asyncio.create_task(push.start(switch.watch))
    try:
        yield
    finally:
        switch.start()
        async with asyncio.timeout(30):
            await task


def url(address: str) -> str:
    return f"http://{address}/v1/metrics"


def attributes(pairs: Iterator[KeyValue]) -> dict[str, str]:
    return {each.key: each.value.string_value for each in pairs}


def metrics_of(body: bytes) -> tuple[dict[str, str], dict[str, Metric]]:
    (resource,) = ExportMetricsServiceRequest.FromString(body).resource_metrics
    (scope,) = resource.scope_metrics
    found = {metric.name: metric for metric in scope.metrics}
    return attributes(iter(resource.resource.attributes)), found


async def test_a_collector_gets_names_units_and_numbers(
    registry: Registry, collector: Collector
) -> None:
    """With the dotted names of the conventions, and which process it is that counts."""
    push = OtlpMetrics(
        registry,
        endpoint=url(collector.address),
        interval=0.01,
        service_name="gateway",
        resource={"deployment.environment.name": "test"},
    )
    async with pushing(push):
        await eventually(lambda: push.sent >= 2)

    path, body = collector.bodies[0]
    resource, metrics = metrics_of(body)
    assert path == "/v1/metrics"
    assert resource["service.name"] == "gateway"
    assert resource["deployment.environment.name"] == "test"
    assert resource["service.instance.id"].startswith(socket.gethostname())
    tokens = metrics["app.tokens"]
    (point,) = tokens.sum.data_points
    assert (tokens.unit, tokens.description, point.as_double) == ("{token}", "Tokens.", 3)
    assert tokens.sum.is_monotonic
    assert tokens.sum.aggregation_temporality == 2  # cumulative
    assert attributes(iter(point.attributes)) == {"llm.model": "small"}
    assert 0 < point.start_time_unix_nano <= point.time_unix_nano
    depth = metrics["app.depth"].sum
    assert depth.data_points[0].as_double == -1.5
    assert not depth.is_monotonic
    assert metrics["app.oldest"].gauge.data_points[0].as_double == 7
    (waits,) = metrics["app.wait"].histogram.data_points
    assert (waits.count, waits.sum) == (3, 7.55)
    assert list(waits.bucket_counts) == [1, 1, 1]
    assert list(waits.explicit_bounds) == [0.1, 1.0]
    assert not waits.HasField("max")
    assert "pingora.metrics.otlp.exports" in metrics_of(collector.bodies[-1][1])[1]


async def test_the_variables_of_opentelemetry_are_followed(
    registry: Registry, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of the service, and what it is besides."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "edge")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "cloud.region=eu-1")
    async with pushing(OtlpMetrics(registry, endpoint=url(collector.address), interval=60)):
        pass
    resource, _ = metrics_of(collector.bodies[-1][1])
    assert (resource["service.name"], resource["cloud.region"]) == ("edge", "eu-1")


async def test_what_is_left_is_sent_at_the_end(registry: Registry, collector: Collector) -> None:
    """A service that stops long before the next message sends one more."""
    push = OtlpMetrics(registry, endpoint=url(collector.address), interval=60)
    async with pushing(push):
        assert collector.bodies == []
    assert (push.sent, len(collector.bodies)) == (1, 1)


async def test_a_collector_that_refuses_is_counted(
    registry: Registry, collector: Collector
) -> None:
    """Its answer is a failure, and nothing else happens."""
    collector.status = 400
    push = OtlpMetrics(registry, endpoint=url(collector.address), interval=0.01)
    async with pushing(push):
        await eventually(lambda: push.failed >= 2)
        collector.status = 200
        await eventually(lambda: push.sent >= 1)
    name = "pingora_metrics_otlp_exports_total"
    assert registry.collect()[name].series[("failed",)][0] == push.failed >= 2


async def test_a_collector_that_is_away_is_counted(registry: Registry) -> None:
    """Nobody listens there."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    push = OtlpMetrics(registry, endpoint=url(f"127.0.0.1:{port}"), interval=0.01, timeout=0.2)
    async with pushing(push):
        await eventually(lambda: push.failed >= 1)
    assert push.sent == 0


async def test_a_collector_that_hangs_holds_up_nobody(registry: Registry) -> None:
    """While a message is on its way no other one is made; a stop does not wait for it for long."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        push = OtlpMetrics(registry, endpoint=url(address), interval=0.01, timeout=0.5)
        async with pushing(push):
            await eventually(lambda: push.skipped >= 3)
        await eventually(lambda: not push._is_busy)
    assert push.sent == 0


def test_mistakes_are_told_at_once(registry: Registry) -> None:
    """An interval or a timeout that is none."""
    with pytest.raises(ValueError, match="positive"):
        OtlpMetrics(registry, interval=0)
    with pytest.raises(ValueError, match="positive"):
        OtlpMetrics(registry, timeout=-1)
