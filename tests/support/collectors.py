"""Collectors of traces and crash reports that run in the test: OTLP over HTTP, and Sentry's."""

from __future__ import annotations

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, ClassVar, Self

import brotli  # type: ignore[import-untyped]  # the distribution has no types
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

__all__ = ["Collector"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    collector: ClassVar[Collector]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        coding = self.headers.get("Content-Encoding")
        if coding == "gzip":
            body = gzip.decompress(body)
        elif coding == "br":
            body = brotli.decompress(body)
        self.collector.bodies.append((self.path, body))
        self.send_response(self.collector.status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args: object) -> None:
        """Nobody reads it."""


class Collector:
    """Takes what it is sent, in a thread: exporters wait for it in threads of their own.

    Attributes:
        bodies: Paths and bodies of the requests so far.
        status: What it answers.
    """

    def __init__(self) -> None:
        self.bodies: list[tuple[str, bytes]] = []
        self.status = 200
        handler = type("Handler", (_Handler,), {"collector": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def spans(self) -> list[Span]:
        """The spans that have arrived."""
        found: list[Span] = []
        for path, body in self.bodies:
            if path == "/v1/traces":
                request = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        found.extend(scope.spans)
        return found

    @property
    def events(self) -> list[dict[str, object]]:
        """The crash reports that have arrived."""
        found: list[dict[str, object]] = []
        for path, body in self.bodies:
            if path.endswith("/envelope/"):
                lines = body.split(b"\n")
                for head, payload in zip(lines[1::2], lines[2::2], strict=False):
                    if json.loads(head).get("type") == "event":
                        found.append(json.loads(payload))
        return found

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
