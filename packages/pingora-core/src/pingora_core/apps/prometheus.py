"""Metrics over HTTP, as Prometheus and what understands its formats read them."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING, Final, final

from pingora_core.apps.serve_http import HttpServer, Response, ServeHttp
from pingora_core.metrics import negotiate, render
from pingora_core.protocols.http.compression.negotiate import accept_encoding_of

if TYPE_CHECKING:
    from pingora_core.apps.http_app import HttpServerOptions
    from pingora_core.metrics import WorkerMetrics
    from pingora_core.protocols.http.server import ServerSession

__all__ = ["PrometheusApp"]

_PIECE: Final = 65536
"""Bytes of text after which others have their turn."""

_LEVEL: Final = 1
"""Of compression: a tenth of the size; higher ones cost more than they save."""


@final
class PrometheusApp(HttpServer):
    """Answers with the metrics of all workers, whichever of them is asked.

    It has no authentication: it belongs on an address that only those reach who may know.

    Args:
        metrics: What to tell; also published from here on.
        path: Where.
        server_options: How clients are spoken to.

    Attributes:
        metrics: As given.
    """

    def __init__(
        self,
        metrics: WorkerMetrics,
        *,
        path: str = "/metrics",
        server_options: HttpServerOptions | None = None,
    ) -> None:
        super().__init__(_Scrape(metrics, path), server_options=server_options)
        self.metrics: WorkerMetrics = metrics

    async def startup(self) -> None:
        """Begin to publish; the service calls this before it listens."""
        self.metrics.start()

    async def cleanup(self) -> None:
        """Publish once more; the service calls this at its end. Other services may go on."""
        self.metrics.publish()


class _Scrape(ServeHttp):
    def __init__(self, metrics: WorkerMetrics, path: str) -> None:
        self._metrics = metrics
        self._path = path

    async def response(self, session: ServerSession) -> Response:
        request = session.request
        if request.path != self._path:
            return Response(404)
        if request.raw_method not in {b"GET", b"HEAD"}:
            return Response(405, headers=[("Allow", "GET, HEAD")])
        content_type = negotiate(request.get("accept"))
        pieces: list[bytes] = []
        size = 0
        for piece in render(self._metrics.collect(), content_type):
            pieces.append(piece)
            size += len(piece)
            if size >= _PIECE:
                size = 0
                await asyncio.sleep(0)
        body = b"".join(pieces)
        fields = [("Content-Type", content_type), ("Vary", "Accept, Accept-Encoding")]
        accepted = accept_encoding_of(request)
        if accepted is not None and accepted.weight("gzip") > 0:
            # In a thread: it takes as long as some requests, and lets others run meanwhile.
            body = await asyncio.to_thread(gzip.compress, body, _LEVEL, mtime=0)
            fields.append(("Content-Encoding", "gzip"))
        return Response(200, body, fields)
