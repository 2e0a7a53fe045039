"""The restart policy, and what it makes of one failure after the other."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pingora_core.services import Restart
from pingora_core.services.failure import RestartHistory
from tests.support.clock import FakeClock


class Crashing:
    """A service that fails again and again, on a clock of its own.

    Args:
        policy: What it declares.
        uniform: The random number that decides the jitter.
    """

    def __init__(self, policy: Restart, uniform: float = 0.0) -> None:
        self.clock = FakeClock()
        self._history = RestartHistory(lambda: uniform)
        self._policy = policy

    def run(self, seconds: float) -> float | None:
        """Run for a time, fail, and pause; return the pause."""
        started = self.clock()
        self.clock.advance(seconds)
        pause = self._history.next_pause(self._policy, started=started, failed=self.clock())
        self.clock.advance(pause or 0)
        return pause


def test_the_pause_doubles_up_to_its_limit_and_starts_over_after_a_long_run() -> None:
    """Quick failures space out; a service that lived is treated as new."""
    service = Crashing(Restart(initial_delay=1, max_delay=5, reset_after=60))

    assert [service.run(59) for _ in range(5)] == [1, 2, 4, 5, 5]
    assert service.run(60) == 1
    assert service.run(0) == 2


def test_the_policy_alone_decides_without_chance() -> None:
    """next_delay() is what the pause is before it is shortened."""
    policy = Restart(initial_delay=1, max_delay=5, reset_after=60, jitter=1)

    assert policy.next_delay(0, 0) == 1
    assert policy.next_delay(1, 59.9) == 2
    assert policy.next_delay(4, 0) == 5
    assert policy.next_delay(5, 60) == 1


@given(jitter=st.floats(0, 1), uniform=st.floats(0, 1), failures=st.integers(1, 20))
def test_jitter_shortens_a_pause_by_its_share_at_most(
    jitter: float, uniform: float, failures: int
) -> None:
    """No pause is longer than without jitter, negative, or changes those after it."""
    policy = Restart(initial_delay=0.5, max_delay=8, jitter=jitter)
    steady, jittery = Crashing(Restart(initial_delay=0.5, max_delay=8)), Crashing(policy, uniform)

    for _ in range(failures):
        full, pause = steady.run(0), jittery.run(0)
        assert full is not None
        assert pause is not None
        assert full * (1 - jitter) * 0.999 <= pause <= full


def test_a_crash_loop_is_given_up() -> None:
    """One failure more than max_restarts within the window ends it."""
    service = Crashing(Restart(max_restarts=3, restart_window=1000))

    pauses = [service.run(1) for _ in range(4)]

    assert None not in pauses[:3]
    assert pauses[3] is None


def test_failures_that_are_long_past_do_not_count() -> None:
    """A service that fails now and then is restarted for ever, however often that was."""
    service = Crashing(Restart(max_restarts=1, restart_window=60))

    for _ in range(100):
        assert service.run(61) is not None
    assert service.run(1) is None


def test_no_restart_at_all() -> None:
    """max_restarts=0 gives up at the first failure."""
    assert Crashing(Restart(max_restarts=0)).run(3600) is None


def test_without_a_limit_nothing_is_kept() -> None:
    """A service that fails for years costs no memory."""
    service = Crashing(Restart())

    for _ in range(1000):
        assert service.run(0) is not None
    assert len(service._history._failures) == 0


@pytest.mark.parametrize(
    ("wrong", "wanted"),
    [
        ({"initial_delay": 0}, "0 < initial_delay <= max_delay"),
        ({"initial_delay": -1}, "0 < initial_delay <= max_delay"),
        ({"initial_delay": 2, "max_delay": 1}, "0 < initial_delay <= max_delay"),
        ({"initial_delay": float("nan")}, "0 < initial_delay <= max_delay"),
        ({"reset_after": -1}, "reset_after >= 0"),
        ({"reset_after": float("nan")}, "reset_after >= 0"),
        ({"jitter": -0.1}, "0 <= jitter <= 1"),
        ({"jitter": 1.1}, "0 <= jitter <= 1"),
        ({"jitter": float("nan")}, "0 <= jitter <= 1"),
        ({"max_restarts": -1}, "max_restarts >= 0 or None"),
        ({"restart_window": 0}, "restart_window > 0"),
        ({"restart_window": float("nan")}, "restart_window > 0"),
    ],
    ids=repr,
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float], wanted: str) -> None:
    """Numbers that would spin or shrink are a ValueError that says what is wanted."""
    with pytest.raises(ValueError, match=wanted):
        Restart(**wrong)  # type: ignore[arg-type]  # max_restarts is a whole number here
