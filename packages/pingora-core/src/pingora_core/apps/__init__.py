"""Applications: what a service runs on each of its connections."""

from pingora_core.apps.app import ServerApp
from pingora_core.apps.concurrency_limit import ConcurrencyLimit, FixedLimit, GradientLimit
from pingora_core.apps.datagram import AsyncDatagramApp, DatagramApp
from pingora_core.apps.http_app import HttpServerApp, HttpServerOptions
from pingora_core.apps.load_shedding import LoadShedder, Priority
from pingora_core.apps.serve_http import HttpServer, Response, ServeHttp
from pingora_core.apps.stream_proxy import (
    StreamEnding,
    StreamProxy,
    StreamProxyApp,
    StreamProxyOptions,
    StreamSession,
)

__all__ = [
    "AsyncDatagramApp",
    "ConcurrencyLimit",
    "DatagramApp",
    "FixedLimit",
    "GradientLimit",
    "HttpServer",
    "HttpServerApp",
    "HttpServerOptions",
    "LoadShedder",
    "Priority",
    "Response",
    "ServeHttp",
    "ServerApp",
    "StreamEnding",
    "StreamProxy",
    "StreamProxyApp",
    "StreamProxyOptions",
    "StreamSession",
]
