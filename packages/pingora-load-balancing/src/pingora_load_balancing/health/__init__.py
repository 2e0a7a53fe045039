"""Active health checks: whether backends are well, found out by asking them."""

from pingora_load_balancing.health.checker import HealthChecker
from pingora_load_balancing.health.custom import CustomHealthCheck
from pingora_load_balancing.health.grpc import GrpcHealthCheck
from pingora_load_balancing.health.http import HealthResponse, HttpHealthCheck, Validator
from pingora_load_balancing.health.interfaces import ClosableHealthCheck, HealthCheck
from pingora_load_balancing.health.record import HealthRecord
from pingora_load_balancing.health.settings import HealthChanged, HealthSettings, InitialHealth
from pingora_load_balancing.health.tcp import TcpHealthCheck

__all__ = [
    "ClosableHealthCheck",
    "CustomHealthCheck",
    "GrpcHealthCheck",
    "HealthChanged",
    "HealthCheck",
    "HealthChecker",
    "HealthRecord",
    "HealthResponse",
    "HealthSettings",
    "HttpHealthCheck",
    "InitialHealth",
    "TcpHealthCheck",
    "Validator",
]
