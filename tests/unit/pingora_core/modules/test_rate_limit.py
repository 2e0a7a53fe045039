"""The rate limiter: whom it lets through, what it tells them, and what it does when it cannot."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

import pytest

from pingora_core.modules import (
    HttpModules,
    RateLimiterBuilder,
    RateLimitPolicy,
    RateLimitRefusal,
)
from pingora_core.modules.rate_limit_keys import by_client, by_header, clients_in, everyone
from pingora_core.protocols.address import InetAddress
from pingora_core.protocols.digest import Digest
from pingora_core.protocols.http.subrequest import SubrequestSession
from pingora_http import RequestHeader, ResponseHeader
from pingora_limits import Decision, SlidingWindow, TokenBucket
from pingora_limits.shared import SharedSlidingWindow, SharedTokenBucket
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from pingora_core.modules import Answer, Downstream, RateLimiter
    from pingora_core.modules.rate_limit_policy import LocalLimiter, RemoteLimiter
    from pingora_limits import AsyncLimiter, Key, Limiter


class Client:
    """A client's side without a connection."""

    def __init__(self, address: str = "192.0.2.1", *fields: tuple[str, str]) -> None:
        self.req_header = RequestHeader("GET", "/", headers=fields)
        self.client_addr = InetAddress(address, 4711)
        self.digest = Digest()


class Outcome:
    """What became of a request: the answer or None, and the fields on a response."""

    def __init__(
        self, module: RateLimiter, answer: Answer | None, response: ResponseHeader
    ) -> None:
        self.module = module
        self.answer = answer
        self.response = response

    @property
    def is_refused(self) -> bool:
        return self.answer is not None

    @property
    def policy(self) -> str | None:
        return self.response.get("ratelimit-policy")

    @property
    def limit(self) -> str | None:
        return self.response.get("ratelimit")


def _cost(client: Downstream) -> int:
    return int(client.req_header.get("cost") or 1)


async def send(builder: RateLimiterBuilder, client: Client | None = None) -> Outcome:
    client = client or Client()
    module = builder.init_for(client)
    answer = await module.request_header_filter(client.req_header)
    response = ResponseHeader(200) if answer is None else answer.header
    await module.response_header_filter(response, end=False)
    return Outcome(module, answer, response)


class Remote:
    """A limiter that is waited for, and that fails on demand.

    Attributes:
        asked: How often.
    """

    limit = 10
    window = 1.0

    def __init__(self, *, is_allowed: bool = True, error: Exception | None = None) -> None:
        self.decision = Decision(is_allowed, 10, 3, 0.0 if is_allowed else 2.5, 0.7)
        self.error = error
        self.asked = 0

    async def acquire(self, key: Key, cost: int = 1, /) -> Decision:
        _ = key, cost
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.decision


class Stalled(Remote):
    """A limiter that never answers."""

    async def acquire(self, key: Key, cost: int = 1, /) -> Decision:
        await asyncio.Event().wait()
        return await super().acquire(key, cost)


def local(limiter: Limiter) -> LocalLimiter:
    """Hold only if the type checker sees that the one is the other."""
    return limiter


def remote(limiter: AsyncLimiter) -> RemoteLimiter:
    """Hold only if the type checker sees that the one is the other."""
    return limiter


def test_the_real_limiters_are_limiters() -> None:
    """What pingora-limits offers fits, without either package knowing the other."""
    shared = (SharedTokenBucket(1, 1), SharedSlidingWindow(1, 1))
    for limiter in (*shared, TokenBucket(1, 1), SlidingWindow(1, 1)):
        assert RateLimitPolicy("p", local(limiter), everyone).local is limiter
    far = Remote()
    policy = RateLimitPolicy("p", remote(far), everyone)
    assert (policy.local, policy.remote) == (None, far)
    for each in shared:
        each.close()


# ------------------------------------------------------------------------------------ one policy


async def test_what_is_too_much_is_refused_until_there_is_room_again() -> None:
    """With the time to wait, rounded up, and nothing before it is over."""
    clock = FakeClock()
    policy = RateLimitPolicy("api", TokenBucket(0.5, 2, clock=clock), by_client())
    builder = RateLimiterBuilder([policy])

    assert [(await send(builder)).is_refused for _ in range(3)] == [False, False, True]
    clock.advance(0.5)
    refused = await send(builder)
    assert refused.response.status == 429
    assert refused.response.get("retry-after") == "2"
    clock.advance(2)
    assert not (await send(builder)).is_refused
    assert policy.counts.allowed == 3
    assert policy.counts.limited == 2


