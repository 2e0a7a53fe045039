from __future__ import annotations

import asyncio
import gc
import logging
import math
import time
import weakref
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_core.runtime.timers import Deadline, Timers, get_timers, sleep, timeout

if TYPE_CHECKING:
    from collections.abc import Callable


class FakeLoop:
    """A scheduler whose time moves only in `advance`, which also calls what is due."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.calls: list[tuple[float, Callable[[int], None], int]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[int], None], tick: int, /) -> None:
        self.calls.append((when, callback, tick))

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [call for call in self.calls if call[0] <= end]:
            call = min(due, key=lambda each: each[0])
            self.calls.remove(call)
            self.now = max(self.now, call[0])
            call[1](call[2])
        self.now = end


class Probe:
    """A deadline's callback that notes when it was called."""

    def __init__(self, loop: FakeLoop) -> None:
        self.loop = loop
        self.fired: list[float] = []

    def __call__(self) -> None:
        self.fired.append(self.loop.now)


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def timers(loop: FakeLoop) -> Timers:
    return Timers(loop)


def test_a_deadline_fires_once_its_time_has_come(loop: FakeLoop, timers: Timers) -> None:
    """It fires after its time, within one granularity, and only once."""
    probe = Probe(loop)
    deadline = Deadline(timers, probe)

    deadline.set(0.5)
    loop.advance(0.5)
    before = list(probe.fired)
    loop.advance(10)

    assert before == []
    assert len(probe.fired) == 1
    assert 1000.5 <= probe.fired[0] <= 1000.511
    assert not deadline.is_set


@given(
    st.lists(
        st.tuples(
            st.floats(0, 0.3),
            st.one_of(st.none(), st.floats(0, 0.5)),
        ),
        max_size=30,
    )
)
def test_a_deadline_is_never_early_and_never_later_than_a_granularity(
    steps: list[tuple[float, float | None]],
) -> None:
    """Whatever was set and cleared before, the last setting decides when it fires."""
    loop = FakeLoop()
    timers = Timers(loop)
    probe = Probe(loop)
    deadline = Deadline(timers, probe)
    expiry = math.inf

    for pause, seconds in steps:
        loop.advance(pause)
        for fired in probe.fired:
            assert expiry <= fired <= expiry + timers.granularity + 0.001
            expiry = math.inf
        probe.fired.clear()
        assert loop.now <= expiry + timers.granularity + 0.001
        if seconds is None:
            deadline.clear()
            expiry = math.inf
        else:
            deadline.set(seconds)
            expiry = loop.now + seconds

    assert timers.buckets == len(loop.calls)


def test_setting_again_costs_no_loop_timer(loop: FakeLoop, timers: Timers) -> None:
    """While it sits in a bucket, moving the expiry back only stores a number."""
    deadline = Deadline(timers, Probe(loop))

    for _ in range(1000):
        deadline.set(60)
        loop.advance(0.001)
        deadline.clear()

    assert len(loop.calls) == 1


def test_connections_that_come_and_go_leave_few_loop_timers(loop: FakeLoop, timers: Timers) -> None:
    """Far deadlines of many short lives share wide buckets."""
    for _ in range(1000):
        deadline = Deadline(timers, Probe(loop))
        deadline.set(60)
        loop.advance(0.01)
        deadline.cancel()

    assert timers.buckets <= 41


def test_a_far_deadline_fires_a_quarter_second_late_at_most(loop: FakeLoop, timers: Timers) -> None:
    """Wide buckets cost accuracy only where nobody misses it."""
    probe = Probe(loop)

    Deadline(timers, probe).set(60)
    loop.advance(61)

    assert 60.0 <= probe.fired[0] - 1000.0 <= 60.26


def test_a_moved_deadline_is_carried_to_its_new_bucket(loop: FakeLoop, timers: Timers) -> None:
    """The first bucket fires, finds a later expiry and passes the deadline on."""
    probe = Probe(loop)
    deadline = Deadline(timers, probe)
    deadline.set(1)
    loop.advance(0.5)
    deadline.set(1)

    loop.advance(0.9)
    early = list(probe.fired)
    loop.advance(0.2)

    assert early == []
    assert 1001.5 <= probe.fired[0] <= 1001.511


