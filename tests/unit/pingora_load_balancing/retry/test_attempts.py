"""Attempts go to one backend after the other, and the pool hears how each of them went."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from pingora_core.upstreams import HttpPeer
from pingora_error import Error, ErrorType, HTTPStatus, RetryType
from pingora_http import RequestHeader
from pingora_load_balancing import (
    CIRCUIT_OPEN,
    Attempts,
    Backend,
    Backends,
    BreakerLimits,
    CircuitBreaker,
    Failover,
    LoadBalancer,
    RetryBudget,
    RetryOn,
    RetryPolicy,
)
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from pingora_core.protocols.http.server import ServerSession
    from pingora_http import ResponseHeader
    from pingora_load_balancing import BackendState, Permit

_PATIENT = RetryPolicy(max_attempts=9, backoff=0.0)


class FakeDownstream:
    """As much of a client's side as is asked."""

    def __init__(self) -> None:
        self.is_body_done = True
        self.body_bytes_read = 0
        self.retry_buffer_truncated = False


class Request:
    """A request of the proxy, as far as failover is concerned."""

    def __init__(self, method: str = "GET") -> None:
        self.req_header = RequestHeader(method, "/")
        self.response_written: ResponseHeader | None = None
        self.downstream = FakeDownstream()
        self.interruptions: list[Error] = []
        self.interrupted: list[HttpPeer | None] = []

    @property
    def downstream_session(self) -> ServerSession:
        return cast("ServerSession", self.downstream)

    def interrupt(self, error: Error, *, peer: HttpPeer | None = None) -> None:
        self.interruptions.append(error)
        self.interrupted.append(peer)


