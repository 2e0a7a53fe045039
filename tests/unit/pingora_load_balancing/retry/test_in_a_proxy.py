"""Failover in a proxy, over real sockets: the backends misbehave and the client does not notice."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

import pytest

from pingora_core import HttpPeer
from pingora_load_balancing import (
    Attempts,
    Backends,
    CircuitBreaker,
    Failover,
    FailoverPhases,
    LoadBalancer,
    OutlierDetector,
    RetryBudget,
    RetryPolicy,
)
from pingora_proxy import ProxyHttp, Session
from tests.support.origin import Origin
from tests.support.origin_steps import hang, reply, reset, send, sequence, wait
from tests.support.ports import free_address
from tests.support.proxy import RunningProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pingora_error import Error
    from pingora_load_balancing import (
        BreakerLimits,
        LatencyQuantile,
    )
    from tests.support.client import RawClient
    from tests.support.origin import Handler

pytestmark = pytest.mark.usefixtures("no_leaks")

_GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
_OK = reply(body=b"fine")
_QUICK = RetryPolicy(max_attempts=4, backoff=0.0)


class Gateway(FailoverPhases[Session, Attempts], ProxyHttp[Attempts]):
    """The example, without its status page."""

    def __init__(self, failover: Failover) -> None:
        self.failover = failover
        self.ended = 0

    def new_ctx(self) -> Attempts:
        return Attempts(self.failover)

    async def upstream_peer(self, session: Session, ctx: Attempts) -> HttpPeer:
        return ctx.prepare(HttpPeer(await ctx.next_backend()))

    async def logging(self, session: Session, error: Error | None, ctx: Attempts) -> None:
        await super().logging(session, error, ctx)
        self.ended += 1


class Rig:
    """Backends, the first of which is asked first, and a gateway; as an async context manager."""

    def __init__(
        self,
        *handlers: Handler | None,
        policy: RetryPolicy = _QUICK,
        hedge_after: float | LatencyQuantile | None = None,
        budget: RetryBudget | None = None,
        limits: BreakerLimits | None = None,
    ) -> None:
        self.origins = [None if handler is None else Origin(handler) for handler in handlers]
        self._policy = policy
        self._hedge_after = hedge_after
        self._limits = limits
        self.budget = RetryBudget(1.0) if budget is None else budget
        self._stack = AsyncExitStack()
        self.reports: list[tuple[int, bool]] = []

    async def __aenter__(self) -> Self:
        addresses = []
        for origin in self.origins:
            if origin is None:
                addresses.append(free_address())
            else:
                addresses.append((await self._stack.enter_async_context(origin)).address)
        self.pool = Backends(addresses)
        self.pool.observe(
            lambda state, _, failed: self.reports.append(
                (addresses.index(str(state.backend)), failed)
            )
        )
        self.breaker = CircuitBreaker(self.pool, self._limits)
        self.failover = Failover(
            LoadBalancer(pool=self.pool),
            self._policy,
            budget=self.budget,
            breaker=self.breaker,
            hedge_after=self._hedge_after,
        )
        self.app = Gateway(self.failover)
        self.proxy = await self._stack.enter_async_context(RunningProxy(self.app))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        assert self.pool.totals.in_flight == 0
        assert all(self.breaker.account(b.addr) is None for b in self.pool.current)

    async def ask(self, request: bytes = _GET) -> int:
        async with await self.proxy.connect() as client:
            return await self.ask_with(client, request)

    async def ask_with(self, client: RawClient, request: bytes = _GET) -> int:
        await client.send(request)
        return (await client.read_response()).status

    @property
    def asked(self) -> list[int]:
        """How many requests each backend got."""
        return [0 if origin is None else len(origin.requests) for origin in self.origins]


async def _longer_than_an_attempt() -> None:
    for _ in range(12):
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "bad",
    [
        None,
        reply("503 Service Unavailable"),
        reset,
        send(b"nonsense\r\n\r\n"),
        reply("502 Bad Gateway", body=b"x" * 100_000),
    ],
    ids=["refuses", "503", "reset", "nonsense", "502 with a body"],
)
async def test_another_backend_answers(bad: Handler | None) -> None:
    """Whatever is wrong with the first one, the client gets the answer of the second."""
    async with Rig(bad, _OK) as rig:
        assert await rig.ask() == 200
        await eventually(lambda: rig.app.ended)
        assert rig.reports == [(0, True), (1, False)]
        assert rig.budget.retries == 1


async def test_all_are_asked_once() -> None:
    """With three bad ones of four, the good one is found."""
    bad = reply("503 Service Unavailable")
    async with Rig(bad, bad, None, _OK) as rig:
        assert await rig.ask() == 200
        assert rig.asked == [1, 1, 0, 1]


async def test_the_last_answer_is_passed_on() -> None:
    """If nobody does better, the client sees what a backend has said, not an error of ours."""
    bad = reply("503 Service Unavailable", body=b"come back later")
    async with Rig(bad, bad, policy=RetryPolicy(max_attempts=2, backoff=0.0)) as rig:
        async with await rig.proxy.connect() as client:
            await client.send(_GET)
            response = await client.read_response()
        assert (response.status, response.body) == (503, b"come back later")
        assert rig.asked == [1, 1]


async def test_a_post_is_sent_once() -> None:
    """Unless it could not be sent at all."""
    post = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi"
    async with Rig(reset, _OK) as rig:
        assert await rig.ask(post) == 502
        assert rig.asked == [1, 0]
    async with Rig(None, _OK) as rig:
        assert await rig.ask(post) == 200


async def test_a_put_is_replayed_with_its_body() -> None:
    """As long as it fits into the retry buffer."""
    put = b"PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello"
    async with Rig(reply("503 Service Unavailable"), _OK) as rig:
        assert await rig.ask(put) == 200
        good = rig.origins[1]
        assert good is not None
        assert good.requests[0].body == b"hello"


async def test_a_backend_that_does_not_answer_is_left_in_time() -> None:
    """The other one gets the request when the time for one attempt is over."""
    policy = RetryPolicy(per_try_timeout=0.5, backoff=0.0)
    async with Rig(hang, _OK, policy=policy) as rig:
        assert await rig.ask() == 200
        await eventually(lambda: rig.app.ended)
        assert rig.reports == [(0, True), (1, False)]


async def test_if_none_answers_in_time_it_is_a_504() -> None:
    """As with any other timeout."""
    policy = RetryPolicy(per_try_timeout=0.3, backoff=0.0, max_attempts=2)
    async with Rig(hang, hang, policy=policy) as rig:
        assert await rig.ask() == 504
        assert rig.asked == [1, 1]


async def test_a_response_that_has_begun_may_take_its_time() -> None:
    """The limit is for its head; a long download is not cut off."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    slow = sequence(send(head), wait("body"), send(b"hello"))
    policy = RetryPolicy(per_try_timeout=0.5)
    async with Rig(slow, policy=policy) as rig, await rig.proxy.connect() as client:
        await client.send(_GET)
        origin = rig.origins[0]
        assert origin is not None
        await client.read_head()
        await _longer_than_an_attempt()
        origin.open("body")
        assert await client.receive_exactly(5) == b"hello"
        await eventually(lambda: rig.reports == [(0, False)])


