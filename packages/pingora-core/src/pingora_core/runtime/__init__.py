"""What runs everything: the shutdown signal, the coarse shared timers, the allocator."""

from pingora_core.runtime.allocator import keep_freed_memory
from pingora_core.runtime.log_limit import LogLimit
from pingora_core.runtime.shutdown import ShutdownSwitch, ShutdownWatch
from pingora_core.runtime.timers import Deadline, Timers, get_timers, sleep, timeout

__all__ = [
    "Deadline",
    "LogLimit",
    "ShutdownSwitch",
    "ShutdownWatch",
    "Timers",
    "get_timers",
    "keep_freed_memory",
    "sleep",
    "timeout",
]
