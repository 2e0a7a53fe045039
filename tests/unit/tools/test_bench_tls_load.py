"""What the benchmark reads out of h2load."""

from __future__ import annotations

import pytest

from bench.process import BenchError
from bench.tls_load import parse_h2load

_TEXT = """
finished in 2.00s, 50.00 req/s, 7.10KB/s
requests: 100 total, 110 started, 100 done, 98 succeeded, 2 failed, 1 errored, 0 timeout
status codes: 97 2xx, 1 3xx, 0 4xx, 1 5xx
"""


def test_h2load_counts_and_latencies() -> None:
    """Answers with 2xx count; other statuses and lost streams are errors without a latency."""
    log = "".join(f"170000000\t200\t{number * 1000}\n" for number in range(1, 100))

    counted = parse_h2load(_TEXT, f"{log}170000000\t-1\t999999999\n", 2)

    assert counted.requests == 97
    assert counted.errors == 3
    assert counted.seconds == 2
    assert counted.p50_ms == pytest.approx(50)
    assert 98 <= counted.p99_ms <= 100


def test_h2load_without_totals_is_an_error() -> None:
    """It says what h2load printed instead."""
    with pytest.raises(BenchError, match="no totals: could not connect"):
        parse_h2load("could not connect", "", 2)