def test_a_shorter_deadline_replaces_a_longer_one(loop: FakeLoop, timers: Timers) -> None:
    """Setting an earlier time moves it forward, and it does not fire again at the old time."""
    probe = Probe(loop)
    deadline = Deadline(timers, probe)
    deadline.set(60)

    deadline.set(1)
    loop.advance(100)

    assert len(probe.fired) == 1
    assert 1001 <= probe.fired[0] <= 1001.011


def test_a_cleared_deadline_does_not_fire(loop: FakeLoop, timers: Timers) -> None:
    """Clearing wins over the bucket it still sits in, and it can be set again."""
    probe = Probe(loop)
    deadline = Deadline(timers, probe)
    deadline.set(1)
    deadline.clear()

    loop.advance(2)
    deadline.set(1)
    loop.advance(2)

    assert len(probe.fired) == 1
    assert probe.fired[0] > 1003


def test_many_deadlines_share_one_loop_timer(loop: FakeLoop, timers: Timers) -> None:
    """All deadlines of the same tick are one timer of the loop."""
    probes = [Probe(loop) for _ in range(100)]
    deadlines = [Deadline(timers, probe) for probe in probes]

    for deadline in deadlines:
        deadline.set(1)

    assert len(loop.calls) == 1
    loop.advance(2)
    assert all(len(probe.fired) == 1 for probe in probes)
    assert timers.buckets == 0


@pytest.mark.parametrize("seconds", [0.0, -5.0], ids=["zero", "negative"])
def test_a_time_already_over_fires_at_the_next_tick(
    loop: FakeLoop, timers: Timers, seconds: float
) -> None:
    """It is not called from within set."""
    probe = Probe(loop)

    deadline = Deadline(timers, probe)
    deadline.set(seconds)
    at_once = list(probe.fired)
    loop.advance(0.011)

    assert at_once == []
    assert len(probe.fired) == 1


def test_infinity_never_fires(loop: FakeLoop, timers: Timers) -> None:
    """An infinite deadline uses no timer at all."""
    deadline = Deadline(timers, Probe(loop))

    deadline.set(math.inf)

    assert loop.calls == []
    assert not deadline.is_set


def test_a_cancelled_deadline_is_forgotten_at_once(loop: FakeLoop, timers: Timers) -> None:
    """Neither it nor what its callback refers to waits for the bucket to fire."""
    probe = Probe(loop)
    gone = weakref.ref(probe)
    deadline = Deadline(timers, probe)
    deadline.set(60)

    deadline.cancel()
    deadline.cancel()
    del deadline, probe
    gc.collect()

    assert gone() is None
    loop.advance(100)


def test_a_callback_may_cancel_its_neighbour(loop: FakeLoop, timers: Timers) -> None:
    """A deadline of the same bucket that is cancelled in time does not fire."""
    fired: list[str] = []
    deadlines: list[Deadline] = []

    def fire(name: str, other: int) -> Callable[[], None]:
        def callback() -> None:
            fired.append(name)
            deadlines[other].cancel()

        return callback

    deadlines.extend([Deadline(timers, fire("a", 1)), Deadline(timers, fire("b", 0))])
    for deadline in deadlines:
        deadline.set(1)
    loop.advance(2)

    assert len(fired) == 1


def test_a_callback_may_set_its_own_deadline_again(loop: FakeLoop, timers: Timers) -> None:
    """That is how a periodic job is made."""
    fired: list[float] = []

    def callback() -> None:
        fired.append(loop.now)
        deadline.set(1)

    deadline = Deadline(timers, callback)
    deadline.set(1)
    loop.advance(3.5)

    assert len(fired) == 3


def test_a_failing_callback_is_logged_and_stops_nobody(
    loop: FakeLoop, timers: Timers, caplog: pytest.LogCaptureFixture
) -> None:
    """The other deadlines of the bucket fire all the same."""
    probe = Probe(loop)

    def fail() -> None:
        raise ValueError("broken callback")

    deadlines = [Deadline(timers, probe), Deadline(timers, fail), Deadline(timers, probe)]
    for deadline in deadlines:
        deadline.set(1)
    with caplog.at_level(logging.ERROR):
        loop.advance(2)

    assert len(probe.fired) == 2
    assert "broken callback" in caplog.text


