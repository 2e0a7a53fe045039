"""What a proxy does is in its metrics, whatever the ending."""

from __future__ import annotations

import ssl
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from pingora_cache.stats import CacheStats, StorageStats
from pingora_core.apps import LoadShedder
from pingora_core.apps.http_app import HttpServerOptions
from pingora_core.apps.metrics import log_queue_source
from pingora_core.conf import ServerConf
from pingora_core.listeners import ConnectionLimits
from pingora_core.listeners.tls import TlsSettings
from pingora_core.metrics import Registry
from pingora_core.modules import RateLimiterBuilder, RateLimitPolicy
from pingora_core.protocols.digest import Digest, TimingDigest
from pingora_core.runtime.log_sinks import FileSink, LogQueue
from pingora_core.upstreams import HttpPeer
from pingora_limits.sliding_window import SlidingWindow
from pingora_proxy.cache_metrics import cache_source, storage_source
from pingora_proxy.metrics import ProxyMetrics
from pingora_proxy.observe import AttemptRecord, ProxyObserver
from tests.support.certificates import CertificateAuthority
from tests.support.client import RawClient
from tests.support.h2client import RawH2Client
from tests.support.origin import Origin
from tests.support.origin_steps import hang, reply, sequence, wait
from tests.support.proxy import BareProxy, RigProxy, RunningProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_core.modules import HttpModules
    from pingora_core.protocols.http.client import ClientSession
    from pingora_error import Error
    from pingora_proxy import Session
    from tests.support.proxy import RigContext

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
        address = origin.address.rpartition(":")[::2]

    users = ("GET", "200", "/users/{id}", "http", "")
    posts = ("POST", "200", "", "http", "")
    assert value(registry, "http_server_request_duration_seconds", *users) == 3
    assert total(registry, "http_server_response_body_size_bytes", *users) == 15
    assert value(registry, "http_server_request_body_size_bytes", *users) == 0
    assert total(registry, "http_server_request_body_size_bytes", *posts) == 10
    assert value(registry, "pingora_server_requests_total", "1.1") == 4
    assert value(registry, "http_client_request_duration_seconds", "GET", *address, "200", "") == 3
    assert value(registry, "pingora_upstream_wait_duration_seconds", *address) == 4
    waited = total(registry, "pingora_upstream_wait_duration_seconds", *address)
    client = "http_client_request_duration_seconds"
    both = [total(registry, client, method, *address, "200", "") for method in ("GET", "POST")]
    assert 0 < waited <= sum(both)
    connects = value(registry, "pingora_upstream_connect_duration_seconds", *address)
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
    assert value(registry, duration, "_OTHER", "400", "", "http", "InvalidHTTPHeader") == 1
    assert value(registry, duration, "_OTHER", "", "", "http", "ConnectionClosed") == 1
    errors = registry.collect()["pingora_server_request_errors_total"].series
    assert ("ConnectionClosed", "Downstream") in errors
    assert sum(each[0] for each in errors.values()) == 2

    async with (
        Origin(reply()) as origin,
        RunningProxy(Retrying(dead, origin.address), observers=[metrics]) as proxy,
    ):
        assert await get(proxy.address) == 200
    assert value(registry, "pingora_upstream_retries_total") == 1
    failed = ("http_client_request_duration_seconds", "GET", *dead.split(":"), "", "ConnectRefused")
    assert value(registry, *failed) == 1


async def test_what_a_service_counts_itself_is_read() -> None:
    """Connections by state and version, the pool, limits, the limiter, failed observers."""

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


async def test_tls_http2_and_certificates_are_read(tmp_path: Path) -> None:
    """Handshakes by version, resumed and failed ones; connections of HTTP/2; when to renew."""
    authority = CertificateAuthority(tmp_path)
    issued = authority.issue("a.example")
    registry = Registry()
    metrics = ProxyMetrics(registry)
    context = ssl.create_default_context(cafile=authority.cert_path)
    context.set_alpn_protocols(["http/1.1"])
    async with Origin(reply()) as origin:
        proxy = RunningProxy(
            RigProxy(origin),
            observers=[metrics],
            server_options=HttpServerOptions(h2c=True),
            listen=("127.0.0.1:0",),
        )
        settings = TlsSettings.intermediate(issued.chain_path, issued.key_path)
        proxy.service.add_tls_with_settings("127.0.0.2:0", None, settings)
        metrics.watch(proxy.service)
        async with proxy:
            secure = proxy.addresses[1]
            async with await RawClient.connect(
                secure, tls=context, server_hostname="a.example"
            ) as client:
                assert (await client.request("GET", "/")).status == 200
            async with await RawClient.connect(secure) as client:
                await client.send(b"GET / HTTP/1.1\r\n\r\n")
            # It is given the time to read why.
            failures = "pingora_tls_handshakes_failed_total"
            await eventually(lambda: value(registry, failures, SERVICE) == 1)
            async with await RawClient.connect(secure):
                state = ("pingora_server_connections", SERVICE, "preparing", "")
                await eventually(lambda: value(registry, *state) == 1)
                assert value(registry, "pingora_server_connections", SERVICE, "open", "1.1") == 0
            async with await RawH2Client.connect(proxy.addresses[0]) as h2:
                assert (await h2.request()).status == 200
                assert value(registry, "pingora_server_connections", SERVICE, "open", "2") == 1
                labels = (SERVICE, "downstream")
                assert value(registry, "pingora_http2_connections", *labels) == 1
                assert value(registry, "pingora_http2_streams_total", *labels) == 1
            await eventually(lambda: value(registry, "pingora_http2_connections", *labels) == 0)
        proxy.service.app_logic.server_options.http2.stats.floods["ping"] = 2
    handshakes = "pingora_tls_handshakes_total"
    assert value(registry, handshakes, SERVICE, "TLSv1.3") == 1
    assert value(registry, "pingora_tls_handshakes_resumed_total", SERVICE) == 0
    assert value(registry, "pingora_http2_floods_total", SERVICE, "downstream", "ping") == 2
    assert value(registry, "pingora_server_requests_total", "2") == 1
    expiry = value(registry, "pingora_tls_certificate_expiry_seconds", SERVICE, "a.example")
    assert expiry == issued.certificate.not_valid_after_utc.timestamp()


