"""Applications: what a service runs on each of its connections."""

from pingora_core.apps.app import ServerApp
from pingora_core.apps.datagram import AsyncDatagramApp, DatagramApp
from pingora_core.apps.http_app import HttpServerApp, HttpServerOptions
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
    "DatagramApp",
    "HttpServer",
    "HttpServerApp",
    "HttpServerOptions",
    "Response",
    "ServeHttp",
    "ServerApp",
    "StreamEnding",
    "StreamProxy",
    "StreamProxyApp",
    "StreamProxyOptions",
    "StreamSession",
]
