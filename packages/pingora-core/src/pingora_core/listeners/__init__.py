"""Where connections come in: addresses, sockets, filters, and the tasks that serve them."""

from pingora_core.listeners.fds import ListenFds
from pingora_core.listeners.filter import AcceptAllFilter, ConnectionFilter
from pingora_core.listeners.l4 import BindRetry, ServerAddress, TcpServerAddress, UdsServerAddress
from pingora_core.listeners.serving import (
    Acceptor,
    Endpoint,
    L4BufferSettings,
    ServingListeners,
)
from pingora_core.listeners.stack import Listeners

__all__ = [
    "AcceptAllFilter",
    "Acceptor",
    "BindRetry",
    "ConnectionFilter",
    "Endpoint",
    "L4BufferSettings",
    "ListenFds",
    "Listeners",
    "ServerAddress",
    "ServingListeners",
    "TcpServerAddress",
    "UdsServerAddress",
]
