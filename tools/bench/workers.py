"""Scaling: how many more requests do two workers serve than one?

It needs a core for each worker beside that of the load and the origin. Whether they were free is
measured, not assumed: the share of the CPUs that was idle is taken while one worker is loaded.
"""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.load import wrk
from bench.process import BenchError
from bench.report import Row
from bench.rig import say

if TYPE_CHECKING:
    from bench.process import Running
    from bench.rig import Rig

__all__ = ["CpuTimes", "measure"]

_COUNTS = (1, 2)
_CONNECTIONS = 64
_WARM_UP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """What some CPUs have done since the machine was started, in ticks.

    Attributes:
        idle: Nothing, or waiting for a disk.
        total: Everything.
    """

    idle: int
    total: int

    @classmethod
    def parse(cls, text: str, cpus: set[int]) -> CpuTimes:
        """Read the kernel's table.

        Args:
            text: ``/proc/stat``.
            cpus: The CPUs to count.

        Returns:
            Their times, added up.
        """
        wanted = {f"cpu{number}" for number in cpus}
        idle = total = 0
        for line in text.splitlines():
            name, *fields = line.split()
            if name in wanted:
                # user nice system idle iowait irq softirq steal; guests are in user already
                ticks = [int(ticks) for ticks in fields[:8]]
                idle += ticks[3] + ticks[4]
                total += sum(ticks)
        return cls(idle, total)

    def idle_since(self, earlier: CpuTimes) -> float:
        """Tell what share of the time since then was idle.

        Args:
            earlier: The times then.

        Returns:
            0 to 1.
        """
        return (self.idle - earlier.idle) / max(self.total - earlier.total, 1)


@dataclass(slots=True)
class _Samples:
    per_second: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    requests: int = 0
    errors: int = 0

    def to_row(self, name: str, peer: str, rss_kib: int) -> Row:
        row = Row(name, peer, self.requests, rss_kib=rss_kib, errors=self.errors)
        row.per_second = statistics.median(self.per_second)
        row.cpu_us = statistics.median(self.cpu_us)
        row.p50_ms = statistics.median(self.p50_ms)
        row.p99_ms = statistics.median(self.p99_ms)
        row.idle_cores = statistics.median(self.idle)
        return row


def measure(rig: Rig, rounds: int, seconds: float, name: str) -> list[Row]:
    """Load a proxy with one worker and one with two, in turns.

    Args:
        rig: The run.
        rounds: How often.
        seconds: Length of one measurement.
        name: The scenario's name.

    Returns:
        A row for each.
    """
    cpus = set(rig.usable_cores)
    samples = {count: _Samples() for count in _COUNTS}
    with contextlib.ExitStack() as stack:
        try:
            running = {count: stack.enter_context(rig.pingora(count)) for count in _COUNTS}
            for proxy in running.values():
                wrk(proxy.port, "/small", _CONNECTIONS, seconds=_WARM_UP_SECONDS)
            for _ in range(rounds):
                for count in _COUNTS:
                    _take(running[count], seconds, cpus, samples[count])
        except BenchError as error:
            rig.give_up("pingora", error)
            return []
        return [
            samples[count].to_row(name, proxy.name, proxy.rss_kib())
            for count, proxy in running.items()
        ]


def _take(proxy: Running, seconds: float, cpus: set[int], samples: _Samples) -> None:
    cpu_seconds = proxy.cpu_seconds()
    times = CpuTimes.parse(Path("/proc/stat").read_text(), cpus)
    counted = wrk(proxy.port, "/small", _CONNECTIONS, seconds=seconds)
    idle = CpuTimes.parse(Path("/proc/stat").read_text(), cpus).idle_since(times)
    proxy.check_alive()
    if counted.requests == 0:
        raise BenchError(f"{proxy.name} answered nothing ({counted.errors} errors)")
    samples.per_second.append(counted.requests / counted.seconds)
    samples.cpu_us.append((proxy.cpu_seconds() - cpu_seconds) * 1e6 / counted.requests)
    samples.p50_ms.append(counted.p50_ms)
    samples.p99_ms.append(counted.p99_ms)
    samples.idle.append(idle * len(cpus))
    samples.requests += counted.requests
    samples.errors += counted.errors
    rate = f"{samples.per_second[-1]:9.0f} requests a second"
    say(f"  {proxy.name:9}  {rate}, CPUs idle: {idle:.0%} of {len(cpus)}")
