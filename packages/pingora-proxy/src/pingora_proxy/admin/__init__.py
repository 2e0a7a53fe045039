"""A look into a running server, and a hand on it: JSON for programs, a live page for people."""

from pingora_proxy.admin.backends import PoolBackends, PoolView
from pingora_proxy.admin.caches import StorageCache
from pingora_proxy.admin.service import DEFAULT_ADDRESS, AdminService
from pingora_proxy.admin.sources import (
    BackendAction,
    BackendRow,
    BackendSource,
    CacheSource,
    ConnectorView,
    MetricsSource,
    ProxyView,
    ServerView,
)
from pingora_proxy.admin.token import MIN_TOKEN_LENGTH, AdminToken

__all__ = [
    "DEFAULT_ADDRESS",
    "MIN_TOKEN_LENGTH",
    "AdminService",
    "AdminToken",
    "BackendAction",
    "BackendRow",
    "BackendSource",
    "CacheSource",
    "ConnectorView",
    "MetricsSource",
    "PoolBackends",
    "PoolView",
    "ProxyView",
    "ServerView",
    "StorageCache",
]
