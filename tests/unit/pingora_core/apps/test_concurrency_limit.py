"""The limit that follows the latency: what it does to a service that is asked for too much."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_core.apps.concurrency_limit import FixedLimit, GradientLimit
from tests.support.clock import FakeClock
from tests.support.queueing import Simulation

if TYPE_CHECKING:
    from collections.abc import Callable

SERVERS = 20
MEAN = 0.05
CAPACITY = SERVERS / MEAN


def exponential(source: random.Random, _now: float) -> float:
    return source.expovariate(1 / MEAN)


def simulation(
    load: Callable[[float], float],
    *,
    limit: GradientLimit | int | None = None,
    service: Callable[[random.Random, float], float] = exponential,
    servers: int = SERVERS,
    capacity: float = CAPACITY,
    seed: int = 1,
) -> Simulation:
    return Simulation(
        GradientLimit(rng=random.Random(seed)) if limit is None else limit,
        FakeClock(),
        servers=servers,
        service=service,
        rate=lambda now: load(now) * capacity,
        seed=seed,
    )


# ------------------------------------------------------------------------------------- overload


def test_without_a_limit_an_overload_ends_all_service() -> None:
    """What the others prevent: soon no request is answered before its client gives up."""
    outcome = simulation(lambda _: 3, limit=1_000_000).run(20)

    assert outcome.rate(10, 20) == 0


@pytest.mark.parametrize(("load", "seed"), [(3, 1), (3, 2), (10, 1)])
def test_goodput_stays_near_capacity_under_overload(load: float, seed: int) -> None:
    """Nearly as much is served as can be, no slower than with a short queue, for minutes on end."""
    running = simulation(lambda _: load, seed=seed)
    outcome = running.run(120)

    for begin in (5, 35, 65, 95):
        assert outcome.rate(begin, begin + 25) > 0.95 * CAPACITY
        # Alone, a request takes 35 ms in the median, 230 ms in one of a hundred.
        assert outcome.latency(begin, begin + 25, 0.5) < 0.1
        assert outcome.latency(begin, begin + 25, 0.99) < 0.4
    assert running.shedder.in_flight <= running.shedder.limit * 3


@pytest.mark.parametrize(
    ("servers", "mean", "service"),
    [
        (1, 0.01, lambda _source, _now: 0.01),
        (20, 0.05, lambda source, _now: source.lognormvariate(math.log(0.05) - 0.5, 1.0)),
        (50, 0.0408, lambda source, _now: 0.001 if source.random() < 0.8 else 0.2),
    ],
    ids=["one server, always equal", "long tail", "quick and slow ones mixed"],
)
def test_it_does_not_depend_on_one_kind_of_service(
    servers: int, mean: float, service: Callable[[random.Random, float], float]
) -> None:
    """Also where the latency is always the same, and where it is all but that."""
    capacity = servers / mean
    outcome = simulation(lambda _: 3, servers=servers, service=service, capacity=capacity).run(60)

    assert outcome.rate(10, 60, patience=2.0) > 0.85 * capacity
    assert outcome.latency(10, 60, 0.99) < 0.5


def test_hardly_anybody_is_refused_while_there_is_room() -> None:
    """At half of the capacity the limit gets out of the way within the first second."""
    running = simulation(lambda _: 0.5)
    outcome = running.run(60)

    assert outcome.rate(1, 60) == pytest.approx(CAPACITY / 2, rel=0.03)
    assert running.shedder.shed < 0.02 * outcome.offered


def test_it_follows_a_service_that_becomes_slower_and_recovers() -> None:
    """Three times as slow for a minute: what is left of the capacity is used, and all of it later."""

    def service(source: random.Random, now: float) -> float:
        return exponential(source, now) * (3 if 30 <= now < 90 else 1)

    outcome = simulation(lambda _: 3, service=service).run(150)

    assert outcome.rate(5, 30) > 0.95 * CAPACITY
    assert outcome.rate(40, 90) > 0.85 * CAPACITY / 3
    assert outcome.rate(100, 150) > 0.9 * CAPACITY
    assert outcome.latency(40, 90, 0.5) < 0.35
    assert outcome.latency(120, 150, 0.5) < 0.12


def test_the_same_happens_every_time() -> None:
    """A simulation is a test only if it is."""
    first = simulation(lambda _: 3).run(10)
    second = simulation(lambda _: 3).run(10)

    assert (first.served, first.limits) == (second.served, second.limits)


# ----------------------------------------------------------------------------------- one by one


def feed(
    limit: GradientLimit, clock: FakeClock, latency: float, in_flight: int, count: int
) -> None:
    """Let requests end, a hundred a second."""
    for _ in range(count):
        clock.advance(0.01)
        limit.observe(latency, in_flight, clock(), is_failure=False)


def test_little_use_makes_no_growth_and_needs_no_probe() -> None:
    """Who never needs the limit is never lowered for a probe: each window shows the floor anew."""
    clock = FakeClock()
    limit = GradientLimit(initial_limit=100, min_latency_window=5.0)
    feed(limit, clock, 0.05, 10, 2000)

    assert (limit.limit, limit.probes) == (100, 0)
    assert limit.floor == pytest.approx(0.05)
    feed(limit, clock, 0.06, 10, 2000)
    assert limit.floor == pytest.approx(0.06)


def test_a_probe_lowers_the_limit_for_a_moment() -> None:
    """To a third, while the limit is in use, once in a window; then it is what it was."""
    clock = FakeClock()
    limit = GradientLimit(initial_limit=30, max_limit=30, min_latency_window=5.0)
    seen = set()
    for _ in range(3000):
        feed(limit, clock, 0.05, limit.limit, 1)
        seen.add(limit.limit)

    assert min(seen) == 10
    assert 3 <= limit.probes <= 8
    assert limit.limit == 30


def test_a_probe_that_finds_too_few_requests_gives_up() -> None:
    """A load that ends while the limit is lowered does not leave it there."""
    clock = FakeClock()
    limit = GradientLimit(initial_limit=30, max_limit=30, min_latency_window=1.0)
    while limit.probes < 2:
        feed(limit, clock, 0.05, limit.limit, 1)
    assert limit.limit == 10
    clock.advance(60)
    for _ in range(5):
        limit.observe(0.05, 1, clock(), is_failure=False)
        clock.advance(1)
    assert limit.limit == 30


def test_quick_failures_teach_nothing() -> None:
    """An upstream that refuses at once is no proof of capacity; one that times out is a sign."""
    clock = FakeClock()
    limit = GradientLimit(initial_limit=50)
    feed(limit, clock, 0.05, 50, 400)
    before = limit.limit, limit.floor
    for _ in range(1000):
        clock.advance(0.01)
        limit.observe(0.0001, limit.limit, clock(), is_failure=True)
    assert (limit.limit, limit.floor) == before
    for _ in range(150):
        clock.advance(0.01)
        limit.observe(5.0, limit.limit, clock(), is_failure=True)
    assert limit.limit < before[0]


def test_a_clock_that_stands_still_is_no_division_by_zero() -> None:
    """A latency of nothing is taken for nearly nothing."""
    clock = FakeClock()
    limit = GradientLimit()
    feed(limit, clock, 0.0, 20, 500)

    assert 4 <= limit.limit <= 1000


def test_windows_are_not_the_same_for_all() -> None:
    """The jitter keeps processes from looking for their floors together."""

    def first_probe(seed: int) -> float:
        clock = FakeClock(0.0)
        limit = GradientLimit(initial_limit=4, max_limit=4, jitter=0.5, rng=random.Random(seed))
        while not limit.probes:
            feed(limit, clock, 0.05, 4, 1)
        return clock.now

    times = [first_probe(seed) for seed in range(8)]
    assert len(set(times)) > 4
    assert 30 < min(times) <= max(times) < 50


@given(
    st.lists(
        st.tuples(
            st.floats(0, 100),
            st.integers(1, 2000),
            st.floats(0, 20),
            st.booleans(),
            st.integers(1, 120),
        ),
        max_size=60,
    ),
    st.integers(1, 50),
    st.integers(0, 100),
    st.integers(0, 500),
)
def test_the_limit_stays_within_its_bounds(
    samples: list[tuple[float, int, float, bool, int]], least: int, more: int, most: int
) -> None:
    """Whatever the requests are like, it is never below the one bound or above the other."""
    initial = least + more
    limit = GradientLimit(
        min_limit=least,
        initial_limit=initial,
        max_limit=initial + most,
        min_latency_window=1.0,
        rng=random.Random(1),
    )
    now = 0.0
    for latency, in_flight, pause, is_failure, count in samples:
        for _ in range(count):
            now += pause / count
            limit.observe(latency, in_flight, now, is_failure=is_failure)
            assert least <= limit.limit <= initial + most
            assert limit.floor >= 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"min_limit": 0},
        {"min_limit": 30},
        {"max_limit": 10},
        {"tolerance": 0.9},
        {"interval": 0.0},
        {"min_latency_window": 0.01},
        {"jitter": -0.1},
        {"tolerance": math.nan},
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, float]) -> None:
    """Numbers that cannot be meant are told where they are written."""
    with pytest.raises(ValueError, match=next(iter(arguments))):
        GradientLimit(**arguments)  # type: ignore[arg-type]


def test_a_fixed_limit_is_a_number() -> None:
    """It learns nothing; less than one is no limit."""
    limit = FixedLimit(7)
    limit.observe(100.0, 7, 0.0, is_failure=False)

    assert limit.limit == 7
    with pytest.raises(ValueError, match="at least 1"):
        FixedLimit(0)
