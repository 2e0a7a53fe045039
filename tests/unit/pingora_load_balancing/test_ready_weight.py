"""Sums over the ready backends: right whatever changes, and never added up anew for one change."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

import pytest

from pingora_load_balancing import (
    Backend,
    Backends,
    BoundedLoad,
    MaglevHashing,
    PriorityGroups,
    Selector,
    SlowStart,
)
from pingora_load_balancing._ready_weight import ReadyWeight
from tests.support.calls import count_calls
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from pingora_load_balancing import (
        BackendSet,
        SelectionBuilder,
    )


def _many(count: int) -> list[Backend]:
    return [Backend(f"10.0.{n >> 8}.{n & 255}:80", 1 + n % 5) for n in range(count)]


def _added_up(backends: BackendSet) -> int:
    pairs = zip(backends.backends, backends.states, strict=True)
    return sum(backend.weight for backend, state in pairs if state.is_ready)


@pytest.mark.parametrize("most", [3, 5_000], ids=["few changes", "more than are remembered"])
def test_sum_is_that_of_the_ready_ones(most: int) -> None:
    """Whatever has changed since the last time, for the whole set and for a part of it."""
    chance = Random(7)
    pool = Backends(_many(200), panic_threshold=0.4)
    part = pool.current.subset(lambda backend: backend.weight > 3)
    sums = [(pool.current, ReadyWeight(pool.current)), (part, ReadyWeight(part))]

    for _ in range(40):
        for _ in range(chance.randrange(most)):
            addr = chance.choice(pool.current).addr
            change = chance.choice([pool.set_healthy, pool.set_ejected, pool.set_open])
            change(addr, chance.random() < 0.5)
        for backends, ready_weight in sums:
            assert ready_weight() == _added_up(backends)


def test_changes_while_it_is_prepared_are_not_lost() -> None:
    """A backend that falls ill between two steps is not counted, one that recovers is."""
    pool = Backends(_many(5_000))
    ready_weight = ReadyWeight(pool.current)
    steps = ready_weight.prepare()
    next(steps)
    pool.set_healthy(pool.current[0].addr, False)
    pool.set_healthy(pool.current[-1].addr, False)
    next(steps)
    pool.set_healthy(pool.current[-1].addr, True)
    for _ in steps:
        pass

    assert ready_weight() == _added_up(pool.current)


@pytest.mark.parametrize(
    "build",
    [
        partial(BoundedLoad, inner=MaglevHashing),
        partial(PriorityGroups, priority=lambda backend: backend.weight % 2),
        SlowStart,
    ],
    ids=["bounded load", "priority groups", "slow start"],
)
def test_flapping_backend_does_not_cost_each_request_a_look_at_all(build: SelectionBuilder) -> None:
    """With a breaker that opens and closes all the time, picks do what they always do."""
    pool = Backends(_many(2_000))
    selector = Selector(pool, build)
    flapping = pool.current[1_000].addr
    selector.select(b"key", 256)

    for is_open in (True, False, True):
        pool.set_open(flapping, is_open)
        assert count_calls(lambda: selector.select(b"key", 256)) < 200


def test_breaker_does_not_make_a_backend_cold() -> None:
    """One that has just had as much as it may have gets its whole share at once when it has room."""
    clock = FakeClock(100.0)
    pool = Backends(["10.0.0.1:80", "10.0.0.2:80"], clock=clock)
    selector = Selector(pool, partial(SlowStart, window=30.0, minimum=0.001))
    busy = pool.current[0]
    pool.set_open(busy.addr, True)
    clock.advance(1.0)
    pool.set_open(busy.addr, False)

    chosen = [selector.select(b"", 256) for _ in range(100)]

    assert chosen.count(busy) == 50
