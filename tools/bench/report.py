"""Results: one JSON line a row, a table, and the bars they are held against."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Row", "bars", "compare", "table"]

_REFERENCE = "nginx"
_OURS = "pingora"
_FLAT_KIB = 1024
_SCALING = 1.8
_CORE = 0.95
_OBSERVED = 1.25
_RATIOS = {
    "small_get": 2.5,
    "response_1mib": 1.2,
    "tls_small_get": 2.5,
    "tls_handshakes": 2.0,
    "cache_small": 2.0,
    "cache_1mib": 1.0,
    "cache_disk_1mib": 1.5,
}


@dataclass(slots=True)
class Row:
    """One scenario, one peer.

    Attributes:
        scenario: What was measured.
        peer: The proxy.
        requests: Requests answered in all rounds.
        cpu_us: User and system time of the proxy for one request, in microseconds; None where
            too few were made to tell.
        peer_cpu_us: The same of nginx in this run; None without it.
        ratio: ``cpu_us`` divided by ``peer_cpu_us``.
        p50_ms: Median latency in milliseconds; None where none is taken.
        p99_ms: 99th percentile of it.
        rss_kib: Resident memory at the end, in KiB.
        per_second: Requests in a second; None where none are counted.
        errors: Failed connections and statuses over 399.
        kib_per_connection: Memory that one idle connection costs; None elsewhere.
        rss_growth_kib: Growth from the end of the warm-up to the end; None elsewhere.
        idle_cores: Cores' worth of CPU time that nobody used meanwhile; None elsewhere.
        origin_requests: Requests for one object that reached the origin, the most in a round; None
            elsewhere.
    """

    scenario: str
    peer: str
    requests: int
    cpu_us: float | None = None
    peer_cpu_us: float | None = None
    ratio: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    rss_kib: int = 0
    per_second: float | None = None
    errors: int = 0
    kib_per_connection: float | None = None
    rss_growth_kib: int | None = None
    idle_cores: float | None = None
    origin_requests: int | None = None

    def to_json(self) -> str:
        """Write the row as one line.

        Returns:
            A JSON object; optional measurements only where they were taken.
        """
        fields: dict[str, str | float | None] = {
            "scenario": self.scenario,
            "peer": self.peer,
            "requests": self.requests,
            "cpu_us": _rounded(self.cpu_us, 2),
            "peer_cpu_us": _rounded(self.peer_cpu_us, 2),
            "ratio": _rounded(self.ratio, 3),
            "p50_ms": _rounded(self.p50_ms, 3),
            "p99_ms": _rounded(self.p99_ms, 3),
            "rss_kib": self.rss_kib,
        }
        optional: dict[str, float | None] = {
            "per_second": _rounded(self.per_second, 0),
            "errors": self.errors or None,
            "kib_per_connection": _rounded(self.kib_per_connection, 2),
            "rss_growth_kib": self.rss_growth_kib,
            "idle_cores": _rounded(self.idle_cores, 2),
            "origin_requests": self.origin_requests,
        }
        fields.update({name: value for name, value in optional.items() if value is not None})
        return json.dumps(fields)


def compare(rows: Sequence[Row]) -> None:
    """Fill in what nginx took in the same scenario.

    Args:
        rows: All rows of one or more scenarios; changed in place.
    """
    reference = {row.scenario: row.cpu_us for row in rows if row.peer == _REFERENCE}
    for row in rows:
        row.peer_cpu_us = reference.get(row.scenario)
        if row.cpu_us and row.peer_cpu_us:
            row.ratio = row.cpu_us / row.peer_cpu_us


def table(rows: Iterable[Row]) -> str:
    """Lay the rows out for reading.

    Args:
        rows: What was measured.

    Returns:
        Lines of text.
    """
    head = f"{'scenario':24}{'peer':10}{'cpu us':>10}{'ratio':>8}{'req/s':>10}"
    lines = [f"{head}{'p50 ms':>9}{'p99 ms':>9}{'rss KiB':>10}  notes"]
    lines.extend(
        f"{row.scenario:24}{row.peer:10}{_cell(row.cpu_us, 10, 1)}{_cell(row.ratio, 8, 2)}"
        f"{_cell(row.per_second, 10, 0)}{_cell(row.p50_ms, 9, 2)}{_cell(row.p99_ms, 9, 2)}"
        f"{row.rss_kib:10}  {_notes(row)}".rstrip()
        for row in rows
    )
    return "\n".join(lines)


def bars(rows: Sequence[Row]) -> list[str]:
    """Hold the results against the bars of the design.

    Args:
        rows: What was measured.

    Returns:
        One line for each bar that these rows can tell about.
    """
    found = {(row.scenario, row.peer): row for row in rows}
    lines = []

    def add(name: str, value: float | None, limit: float, unit: str = "") -> None:
        if value is not None:
            verdict = "met" if value <= limit else f"MISSED by {value - limit:.2f}{unit}"
            lines.append(f"{name:52} {value:9.2f}{unit}  at most {limit:g}{unit}: {verdict}")

    for scenario, limit in _RATIOS.items():
        row = found.get((scenario, _OURS))
        if row is not None:
            add(f"{scenario}: CPU, as a multiple of nginx", row.ratio, limit)
    for scenario, peer, most in (("small_get", "aiohttp", 1 / 3), ("h2_small_get", "hypercorn", 1)):
        ours, theirs = found.get((scenario, _OURS)), found.get((scenario, peer))
        if ours and theirs and ours.cpu_us and theirs.cpu_us:
            add(f"{scenario}: CPU, as a share of {peer}", ours.cpu_us / theirs.cpu_us, most)
    observed = found.get(("observed", "observed"))
    if observed is not None:
        add("observed: CPU, as a multiple of unobserved", observed.ratio, _OBSERVED)
    for row in rows:
        if row.peer == _OURS:
            if row.scenario.startswith("idle_h2"):
                continue  # reported only: TLS and HTTP/2 state are the libraries'
            add(f"{row.scenario}: memory of a connection", row.kib_per_connection, 10, " KiB")
            add(f"{row.scenario}: growth of memory", row.rss_growth_kib, _FLAT_KIB, " KiB")
            add(f"{row.scenario}: requests that reach the origin", row.origin_requests, 1)
    return lines + _scaling(found)


def _scaling(found: dict[tuple[str, str], Row]) -> list[str]:
    one, two = (found.get(("workers", peer)) for peer in ("1 worker", "2 workers"))
    if one is None or two is None or not one.per_second or not two.per_second:
        return []
    ratio = two.per_second / one.per_second
    verdict = "met" if ratio >= _SCALING else f"MISSED by {_SCALING - ratio:.2f}"
    free = one.idle_cores or 0.0
    if ratio < _SCALING and free < _CORE:
        # The second worker could only take the CPU from the first, the load or the origin.
        verdict = f"not judged: {free:.1f} cores were free with 1 worker, the second needs one"
    name = "workers: requests a second, 2 as a multiple of 1"
    return [f"{name:52} {ratio:9.2f}  at least {_SCALING:g}: {verdict}"]


def _notes(row: Row) -> str:
    notes = []
    if row.kib_per_connection is not None:
        notes.append(f"{row.kib_per_connection:.1f} KiB a connection")
    if row.rss_growth_kib is not None:
        notes.append(f"{row.rss_growth_kib:+d} KiB over {row.requests} requests")
    if row.origin_requests is not None:
        notes.append(f"{row.origin_requests} to the origin")
    if row.idle_cores is not None:
        notes.append(f"{row.idle_cores:.1f} cores idle")
    if row.errors:
        notes.append(f"{row.errors} ERRORS")
    return ", ".join(notes)


def _cell(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
