"""The server: runs services, listens to signals, stops without breaking things off."""

from pingora_core.server.phases import ExecutionPhase, PhaseWatch
from pingora_core.server.process import exit_on_error
from pingora_core.server.server import Server
from pingora_core.server.signals import (
    ManualShutdownSignal,
    ShutdownSignal,
    ShutdownSignalWatch,
    UnixShutdownSignalWatch,
)

__all__ = [
    "ExecutionPhase",
    "ManualShutdownSignal",
    "PhaseWatch",
    "Server",
    "ShutdownSignal",
    "ShutdownSignalWatch",
    "UnixShutdownSignalWatch",
    "exit_on_error",
]
