"""What a process counts."""

from __future__ import annotations

from pingora_core.runtime.counters import COUNTERS, ProcessCounters


def test_counting_begins_at_nothing() -> None:
    """A new set of counters is empty, and counting in it leaves the process's own alone."""
    before = COUNTERS.requests
    counters = ProcessCounters()
    counters.requests += 1

    assert (counters.requests, COUNTERS.requests) == (1, before)
