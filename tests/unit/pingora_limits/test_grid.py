"""Time is cut into intervals that begin with the first reading."""

from __future__ import annotations

import math

from hypothesis import example, given, strategies as st

from pingora_limits._grid import Grid


@given(st.floats(1e-3, 1e4), st.lists(st.floats(-1e6, 1e9), min_size=1, max_size=30))
@example(0.001, [-2.220446049250313e-16, 2.0])
def test_a_reading_is_in_the_current_interval(interval: float, readings: list[float]) -> None:
    """Whatever the clock does, the interval of the last reading is the current one."""
    grid = Grid(interval)
    assert grid.start == math.inf
    for now in readings:
        before = grid.start
        passed = grid.advance(now)
        assert grid.start <= now <= grid.end
        assert grid.end - grid.start == 0 or math.isclose(
            grid.end - grid.start, interval, abs_tol=1e-6
        )
        assert 0 <= grid.fraction(now) <= 1
        assert (passed > 0) <= (grid.start >= before)


def test_a_reading_within_changes_nothing() -> None:
    """Only one that is outside moves the grid on."""
    grid = Grid(10.0)

    assert [grid.advance(now) for now in (5.0, 9.0, 15.0, 24.0, 56.0)] == [0, 0, 1, 0, 4]
    assert (grid.start, grid.end, grid.fraction(56.0)) == (55.0, 65.0, 0.1)