class Rig:
    """Some backends on a fake clock; what is reported of them, and what was waited."""

    def __init__(
        self,
        count: int = 3,
        policy: RetryPolicy = _PATIENT,
        *,
        limits: BreakerLimits | None = None,
        budget: RetryBudget | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.backends = [Backend(f"10.0.0.{i}:80") for i in range(count)]
        self.pool = Backends(self.backends, clock=self.clock)
        self.reports: list[tuple[int, float | None, bool]] = []
        self.pool.observe(self._observe)
        self.waits: list[float] = []
        self.breaker = None if limits is None else CircuitBreaker(self.pool, limits)
        self.failover = Failover(
            LoadBalancer(pool=self.pool),
            policy,
            budget=RetryBudget(clock=self.clock) if budget is None else budget,
            breaker=self.breaker,
            sleep=self._sleep,
        )

    def _observe(self, state: BackendState, latency: float | None, failed: bool) -> None:
        seconds = None if latency is None else round(latency, 6)
        self.reports.append((self.number(state.backend), seconds, failed))

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def number(self, backend: Backend) -> int:
        return self.backends.index(backend)

    async def next(self, attempts: Attempts) -> int:
        return self.number(await attempts.next_backend())

    def acquire(self, number: int) -> Permit:
        assert self.breaker is not None
        return self.breaker.acquire(self.backends[number])

    @property
    def in_flight(self) -> int:
        return self.pool.totals.in_flight


def _refused() -> Error:
    return Error.up(ErrorType.CONNECT_REFUSED)


def _closed(retry: RetryType | None = None) -> Error:
    return Error.up(ErrorType.CONNECTION_CLOSED, retry=retry)


# ------------------------------------------------------------------------- where to


async def test_each_attempt_goes_to_another_backend() -> None:
    """Once all have been tried they are tried again."""
    rig = Rig(3)
    request, attempts = Request(), Attempts(rig.failover)
    assert repr(attempts) == "<Attempts 0, nowhere yet>"
    visited = [await rig.next(attempts)]
    for _ in range(4):
        assert attempts.failed_to_connect(request, _refused()).should_retry
        visited.append(await rig.next(attempts))

    assert sorted(visited[:3]) == [0, 1, 2]
    assert set(visited[3:]) < {0, 1, 2}
    assert attempts.count == 5
    assert repr(attempts) == f"<Attempts 5, to 10.0.0.{visited[-1]}:80>"


async def test_only_ready_backends_are_tried() -> None:
    """An unhealthy one gets no retry, and a request that finds none at all is a 503."""
    rig = Rig(3)
    rig.pool.set_healthy(rig.backends[1].addr, False)
    request, attempts = Request(), Attempts(rig.failover)
    visited = {await rig.next(attempts)}
    attempts.failed_to_connect(request, _refused())
    visited.add(await rig.next(attempts))
    assert visited == {0, 2}

    for backend in rig.backends:
        rig.pool.set_healthy(backend.addr, False)
    attempts.failed_to_connect(request, _refused())
    with pytest.raises(Error, match="no backend can be used") as none:
        await attempts.next_backend()
    assert none.value.etype == HTTPStatus(503)
    assert none.value.root_etype != CIRCUIT_OPEN


async def test_an_empty_pool_is_a_503() -> None:
    """There is nothing to wait for."""
    rig = Rig(0)

    with pytest.raises(Error, match="no backend can be used"):
        await Attempts(rig.failover).next_backend()


async def test_a_backend_that_is_full_is_passed_over() -> None:
    """If all are, the client is told so at once."""
    rig = Rig(2, limits=BreakerLimits(max_requests=1, max_retries=None))
    first, second, third = (Attempts(rig.failover) for _ in range(3))
    assert {await rig.next(first), await rig.next(second)} == {0, 1}

    with pytest.raises(Error) as refused:
        await third.next_backend()
    assert refused.value.etype == HTTPStatus(503)
    assert refused.value.root_etype == CIRCUIT_OPEN

    first.end()
    assert await rig.next(third) in {0, 1}
    for attempts in (second, third):
        attempts.end()
    assert rig.breaker is not None
    assert all(rig.breaker.account(backend.addr) is None for backend in rig.backends)


async def test_a_breaker_may_refuse_what_was_just_chosen() -> None:
    """Although the pool has not heard of it, as after it has left and come back."""
    rig = Rig(2, limits=BreakerLimits(max_requests=1))
    permits = [rig.acquire(0), rig.acquire(1)]
    rig.pool.replace([])
    rig.pool.replace(rig.backends)
    attempts = Attempts(rig.failover)
    with pytest.raises(Error) as refused:
        await attempts.next_backend()
    assert refused.value.root_etype == CIRCUIT_OPEN

    permits[1].release()
    assert await rig.next(attempts) == 1
    attempts.end()
    permits[0].release()


async def test_too_many_retries_at_a_backend_are_refused() -> None:
    """By the breaker, which counts them apart from first attempts."""
    rig = Rig(1, limits=BreakerLimits(max_retries=0))
    request, attempts = Request(), Attempts(rig.failover)
    await attempts.next_backend()
    attempts.connected(request)
    assert attempts.failed(request, _closed(), reused=False).should_retry

    with pytest.raises(Error) as refused:
        await attempts.next_backend()
    assert refused.value.root_etype == CIRCUIT_OPEN


# ------------------------------------------------------------------------- how it went


async def test_an_answer_is_reported_when_the_request_is_over() -> None:
    """With the time to its head; in the meantime the request counts as on its way."""
    rig = Rig(1)
    request, attempts = Request(), Attempts(rig.failover)
    await attempts.next_backend()
    attempts.connected(request)
    rig.clock.advance(0.25)
    attempts.responded(request, 103)
    attempts.responded(request, 200)
    rig.clock.advance(60.0)
    assert (rig.in_flight, rig.reports) == (1, [])

    attempts.end()
    attempts.end()
    assert (rig.in_flight, rig.reports) == (0, [(0, 0.25, False)])


async def test_a_server_error_is_a_failure_even_if_it_is_passed_on() -> None:
    """Whether it is retried is another question."""
    rig = Rig(1)
    request, attempts = Request(), Attempts(rig.failover)
    await attempts.next_backend()
    attempts.responded(request, 500)
    attempts.end()

    assert rig.reports == [(0, 0.0, True)]


async def test_a_body_that_breaks_off_is_a_failure() -> None:
    """Too late for another attempt, if the head was sent on."""
    rig = Rig(1)
    request, attempts = Request(), Attempts(rig.failover)
    await attempts.next_backend()
    attempts.responded(request, 200)
    request.response_written = cast("ResponseHeader", object())

    assert not attempts.failed(request, _closed(), reused=False).should_retry
    assert rig.reports == [(0, 0.0, True)]


@pytest.mark.parametrize("has_answered", [False, True])
async def test_a_client_that_goes_is_no_failure(has_answered: bool) -> None:
    """What was answered counts; what was not shows only in the latency, if it took long."""
    rig = Rig(1)
    request, attempts = Request(), Attempts(rig.failover)
    await attempts.next_backend()
    rig.clock.advance(2.0)
    if has_answered:
        attempts.responded(request, 200)
    gone = attempts.failed(request, Error.down(ErrorType.CONNECTION_CLOSED), reused=False)
    assert not gone.should_retry
    assert rig.reports == ([(0, 2.0, False)] if has_answered else [])

    await Attempts(rig.failover).next_backend()
    assert rig.pool.current.states[0].latency == 2.0


async def test_a_short_abandoned_attempt_says_nothing() -> None:
    """It lowers no latency, and neither does one at a backend that has left."""
    rig = Rig(1)
    rig.pool.report(rig.backends[0], latency=1.0)
    for leaves in (False, True):
        attempts = Attempts(rig.failover)
        await attempts.next_backend()
        rig.clock.advance(0.1)
        if leaves:
            rig.pool.replace([])
        attempts.end()
        if not leaves:
            assert rig.pool.current.states[0].latency == 1.0


async def test_a_local_failure_is_not_the_backend_s() -> None:
    """Such as having no descriptor left; but another attempt may do."""
    rig = Rig(2)
    request, attempts = Request(), Attempts(rig.failover)
    await attempts.next_backend()

    judged = attempts.failed_to_connect(request, Error.up(ErrorType.SOCKET_ERROR))

    assert judged.should_retry
    assert rig.reports == []


async def test_an_attempt_that_nobody_has_ended_is_ended_by_the_next() -> None:
    """It was not granted either, so the budget is asked now."""
    rig = Rig(3, budget=RetryBudget(0.0, min_per_second=0.1))
    attempts = Attempts(rig.failover)
    await attempts.next_backend()
    await attempts.next_backend()
    assert rig.in_flight == 1

    with pytest.raises(Error, match="no retry is left in the budget"):
        await attempts.next_backend()
    assert rig.in_flight == 0


# ------------------------------------------------------------------------- once more


@pytest.mark.parametrize(
    ("error", "method", "again"),
    [
        (_closed(), "GET", True),
        (_closed(), "POST", False),
        (Error.up(ErrorType.READ_TIMEDOUT), "PUT", True),
        (Error.up(ErrorType.READ_TIMEDOUT), "PATCH", False),
        # Nothing has come of the request, says who knows.
        (Error.up(ErrorType.H2_ERROR, retry=RetryType.RETRY), "POST", True),
        (Error.internal(ErrorType.INTERNAL_ERROR), "GET", False),
        # A filter of the user's own wants another attempt.
        (Error.internal(ErrorType.INTERNAL_ERROR, retry=RetryType.RETRY), "GET", True),
    ],
)
async def test_what_is_sent_again(error: Error, method: str, again: bool) -> None:
    """What may have been executed is sent again only if it does no harm."""
    rig = Rig(2)
    attempts = Attempts(rig.failover)
    await attempts.next_backend()

    assert attempts.failed(Request(method), error, reused=False).should_retry is again


async def test_conditions_are_the_policy_s() -> None:
    """A failure that is not among them ends the request."""
    rig = Rig(2, RetryPolicy(retry_on=RetryOn.STATUS))
    request, attempts = Request(), Attempts(rig.failover)
    await attempts.next_backend()

    assert not attempts.failed_to_connect(request, _refused()).should_retry
    assert rig.failover.budget.retries == 0


async def test_a_status_is_retried_and_then_passed_on() -> None:
    """The last answer is the client's, whatever it is."""
    rig = Rig(3, RetryPolicy(max_attempts=2, backoff=0.0))
    request, attempts = Request(), Attempts(rig.failover)
    await attempts.next_backend()
    with pytest.raises(Error, match=r"10\.0\.0\.\d:80 answered 503") as raised:
        attempts.responded(request, 503)
    judged = attempts.failed(request, raised.value.more_context("Peer"), reused=False)
    assert judged.should_retry

    await attempts.next_backend()
    attempts.responded(request, 503)
    attempts.end()
    assert [failed for _, _, failed in rig.reports] == [True, True]
    assert rig.failover.budget.retries == 1


async def test_the_status_of_an_upload_is_passed_on() -> None:
    """It may have had its effect."""
    rig = Rig(3)
    attempts = Attempts(rig.failover)
    await attempts.next_backend()

    attempts.responded(Request("POST"), 503)
    attempts.responded(Request("POST"), 101)


async def test_what_cannot_be_replayed_is_not_sent_again() -> None:
    """A body longer than the retry buffer is gone."""
    rig = Rig(3)
    request, attempts = Request("PUT"), Attempts(rig.failover)
    request.downstream.body_bytes_read = 100_000
    request.downstream.retry_buffer_truncated = True
    await attempts.next_backend()
    attempts.responded(request, 503)

    assert not attempts.failed(request, _closed(), reused=False).should_retry
    assert rig.failover.budget.retries == 0


async def test_attempts_are_bounded() -> None:
    """By the policy, the first one included."""
    rig = Rig(9, RetryPolicy(max_attempts=3, backoff=0.0))
    request, attempts = Request(), Attempts(rig.failover)
    for again in (True, True, False):
        await attempts.next_backend()
        assert attempts.failed_to_connect(request, _refused()).should_retry is again


async def test_retries_are_bounded_by_the_budget() -> None:
    """Of all requests together."""
    rig = Rig(3, budget=RetryBudget(0.5, min_per_second=0))
    granted = 0
    for _ in range(10):
        attempts = Attempts(rig.failover)
        await attempts.next_backend()
        granted += attempts.failed_to_connect(Request(), _refused()).should_retry

    assert granted == 5


async def test_retries_wait_at_random() -> None:
    """The first attempt does not, nor does one without any back-off."""
    rig = Rig(9, RetryPolicy(max_attempts=4, backoff=0.1, max_backoff=0.3, uniform=lambda: 0.5))
    request, attempts = Request(), Attempts(rig.failover)
    for _ in range(4):
        await attempts.next_backend()
        attempts.failed_to_connect(request, _refused())

    assert rig.waits == pytest.approx([0.05, 0.1, 0.15])


async def test_a_dead_connection_is_nobody_s_fault() -> None:
    """The first one that was met costs neither an attempt nor the backend anything."""
    rig = Rig(1, RetryPolicy(max_attempts=1, backoff=0.0))
    request, attempts = Request(), Attempts(rig.failover)
    for again in (True, False):
        await attempts.next_backend()
        judged = attempts.failed(request, _closed(RetryType.REUSED_ONLY), reused=True)
        assert judged.should_retry is again
    assert rig.reports == []


async def test_a_new_connection_that_breaks_is_the_backend_s_fault() -> None:
    """It was not idle for too long."""
    rig = Rig(1)
    request, attempts = Request(), Attempts(rig.failover)
    await attempts.next_backend()

    attempts.failed(request, _closed(RetryType.REUSED_ONLY), reused=False)

    assert rig.reports == [(0, 0.0, True)]


async def test_a_post_on_a_dead_connection_is_not_sent_again() -> None:
    """The proxy has forbidden it; the backend is not to blame all the same."""
    rig = Rig(1)
    attempts = Attempts(rig.failover)
    await attempts.next_backend()
    judged = attempts.failed(Request("POST"), _closed(RetryType.NO_RETRY), reused=True)

    assert not judged.should_retry
    assert rig.reports == []


async def test_a_status_that_somebody_else_has_raised_blames_the_backend() -> None:
    """Such as a filter that does not like the answer."""
    rig = Rig(2)
    request, attempts = Request(), Attempts(rig.failover)
    await attempts.next_backend()
    attempts.responded(request, 200)
    judged = attempts.failed(
        request, Error.up(HTTPStatus(502), retry=RetryType.RETRY), reused=False
    )

    assert judged.should_retry
    assert rig.reports == [(0, 0.0, True)]


async def test_what_is_told_after_the_end_changes_nothing() -> None:
    """Such as by a phase that runs although the attempt has ended."""
    rig = Rig(2, RetryPolicy(per_try_timeout=1.0, backoff=0.0))
    request, attempts = Request(), Attempts(rig.failover)
    await attempts.next_backend()
    attempts.end()

    attempts.connected(request)
    attempts.responded(request, 503)

    assert rig.reports == []
    assert attempts.attempts is attempts


# ------------------------------------------------------------------------- the peer


@pytest.mark.parametrize(
    ("limit", "before", "after"),
    [(None, 7.0, 7.0), (0.5, None, 0.5), (0.5, 7.0, 0.5), (0.5, 0.1, 0.1)],
)
def test_an_attempt_has_no_longer_to_connect_than_in_all(
    limit: float | None, before: float | None, after: float
) -> None:
    """A limit of the peer's own that is stricter stays."""
    peer = HttpPeer("10.0.0.1:80")
    peer.options.total_connection_timeout = before
    attempts = Attempts(Rig(1, RetryPolicy(per_try_timeout=limit)).failover)

    assert attempts.prepare(peer) is peer
    assert peer.options.total_connection_timeout == after
