"""Machines that count together through Redis, with every way in which it can fail them."""

from __future__ import annotations

import asyncio
import os
import tracemalloc

import pytest
from hypothesis import given, settings, strategies as st

from pingora_limits import Decision
from pingora_limits.redis import RedisRate, RedisSlidingWindow
from tests.support.clock import FakeClock
from tests.support.fake_redis import FakeRedis
from tests.support.forked import Forked
from tests.support.waiting import eventually


class _Rig:
    """A Redis and machines, each with a clock of its own that runs alike."""

    def __init__(self, machines: int = 2, *, expected_keys: int = 100) -> None:
        self.redis_clock = FakeClock(1_700_000_000.0)
        self.clock = FakeClock(50.0)
        self.redis = FakeRedis(self.redis_clock)
        self.machines = [
            RedisRate(self.redis, 10.0, name="a", expected_keys=expected_keys, clock=self.clock)
            for _ in range(machines)
        ]

    def advance(self, seconds: float) -> None:
        self.redis_clock.advance(seconds)
        self.clock.advance(seconds)

    async def flush(self) -> None:
        for machine in self.machines:
            await machine.flush()


async def test_the_rate_of_the_interval_before_is_that_of_all() -> None:
    """Also what was told after its end is in it, once a machine has exchanged the key again."""
    rig = _Rig()
    first, second = rig.machines
    first.observe("a", 30)
    second.observe("a", 6)
    await rig.flush()
    second.observe("a", 4)
    first.observe("b")

    rig.advance(10)
    second.observe("a")
    await second.flush()
    assert first.observe("a") == 1
    await first.flush()

    assert first.rate("a") == second.rate("a") == 4.0
    assert first.observe("a", 0) == 2
    assert first.lost == second.lost == 0


async def test_intervals_are_those_of_redis() -> None:
    """What was counted before its clock was known goes into the interval that it says it is."""
    rig = _Rig(1)
    (rate,) = rig.machines
    rig.redis_clock.advance(7)
    rate.observe("a", 5)
    await rate.flush()
    assert rate.observe("a") == 6

    rig.advance(3)

    assert rate.observe("a") == 1
    assert rate.rate("a") == 0.6


async def test_a_key_that_is_new_here_has_a_rate_from_elsewhere() -> None:
    """What others counted in the interval before is known after the first exchange."""
    rig = _Rig()
    first, second = rig.machines
    first.observe("a", 20)
    second.observe("b")
    await rig.flush()

    rig.advance(10)
    second.observe("a")
    await second.flush()

    assert second.rate("a") == 2.0


async def test_no_round_trip_without_need() -> None:
    """One for the time at first, then one for what was observed, none if there was nothing."""
    rig = _Rig(1)
    (rate,) = rig.machines
    await rate.flush()
    await rate.flush()
    assert rig.redis.calls == 1

    rate.observe("a")
    await rate.flush()
    await rate.flush()

    assert rig.redis.calls == 2


async def test_a_lost_answer_does_not_count_twice() -> None:
    """The same batch comes again, and Redis knows it."""
    rig = _Rig()
    first, second = rig.machines
    await rig.flush()
    first.observe("a", 5)
    rig.redis.is_mute = True
    await first.flush()
    first.observe("a", 2)
    rig.redis.is_mute = False

    rig.advance(0.2)
    await first.flush()
    second.observe("a")
    await second.flush()

    assert second.observe("a", 0) == 8
    assert first.observe("a", 0) == 7


async def test_what_redis_never_heard_of_is_told_as_lost() -> None:
    """After two intervals it matters to nobody any more."""
    rig = _Rig(1)
    (rate,) = rig.machines
    await rate.flush()
    rig.redis.is_deaf = True
    rate.observe("a", 5)
    await rate.flush()
    rate.observe("a", 2)
    rig.advance(10)
    assert rate.rate("a") == 0.7
    rate.observe("a")
    assert rate.lost == 0
    rig.advance(20)
    rate.observe("a")
    assert rate.lost == 8
    rig.redis.is_deaf = False

    await rate.flush()

    assert rate.lost == 8
    assert rate.observe("a") == 2
    assert not rate.is_away
    assert rate.staleness == 0


@pytest.mark.parametrize("answer", [[], [b"1", b"2"], [None] * 4, ["x"] * 4, b"", 7], ids=repr)
async def test_garbage_is_no_answer(answer: object) -> None:
    """Counting goes on as if Redis were away, and it recovers."""
    rig = _Rig(1)
    (rate,) = rig.machines
    await rate.flush()
    rate.observe("a", 5)
    rig.redis.answer = answer
    await rate.flush()
    assert rate.failures == 1
    assert rate.observe("a") == 6
    rig.redis.answer = None

    rig.advance(1)
    await rate.flush()

    assert rate.observe("a") == 7
    assert not rate.is_away


