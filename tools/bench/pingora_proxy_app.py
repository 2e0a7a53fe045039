"""The proxy that is measured: every phase of the framework, one fixed peer, one field set.

Run with a JSON object: ``port`` to listen on; ``origin``, the origin's port; ``front``, one of
plain, tls, grpc, cache, cache_disk and observed; ``certificate`` and ``key``, paths of PEM files; ``engine``,
the HTTP/2 library; ``workers``, how many; ``disk``, a path for the objects of a cache on disk, or an access log;
``profile``, a file for the profile of the run, or nothing.
"""

from __future__ import annotations

import cProfile
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from pingora_cache import CacheLock, CachePolicy, MemoryStorage
from pingora_core import HttpPeer, Server
from pingora_core.apps.http_app import HttpServerOptions
from pingora_core.conf import ServerConf
from pingora_core.listeners.tls import TlsSettings
from pingora_core.protocols.http.v2.options import Http2Options
from pingora_core.protocols.tls.alpn import ALPN
from pingora_proxy import ProxyHttp, http_proxy_service

if TYPE_CHECKING:
    from pingora_cache import Storage
    from pingora_core.protocols.http.v2.options import EngineName
    from pingora_http import RequestHeader
    from pingora_proxy import Session
    from pingora_proxy.observe import ProxyObserver

_IDLE_SECONDS = 300.0
_CACHE_BYTES = 1 << 30


class _Options(TypedDict):
    port: int
    origin: int
    front: str
    certificate: str
    key: str
    engine: EngineName
    workers: int
    disk: str
    profile: str


class Forward(ProxyHttp[None]):
    """Sends every request to one origin."""

    def __init__(self, origin: str, alpn: ALPN) -> None:
        """Remember the origin.

        Args:
            origin: Its address.
            alpn: What it speaks.
        """
        self._peer = HttpPeer(origin)
        self._peer.options.alpn = alpn

    def new_ctx(self) -> None:
        """Keep nothing for a request."""

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:  # noqa: ARG002
        """Choose the origin.

        Args:
            session: The request.
            ctx: Nothing.

        Returns:
            The one peer.
        """
        return self._peer

    async def upstream_request_filter(
        self,
        session: Session,  # noqa: ARG002
        upstream_request: RequestHeader,
        ctx: None,  # noqa: ARG002
    ) -> None:
        """Set the field that all proxies of the benchmark set.

        Args:
            session: The request.
            upstream_request: The head for the origin.
            ctx: Nothing.
        """
        upstream_request.insert_header("X-Forwarded-For", "127.0.0.1")


class Cache(Forward):
    """Answers from a cache; the origin says nothing about it, so an hour is assumed."""

    def __init__(self, origin: str, storage: Storage) -> None:
        """Remember where objects are kept.

        Args:
            origin: The origin's address.
            storage: The store.
        """
        super().__init__(origin, ALPN.H1)
        self._storage = storage
        self._lock = CacheLock(60.0)
        self._policy = CachePolicy(default_ttl={200: 3600.0})

    async def startup(self) -> None:
        """Open the store."""
        await self._storage.open()

    async def cleanup(self) -> None:
        """Close the store."""
        await self._storage.close()

    async def request_cache_filter(self, session: Session, ctx: None) -> None:  # noqa: ARG002
        """Switch the cache on.

        Args:
            session: The request.
            ctx: Nothing.
        """
        session.cache.enable(self._storage, lock=self._lock, policy=self._policy)


def _application(options: _Options) -> Forward:
    origin = f"127.0.0.1:{options['origin']}"
    match options["front"]:
        case "cache":
            return Cache(origin, MemoryStorage(_CACHE_BYTES))
        case "cache_disk":
            # Imported where it is measured, as an application does.
            from pingora_cache.disk import DiskStorage  # noqa: PLC0415

            return Cache(origin, DiskStorage(options["disk"], max_bytes=_CACHE_BYTES))
        case front:
            return Forward(origin, ALPN.H2 if front == "grpc" else ALPN.H1)


def _observers(options: _Options, server: Server) -> list[ProxyObserver]:
    # Imported where it is measured, as an application does.
    from pingora_core.metrics import WorkerMetrics  # noqa: PLC0415
    from pingora_core.runtime.log_sinks import FileSink, LogQueue  # noqa: PLC0415
    from pingora_core.services.prometheus import prometheus_service  # noqa: PLC0415
    from pingora_proxy.access_log import AccessLog  # noqa: PLC0415
    from pingora_proxy.metrics import ProxyMetrics  # noqa: PLC0415

    metrics = WorkerMetrics()
    server.add_service(prometheus_service(metrics, "127.0.0.1:0"))
    return [ProxyMetrics(metrics.registry), AccessLog(LogQueue(FileSink(Path(options["disk"]))))]


def main() -> None:
    """Serve until told to stop."""
    options: _Options = json.loads(sys.argv[1])
    server = Server(conf=ServerConf(workers=options["workers"]))
    http2 = Http2Options(engine=options["engine"], idle_timeout=_IDLE_SECONDS)
    service = http_proxy_service(
        server.configuration,
        _application(options),
        server_options=HttpServerOptions(http2=http2),
        observers=_observers(options, server) if options["front"] == "observed" else (),
    )
    address = f"127.0.0.1:{options['port']}"
    if options["front"] in {"plain", "cache", "cache_disk", "observed"}:
        service.add_tcp(address)
    else:
        settings = TlsSettings.intermediate(options["certificate"], options["key"])
        settings.enable_h2()
        service.add_tls_with_settings(address, None, settings)
    server.add_service(service)
    profiler = cProfile.Profile()
    try:
        if options["profile"]:
            profiler.enable()
        server.run_forever()
    finally:
        if options["profile"]:
            profiler.dump_stats(options["profile"])


if __name__ == "__main__":
    main()
