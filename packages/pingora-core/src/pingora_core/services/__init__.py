"""Services: what a server runs. ``listening.Service`` is the one with listeners."""

from pingora_core.services import listening
from pingora_core.services.background import (
    BackgroundService,
    GenBackgroundService,
    background_service,
)
from pingora_core.services.datagram import DatagramService
from pingora_core.services.failure import STOP_SERVER, FailurePolicy, Restart, StopServer
from pingora_core.services.graph import ServiceGraph, ServiceHandle
from pingora_core.services.service import (
    Placement,
    Service,
    ServiceContext,
    ServiceReadyNotifier,
    ServiceState,
)
from pingora_core.services.stream_proxy import stream_proxy, stream_proxy_service

__all__ = [
    "STOP_SERVER",
    "BackgroundService",
    "DatagramService",
    "FailurePolicy",
    "GenBackgroundService",
    "Placement",
    "Restart",
    "Service",
    "ServiceContext",
    "ServiceGraph",
    "ServiceHandle",
    "ServiceReadyNotifier",
    "ServiceState",
    "StopServer",
    "background_service",
    "listening",
    "stream_proxy",
    "stream_proxy_service",
]
