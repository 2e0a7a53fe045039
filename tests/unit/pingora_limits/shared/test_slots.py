"""Shared memory is there before the fork, and each process has a place in it."""

from __future__ import annotations

import gc
import os

import pytest

from pingora_limits.shared import (
    SharedInflight,
    SharedRate,
    SharedSlidingWindow,
    SharedTokenBucket,
)
from pingora_limits.shared._slots import Slots
from tests.support.clock import FakeClock
from tests.support.forked import Forked
from tests.support.leaks import open_files

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def _memories() -> int:
    return sum("pingora-limits" in target for target in open_files().values())


def test_a_slot_is_taken_once() -> None:
    """While its process lives nobody else gets it; afterwards the next one does."""
    slots = Slots(2, 10)
    functions = {"take": slots.take, "lock": slots.lock, "unlock": slots.unlock}
    with Forked(functions) as first, Forked(functions) as second:
        assert [first.call("take"), second.call("take"), slots.take()] == [0, 1, None]
        assert [first.call("lock", 1), second.call("lock", 0), slots.lock(0)] == [False] * 3
        first.kill()
        assert slots.take() == 0
        second.call("unlock", 1)
        assert slots.lock(1)
    slots.unlock(0)
    slots.unlock(1)
    slots.close()


def test_a_child_does_not_inherit_a_slot() -> None:
    """The lock belongs to the process, and stays when the child ends."""
    slots = Slots(1, 10)
    assert slots.take() == 0

    with Forked({"lock": slots.lock}) as child:
        assert child.call("lock", 0) is False
    with Forked({"lock": slots.lock}) as child:
        assert child.call("lock", 0) is False
    slots.close()


def test_unused_slots_cost_nothing() -> None:
    """Memory is given when it is written to."""
    rate = SharedRate(1.0, processes=1_000)
    assert rate.max_memory > 1_000_000_000

    rate.observe("a")

    assert rate.memory < 1_000_000
    rate.close()


def test_closing_gives_everything_back() -> None:
    """As does the end of the last reference."""
    before = _memories()
    for make in (
        SharedInflight,
        lambda: SharedRate(1.0),
        lambda: SharedSlidingWindow(1, 1.0),
        lambda: SharedTokenBucket(1.0, 1),
    ):
        made = make()
        assert _memories() > before
        made.close()
        assert _memories() == before
    dropped = SharedRate(1.0)
    del dropped
    gc.collect()

    assert _memories() == before


def test_a_guard_outlives_the_memory() -> None:
    """Its release does nothing then."""
    inflight = SharedInflight(processes=1, expected_keys=1)
    guards = [inflight.incr(key)[0] for key in "ab"]

    inflight.close()

    for guard in guards:
        guard.release()
        assert guard.amount == 0


def test_the_memory_is_not_for_programs_that_are_executed() -> None:
    """It is closed in them."""
    slots = Slots(1, 1)
    numbers = [fd for fd, target in open_files().items() if "pingora-limits" in target]

    assert numbers
    assert not any(map(os.get_inheritable, numbers))
    slots.close()


def test_sizes_out_of_range_are_misuse() -> None:
    """A process counts at least, and a key is expected."""
    with pytest.raises(ValueError, match="at least 1 process"):
        SharedRate(1.0, processes=0)
    with pytest.raises(ValueError, match="at least 1 key"):
        SharedRate(1.0, expected_keys=0)


def test_a_bucket_without_a_slot() -> None:
    """It is one for this process alone."""
    clock = FakeClock()
    limiter = SharedTokenBucket(1.0, 3, processes=1, clock=clock)
    with Forked({"ask": lambda: limiter.acquire("a").is_allowed}) as first:
        assert [first.call("ask") for _ in range(4)] == [True] * 3 + [False]

        assert [limiter.acquire("a").is_allowed for _ in range(4)] == [True] * 3 + [False]
        clock.advance(1)
        assert limiter.acquire("a").is_allowed
    limiter.close()
