"""Sources of backends."""

from pingora_load_balancing.discovery.interfaces import Discovered, ServiceDiscovery
from pingora_load_balancing.discovery.static import Static

__all__ = ["Discovered", "ServiceDiscovery", "Static"]
