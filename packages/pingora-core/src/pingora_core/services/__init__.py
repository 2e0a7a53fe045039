"""Services: what a server runs. ``listening.Service`` is the one with listeners."""

from pingora_core.services import listening
from pingora_core.services.background import (
    BackgroundService,
    GenBackgroundService,
    background_service,
)
from pingora_core.services.graph import ServiceGraph, ServiceHandle
from pingora_core.services.service import (
    STOP_SERVER,
    FailurePolicy,
    Restart,
    Service,
    ServiceContext,
    ServiceReadyNotifier,
    StopServer,
)

__all__ = [
    "STOP_SERVER",
    "BackgroundService",
    "FailurePolicy",
    "GenBackgroundService",
    "Restart",
    "Service",
    "ServiceContext",
    "ServiceGraph",
    "ServiceHandle",
    "ServiceReadyNotifier",
    "StopServer",
    "background_service",
    "listening",
]
