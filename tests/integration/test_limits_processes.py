"""Shared counters over real processes, which are forked, killed and replaced."""

from __future__ import annotations

import logging
import random
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from pingora_limits import TokenBucket
from pingora_limits.shared import (
    SharedInflight,
    SharedRate,
    SharedSlidingWindow,
    SharedTokenBucket,
)
from tests.support.forked import Forked, SharedClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_limits import Guard

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture
def clock() -> SharedClock:
    return SharedClock()


@pytest.fixture
def rate(clock: SharedClock) -> Iterator[SharedRate]:
    rate = SharedRate(1.0, processes=4, expected_keys=64, clock=clock)
    yield rate
    rate.close()


@pytest.fixture
def inflight(clock: SharedClock) -> Iterator[SharedInflight]:
    inflight = SharedInflight(processes=4, expected_keys=64, clock=clock)
    yield inflight
    inflight.close()


def _worker(rate: SharedRate) -> Forked:
    def observe_many(keys: int, times: int) -> int:
        for _ in range(times):
            for key in range(keys):
                rate.observe(key)
        return times

    return Forked({"observe": rate.observe, "rate": rate.rate, "observe_many": observe_many})


def _holder(inflight: SharedInflight) -> Forked:
    guards: list[Guard] = []

    def begin(key: str, value: int = 1) -> int:
        guard, count = inflight.incr(key, value)
        guards.append(guard)
        return count

    def end() -> None:
        guards.pop().release()

    def end_all() -> None:
        guards.clear()

    return Forked({"begin": begin, "end": end, "end_all": end_all, "get": inflight.get})


def test_processes_see_what_others_have_counted(rate: SharedRate, clock: SharedClock) -> None:
    """What one returns holds what all have observed until then; so does the rate afterwards."""
    with _worker(rate) as first, _worker(rate) as second:
        assert first.call("observe", "a", 3) == 3
        assert second.call("observe", "a", 2) == 5
        assert first.call("observe", "a", 1) == 6
        assert rate.observe("a", 4) == 10
        assert second.call("observe", "b") == 1

        clock.advance(1)

        assert [first.call("rate", "a"), second.call("rate", "a"), rate.rate("a")] == [10] * 3
        assert first.call("observe", "a") == 1


def test_no_event_is_lost_among_processes(rate: SharedRate) -> None:
    """Processes that count the same keys at the same time do not disturb each other."""
    with ExitStack() as stack:
        workers = [stack.enter_context(_worker(rate)) for _ in range(3)]
        for worker in workers:
            worker.tell("observe_many", 50, 400)
        for worker in workers:
            assert worker.result() == 400

        assert {rate.observe(key, 0) for key in range(50)} == {1_200}


def test_keys_beyond_the_room_are_never_too_low(rate: SharedRate) -> None:
    """Also when each process has some of them in its table and some in its sketch."""
    with _worker(rate) as first, _worker(rate) as second:
        for start, worker in ((0, first), (150, second)):
            for key in range(200):
                worker.call("observe", (start + key) % 200, key + 1)
        truth = {(start + key) % 200: 0 for start in (0, 150) for key in range(200)}
        for start in (0, 150):
            for key in range(200):
                truth[(start + key) % 200] += key + 1

        counts = {key: rate.observe(key, 0) for key in range(200)}

    assert all(counts[key] >= truth[key] for key in range(200))
    assert sum(counts.values()) < 1.2 * sum(truth.values())


def test_what_a_dead_process_counted_stays_for_its_time(
    rate: SharedRate, clock: SharedClock
) -> None:
    """In this interval, in the rate of the next one, and no longer."""
    with _worker(rate) as dying, _worker(rate) as other:
        dying.call("observe", "a", 5)
        dying.kill()

        assert other.call("observe", "a") == 6
        clock.advance(1)
        assert other.call("rate", "a") == 6
        assert other.call("observe", "a") == 1
        clock.advance(1)
        assert other.call("rate", "a") == 1


