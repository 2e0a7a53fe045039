"""How often strangers may make a line appear in the log."""

from __future__ import annotations

import pytest

from pingora_core.runtime.log_limit import LogLimit


def test_a_burst_passes_and_then_the_rate_holds() -> None:
    """The lines that were swallowed are counted, and the next one that is written says so."""
    limit = LogLimit(rate=2.0, burst=3)

    assert [limit.admit(100.0) for _ in range(6)] == [0, 0, 0, None, None, None]
    assert limit.admit(100.4) is None
    assert limit.admit(100.5) == 4
    assert limit.admit(100.6) is None
    assert limit.admit(101.0) == 1


def test_silence_refills_no_more_than_the_burst() -> None:
    """A quiet year does not pay for a loud minute."""
    limit = LogLimit(rate=1.0, burst=2)
    limit.admit(0.0)

    assert [limit.admit(1e9) for _ in range(3)] == [0, 0, None]


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (float("inf"), 1), (1, 0)])
def test_a_limit_that_is_none_is_refused(rate: float, burst: int) -> None:
    """Nothing for ever, and everything, are not limits."""
    with pytest.raises(ValueError, match="must be"):
        LogLimit(rate, burst)
