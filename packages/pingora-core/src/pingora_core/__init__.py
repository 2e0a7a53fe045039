"""Servers, services, listeners, connectors and HTTP sessions for programmable network services.

The names that most programs need are here; everything else is in the sub-package of its layer.
"""

from pingora_core._version import __version__
from pingora_core.apps.app import ServerApp
from pingora_core.apps.http_app import HttpServerApp, HttpServerOptions
from pingora_core.apps.serve_http import HttpServer, Response, ServeHttp
from pingora_core.conf import Opt, ServerConf
from pingora_core.listeners.tls import CertificateStore, TlsAccept, TlsSettings
from pingora_core.modules.compression import ResponseCompression, ResponseCompressionBuilder
from pingora_core.protocols.http.server import ServerSession
from pingora_core.protocols.http.v1.server import Http1Options
from pingora_core.protocols.interfaces import Stream
from pingora_core.protocols.l4.sockopt import TcpKeepalive, TcpSocketOptions
from pingora_core.runtime.shutdown import ShutdownWatch
from pingora_core.server import Server
from pingora_core.services.background import BackgroundService, background_service
from pingora_core.services.listening import Service
from pingora_core.upstreams.options import PeerOptions
from pingora_core.upstreams.peer import BasicPeer, HttpPeer, Proxy

__all__ = [
    "BackgroundService",
    "BasicPeer",
    "CertificateStore",
    "Http1Options",
    "HttpPeer",
    "HttpServer",
    "HttpServerApp",
    "HttpServerOptions",
    "Opt",
    "PeerOptions",
    "Proxy",
    "Response",
    "ResponseCompression",
    "ResponseCompressionBuilder",
    "ServeHttp",
    "Server",
    "ServerApp",
    "ServerConf",
    "ServerSession",
    "Service",
    "ShutdownWatch",
    "Stream",
    "TcpKeepalive",
    "TcpSocketOptions",
    "TlsAccept",
    "TlsSettings",
    "__version__",
    "background_service",
]
