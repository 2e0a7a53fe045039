"""Hedging in a proxy, over real sockets: a slow backend costs nobody its slowness."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_load_balancing import BreakerLimits, LatencyQuantile, RetryBudget, RetryPolicy
from tests.support.origin_steps import hang, reply, reset, sequence, wait
from tests.support.waiting import eventually
from tests.unit.pingora_load_balancing.retry.test_in_a_proxy import Rig

if TYPE_CHECKING:
    from tests.support.origin import Handler, Origin

pytestmark = pytest.mark.usefixtures("no_leaks")

_GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
_OK = reply(body=b"fine")
_SOON = 0.02
_NEVER = 60.0
_QUICK = RetryPolicy(max_attempts=3, backoff=0.0)


def _origin(rig: Rig, number: int) -> Origin:
    origin = rig.origins[number]
    assert origin is not None
    return origin


async def test_another_backend_answers_for_a_slow_one() -> None:
    """Which is given up, and has not failed by that; the hedge comes out of the budget."""
    async with Rig(hang, _OK, hedge_after=_SOON) as rig:
        assert await rig.ask() == 200
        await _origin(rig, 0).all_closed()
        await eventually(lambda: rig.app.ended)
        assert rig.reports == [(1, False)]
        assert (rig.budget.requests, rig.budget.retries, rig.failover.hedges) == (1, 1, 1)
        # It has taken that long at least.
        latency = rig.pool.current.states[0].latency
        assert latency is not None
        assert latency >= _SOON / 2


async def test_a_quick_backend_is_not_hedged() -> None:
    """Nothing is taken from the budget."""
    async with Rig(_OK, _OK, hedge_after=_NEVER) as rig:
        assert await rig.ask() == 200
        assert (rig.asked, rig.budget.retries, rig.failover.hedges) == ([1, 0], 0, 0)


async def test_both_count_as_on_their_way_while_they_are() -> None:
    """Neither before there are two, nor after one has won."""
    rig = Rig(hang, sequence(wait("go"), _OK), hedge_after=_SOON)
    async with rig, await rig.proxy.connect() as client:
        await client.send(_GET)
        await _origin(rig, 0).requests_arrived()
        await _origin(rig, 1).requests_arrived()
        assert rig.pool.totals.in_flight == 2
        assert all(rig.breaker.account(b.addr) for b in rig.pool.current)
        _origin(rig, 1).open("go")
        assert (await client.read_response()).status == 200
        await eventually(lambda: rig.pool.totals.in_flight == 0)


@pytest.mark.parametrize("why", ["budget", "breaker", "attempts", "methods", "alone"])
async def test_what_is_not_hedged(why: str) -> None:
    """The first attempt goes on; nothing is taken from the budget."""
    handlers = [sequence(wait("go"), _OK)] + ([] if why == "alone" else [_OK])
    rig = Rig(
        *handlers,
        hedge_after=_SOON,
        budget=RetryBudget(0.0, min_per_second=0.0) if why == "budget" else RetryBudget(1.0),
        limits=BreakerLimits(max_retries=0) if why == "breaker" else None,
        policy=RetryPolicy(
            max_attempts=1 if why == "attempts" else 3,
            methods=frozenset() if why == "methods" else frozenset({"GET"}),
        ),
    )
    async with rig, await rig.proxy.connect() as client:
        await client.send(_GET)
        await _origin(rig, 0).requests_arrived()
        if why == "budget":
            await eventually(lambda: rig.budget.refused)
        elif why == "breaker":
            await eventually(lambda: rig.breaker.refused)
        else:
            await asyncio.sleep(0.05)
        _origin(rig, 0).open("go")
        assert (await client.read_response()).status == 200
        await eventually(lambda: rig.app.ended)
        assert rig.asked[1:] in ([0], [])
        assert (rig.budget.retries, rig.failover.hedges) == (0, 0)
        assert rig.reports == [(0, False)]


@pytest.mark.parametrize(
    "bad", [None, reset, reply("503 Service Unavailable")], ids=["refuses", "reset", "503"]
)
async def test_a_hedge_that_fails_is_reported_and_not_retried(bad: Handler | None) -> None:
    """As long as the first attempt goes on."""
    async with Rig(sequence(wait("go"), _OK), bad, _OK, hedge_after=_SOON) as rig:
        async with await rig.proxy.connect() as client:
            await client.send(_GET)
            if bad is None:
                await eventually(lambda: rig.reports)
            else:
                await _origin(rig, 1).requests_arrived()
                await eventually(lambda: rig.reports or rig.pool.totals.in_flight == 2)
            _origin(rig, 0).open("go")
            assert (await client.read_response()).status == 200
        await eventually(lambda: rig.app.ended)
        assert sorted(rig.asked[::2]) == [0, 1]
        assert (0, False) in rig.reports
        assert rig.budget.retries == 1


async def test_an_answer_that_is_worth_a_retry_does_not_win() -> None:
    """It counts as what it is, though another one is passed on."""
    bad = sequence(wait("go"), reply("503 Service Unavailable"))
    async with Rig(bad, sequence(wait("go"), _OK), hedge_after=_SOON) as rig:
        async with await rig.proxy.connect() as client:
            await client.send(_GET)
            await _origin(rig, 1).requests_arrived()
            _origin(rig, 0).open("go")
            _origin(rig, 1).open("go")
            assert (await client.read_response()).status == 200
        await eventually(lambda: rig.app.ended)
        assert (1, False) in rig.reports
        assert rig.asked == [1, 1]


async def test_if_both_fail_a_third_backend_is_asked() -> None:
    """As one more attempt, out of the budget."""
    bad = sequence(wait("go"), reset)
    async with Rig(bad, bad, _OK, hedge_after=_SOON, policy=_QUICK) as rig:
        async with await rig.proxy.connect() as client:
            await client.send(_GET)
            await _origin(rig, 1).requests_arrived()
            for number in (0, 1):
                _origin(rig, number).open("go")
            assert (await client.read_response()).status == 200
        await eventually(lambda: rig.app.ended)
        assert rig.asked == [1, 1, 1]
        assert sorted(rig.reports) == [(0, True), (1, True), (2, False)]
        assert rig.budget.retries == 2


async def test_if_both_fail_and_no_attempt_is_left() -> None:
    """The hedge was one of them."""
    bad = sequence(wait("go"), reset)
    policy = RetryPolicy(max_attempts=2)
    async with Rig(bad, bad, _OK, hedge_after=_SOON, policy=policy) as rig:
        async with await rig.proxy.connect() as client:
            await client.send(_GET)
            await _origin(rig, 1).requests_arrived()
            for number in (0, 1):
                _origin(rig, number).open("go")
            assert (await client.read_response()).status == 502
        assert rig.asked == [1, 1, 0]


async def test_two_attempts_that_take_too_long() -> None:
    """Each of them has failed when its own time is over."""
    policy = RetryPolicy(per_try_timeout=0.2, max_attempts=3, backoff=0.0)
    async with Rig(hang, hang, _OK, hedge_after=_SOON, policy=policy) as rig:
        assert await rig.ask() == 200
        await eventually(lambda: rig.app.ended)
        assert sorted(rig.reports) == [(0, True), (1, True), (2, False)]


async def test_a_client_that_goes_leaves_nothing_behind() -> None:
    """Leases and permits of both are released, and nothing is held against the backends."""
    async with Rig(hang, hang, hedge_after=_SOON) as rig:
        async with await rig.proxy.connect() as client:
            await client.send(_GET)
            await eventually(lambda: rig.asked == [1, 1])
        await eventually(lambda: rig.app.ended)
        assert rig.reports == []
        for number in (0, 1):
            await _origin(rig, number).all_closed()


async def test_the_delay_follows_the_latencies() -> None:
    """A quantile is fed by the requests it tells the time for, and by no others."""
    quantile = LatencyQuantile(0.5, size=4, initially=_NEVER)
    async with Rig(hang, _OK, hedge_after=quantile) as rig:
        post = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n"
        rig.pool.set_healthy(rig.pool.current[0].addr, False)
        assert await rig.ask(post) == 200
        await eventually(lambda: rig.app.ended)
        assert quantile() == _NEVER
        assert await rig.ask() == 200
        await eventually(lambda: rig.app.ended == 2)
        assert quantile() < _NEVER
