"""What a listening service counts, for metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from pingora_core.apps.app import ServerApp
from pingora_core.apps.http_app import HttpServerApp
from pingora_core.apps.metrics import (
    connection_limits_source,
    http2_source,
    load_shedder_source,
    read_process_counters,
    tls_source,
)
from pingora_core.metrics import Description, Reading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_core.metrics import Registry
    from pingora_core.services.listening import Service

__all__ = ["DESCRIPTIONS", "watch_process", "watch_service"]

A = TypeVar("A", bound=ServerApp)

CONNECTIONS: Final = Description.gauge(
    "pingora.server.connections",
    "Connections of clients that are open now; those that prepare have no version yet.",
    "service",
    "state",
    "network.protocol.version",
    unit="{connection}",
)

DESCRIPTIONS: Final = (CONNECTIONS,)


def watch_process(registry: Registry) -> None:
    """Have a registry read what a process has one of: requests received, accepting.

    Args:
        registry: Which.
    """
    registry.add_source(read_process_counters)


def watch_service(registry: Registry, service: Service[A]) -> None:
    """Have a registry read what a service counts: connections, TLS, HTTP/2, admission.

    Args:
        registry: Which.
        service: The service, set up: its name is the value of the label ``service``, and its
            limits and load shedder are those that it has now.
    """
    name = service.name
    app = service.app_logic

    def read() -> Iterator[Reading]:
        total, preparing = service.connections, service.preparing
        yield Reading(CONNECTIONS, preparing, (name, "preparing", ""))
        if isinstance(app, HttpServerApp):
            http2 = min(app.server_options.http2.stats.open, total - preparing)
            yield Reading(CONNECTIONS, total - preparing - http2, (name, "open", "1.1"))
            yield Reading(CONNECTIONS, http2, (name, "open", "2"))
        else:
            yield Reading(CONNECTIONS, total - preparing, (name, "open", ""))

    registry.add_source(read)
    registry.add_source(tls_source(lambda: service.endpoints, name))
    limits = service.listeners.policy.connection_limits
    if limits is not None:
        registry.add_source(connection_limits_source(limits, name))
    if isinstance(app, HttpServerApp):
        registry.add_source(http2_source(lambda: app.server_options.http2.stats, name))
        if app.load_shedder is not None:
            registry.add_source(load_shedder_source(app.load_shedder, name))
