"""Metrics over HTTP, as Prometheus asks for them."""

from __future__ import annotations

import gzip
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from pingora_core.metrics import WorkerMetrics
from pingora_core.services.prometheus import prometheus_service
from pingora_proxy.testing.service import RunningService
from tests.support.client import RawClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.client import Response

pytestmark = pytest.mark.usefixtures("no_leaks")


@asynccontextmanager
async def scraped(metrics: WorkerMetrics) -> AsyncIterator[RawClient]:
    async with (
        RunningService(prometheus_service(metrics)) as service,
        await RawClient.connect(service.address) as client,
    ):
        yield client
    metrics.close()


async def get(client: RawClient, target: str = "/metrics", accept: str = "*/*") -> Response:
    return await client.request("GET", target, [("Accept", accept)])


async def test_metrics_are_text_or_openmetrics() -> None:
    """The field Accept decides; both are what the parsers of prometheus_client take."""
    metrics = WorkerMetrics()
    metrics.registry.counter("hits", "Hits.", labels=("path",)).labels("/").inc(3)
    async with scraped(metrics) as client:
        plain = await get(client)
        openmetrics = await get(client, accept="application/openmetrics-text; version=1.0.0")

    assert plain.status == openmetrics.status == 200
    assert plain.get("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    assert str(openmetrics.get("content-type")).startswith(
        "application/openmetrics-text; version=1"
    )
    for families in (
        list(parse_text(plain.body.decode())),
        list(parse_openmetrics(openmetrics.body.decode())),  # type: ignore[no-untyped-call]
    ):
        (hits,) = [each for each in families if each.name == "hits"]
        assert [(each.labels, each.value) for each in hits.samples] == [({"path": "/"}, 3.0)]
        assert "pingora_event_loop_lag_seconds" in {each.name for each in families}


async def test_only_metrics_are_told_and_only_to_who_reads() -> None:
    """Other paths are not found, other methods not allowed; HEAD has no body."""
    async with scraped(WorkerMetrics()) as client:
        assert (await get(client, "/")).status == 404
        refused = await client.request("POST", "/metrics")
        assert (refused.status, refused.get("allow")) == (405, "GET, HEAD")
        head = await client.request("HEAD", "/metrics")
        assert (head.status, head.body) == (200, b"")


async def test_many_series_do_not_hold_up_others() -> None:
    """A scrape of many series gives others their turn."""
    metrics = WorkerMetrics()
    for number in range(20):
        family = metrics.registry.histogram(f"many{number}", "x", labels=("l",))
        for each in range(100):
            family.labels(str(each)).observe(1)
    async with scraped(metrics) as client:
        response = await get(client)
    assert response.body.count(b"_count{l=") == 2000


async def test_who_takes_gzip_gets_it() -> None:
    """As Prometheus asks for it; the text is the same."""
    async with scraped(WorkerMetrics()) as client:
        fields = [("Accept-Encoding", "gzip"), ("Accept", "text/plain")]
        packed = await client.request("GET", "/metrics", fields)
        refused = await client.request("GET", "/metrics", [("Accept-Encoding", "gzip;q=0, br")])
    assert packed.get("content-encoding") == "gzip"
    assert packed.get("vary") == "Accept, Accept-Encoding"
    assert b"# TYPE pingora_workers gauge" in gzip.decompress(packed.body)
    assert refused.get("content-encoding") is None
    assert b"# TYPE pingora_workers gauge" in refused.body
