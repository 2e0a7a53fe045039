"""A server under mixed traffic, aborts, faults and reloads: does it grow, does it leak?

The traffic comes in rounds. After each the clients are gone, and the server is looked at in quiet:
its memory, its descriptors (without the connections that it keeps to the origin), its log.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.load.counts import Counts, table
from tests.support.load.crew import ABUSE, SORTS
from tests.support.load.process import CrewProcess, OriginProcess
from tests.support.load.site import Site

from conformance.upgrade_soak.processes import (
    Generations,
    descendants,
    files_of,
    resident_kib,
    slow_steps_in,
    warnings_in,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Plan", "Sample", "growth", "run"]

_RELOAD_SECONDS = 10.0
_SETTLE_SECONDS = 2.0
_WARM_UP = 0.2
_MOST_GROWTH = 0.05
_KEPT_TO_ORIGIN = 128
_ESTABLISHED = "01"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done.

    Attributes:
        workers: Of the server.
        seconds: How long altogether.
        round_seconds: Length of a round.
        debug: Whether the server runs in asyncio's debug mode.
        logs: Folder that its logs are kept in; None to throw them away.
    """

    workers: int
    seconds: float
    round_seconds: float
    debug: bool
    logs: Path | None


@dataclass(frozen=True, slots=True)
class Sample:
    """The server in quiet.

    Attributes:
        minutes: Since the start.
        rss_kib: Resident memory of all its processes.
        files: Their descriptors, connections to the origin left out.
        kept: Connections to the origin.
    """

    minutes: float
    rss_kib: int
    files: int
    kept: int


async def run(plan: Plan) -> bool:
    """Treat a server badly, and print how it bears it.

    Args:
        plan: How badly.

    Returns:
        Whether it neither grew nor leaked nor failed anybody.
    """
    print(f"{plan.seconds / 60:g} minutes, workers: {plan.workers}, debug: {plan.debug}")
    samples: list[Sample] = []
    totals: dict[str, Counts] = {}
    with tempfile.TemporaryDirectory(prefix="pingora-soak-") as name:
        async with OriginProcess() as origin:
            site = Site(Path(name), origin, {"workers": plan.workers})
            environment = {"PYTHONASYNCIODEBUG": "1"} if plan.debug else {}
            async with Generations(site, environment) as server:
                began = time.monotonic()
                print(f"{'minutes':>8}{'RSS KiB':>10}{'files':>7}{'kept':>6}{'requests':>11}")
                while time.monotonic() - began < plan.seconds:
                    for row in await _round(site, server, plan.round_seconds):
                        totals.setdefault(row.name, Counts(row.name)).add(row)
                    ports = {origin.port, origin.websocket_port}
                    samples.append(_look(server.pid, time.monotonic() - began, ports))
                    _show(samples[-1], totals)
                await server.stop()
                lines = server.lines(plan.logs)
    if plan.debug:
        print(slow_steps_in(lines))
    return _judge(samples, totals, warnings_in(lines))


async def _round(site: Site, server: Generations, seconds: float) -> list[Counts]:
    sizes = dict.fromkeys(SORTS, 1) | dict.fromkeys(ABUSE, 2)
    async with CrewProcess(site.target, sizes, seconds + 60) as crew:
        ends = time.monotonic() + seconds
        for number in range(1_000_000):
            await asyncio.sleep(min(_RELOAD_SECONDS, max(ends - time.monotonic(), 0)))
            if time.monotonic() >= ends:
                break
            await server.reload(f"reload {number}")
        counts = await crew.finish()
    await asyncio.sleep(_SETTLE_SECONDS)
    return [row for row in counts if row.name not in ABUSE]


def _look(pid: int, seconds: float, origin_ports: set[int]) -> Sample:
    pids = descendants(pid)
    kept = sum(_connections_to(pid, origin_ports) for pid in pids)
    return Sample(seconds / 60, resident_kib(pids), files_of(pids) - kept, kept)


def _connections_to(pid: int, ports: set[int]) -> int:
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[2].rpartition(":")[2], 16) in ports and fields[3] == _ESTABLISHED:
            inodes.add(f"socket:[{fields[9]}]")
    found = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found += str(entry.readlink()) in inodes
    return found


def growth(samples: Sequence[Sample]) -> float:
    """Tell how much memory has grown since the warm-up.

    Args:
        samples: In order, at least one.

    Returns:
        The share: the median of the last tenth over that of the first tenth after the warm-up.
    """
    steady = samples[int(len(samples) * _WARM_UP) :]
    few = max(1, len(steady) // 10)
    first = statistics.median(sample.rss_kib for sample in steady[:few])
    last = statistics.median(sample.rss_kib for sample in steady[-few:])
    return last / first - 1


def _show(sample: Sample, totals: dict[str, Counts]) -> None:
    requests = sum(row.requests for row in totals.values())
    print(
        f"{sample.minutes:8.1f}{sample.rss_kib:10}{sample.files:7}{sample.kept:6}{requests:11}",
        flush=True,
    )


def _judge(samples: list[Sample], totals: dict[str, Counts], warnings: list[str]) -> bool:
    print(table(totals.values()))
    for line in warnings[:20]:
        print(f"  log: {line}")
    failed = sum(row.failed for row in totals.values())
    share = growth(samples)
    steady = samples[int(len(samples) * _WARM_UP) :]
    files = {sample.files for sample in steady}
    most = max(sample.kept for sample in samples)
    bars = [
        (f"growth of memory after the warm-up: {share:+.1%}, under 5 %", share < _MOST_GROWTH),
        (f"descriptors after the warm-up: {sorted(files)}, constant", len(files) == 1),
        (f"connections kept to the origin: at most {most}", most <= _KEPT_TO_ORIGIN),
        (f"failed requests: {failed}, none", not failed),
        (f"warnings in the logs: {len(warnings)}, none", not warnings),
    ]
    for text, is_met in bars:
        print(f"{text}: {'met' if is_met else 'MISSED'}", flush=True)
    return all(is_met for _, is_met in bars)
