"""Service discovery and selection of upstream backends."""

from pingora_load_balancing._version import __version__
from pingora_load_balancing.backend import Backend
from pingora_load_balancing.backend_set import BackendSet
from pingora_load_balancing.backends import Backends
from pingora_load_balancing.balancer import LoadBalancer, UpdateTiming
from pingora_load_balancing.discovery import Discovered, ServiceDiscovery, Static
from pingora_load_balancing.health import (
    CustomHealthCheck,
    GrpcHealthCheck,
    HealthCheck,
    HealthChecker,
    HttpHealthCheck,
    InitialHealth,
    TcpHealthCheck,
)
from pingora_load_balancing.selection import (
    BackendSelection,
    BoundedLoad,
    FNVHash,
    KetamaHashing,
    LeastLatency,
    LeastRequest,
    MaglevHashing,
    OriginalRoundRobin,
    PriorityGroups,
    Random,
    RoundRobin,
    SelectionBuilder,
    SlowStart,
    Sticky,
    StickyCookie,
    ZonePreference,
    sticky_token,
)
from pingora_load_balancing.selector import Selector
from pingora_load_balancing.state import BackendState, Lease, PoolTotals

__all__ = [
    "Backend",
    "BackendSelection",
    "BackendSet",
    "BackendState",
    "Backends",
    "BoundedLoad",
    "CustomHealthCheck",
    "Discovered",
    "FNVHash",
    "GrpcHealthCheck",
    "HealthCheck",
    "HealthChecker",
    "HttpHealthCheck",
    "InitialHealth",
    "KetamaHashing",
    "Lease",
    "LeastLatency",
    "LeastRequest",
    "LoadBalancer",
    "MaglevHashing",
    "OriginalRoundRobin",
    "PoolTotals",
    "PriorityGroups",
    "Random",
    "RoundRobin",
    "SelectionBuilder",
    "Selector",
    "ServiceDiscovery",
    "SlowStart",
    "Static",
    "Sticky",
    "StickyCookie",
    "TcpHealthCheck",
    "UpdateTiming",
    "ZonePreference",
    "__version__",
    "sticky_token",
]
