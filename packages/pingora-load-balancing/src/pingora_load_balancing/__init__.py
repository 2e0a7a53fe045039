"""Service discovery and selection of upstream backends."""

from pingora_load_balancing._version import __version__
from pingora_load_balancing.backend import Backend
from pingora_load_balancing.backend_set import BackendSet
from pingora_load_balancing.backends import Backends
from pingora_load_balancing.balancer import LoadBalancer, UpdateTiming
from pingora_load_balancing.circuit_breaker import (
    CIRCUIT_OPEN,
    BreakerLimits,
    CircuitBreaker,
    Permit,
)
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
from pingora_load_balancing.hedge import hedge
from pingora_load_balancing.latency_quantile import LatencyQuantile
from pingora_load_balancing.outlier import OutlierDetector, OutlierSettings
from pingora_load_balancing.retry import (
    IDEMPOTENT_METHODS,
    Attempts,
    Failover,
    FailoverPhases,
    HasAttempts,
    ProxiedRequest,
    RetryBudget,
    RetryOn,
    RetryPolicy,
)
from pingora_load_balancing.selection import (
    BackendSelection,
    BoundedLoad,
    FNVHash,
    InOrder,
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
    "CIRCUIT_OPEN",
    "IDEMPOTENT_METHODS",
    "Attempts",
    "Backend",
    "BackendSelection",
    "BackendSet",
    "BackendState",
    "Backends",
    "BoundedLoad",
    "BreakerLimits",
    "CircuitBreaker",
    "CustomHealthCheck",
    "Discovered",
    "FNVHash",
    "Failover",
    "FailoverPhases",
    "GrpcHealthCheck",
    "HasAttempts",
    "HealthCheck",
    "HealthChecker",
    "HttpHealthCheck",
    "InOrder",
    "InitialHealth",
    "KetamaHashing",
    "LatencyQuantile",
    "Lease",
    "LeastLatency",
    "LeastRequest",
    "LoadBalancer",
    "MaglevHashing",
    "OriginalRoundRobin",
    "OutlierDetector",
    "OutlierSettings",
    "Permit",
    "PoolTotals",
    "PriorityGroups",
    "ProxiedRequest",
    "Random",
    "RetryBudget",
    "RetryOn",
    "RetryPolicy",
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
    "hedge",
    "sticky_token",
]
