"""Outgoing connections: names, sockets, proxies, TLS, and the pool of idle ones."""

from pingora_core.connectors.connect_proxy import ConnectProxyError
from pingora_core.connectors.dns import Answer, CachingResolver, Lookup, LookupFailed, Resolver
from pingora_core.connectors.lookup import DnsLookup, SystemLookup
from pingora_core.connectors.options import ConnectorOptions
from pingora_core.connectors.tls import TlsConnector
from pingora_core.connectors.transport import TransportConnector

__all__ = [
    "Answer",
    "CachingResolver",
    "ConnectProxyError",
    "ConnectorOptions",
    "DnsLookup",
    "Lookup",
    "LookupFailed",
    "Resolver",
    "SystemLookup",
    "TlsConnector",
    "TransportConnector",
]
