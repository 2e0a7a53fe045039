"""What a proxy does is in its metrics, whatever the ending."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_cache.stats import CacheStats, StorageStats
from pingora_core.apps import LoadShedder
from pingora_core.apps.metrics import log_queue_source
from pingora_core.conf import ServerConf
from pingora_core.listeners import ConnectionLimits
from pingora_core.listeners.tls import CertificateStore, TlsSettings
from pingora_core.metrics import Registry
from pingora_core.modules import HttpModules, RateLimiterBuilder, RateLimitPolicy
from pingora_core.runtime.log_sinks import FileSink, LogQueue
from pingora_core.upstreams import HttpPeer
from pingora_limits.sliding_window import SlidingWindow
from pingora_proxy.cache_metrics import cache_source, storage_source
from pingora_proxy.metrics import ProxyMetrics
from pingora_proxy.observe import ProxyObserver
from tests.support.client import RawClient
from tests.support.origin import Origin
from tests.support.origin_steps import hang, reply, sequence, wait
from tests.support.proxy import BareProxy, RigProxy, RunningProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_error import Error
    from pingora_proxy import Session
    from tests.support.proxy import RigContext

pytestmark = pytest.mark.usefixtures("no_leaks")

SERVICE = "Pingora HTTP Proxy Service"


def value(registry: Registry, name: str, *labels: str) -> float:
    """A counter or a gauge, or how many values a histogram has."""
    family = registry.collect().get(name)
    numbers = [0.0] if family is None else family.series.get(labels, [0.0])
    return numbers[0] if len(numbers) == 1 else sum(numbers[:-1])


def total(registry: Registry, name: str, *labels: str) -> float:
    """The sum of a histogram."""
    return registry.collect()[name].series[labels][-1]


async def get(address: str, target: str = "/", body: bytes = b"") -> int:
    async with await RawClient.connect(address) as client:
        return (await client.request("POST" if body else "GET", target, body=body)).status


class Routed(BareProxy):
    """Names its routes."""

    async def request_filter(self, session: Session, ctx: None) -> bool:
        session.route = "/users/{id}" if session.req_header.path.startswith("/users/") else None
        return False


class Retrying(RigProxy):
    """Tries the origin when the first address does not answer."""

    def __init__(self, *addresses: str) -> None:
        left = iter(addresses)
        super().__init__(lambda _: HttpPeer(next(left)))

    async def fail_to_connect(
        self, session: Session, peer: HttpPeer, ctx: RigContext, error: Error
    ) -> Error:
        error.set_retry(True)
        return error


async def test_requests_are_counted_by_method_status_and_route() -> None:
    """With durations, bytes both ways, the version of HTTP, and what the upstream took."""
    registry = Registry()
    metrics = ProxyMetrics(registry)
    async with (
        Origin(reply(body=b"hello")) as origin,
        RunningProxy(Routed(origin), observers=[metrics]) as proxy,
    ):
        for number in range(3):
            assert await get(proxy.address, f"/users/{number}") == 200
        assert await get(proxy.address, "/", b"0123456789") == 200
        await eventually(lambda: value(registry, "http_server_active_requests") == 0)
        address = origin.address

    users = ("GET", "200", "/users/{id}")
    assert value(registry, "http_server_request_duration_seconds", *users) == 3
    assert total(registry, "http_server_response_body_size_bytes", *users) == 15
    assert value(registry, "http_server_request_body_size_bytes", *users) == 0
    assert total(registry, "http_server_request_body_size_bytes", "POST", "200", "") == 10
    assert value(registry, "pingora_server_requests_total", "1.1") == 4
    assert value(registry, "http_client_request_duration_seconds", address, "200", "") == 4
    assert value(registry, "pingora_upstream_wait_duration_seconds", address) == 4
    waited = total(registry, "pingora_upstream_wait_duration_seconds", address)
    assert 0 < waited <= total(registry, "http_client_request_duration_seconds", address, "200", "")
    connects = value(registry, "pingora_upstream_connect_duration_seconds", address)
    assert 1 <= connects <= 4
    assert value(registry, "pingora_upstream_retries_total") == 0


async def test_every_ending_is_counted(dead: str) -> None:
    """Malformed, left by the client, failed upstream, an odd method; in flight until then."""
    registry = Registry()
    metrics = ProxyMetrics(registry)
    async with (
        Origin(sequence(wait("go"), hang)) as origin,
        RunningProxy(RigProxy(origin), observers=[metrics]) as proxy,
    ):
        async with await RawClient.connect(proxy.address) as client:
            await client.send(b"GET / HTTP/1.1\r\nbad line\r\n\r\n")
            assert (await client.read_response()).status == 400
        async with await RawClient.connect(proxy.address) as client:
            await client.send(b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n")
            await origin.requests_arrived()
            assert value(registry, "http_server_active_requests") == 1
        await eventually(lambda: value(registry, "http_server_active_requests") == 0)
    duration = "http_server_request_duration_seconds"
    assert value(registry, duration, "_OTHER", "400", "") == 1
    assert value(registry, duration, "_OTHER", "", "") == 1
    errors = registry.collect()["pingora_server_request_errors_total"].series
    assert ("ConnectionClosed", "Downstream") in errors
    assert sum(each[0] for each in errors.values()) == 2

    async with (
        Origin(reply()) as origin,
        RunningProxy(Retrying(dead, origin.address), observers=[metrics]) as proxy,
    ):
        assert await get(proxy.address) == 200
    assert value(registry, "pingora_upstream_retries_total") == 1
    failed = ("http_client_request_duration_seconds", dead, "", "ConnectRefused")
    assert value(registry, *failed) == 1


async def test_what_a_service_counts_itself_is_read(certificate_files: tuple[Path, Path]) -> None:
    """Connections by state and version, TLS, the pool, limits, the limiter, failed observers."""

    class Limited(RigProxy):
        def init_downstream_modules(self, modules: HttpModules) -> None:
            policy = RateLimitPolicy("p", SlidingWindow(2, 60), key=lambda _: "all")
            modules.add_module(RateLimiterBuilder([policy]))

    class Broken(ProxyObserver):
        def request_started(self, session: Session) -> None:
            raise RuntimeError

    registry = Registry()
    metrics = ProxyMetrics(registry)
    async with Origin(reply()) as origin:
        proxy = RunningProxy(Limited(origin), observers=[metrics, Broken()])
        service = proxy.service
        service.app_logic.load_shedder = LoadShedder(10)
        service.set_connection_limits(ConnectionLimits(max_connections=5))
        metrics.watch(service)
        async with proxy, await RawClient.connect(proxy.address) as client:
            statuses = [(await client.request("GET", "/")).status for _ in range(3)]
            assert statuses == [200, 200, 429]
            assert value(registry, "pingora_server_connections", SERVICE, "open", "1.1") == 1
            assert value(registry, "pingora_server_connections", SERVICE, "open", "2") == 0
            idle = "pingora_upstream_connections_idle"
            await eventually(lambda: value(registry, idle, SERVICE, "1.1") == 1)
    reused = "pingora_upstream_connections_reused_total"
    assert value(registry, "pingora_upstream_connections_opened_total", SERVICE) == 1
    assert value(registry, reused, SERVICE, "1.1") == 1
    limited = "pingora_rate_limit_requests_total"
    assert value(registry, limited, SERVICE, "p", "allowed") == 2
    assert value(registry, limited, SERVICE, "p", "refused") == 1
    assert value(registry, "pingora_connections_admitted_total", SERVICE) == 1
    assert value(registry, "pingora_load_shedding_requests_total", SERVICE, "admitted") == 3
    assert value(registry, "pingora_observer_failures_total", SERVICE) == 3
    assert value(registry, "pingora_requests_received_total") >= 3
