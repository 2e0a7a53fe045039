"""The scenarios: each takes a rig and gives one row a peer."""

from __future__ import annotations

import contextlib
import resource
import statistics
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from bench import observed, stampede, workers
from bench.load import open_idle, wrk
from bench.process import BenchError
from bench.report import Row
from bench.rig import say
from bench.tls_load import GRPC_PATH, H2Load, Handshakes, open_idle_h2

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.load import Counted
    from bench.process import Running
    from bench.rig import Rig
    from bench.servers import Front

__all__ = ["SCENARIOS", "Effort", "Scenario"]

_T = TypeVar("_T")
_SETTLE_SECONDS = 1.0
_IDLE_STEPS = (200, 10_000)
_SPARE_FILES = 500
_LONG_RUN_REQUESTS = 200_000
_LONG_RUN_PEERS = ("pingora", "nginx")


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        rounds: Rounds over all peers; the median counts.
        seconds: Length of one measurement in seconds.
    """

    rounds: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something that is measured.

    Attributes:
        about: One line for the list.
        measure: Measures every peer; gets the rig, the effort and the scenario's own name.
    """

    about: str
    measure: Callable[[Rig, Effort, str], list[Row]]


@dataclass(frozen=True, slots=True)
class _Load:
    run: Callable[[int, float], Counted]
    front: Front = "plain"
    without: str | None = None

    def __call__(self, rig: Rig, effort: Effort, name: str) -> list[Row]:
        samples: dict[str, list[_Sample]] = {}
        with rig.proxies(self.front, self.without) as running:
            for peer in list(running):
                _attempt(rig, running, peer, lambda proxy: self.drive(proxy, 1.0))
            for turn in range(effort.rounds):
                for peer in _rotated(list(running), turn):
                    taken = _attempt(
                        rig, running, peer, lambda proxy: self.drive(proxy, effort.seconds)
                    )
                    if taken is not None:
                        say(f"  round {turn + 1}  {peer:9}  {taken.cpu_us:9.1f} us a request")
                        samples.setdefault(peer, []).append(taken)
        return [_row(name, peer, taken) for peer, taken in samples.items()]

    def drive(self, proxy: Running, seconds: float) -> _Sample:
        before = proxy.cpu_seconds()
        counted = self.run(proxy.port, seconds)
        proxy.check_alive()
        if counted.requests == 0:
            raise BenchError(f"{proxy.name} answered nothing ({counted.errors} errors)")
        cpu_us = (proxy.cpu_seconds() - before) * 1e6 / counted.requests
        return _Sample(counted, cpu_us, proxy.rss_kib())


@dataclass(frozen=True, slots=True)
class _Sample:
    counted: Counted
    cpu_us: float
    rss_kib: int


def _wrk(path: str, script: str = "", *, front: Front = "plain") -> _Load:
    return _Load(lambda port, seconds: wrk(port, path, 64, seconds=seconds, script=script), front)


_SMALL = _wrk("/small")


def _long_run(rig: Rig, effort: Effort, name: str) -> list[Row]:
    rows = []
    with rig.proxies() as running:
        for peer in [peer for peer in _LONG_RUN_PEERS if peer in running]:
            growth = _attempt(rig, running, peer, lambda proxy: _drive_long(proxy, effort))
            if growth is not None:
                before, samples = growth
                row = _row(name, peer, samples)
                row.rss_growth_kib = row.rss_kib - before
                rows.append(row)
    return rows


def _drive_long(proxy: Running, effort: Effort) -> tuple[int, list[_Sample]]:
    # The start is left out: it fills caches, pools and allocator arenas.
    before = _SMALL.drive(proxy, max(2.0, effort.seconds)).rss_kib
    samples: list[_Sample] = []
    while sum(sample.counted.requests for sample in samples) < _LONG_RUN_REQUESTS:
        samples.append(_SMALL.drive(proxy, max(2.0, effort.seconds)))
    time.sleep(_SETTLE_SECONDS)
    last = samples[-1]
    samples[-1] = _Sample(last.counted, last.cpu_us, proxy.rss_kib())
    return before, samples


@dataclass(frozen=True, slots=True)
class _Idle:
    open: Callable[[int, int, contextlib.ExitStack], None]
    front: Front = "plain"

    def __call__(self, rig: Rig, _: Effort, name: str) -> list[Row]:
        rows = []
        with rig.proxies(self.front) as running:
            for peer in list(running):
                hold = partial(_hold_idle, self.open, name)
                rows += _attempt(rig, running, peer, hold) or []
        return rows


def _hold_idle(
    open_more: Callable[[int, int, contextlib.ExitStack], None], name: str, proxy: Running
) -> list[Row]:
    rows = []
    with contextlib.ExitStack() as warm:
        open_more(proxy.port, 64, warm)
    time.sleep(_SETTLE_SECONDS)
    memory = proxy.rss_kib()
    opened = 0
    with contextlib.ExitStack() as stack:
        for count in _idle_steps():
            open_more(proxy.port, count - opened, stack)
            opened = count
            time.sleep(_SETTLE_SECONDS)
            rss = proxy.rss_kib()
            row = Row(f"{name}_{count}", proxy.name, count)
            row.rss_kib = rss
            row.kib_per_connection = (rss - memory) / count
            rows.append(row)
            say(f"  {count:5} idle  {proxy.name:8}  {row.kib_per_connection:6.1f} KiB each")
    return rows


