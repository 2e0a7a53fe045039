"""Backends that fail are taken out, for longer each time, but never too many of them."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_load_balancing import OutlierSettings
from tests.unit.pingora_load_balancing.outlier.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Callable

_PLAIN = OutlierSettings(consecutive_errors=3, ejection_time=30.0, jitter=0.0)


def test_failures_in_a_row_eject_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """With the last one of them, not at the end of an interval."""
    rig = Rig(4, _PLAIN)

    with caplog.at_level(logging.INFO):
        rig.report(1, failed=2)
        assert rig.ejected == []
        rig.report(1, failed=1)
    assert rig.ejected == [1]
    assert rig.changes == [(1, True)]
    assert repr(rig.detector) == "<OutlierDetector 1 of 4 ejected, 1 watched>"

    with caplog.at_level(logging.INFO):
        rig.pass_time(30.0)
    assert rig.ejected == []
    assert rig.changes == [(1, True), (1, False)]
    assert caplog.messages == [
        "backend 10.0.0.1:80 is ejected for 30.0 s: 3 failures in a row",
        "backend 10.0.0.1:80 is readmitted",
    ]


def test_a_success_in_between_is_a_new_beginning() -> None:
    """Only failures in a row count."""
    rig = Rig(4, _PLAIN)
    for _ in range(10):
        rig.report(0, failed=2)
        rig.report(0, ok=1)

    assert rig.ejected == []


def test_the_next_report_readmits() -> None:
    """No background service is needed as long as there are requests."""
    rig = Rig(4, _PLAIN)
    rig.report(1, failed=3)
    rig.clock.advance(29.9)
    rig.report(0, ok=1)
    assert rig.ejected == [1]

    rig.clock.advance(0.1)
    rig.report(0, ok=1)

    assert rig.ejected == []


def test_each_ejection_lasts_longer() -> None:
    """By the first one's time, up to the limit; each quiet interval takes one back."""
    rig = Rig(4, OutlierSettings(consecutive_errors=1, max_ejection_time=75.0, jitter=0.0))
    for seconds in (30.0, 60.0, 75.0, 75.0):
        rig.report(1, failed=1)
        rig.pass_time(seconds - 0.5)
        assert rig.ejected == [1]
        rig.pass_time(0.5)
        assert rig.ejected == []

    for _ in range(4):  # The first of them has begun while it was out.
        rig.pass_time(10.0)
    rig.report(1, failed=1)
    rig.pass_time(59.5)
    assert rig.ejected == [1]
    rig.pass_time(0.5)
    assert rig.ejected == []


def test_the_time_out_is_spread() -> None:
    """Backends that went out together do not come back together."""
    settings = OutlierSettings(jitter=0.5, uniform=lambda: 0.5)

    assert settings.time_out(1) == 37.5
    assert settings.time_out(99) == 375.0


def test_one_that_has_come_back_is_on_probation() -> None:
    """Its first failure ejects it again; with a success it is like the others."""
    rig = Rig(4, _PLAIN)
    rig.report(1, failed=3)
    rig.pass_time(30.0)

    rig.report(1, failed=1)
    assert rig.ejected == [1]

    rig.pass_time(60.0)
    rig.report(1, ok=1)
    rig.report(1, failed=2)
    assert rig.ejected == []


def test_what_was_under_way_says_nothing_new() -> None:
    """Failures of an ejected backend prolong nothing, and count for nothing afterwards."""
    rig = Rig(4, _PLAIN)
    rig.report(1, failed=50)
    assert rig.detector.ejections == 1

    rig.pass_time(30.0)
    assert rig.ejected == []


@pytest.mark.parametrize(
    ("count", "share", "most"), [(1, 1.0, 0), (2, 1.0, 1), (4, 0.1, 1), (4, 0.5, 2), (10, 0.39, 3)]
)
def test_not_too_many_are_out(count: int, share: float, most: int) -> None:
    """The share is kept, one always may be out, and the last one never is."""
    rig = Rig(count, OutlierSettings(consecutive_errors=2, max_ejected_share=share))

    for number in range(count):
        rig.report(number, failed=2)

    assert rig.ejected == list(range(most))
    assert rig.detector.spared == count - most