def test_a_replacement_takes_the_slot_over(rate: SharedRate, clock: SharedClock) -> None:
    """It goes on where the dead one stopped, with no count lost, ever again and again."""
    total = 0
    for _ in range(12):  # three times as many as there are slots
        with _worker(rate) as worker:
            for _ in range(3):
                total += 1
                assert worker.call("observe", "a") == total

    memory = rate.memory
    with _worker(rate) as worker:
        clock.advance(1)
        assert worker.call("rate", "a") == total
        assert worker.call("observe", "a") == 1
    assert rate.memory <= memory + 3 * 4096


def test_killed_in_the_middle(rate: SharedRate) -> None:
    """Wherever the signal strikes: what was reported is there, and the next one can go on."""
    randomness = random.Random(1)
    reported = 0
    with _worker(rate) as reader:
        for _ in range(12):
            with _worker(rate) as worker:
                for _ in range(randomness.randrange(3)):
                    reported += worker.number("observe_many", 40, 5)
                worker.tell("observe_many", 40, 1_000_000)
                before = reader.call("observe", 0, 0)
                while reader.call("observe", 0, 0) == before:
                    pass
            counts = [reader.number("observe", key, 0) for key in range(40)]
            assert min(counts) >= reported
            # Each was killed in the middle of a round over all keys.
            assert max(counts) - min(counts) <= 12


def test_a_process_forked_from_a_worker_counts_for_itself(rate: SharedRate) -> None:
    """The child of one that has a slot takes another one."""
    rate.observe("a", 2)

    with _worker(rate) as child:
        assert child.call("observe", "a", 3) == 5
        assert rate.observe("a") == 6
    assert rate.observe("a") == 7


def test_more_processes_than_slots(clock: SharedClock, caplog: pytest.LogCaptureFixture) -> None:
    """Who finds no slot counts alone, beside what the others have counted, and says so."""
    rate = SharedRate(1.0, processes=1, clock=clock)
    with _worker(rate) as first:
        first.call("observe", "a", 3)

        with caplog.at_level(logging.WARNING, "pingora_limits"):
            assert rate.observe("a", 2) == 5
            assert rate.observe("a", 2) == 7

        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "no slot is left" in caplog.text
        assert first.call("observe", "a") == 4
        clock.advance(1)
        assert rate.rate("a") == 8
    rate.close()


def test_inflight_over_processes(inflight: SharedInflight) -> None:
    """All that is going on in any process counts, until it ends."""
    with _holder(inflight) as first, _holder(inflight) as second:
        assert first.call("begin", "a") == 1
        assert second.call("begin", "a", 2) == 3
        guard, count = inflight.incr("a")
        assert count == 4

        second.call("end")
        assert guard.get() == first.call("get", "a") == 2
        guard.release()
        first.call("end_all")

        assert second.call("get", "a") == 0


def test_what_a_dead_process_had_in_flight_is_released(
    inflight: SharedInflight, clock: SharedClock
) -> None:
    """Within a second, by whoever looks."""
    with _holder(inflight) as dying, _holder(inflight) as other:
        dying.call("begin", "a", 5)
        for number in range(200):  # more than the table has room for
            dying.call("begin", f"{number}")
        assert other.number("begin", "a") >= 6
        assert other.number("get", "7") >= 1

        dying.kill()
        clock.advance(1)

        assert other.call("get", "a") == inflight.get("a") == 1
        assert [other.call("get", f"{number}") for number in range(200)] == [0] * 200


def test_a_replacement_starts_with_nothing_in_flight(inflight: SharedInflight) -> None:
    """It releases what its predecessor held as soon as it counts something."""
    with _holder(inflight) as other:
        other.call("begin", "a")
        for _ in range(10):  # more often than there are slots
            with _holder(inflight) as dying:
                assert dying.call("begin", "a", 5) == 6

    assert inflight.incr("a")[1] == 1


