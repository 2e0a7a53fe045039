"""The set of the pool changes while backends are checked, and several look at one pool."""

from __future__ import annotations

import asyncio
import logging

import pytest

from pingora_core.services.service import ServiceReadyNotifier
from pingora_load_balancing import Backend, Backends
from pingora_load_balancing.health import HealthChecker, InitialHealth
from tests.support.clock import FakeClock
from tests.support.waiting import eventually
from tests.unit.pingora_load_balancing.health.rig import Puppet, Running, address, running

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"

pytestmark = pytest.mark.usefixtures("no_leaks")


# -------------------------------------------------------------------- the set changes


async def test_backends_come_and_go() -> None:
    """A new one is checked at once, one that has gone no more, and its record is gone."""
    pool, check = Backends([A, B]), Puppet()
    checker = HealthChecker(pool, check, frequency=0.01)
    async with running(checker):
        await eventually(lambda: len(check.started) > 4)
        pool.replace([Backend(B), Backend(C)])
        await eventually(lambda: C in check.started)
        seen = check.started.count(A)
        await eventually(lambda: check.started.count(C) > 4)

        assert check.started.count(A) == seen
        assert checker.records.keys() == {address(B), address(C)}
        assert checker.records[address(B)].successes > 4


async def test_a_check_whose_backend_goes() -> None:
    """It is cancelled, and nothing comes of it (hazard H13)."""
    pool, check = Backends([A, B]), Puppet()
    check.held = check.sick = {A}
    heard: list[object] = []
    checker = HealthChecker(
        pool, check, frequency=3600, health_changed=lambda *change: heard.append(change)
    )
    async with running(checker):
        await eventually(lambda: len(check.started) == 2)
        pool.replace([Backend(B)])
        await eventually(lambda: check.cancelled == [A])

        assert checker.records.keys() == {address(B)}
    assert heard == []


async def test_a_verdict_that_comes_too_late() -> None:
    """Of a backend that went and came back between question and answer it says nothing."""
    pool, check = Backends([A, B]), Puppet()
    release = asyncio.Event()
    original = check.check

    async def stubborn(backend: Backend) -> None:
        if backend.weight == 7:
            try:
                await release.wait()
            except asyncio.CancelledError:
                # Badly behaved: it takes its time, and then reports a failure.
                await release.wait()
                raise OSError("sick") from None
        await original(backend)

    check.check = stubborn  # type: ignore[method-assign]
    pool.replace([Backend(A, 7), Backend(B)])
    checker = HealthChecker(pool, check, frequency=3600)
    async with running(checker):
        await eventually(lambda: B in check.started)
        old = checker.records[address(A)]
        pool.replace([Backend(B)])
        pool.replace([Backend(A), Backend(B)])
        await eventually(lambda: A in check.started)
        release.set()
        await eventually(lambda: not old.is_checking)
        record = checker.records[address(A)]

        assert record is not old
        assert (old.failures, record.failures) == (0, 0)
        assert pool.is_ready(address(A))


async def test_a_change_of_weight_keeps_the_health() -> None:
    """And the counts (hazard H16), even while a check is under way, whose result counts."""
    pool, check = Backends([A]), Puppet()
    check.sick = {A}
    checker = HealthChecker(pool, check, frequency=3600, consecutive_failure=2)
    async with running(checker):
        await eventually(lambda: checker.records and checker.records[address(A)].failures == 1)
        record = checker.records[address(A)]
        await eventually(lambda: not record.is_checking)
        check.held = {A}
        checker.check_now()
        await eventually(lambda: record.is_checking)
        pool.replace([Backend(A, 5, "metadata")])
        check.release()
        await eventually(lambda: not record.is_checking)

        assert checker.records == {address(A): record}
        assert not pool.is_ready(address(A))
        checker.check_now()
        await eventually(lambda: len(check.weights) == 3)
    assert check.weights == [1, 1, 5]
    assert check.cancelled == []


async def test_disabled_and_drained_backends_are_checked() -> None:
    """So that it is known how they are when they come back."""
    pool, check = Backends([Backend(A, 0), Backend(B)]), Puppet()
    pool.set_enabled(address(B), enabled=False)
    check.sick = {A, B}
    async with running(HealthChecker(pool, check, frequency=3600)):
        await eventually(lambda: not any(s.is_healthy for s in pool.states.values()))


