"""The pool keeps what is known about a backend for as long as its address is in the set."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import pytest

from pingora_load_balancing import Backend, Backends, BackendSet
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_load_balancing import BackendState

_A, _B, _C = Backend("10.0.0.1:80"), Backend("10.0.0.2:80"), Backend("10.0.0.3:80")


def _ready(pool: Backends) -> list[Backend]:
    return [state.backend for state in pool.current.states if state.is_ready]


def test_backends_are_ready_from_the_start() -> None:
    """A pool that nobody checks can be used at once."""
    pool = Backends(["10.0.0.1:80", _B])

    assert list(pool.current) == [_A, _B]
    assert _ready(pool) == [_A, _B]
    assert pool.current.states[0].since == -math.inf


def test_backends_may_count_as_unhealthy_until_checked() -> None:
    """The first check makes them ready."""
    clock = FakeClock(7.0)
    pool = Backends([_A], initially_healthy=False, clock=clock)
    assert not pool.is_ready(_A.addr)

    pool.set_healthy(_A.addr, True)

    assert pool.is_ready(_A.addr)
    assert pool.states[_A.addr].since == 7.0


@pytest.mark.parametrize(
    "out_and_in",
    [
        (Backends.set_healthy, False, True),
        (Backends.set_enabled, False, True),
        (Backends.set_ejected, True, False),
        (Backends.set_open, True, False),
    ],
    ids=["health", "operator", "outlier", "breaker"],
)
def test_each_flag_takes_a_backend_out_and_back(
    out_and_in: tuple[Callable[[Backends, object, bool], bool], bool, bool],
) -> None:
    """Every change is seen by the version and by subscribers, a repeated one by nobody."""
    change, out, back = out_and_in
    clock = FakeClock(1.0)
    pool = Backends([_A, _B], clock=clock)
    versions: list[int] = []
    pool.subscribe(lambda changed: versions.append(changed.version))
    first = pool.version

    assert change(pool, _A.addr, out)
    assert change(pool, _A.addr, out)
    assert _ready(pool) == [_B]
    clock.advance(5)
    assert change(pool, _A.addr, back)

    assert _ready(pool) == [_A, _B]
    # One whose breaker was open had enough to do, and is as warm as before.
    assert pool.states[_A.addr].since == (-math.inf if change is Backends.set_open else 6.0)
    assert len(versions) == len({first, *versions}) - 1 == 2


def test_flags_do_not_undo_each_other() -> None:
    """A backend is ready only when nobody has anything against it."""
    pool = Backends([_A])
    pool.set_enabled(_A.addr, False)
    pool.set_healthy(_A.addr, False)

    pool.set_healthy(_A.addr, True)
    assert not pool.is_ready(_A.addr)
    pool.set_enabled(_A.addr, True)

    assert pool.is_ready(_A.addr)
    assert repr(pool.states[_A.addr]) == "<BackendState 10.0.0.1:80 ready, 0 in flight>"


def test_check_of_a_backend_that_has_left_is_ignored() -> None:
    """A health check that was on its way while its backend was removed leaves no trace."""
    pool = Backends([_A, _B])
    pool.replace([_B])
    version = pool.version

    assert not pool.set_healthy(_A.addr, False)
    assert not pool.set_enabled(_A.addr, False)
    assert not pool.set_ejected(_A.addr, True)
    assert not pool.set_open(_A.addr, True)

    assert pool.version == version
    pool.replace([_A, _B])
    assert pool.is_ready(_A.addr)


@pytest.mark.parametrize(
    "changed", [Backend("10.0.0.1:80", 2), Backend("10.0.0.1:80", metadata="x")], ids=repr
)
def test_change_of_weight_or_metadata_keeps_the_state(changed: Backend) -> None:
    """The same object goes on: bad health is not forgotten, leases go on counting."""
    pool = Backends([_A, _B])
    state = pool.states[_A.addr]
    pool.set_healthy(_A.addr, False)
    generation = pool.generation

    assert pool.replace([changed, _B])

    assert pool.states[_A.addr] is state
    assert state.backend is changed
    assert not state.is_ready
    assert pool.generation != generation


def test_order_alone_is_no_change() -> None:
    """Name servers turn their answers round with every question."""
    pool = Backends([_A, _B])
    current = pool.current

    assert not pool.replace([_B, _A, Backend("10.0.0.2:80")])

    assert pool.current is current


def test_replacement_enables_and_disables() -> None:
    """What the discovery knows is applied with the set, in one change."""
    pool = Backends([_A, _B])
    changes: list[int] = []
    pool.subscribe(lambda changed: changes.append(changed.version))

    pool.replace([_B, _C], {_A.addr: False, _B.addr: False})
    assert _ready(pool) == [_C]
    assert not pool.replace([_B, _C], {_B.addr: True})
    assert not pool.replace([_B, _C], {_B.addr: True})

    assert _ready(pool) == [_B, _C]
    assert len(changes) == 2


def test_contradicting_set_changes_nothing() -> None:
    """One address cannot be two backends."""
    pool = Backends([_A])

    with pytest.raises(ValueError, match=r"10\.0\.0\.2:80 is given twice"):
        pool.replace([_B, Backend("10.0.0.2:80", 5)])

    assert list(pool.current) == [_A]


def test_newcomers_are_known_as_such() -> None:
    """The first set is as warm as it gets; who joins later may be warmed up."""
    clock = FakeClock(3.0)
    pool = Backends(clock=clock)
    pool.replace([_A])
    clock.advance(1)
    pool.replace([_A, _B])

    assert [state.since for state in pool.current.states] == [-math.inf, 4.0]


def test_replacement_in_steps_is_one_change() -> None:
    """A large set is prepared piece by piece and swapped at once, whoever comes in between."""
    pool = Backends([_A])
    many = [Backend(f"10.1.{number >> 8}.{number & 255}:80") for number in range(2000)]
    steps = pool.replacing(many)
    next(steps)
    assert list(pool.current) == [_A]
    pool.replace([_B, many[0]])
    pool.set_healthy(many[0].addr, False)

    pauses = sum(1 for _ in steps)

    assert pauses >= 3
    assert list(pool.current) == many
    assert not pool.is_ready(many[0].addr)
    assert pool.is_ready(many[1].addr)


def test_two_replacements_at_a_time() -> None:
    """Both are complete in the end, the later one last; states are not lost in between."""
    pool = Backends([_A])
    many = [Backend(f"10.1.{number >> 8}.{number & 255}:80") for number in range(1500)]
    first, second = pool.replacing([*many, _A]), pool.replacing([*many, _B])
    state = pool.states[_A.addr]
    while next(first, pool) is not pool:
        next(second)
    assert len(pool.current) == 1501
    assert pool.states[_A.addr] is state
    kept = pool.states[many[0].addr]

    for _ in second:
        pass

    assert list(pool.current) == [*many, _B]
    assert pool.states[many[0].addr] is kept
    assert (pool.totals.active, pool.totals.sound) == (1501, 1501)


def test_sums_follow_every_change() -> None:
    """How many could be used and how many can is known without counting."""
    drained = Backend("10.0.0.9:80", 0)
    pool = Backends([_A, _B, drained])
    sums: list[tuple[int, int]] = []
    pool.subscribe(lambda changed: sums.append((changed.totals.active, changed.totals.sound)))

    pool.set_healthy(_A.addr, False)
    pool.set_ejected(_A.addr, True)
    pool.set_enabled(_A.addr, False)
    pool.set_open(_B.addr, True)
    pool.set_healthy(drained.addr, False)
    pool.replace([_A, _B, _C, Backend(drained.addr, 1)])
    pool.set_enabled(_A.addr, True)
    pool.replace([_C])
    pool.replace([])

    assert sums == [(2, 1), (2, 1), (1, 1), (1, 1), (1, 1), (3, 2), (4, 2), (1, 1), (0, 0)]


def test_subscriber_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """A bug in one of them is logged; a subscription ends once."""
    heard: list[Backends] = []

    def fail(_: Backends) -> None:
        raise ZeroDivisionError("a bug")

    pool = Backends([_A])
    unsubscribe = pool.subscribe(fail)
    pool.subscribe(heard.append)

    pool.set_healthy(_A.addr, False)
    unsubscribe()
    unsubscribe()
    pool.set_healthy(_A.addr, True)

    assert heard == [pool, pool]
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "a bug" in caplog.text


def test_latency_believes_peaks_at_once_and_recovers_slowly() -> None:
    """The average jumps up with one slow answer and comes down over the decay time."""
    state = Backends([_A]).current.states[0]

    state.observe_latency(0.010, 100.0)
    state.observe_latency(2.0, 101.0)
    peak = state.latency
    state.observe_latency(0.010, 111.0)

    assert peak == 2.0
    assert state.latency is not None
    assert math.isclose(state.latency, 2.0 / math.e + 0.010 * (1 - 1 / math.e))


def test_latency_survives_a_clock_that_goes_back() -> None:
    """Nothing is decayed by less than no time."""
    state = Backends([_A]).current.states[0]
    state.observe_latency(1.0, 100.0)

    state.observe_latency(0.5, 50.0)

    assert state.latency == 1.0


def test_leases_of_a_backend_that_left_burden_nobody() -> None:
    """The sum of the pool is over the backends that there are."""
    pool = Backends([_A, _B])
    for state in pool.current.states:
        state.in_flight += 3
        state.totals.in_flight += 3
    gone = pool.states[_A.addr]

    pool.replace([_B])

    assert pool.totals.in_flight == 3
    assert gone.totals.in_flight == gone.in_flight == 3


def test_set_is_a_sequence_of_backends() -> None:
    """A selection written for a list of backends can be built with it."""
    backends = BackendSet.of([_A, _B, "10.0.0.3:80"])

    assert len(backends) == 3
    assert backends[0] == _A
    assert backends[1:] == (_B, _C)
    assert _C in backends
    assert "of 3" in repr(backends)
    assert "3 of 3 ready" in repr(Backends(backends))


def test_subset_shares_the_states() -> None:
    """A part of the set sees what becomes of its backends."""
    pool = Backends([_A, _B, _C])

    part = pool.current.subset(lambda backend: backend != _B)
    pool.set_healthy(_C.addr, False)

    assert list(part) == [_A, _C]
    assert [state.is_ready for state in part.states] == [True, False]
    assert part.totals is pool.totals


def test_lease_counts_a_request_once() -> None:
    """Releasing twice is harmless; a failure releases too."""
    pool = Backends([_A, _B])
    state = pool.states[_A.addr]

    with pool.lease(_A) as lease:
        second = pool.lease(_A)
        assert (state.in_flight, pool.totals.in_flight) == (2, 2)
        with pytest.raises(ZeroDivisionError), second:
            raise ZeroDivisionError
        assert (state.in_flight, pool.totals.in_flight) == (1, 1)
    lease.release()

    assert (state.in_flight, pool.totals.in_flight) == (0, 0)
    assert lease.backend == _A


def test_lease_of_a_backend_that_left_and_came_back() -> None:
    """The one that came back starts at nothing, whatever is still on its way at the old one."""
    pool = Backends([_A])
    lease = pool.lease(_A)
    pool.replace([_B])
    late = pool.lease(_A)
    pool.replace([_A, _B])

    lease.release()
    late.release()

    assert (pool.states[_A.addr].in_flight, pool.totals.in_flight) == (0, 0)


def test_reports_reach_latency_and_observers(caplog: pytest.LogCaptureFixture) -> None:
    """One report feeds them all; failing fast does not make a backend look good."""
    heard: list[tuple[str, float | None, bool]] = []

    def fail(state: BackendState, latency: float | None, failed: bool) -> None:
        raise ZeroDivisionError("a bug")

    pool = Backends([_A])
    pool.observe(fail)
    forget = pool.observe(lambda state, *rest: heard.append((str(state.backend), *rest)))
    state = pool.states[_A.addr]

    pool.report(_A, latency=0.2)
    pool.report(_A, latency=0.001, failed=True)
    assert state.latency == 0.2
    pool.report(_A, latency=3.0, failed=True)
    assert state.latency == 3.0
    pool.report(_A, failed=True)
    pool.report(_B, latency=1.0)
    forget()
    pool.report(_A)

    assert heard == [
        ("10.0.0.1:80", 0.2, False),
        ("10.0.0.1:80", 0.001, True),
        ("10.0.0.1:80", 3.0, True),
        ("10.0.0.1:80", None, True),
    ]
    assert "a bug" in caplog.text


def test_panic_makes_all_ready_but_what_was_taken_out(caplog: pytest.LogCaptureFixture) -> None:
    """Below the threshold health and ejection are disregarded, operators and breakers are not."""
    drained = Backend("10.0.0.9:80", 0)
    pool = Backends([_A, _B, _C, Backend("10.0.0.4:80"), drained], panic_threshold=0.5)
    d = pool.current[3]
    pool.set_healthy(drained.addr, False)
    pool.set_healthy(_A.addr, False)
    pool.set_ejected(_B.addr, True)
    assert _ready(pool) == [_C, d]
    assert not pool.is_in_panic

    pool.set_healthy(_C.addr, False)
    assert _ready(pool) == [_A, _B, _C, d, drained]
    assert pool.states[_A.addr].since == -math.inf
    pool.set_open(_B.addr, True)
    pool.set_enabled(d.addr, False)
    assert _ready(pool) == [_A, _C, drained]
    pool.replace([_A, _B, _C, d, Backend("10.0.0.5:80")])
    assert str(pool.current[4]) in [str(backend) for backend in _ready(pool)]

    pool.set_healthy(_C.addr, True)

    assert [str(backend) for backend in _ready(pool)] == ["10.0.0.3:80", "10.0.0.5:80"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "1 of 4 backends are fit for use: requests go to all of them" in caplog.text


def test_empty_pool_is_not_in_panic() -> None:
    """Where nothing could be used, there is nothing to spread."""
    pool = Backends(panic_threshold=1.0)
    pool.replace([Backend("10.0.0.9:80", 0)])

    assert not pool.is_in_panic


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_panic_threshold_is_a_share(share: float) -> None:
    """50 instead of 0.5 is told as such."""
    with pytest.raises(ValueError, match="panic_threshold must be a share from 0 to 1"):
        Backends(panic_threshold=share)


def test_contradicting_list_is_refused_by_a_set() -> None:
    """A set of its own checks as a pool does."""
    with pytest.raises(ValueError, match="given twice"):
        BackendSet.of([_A, Backend(_A.addr, 2)])
