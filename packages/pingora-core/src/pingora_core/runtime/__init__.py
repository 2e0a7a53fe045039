"""What runs everything: the shutdown signal, the shared timers, the allocator, the collector, the counters."""

from pingora_core.runtime.allocator import keep_freed_memory
from pingora_core.runtime.collector import calm_collector
from pingora_core.runtime.counters import COUNTERS, ProcessCounters
from pingora_core.runtime.log_limit import LogLimit
from pingora_core.runtime.shutdown import ShutdownSwitch, ShutdownWatch
from pingora_core.runtime.timers import Deadline, Timers, get_timers, sleep, timeout

__all__ = [
    "COUNTERS",
    "Deadline",
    "LogLimit",
    "ProcessCounters",
    "ShutdownSwitch",
    "ShutdownWatch",
    "Timers",
    "calm_collector",
    "get_timers",
    "keep_freed_memory",
    "sleep",
    "timeout",
]
