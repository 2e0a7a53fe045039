"""Where connections come in: addresses, sockets, filters, and the tasks that serve them."""

from pingora_core.listeners.admission import ConnectionLimits, per_worker
from pingora_core.listeners.endpoint import Acceptor, Endpoint, L4BufferSettings
from pingora_core.listeners.fds import ListenFds, SocketSource
from pingora_core.listeners.filter import AcceptAllFilter, ConnectionFilter
from pingora_core.listeners.l4 import (
    BindRetry,
    ServerAddress,
    TcpServerAddress,
    UdpServerAddress,
    UdsServerAddress,
)
from pingora_core.listeners.proxy_protocol import ProxyProtocolSettings
from pingora_core.listeners.serving import ServingListeners
from pingora_core.listeners.stack import Listeners
from pingora_core.listeners.tls import (
    CertificateDirectory,
    CertificateStore,
    ClientAuth,
    ClientAuthMode,
    TlsAccept,
    TlsAlert,
    TlsSettings,
)

__all__ = [
    "AcceptAllFilter",
    "Acceptor",
    "BindRetry",
    "CertificateDirectory",
    "CertificateStore",
    "ClientAuth",
    "ClientAuthMode",
    "ConnectionFilter",
    "ConnectionLimits",
    "Endpoint",
    "L4BufferSettings",
    "ListenFds",
    "Listeners",
    "ProxyProtocolSettings",
    "ServerAddress",
    "ServingListeners",
    "SocketSource",
    "TcpServerAddress",
    "TlsAccept",
    "TlsAlert",
    "TlsSettings",
    "UdpServerAddress",
    "UdsServerAddress",
    "per_worker",
]
