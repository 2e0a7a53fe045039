"""Applications: what a service runs on each of its connections."""

from pingora_core.apps.app import ServerApp
from pingora_core.apps.http_app import HttpServerApp, HttpServerOptions
from pingora_core.apps.serve_http import HttpServer, Response, ServeHttp
from pingora_core.apps.tcp_proxy import TcpProxy, TcpProxyOptions, TunnelRecord

__all__ = [
    "HttpServer",
    "HttpServerApp",
    "HttpServerOptions",
    "Response",
    "ServeHttp",
    "ServerApp",
    "TcpProxy",
    "TcpProxyOptions",
    "TunnelRecord",
]
