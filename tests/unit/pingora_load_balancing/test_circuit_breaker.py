"""What exceeds a limit is refused at once; what was given leave is counted to its end."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_error import Error, HTTPStatus
from pingora_load_balancing import (
    CIRCUIT_OPEN,
    Backend,
    Backends,
    BreakerLimits,
    CircuitBreaker,
    LoadBalancer,
)

if TYPE_CHECKING:
    from pingora_load_balancing import Permit

_A, _B = Backend("10.0.0.1:80"), Backend("10.0.0.2:80")


def _breaker(limits: BreakerLimits) -> CircuitBreaker:
    return CircuitBreaker(Backends([_A, _B]), limits)


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (BreakerLimits(max_requests=2), "max_requests"),
        (BreakerLimits(max_pending=2), "max_pending"),
        (BreakerLimits(max_connections=2), "max_connections"),
        (BreakerLimits(max_connections=1, requests_per_connection=2), "max_connections"),
    ],
)
def test_what_exceeds_a_limit_is_refused(limits: BreakerLimits, name: str) -> None:
    """The error is a 503 that says which backend is at which limit; others are not concerned."""
    breaker = _breaker(limits)
    first, second = breaker.acquire(_A), breaker.acquire(_A)

    with pytest.raises(Error, match=f"10.0.0.1:80 is at its {name}: .* 2 requests") as refused:
        breaker.acquire(_A)

    assert refused.value.etype == HTTPStatus(503)
    assert refused.value.root_etype == CIRCUIT_OPEN
    assert not refused.value.should_retry
    assert breaker.try_acquire(_A) is None
    assert (breaker.refused, breaker.open) == (2, 1)
    breaker.acquire(_B).release()
    first.release()
    breaker.acquire(_A).release()
    second.release()
    assert breaker.account(_A.addr) is None
    assert breaker.open == 0


def test_a_backend_at_its_limit_is_passed_over() -> None:
    """Selections see that it is open, and that it is not any more."""
    breaker = _breaker(BreakerLimits(max_requests=1))
    balancer = LoadBalancer(pool=breaker.pool)

    with breaker.acquire(_A):
        assert repr(breaker.pool.states[_A.addr]) == "<BackendState 10.0.0.1:80 open, 0 in flight>"
        assert {balancer.select(b"", 8) for _ in range(4)} == {_B}
        assert repr(breaker) == "<CircuitBreaker 1 backends in use, 0 refused>"

    assert {balancer.select(b"", 8) for _ in range(4)} == {_A, _B}


def test_a_request_that_has_a_connection_is_not_pending() -> None:
    """It makes room for the next one to connect."""
    breaker = _breaker(BreakerLimits(max_pending=1))
    permit = breaker.acquire(_A)
    assert not breaker.pool.is_ready(_A.addr)

    permit.connected()
    permit.connected()

    assert breaker.pool.is_ready(_A.addr)
    with breaker.acquire(_A):
        account = breaker.account(_A.addr)
        assert account is not None
        assert (account.requests, account.pending) == (2, 1)


def test_retries_have_a_limit_of_their_own() -> None:
    """They are refused while first attempts are not, and the backend stays ready."""
    breaker = _breaker(BreakerLimits(max_retries=1))

    with breaker.acquire(_A, is_retry=True):
        with pytest.raises(Error, match=r"max_retries: .* 1 of them retries"):
            breaker.acquire(_A, is_retry=True)
        breaker.acquire(_A).release()
        assert breaker.pool.is_ready(_A.addr)

    breaker.acquire(_A, is_retry=True).release()


def test_no_retries_at_all() -> None:
    """A refusal without any requests leaves nothing behind."""
    breaker = _breaker(BreakerLimits(max_retries=0))

    with pytest.raises(Error, match="max_retries"):
        breaker.acquire(_A, is_retry=True)

    assert breaker.account(_A.addr) is None


def test_without_limits_nothing_is_refused() -> None:
    """None is no limit."""
    breaker = _breaker(
        BreakerLimits(max_connections=None, max_pending=None, max_requests=None, max_retries=None)
    )
    permits = [breaker.acquire(_A, is_retry=True) for _ in range(3000)]

    assert breaker.pool.is_ready(_A.addr)
    for permit in permits:
        permit.release()
        permit.release()
    assert breaker.account(_A.addr) is None


@pytest.mark.parametrize(
    "name",
    ["max_connections", "max_pending", "max_requests", "requests_per_connection"],
)
def test_limits_make_sense(name: str) -> None:
    """A backend that may have nothing should be disabled instead."""
    with pytest.raises(ValueError, match=f"{name} must be at least 1"):
        BreakerLimits(**{name: 0})


def test_a_backend_that_leaves_and_comes_back_keeps_its_account() -> None:
    """What is on its way there still counts; the pool hears of it where it can."""
    breaker = _breaker(BreakerLimits(max_requests=1))
    permit = breaker.acquire(_A)
    breaker.pool.replace([_B])
    breaker.pool.replace([_A, _B])

    assert breaker.try_acquire(_A) is None
    permit.release()
    breaker.acquire(_A).release()


@given(
    st.lists(
        st.tuples(st.sampled_from(["acquire", "retry", "connect", "release"]), st.integers(0, 30)),
        max_size=120,
    )
)
def test_the_accounts_are_right_whatever_happens(steps: list[tuple[str, int]]) -> None:
    """No limit is ever exceeded, nothing is refused below it, and nothing is left in the end."""
    breaker = _breaker(BreakerLimits(max_requests=4, max_pending=3, max_retries=2))
    held: list[tuple[Permit, bool]] = []
    pending: set[Permit] = set()
    for action, number in steps:
        backend = (_A, _B)[number % 2]
        mine = [pair for pair in held if pair[0].backend is backend]
        if action in {"acquire", "retry"}:
            is_retry = action == "retry"
            waiting = sum(permit in pending for permit, _ in mine)
            retries = sum(retry for _, retry in mine)
            has_room = len(mine) < 4 and waiting < 3 and not (is_retry and retries >= 2)
            permit = breaker.try_acquire(backend, is_retry=is_retry)
            assert (permit is not None) is has_room
            if permit is not None:
                held.append((permit, is_retry))
                pending.add(permit)
        elif mine:
            pair = mine[number % len(mine)]
            pending.discard(pair[0])
            if action == "connect":
                pair[0].connected()
            else:
                pair[0].release()
                held.remove(pair)
        counts = Counter(permit.backend for permit, _ in held)
        waits = Counter(permit.backend for permit in pending)
        for member in (_A, _B):
            is_open = counts[member] >= 4 or waits[member] >= 3
            assert breaker.pool.is_ready(member.addr) is not is_open
    for permit, _ in held:
        permit.release()
    assert all(breaker.account(backend.addr) is None for backend in (_A, _B))
    assert breaker.open == 0


def test_idle_backends_cost_nothing() -> None:
    """After a request to each of 100,000 backends the breaker is as small as before."""
    backends = [Backend(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}:80") for i in range(100_000)]
    breaker = CircuitBreaker(Backends(backends))
    tracemalloc.start()
    try:
        for backend in backends:
            breaker.acquire(backend).release()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept < 10_000