async def test_a_set_that_changes_during_the_change() -> None:
    """Only the newest set counts in the end, whatever the order of events."""
    sets = [[Backend(f"10.0.{s}.{n}:80") for n in range(200)] for s in range(5)]
    pool, check = Backends(sets[0]), Puppet()
    checker = HealthChecker(pool, check, frequency=3600, parallelism=1000)
    async with running(checker):
        for backends in (*sets, *sets):
            pool.replace([*backends, *sets[0]])
            await asyncio.sleep(0)
        wanted = {b.addr for b in (*sets[4], *sets[0])}
        await eventually(lambda: checker.records.keys() == wanted)
        await eventually(lambda: all(r.successes == 1 for r in checker.records.values()))


# ----------------------------------------------------------------------- slow and many


async def test_slow_checks_delay_nobody() -> None:
    """As long as there is a place left, the others are checked at their times."""
    pool, check = Backends([A, B, C]), Puppet()
    check.held = {A, B}
    async with running(HealthChecker(pool, check, frequency=0.003, parallelism=3)):
        await eventually(lambda: check.started.count(C) > 10)
        pool.replace([Backend(A), Backend(B), Backend(C), Backend("10.0.0.4:80")])
        await eventually(lambda: "10.0.0.4:80" in check.started)

    assert check.started.count(A) == check.started.count(B) == 1


async def test_a_check_that_is_asked_for_while_it_is_done() -> None:
    """One at a time is enough: the one under way is the answer."""
    pool, check = Backends([A]), Puppet()
    check.held = {A}
    checker = HealthChecker(pool, check, frequency=3600)
    async with running(checker):
        await eventually(lambda: check.started == [A])
        checker.check_now()
        checker.check_now(address(A))
        check.release()
        await eventually(lambda: checker.records[address(A)].successes == 1)
        await asyncio.sleep(0.01)

    assert check.started == [A]


def _answers(checker: HealthChecker) -> int:
    return sum(record.successes for record in checker.records.values())


async def test_as_many_at_a_time_as_was_said() -> None:
    """The rest waits for its turn, in the order in which it is due."""
    backends = [f"10.0.{n // 250}.{n % 250}:80" for n in range(1000)]
    pool, check = Backends(backends), Puppet()
    checker = HealthChecker(pool, check, frequency=3600, parallelism=16)
    async with running(checker):
        # Done, not begun only: what is under way is not checked anew.
        await eventually(lambda: _answers(checker) == 1000)
        checker.check_now()
        await eventually(lambda: len(check.started) == 2000)

    assert check.most == 16
    assert check.started == backends * 2


async def test_checks_that_are_late(caplog: pytest.LogCaptureFixture) -> None:
    """Too few places for too many slow checks are worth one warning."""
    clock = FakeClock()
    pool, check = Backends([A, B, C]), Puppet()
    check.held = {A}
    checker = HealthChecker(pool, check, frequency=2.0, parallelism=1, clock=clock)
    async with running(checker):
        await eventually(lambda: check.started == [A])
        clock.advance(30.0)
        check.release()
        await eventually(lambda: len(check.started) == 3)

    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert line == "health checks are 30.0 s late: 3 backends, 1 checks at a time"


