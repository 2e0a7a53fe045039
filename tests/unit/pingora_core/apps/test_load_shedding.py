"""Permits for requests: who gets one, what is learnt at their end, what the others are told."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_core.apps.load_shedding import LoadShedder, Priority
from pingora_http import RequestHeader, ResponseHeader
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from pingora_core.apps.load_shedding import RequestPermit

GET = RequestHeader("GET", "/")
OK = ResponseHeader(200)


class Recording:
    """A limit that notes what it is told."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.seen: list[tuple[float, int, bool]] = []

    def observe(self, latency: float, in_flight: int, now: float, *, is_failure: bool) -> None:
        self.seen.append((latency, in_flight, is_failure))


def by_path(request: RequestHeader) -> Priority:
    """Read the priority off the path."""
    return Priority[request.path.removeprefix("/").upper()]


def head(path: str) -> RequestHeader:
    return RequestHeader("GET", path)


def test_as_many_as_the_limit() -> None:
    """The next one gets a permit when one was given back, once."""
    shedder = LoadShedder(2)
    first, second = shedder.admit(GET), shedder.admit(GET)
    assert first is not None
    assert second is not None
    assert shedder.admit(GET) is None
    first.release()
    first.release()
    assert shedder.in_flight == 1
    assert shedder.admit(GET) is not None
    assert (shedder.limit, shedder.in_flight, shedder.admitted, shedder.shed) == (2, 2, 3, 1)


def test_priorities_have_shares() -> None:
    """What can wait is refused first, the important last, and what is exempt never."""
    shedder = LoadShedder(10, classify=by_path)
    admitted = [shedder.admit(head("/low")) for _ in range(10)]
    assert sum(permit is not None for permit in admitted) == 6
    assert [shedder.admit(head("/normal")) is not None for _ in range(4)] == [True] * 3 + [False]
    assert [shedder.admit(head("/high")) is not None for _ in range(2)] == [True, False]
    exempt = [shedder.admit(head("/exempt")) for _ in range(5)]
    assert None not in exempt
    assert (shedder.in_flight, shedder.exempt) == (10, 5)
    for permit in exempt:
        assert permit is not None
        permit.release(OK)
    assert shedder.in_flight == 10


def test_a_limit_of_one_lets_every_priority_in() -> None:
    """Shares are rounded up: nobody is shut out of an idle service."""
    for path in ("/low", "/normal", "/high"):
        assert LoadShedder(1, classify=by_path).admit(head(path)) is not None


def test_a_classifier_that_fails_makes_it_normal(caplog: pytest.LogCaptureFixture) -> None:
    """A fault of the program is logged, not more than once in a while, and ends no service."""
    shedder = LoadShedder(10, classify=by_path)
    permits = [shedder.admit(head("/unknown")) for _ in range(10)]

    assert sum(permit is not None for permit in permits) == 9
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is not None


def test_what_is_learnt() -> None:
    """How long an answer took, with how many beside it; not of what got no answer or never ends."""
    clock = FakeClock()
    limit = Recording(10)
    shedder = LoadShedder(limit, clock=clock)

    def serve(response: ResponseHeader | None, seconds: float) -> None:
        permit = shedder.admit(GET)
        assert permit is not None
        clock.advance(seconds)
        permit.release(response)

    other = shedder.admit(GET)
    serve(OK, 0.5)
    serve(ResponseHeader(504), 2.0)
    serve(ResponseHeader(101), 0.5)
    serve(None, 0.5)
    stream = ResponseHeader(200, headers=[("Content-Type", "text/event-stream; charset=utf-8")])
    serve(stream, 60.0)
    serve(stream, 0.25)
    assert other is not None
    other.release()

    assert limit.seen == [(0.5, 2, False), (2.0, 2, True), (0.25, 2, False)]
    assert shedder.in_flight == 0


def test_the_refusal_says_when_to_come_back() -> None:
    """Not to all clients the same, or they would come back together."""
    shedder = LoadShedder(1, retry_after=(2, 4), rng=random.Random(1))
    answers = [shedder.refusal(GET) for _ in range(50)]

    assert {answer.status for answer in answers} == {503}
    assert {answer.get("retry-after") for answer in answers} == {"2", "3", "4"}
    assert answers[0].get("content-length") == "0"
    assert answers[0].get("cache-control") == "private, no-store"


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc-web+proto"])
def test_the_refusal_of_grpc(content_type: str) -> None:
    """UNAVAILABLE, in a response that is nothing but trailers, with the server's pushback."""
    request = RequestHeader("POST", "/shop.Cart/Add")
    request.insert_header("content-type", content_type)
    answer = LoadShedder(1, retry_after=(3, 3)).refusal(request)

    assert answer.status == 200
    assert answer.get("grpc-status") == "14"
    assert answer.get("grpc-retry-pushback-ms") == "3000"
    assert answer.get("content-type") == content_type


@given(
    st.integers(1, 8),
    st.booleans(),
    st.lists(
        st.tuples(
            st.sampled_from(["low", "normal", "high", "exempt", "end", "abort"]),
            st.integers(0, 20),
        ),
        max_size=80,
    ),
)
def test_the_count_is_that_of_the_permits(
    limit: int, is_classified: bool, actions: list[tuple[str, int]]
) -> None:
    """Never negative, never above the limit, and nothing once all have ended."""
    shedder = LoadShedder(limit, classify=by_path if is_classified else None)
    counted: list[RequestPermit] = []
    exempt: list[RequestPermit] = []
    for action, number in actions:
        if action in {"end", "abort"}:
            if counted:
                permit = counted.pop(number % len(counted))
                permit.release(OK if action == "end" else None)
                permit.release(OK)
        else:
            admitted = shedder.admit(head(f"/{action}"))
            assert admitted is not None or shedder.in_flight > 0
            if admitted is not None:
                is_exempt = is_classified and action == "exempt"
                (exempt if is_exempt else counted).append(admitted)
        assert shedder.in_flight == len(counted) <= limit
    for permit in [*counted, *exempt]:
        permit.release()
    assert shedder.in_flight == 0


@pytest.mark.parametrize("retry_after", [(0, 5), (3, 2)])
def test_what_makes_no_sense_is_refused(retry_after: tuple[int, int]) -> None:
    """Numbers that cannot be meant are told where they are written."""
    with pytest.raises(ValueError, match="retry_after"):
        LoadShedder(1, retry_after=retry_after)
    with pytest.raises(ValueError, match="at least 1"):
        LoadShedder(0)


def test_refusals_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """One line in a while, which says how many there were."""
    caplog.set_level(logging.WARNING)
    clock = FakeClock()
    shedder = LoadShedder(1, clock=clock)
    for _ in range(100):
        shedder.tell()
    clock.advance(10)
    shedder.tell()

    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "overloaded: 1 requests refused",
        "overloaded: 100 requests refused",
    ]
