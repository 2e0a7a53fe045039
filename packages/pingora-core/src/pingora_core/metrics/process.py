"""What the operating system knows of this process."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pingora_core.metrics.description import Description, OverWorkers
from pingora_core.metrics.snapshot import Reading

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DESCRIPTIONS", "read_process"]

CPU: Final = Description.counter(
    "process.cpu.time", "Processor time of all workers.", "cpu.mode", unit="s"
)
MEMORY: Final = Description.gauge(
    "process.memory.usage",
    "Resident memory; workers share what was there before they were forked.",
    unit="By",
    over=OverWorkers.EACH,
)
FILES: Final = Description.gauge(
    "process.unix.file_descriptor.count",
    "Open file descriptors.",
    unit="{file_descriptor}",
    over=OverWorkers.EACH,
)
FILE_LIMIT: Final = Description.gauge(
    "process.unix.file_descriptor.limit",
    "How many file descriptors a process may have open.",
    unit="{file_descriptor}",
    over=OverWorkers.LEAST,
)
UPTIME: Final = Description.gauge(
    "process.uptime", "Age of the process.", unit="s", over=OverWorkers.EACH
)

DESCRIPTIONS: Final = (CPU, MEMORY, FILES, FILE_LIMIT, UPTIME)

_STATM: Final = Path("/proc/self/statm")
_STAT: Final = Path("/proc/self/stat")
_DESCRIPTORS: Final = "/proc/self/fd"


def read_process() -> Iterator[Reading]:
    """Read the numbers of this process; a source for a registry.

    Yields:
        They; what the system does not tell is left out.
    """
    usage = os.times()
    yield Reading(CPU, usage.user, ("user",))
    yield Reading(CPU, usage.system, ("system",))
    try:
        pages = int(_STATM.read_bytes().split()[1])
        # Field 22 of proc_pid_stat(5); the name before may hold anything but a parenthesis.
        started = int(_STAT.read_bytes().rpartition(b")")[2].split()[19])
        files = len(os.listdir(_DESCRIPTORS)) - 1  # noqa: PTH208 - it is open itself meanwhile
    except (OSError, ValueError, IndexError):
        return
    yield Reading(MEMORY, pages * resource.getpagesize())
    yield Reading(FILES, files)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        yield Reading(FILE_LIMIT, soft)
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
    yield Reading(UPTIME, max(0.0, age))