def test_the_granularity_must_be_positive(loop: FakeLoop) -> None:
    """Zero or less is a mistake of the programmer."""
    with pytest.raises(ValueError, match="granularity"):
        Timers(loop, granularity=0)


async def test_one_loop_has_one_set_of_timers() -> None:
    """Whoever asks in the same loop gets the same object while it is in use."""
    timers = get_timers()

    assert get_timers() is timers
    assert timers.scheduler is asyncio.get_running_loop()


def test_each_loop_has_its_own_timers() -> None:
    """A second loop does not inherit the timers of the first."""

    async def ask() -> Timers:
        return get_timers()

    first = asyncio.run(ask())
    second = asyncio.run(ask())

    assert first is not second


def test_timers_without_a_loop_are_refused() -> None:
    """There is nothing to run them."""
    with pytest.raises(RuntimeError):
        get_timers()


async def test_a_deadline_on_a_real_loop_is_not_early() -> None:
    """The wall agrees: at least the time, and not much more."""
    start = time.monotonic()
    expired = asyncio.Event()
    deadline = Deadline(get_timers(), expired.set)

    deadline.set(0.02)
    await expired.wait()

    assert 0.02 <= time.monotonic() - start < 10


async def test_a_deadline_set_late_in_a_long_turn_is_not_early() -> None:
    """The clock is not the loop's, which may stand still while a callback runs."""
    expired = asyncio.Event()
    deadline = Deadline(get_timers(), expired.set)
    await asyncio.sleep(0)
    time.sleep(0.03)  # noqa: ASYNC251 - a callback that takes its time

    start = time.monotonic()
    deadline.set(0.02)
    await expired.wait()

    assert time.monotonic() - start >= 0.02


async def test_sleep_takes_at_least_its_time() -> None:
    """It is asyncio.sleep on the coarse timers."""
    start = time.monotonic()

    await sleep(0.01)

    assert time.monotonic() - start >= 0.01


async def test_sleeping_for_no_time_lets_others_run() -> None:
    """Zero seconds is a turn of the loop."""
    ran: list[bool] = []
    asyncio.get_running_loop().call_soon(ran.append, True)

    await sleep(0)

    assert ran == [True]


async def test_a_cancelled_sleep_leaves_its_timer() -> None:
    """Cancellation goes through."""
    task = asyncio.create_task(sleep(60))
    await asyncio.sleep(0)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_timeout_passes_a_result_through() -> None:
    """With time to spare it is the awaitable's own result."""

    async def work() -> str:
        await asyncio.sleep(0)
        return "done"

    assert await timeout(1, work()) == "done"
    assert await timeout(None, work()) == "done"


async def test_timeout_raises_and_cancels_what_it_waited_for() -> None:
    """The awaitable is cancelled, the caller is not."""
    cancelled: list[bool] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(TimeoutError):
        await timeout(0.01, work())

    task = asyncio.current_task()
    assert cancelled == [True]
    assert task is not None
    assert task.cancelling() == 0


async def test_timeout_lets_an_outer_cancellation_through() -> None:
    """A cancelled caller sees CancelledError, not TimeoutError."""
    task = asyncio.create_task(timeout(60, asyncio.sleep(60)))
    await asyncio.sleep(0)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_timeout_lets_the_awaitables_own_error_through() -> None:
    """What it raises arrives unchanged."""

    async def work() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await timeout(1, work())


async def test_an_awaitable_that_ignores_the_timeout_keeps_its_result() -> None:
    """Swallowing the cancellation leaves no cancellation request on the task."""

    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "late"
        return "never"

    result = await timeout(0.01, stubborn())

    task = asyncio.current_task()
    assert result == "late"
    assert task is not None
    assert task.cancelling() == 0


def test_timeout_without_a_task_is_refused() -> None:
    """There is nothing to cancel."""
    nothing = asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="no running event loop"):
        timeout(1, nothing).send(None)

    nothing.close()
