"""Events are counted in intervals; rates come from the interval before, or from both."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_limits import Rate, RateComponents, proportional_rate_estimate
from pingora_limits.shared import SharedRate
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_limits import Key

    AnyRate = Callable[[float, FakeClock], Rate | SharedRate]

both = pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda interval, clock: Rate(interval, clock=clock), id="local"),
        pytest.param(
            lambda interval, clock: SharedRate(interval, processes=2, clock=clock), id="shared"
        ),
        pytest.param(
            lambda interval, clock: Rate(interval, exact_keys=0, slots=1024, clock=clock),
            id="original",
        ),
    ],
)


def _rate_90_10(components: RateComponents) -> float:
    weighted = components.prev_samples * 0.1 + components.curr_samples * 0.9
    return weighted / components.interval


@both
def test_observe_rate(make: AnyRate) -> None:
    """The rate is that of the last completed interval; idle for two, it is 0."""
    clock = FakeClock()
    rate = make(1.0, clock)

    assert rate.observe(1, 3) == 3
    assert rate.observe(1, 2) == 5
    assert rate.rate(1) == 0
    clock.advance(1)
    assert rate.observe(1, 4) == 4
    assert rate.rate(1) == 5
    clock.advance(1)
    assert rate.rate(1) == 4
    clock.advance(1)
    assert rate.rate(1) == 0


@both
def test_observe_rate_custom_90_10(make: AnyRate) -> None:
    """A function of the caller's can weigh both intervals as it likes."""
    clock = FakeClock()
    rate = make(1.0, clock)

    rate.observe(1, 3)
    rate.observe(1, 2)
    assert rate.rate_with(1, _rate_90_10) == 4.5
    clock.advance(1)
    rate.observe(1, 4)
    assert rate.rate_with(1, _rate_90_10) == pytest.approx(4.1)
    clock.advance(1)
    assert rate.rate_with(1, _rate_90_10) == pytest.approx(0.4)
    clock.advance(1)
    assert rate.rate_with(1, _rate_90_10) == 0


@both
def test_observe_rate_custom_proportional(make: AnyRate) -> None:
    """The proportional estimate counts what is not yet older than one interval."""
    clock = FakeClock()
    rate = make(1.0, clock)

    rate.observe(1, 3)
    rate.observe(1, 2)
    assert rate.rate_with(1, proportional_rate_estimate) == 5
    clock.advance(0.5)
    assert rate.rate_with(1, proportional_rate_estimate) == 5
    assert rate.rate(1) == 0
    clock.advance(0.5)
    rate.observe(1, 4)
    assert rate.rate_with(1, proportional_rate_estimate) == 9
    clock.advance(0.75)
    assert rate.rate_with(1, proportional_rate_estimate) == 5.25
    clock.advance(0.25)
    assert rate.rate_with(1, proportional_rate_estimate) == 4
    assert rate.rate(1) == 4
    clock.advance(0.5)
    assert rate.rate_with(1, proportional_rate_estimate) == 2
    assert rate.rate(1) == 4
    clock.advance(1)
    assert rate.rate_with(1, proportional_rate_estimate) == 0


@both
def test_the_components(make: AnyRate) -> None:
    """An estimate is made of both counts, the interval and how much of it has passed."""
    clock = FakeClock()
    rate = make(10.0, clock)
    rate.observe("a", 7)
    clock.advance(12)
    rate.observe("a", 2)

    known = rate.rate_with("a", lambda components: components)
    assert known == RateComponents(7, 2, 10.0, known.current_interval_fraction)
    assert known.current_interval_fraction == pytest.approx(0.2)
    assert rate.rate("a") == 0.7
    assert rate.interval == 10.0


@both
def test_intervals_lie_on_a_grid(make: AnyRate) -> None:
    """A late first call does not make the interval before it longer than it was."""
    clock = FakeClock()
    rate = make(1.0, clock)
    rate.observe("a", 5)
    clock.advance(1.75)
    rate.observe("a", 1)

    clock.advance(0.25)

    assert rate.rate("a") == 1
    assert rate.observe("a", 0) == 0


@both
def test_a_clock_that_jumps_ahead_is_a_pause(make: AnyRate) -> None:
    """After more than two intervals nothing is known, and counting goes on."""
    clock = FakeClock()
    rate = make(1.0, clock)
    rate.observe("a", 5)

    clock.advance(10_000_000)

    assert rate.rate("a") == 0
    assert [rate.observe("a"), rate.observe("a")] == [1, 2]


def test_a_clock_that_goes_back_prolongs_the_interval_once() -> None:
    """Nothing is forgotten, and nothing stays longer than one interval more."""
    clock = FakeClock()
    rate = Rate(1.0, clock=clock)
    rate.observe("a", 5)

    clock.now -= 100_000
    assert rate.observe("a") == 6
    clock.advance(0.75)
    assert rate.observe("a") == 7
    clock.advance(0.25)

    assert rate.rate("a") == 7
    assert rate.observe("a") == 1


