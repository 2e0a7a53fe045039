"""Two attempts side by side: each is held, judged and released for itself."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from pingora_core.upstreams import HttpPeer
from pingora_error import Error, ErrorType, HTTPStatus, RetryType
from pingora_load_balancing import (
    Attempts,
    BreakerLimits,
    Failover,
    LatencyQuantile,
    RetryBudget,
    RetryPolicy,
)
from tests.support.waiting import eventually
from tests.unit.pingora_load_balancing.retry.test_attempts import Request, Rig

_GO_ON = RetryPolicy(max_attempts=9, backoff=0.0)


class Race:
    """A request under way twice."""

    def __init__(self, rig: Rig, method: str = "GET") -> None:
        self.rig = rig
        self.request = Request(method)
        self.attempts = Attempts(rig.failover)
        self.peers: list[HttpPeer] = []

    async def _choose(self) -> HttpPeer:
        peer = HttpPeer(await self.attempts.next_backend())
        self.peers.append(peer)
        return peer

    async def begin(self, delay: float | LatencyQuantile = 0.1) -> HttpPeer | None:
        self.rig.failover.hedge_after = delay
        self.attempts.connected(self.request, peer=await self._choose())
        seconds = self.attempts.hedge_delay(self.request)
        assert seconds is not None
        self.rig.clock.advance(seconds)
        return await self.attempts.hedge(self._choose)

    def failed(self, number: int, error: Error | None = None) -> bool:
        error = error or Error.up(ErrorType.READ_ERROR)
        judged = self.attempts.failed(self.request, error, reused=False, peer=self.peers[number])
        return judged.should_retry

    def backend(self, number: int) -> int:
        address = self.peers[number].address
        return [backend.addr for backend in self.rig.backends].index(address)


@pytest.mark.parametrize("seconds", [-1.0, math.inf, math.nan])
def test_a_delay_makes_sense(seconds: float) -> None:
    """Or it is refused at once."""
    with pytest.raises(ValueError, match="hedge_after"):
        Failover(Rig().failover.balancer, hedge_after=seconds)


async def test_the_second_goes_elsewhere_and_both_are_held() -> None:
    """Until one has won; the loser's time is known to be that long, and no more."""
    race = Race(Rig(3, limits=BreakerLimits()))
    rig = race.rig
    assert await race.begin(2.0) is race.peers[1]
    assert race.backend(0) != race.backend(1)
    assert (rig.in_flight, race.attempts.count, rig.failover.hedges) == (2, 2, 1)

    rig.clock.advance(0.5)
    race.attempts.settled(race.peers[1])
    assert rig.in_flight == 1
    assert race.attempts.backend is rig.backends[race.backend(1)]
    race.attempts.responded(race.request, 200)
    race.attempts.end()
    assert (rig.in_flight, rig.reports) == (0, [(race.backend(1), 0.5, False)])
    assert rig.pool.current.states[race.backend(0)].latency == 2.5


async def test_the_first_can_win() -> None:
    """Then the second is released, and says nothing, as it was short."""
    race = Race(Rig())
    await race.begin()
    race.attempts.settled(race.peers[0])
    assert race.attempts.backend is race.rig.backends[race.backend(0)]
    race.attempts.responded(race.request, 200)
    race.attempts.end()
    assert race.rig.reports == [(race.backend(0), 0.1, False)]


async def test_an_answer_is_judged_for_its_own_attempt() -> None:
    """What loses with a bad status is reported as that."""
    race = Race(Rig())
    await race.begin()
    assert not race.attempts.answered(race.request, race.peers[0], 503)
    race.rig.clock.advance(1.0)
    assert race.attempts.answered(race.request, race.peers[1], 404)
    race.attempts.settled(race.peers[1])
    race.attempts.responded(race.request, 404)
    race.attempts.end()
    assert race.rig.reports == [(race.backend(0), 0.1, True), (race.backend(1), 1.0, False)]


async def test_it_is_decided_when_the_second_of_two_fails() -> None:
    """Whether there is another attempt, though only the first has failed in such a way."""
    race = Race(Rig())
    await race.begin()
    budget = race.rig.failover.budget
    assert not race.failed(0)
    assert budget.retries == 1
    fatal = Error.up(ErrorType.INVALID_HTTP_HEADER)
    race.rig.failover.policy = replace(_GO_ON, methods=frozenset())
    assert race.failed(1, fatal)
    assert (budget.retries, race.rig.in_flight) == (2, 0)
    assert len(race.rig.reports) == 2