def test_the_last_that_is_fit_stays() -> None:
    """Those that are unhealthy, disabled or drained are none of the ones that are left."""
    rig = Rig(4, OutlierSettings(consecutive_errors=1, max_ejected_share=1.0))
    rig.pool.set_healthy(rig.backends[0].addr, False)
    rig.pool.set_enabled(rig.backends[1].addr, False)

    rig.report(2, failed=1)
    rig.report(3, failed=9)

    assert rig.ejected == [2]
    rig.report(0, failed=1)  # It is out anyway: nothing is lost.
    assert rig.ejected == [0, 2]


def test_room_that_becomes_free_is_used() -> None:
    """A backend that was spared goes out with the next failure after another one is back."""
    rig = Rig(4, _PLAIN)
    rig.report(0, failed=3)
    rig.report(1, failed=5)
    assert rig.ejected == [0]

    rig.pass_time(30.0)
    rig.report(1, failed=1)

    assert rig.ejected == [1]


def test_a_backend_that_has_left_is_forgotten() -> None:
    """It takes no place among the ejected, and comes back as new."""
    rig = Rig(4, _PLAIN)
    rig.report(0, failed=3)
    rig.pool.replace(rig.backends[1:])
    rig.report(1, failed=3)
    assert rig.ejected == [1]

    rig.pool.replace(rig.backends)
    assert rig.ejected == [1]
    assert rig.pool.is_ready(rig.backends[0].addr)
    rig.pass_time(60.0)
    assert rig.changes == [(0, True), (1, True), (1, False)]


@pytest.mark.parametrize("leaves", [False, True])
def test_there_may_be_nothing_to_readmit(leaves: bool) -> None:
    """When the time of an ejection is over and somebody else was faster, nobody is told."""
    rig = Rig(4, OutlierSettings(consecutive_errors=1, interval=100.0))
    rig.report(0, failed=1)
    if leaves:
        rig.pool.replace(rig.backends[1:])
    else:
        rig.pool.set_ejected(rig.backends[0].addr, False)

    rig.pass_time(40.0)
    assert rig.changes == [(0, True)]


def test_somebody_else_may_readmit() -> None:
    """What an operator brings back stays in, and is on probation."""
    rig = Rig(4, _PLAIN)
    rig.report(0, failed=3)
    rig.pool.set_ejected(rig.backends[0].addr, False)
    rig.pass_time(10.0)
    assert rig.ejected == []

    rig.report(0, failed=1)
    assert rig.ejected == [0]
    rig.pass_time(59.0)
    assert rig.ejected == [0]


def test_closing_readmits_all() -> None:
    """Nobody else would; from then on nothing is watched."""
    rig = Rig(4, _PLAIN)
    rig.report(0, failed=3)

    rig.detector.close()
    rig.report(1, failed=9)
    rig.detector.close()

    assert rig.changes == [(0, True), (0, False)]
    assert all(state.is_ready for state in rig.pool.current.states)


