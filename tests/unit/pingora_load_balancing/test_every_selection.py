"""What holds for every selection, whatever it is given: extreme sets and none at all."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING

import pytest

from pingora_load_balancing import (
    Backend,
    Backends,
    BackendSet,
    BoundedLoad,
    FNVHash,
    KetamaHashing,
    LeastLatency,
    LeastRequest,
    LoadBalancer,
    MaglevHashing,
    OriginalRoundRobin,
    PriorityGroups,
    Random,
    RoundRobin,
    Selector,
    SlowStart,
    Sticky,
    ZonePreference,
)
from pingora_load_balancing.selection import prepared

if TYPE_CHECKING:
    from pingora_load_balancing import SelectionBuilder

# The bound matters for weights in the millions only, which would take seconds.
_KETAMA = partial(KetamaHashing, max_points=50_000)
_SELECTIONS: dict[str, SelectionBuilder] = {
    "round robin": RoundRobin,
    "original round robin": OriginalRoundRobin,
    "random": Random,
    "fnv": FNVHash,
    "ketama": _KETAMA,
    "maglev": MaglevHashing,
    "least request": LeastRequest,
    "least latency": LeastLatency,
    "bounded load": partial(BoundedLoad, inner=_KETAMA),
    "bounded maglev": partial(BoundedLoad, inner=MaglevHashing),
    "priority": partial(PriorityGroups, priority=lambda backend: len(str(backend)) % 3),
    "zone": partial(ZonePreference, zones=["a"], zone_of=lambda _: "b"),
    "slow start": SlowStart,
    "sticky": partial(Sticky, inner=LeastRequest),
    "all of it": partial(
        Sticky,
        inner=partial(
            SlowStart,
            inner=partial(
                PriorityGroups,
                priority=lambda _: 1,
                inner=partial(BoundedLoad, inner=_KETAMA),
            ),
        ),
    ),
}

every_selection = pytest.mark.parametrize("build", _SELECTIONS.values(), ids=_SELECTIONS)


def _many(count: int) -> list[Backend]:
    return [Backend(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:80") for n in range(count)]


def _chosen(selector: Selector, count: int = 60) -> set[Backend | None]:
    return {selector.select(b"key-%d" % n, 256) for n in range(count)}


@every_selection
def test_empty_pool(build: SelectionBuilder) -> None:
    """Nothing to choose from is None, again and again."""
    pool = Backends()

    assert list(build(pool.current).iter(b"key")) == []
    assert _chosen(Selector(pool, build)) == {None}


@every_selection
def test_all_drained(build: SelectionBuilder) -> None:
    """Weight 0 everywhere is None and no division by zero."""
    selector = Selector(Backends([Backend("10.0.0.1:80", 0), Backend("10.0.0.2:80", 0)]), build)

    assert _chosen(selector) == {None}


@every_selection
def test_one_drained_among_many(build: SelectionBuilder) -> None:
    """A backend of weight 0 is no candidate."""
    drained = Backend("10.9.9.9:80", 0)
    selection = build(Backends([*_many(8), drained]).current)

    assert all(drained not in islice(selection.iter(b"key-%d" % n), 64) for n in range(30))


@every_selection
def test_single_backend(build: SelectionBuilder) -> None:
    """It gets everything."""
    [only] = backends = _many(1)

    assert _chosen(Selector(Backends(backends), build)) == {only}


@every_selection
def test_all_unhealthy(build: SelectionBuilder) -> None:
    """None, unless the caller wants one of them all the same."""
    pool = Backends(_many(8))
    selector = Selector(pool, build)
    for backend in pool.current:
        pool.set_healthy(backend.addr, False)

    assert _chosen(selector) == {None}
    asked: list[bool] = []

    def take_it(_: Backend, ready: bool) -> bool:
        asked.append(ready)
        return True

    assert selector.select_with(b"k", 256, take_it) in set(pool.current)
    assert asked == [False]


@every_selection
def test_all_unhealthy_in_panic(build: SelectionBuilder) -> None:
    """A pool with a panic threshold uses all of them."""
    pool = Backends(_many(8), panic_threshold=0.5)
    selector = Selector(pool, build)
    for backend in pool.current:
        pool.set_healthy(backend.addr, False)

    chosen = _chosen(selector, 400)

    assert None not in chosen
    assert len(chosen) > 1


@every_selection
def test_the_ready_ones_are_found(build: SelectionBuilder) -> None:
    """Two of twenty, and only these."""
    pool = Backends(_many(20))
    selector = Selector(pool, build)
    for backend in pool.current[2:]:
        pool.set_ejected(backend.addr, True)

    assert _chosen(selector) <= set(pool.current[:2])


@every_selection
def test_flapping_backends(build: SelectionBuilder) -> None:
    """Whatever changes between two requests, who is chosen is ready at that moment."""
    pool = Backends(_many(9))
    selector = Selector(pool, build)
    flapping = cycle(pool.current)

    for number in range(300):
        backend = next(flapping)
        pool.set_healthy(backend.addr, not pool.is_ready(backend.addr))
        chosen = selector.select(b"key-%d" % number, 256)
        assert (
            pool.is_ready(chosen.addr)
            if chosen
            else not any(state.is_ready for state in pool.current.states)
        )


@every_selection
def test_weights_in_the_millions(build: SelectionBuilder) -> None:
    """The build takes bounded time and memory, and the shares are about right."""
    heavy, light = Backend("10.0.0.1:80", 5_000_011), Backend("10.0.0.2:80", 1_000_003)
    selector = Selector(Backends([heavy, light]), build)

    chosen = Counter(selector.select(b"key-%d" % n, 256) for n in range(1_200))

    if build is OriginalRoundRobin:
        # Its runs are as long as the weights.
        assert set(chosen) == {heavy}
        return
    assert set(chosen) == {heavy, light}
    assert 850 < chosen[heavy] < 1_100


@every_selection
def test_duplicates_count_once(build: SelectionBuilder) -> None:
    """Naming a backend twice does not double its share."""
    a, b = _many(2)
    selector = Selector(Backends([a, b, a, Backend(a.addr)]), build)

    chosen = Counter(selector.select(b"key-%d" % n, 256) for n in range(2_000))

    assert 700 < chosen[a] < 1_300


@every_selection
def test_key_of_any_bytes(build: SelectionBuilder) -> None:
    """Empty, long, and not text."""
    selector = Selector(Backends(_many(5)), build)

    assert all(selector.select(key, 256) for key in (b"", b"\xff" * 10_000, b"\0", b"\r\n"))


@pytest.fixture(scope="module")
def huge_pool() -> Backends:
    """As many backends as anybody has."""
    return Backends(_many(100_000))


@pytest.mark.parametrize(
    "build",
    [RoundRobin, FNVHash, LeastRequest, _KETAMA, partial(MaglevHashing, table_size=262_139)],
    ids=["round robin", "fnv", "least request", "ketama", "maglev"],
)
def test_hundred_thousand_backends(build: SelectionBuilder, huge_pool: Backends) -> None:
    """More than the original's 65,535 are no limit, and requests are spread over them."""
    selection = build(huge_pool.current)
    for _ in prepared(selection):
        pass

    first = {next(selection.iter(b"key-%d" % n)) for n in range(2_000)}

    assert len(first) > 1_800


