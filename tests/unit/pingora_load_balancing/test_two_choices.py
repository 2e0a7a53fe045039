"""Of two backends drawn at random the better one is taken."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pingora_load_balancing import Backend, Backends, LeastLatency, LeastRequest, LoadBalancer
from pingora_load_balancing.selection.two_choices import alias_table
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from pingora_load_balancing import Lease

_A, _B = Backend("10.0.0.1:80"), Backend("10.0.0.2:80")


def _many(*weights: int) -> list[Backend]:
    return [Backend(f"10.0.{n >> 8}.{n & 255}:80", weight) for n, weight in enumerate(weights)]


def _fill(balancer: LoadBalancer, count: int) -> list[Lease]:
    """Send requests that do not end."""
    leases = []
    for _ in range(count):
        chosen = balancer.select(b"", 256)
        assert chosen is not None
        leases.append(balancer.lease(chosen))
    return leases


def test_less_loaded_one_is_taken() -> None:
    """With two backends the choice is certain."""
    balancer = LoadBalancer([_A, _B], selection=LeastRequest)

    with balancer.lease(_A):
        assert {balancer.select(b"", 256) for _ in range(20)} == {_B}
        with balancer.lease(_B), balancer.lease(_B):
            assert {balancer.select(b"", 256) for _ in range(20)} == {_A}


def test_load_is_far_more_even_than_by_chance() -> None:
    """The fullest of 100 is within a few of the average; by chance it would be tens above."""
    balancer = LoadBalancer(_many(*[1] * 100), selection=LeastRequest)

    _fill(balancer, 10_000)
    loads = [state.in_flight for state in balancer.pool.current.states]

    assert sum(loads) == 10_000
    assert max(loads) <= 110
    assert min(loads) >= 90


def test_load_follows_the_weights() -> None:
    """A backend of weight 4 has four times as much to do as one of weight 1."""
    balancer = LoadBalancer(_many(1, 4, 1, 4), selection=LeastRequest)

    _fill(balancer, 5_000)
    loads = [state.in_flight for state in balancer.pool.current.states]

    assert loads == [pytest.approx(due, rel=0.1) for due in (500, 2_000, 500, 2_000)]


def test_idle_backends_are_drawn_by_weight() -> None:
    """Without leases it is a draw."""
    balancer = LoadBalancer(_many(1, 9), selection=LeastRequest)

    drawn = Counter(balancer.select(b"", 256) for _ in range(5_000))

    assert 4_200 < drawn[balancer.backends[1]] < 4_800


def test_change_of_weight_keeps_the_counts() -> None:
    """What is on its way stays counted when the set is replaced."""
    balancer = LoadBalancer(pool=Backends([_A, _B]), selection=LeastRequest)
    lease = balancer.lease(_A)

    balancer.pool.replace([Backend(_A.addr, 5), Backend(_B.addr, 5)])

    assert balancer.select(b"", 256) == Backend(_B.addr, 5)
    lease.release()
    assert balancer.pool.totals.in_flight == 0


def test_the_only_ready_one_of_many_is_found() -> None:
    """Drawing in vain ends soon, and does not use up the candidates."""
    balancer = LoadBalancer(_many(*[1] * 1000), selection=LeastRequest)
    ready = balancer.backends[500]
    for backend in balancer.backends:
        balancer.set_enable(backend, backend is ready)

    assert [balancer.select(b"", 1) for _ in range(50)] == [ready] * 50

    balancer.set_enable(ready, False)
    balancer.set_enable(balancer.backends[7], True)
    assert balancer.select(b"", 1) is balancer.backends[7]


def test_readiness_decides_before_load() -> None:
    """An idle backend that is not ready is worth nothing."""
    balancer = LoadBalancer([_A, _B], selection=LeastRequest)
    balancer.set_enable(_B, False)

    with balancer.lease(_A):
        assert {balancer.select(b"", 1) for _ in range(20)} == {_A}


def test_unready_ones_are_offered_when_there_are_no_others() -> None:
    """The caller's own rule may take one."""
    balancer = LoadBalancer([_A, _B], selection=LeastRequest)
    balancer.set_enable(_A, False)
    balancer.set_enable(_B, False)

    assert balancer.select(b"", 256) is None
    assert balancer.select_with(b"", 256, lambda backend, _: backend == _B) == _B


