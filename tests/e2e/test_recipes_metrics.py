"""The snippets of the page about metrics count what happens."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pingora_cache import CacheStats
from pingora_cache.memory import MemoryStorage
from pingora_core import Server
from pingora_core.metrics import Registry, WorkerMetrics
from pingora_core.runtime.log_sinks import FileSink, LogQueue
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services.otlp import OtlpMetrics
from pingora_load_balancing import LoadBalancer
from pingora_load_balancing.outlier import OutlierDetector
from pingora_proxy.testing import Client, RunningService, ScriptedOrigin, reply
from tests.support.collectors import Collector
from tests.support.recipe_modules import load_recipe
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

recipe = load_recipe("metrics_parts")


def _value(registry: Registry, name: str, *labels: str) -> float:
    return registry.collect()[name].series[labels][0]


async def test_a_request_is_counted_under_its_route() -> None:
    """Once, at its end; ``watch`` has the connections read as well."""
    server = Server()
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200, b"ok"))
        metrics, proxy = recipe.measure(server, server.configuration, recipe.App(origin.address))
        async with RunningService(proxy) as running, Client(running.address) as client:
            assert (await client.get("/users/42")).status == 200
            name = "http_server_request_duration_seconds"
            await eventually(lambda: metrics.registry.collect()[name].series)
            found = metrics.registry.collect()
    ((labels, numbers),) = found[name].series.items()
    assert "/users/{id}" in labels
    assert sum(numbers[:-1]) == 1
    assert "pingora_upstream_connections_opened_total" in found


async def test_what_belongs_to_no_service_is_read(tmp_path: Path) -> None:
    """Backends, outliers, caches, stores and logs, by their names."""
    metrics = WorkerMetrics()
    balancer = LoadBalancer(["10.0.0.1:80", "10.0.0.2:80"])
    stats = CacheStats()
    stats.hits = 3
    queue = LogQueue(FileSink(tmp_path / "audit.log"))
    queue.put(b"line")
    recipe.read_more(
        metrics, balancer, OutlierDetector(balancer.pool), stats, MemoryStorage(1 << 20), queue
    )
    queue.close()

    value = partial(_value, metrics.registry)
    assert value("pingora_balancer_backends", "users", "ready") == 2
    assert value("pingora_outlier_ejections_total", "users", "ejected") == 0
    assert value("pingora_cache_requests_total", "pages", "hit") == 3
    assert value("pingora_cache_storage_objects", "pages") == 0
    assert value("pingora_log_lines_total", "audit", "written") == 1


def test_a_metric_of_your_own() -> None:
    """It has its label, and the name that Prometheus wants."""
    registry = Registry()
    recipe.time_a_model(registry)
    (family,) = (
        family
        for name, family in registry.collect().items()
        if name.startswith("llm_first_token_duration")
    )
    assert family.series["small",][-1] == 0.31


async def test_a_collector_gets_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end at the latest."""
    with Collector() as collector:

        def local(registry: Registry, *, endpoint: str) -> OtlpMetrics:
            assert endpoint == "http://127.0.0.1:4318/v1/metrics"
            return OtlpMetrics(registry, endpoint=f"http://{collector.address}/v1/metrics")

        monkeypatch.setattr(recipe, "OtlpMetrics", local)
        push = recipe.push_metrics(Server(), WorkerMetrics())
        switch = ShutdownSwitch()
        switch.start()
        await push.start(switch.watch)
    assert [path for path, _ in collector.bodies] == ["/v1/metrics"]
    assert (push.sent, push.failed) == (1, 0)