async def test_clients_are_told_their_limits() -> None:
    """Before they reach them, and when they have."""
    clock = FakeClock()
    policy = RateLimitPolicy("api", TokenBucket(0.1, 2, clock=clock), by_client())
    builder = RateLimiterBuilder([policy])

    outcomes = [await send(builder) for _ in range(3)]

    assert {outcome.policy for outcome in outcomes} == {'"api";q=2;w=20'}
    assert [outcome.limit for outcome in outcomes] == [
        '"api";r=1;t=10',
        '"api";r=0;t=20',
        '"api";r=0;t=10',
    ]
    assert outcomes[2].response.get("retry-after") == "10"
    assert outcomes[2].module.refused_by == ("api",)


async def test_the_page_names_the_policy() -> None:
    """It is the problem of the draft, in JSON, and nobody stores it."""
    builder = RateLimiterBuilder(
        [RateLimitPolicy('a "b"', TokenBucket(1, 1, clock=FakeClock()), everyone)]
    )
    await send(builder)

    answer = (await send(builder)).answer

    assert answer is not None
    assert json.loads(answer.body)["violated-policies"] == ['a "b"']
    assert answer.header.get("content-type") == "application/problem+json"
    assert answer.header.get("content-length") == str(len(answer.body))
    assert "no-store" in (answer.header.get("cache-control") or "")


async def test_page_and_status_can_be_chosen() -> None:
    """The callback learns why."""
    seen: list[RateLimitRefusal] = []

    def page(refusal: RateLimitRefusal) -> tuple[str, bytes]:
        seen.append(refusal)
        return "text/plain", b"later"

    limiter = TokenBucket(1, 1, clock=FakeClock())
    builder = RateLimiterBuilder([RateLimitPolicy("a", limiter, everyone)], status=503, page=page)
    await send(builder)
    client = Client()

    answer = (await send(builder, client)).answer

    assert answer is not None
    assert (answer.header.status, answer.body) == (503, b"later")
    assert answer.header.get("content-type") == "text/plain"
    assert seen == [RateLimitRefusal(("a",), 503, 1, client)]


async def test_fields_on_allowed_responses_can_be_left_out() -> None:
    """Refusals still have them."""
    limiter = TokenBucket(1, 1, clock=FakeClock())
    builder = RateLimiterBuilder([RateLimitPolicy("a", limiter, everyone)], fields_on_allowed=False)

    assert (await send(builder)).limit is None
    assert (await send(builder)).limit == '"a";r=0;t=1'


async def test_each_key_has_its_own_limit_and_some_requests_have_none() -> None:
    """No key, an exempt client or no cost: the limiter is not asked."""
    limiter = TokenBucket(1, 1, clock=FakeClock())
    policy = RateLimitPolicy(
        "a",
        limiter,
        by_header("k"),
        cost=_cost,
        exempt=clients_in(["10.0.0.0/8"]),
    )
    builder = RateLimiterBuilder([policy])

    async def passes(client: Client) -> bool:
        outcome = await send(builder, client)
        return not outcome.is_refused

    for client in (
        Client("192.0.2.1"),
        Client("10.0.0.1", ("k", "a")),
        Client("192.0.2.1", ("k", "a"), ("cost", "0")),
    ):
        assert [await passes(client) for _ in range(2)] == [True, True]
        assert (await send(builder, client)).policy is None
    for name in "ab":
        client = Client("192.0.2.1", ("k", name))
        assert [await passes(client) for _ in range(2)] == [True, False]


async def test_what_can_never_be_allowed_has_no_time_to_wait() -> None:
    """However much a request asks for, its answer is a refusal and no fault."""
    for cost in ("3", "1000000000000000"):
        limiter = TokenBucket(1, 2, clock=FakeClock())
        policy = RateLimitPolicy("a", limiter, everyone, cost=_cost)

        client = Client("::1", ("cost", cost))
        outcome = await send(RateLimiterBuilder([policy]), client)

        assert outcome.is_refused
        assert "retry-after" not in outcome.response
        assert outcome.limit is not None


async def test_units_and_partitions_are_told_where_wanted() -> None:
    """The key itself never is, unless a function makes something of it."""
    policy = RateLimitPolicy(
        "a",
        TokenBucket(100, 100, clock=FakeClock()),
        by_header("k"),
        unit="content-bytes",
        partition_key=lambda key: b"<" + (key if isinstance(key, bytes) else b"") + b">",
        cost=10,
    )

    outcome = await send(RateLimiterBuilder([policy]), Client("::1", ("k", "me")))

    assert outcome.policy == '"a";q=100;qu="content-bytes";w=1;pk=:PG1lPg==:'
    assert outcome.limit == '"a";r=90;t=1;pk=:PG1lPg==:'


async def test_informational_responses_have_no_fields() -> None:
    """Error pages do, and what an origin says of its own limits stays."""
    limiter = TokenBucket(1, 5, clock=FakeClock())
    module = RateLimiterBuilder([RateLimitPolicy("a", limiter, everyone)]).init_for(Client())
    await module.request_header_filter(RequestHeader("GET", "/"))
    early, page = ResponseHeader(103), ResponseHeader(502)
    page.insert_header("RateLimit", '"origin";r=1')

    await module.response_header_filter(early, end=False)
    module.error_page_filter(page)

    assert "ratelimit" not in early
    assert page.get_all("ratelimit") == ['"origin";r=1', '"a";r=4;t=1']


