"""What runs everything: the shutdown signal and the coarse shared timers."""

from pingora_core.runtime.shutdown import ShutdownSwitch, ShutdownWatch
from pingora_core.runtime.timers import Deadline, Timers, get_timers, sleep, timeout

__all__ = [
    "Deadline",
    "ShutdownSwitch",
    "ShutdownWatch",
    "Timers",
    "get_timers",
    "sleep",
    "timeout",
]