def test_candidates_that_are_held_across_a_wait() -> None:
    """All become unready while somebody waits between two candidates: there is still an answer."""
    pool = Backends(_many(*[1] * 20))
    for backend in pool.current[:18]:
        pool.set_enabled(backend.addr, False)
    candidates = LeastRequest(pool.current).iter(b"")
    assert next(candidates) in pool.current[18:]

    for backend in pool.current[18:]:
        pool.set_enabled(backend.addr, False)

    assert next(candidates) in pool.current
    assert sum(1 for _, _ in zip(candidates, range(30), strict=False)) <= 30


def test_ready_list_that_turned_stale_still_ends() -> None:
    """The same while the listed ones are being drawn from."""
    pool = Backends(_many(*[1] * 500))
    last = pool.current[0]
    for backend in pool.current[1:]:
        pool.set_enabled(backend.addr, False)
    candidates = LeastRequest(pool.current).iter(b"")
    assert [next(candidates) for _ in range(20)] == [last] * 20

    pool.set_enabled(last.addr, False)

    assert [next(candidates) for _ in range(20)] == [last] * 20


def _latency_balancer(clock: FakeClock, *backends: Backend, decay: float = 10.0) -> LoadBalancer:
    return LoadBalancer(
        pool=Backends(backends, clock=clock), selection=partial(LeastLatency, decay=decay)
    )


def test_faster_one_is_taken() -> None:
    """Times that were reported decide."""
    balancer = _latency_balancer(FakeClock(), _A, _B)
    balancer.report(_A, latency=0.010)
    balancer.report(_B, latency=0.020)

    assert {balancer.select(b"", 256) for _ in range(20)} == {_A}


def test_requests_on_their_way_count() -> None:
    """The expected time is that of all who wait there already."""
    balancer = _latency_balancer(FakeClock(), _A, _B)
    balancer.report(_A, latency=0.010)
    balancer.report(_B, latency=0.025)

    with balancer.lease(_A), balancer.lease(_A):
        assert {balancer.select(b"", 256) for _ in range(20)} == {_B}


def test_one_slow_answer_is_enough() -> None:
    """A backend that becomes slow is avoided at once, and tried again when that is long ago."""
    clock = FakeClock()
    balancer = _latency_balancer(clock, _A, _B)
    for backend in (_A, _B):
        balancer.report(backend, latency=0.010)
    balancer.report(_A, latency=2.0)
    assert {balancer.select(b"", 256) for _ in range(20)} == {_B}

    for _ in range(60):
        clock.advance(1)
        balancer.report(_B, latency=0.010)

    assert {balancer.select(b"", 256) for _ in range(20)} == {_A}


def test_newcomer_gets_one_request_until_it_has_answered() -> None:
    """What is not known is tried, but not with everything."""
    balancer = _latency_balancer(FakeClock(), _A, _B)
    balancer.report(_A, latency=0.010)

    assert {balancer.select(b"", 256) for _ in range(20)} == {_B}
    with balancer.lease(_B):
        assert {balancer.select(b"", 256) for _ in range(20)} == {_A}


def test_failing_fast_is_no_merit() -> None:
    """A backend that refuses everything at once does not look fast."""
    balancer = _latency_balancer(FakeClock(), _A, _B)
    for backend in (_A, _B):
        balancer.report(backend, latency=0.010)
    for _ in range(50):
        balancer.report(_A, latency=0.0001, failed=True)

    state_a, state_b = balancer.pool.current.states
    assert state_a.latency == state_b.latency


@pytest.mark.parametrize("decay", [0, -1])
def test_decay_must_be_positive(decay: float) -> None:
    """An average over no time is none."""
    with pytest.raises(ValueError, match="decay must be more than 0 seconds"):
        _latency_balancer(FakeClock(), _A, decay=decay)


@pytest.mark.parametrize("weights", [(1, 1), (1, 2, 3), (5_000_000, 1, 1, 1), (7, 7, 1, 9, 30)])
def test_alias_table_is_exact(weights: tuple[int, ...]) -> None:
    """The parts of all compartments add up to the weights."""
    limits, aliases = alias_table(weights)
    shares = list(limits)
    for limit, owner in zip(limits, aliases, strict=True):
        shares[owner] += 1.0 - limit

    scale = len(weights) / sum(weights)
    assert shares == [pytest.approx(weight * scale, rel=1e-6) for weight in weights]
