"""A checker asks, counts, and tells the pool; callbacks and the log hear of changes."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Never

import pytest

from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_error import Custom, Error, ErrorType
from pingora_load_balancing import Backend, Backends
from pingora_load_balancing.health import HealthChecker, InitialHealth
from tests.support.waiting import eventually
from tests.unit.pingora_load_balancing.health.rig import Puppet, address, running

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"

pytestmark = pytest.mark.usefixtures("no_leaks")


def _health(pool: Backends) -> dict[str, bool]:
    return {str(state.backend): state.is_healthy for state in pool.current.states}


async def test_a_round() -> None:
    """Each backend is checked at once; who is not well is out, whatever the others are."""
    pool, check = Backends([A, B, C]), Puppet()
    check.sick = {B}
    async with running(HealthChecker(pool, check, frequency=3600)) as run:
        await eventually(lambda: len(check.started) == 3)
        await eventually(lambda: not pool.is_ready(address(B)))

        assert run.ready.is_ready
        assert _health(pool) == {A: True, B: False, C: True}
    assert check.is_closed


async def test_without_a_notifier() -> None:
    """It can be run outside of a server, too."""
    pool, check, switch = Backends([A]), Puppet(), ShutdownSwitch()
    checker = HealthChecker(pool, check, initial=InitialHealth.FIRST_CHECK)
    task = asyncio.create_task(checker.start(switch.watch))
    await eventually(lambda: pool.is_ready(address(A)))
    switch.start()
    await asyncio.wait_for(task, 30)


async def test_again_and_again() -> None:
    """Each backend is checked at the frequency, and comes back when it is well."""
    pool, check = Backends([A, B]), Puppet()
    check.sick = {B}
    async with running(HealthChecker(pool, check, frequency=0.005)):
        await eventually(lambda: check.started.count(B) > 3)
        assert not pool.is_ready(address(B))
        check.sick = set()
        await eventually(lambda: pool.is_ready(address(B)))
        check.sick = {A, B}
        await eventually(lambda: not any(_health(pool).values()))


async def test_a_shutdown_is_prompt() -> None:
    """It waits neither for the next check nor for one that hangs."""
    pool, check = Backends([A, B]), Puppet()
    check.held = {B}
    async with running(HealthChecker(pool, check, frequency=3600)) as run:
        await eventually(lambda: len(check.started) == 2)
        await run.stop()

        assert check.cancelled == [B]
        assert check.under_way == 0
        assert _health(pool) == {A: True, B: True}


async def test_a_shutdown_before_the_start() -> None:
    """Nothing is checked then."""
    switch = ShutdownSwitch()
    switch.start()
    check = Puppet()

    await asyncio.wait_for(HealthChecker(Backends([A]), check).start(switch.watch), 30)

    assert check.started == []


def _has(check: Puppet, number: int) -> bool:
    return len(check.started) == number


async def test_started_again() -> None:
    """A service may be started anew, and begins with fresh counts."""
    pool, check = Backends([A]), Puppet()
    checker = HealthChecker(pool, check, frequency=3600)
    for number in (1, 2):
        async with running(checker):
            await eventually(partial(_has, check, number))
        assert checker.records == {}
        checker.check_now()


# ------------------------------------------------------------------------- thresholds


@pytest.mark.parametrize(("failures", "successes"), [(1, 1), (3, 1), (2, 4)])
async def test_thresholds(failures: int, successes: int) -> None:
    """It takes so many results in a row, in either direction."""
    pool, check = Backends([A]), Puppet()
    checker = HealthChecker(
        pool,
        check,
        frequency=3600,
        consecutive_failure=failures,
        consecutive_success=successes,
    )
    async with running(checker):
        await eventually(lambda: checker.records)
        record = checker.records[address(A)]
        await eventually(lambda: record.successes == 1)
        check.sick = {A}
        for count in range(1, failures + 1):
            assert _health(pool) == {A: True}
            await _check_now(checker, record.failures + 1)
            assert record.streak == count % failures
        assert _health(pool) == {A: False}
        check.sick = set()
        for _ in range(successes):
            assert _health(pool) == {A: False}
            await _check_now(checker, record.failures, record.successes + 1)
        assert _health(pool) == {A: True}
        assert record.flips == 2


async def _check_now(
    checker: HealthChecker, failures: int, successes: int | None = None, backend: str = A
) -> None:
    """Have a backend checked, and wait for the counts to become these."""
    record = checker.records[address(backend)]
    wanted = record.successes if successes is None else successes
    checker.check_now(address(backend))
    await eventually(
        lambda: (record.failures, record.successes) == (failures, wanted) and not record.is_checking
    )


@pytest.mark.parametrize("initial", list(InitialHealth))
async def test_before_the_first_check(initial: InitialHealth) -> None:
    """A backend counts as what was said, those that come later too."""
    pool, check = Backends([A]), Puppet()
    check.held = {A, B}
    async with running(HealthChecker(pool, check, frequency=3600, initial=initial)) as run:
        pool.replace([Backend(A), Backend(B)])
        await eventually(lambda: len(check.started) == 2)
        is_healthy = initial is InitialHealth.HEALTHY
        assert _health(pool) == {A: is_healthy, B: is_healthy}
        assert run.ready.is_ready is is_healthy

        check.release()
        await eventually(lambda: run.ready.is_ready)
        await eventually(lambda: all(_health(pool).values()))


@pytest.mark.parametrize("is_sick", [True, False])
async def test_the_first_check_decides(is_sick: bool) -> None:
    """Alone, whatever the thresholds are; from the second one on they count."""
    pool, check = Backends([A]), Puppet()
    check.sick = {A} if is_sick else set()
    checker = HealthChecker(
        pool,
        check,
        frequency=3600,
        initial=InitialHealth.FIRST_CHECK,
        consecutive_success=2,
        consecutive_failure=2,
    )
    async with running(checker) as run:
        await run.ready.wait()
        record = checker.records[address(A)]
        assert record.is_healthy is not is_sick
        check.sick = set() if is_sick else {A}
        await _check_now(checker, 1, 1)
        assert record.is_healthy is not is_sick
        await _check_now(checker, 1 + (not is_sick), 1 + is_sick)
        assert record.is_healthy is is_sick


async def test_initial_is_set_late() -> None:
    """As with the checker of a load balancer, which is there before its settings are made."""
    pool, check = Backends([A]), Puppet()
    checker = HealthChecker(pool, check, frequency=3600)
    checker.initial = InitialHealth.FIRST_CHECK
    check.held = {A}
    async with running(checker) as run:
        await eventually(lambda: check.started)
        assert _health(pool) == {A: False}
        check.release()
        await run.ready.wait()
        assert _health(pool) == {A: True}
    check.held = {A}
    async with running(checker):
        await eventually(lambda: len(check.started) == 2)
        assert _health(pool) == {A: True}


async def test_unhealthy_at_first() -> None:
    """Then it takes as many successes as ever; the service is ready after the first round."""
    pool, check = Backends([A]), Puppet()
    checker = HealthChecker(
        pool, check, frequency=3600, initial=InitialHealth.UNHEALTHY, consecutive_success=2
    )
    async with running(checker) as run:
        await run.ready.wait()
        assert _health(pool) == {A: False}
        await _check_now(checker, 0, 2)
        assert _health(pool) == {A: True}


async def test_ready_without_backends() -> None:
    """Nobody waits for the checks of backends that are not there."""
    checker = HealthChecker(Backends(), Puppet(), initial=InitialHealth.UNHEALTHY)
    async with running(checker) as run:
        await run.ready.wait()


# ----------------------------------------------------------------------------- callbacks


async def test_health_observe(caplog: pytest.LogCaptureFixture) -> None:
    """Callbacks and the log hear of each change once, with the reason."""
    heard: list[tuple[str, bool]] = []
    pool, check = Backends([A]), Puppet()
    checker = HealthChecker(
        pool,
        check,
        frequency=0.003,
        consecutive_failure=2,
        health_changed=lambda backend, healthy: heard.append((str(backend), healthy)),
        summary=lambda backend: f"shop at {backend}",
    )
    with caplog.at_level(logging.INFO, "pingora_load_balancing"):
        async with running(checker):
            check.sick = {A}
            await eventually(lambda: check.started.count(A) > 8)
            check.sick = set()
            await eventually(lambda: pool.is_ready(address(A)))
            await eventually(lambda: check.started.count(A) > 16)

    assert heard == [(A, False), (A, True)]
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        f"shop at {A} is unhealthy now, after 2 failed checks: Upstream Sick",
        f"shop at {A} is healthy now, after 1 good checks",
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_a_callback_may_be_a_coroutine() -> None:
    """It is awaited; the pool has changed by then."""
    heard: list[bool] = []
    pool, check = Backends([A]), Puppet()

    async def changed(backend: Backend, healthy: bool) -> None:
        await asyncio.sleep(0)
        heard.append(pool.is_ready(backend.addr))

    check.sick = {A}
    async with running(HealthChecker(pool, check, frequency=3600, health_changed=changed)):
        await eventually(lambda: heard)

    assert heard == [False]


async def test_callbacks_that_fail(caplog: pytest.LogCaptureFixture) -> None:
    """They are logged, and the checks go on."""

    def fail(*_: object) -> Never:
        raise RuntimeError("no")

    pool, check = Backends([A]), Puppet()
    check.sick = {A}
    checker = HealthChecker(pool, check, frequency=0.003, health_changed=fail, summary=fail)
    async with running(checker):
        await eventually(lambda: not pool.is_ready(address(A)))
        check.sick = set()
        await eventually(lambda: pool.is_ready(address(A)))
        await eventually(lambda: check.started.count(A) > 5)

    assert f"what follows a change of the health of {A} failed" in caplog.text
    assert f"the summary of {A} failed" in caplog.text


async def test_a_callback_is_not_cut_off() -> None:
    """Its backend may leave meanwhile; what it has begun it can end."""
    pool, check = Backends([A, B]), Puppet()
    check.sick = {A}
    begun, proceed, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def changed(backend: Backend, healthy: bool) -> None:
        begun.set()
        await proceed.wait()
        ended.set()

    checker = HealthChecker(pool, check, frequency=3600, health_changed=changed)
    async with running(checker):
        await begun.wait()
        pool.replace([Backend(B)])
        await eventually(lambda: address(A) not in checker.records)
        proceed.set()
        await asyncio.wait_for(ended.wait(), 30)


async def test_a_callback_that_hangs() -> None:
    """It holds up its own backend only, and not for ever."""

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    pool, check = Backends([A, B]), Puppet()
    check.sick = {A}
    checker = HealthChecker(pool, check, frequency=0.003, health_changed=hang, max_check_time=0.05)
    async with running(checker):
        await eventually(lambda: check.started.count(B) > 3)
        await eventually(lambda: check.started.count(A) > 1)


# -------------------------------------------------------------------------------- errors


async def test_whatever_a_check_raises(caplog: pytest.LogCaptureFixture) -> None:
    """It is a failure, with the exception as the cause."""
    pool, check = Backends([A]), Puppet()
    check.sick, check.error = {A}, ZeroDivisionError("oops")
    checker = HealthChecker(pool, check, frequency=3600)
    async with running(checker):
        await eventually(lambda: not pool.is_ready(address(A)))
        error = checker.records[address(A)].last_error

    assert error is not None
    assert error.etype is ErrorType.UNKNOWN_ERROR
    assert error.cause is check.error
    assert "ZeroDivisionError: oops" in caplog.text


async def test_a_check_that_hangs() -> None:
    """It is cut off, whatever deadline it should have had itself."""
    pool, check = Backends([A]), Puppet()
    check.held = {A}
    checker = HealthChecker(pool, check, frequency=3600, max_check_time=0.03)
    async with running(checker):
        await eventually(lambda: not pool.is_ready(address(A)))
        error = checker.records[address(A)].last_error

    assert error is not None
    assert "max_check_time" in str(error)


async def test_a_timeout_of_the_checks_own() -> None:
    """It is not mistaken for that of the checker."""
    pool, check = Backends([A]), Puppet()
    check.sick, check.error = {A}, TimeoutError("mine")
    checker = HealthChecker(pool, check, frequency=3600)
    async with running(checker):
        await eventually(lambda: not pool.is_ready(address(A)))
        error = checker.records[address(A)].last_error

    assert error is not None
    assert error.etype is ErrorType.UNKNOWN_ERROR


async def test_what_this_process_could_not_do(caplog: pytest.LogCaptureFixture) -> None:
    """It is held against no backend, or all of them would go when descriptors run out."""
    pool, check = Backends([A]), Puppet()
    check.sick, check.error = {A}, Error.internal(Custom("NoDescriptors"))
    checker = HealthChecker(pool, check, frequency=0.002)
    async with running(checker):
        await eventually(lambda: checker.records)
        record = checker.records[address(A)]
        await eventually(lambda: record.inconclusive > 10)
        assert record.failures == 0
        assert record.last_error is check.error

    assert pool.is_ready(address(A))
    assert 1 <= caplog.text.count("could not be checked") <= 4
