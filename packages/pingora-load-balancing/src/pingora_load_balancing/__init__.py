"""Service discovery and selection of upstream backends."""

from pingora_load_balancing._version import __version__
from pingora_load_balancing.backend import Backend
from pingora_load_balancing.balancer import LoadBalancer, UpdateTiming
from pingora_load_balancing.discovery import Discovered, ServiceDiscovery, Static
from pingora_load_balancing.selection import BackendSelection, RoundRobin, SelectionBuilder

__all__ = [
    "Backend",
    "BackendSelection",
    "Discovered",
    "LoadBalancer",
    "RoundRobin",
    "SelectionBuilder",
    "ServiceDiscovery",
    "Static",
    "UpdateTiming",
    "__version__",
]
