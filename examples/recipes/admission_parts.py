"""Limits of connections and of requests in flight, one by one: docs/how-to/admission.md.

All of them in one program: ``examples/admission.py``.
"""

from __future__ import annotations

from pingora_core import HttpPeer, ServerConf, Service

# --8<-- [start:import-apps]
from pingora_core.apps import GradientLimit, LoadShedder, Priority

# --8<-- [end:import-apps]
# --8<-- [start:import-listeners]
from pingora_core.listeners import ConnectionLimits, per_worker

# --8<-- [end:import-listeners]
from pingora_http import RequestHeader
from pingora_proxy import HttpProxy, ProxyHttp, Session, http_proxy_service


class Gateway(ProxyHttp[None]):
    """Sends everything to one upstream."""

    def __init__(self, upstream: str) -> None:
        self.peer = HttpPeer(upstream)

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return self.peer


def limit_connections(service: Service[HttpProxy[None]]) -> ConnectionLimits:
    """Take so many connections, and so many of one client."""
    # --8<-- [start:connections]
    limits = ConnectionLimits(max_connections=10_000, max_per_address=100)
    service.set_connection_limits(limits)
    # --8<-- [end:connections]
    return limits


def adaptive(conf: ServerConf, app: Gateway) -> tuple[Service[HttpProxy[None]], LoadShedder]:
    """Make a proxy that refuses what would only queue."""
    # --8<-- [start:shed]
    shedder = LoadShedder(GradientLimit())
    service = http_proxy_service(conf, app, load_shedder=shedder)
    # --8<-- [end:shed]
    return service, shedder


# --8<-- [start:priorities]
def classify(request: RequestHeader) -> Priority:
    """Say how important a request is."""
    if request.path == "/healthz":
        return Priority.EXEMPT
    return Priority.LOW if request.path.startswith("/export") else Priority.NORMAL


shedder = LoadShedder(GradientLimit(), classify=classify)
# --8<-- [end:priorities]


def divide(conf: ServerConf, service: Service[HttpProxy[None]]) -> ConnectionLimits:
    """Divide what the whole server may take."""
    # --8<-- [start:workers]
    limits = ConnectionLimits(
        max_connections=per_worker(10_000, conf.worker_count), max_per_address=100
    )
    # --8<-- [end:workers]
    service.set_connection_limits(limits)
    return limits
