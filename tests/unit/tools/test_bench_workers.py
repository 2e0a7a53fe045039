"""The scenario that compares two workers with one: idle CPUs and the verdict."""

from __future__ import annotations

import pytest

from bench.report import Row, bars
from bench.workers import CpuTimes

STAT = """\
cpu  400 0 100 1500 20 0 0 0 0 0
cpu0 300 0 50 600 10 0 0 0 0 0
cpu1 100 0 50 900 10 0 0 0 0 0
intr 12345
"""


def test_only_the_cpus_that_may_be_used_are_counted() -> None:
    """Waiting for a disk is idle too."""
    assert CpuTimes.parse(STAT, {0}) == CpuTimes(610, 960)
    assert CpuTimes.parse(STAT, {0, 1}) == CpuTimes(1520, 2020)


def test_the_idle_share_is_that_of_the_time_between() -> None:
    """And nothing is no time."""
    earlier, later = CpuTimes(100, 1000), CpuTimes(150, 1200)

    assert later.idle_since(earlier) == pytest.approx(0.25)
    assert later.idle_since(later) == 0


def rows(one: float, two: float, idle: float) -> list[Row]:
    return [
        Row("workers", "1 worker", 1, per_second=one, idle_cores=idle),
        Row("workers", "2 workers", 1, per_second=two, idle_cores=0.0),
    ]


@pytest.mark.parametrize(
    ("two", "idle", "verdict"),
    [
        (1900.0, 3.0, "1.90  at least 1.8: met"),
        (1900.0, 0.2, "1.90  at least 1.8: met"),
        (1500.0, 3.0, "1.50  at least 1.8: MISSED by 0.30"),
        (1200.0, 0.4, "1.20  at least 1.8: not judged: 0.4 cores were free with 1 worker"),
    ],
)
def test_the_bar_is_held_where_the_machine_can(two: float, idle: float, verdict: str) -> None:
    """A machine without a core for the second worker says nothing about the second worker."""
    (line,) = bars(rows(1000.0, two, idle))

    assert verdict in line


def test_half_a_comparison_is_no_bar() -> None:
    """Nothing is said of a proxy that could not be measured."""
    assert bars(rows(1000.0, 1900.0, 1.0)[:1]) == []
