"""A clock that never goes back, whatever the one below does."""

from __future__ import annotations

from hypothesis import given, strategies as st

from pingora_load_balancing.steady_clock import SteadyClock
from tests.support.clock import FakeClock


def test_it_reads_the_clock_below() -> None:
    """As long as that one is steady itself, both agree."""
    below = FakeClock(5.0)
    clock = SteadyClock(below)
    below.advance(2.5)

    assert clock() == 7.5


def test_a_jump_back_costs_nothing_but_the_jump() -> None:
    """It stands still for one reading and goes on from there."""
    below = FakeClock(1000.0)
    clock = SteadyClock(below)
    below.now = 3.0
    assert clock() == 1000.0

    below.advance(2.0)
    assert clock() == 1002.0


@given(st.lists(st.floats(-1e9, 1e9), max_size=30))
def test_it_never_goes_back(readings: list[float]) -> None:
    """Each reading is at least the one before."""
    below = FakeClock()
    clock = SteadyClock(below)
    last = clock()
    for below.now in readings:
        now = clock()
        assert now >= last
        last = now
