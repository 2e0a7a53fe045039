"""Limits over many machines, with a real Redis that stalls, dies and comes back empty."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from pingora_limits import TokenBucket, proportional_rate_estimate
from pingora_limits.redis import (
    RedisInflight,
    RedisRate,
    RedisSlidingWindow,
    RedisTokenBucket,
    connect,
)
from tests.support.clock import FakeClock
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from redis.asyncio import Redis

# Intervals are numbered by the clock of Redis, and none may turn while a test counts: this one
# does in 2052.
_LONG = 10_000 * 86_400.0
# Seconds; no test waits for it.
_PATIENT = 60.0
_QUICK = 0.005


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with RedisServer(tmp_path) as server:
        yield server


@asynccontextmanager
async def _client(server: RedisServer) -> AsyncIterator[Redis]:
    client = connect(server.url, timeout=_PATIENT)
    try:
        yield client
    finally:
        await client.aclose()


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Redis]:
    async with _client(server) as client:
        yield client


@pytest.fixture
async def other(server: RedisServer) -> AsyncIterator[Redis]:
    async with _client(server) as client:
        yield client


async def test_machines_learn_what_others_have_counted(client: Redis, other: Redis) -> None:
    """Counts of all machines meet after a flush; before it each knows its own."""
    first, second = (
        RedisRate(each, _LONG, name="requests", timeout=_PATIENT) for each in (client, other)
    )

    assert first.observe("a", 3) == 3
    assert second.observe("a", 4) == 4
    await first.flush()
    await second.flush()
    assert second.observe("a", 0) == 7
    assert first.observe("a") == 4
    await first.flush()
    assert first.observe("a", 0) == 8
    assert second.observe(b"a") == 1  # another key

    assert first.rate_with("a", proportional_rate_estimate) == 8 / _LONG
    assert first.lost == second.lost == first.failures == second.failures == 0


async def test_names_are_counted_apart(client: Redis) -> None:
    """Limits of other names, and other intervals, share nothing."""
    rates = [
        RedisRate(client, interval, name=name, timeout=_PATIENT)
        for name, interval in (("one", _LONG), ("two", _LONG), ("one", 2 * _LONG))
    ]
    for rate in rates:
        rate.observe("a", 5)
        await rate.flush()

    assert [rate.observe("a", 0) for rate in rates] == [5, 5, 5]


async def test_the_rate_of_the_interval_before(client: Redis, other: Redis) -> None:
    """It is that of all machines, also for what was told after its end."""
    clock = FakeClock()
    first, second = (
        RedisRate(each, _LONG, name="a", timeout=_PATIENT, clock=clock) for each in (client, other)
    )
    first.observe("a", 30)
    await first.flush()
    second.observe("a", 6)
    await second.flush()
    second.observe("a", 4)

    clock.advance(_LONG)  # the clock of Redis does not: it is told what interval it is by ours
    for rate in (second, first):
        rate.observe("a")
        rate.observe("b")

    assert second.rate("a") == 40 / _LONG
    assert first.rate("a") == 30 / _LONG


async def test_a_background_task_exchanges_counts(client: Redis, other: Redis) -> None:
    """As a context manager, each flushes by itself, and once more at the end."""
    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(
                RedisRate(each, _LONG, name="requests", flush_interval=_QUICK, timeout=_PATIENT)
            )
            for each in (client, other)
        ]
        first.observe("a", 2)
        await eventually(lambda: second.observe("a", 0) == 2)
        first.observe("b", 7)
    late = RedisRate(client, _LONG, name="requests", timeout=_PATIENT)
    late.observe("b", 0)
    await late.flush()

    assert late.observe("b", 0) == 7


async def test_many_keys_go_in_batches(client: Redis, other: Redis) -> None:
    """All are told in one flush, a thousand in a round trip; those beyond the room stay here."""
    first, second = (
        RedisRate(each, _LONG, name="a", expected_keys=2_500, timeout=_PATIENT)
        for each in (client, other)
    )
    for key in range(3_000):
        first.observe(key, 2)
        second.observe(key, 1)
    await first.flush()
    await second.flush()

    assert {second.observe(key, 0) for key in range(2_500)} == {3}
    assert all(second.observe(key, 0) >= 1 for key in range(2_500, 3_000))
    assert await client.dbsize() == 1


async def test_counting_goes_on_without_redis(server: RedisServer, client: Redis) -> None:
    """Nothing waits, nothing is lost within the interval, and it comes back by itself."""
    async with RedisRate(client, _LONG, name="a", flush_interval=_QUICK, timeout=_PATIENT) as rate:
        rate.observe("a", 5)
        await rate.flush()
        await server.kill()
        for _ in range(20):
            rate.observe("a")
        await eventually(lambda: rate.is_away)
        assert rate.observe("a") == 26

        assert await server.start()
        await eventually(lambda: not rate.is_away)
        late = RedisRate(client, _LONG, name="a", timeout=_PATIENT)
        late.observe("a", 0)
        await late.flush()

    # It came back empty: what was told before is gone, what came later is there.
    assert late.observe("a", 0) == 21
    assert rate.observe("a") == 27
    assert rate.lost == 0


async def test_a_stalled_redis_stalls_nobody(server: RedisServer, client: Redis) -> None:
    """A batch whose answer is late is told again, and counted once."""
    rate = RedisRate(client, _LONG, name="a", timeout=1.0)
    rate.observe("a", 1)
    await rate.flush()
    server.stall()
    rate.observe("a", 5)
    await rate.flush()
    assert rate.failures == 1
    assert rate.observe("a") == 7

    server.resume()
    async with asyncio.timeout(60):
        while rate.is_away:
            await asyncio.sleep(_QUICK)
            await rate.flush()
    late = RedisRate(client, _LONG, name="a", timeout=_PATIENT)
    late.observe("a", 0)
    await late.flush()

    assert late.observe("a", 0) == 7


async def test_a_window_over_machines(client: Redis, other: Redis) -> None:
    """The limit is that of all machines, as far as they know of each other."""
    first, second = (
        RedisSlidingWindow(each, 5, _LONG, name="a", timeout=_PATIENT) for each in (client, other)
    )
    assert [first.acquire("a").is_allowed for _ in range(3)] == [True] * 3
    await first.flush()
    assert second.acquire("a").is_allowed
    await second.flush()

    assert second.peek("a").remaining == 1
    assert [second.acquire("a").is_allowed for _ in range(2)] == [True, False]
    assert not second.acquire("a", 2).is_allowed
    assert (first.limit, first.window, first.is_away, first.failures) == (5, _LONG, False, 0)
    assert first.staleness < 60
    assert first.max_memory > 0


async def test_inflight_over_machines(client: Redis, other: Redis) -> None:
    """All that is going on anywhere counts, until it ends."""
    first, second = (
        RedisInflight(each, name="requests", timeout=_PATIENT) for each in (client, other)
    )
    mine, count = first.incr("a", 2)
    assert count == 2
    await first.flush()
    theirs, _ = second.incr("a")
    await second.flush()

    assert second.get("a") == theirs.get() == 3
    assert theirs.incr(4) == 7
    await second.flush()
    mine.incr()
    await first.flush()
    assert first.get("a") == 8
    theirs.release()
    await second.flush()
    mine.release()
    await first.flush()

    assert first.get("a") == second.get("a") == 0
    held = [await client.hlen(key) for key in await client.keys("pingora:{requests}:@*")]
    assert held == [1, 1]  # nothing but the mark that the lease holds


async def test_a_machine_that_ends_in_order_leaves_nothing(client: Redis) -> None:
    """What it had in flight is gone at once, and so is its lease."""
    async with RedisInflight(client, name="a", flush_interval=_QUICK, timeout=_PATIENT) as inflight:
        guard, _ = inflight.incr("a")
        await eventually(lambda: inflight.staleness < 60)
    guard.release()

    assert await client.dbsize() == 0


async def test_a_machine_that_dies_loses_its_lease(client: Redis, other: Redis) -> None:
    """What it had in flight is released, and told again if it was only away."""
    dying = RedisInflight(client, name="a", lease=0.4, flush_interval=_QUICK, timeout=_PATIENT)
    guard, _ = dying.incr("a", 5)
    async with RedisInflight(
        other, name="a", lease=0.4, flush_interval=_QUICK, timeout=_PATIENT
    ) as living:
        held = [living.incr("a")[0]]

        def known() -> int:
            # A change here, so that the key is exchanged again.
            held.append(living.incr("a")[0])
            held.pop(0).release()
            return living.get("a")

        for _ in range(2):
            async with asyncio.timeout(60):
                while known() != 6:
                    await dying.flush()
                    await asyncio.sleep(_QUICK)
            await eventually(lambda: known() == 1)
        held.clear()
    guard.release()


async def test_inflight_without_redis(server: RedisServer, client: Redis, other: Redis) -> None:
    """Others count until the lease is over; keys come and go without piling up."""
    clock = FakeClock()
    inflight = RedisInflight(client, name="a", expected_keys=10, timeout=_PATIENT, clock=clock)
    peer = RedisInflight(other, name="a", timeout=_PATIENT)
    theirs, _ = peer.incr("a", 3)
    await peer.flush()
    guard, _ = inflight.incr("a")
    await inflight.flush()
    assert inflight.get("a") == 4
    await server.kill()

    for number in range(100):
        inflight.incr(number)[0].release()
        clock.advance(0.05)
        await inflight.flush()
    assert inflight.is_away
    assert inflight.get("a") == 4
    clock.advance(10)
    await inflight.flush()

    assert inflight.get("a") == 1
    assert inflight.incr("new")[1] == 1
    guard.release()
    theirs.release()
    assert inflight.get("a") == 0


async def test_a_bucket_over_machines(client: Redis, other: Redis) -> None:
    """One bucket in Redis, whoever asks; each decision tells what a local one would."""
    async with (
        RedisTokenBucket(client, 1 / 64, 5, name="a", timeout=_PATIENT) as first,
        RedisTokenBucket(other, 1 / 64, 5, name="a", timeout=_PATIENT) as second,
    ):
        answers = [await limiter.acquire("a", 2) for limiter in (first, second, first)]
        more = await first.acquire("a", 6)
        last = await second.acquire("a")
        elsewhere = await first.acquire("b")

    assert [answer.is_allowed for answer in answers] == [True, True, False]
    assert [answer.remaining for answer in answers] == [3, 1, 1]
    assert answers[0].reset_after == 128
    assert 0 < answers[2].retry_after <= 64
    assert (more.is_allowed, more.retry_after) == (False, float("inf"))
    assert (last.is_allowed, last.remaining, elsewhere.remaining) == (True, 0, 4)
    assert (first.limit, first.window, first.local, first.failures) == (5, 320, 0, 0)


async def test_tokens_come_back(client: Redis) -> None:
    """A bucket fills by the clock of Redis, and is forgotten when it is full."""
    async with RedisTokenBucket(client, 100.0, 2, name="a", timeout=_PATIENT) as limiter:
        assert (await limiter.acquire("a", 2)).is_allowed
        while not (await limiter.acquire("a")).is_allowed:
            pass
        assert limiter.local == 0
        keys = await client.dbsize()
        while keys:
            await asyncio.sleep(_QUICK)
            keys = await client.dbsize()


async def test_decisions_share_round_trips(client: Redis) -> None:
    """A thousand that ask at once get exactly the burst."""
    async with RedisTokenBucket(
        client, 1 / 3600, 300, name="a", timeout=_PATIENT, max_waiting=1_000
    ) as limiter:
        decisions = await asyncio.gather(*(limiter.acquire("a") for _ in range(1_000)))
        info = await client.info("commandstats")

    assert sum(decision.is_allowed for decision in decisions) == 300
    assert limiter.local == 0
    assert info["cmdstat_evalsha"]["calls"] < 10


async def test_a_bucket_falls_back_when_redis_stalls(server: RedisServer, client: Redis) -> None:
    """The first wait for the timeout, the others not at all; nobody gets a second burst."""
    async with RedisTokenBucket(client, 1 / 3600, 10, name="a", timeout=1.0) as limiter:
        assert [(await limiter.acquire("a")).is_allowed for _ in range(6)] == [True] * 6
        server.stall()
        answers = await asyncio.gather(*(limiter.acquire("a") for _ in range(3)))
        assert [answer.is_allowed for answer in answers] == [True] * 3
        assert limiter.is_away
        failures = limiter.failures
        answers = [await limiter.acquire("a") for _ in range(3)]

        assert [answer.is_allowed for answer in answers] == [True, False, False]
        assert (limiter.local, limiter.failures) == (6, failures)
        server.resume()
        await eventually(lambda: not limiter.is_away)
        assert (await limiter.acquire("b")).is_allowed
        assert limiter.local == 6


async def test_a_fallback_of_ones_own(server: RedisServer, client: Redis) -> None:
    """What decides without Redis can be stricter, as each machine gets a share."""
    await server.kill()
    fallback = TokenBucket(1 / 3600, 1)
    limiter = RedisTokenBucket(client, 4.0, 4, name="a", fallback=fallback)
    assert (await limiter.acquire("a")).is_allowed  # not running yet
    async with limiter:
        assert not (await limiter.acquire("a")).is_allowed
    assert not (await limiter.acquire("a")).is_allowed
    assert limiter.local == 3


async def test_what_waits_at_the_end_is_decided_here(server: RedisServer, client: Redis) -> None:
    """Nobody waits for a limiter that has stopped, and a cancelled request disturbs nobody."""
    async with RedisTokenBucket(client, 1.0, 4, name="a", timeout=30.0) as limiter:
        await limiter.acquire("a")
        server.stall()
        waiting = [asyncio.create_task(limiter.acquire("a")) for _ in range(4)]
        await asyncio.sleep(_QUICK)
        waiting[0].cancel()
    decisions = await asyncio.gather(*waiting, return_exceptions=True)
    server.resume()

    assert isinstance(decisions[0], asyncio.CancelledError)
    assert limiter.local == 3
