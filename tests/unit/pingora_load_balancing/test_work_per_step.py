"""However many backends there are, no step and no request does the work for all of them."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise
from random import Random
from typing import TYPE_CHECKING

import pytest

from pingora_load_balancing import (
    Backend,
    Backends,
    BackendSet,
    LeastRequest,
    MaglevHashing,
    PriorityGroups,
)
from pingora_load_balancing.selection._ready_draws import ReadyDraws
from tests.support.calls import count_calls

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator


def _many(count: int, weight: Callable[[int], int] = lambda _: 1) -> list[Backend]:
    return [Backend(f"10.0.{n >> 8}.{n & 255}:80", weight(n)) for n in range(count)]


def _calls_per_step(steps: Iterator[None] | Generator[None, None, object]) -> list[int]:
    counts: list[int] = []
    is_at_end = False

    def step() -> None:
        nonlocal is_at_end
        is_at_end = next(steps, counts) is counts

    while not is_at_end:
        counts.append(count_calls(step))
    return counts


# ---------------------------------------------------------------------- the pool


def _assert_consistent(pool: Backends) -> None:
    states = pool.current.states
    active = [state for state in states if state.is_enabled and state.backend.weight]
    sound = [state for state in active if state.is_healthy and not state.is_ejected]
    assert (pool.totals.active, pool.totals.sound) == (len(active), len(sound))
    assert pool.totals.in_flight == sum(state.in_flight for state in states)
    for state in states:
        fit = pool.is_in_panic or (state.is_healthy and not state.is_ejected)
        assert state.is_ready is (state.is_enabled and not state.is_open and fit)


def test_sums_and_readiness_are_right_whatever_changes() -> None:
    """Flags, leases, weights, newcomers, leavers, panic: as if all were looked at each time."""
    chance = Random(3)
    pool = Backends(_many(30), panic_threshold=0.6, initially_healthy=False)
    panics = set()

    for _ in range(400):
        backend = Backend(f"10.0.0.{chance.randrange(40)}:80", chance.randrange(3))
        for change in (pool.set_healthy, pool.set_ejected, pool.set_open, pool.set_enabled):
            if chance.random() < 0.5:
                change(backend.addr, chance.random() < 0.5)
        pool.lease(backend)
        if chance.random() < 0.3:
            pool.initially_healthy = chance.random() < 0.5
            rest = [b for b in pool.current if b.addr != backend.addr and chance.random() < 0.9]
            pool.replace([*rest, backend], {backend.addr: chance.random() < 0.5})
        panics.add(pool.is_in_panic)
        _assert_consistent(pool)

    assert panics == {True, False}


@pytest.mark.parametrize("change", ["all join", "all change", "all leave"])
def test_change_of_the_set_is_prepared(change: str) -> None:
    """The last step, which makes it, calls nothing once per backend; no other does it for all."""
    many = _many(4_000)
    pool = Backends([] if change == "all join" else many)
    after = {
        "all join": many,
        "all change": _many(4_000, lambda _: 2),
        "all leave": [Backend("10.9.9.9:80")],
    }

    counts = _calls_per_step(pool.replacing(after[change]))

    assert list(pool.current) == after[change]
    assert counts[-1] < 100
    # Making a state, hashing and comparing an address: some calls for each of 512 backends.
    assert max(counts) < 512 * 10
    _assert_consistent(pool)


def test_wishes_of_the_discovery_are_prepared() -> None:
    """Those that change nothing cost nothing in the step that makes the change."""
    many = _many(4_000)
    pool = Backends(many)
    wishes = dict.fromkeys((backend.addr for backend in many), True)
    wishes[many[7].addr] = False

    counts = _calls_per_step(pool.replacing(many, wishes))

    assert counts[-1] < 100
    assert not pool.is_ready(many[7].addr)
    _assert_consistent(pool)


def test_panic_between_preparation_and_change() -> None:
    """Newcomers are ready by what holds when they join, not by what held when they were prepared."""
    many = _many(1_200)
    pool = Backends(many[:4], panic_threshold=0.5, initially_healthy=False)
    assert pool.current.states[0].is_ready is False or pool.is_in_panic
    for backend in many[:4]:
        pool.set_healthy(backend.addr, True)
    steps = pool.replacing(many)
    next(steps)
    for backend in many[:3]:
        pool.set_healthy(backend.addr, False)
    assert pool.is_in_panic

    for _ in steps:
        pass

    assert pool.is_in_panic
    _assert_consistent(pool)


def test_panic_settles_all_without_a_call_for_each() -> None:
    """One flag of one backend makes half of them ready, and again not."""
    many = _many(3_000)
    pool = Backends(many, panic_threshold=0.5)
    for backend in many[:1_500]:
        pool.set_healthy(backend.addr, False)

    for healthy in (False, True):
        assert count_calls(lambda: pool.set_healthy(many[2_000].addr, healthy)) < 100  # noqa: B023
        assert pool.is_in_panic is not healthy
        _assert_consistent(pool)


# ---------------------------------------------------------------------- selections


@pytest.mark.parametrize("weight", [lambda _: 1, lambda n: 1 + n % 5], ids=["equal", "weights"])
def test_table_is_filled_in_steps(weight: Callable[[int], int]) -> None:
    """Turns that meet a free place at once are counted like those that search for one."""
    backends = _many(1_500, weight)
    selection = MaglevHashing(backends, table_size=65_537)

    counts = _calls_per_step(selection.prepare())

    # A turn is one call of the generator that tells whose it is.
    assert sum(counts) > 65_537
    assert max(counts) < 3_000


def test_groups_are_split_in_steps() -> None:
    """The function that tells the group is asked a few hundred times a step, once for each."""
    asked = 0

    def priority(backend: Backend) -> int:
        nonlocal asked
        asked += 1
        return backend.weight % 3

    backends = BackendSet.of(_many(3_000, lambda n: n % 7))
    groups = PriorityGroups(backends, priority=priority)
    assert asked == 0
    seen = [0]
    seen.extend(asked for _ in groups.prepare())

    assert max(after - before for before, after in pairwise(seen)) <= 512
    assert asked == sum(backend.weight > 0 for backend in backends)
    assert not list(groups.prepare())
    assert groups.shares == (1.0, 0.0, 0.0)
    assert all(backend.weight % 3 == 0 for backend in islice(groups.iter(b""), 50))
    assert asked == sum(backend.weight > 0 for backend in backends)


def test_flapping_among_few_ready_ones_costs_no_look_at_all() -> None:
    """Nine of ten are out, and one of the rest comes and goes: a pick looks at that one."""
    many = _many(2_000, lambda n: 1 + n % 5)
    pool = Backends(many)
    for backend in many[20:]:
        pool.set_healthy(backend.addr, False)
    selection = LeastRequest(pool.current)
    for _ in range(50):
        next(selection.iter(b""))

    for number in range(60):
        pool.set_open(many[3].addr, number % 2 == 0)
        picks: list[Backend] = []
        assert count_calls(lambda: picks.append(next(selection.iter(b"")))) < 100  # noqa: B023
        assert pool.is_ready(picks[0].addr)


@pytest.mark.parametrize("most", [5, 3_000], ids=["few changes", "more than are remembered"])
def test_ready_ones_are_drawn_by_weight(most: int) -> None:
    """After any changes exactly those are drawn that are ready, as often as their weights say."""
    chance = Random(11)
    pool = Backends(_many(12, lambda n: (1, 2, 3, 9)[n % 4]))
    draws = ReadyDraws(pool.current.backends, pool.current.states, pool.totals)
    for _ in range(60):
        for _ in range(chance.randrange(most)):
            pool.set_open(chance.choice(pool.current).addr, chance.random() < 0.5)
        draws.follow()
        ready = {n for n, state in enumerate(pool.current.states) if state.is_ready}
        assert len(draws) == len(ready)
        if ready:
            assert {n for _ in range(20) for n in draws.draw()} <= ready
    for backend in pool.current:
        pool.set_open(backend.addr, False)
    draws.follow()

    drawn = Counter(n for _ in range(10_000) for n in draws.draw())

    for number, backend in enumerate(pool.current):
        assert drawn[number] / 20_000 == pytest.approx(backend.weight / 45, abs=0.015)


def test_two_of_equal_weight_are_different() -> None:
    """As with all of them: else there is nothing to choose between."""
    pool = Backends(_many(50))
    for backend in pool.current[2:]:
        pool.set_open(backend.addr, True)
    draws = ReadyDraws(pool.current.backends, pool.current.states, pool.totals)
    draws.follow()

    assert {draws.draw() for _ in range(100)} == {(0, 1), (1, 0)}


def test_list_that_has_become_empty_still_gives_an_answer() -> None:
    """A request that waits between two candidates goes on though others saw the last one leave."""
    pool = Backends(_many(300))
    last = pool.current[0]
    for backend in pool.current[1:]:
        pool.set_enabled(backend.addr, False)
    selection = LeastRequest(pool.current)
    candidates = selection.iter(b"")
    assert [next(candidates) for _ in range(20)] == [last] * 20
    pool.set_enabled(last.addr, False)
    assert len(list(selection.iter(b""))) == 300

    assert all(backend in pool.current for backend in islice(candidates, 20))
