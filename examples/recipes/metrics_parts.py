"""Metrics, the usual ones and your own: the snippets of docs/how-to/metrics.md."""

from __future__ import annotations

# --8<-- [start:source-imports]
from pingora_core.apps.metrics import log_queue_source
from pingora_load_balancing.metrics import backends_source, outlier_source
from pingora_proxy.cache_metrics import cache_source, storage_source

# --8<-- [end:source-imports]

# isort: split
from pingora_cache import CacheStats
from pingora_cache.memory import MemoryStorage
from pingora_core import HttpPeer, Server, ServerConf, Service, background_service
from pingora_core.metrics import Registry, WorkerMetrics
from pingora_core.runtime.log_sinks import LogQueue
from pingora_core.services.otlp import OtlpMetrics
from pingora_core.services.prometheus import prometheus_service
from pingora_load_balancing import LoadBalancer
from pingora_load_balancing.outlier import OutlierDetector
from pingora_proxy import ProxyHttp, Session, http_proxy_service
from pingora_proxy.metrics import ProxyMetrics
from pingora_proxy.proxy import HttpProxy


class App(ProxyHttp[None]):
    """Names the route of each request."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream

    def new_ctx(self) -> None:
        return None

    async def request_filter(self, session: Session, ctx: None) -> bool:
        # --8<-- [start:route]
        session.route = "/users/{id}"
        # --8<-- [end:route]
        return False

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return HttpPeer(self.upstream)


def measure(
    server: Server, conf: ServerConf, app: App
) -> tuple[WorkerMetrics, Service[HttpProxy[None]]]:
    """Switch the metrics on."""
    # --8<-- [start:on]
    metrics = WorkerMetrics()
    observer = ProxyMetrics(metrics.registry)
    proxy = http_proxy_service(conf, app, observers=[observer])
    observer.watch(proxy)
    server.add_services([proxy, prometheus_service(metrics, "127.0.0.1:9090")])
    # --8<-- [end:on]
    return metrics, proxy


def read_more(
    metrics: WorkerMetrics,
    balancer: LoadBalancer,
    detector: OutlierDetector,
    stats: CacheStats,
    storage: MemoryStorage,
    queue: LogQueue,
) -> None:
    """Add what belongs to no service."""
    # --8<-- [start:sources]
    registry = metrics.registry
    registry.add_source(backends_source(balancer.pool, "users"))
    registry.add_source(outlier_source(detector, "users"))
    registry.add_source(
        cache_source(stats, "pages")
    )  # the stats that session.cache.enable is given
    registry.add_source(storage_source(lambda: storage.stats, "pages"))
    registry.add_source(log_queue_source(queue, "audit"))  # that of an AccessLog is read by watch
    # --8<-- [end:sources]


def time_a_model(registry: Registry) -> None:
    """Measure something of your own."""
    # --8<-- [start:own]
    waits = registry.histogram(
        "llm.first_token.duration", "Until the first token.", labels=("model",)
    )
    waits.labels("small").observe(0.31)
    # --8<-- [end:own]


def push_metrics(server: Server, metrics: WorkerMetrics) -> OtlpMetrics:
    """Send the numbers to a collector."""
    # --8<-- [start:otlp]
    push = OtlpMetrics(metrics.registry, endpoint="http://127.0.0.1:4318/v1/metrics")
    server.add_service(background_service("otlp", push))
    # --8<-- [end:otlp]
    return push