@pytest.mark.parametrize("jump", [-0.5, -3_600.0, 3_600.0])
async def test_a_redis_whose_clock_jumps(jump: float) -> None:
    """A little back: the interval goes on. Far: counting begins anew. Never an exception."""
    rig = _Rig()
    first, second = rig.machines
    rig.advance(0.25)  # just begun, by the clock of Redis
    first.observe("a", 5)
    second.observe("a", 5)
    await rig.flush()

    rig.redis_clock.now += jump
    first.observe("a")
    await rig.flush()
    await rig.flush()
    for rate in rig.machines:
        rate.observe("a")
    await rig.flush()
    await rig.flush()

    assert first.observe("a", 0) in ((12,) if jump == -0.5 else (1, 2))
    rig.advance(30)
    assert [rate.observe("a") for rate in rig.machines] == [1, 1]


async def test_our_own_clock_jumps_ahead() -> None:
    """As after a pause of the whole machine."""
    rig = _Rig(1)
    (rate,) = rig.machines
    rate.observe("a", 5)
    await rate.flush()

    rig.clock.advance(10_000)

    assert rate.observe("a") == 1
    await rate.flush()
    await rate.flush()
    assert rate.observe("a") in (1, 2, 7)


async def test_a_window_counts_what_was_allowed() -> None:
    """It decides by what is known here, at once."""
    clock = FakeClock()
    limiter = RedisSlidingWindow(FakeRedis(clock), 2, 10.0, name="a", clock=clock)

    assert limiter.peek("a") == Decision(True, 2, 2, 0.0, limiter.peek("a").reset_after)
    assert [limiter.acquire("a").is_allowed for _ in range(3)] == [True, True, False]
    async with limiter:
        await limiter.flush()
    assert limiter.peek("a").is_allowed is False
    assert limiter.staleness == 0


async def test_what_breaks_the_task_is_raised_at_its_end() -> None:
    """A mistake in a client of one's own does not go unseen."""
    clock = FakeClock()
    redis = FakeRedis(clock)
    rate = RedisRate(redis, 10.0, name="a", flush_interval=0.001, clock=clock)

    def fail() -> None:
        raise ZeroDivisionError

    redis.meanwhile = fail
    rate.observe("a")
    await rate.__aenter__()
    await eventually(lambda: redis.calls)
    with pytest.raises(ZeroDivisionError):
        await rate.__aexit__()
    assert rate.observe("a") == 2
    assert rate.interval == 10.0


async def test_a_start_that_is_cancelled_leaves_no_task() -> None:
    """The task that exchanges counts has ended with it."""
    rate = RedisRate(FakeRedis(FakeClock()), 10.0, name="a")
    starting = asyncio.ensure_future(rate.__aenter__())
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_keys_of_the_interval_before_are_bounded() -> None:
    """What others have counted of a key for which there is no room any more is not kept."""
    rig = _Rig(expected_keys=1)
    first, second = rig.machines
    first.observe("a", 5)
    second.observe("b", 5)
    await rig.flush()
    rig.advance(10)
    first.observe("b")

    await first.flush()

    assert (first.rate("a"), first.rate("b")) == (0.5, 0)


def test_memory_is_bounded() -> None:
    """However many keys come while Redis is away."""
    rate = RedisRate(FakeRedis(FakeClock()), 3600.0, name="a", expected_keys=1_000)
    tracemalloc.start()
    try:
        for number in range(5_000):
            rate.observe(f"{number}" * 30)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert taken < rate.max_memory


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["observe", "observe", "flush", "deaf", "mute", "well", "wait"]),
            st.integers(0, 3),
        ),
        max_size=80,
    )
)
async def test_model(steps: list[tuple[int, str, int]]) -> None:
    """What a machine knows is at least its own and at most the truth; in the end it is the truth."""
    rig = _Rig(3)
    own = [[0] * 4 for _ in range(3)]
    for number, step, key in steps:
        machine = rig.machines[number]
        if step == "observe":
            own[number][key] += key + 1
            known = machine.observe(key, key + 1)
            assert own[number][key] <= known <= sum(row[key] for row in own)
        elif step == "flush":
            await machine.flush()
        elif step == "wait":
            rig.advance(0.02)
        else:
            rig.redis.is_deaf, rig.redis.is_mute = step == "deaf", step == "mute"
    rig.redis.is_deaf = rig.redis.is_mute = False
    for _ in range(2):
        rig.advance(0.5)
        for machine in rig.machines:
            for key in range(4):
                machine.observe(key, 0)
        await rig.flush()

    for machine in rig.machines:
        truth = [sum(row[key] for row in own) for key in range(4)]
        assert [machine.observe(key, 0) for key in range(4)] == truth
        assert machine.lost == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_is_a_machine_of_its_own() -> None:
    """It does not tell again what its parent has counted."""
    rate = RedisRate(FakeRedis(FakeClock()), 3600.0, name="a")
    rate.observe("a", 5)

    with Forked({"observe": rate.observe, "pid": os.getpid}) as child:
        assert child.call("pid") != os.getpid()
        assert child.call("observe", "a", 2) == 2
    assert rate.observe("a") == 6