def test_a_callback_that_fails_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; the ejection stands."""
    rig = Rig(4, _PLAIN)
    rig.backends = rig.backends[:1]  # The callback does not find the others.

    rig.pool.report(rig.pool.current[1], failed=True)
    for _ in range(2):
        rig.pool.report(rig.pool.current[1], failed=True)

    assert "ejection_changed failed for 10.0.0.1:80" in caplog.messages
    assert rig.pool.current.states[1].is_ejected


def test_a_clock_that_jumps_back_prolongs_nothing() -> None:
    """An ejection lasts its time from the jump on, at most."""
    rig = Rig(4, _PLAIN)
    rig.report(0, failed=3)
    rig.clock.now -= 1e6
    rig.pass_time(0.0)
    assert rig.ejected == [0]

    rig.pass_time(30.0)
    assert rig.ejected == []


def test_a_clock_that_jumps_ahead_ends_ejections() -> None:
    """And a backend that still fails goes out again at once."""
    rig = Rig(4, _PLAIN)
    rig.report(0, failed=3)
    rig.pass_time(1e9)
    assert rig.ejected == []

    rig.report(0, failed=1)
    assert rig.ejected == [0]


def test_a_backend_that_flaps_is_out_most_of_the_time() -> None:
    """One that works for a while whenever it has come back is kept out longer and longer."""
    rig = Rig(4, OutlierSettings(consecutive_errors=3, ejection_time=10.0, jitter=0.0))
    seconds_out = 0
    for _ in range(1000):
        if rig.ejected:
            seconds_out += 1
        else:
            rig.report(2, ok=1)
            rig.report(2, failed=3)
        rig.pass_time(1.0)

    assert seconds_out > 950
    assert rig.detector.ejections < 20


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: OutlierSettings(consecutive_errors=0), "consecutive_errors"),
        (lambda: OutlierSettings(interval=0.0), "interval"),
        (lambda: OutlierSettings(interval=math.inf), "interval"),
        (lambda: OutlierSettings(min_remaining=0), "numbers of backends"),
        (lambda: OutlierSettings(latency_requests=0), "numbers of backends"),
        (lambda: OutlierSettings(success_rate_deviations=0.0), "success_rate_deviations"),
        (lambda: OutlierSettings(failure_share=0.0), "failure_share"),
        (lambda: OutlierSettings(failure_share=1.1), "failure_share"),
        (lambda: OutlierSettings(latency_factor=0.5), "latency_factor"),
        (lambda: OutlierSettings(latency_floor=-1.0), "latency_floor"),
        (lambda: OutlierSettings(ejection_time=0.0), "ejection_time"),
        (lambda: OutlierSettings(ejection_time=301.0), "max_ejection_time"),
        (lambda: OutlierSettings(jitter=2.0), "jitter"),
        (lambda: OutlierSettings(max_ejected_share=1.5), "max_ejected_share"),
    ],
)
def test_settings_make_sense(make: Callable[[], OutlierSettings], wanted: str) -> None:
    """What does not is refused, and named."""
    with pytest.raises(ValueError, match=wanted):
        make()


_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("report"), st.integers(0, 5), st.booleans()),
        st.tuples(st.just("pass"), st.integers(0, 400), st.just(False)),
        st.tuples(st.just("jump"), st.integers(-1000, 1000), st.just(False)),
        st.tuples(st.just("healthy"), st.integers(0, 5), st.booleans()),
        st.tuples(st.just("enabled"), st.integers(0, 5), st.booleans()),
        st.tuples(st.just("replace"), st.integers(0, 63), st.just(False)),
    ),
    max_size=200,
)


@given(events=_EVENTS, share=st.sampled_from([0.1, 0.5, 1.0]), least=st.integers(1, 3))
def test_never_too_many_whatever_happens(
    events: list[tuple[str, int, bool]], share: float, least: int
) -> None:
    """An ejection leaves the share and the least number intact, and every ejection ends."""
    settings = OutlierSettings(
        consecutive_errors=2,
        failure_share=0.5,
        failure_share_requests=4,
        max_ejected_share=share,
        min_remaining=least,
    )
    rig = Rig(6, settings)
    pool = rig.pool
    for what, number, flag in events:
        addr = rig.backends[number % 6].addr
        before = rig.detector.ejections
        if what == "report":
            rig.report(number, failed=flag, ok=not flag)
        elif what == "pass":
            rig.pass_time(number / 10)
        elif what == "jump":
            rig.clock.now += number
            rig.pass_time(0.0)
        elif what == "healthy":
            pool.set_healthy(addr, flag)
        elif what == "enabled":
            pool.set_enabled(addr, flag)
        else:
            pool.replace(b for i, b in enumerate(rig.backends) if number >> i & 1)
        if rig.detector.ejections > before:
            assert len(rig.detector.ejected) <= max(int(share * pool.totals.active), 1)
            assert pool.totals.sound >= least

    rig.clock.advance(400.0)
    rig.pass_time(0.0)
    assert rig.detector.ejected == ()
    assert not any(state.is_ejected for state in pool.current.states)
