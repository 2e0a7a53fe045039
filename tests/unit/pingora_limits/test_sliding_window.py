"""A sliding window allows its limit, and says when there will be room again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_limits import Decision, SlidingWindow
from pingora_limits.shared import SharedSlidingWindow
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    AnyWindow = type[SlidingWindow | SharedSlidingWindow]

both = pytest.mark.parametrize(
    "make",
    [pytest.param(SlidingWindow, id="local"), pytest.param(SharedSlidingWindow, id="shared")],
)


@both
def test_the_limit(make: AnyWindow) -> None:
    """So much is allowed at once, and no more; each key has its own window."""
    limiter = make(3, 10.0, clock=FakeClock())

    decisions = [limiter.acquire("a") for _ in range(4)]

    assert [decision.is_allowed for decision in decisions] == [True, True, True, False]
    assert [decision.remaining for decision in decisions] == [2, 1, 0, 0]
    assert limiter.acquire("b").is_allowed
    assert (limiter.limit, limiter.window) == (3, 10.0)


@both
def test_a_decision_tells_all(make: AnyWindow) -> None:
    """What is left, when the same would be allowed, when everything is free again."""
    clock = FakeClock()
    limiter = make(10, 10.0, clock=clock)

    assert limiter.acquire("a", 8) == Decision(True, 10, 2, 0.0, 20.0)
    clock.advance(5)
    assert limiter.acquire("a", 3) == Decision(False, 10, 2, 5 + 10 * (1 - 7 / 8), 15.0)
    clock.advance(5)
    # Of the eight, those of the first half of this interval have left the window.
    clock.advance(5)
    assert limiter.acquire("a", 7) == Decision(False, 10, 6, 1.25, 5.0)
    assert limiter.acquire("a", 6) == Decision(True, 10, 0, 0.0, 15.0)


@both
def test_what_was_refused_does_not_count(make: AnyWindow) -> None:
    """Who asks too often gets its limit all the same, unless that is not wanted."""
    clock = FakeClock()
    kind, strict = make(2, 1.0, clock=clock), make(2, 1.0, clock=clock, counts_refused=True)
    for _ in range(10):
        kind.acquire("a")
        strict.acquire("a")

    clock.advance(1.5)

    assert kind.acquire("a").is_allowed
    assert not strict.acquire("a").is_allowed


@both
def test_peek_takes_nothing(make: AnyWindow) -> None:
    """Asking is free."""
    limiter = make(2, 1.0, clock=FakeClock())

    assert limiter.peek("a") == limiter.peek("a") == Decision(True, 2, 2, 0.0, 2.0)
    limiter.acquire("a", 2)
    assert limiter.peek("a").is_allowed is False


@both
def test_more_than_the_limit_is_never_allowed(make: AnyWindow) -> None:
    """Waiting does not help, and the decision says so."""
    limiter = make(2, 1.0, clock=FakeClock())

    assert limiter.acquire("a", 3) == Decision(False, 2, 2, math.inf, 0.0)


@both
def test_a_clock_that_jumps_ahead_frees_everything(make: AnyWindow) -> None:
    """As after a pause."""
    clock = FakeClock()
    limiter = make(1, 1.0, clock=clock)
    limiter.acquire("a")

    clock.advance(1_000_000)

    assert limiter.acquire("a").is_allowed


@both
def test_a_clock_that_goes_back_does_not_lock_anybody_out(make: AnyWindow) -> None:
    """At the latest after two windows everything is free again."""
    clock = FakeClock()
    limiter = make(1, 1.0, clock=clock)
    limiter.acquire("a")

    clock.now -= 1_000_000
    limiter.acquire("a")
    clock.advance(2)

    assert limiter.acquire("a").is_allowed


@both
@pytest.mark.parametrize("cost", [0, -1, 2**33])
def test_a_cost_out_of_range_is_misuse(make: AnyWindow, cost: int) -> None:
    """Nothing can be had for nothing."""
    limiter = make(1, 1.0, clock=FakeClock())

    for method in (limiter.acquire, limiter.peek):
        with pytest.raises(ValueError, match="between 1 and"):
            method("a", cost)


@both
@pytest.mark.parametrize(("limit", "window"), [(0, 1.0), (1, 0.0), (-1, 1.0), (1, math.inf)])
def test_a_limit_out_of_range_is_misuse(make: AnyWindow, limit: int, window: float) -> None:
    """A limit of nothing, or a window without length, is a mistake."""
    with pytest.raises(ValueError, match=r"between 1 and|longer than 0"):
        make(limit, window)


@both
def test_memory_is_bounded(make: AnyWindow) -> None:
    """However many keys come."""
    limiter = make(1, 60.0, expected_keys=100, clock=FakeClock())
    for number in range(2_000):
        limiter.acquire(number)

    assert 0 < limiter.memory <= limiter.max_memory


@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 4)), min_size=1, max_size=80),
)
def test_bounds(limit: int, steps: list[tuple[int, int]]) -> None:
    """The limit within an interval, twice the limit within a window; and waiting helps."""
    clock = FakeClock(0.0)
    limiter = SlidingWindow(limit, 8.0, clock=clock)
    allowed: list[tuple[float, int]] = []
    for pause, cost in steps:
        clock.advance(pause)
        decision = limiter.acquire("a", cost)
        if decision.is_allowed:
            allowed.append((clock.now, cost))
        elif cost <= limit:
            assert decision.retry_after > 0
            later = FakeClock(clock.now + decision.retry_after + 1e-6)
            history = [(float(steps[0][0]), 0), *allowed]
            assert _replayed(limit, history, later).peek("a", cost).is_allowed
        window = [cost for at, cost in allowed if at > clock.now - 8]
        assert sum(window) <= 2 * limit
    first = steps[0][0]
    for start in range(first, int(clock.now) + 1, 8):
        assert sum(cost for at, cost in allowed if start <= at < start + 8) <= limit


def _replayed(limit: int, allowed: list[tuple[float, int]], clock: FakeClock) -> SlidingWindow:
    """Make a window in which the same was allowed, to look into the future of the first."""
    end, limiter = clock.now, SlidingWindow(limit, 8.0, clock=clock)
    for at, cost in allowed:
        clock.now = at
        limiter.acquire("a", cost) if cost else limiter.peek("a")
    clock.now = end
    return limiter


def test_repr() -> None:
    """Its repr tells the limit."""
    assert repr(SlidingWindow(3, 60.0)) == "<SlidingWindow of 3 in 60 s>"