def _idle_steps() -> list[int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or soft < hard:
        limit = max(soft, _IDLE_STEPS[-1] * 2 if hard == resource.RLIM_INFINITY else hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        soft = limit
    most = soft - _SPARE_FILES
    return sorted({min(step, most) for step in _IDLE_STEPS if min(step, most) > 0})


def _row(scenario: str, peer: str, samples: list[_Sample]) -> Row:
    row = Row(scenario, peer, sum(sample.counted.requests for sample in samples))
    row.cpu_us = statistics.median(sample.cpu_us for sample in samples)
    row.p50_ms = statistics.median(sample.counted.p50_ms for sample in samples)
    row.p99_ms = statistics.median(sample.counted.p99_ms for sample in samples)
    row.rss_kib = samples[-1].rss_kib
    row.per_second = statistics.median(
        sample.counted.requests / sample.counted.seconds for sample in samples
    )
    row.errors = sum(sample.counted.errors for sample in samples)
    return row


def _attempt(
    rig: Rig, running: dict[str, Running], peer: str, measure: Callable[[Running], _T]
) -> _T | None:
    """Measure a peer; one that fails is left out of the rest of the run.

    Args:
        rig: The run.
        running: The peers that still run; one that fails is taken out.
        peer: Which one.
        measure: What to do with it.

    Returns:
        What was measured, or None.
    """
    try:
        return measure(running[peer])
    except BenchError as error:
        del running[peer]
        rig.give_up(peer, error)
        return None


def _rotated(peers: list[str], turn: int) -> list[str]:
    # Nobody is always measured after the same neighbour.
    start = turn % len(peers) if peers else 0
    return peers[start:] + peers[:start]


SCENARIOS = {
    "small_get": Scenario("GET of 44 bytes, 64 keep-alive connections", _SMALL),
    "response_1mib": Scenario("GET of 1 MiB, 64 keep-alive connections", _wrk("/large")),
    "upload_1mib": Scenario(
        "POST of 1 MiB, 64 keep-alive connections", _wrk("/upload", "upload.lua")
    ),
    "connection_per_request": Scenario(
        "GET of 44 bytes, a new connection each, 64 at a time", _wrk("/small", "close.lua")
    ),
    "idle": Scenario("memory of 200 and of 10,000 idle keep-alive connections", _Idle(open_idle)),
    "long_run": Scenario("200,000 small GETs: does memory grow?", _long_run),
    "workers": Scenario(
        "GET of 44 bytes, 64 keep-alive connections: 2 workers against 1",
        lambda rig, effort, name: workers.measure(rig, effort.rounds, effort.seconds, name),
    ),
    "observed": Scenario(
        "GET of 44 bytes, 64 keep-alive connections: with metrics and an access log, and without",
        lambda rig, effort, name: observed.measure(rig, effort.rounds, effort.seconds, name),
    ),
    "tls_small_get": Scenario(
        "GET of 44 bytes over TLS, HTTP/1.1, 64 keep-alive connections",
        # h2load cannot read a status line without a reason, which is how hypercorn writes it.
        _Load(H2Load("/small", 64, http1=True), "tls", without="hypercorn"),
    ),
    "tls_handshakes": Scenario(
        "GET of 44 bytes, a new TLS connection each, full handshakes",
        _Load(Handshakes(resumed=False), "tls"),
    ),
    "tls_resumptions": Scenario(
        "GET of 44 bytes, a new TLS connection each, resumed sessions",
        _Load(Handshakes(resumed=True), "tls"),
    ),
    "h2_small_get": Scenario(
        "GET of 44 bytes over TLS, HTTP/2, 10 connections with 10 streams each",
        _Load(H2Load("/small", 10, 10), "tls"),
    ),
    "h2_response_1mib": Scenario(
        "GET of 1 MiB over TLS, HTTP/2, 10 connections with 10 streams each",
        _Load(H2Load("/large", 10, 10), "tls"),
    ),
    "grpc_unary": Scenario(
        "gRPC call of 100 bytes, TLS to the proxy, 10 connections with 10 streams each",
        _Load(H2Load(GRPC_PATH, 10, 10, grpc=True), "grpc"),
    ),
    "cache_small": Scenario(
        "GET of 44 bytes from a cache in memory, 64 keep-alive connections",
        _wrk("/small", front="cache"),
    ),
    "cache_1mib": Scenario(
        "GET of 1 MiB from a cache in memory, 64 keep-alive connections",
        _wrk("/large", front="cache"),
    ),
    "cache_disk_1mib": Scenario(
        "GET of 1 MiB from a cache on disk, 64 keep-alive connections",
        _wrk("/large", front="cache_disk"),
    ),
    "cache_stampede": Scenario(
        "2,000 clients at once ask a cache for what it does not have",
        lambda rig, effort, name: stampede.measure(rig, effort.rounds, name),
    ),
    "idle_h2": Scenario(
        "memory of 200 and of 10,000 idle HTTP/2 connections over TLS", _Idle(open_idle_h2, "tls")
    ),
}
