"""Retries are a share of the requests, however these are spread over time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from pingora_load_balancing import RetryBudget
from tests.support.clock import FakeClock


def _withdrawals(budget: RetryBudget, wanted: int) -> int:
    return sum(budget.withdraw() for _ in range(wanted))


def test_a_share_of_the_requests_may_be_retried() -> None:
    """Not one more is granted; what was refused is counted."""
    budget = RetryBudget(0.2, min_per_second=0, clock=FakeClock())
    for _ in range(50):
        budget.deposit()

    assert budget.balance == 10
    assert _withdrawals(budget, 30) == 10
    assert budget.balance == 0
    assert (budget.requests, budget.retries, budget.refused) == (50, 10, 20)
    assert repr(budget) == "<RetryBudget 10 retries of 50 requests, 20 refused>"


def test_a_few_are_granted_whatever_the_traffic() -> None:
    """So that a service with few requests can retry at all; they come back with time."""
    clock = FakeClock()
    budget = RetryBudget(0.2, min_per_second=2, window=5.0, clock=clock)
    assert _withdrawals(budget, 99) == 10

    clock.advance(5.5)
    assert _withdrawals(budget, 99) == 10


def test_what_is_long_past_does_not_count() -> None:
    """Requests of one window are no credit in the next but one, nor are retries a debt."""
    clock = FakeClock()
    budget = RetryBudget(1.0, min_per_second=0, window=10.0, clock=clock)
    for _ in range(100):
        budget.deposit()
    clock.advance(9.4)
    assert _withdrawals(budget, 30) == 30

    clock.advance(3.0)
    assert budget.balance == 0
    clock.advance(1e9)
    budget.deposit()
    assert _withdrawals(budget, 9) == 1


def test_none_may_be_granted_at_all() -> None:
    """A budget of nothing grants nothing."""
    budget = RetryBudget(0.0, min_per_second=0)
    budget.deposit()

    assert not budget.withdraw()


def test_a_clock_that_jumps_back_does_not_stop_it() -> None:
    """Retries are granted again when a window has passed since the jump."""
    clock = FakeClock()
    budget = RetryBudget(0.0, min_per_second=1, window=10.0, clock=clock)
    assert _withdrawals(budget, 99) == 10

    clock.now -= 100_000.0
    assert _withdrawals(budget, 99) == 0
    clock.advance(11.0)
    assert _withdrawals(budget, 99) == 10


@pytest.mark.parametrize("ratio", [-0.1, math.inf, math.nan])
def test_a_ratio_makes_sense(ratio: float) -> None:
    """Anything else is the program's mistake."""
    with pytest.raises(ValueError, match="ratio must be"):
        RetryBudget(ratio)


@pytest.mark.parametrize(("minimum", "window"), [(-1.0, 1.0), (1.0, 0.0), (1.0, math.inf)])
def test_numbers_make_sense(minimum: float, window: float) -> None:
    """Anything else is the program's mistake."""
    with pytest.raises(ValueError, match="must be"):
        RetryBudget(min_per_second=minimum, window=window)


_STEPS = st.lists(
    st.one_of(
        st.floats(0.0, 12.0),
        st.sampled_from(["request"] * 3 + ["retry"] * 2),
    ),
    max_size=300,
)


@given(
    steps=_STEPS,
    ratio=st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0, 3.0]),
    min_per_second=st.sampled_from([0.0, 0.25, 1.0]),
)
def test_the_promise(steps: list[float | str], ratio: float, min_per_second: float) -> None:
    """In the window that ends with a retry there are at most so many retries for its requests.

    And one is granted if there are fewer, in a window that is a twentieth longer.
    """
    window = 10.0
    slot = window / 20
    clock = FakeClock()
    budget = RetryBudget(ratio, min_per_second=min_per_second, window=window, clock=clock)
    requests: list[float] = []
    retries: list[float] = []

    def within(times: list[float], seconds: float) -> int:
        return sum(time > clock.now - seconds for time in times)

    for step in steps:
        if isinstance(step, float):
            clock.advance(step)
        elif step == "request":
            budget.deposit()
            requests.append(clock.now)
        elif budget.withdraw():
            retries.append(clock.now)
            allowed = within(requests, window) * ratio + min_per_second * window
            assert within(retries, window) <= allowed + 1e-6
        else:
            # The clock of the test counts in millions of seconds: a millisecond for rounding.
            allowed = within(requests, window - slot - 0.001) * ratio + min_per_second * window
            assert within(retries, window + slot + 0.001) + 1 > allowed - 1e-6