async def test_a_hundred_thousand_backends() -> None:
    """Taking over a set of that size never holds the event loop up for long."""
    backends = [Backend(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:80") for n in range(100_000)]
    pool, check = Backends(), Puppet()
    check.held = {str(backend) for backend in backends[:4]}
    checker = HealthChecker(pool, check, frequency=3600, parallelism=4)
    async with running(checker):
        pool.replace(backends)
        turns = 0
        while len(check.started) < 4:
            await asyncio.sleep(0)
            turns += 1

        assert turns > 100_000 // 1000
        assert len(checker.records) == 100_000
        pool.replace(backends[:10])
        await eventually(lambda: len(checker.records) == 10)


# -------------------------------------------------------------------------------- time


@pytest.mark.parametrize(
    ("uniform", "healthy", "unhealthy"), [(0.0, 9.0, 18.0), (0.5, 10.0, 20.0), (1.0, 11.0, 22.0)]
)
def test_the_wait_for_the_next_check(uniform: float, healthy: float, unhealthy: float) -> None:
    """It is longer or shorter by a share, and another one for who is not well."""
    checker = HealthChecker(
        Backends(), Puppet(), frequency=10.0, frequency_when_unhealthy=20.0, uniform=lambda: uniform
    )

    assert checker.next_wait(healthy=True) == pytest.approx(healthy)
    assert checker.next_wait(healthy=False) == pytest.approx(unhealthy)
    checker.frequency_when_unhealthy = None
    assert checker.next_wait(healthy=False) == pytest.approx(healthy)


async def test_who_is_not_well_is_checked_at_another_frequency() -> None:
    """Less often, to spare it, or more often, to have it back."""
    pool, check = Backends([A, B]), Puppet()
    check.sick = {B}
    checker = HealthChecker(pool, check, frequency=0.004, frequency_when_unhealthy=3600)
    async with running(checker):
        await eventually(lambda: check.started.count(A) > 10)

    assert check.started.count(B) == 1


async def test_a_clock_that_jumps() -> None:
    """Back: the next checks come at their distance. Forward: they come at once, in turn."""
    clock = FakeClock()
    pool, check = Backends([A, B]), Puppet()
    checker = HealthChecker(pool, check, frequency=60.0, jitter=0.0, clock=clock, parallelism=1)
    async with running(checker):
        await eventually(lambda: check.started == [A, B])
        await eventually(lambda: check.under_way == 0)
        clock.now -= 1_000_000.0
        checker.check_now(address(A))
        await eventually(lambda: check.started == [A, B, A])
        record = checker.records[address(A)]
        await eventually(lambda: not record.is_checking)
        assert record.last_check == clock.now

        clock.advance(60.0)
        checker.check_now(address("10.9.9.9:1"))
        await eventually(lambda: len(check.started) == 5)
        assert check.started[3:] == [B, A]

        clock.advance(1_000_000.0)
        checker.check_now(address("10.9.9.9:1"))
        await eventually(lambda: len(check.started) == 7)
    assert check.most == 1


async def test_records_can_be_looked_at() -> None:
    """What was found, when, and how long it took."""
    clock = FakeClock()
    pool, check = Backends([A]), Puppet()
    check.held = check.sick = {A}
    checker = HealthChecker(pool, check, frequency=3600, clock=clock)
    began = clock.now
    async with running(checker):
        await eventually(lambda: check.started == [A])
        record = checker.records[address(A)]
        assert (record.is_checking, record.last_check) == (True, None)
        clock.advance(1.5)
        check.release()
        await eventually(lambda: not record.is_checking)

    assert record.last_duration == 1.5
    assert record.last_check == record.last_error_at == record.last_flip == began + 1.5
    assert record.last_error is check.error
    assert "every 3600 s" in repr(checker)


# ------------------------------------------------------------------------------ sharing


async def test_several_checkers_share_the_checks() -> None:
    """One works, the others stand by: each address is checked once, the health is shared."""
    pool, check = Backends([A, B]), Puppet()
    check.sick = {B}
    first = HealthChecker(pool, check, frequency=3600)
    second = HealthChecker(pool, check, frequency=3600, initial=InitialHealth.FIRST_CHECK)
    pool.set_healthy(address(A), healthy=True)
    async with running(second):
        run = Running(first)
        await eventually(lambda: run.ready.is_ready)
        # The second one has ended, and the first takes over.
        await eventually(lambda: len(check.started) == 2)
        assert first.records == second.records != {}
    await eventually(lambda: len(check.started) == 4)
    assert not pool.is_ready(address(B))
    await run.stop()


async def test_two_different_checks_of_one_pool() -> None:
    """Their verdicts would take turns: that is refused."""
    pool = Backends([A])
    checker = HealthChecker(pool, Puppet(), frequency=3600)
    async with running(checker) as run:
        await run.ready.wait()
        await eventually(lambda: checker.records)
        other = HealthChecker(pool, Puppet())
        with pytest.raises(RuntimeError, match="another health check"):
            await other.start(run.switch.watch)
        with pytest.raises(RuntimeError, match="another health check"):
            await other.start_with_ready_notifier(run.switch.watch, ServiceReadyNotifier())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frequency": 0.0}, "frequency"),
        ({"frequency": float("nan")}, "frequency"),
        ({"frequency_when_unhealthy": -1.0}, "frequency_when_unhealthy"),
        ({"jitter": 1.5}, "jitter"),
        ({"parallelism": 0}, "parallelism"),
        ({"consecutive_failure": 0}, "consecutive"),
        ({"consecutive_success": 0}, "consecutive"),
        ({"max_check_time": 0.0}, "max_check_time"),
    ],
)
def test_settings_that_make_no_sense(arguments: dict[str, float], message: str) -> None:
    """They are refused at once."""
    with pytest.raises(ValueError, match=message):
        HealthChecker(Backends(), Puppet(), **arguments)  # type: ignore[arg-type]
