"""An ASGI application without a proxy, behind one, and in its metrics: docs/how-to/asgi.md.

One that is mounted in a proxy: ``examples/asgi_mount.py``.
"""

from __future__ import annotations

from fastapi import FastAPI

from pingora_core import HttpPeer, Server, Service
from pingora_core.metrics import WorkerMetrics
from pingora_proxy import HttpProxy, ProxyHttp, Session

# --8<-- [start:import]
from pingora_proxy.asgi import ASGIApp, AsgiApplication, asgi_service, asgi_source

# --8<-- [end:import]

api = FastAPI(title="Greetings")


@api.get("/api/hello")
async def hello() -> dict[str, str]:
    """Greet."""
    return {"hello": "world"}


def alone(server: Server, listen: str) -> Service[HttpProxy[None]]:
    """Serve the application at an address of its own, such as ``127.0.0.1:8000``."""
    # --8<-- [start:alone]
    service = asgi_service(api)
    service.add_tcp(listen)
    server.add_service(service)
    # --8<-- [end:alone]
    return service


def behind(server: Server, path: str) -> Service[HttpProxy[None]]:
    """Serve the application on a Unix socket, such as ``/run/gateway/api.sock``."""
    # --8<-- [start:behind]
    service = asgi_service(api)
    service.add_uds(path)
    server.add_service(service)  # and upstream_peer returns HttpPeer(f"unix:{path}")
    # --8<-- [end:behind]
    return service


class Gateway(ProxyHttp[None]):
    """Proxies to the application like to any other upstream."""

    def __init__(self, path: str) -> None:
        self.path = path

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return HttpPeer(f"unix:{self.path}")


class Mounted(ProxyHttp[None]):
    """Answers everything with an application, and has it in its metrics."""

    def __init__(self, metrics: WorkerMetrics, app: ASGIApp) -> None:
        self.api = AsgiApplication(app)
        # --8<-- [start:source]
        metrics.registry.add_source(asgi_source(self.api, "api"))  # pingora_asgi_failures_total
        # --8<-- [end:source]

    async def startup(self) -> None:
        await self.api.startup()

    async def cleanup(self) -> None:
        await self.api.cleanup()

    def new_ctx(self) -> None:
        return None

    async def request_filter(self, session: Session, ctx: None) -> bool:
        await self.api.serve(session)
        return True

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        raise AssertionError