# ------------------------------------------------------------------------------- several policies


async def test_what_one_policy_refuses_costs_nothing_with_the_others() -> None:
    """Only the one that refuses is told of, and it alone counts."""
    clock = FakeClock()
    burst = RateLimitPolicy("burst", TokenBucket(1, 1, clock=clock), by_client())
    daily = RateLimitPolicy("daily", SlidingWindow(100, 86400, clock=clock), by_client())
    distant = Remote()
    far = RateLimitPolicy("far", distant, by_client())
    builder = RateLimiterBuilder([daily, burst, far])

    first, *others = [await send(builder) for _ in range(20)]

    assert first.limit is not None
    assert first.limit.count(";r=") == 3
    assert first.policy == '"daily";q=100;w=86400, "burst";q=1;w=1, "far";q=10;w=1'
    assert {outcome.limit for outcome in others} == {'"burst";r=0;t=1'}
    assert {outcome.policy for outcome in others} == {first.policy}
    assert distant.asked == 1
    clock.advance(1)
    last = (await send(builder)).limit
    assert last is not None
    assert '"daily";r=98;' in last
    assert (daily.counts.allowed, daily.counts.limited) == (2, 0)
    assert (burst.counts.allowed, burst.counts.limited) == (2, 19)


async def test_limiters_that_count_refusals_learn_of_them() -> None:
    """Such a client has to pause, not only to slow down."""
    clock = FakeClock()
    strict = SlidingWindow(2, 10, counts_refused=True, clock=clock)
    builder = RateLimiterBuilder(
        [
            RateLimitPolicy("strict", strict, everyone),
            RateLimitPolicy("wide", TokenBucket(100, 100, clock=clock), everyone),
        ]
    )
    for _ in range(10):
        await send(builder)

    assert strict.peek("everyone").retry_after > 10


async def test_the_longest_wait_counts() -> None:
    """Of several policies that refuse; all of them are named."""
    clock = FakeClock()
    builder = RateLimiterBuilder(
        [
            RateLimitPolicy("short", TokenBucket(1, 1, clock=clock), everyone),
            RateLimitPolicy("long", TokenBucket(0.01, 1, clock=clock), everyone),
        ]
    )
    await send(builder)

    outcome = await send(builder)

    assert outcome.module.refused_by == ("short", "long")
    assert outcome.response.get("retry-after") == "100"
    assert outcome.limit == '"short";r=0;t=1, "long";r=0;t=100'


# ------------------------------------------------------------------------------------- shadows


