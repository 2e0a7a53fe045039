"""Sources of backends.

The sources that ask DNS are in `pingora_load_balancing.discovery.dns`, which needs the extra
``dns``.
"""

from pingora_load_balancing.discovery.access import HttpAccess
from pingora_load_balancing.discovery.combined import Fallback, Union
from pingora_load_balancing.discovery.consul import ConsulDiscovery, ConsulInstance, ConsulQuery
from pingora_load_balancing.discovery.file import FileDiscovery
from pingora_load_balancing.discovery.following import Backoff, follow
from pingora_load_balancing.discovery.http import HttpDiscovery
from pingora_load_balancing.discovery.interfaces import (
    DISCOVERY_ERROR,
    ClosableDiscovery,
    Discovered,
    ServiceDiscovery,
    WatchableDiscovery,
)
from pingora_load_balancing.discovery.kubernetes import KubernetesDiscovery, KubernetesEndpoint
from pingora_load_balancing.discovery.mutable import Mutable
from pingora_load_balancing.discovery.source import Source, SourceOptions
from pingora_load_balancing.discovery.static import Static

__all__ = [
    "DISCOVERY_ERROR",
    "Backoff",
    "ClosableDiscovery",
    "ConsulDiscovery",
    "ConsulInstance",
    "ConsulQuery",
    "Discovered",
    "Fallback",
    "FileDiscovery",
    "HttpAccess",
    "HttpDiscovery",
    "KubernetesDiscovery",
    "KubernetesEndpoint",
    "Mutable",
    "ServiceDiscovery",
    "Source",
    "SourceOptions",
    "Static",
    "Union",
    "WatchableDiscovery",
    "follow",
]