def test_a_shared_clock_that_goes_back_begins_the_interval_anew() -> None:
    """All processes see the same earlier interval, in which nothing was counted."""
    clock = FakeClock()
    rate = SharedRate(1.0, clock=clock)
    rate.observe("a", 5)

    clock.now -= 100_000

    assert [rate.observe("a"), rate.observe("a")] == [1, 2]
    assert rate.rate("a") == 0
    rate.close()


@both
def test_a_clock_that_trembles_within_an_interval_changes_nothing(make: AnyRate) -> None:
    """A step back that stays in the interval is none."""
    clock = FakeClock()
    rate = make(1.0, clock)
    rate.observe("a")
    clock.advance(0.5)
    rate.observe("a")

    clock.now -= 0.25

    assert rate.observe("a") == 3


@both
def test_readings_with_rounding_errors(make: AnyRate) -> None:
    """Intervals that no binary fraction can hold are counted as well as any."""
    clock = FakeClock(0.0)
    rate = make(0.1, clock)
    for number in range(1_000):
        clock.now = number * 0.05
        rate.observe("a")

    assert rate.rate("a") == pytest.approx(20, abs=11)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4), st.integers(0, 3)), max_size=80))
def test_counts_are_never_too_low(events: list[tuple[int, int, int]]) -> None:
    """Exact while there is room, then too high if anything, over both intervals."""
    clock = FakeClock(0.0)
    rate = Rate(4.0, expected_keys=2, exact_keys=5, clock=clock)
    truth: dict[tuple[int, int], int] = {}
    for key, value, pause in events:
        clock.advance(pause)
        # The grid begins with the first reading.
        interval = int((clock.now - events[0][2]) // 4)
        truth[interval, key] = truth.get((interval, key), 0) + value
        components = (rate.observe(key, value), rate.rate_with(key, lambda known: known))
        assert components[0] == components[1].curr_samples >= truth[interval, key]
        assert components[1].prev_samples >= truth.get((interval - 1, key), 0)


def test_exact_until_the_room_is_used_up() -> None:
    """As many keys as promised are counted exactly; the error bound tells when it is over."""
    clock = FakeClock()
    rate = Rate(1.0, expected_keys=100, clock=clock)

    assert [rate.observe(key, key) for key in range(100)] == list(range(100))
    assert rate.error_bound == 0
    rate.observe("one more", 1_000)

    assert rate.error_bound > 0
    assert [rate.observe(key, 0) for key in range(100)] == list(range(100))
    clock.advance(1)
    assert rate.observe("one more") == 1
    assert rate.error_bound == 0


def test_memory_is_bounded() -> None:
    """However many keys come, and however long they are, it takes what it said it would."""
    clock = FakeClock()
    rate = Rate(1.0, expected_keys=1_000, clock=clock)
    empty = rate.memory
    for _ in range(2):
        for number in range(20_000):
            rate.observe(f"{number}" * 50)
        clock.advance(1)
        assert empty < rate.memory <= rate.max_memory < 500_000

    clock.advance(5)
    rate.rate("a")

    assert rate.memory == empty
    assert sys.getsizeof(rate) < 100


@both
@pytest.mark.parametrize("events", [-1, 2**32 + 1])
def test_an_amount_out_of_range_is_misuse(make: AnyRate, events: int) -> None:
    """Negative amounts would make counts too low; nothing is counted then."""
    rate = make(1.0, FakeClock())

    with pytest.raises(ValueError, match="between 0 and 4294967296"):
        rate.observe("a", events)

    assert rate.observe("a") == 1


@pytest.mark.parametrize("interval", [0.0, -1.0, float("inf"), float("nan")])
def test_an_interval_without_length_is_misuse(interval: float) -> None:
    """An interval is longer than nothing and ends."""
    for make in (Rate, SharedRate):
        with pytest.raises(ValueError, match="longer than 0 seconds"):
            make(interval)


@pytest.mark.parametrize(
    "sizes",
    [{"expected_keys": 0}, {"exact_keys": -1}, {"hashes": 0}, {"slots": 0}],
    ids=lambda sizes: next(iter(sizes)),
)
def test_sizes_out_of_range_are_misuse(sizes: dict[str, int]) -> None:
    """A table without room is a mistake."""
    with pytest.raises(ValueError, match=r"at least 1|not negative"):
        Rate(1.0, **sizes)  # type: ignore[arg-type]  # none of them is the clock


@pytest.mark.parametrize("key", ["a", b"a", 1, "", b"", 0, -1, 2**200, "ä" * 10_000])
def test_keys_of_all_types(key: Key) -> None:
    """Text, bytes and integers are keys, however long."""
    rate = Rate(1.0, clock=FakeClock())

    assert [rate.observe(key), rate.observe(key)] == [1, 2]


def test_repr() -> None:
    """Its repr tells its interval and what it takes."""
    rate = Rate(0.5)

    assert repr(rate) == f"<Rate per 0.5 s, {rate.memory} bytes>"