async def test_a_reload_loses_no_counts() -> None:
    """The connector that takes the place of another one goes on with its counts."""
    registry = Registry()
    metrics = ProxyMetrics(registry)
    opened = ("pingora_upstream_connections_opened_total", SERVICE)
    async with (
        Origin(reply()) as origin,
        RunningProxy(RigProxy(origin), observers=[metrics]) as proxy,
    ):
        metrics.watch(proxy.service)
        assert await get(proxy.address) == 200
        assert value(registry, *opened) == 1
        await proxy.service.reload(ServerConf(upstream_keepalive_pool_size=7))
        assert value(registry, *opened) == 1
        assert await get(proxy.address) == 200
        assert value(registry, *opened) == 2


async def test_subrequests_and_unknown_upstreams_are_bounded() -> None:
    """Requests of the proxy's own are counted apart; what is remembered does not grow for ever."""
    registry = Registry(max_series=5)
    metrics = ProxyMetrics(registry)

    class Spawning(RigProxy):
        async def allow_spawning_subrequest(self, session: Session, ctx: RigContext) -> bool:
            return not session.is_subrequest

        async def request_filter(self, session: Session, ctx: RigContext) -> bool:
            spawner = session.subrequest_spawner
            if spawner is not None:
                spawner.spawn_background_subrequest(session)
            session.route = session.req_header.path
            return False

    async with (
        Origin(reply()) as origin,
        RunningProxy(Spawning(origin), observers=[metrics]) as proxy,
    ):
        for number in range(8):
            assert await get(proxy.address, f"/{number}") == 200
        await eventually(lambda: value(registry, "pingora_subrequests_total") == 8)
        await eventually(lambda: value(registry, "http_server_active_requests") == 0)
    family = registry.collect()["http_server_request_duration_seconds"].series
    assert sum(sum(numbers[:-1]) for numbers in family.values()) == 8
    assert sum(family[("other",) * 5][:-1]) == 3


def test_parts_of_an_attempt_are_measured() -> None:
    """The handshake of a new connection is known from its digest; a reused one has none."""
    registry = Registry()
    metrics = ProxyMetrics(registry)
    peer = HttpPeer("127.0.0.1:443", tls=True)
    for reused in (False, True):
        attempt = AttemptRecord(peer, 10.0)
        attempt.connected, attempt.head, attempt.ended = 10.5, 11.5, 13.0
        attempt.status, attempt.reused = 200, reused
        timing: list[TimingDigest | None] = [TimingDigest(100.0), TimingDigest(100.25)]
        attempt.upstream = cast(
            "ClientSession", SimpleNamespace(digest=Digest(timing_digest=timing))
        )
        metrics._count_attempt(attempt, b"GET")
    metrics._count_attempt(AttemptRecord(peer, 10.0), b"GET")  # it has not ended

    address = ("127.0.0.1", "443")
    assert total(registry, "pingora_upstream_connect_duration_seconds", *address) == 0.5
    assert total(registry, "pingora_upstream_tls_duration_seconds", *address) == 0.25
    assert total(registry, "pingora_upstream_wait_duration_seconds", *address) == 2.0
    assert (
        total(registry, "http_client_request_duration_seconds", "GET", *address, "200", "") == 6.0
    )


def test_caches_stores_and_logs_are_read(tmp_path: Path) -> None:
    """What they count is in the metrics by their names."""
    registry = Registry()
    stats, store = CacheStats(), StorageStats()
    stats.hits, stats.misses, stats.reasons["OriginNotCache"] = 3, 2, 1
    store.hits, store.used_bytes = 5, 4096
    queue = LogQueue(FileSink(tmp_path / "log"))
    registry.add_source(cache_source(stats, "pages"))
    registry.add_source(storage_source(lambda: store, "pages"))
    registry.add_source(storage_source(lambda: store, "disk", is_shared=True))
    registry.add_source(log_queue_source(queue, "access"))
    queue.put(b"line")
    queue.close()
    queue.put(b"late")

    assert value(registry, "pingora_cache_requests_total", "pages", "hit") == 3
    assert value(registry, "pingora_cache_requests_total", "pages", "miss") == 2
    assert value(registry, "pingora_cache_requests_uncached_total", "pages", "OriginNotCache") == 1
    assert value(registry, "pingora_cache_storage_lookups_total", "pages", "hit") == 5
    assert value(registry, "pingora_cache_storage_used_bytes", "pages") == 4096
    assert value(registry, "pingora_cache_shared_storage_used_bytes", "disk") == 4096
    assert value(registry, "pingora_log_lines_total", "access", "written") == 1
    assert value(registry, "pingora_log_lines_total", "access", "dropped") == 1
