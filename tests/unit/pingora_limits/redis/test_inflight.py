"""What is in flight on machines that Redis may lose sight of."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from pingora_limits.redis import RedisInflight
from tests.support.clock import FakeClock
from tests.support.fake_redis import FakeRedis
from tests.support.forked import Forked

if TYPE_CHECKING:
    from pingora_limits import Guard


def _machines(count: int, clock: FakeClock) -> tuple[FakeRedis, list[RedisInflight]]:
    redis = FakeRedis(clock)
    return redis, [RedisInflight(redis, name="a", clock=clock) for _ in range(count)]


async def test_the_lease_is_renewed_without_traffic() -> None:
    """One round trip in a third of the lease, and what is held stays held."""
    clock = FakeClock()
    redis, (quiet, other) = _machines(2, clock)
    guard, _ = quiet.incr("a", 3)
    for _ in range(100):
        await quiet.flush()
        clock.advance(0.5)
    assert redis.calls in range(13, 19)

    with other.incr("a")[0]:
        await other.flush()
        assert other.get("a") == 4
    guard.release()


async def test_a_machine_that_was_away_for_too_long_tells_everything_again() -> None:
    """Its lease was over; the others learn anew what it holds."""
    clock = FakeClock()
    redis, (away, other) = _machines(2, clock)
    guards = [away.incr(key, 2)[0] for key in range(5)]
    await away.flush()
    redis.is_deaf = True
    await away.flush()
    clock.advance(20)
    redis.is_deaf = False
    held = [other.incr(key)[0] for key in range(5)]
    await other.flush()
    assert [other.get(key) for key in range(5)] == [1] * 5

    away.incr("new")[0].release()
    for _ in range(2):
        await away.flush()
    held += [other.incr(key)[0] for key in range(5)]
    await other.flush()

    assert [other.get(key) for key in range(5)] == [4] * 5
    assert [away.get(key) for key in range(5)] == [3] * 5
    for guard in guards + held:
        guard.release()


async def test_what_changes_while_redis_is_asked_is_told_next_time() -> None:
    """Begun or ended in between: no change is taken for told."""
    clock = FakeClock()
    redis, (busy, other) = _machines(2, clock)
    guard, _ = busy.incr("a", 3)
    later: list[Guard] = []
    redis.meanwhile = lambda: later.append(busy.incr("a", 4)[0]) if not later else None
    await busy.flush()
    await busy.flush()
    guard.release()
    redis.meanwhile = later[0].release
    await busy.flush()
    redis.meanwhile = int
    first, _ = other.incr("a")
    await other.flush()
    assert other.get("a") == 5

    await busy.flush()
    second, _ = other.incr("a")
    await other.flush()

    assert other.get("a") == 2
    first.release()
    second.release()


async def test_keys_that_have_ended_make_room() -> None:
    """Many more keys than there is room for, one after the other, are all exchanged."""
    redis = FakeRedis(FakeClock())
    first, second = (RedisInflight(redis, name="a", expected_keys=3) for _ in range(2))
    for number in range(30):
        theirs, _ = second.incr(number, 5)
        await second.flush()
        guard, _ = first.incr(number)
        await first.flush()
        assert first.get(number) == 6
        theirs.release()
        guard.release()
        await second.flush()
        await first.flush()


async def test_keys_that_have_ended_make_room_without_redis() -> None:
    """While it is away as well: keys that are there when it is back are exchanged."""
    clock = FakeClock()
    redis = FakeRedis(clock)
    first, second = (RedisInflight(redis, name="a", expected_keys=3, clock=clock) for _ in "ab")
    redis.is_deaf = True
    for number in range(30):
        first.incr(number)[0].release()
        await first.flush()
    guards = [first.incr(key)[0] for key in "abc"]
    redis.is_deaf = False
    clock.advance(5)
    await first.flush()
    theirs, _ = second.incr("c")
    await second.flush()

    assert second.get("c") == 2
    for guard in (*guards, theirs):
        guard.release()


async def test_garbage_is_no_answer() -> None:
    """What is counted here stays right."""
    redis, (inflight,) = _machines(1, FakeClock())
    guard, _ = inflight.incr("a", 3)
    redis.answer = [1, 2, 3]
    await inflight.flush()

    assert inflight.get("a") == 3
    assert (inflight.is_away, inflight.failures) == (True, 1)
    guard.release()
    assert inflight.get("a") == 0


async def test_keys_beyond_the_room_are_counted_here() -> None:
    """By estimates that are never too low; memory is bounded, with Redis or without."""
    redis = FakeRedis(FakeClock())
    redis.is_deaf = True
    inflight = RedisInflight(redis, name="a", expected_keys=500)
    tracemalloc.start()
    try:
        guards = []
        for number in range(2_000):
            guard, count = inflight.incr(f"{number}" * 20, 2)
            assert count >= 2
            guards.append(guard)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert taken < inflight.max_memory + 300 * 2_000  # the guards
    assert all(guard.get() >= 2 for guard in guards)
    for guard in guards:
        guard.release()
    assert not any(inflight.get(f"{number}" * 20) for number in range(2_000))


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.sampled_from(["incr", "incr", "release", "flush", "deaf", "mute", "well", "wait"]),
            st.integers(0, 3),
        ),
        max_size=80,
    )
)
async def test_model(steps: list[tuple[int, str, int]]) -> None:
    """What a machine holds itself is always right; once all have exchanged, so is the sum."""
    clock = FakeClock()
    redis, machines = _machines(2, clock)
    held: list[list[tuple[int, Guard]]] = [[], []]

    def own(number: int, key: int) -> int:
        return sum(guard.amount for each, guard in held[number] if each == key)

    for number, step, key in steps:
        machine = machines[number]
        if step == "incr":
            held[number].append((key, machine.incr(key, key + 1)[0]))
        elif step == "release" and held[number]:
            held[number].pop(key % len(held[number]))[1].release()
        elif step == "flush":
            await machine.flush()
        elif step == "wait":
            clock.advance(4)
        else:
            redis.is_deaf, redis.is_mute = step == "deaf", step == "mute"
        assert machine.get(key) >= own(number, key)
    redis.is_deaf = redis.is_mute = False
    clock.advance(5)
    for _ in range(3):
        for number, machine in enumerate(machines):
            held[number] += [(key, machine.incr(key)[0]) for key in range(4)]
            await machine.flush()
    for machine in machines:
        sums = [own(0, key) + own(1, key) for key in range(4)]
        known = [machine.get(key) for key in range(4)]
        assert known == (sums if machine is machines[1] else [each - 1 for each in sums])
    for _, guard in held[0] + held[1]:
        guard.release()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_holds_nothing() -> None:
    """Guards that it inherits are its parent's."""
    inflight = RedisInflight(FakeRedis(FakeClock()), name="a")
    guard, _ = inflight.incr("a", 5)

    def release() -> int:
        guard.release()
        return inflight.incr("a")[1]

    with Forked({"release": release}) as child:
        assert child.call("release") == 1
    assert guard.get() == 5
    guard.release()