async def test_a_hedge_that_fails_leaves_the_first_alone() -> None:
    """That goes on, and may fail like any other."""
    race = Race(Rig())
    await race.begin()
    refused = Error.up(ErrorType.CONNECT_REFUSED)
    judged = race.attempts.failed_to_connect(race.request, refused, peer=race.peers[1])
    assert not judged.should_retry
    assert race.rig.in_flight == 1
    race.attempts.settled(race.peers[0])
    with pytest.raises(Error):
        race.attempts.responded(race.request, 503)
    assert race.rig.in_flight == 0


async def test_a_client_that_goes_ends_both() -> None:
    """Whatever the callback was told about."""
    race = Race(Rig())
    await race.begin()
    assert not race.failed(0, Error.down(ErrorType.CONNECTION_CLOSED))
    assert (race.rig.in_flight, race.rig.reports) == (0, [])


async def test_there_is_no_hedge_without_another_backend() -> None:
    """Or without budget, leave or attempts; and none costs anything."""
    refused = "no backend can be used"
    for rig, why in (
        (Rig(1), refused),
        (Rig(2, limits=BreakerLimits(max_retries=0)), refused),
        (Rig(2, budget=RetryBudget(0.0, min_per_second=0.0), limits=BreakerLimits()), "budget"),
    ):
        race = Race(rig)
        with pytest.raises(Error, match=why):
            await race.begin()
        assert (rig.in_flight, rig.failover.budget.retries) == (1, 0)
        assert race.attempts.count == 1
        race.attempts.end()
        assert rig.breaker is None or all(rig.breaker.account(b.addr) is None for b in rig.backends)


async def test_there_is_one_hedge_per_attempt_at_most() -> None:
    """And none beyond the attempts of the policy."""
    race = Race(Rig())
    await race.begin()
    assert await race.attempts.hedge(race._choose) is None

    last = Race(Rig(3, RetryPolicy(max_attempts=1)))
    assert await last.begin() is None


async def test_a_peer_that_did_not_ask_is_no_hedge() -> None:
    """Nor one that fails after it has."""
    race = Race(Rig())
    await race._choose()

    async def elsewhere() -> HttpPeer:
        return HttpPeer("10.9.9.9:80")

    async def fails() -> HttpPeer:
        await race._choose()
        raise ValueError

    assert await race.attempts.hedge(elsewhere) is None
    with pytest.raises(ValueError):  # noqa: PT011 - its own
        await race.attempts.hedge(fails)
    assert race.rig.in_flight == 1


async def test_what_is_not_hedged_has_no_delay() -> None:
    """Unless it is wanted, may be sent twice, and is under way."""
    rig = Rig()
    attempts = Attempts(rig.failover)
    await attempts.next_backend()
    assert attempts.hedge_delay(Request()) is None
    rig.failover.hedge_after = 1
    assert attempts.hedge_delay(Request()) == 1
    assert attempts.hedge_delay(Request("POST")) is None
    attempts.end()
    assert attempts.hedge_delay(Request()) is None


async def test_the_time_of_each_attempt_is_its_own() -> None:
    """The one whose time is over is interrupted, by its peer."""
    race = Race(Rig(3, replace(_GO_ON, per_try_timeout=0.2)))
    await race.begin()
    race.rig.failover.policy = _GO_ON
    race.attempts.connected(race.request, peer=race.peers[1])
    await eventually(lambda: race.request.interrupted)
    assert race.request.interrupted == [race.peers[0]]
    assert not race.failed(0, race.request.interruptions[0])
    assert race.rig.reports == [(race.backend(0), 0.1, True)]


async def test_a_quantile_hears_of_answers_and_of_what_took_longer() -> None:
    """A loser counts as what it has taken so far, so that the delay does not shrink by itself."""
    quantile = LatencyQuantile(0.5, size=2, initially=1.0)
    race = Race(Rig())
    await race.begin(quantile)
    race.rig.clock.advance(0.25)
    race.attempts.settled(race.peers[1])
    assert quantile() == 1.25
    race.attempts.responded(race.request, 200)
    race.attempts.end()
    assert sorted(quantile._latencies) == [0.25, 1.25]

    # A quick failure says nothing.
    again = Race(race.rig)
    await again.begin(quantile)
    again.failed(1, Error.up(HTTPStatus(502), retry=RetryType.NO_RETRY))
    assert 0.0 not in quantile._latencies
