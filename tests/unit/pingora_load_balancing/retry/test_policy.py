"""What is worth another attempt, and when it begins."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_error import Error, ErrorType
from pingora_load_balancing import IDEMPOTENT_METHODS, RetryOn, RetryPolicy
from pingora_load_balancing.retry.policy import failure_of

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("failure", [RetryOn.RESET, RetryOn.TIMEOUT, RetryOn.STATUS])
def test_only_what_may_be_executed_twice_is_sent_again(failure: RetryOn) -> None:
    """Unless the first attempt had no connection, a POST may have had its effect already."""
    policy = RetryPolicy()

    assert all(policy.allows(failure, method) for method in IDEMPOTENT_METHODS)
    assert not policy.allows(failure, "POST")
    assert policy.allows(RetryOn.CONNECT_FAILURE, "POST")


def test_methods_are_a_choice() -> None:
    """Whoever knows that a POST does no harm may say so."""
    policy = RetryPolicy(methods=frozenset({"POST"}))

    assert policy.allows(RetryOn.RESET, "POST")
    assert not policy.allows(RetryOn.RESET, "GET")


def test_conditions_are_a_choice() -> None:
    """What is not named is not retried."""
    policy = RetryPolicy(retry_on=RetryOn.CONNECT_FAILURE | RetryOn.STATUS)

    assert [failure for failure in RetryOn if policy.allows(failure, "GET")] == [
        RetryOn.CONNECT_FAILURE,
        RetryOn.STATUS,
    ]


def test_the_backoff_doubles_up_to_its_limit() -> None:
    """The longest wait before each retry."""
    policy = RetryPolicy(backoff=0.025, max_backoff=0.15, uniform=lambda: 1.0)

    waits = [policy.wait_before(retry) for retry in (1, 2, 3, 4, 9, 10_000)]

    assert waits == pytest.approx([0.025, 0.05, 0.1, 0.15, 0.15, 0.15])


@given(retry=st.integers(1, 5000), chance=st.floats(0, 1))
def test_the_backoff_is_random_all_the_way_down(retry: int, chance: float) -> None:
    """Any wait from none to the longest is possible."""
    policy = RetryPolicy(uniform=lambda: chance)

    assert 0.0 <= policy.wait_before(retry) <= policy.max_backoff
    assert RetryPolicy(backoff=0.0).wait_before(retry) == 0.0


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: RetryPolicy(max_attempts=0), "max_attempts"),
        (lambda: RetryPolicy(per_try_timeout=0.0), "per_try_timeout"),
        (lambda: RetryPolicy(per_try_timeout=math.inf), "per_try_timeout"),
        (lambda: RetryPolicy(backoff=1.0), "max_backoff"),
        (lambda: RetryPolicy(backoff=-1.0), "backoff"),
        (lambda: RetryPolicy(statuses=frozenset({100})), "statuses"),
    ],
)
def test_settings_make_sense(make: Callable[[], RetryPolicy], wanted: str) -> None:
    """What does not is refused, and named."""
    with pytest.raises(ValueError, match=wanted):
        make()


@pytest.mark.parametrize(
    ("etype", "failure"),
    [
        (ErrorType.READ_TIMEDOUT, RetryOn.TIMEOUT),
        (ErrorType.WRITE_TIMEDOUT, RetryOn.TIMEOUT),
        (ErrorType.CONNECTION_CLOSED, RetryOn.RESET),
        (ErrorType.READ_ERROR, RetryOn.RESET),
        (ErrorType.INVALID_HTTP_HEADER, RetryOn.RESET),
    ],
)
def test_errors_are_timeouts_or_resets(etype: ErrorType, failure: RetryOn) -> None:
    """A response that makes no sense is as good as none."""
    assert failure_of(Error.up(etype)) is failure
