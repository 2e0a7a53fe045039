"""A service that tells metrics to Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_core.apps.prometheus import PrometheusApp
from pingora_core.services.listening import Service

if TYPE_CHECKING:
    from pingora_core.metrics import WorkerMetrics

__all__ = ["prometheus_service"]


def prometheus_service(
    metrics: WorkerMetrics,
    address: str | None = None,
    *,
    path: str = "/metrics",
    name: str = "Prometheus",
) -> Service[PrometheusApp]:
    """Make a service that answers with the metrics of all workers.

    Args:
        metrics: What to tell.
        address: Where to listen, such as ``127.0.0.1:9090``; None for listeners of your own. It
            has no authentication: choose an address that only those reach who may know.
        path: Where the metrics are; everything else is answered with 404.
        name: What logs call it.

    Returns:
        The service; the same in each worker.
    """
    service = Service(name, PrometheusApp(metrics, path=path))
    if address is not None:
        service.add_tcp(address)
    return service
