"""What it costs to be watched: our proxy with metrics and a JSON access log, and without.

Both run at the same time and are loaded in turns, so that what else happens on the machine meets both.
"""

from __future__ import annotations

import contextlib
import statistics
from typing import TYPE_CHECKING

from bench.load import wrk
from bench.process import BenchError
from bench.report import Row
from bench.rig import say

if TYPE_CHECKING:
    from bench.process import Running
    from bench.rig import Rig
    from bench.servers import Front

__all__ = ["measure"]

_FRONTS: dict[str, Front] = {"plain": "plain", "observed": "observed"}
_CONNECTIONS = 64
_WARM_UP_SECONDS = 1.0


def measure(rig: Rig, rounds: int, seconds: float, name: str) -> list[Row]:
    """Measure.

    Args:
        rig: The run.
        rounds: How often each is loaded; the median counts.
        seconds: How long each time.
        name: Of the scenario.

    Returns:
        A row for each; that of the observed one has the ratio.
    """
    taken: dict[str, list[float]] = {peer: [] for peer in _FRONTS}
    requests = dict.fromkeys(_FRONTS, 0)
    rows: dict[str, Row] = {}
    with contextlib.ExitStack() as stack:
        running = {
            peer: stack.enter_context(rig.pingora(1, front)) for peer, front in _FRONTS.items()
        }
        for proxy in running.values():
            _drive(proxy, _WARM_UP_SECONDS)
        for turn in range(rounds):
            for peer in sorted(running, reverse=bool(turn % 2)):
                cpu_us, count = _drive(running[peer], seconds)
                say(f"  round {turn + 1}  {peer:9}  {cpu_us:9.1f} us a request")
                taken[peer].append(cpu_us)
                requests[peer] += count
        for peer, proxy in running.items():
            row = rows[peer] = Row(name, peer, requests[peer])
            row.cpu_us = statistics.median(taken[peer])
            row.rss_kib = proxy.rss_kib()
    # Of each round, whose halves have met the same neighbours.
    pairs = zip(taken["observed"], taken["plain"], strict=True)
    rows["observed"].ratio = statistics.median(with_ / without for with_, without in pairs)
    return list(rows.values())


def _drive(proxy: Running, seconds: float) -> tuple[float, int]:
    before = proxy.cpu_seconds()
    counted = wrk(proxy.port, "/small", _CONNECTIONS, seconds=seconds)
    proxy.check_alive()
    if counted.requests == 0:
        raise BenchError(f"{proxy.name} answered nothing ({counted.errors} errors)")
    return (proxy.cpu_seconds() - before) * 1e6 / counted.requests, counted.requests