async def test_a_slow_upload_is_not_the_backend_s_fault() -> None:
    """The time of an attempt begins again as long as the client is not done."""
    policy = RetryPolicy(per_try_timeout=0.5, max_attempts=1)
    async with Rig(_OK, policy=policy) as rig, await rig.proxy.connect() as client:
        await client.send(b"PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhel")
        await _longer_than_an_attempt()
        await client.send(b"lo")
        assert (await client.read_response()).status == 200
        assert rig.asked == [1]


async def test_a_backend_that_goes_on_failing_gets_nothing_more() -> None:
    """The outlier detection is told by the attempts, and the selection passes over it."""
    async with Rig(reply("503 Service Unavailable"), _OK) as rig:
        detector = OutlierDetector(rig.pool)
        async with await rig.proxy.connect() as client:
            for _ in range(30):
                assert await rig.ask_with(client) == 200
        assert rig.asked == [5, 30]
        assert detector.ejected == (rig.pool.current[0],)


async def test_a_client_that_goes_leaves_nothing_behind() -> None:
    """Lease and permit are released, and nothing is held against the backend."""
    async with Rig(hang) as rig:
        async with await rig.proxy.connect() as client:
            await client.send(_GET)
            await eventually(lambda: rig.asked == [1])
            assert rig.pool.totals.in_flight == 1
        await eventually(lambda: rig.app.ended)
        assert rig.reports == []