def test_a_guard_belongs_to_its_process(inflight: SharedInflight) -> None:
    """The copy that a child inherits releases nothing, and adds nothing."""
    guard, _ = inflight.incr("a", 2)

    def release() -> None:
        guard.incr()
        guard.release()

    with Forked({"release": release, "get": inflight.get}) as child:
        child.call("release")
        assert child.call("get", "a") == 2

    assert guard.get() == 2
    guard.release()
    assert inflight.get("a") == 0


def test_more_processes_in_flight_than_slots(clock: SharedClock) -> None:
    """Who finds no slot counts alone, beside what the others have in flight."""
    inflight = SharedInflight(processes=1, clock=clock)
    with _holder(inflight) as first:
        first.call("begin", "a", 3)
        guard, count = inflight.incr("a", 2)

        assert count == guard.get() == 5
        assert first.call("get", "a") == 3
        guard.release()
        assert inflight.get("a") == 3
    inflight.close()


def test_a_window_over_processes(clock: SharedClock) -> None:
    """The limit is that of all processes together, whoever is asked."""
    limiter = SharedSlidingWindow(6, 1.0, clock=clock)

    def ask() -> bool:
        return limiter.acquire("a").is_allowed

    with Forked({"ask": ask}) as first, Forked({"ask": ask}) as second:
        answers = [process.call("ask") for _ in range(5) for process in (first, second)]
    assert answers == [True] * 6 + [False] * 4
    clock.advance(1.5)
    assert [ask() for _ in range(4)] == [True] * 3 + [False]
    limiter.close()


@pytest.mark.parametrize("keys", [3, 40])
def test_a_bucket_over_processes_decides_as_one_would(clock: SharedClock, keys: int) -> None:
    """The same answers in turns from several processes, one of them replaced, as from one alone."""
    randomness = random.Random(3)
    limiter = SharedTokenBucket(2.0, 5, processes=4, expected_keys=64, clock=clock)
    alone = TokenBucket(2.0, 5, clock=clock)

    def ask(key: int, cost: int) -> tuple[bool, int]:
        decision = limiter.acquire(key, cost)
        return decision.is_allowed, decision.remaining

    with ExitStack() as stack:
        workers = [stack.enter_context(Forked({"ask": ask})) for _ in range(3)]
        for step in range(600):
            if step % 150 == 149:
                workers[0].kill()
                workers[0] = stack.enter_context(Forked({"ask": ask}))
            clock.advance(randomness.choice([0, 0, 0, 1 / 16, 1 / 4, 4]))
            key, cost = randomness.randrange(keys), randomness.choice([1, 1, 2])
            expected = alone.acquire(key, cost)
            answer = randomness.choice(workers).call("ask", key, cost)
            assert answer == (expected.is_allowed, expected.remaining)
    limiter.close()


def test_a_bucket_that_all_processes_empty_at_once(clock: SharedClock) -> None:
    """Each process beyond the first may allow one too many, and no more."""
    limiter = SharedTokenBucket(1.0, 2_000, clock=clock)

    def ask_until_refused() -> int:
        taken = 0
        while limiter.acquire("a").is_allowed:
            taken += 1
        return taken

    with ExitStack() as stack:
        functions = {"ask": ask_until_refused}
        workers = [stack.enter_context(Forked(functions)) for _ in range(4)]
        for worker in workers:
            worker.tell("ask")
        taken = [worker.result() for worker in workers]
        assert sum(count for count in taken if isinstance(count, int)) in range(2_000, 2_004)
    limiter.close()


def test_buckets_beyond_the_room_are_never_fuller(clock: SharedClock) -> None:
    """Keys for which no process has room left get their burst at most."""
    limiter = SharedTokenBucket(1.0, 3, processes=3, expected_keys=8, clock=clock)

    def ask(key: int) -> bool:
        return limiter.acquire(key).is_allowed

    with Forked({"ask": ask}) as first, Forked({"ask": ask}) as second:
        for _ in range(3):
            for key in range(60):
                answers = [
                    process.call("ask", key) for _ in range(3) for process in (first, second)
                ]
                assert 1 <= answers.count(True) <= 3 or key >= 8
                assert answers.count(True) <= 3
            clock.advance(3)
    limiter.close()
