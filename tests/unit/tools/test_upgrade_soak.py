"""The long run of upgrades: how it reads logs and memory, and how its clients count."""

from __future__ import annotations

import os

import pytest

from conformance.upgrade_soak.memory import Sample, growth
from conformance.upgrade_soak.processes import (
    descendants,
    files_of,
    resident_kib,
    slow_steps_in,
    warnings_in,
)
from tests.support.load.counts import Counts, failures_of, table


def test_growth_is_counted_from_the_end_of_the_warm_up() -> None:
    """What is filled at the start, caches and pools, is no leak."""
    sizes = [100, 150, *[200] * 7, 210]
    samples = [Sample(minute, size, 0, 0) for minute, size in enumerate(sizes)]

    assert growth(samples) == pytest.approx(0.05)
    assert growth(samples[:1]) == 0


def test_what_the_loop_warns_of_is_found() -> None:
    """A traceback is told with what was being done and what came of it."""
    lines = [
        "1 phase Running",
        "1 Fail to proxy: something",
        "Traceback (most recent call last):",
        '  File "a.py", line 1, in a',
        "    raise ValueError",
        "ValueError: no",
        "1 Task was destroyed but it is pending!",
        "1 a client closed its connection",
    ]

    first, second = warnings_in(lines)

    assert first.startswith("1 Fail to proxy: something / ")
    assert first.endswith("raise ValueError / ValueError: no")
    assert second == lines[6]


def test_slow_steps_are_told() -> None:
    """How many, and the longest."""
    lines = [f"1 Executing <Handle x> took {seconds} seconds" for seconds in ("0.120", "0.310")]

    assert slow_steps_in(lines).endswith("0.1 s: 2, the longest 0.31 s")
    assert slow_steps_in([]).endswith("0.1 s: 0, the longest 0.00 s")


def test_a_process_is_measured_with_its_children() -> None:
    """This one has at least itself."""
    pids = descendants(os.getpid())

    assert pids[0] == os.getpid()
    assert resident_kib([os.getpid()]) > 1000
    assert files_of([os.getpid()]) >= 3


def test_counts_survive_the_way_from_their_process() -> None:
    """And are added up by sort."""
    counts = Counts("ws", requests=2, resets=1)
    counts.fail("cut", "after 3 messages")

    total = Counts("ws")
    total.add(Counts.from_json(counts.to_json()))
    total.add(counts)

    assert (total.requests, total.resets, total.failed) == (4, 2, 2)
    assert len(failures_of([total])) == 2
    assert "2 x cut" in table([total])
    assert failures_of([Counts("h2", requests=1, raced=1)]) == []