async def test_a_shadow_counts_and_logs_and_refuses_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Clients do not see it; the log has one line in a second."""
    caplog.set_level(logging.INFO)
    clock = FakeClock()
    policy = RateLimitPolicy(
        "new", TokenBucket(0.001, 1, clock=clock), everyone, shadow=True, clock=clock
    )
    builder = RateLimiterBuilder([policy])

    outcomes = [await send(builder) for _ in range(5)]
    clock.advance(1)
    outcomes.append(await send(builder))

    assert not any(outcome.is_refused for outcome in outcomes)
    assert {outcome.policy for outcome in outcomes} == {None}
    assert [outcome.module.shadowed_by for outcome in outcomes] == [(), *[("new",)] * 5]
    assert (policy.counts.allowed, policy.counts.shadowed, policy.counts.limited) == (1, 5, 0)
    assert caplog.messages == [
        "rate limit new: requests would have been refused: 1",
        "rate limit new: requests would have been refused: 4",
    ]


async def test_a_shadow_does_not_count_what_others_refuse() -> None:
    """It shows what it would do to the requests that are left."""
    clock = FakeClock()
    shadow = RateLimitPolicy("s", TokenBucket(1, 9, clock=clock), everyone, shadow=True)
    real = RateLimitPolicy("r", TokenBucket(1, 1, clock=clock), everyone)
    builder = RateLimiterBuilder([shadow, real])
    for _ in range(5):
        await send(builder)

    assert shadow.counts.allowed == 1
    assert shadow.counts.shadowed == 0


# ------------------------------------------------------------------------------------- failures


async def test_a_limiter_that_is_waited_for_decides() -> None:
    """As one that answers at once."""
    allowing = RateLimiterBuilder([RateLimitPolicy("a", Remote(), everyone)])
    refusing = RateLimiterBuilder([RateLimitPolicy("a", Remote(is_allowed=False), everyone)])

    assert (await send(allowing)).limit == '"a";r=3;t=1'
    refused = await send(refusing)
    assert refused.response.status == 429
    assert refused.response.get("retry-after") == "3"


@pytest.mark.parametrize("limiter", [Remote(error=OSError("gone")), Stalled()])
async def test_without_an_answer_requests_go_on_or_not_as_told(
    limiter: Remote, caplog: pytest.LogCaptureFixture
) -> None:
    """The wait is bounded, the failure counted and logged."""
    for fails_open in (True, False):
        policy = RateLimitPolicy("a", limiter, everyone, fails_open=fails_open, timeout=0.01)
        builder = RateLimiterBuilder([policy])

        outcome = await send(builder)

        assert outcome.is_refused != fails_open
        assert outcome.limit is None
        assert (policy.counts.failed, policy.counts.allowed, policy.counts.limited) == (1, 0, 0)
        assert "because its limiter failed" in caplog.text
        if outcome.answer is not None:
            assert outcome.answer.header.status == 503
            assert outcome.answer.body == b""
            assert "retry-after" not in outcome.answer.header


async def test_a_shadow_whose_limiter_fails_refuses_nobody() -> None:
    """Whatever it was told to do."""
    limiter = Remote(error=OSError("gone"))
    policy = RateLimitPolicy("a", limiter, everyone, shadow=True, fails_open=False)

    outcome = await send(RateLimiterBuilder([policy]))

    assert not outcome.is_refused
    assert (policy.counts.failed, policy.counts.shadowed) == (1, 0)


async def test_a_client_that_gives_up_is_no_failure() -> None:
    """The cancellation goes through, and counts for nothing."""
    policy = RateLimitPolicy("a", Stalled(), everyone, timeout=60)
    task = asyncio.create_task(send(RateLimiterBuilder([policy])))
    await asyncio.sleep(0)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert policy.counts.failed == 0


# ------------------------------------------------------------------------------------------ gRPC


@pytest.mark.parametrize(
    "media_type", ["application/grpc", "application/grpc+proto", "application/grpc-web-text"]
)
async def test_calls_are_refused_as_the_protocol_demands(media_type: str) -> None:
    """Status 200 and RESOURCE_EXHAUSTED, or UNAVAILABLE if nobody could be asked."""
    client = Client("::1", ("Content-Type", media_type))
    over = RateLimitPolicy("a", Remote(is_allowed=False), everyone)
    away = RateLimitPolicy("a", Remote(error=OSError()), everyone, fails_open=False)

    outcomes = [await send(RateLimiterBuilder([policy]), client) for policy in (over, away)]

    for outcome, status in zip(outcomes, ("8", "14"), strict=True):
        assert outcome.answer is not None
        assert outcome.answer.body == b""
        assert outcome.response.status == 200
        assert outcome.response.get("grpc-status") == status
        assert outcome.response.get("content-type") == media_type
    assert outcomes[0].response.get("retry-after") == "3"
    assert outcomes[0].response.get("grpc-message") == "too much for a"


# --------------------------------------------------------------------------------------- builders


async def test_without_policies_there_is_no_module() -> None:
    """So that it costs nothing."""
    modules = HttpModules()
    modules.add_module(RateLimiterBuilder([]))

    assert not modules.has_eager


async def test_requests_of_the_proxy_itself_are_not_limited() -> None:
    """They are made on behalf of a client that has paid already."""
    limiter = TokenBucket(1, 1, clock=FakeClock())
    builder = RateLimiterBuilder([RateLimitPolicy("a", limiter, everyone)])
    request = RequestHeader("GET", "/")

    for _ in range(3):
        module = builder.init_for(SubrequestSession(request))
        assert await module.request_header_filter(request) is None
    assert limiter.peek("everyone").remaining == 1


def test_mistakes_are_told_when_the_rules_are_made() -> None:
    """Not by the first request."""
    limiter = TokenBucket(1, 1)
    policy = RateLimitPolicy("a", limiter, everyone)
    for name in ("", "\n", "é", "x" * 65):
        with pytest.raises(ValueError, match="1 to 64 printable"):
            RateLimitPolicy(name, limiter, everyone)
    with pytest.raises(ValueError, match="1 to 64 printable"):
        RateLimitPolicy("a", limiter, everyone, unit="")
    with pytest.raises(ValueError, match="less than nothing"):
        RateLimitPolicy("a", limiter, everyone, cost=-1)
    with pytest.raises(ValueError, match="more than 0 seconds"):
        RateLimitPolicy("a", limiter, everyone, timeout=0)
    with pytest.raises(ValueError, match="names of their own"):
        RateLimiterBuilder([policy, RateLimitPolicy("a", limiter, everyone)])
    with pytest.raises(ValueError, match="400 to 599"):
        RateLimiterBuilder([policy], status=200)
    with pytest.raises(RuntimeError, match="whom it serves"):
        RateLimiterBuilder([policy]).init()