def test_hundred_thousand_backends_without_a_ready_one(huge_pool: Backends) -> None:
    """No request searches all of them."""
    balancer = LoadBalancer(_many(10), selection=RoundRobin)
    huge = RoundRobin(huge_pool.current)
    looked_at = sum(1 for _ in islice(huge.iter(b""), 256))
    for backend in balancer.backends:
        balancer.set_enable(backend, False)

    assert looked_at == 256
    assert balancer.select(b"", 256) is None


@pytest.mark.parametrize(
    "build",
    [RoundRobin, Random, OriginalRoundRobin, FNVHash, LeastRequest, LeastLatency, BoundedLoad],
)
def test_large_set_is_prepared_in_steps(build: SelectionBuilder) -> None:
    """No step does the work for all, and what comes of it is as if it had been done at once."""
    backends = BackendSet.of([Backend(b.addr, 1 + n % 7) for n, b in enumerate(_many(20_000))])
    selection = build(backends)

    steps = sum(1 for _ in prepared(selection))

    assert steps > 8
    assert not list(prepared(selection))
    assert next(selection.iter(b"key")) in set(backends)


@pytest.mark.parametrize("build", [RoundRobin, Random, FNVHash, LeastRequest])
def test_drained_set_is_prepared_once(build: SelectionBuilder) -> None:
    """A set of which nobody can be chosen is not looked through for each request."""
    selection = build(BackendSet.of([Backend(b.addr, 0) for b in _many(2_000)]))
    for _ in prepared(selection):
        pass

    assert not list(prepared(selection))
    assert not list(selection.iter(b"key"))
