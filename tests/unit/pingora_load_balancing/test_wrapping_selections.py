"""Selections that stand in front of others: bounded load, slow start, groups, zones."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import pytest

from pingora_load_balancing import (
    Backend,
    Backends,
    BoundedLoad,
    KetamaHashing,
    LeastRequest,
    LoadBalancer,
    MaglevHashing,
    PriorityGroups,
    RoundRobin,
    Selector,
    SlowStart,
    ZonePreference,
)
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from pingora_load_balancing import SelectionBuilder

_KEYS = [b"/key/%d" % number for number in range(4_000)]


def _many(count: int, weight: int = 1, net: int = 0) -> list[Backend]:
    return [Backend(f"10.{net}.{n >> 8}.{n & 255}:80", weight) for n in range(count)]


# ---------------------------------------------------------------------- bounded load


@pytest.mark.parametrize("factor", [1.05, 1.25, 2.0])
@pytest.mark.parametrize("inner", [KetamaHashing, MaglevHashing])
def test_no_load_exceeds_the_bound(inner: SelectionBuilder, factor: float) -> None:
    """The bound of the paper, at every moment: the factor times the average, rounded up."""
    balancer = LoadBalancer(_many(50), selection=partial(BoundedLoad, inner=inner, factor=factor))
    states = balancer.pool.current.states

    for number, key in enumerate(_KEYS, start=1):
        chosen = balancer.select(key, 1)
        assert chosen is not None
        balancer.lease(chosen)
        assert balancer.pool.states[chosen.addr].in_flight <= math.ceil(factor * number / 50)

    assert sum(state.in_flight for state in states) == len(_KEYS)


def test_hot_key_is_spread_over_as_few_as_will_do() -> None:
    """A key that everybody asks for does not break its backend, nor wander over all of them."""
    balancer = LoadBalancer(_many(20), selection=BoundedLoad)
    leases = [balancer.lease(b) for key in _KEYS[:1000] if (b := balancer.select(key, 1))]

    hot = Counter[Backend]()
    for _ in range(100):
        chosen = balancer.select(b"hot", 1)
        assert chosen is not None
        hot[chosen] += 1
        leases.append(balancer.lease(chosen))

    assert max(state.in_flight for state in balancer.pool.current.states) <= math.ceil(
        1.25 * 1100 / 20
    )
    assert len(hot) < 12


def test_key_comes_back_when_there_is_room() -> None:
    """The place of a key does not depend on what was before."""
    balancer = LoadBalancer(_many(10), selection=BoundedLoad)
    home = balancer.select(b"key", 1)
    assert home is not None
    leases = [balancer.lease(home) for _ in range(5)]
    assert balancer.select(b"key", 1) != home

    for lease in leases:
        lease.release()

    assert balancer.select(b"key", 1) == home


def test_bounds_follow_weights_and_readiness() -> None:
    """A heavier backend may have more; where some are out, the others must carry it."""
    pool = Backends([Backend("10.0.0.1:80", 3), Backend("10.0.0.2:80"), Backend("10.0.0.3:80")])
    selector = Selector(pool, BoundedLoad)
    for key in _KEYS[:1000]:
        chosen = selector.select(key, 64)
        assert chosen is not None
        pool.lease(chosen)
    loads = [state.in_flight for state in pool.current.states]
    assert all(
        load <= math.ceil(1.25 * 1000 * share)
        for load, share in zip(loads, (0.6, 0.2, 0.2), strict=True)
    )

    pool.set_healthy(pool.current[0].addr, False)

    assert {selector.select(key, 64) for key in _KEYS[:100]} == set(pool.current[1:])


def test_all_full_is_still_an_answer() -> None:
    """Requests that hang at backends that have become unready leave no room by the sums."""
    pool = Backends(_many(3))
    selector = Selector(pool, BoundedLoad)
    leases = [pool.lease(backend) for backend in pool.current for _ in range(100)]
    pool.replace(pool.current[:1])

    assert selector.select(b"key", 256) == pool.current[0]
    assert len(leases) == 300


@pytest.mark.parametrize("factor", [1.0, 0.5, math.nan])
def test_factor_must_leave_room(factor: float) -> None:
    """At 1 every place is taken when the last request comes."""
    with pytest.raises(ValueError, match="factor must be more than 1"):
        BoundedLoad(Backends(["10.0.0.1:80"]).current, factor=factor)


# ---------------------------------------------------------------------- slow start


def _share(selector: Selector, backend: Backend, count: int = 4_000) -> float:
    chosen = [selector.select(b"%d" % n, 256) for n in range(count)]
    return chosen.count(backend) / count


@pytest.mark.parametrize("inner", [RoundRobin, KetamaHashing, LeastRequest])
def test_newcomer_gets_its_share_by_and_by(inner: SelectionBuilder) -> None:
    """A tenth of it at first, half of it in the middle, all of it in the end."""
    clock = FakeClock()
    old, new = _many(4), Backend("10.9.9.9:80")
    pool = Backends(old, clock=clock)
    selector = Selector(pool, partial(SlowStart, inner=inner, window=30.0))
    pool.replace([*old, new])

    shares = []
    for _ in range(3):
        shares.append(_share(selector, new))
        clock.advance(15)

    assert 0.005 < shares[0] < 0.05
    assert 0.05 < shares[1] < 0.16
    assert 0.13 < shares[2] < 0.28
    assert all(less < more for less, more in pairwise(shares))


def test_recovered_backend_warms_up_again() -> None:
    """Becoming ready counts, not only joining."""
    clock = FakeClock()
    pool = Backends(_many(4), clock=clock)
    selector = Selector(pool, SlowStart)
    back = pool.current[0]
    pool.set_healthy(back.addr, False)
    clock.advance(100)
    assert _share(selector, back, 400) == 0

    pool.set_healthy(back.addr, True)

    assert _share(selector, back) < 0.05
    clock.advance(30)
    assert _share(selector, back, 400) == 0.25


def test_whole_set_that_warms_up_is_used_evenly() -> None:
    """When all are new nobody can be spared."""
    pool = Backends(_many(4), clock=FakeClock(), initially_healthy=False)
    selector = Selector(pool, SlowStart)
    for backend in pool.current:
        pool.set_healthy(backend.addr, True)

    chosen = Counter(selector.select(b"", 256) for _ in range(2_000))

    assert set(chosen) == set(pool.current)
    assert min(chosen.values()) > 350


def test_only_ready_one_is_used_however_cold() -> None:
    """A selection that never ends is not searched for ever."""
    pool = Backends(_many(3), clock=FakeClock())
    selector = Selector(pool, partial(SlowStart, inner=KetamaHashing, minimum=1e-9))
    new = Backend("10.9.9.9:80")
    pool.replace([new])

    assert [selector.select(b"%d" % n, 256) for n in range(20)] == [new] * 20
    candidates = partial(SlowStart, inner=KetamaHashing, minimum=1e-9)(pool.current).iter(b"k")
    assert list(islice(candidates, 100)) == [new] * 100


def test_slow_start_options_are_checked() -> None:
    """A window and a share."""
    pool = Backends(["10.0.0.1:80"])
    with pytest.raises(ValueError, match="window must be more than 0"):
        SlowStart(pool.current, window=0)
    with pytest.raises(ValueError, match="minimum a share"):
        SlowStart(pool.current, minimum=0)


# ---------------------------------------------------------------------- priority groups


def _groups(pool: Backends, inner: SelectionBuilder = RoundRobin) -> PriorityGroups:
    return PriorityGroups(
        pool.current,
        priority=lambda backend: int(str(backend).split(".")[1]),
        inner=inner,
    )


def test_first_group_takes_everything_while_it_can() -> None:
    """The next ones are not touched until the overprovisioning is used up."""
    pool = Backends([*_many(10, net=0), *_many(10, net=1)])
    groups = _groups(pool)
    assert groups.shares == (1.0, 0.0)

    for backend in pool.current[:2]:
        pool.set_healthy(backend.addr, False)

    assert groups.shares == (1.0, 0.0)
    assert all(next(groups.iter(b"k")) in pool.current[:10] for _ in range(50))


@pytest.mark.parametrize(
    ("ready", "shares"),
    [
        ((5, 10, 10), (0.7, 0.3, 0.0)),
        ((2, 3, 10), (0.28, 0.42, 0.3)),
        ((0, 10, 10), (0.0, 1.0, 0.0)),
        ((0, 0, 1), (0.0, 0.0, 1.0)),
        ((1, 1, 2), (0.25, 0.25, 0.5)),
        ((0, 0, 0), (1.0, 0.0, 0.0)),
    ],
    ids=str,
)
def test_rest_spills_over(ready: tuple[int, int, int], shares: tuple[float, ...]) -> None:
    """Each group takes 1.4 times its ready share, as Envoy computes it, until all is taken."""
    nets = [_many(10, net=net) for net in range(3)]
    pool = Backends([backend for net in nets for backend in net])
    groups = _groups(pool)
    for net, count in zip(nets, ready, strict=True):
        for backend in net[count:]:
            pool.set_healthy(backend.addr, False)

    assert groups.shares == pytest.approx(shares)


@pytest.mark.parametrize("key", [b"", b"%d"], ids=["chance", "key"])
def test_requests_follow_the_shares(key: bytes) -> None:
    """Spill-over is by chance, or by the key so that equal keys stay together."""
    nets = [_many(10, net=0), _many(10, net=1)]
    pool = Backends([*nets[0], *nets[1]])
    selector = Selector(
        pool,
        partial(
            PriorityGroups,
            priority=lambda backend: int(backend in nets[1]),
            inner=KetamaHashing,
        ),
    )
    for backend in nets[0][5:]:
        pool.set_healthy(backend.addr, False)

    chosen = [selector.select(key.replace(b"%d", b"%d" % n), 256) for n in range(4_000)]

    assert sum(backend in nets[0] for backend in chosen) / 4_000 == pytest.approx(0.7, abs=0.05)
    if key:
        again = [selector.select(b"%d" % n, 256) for n in range(4_000)]
        assert again == chosen
        # Also within the group no part of the ring is left out.
        spread = Counter(backend for backend in chosen if backend in nets[0][:5])
        assert min(spread.values()) > 300


def test_next_group_helps_when_the_first_has_nobody_ready() -> None:
    """Even if the selection within a group never ends."""
    pool = Backends([*_many(3, net=0), *_many(3, net=1)])
    selector = Selector(
        pool,
        partial(
            PriorityGroups,
            priority=lambda backend: int(str(backend).split(".")[1]),
            inner=KetamaHashing,
        ),
    )
    for backend in pool.current[:3]:
        pool.set_open(backend.addr, True)

    assert selector.select(b"k", 256) in pool.current[3:]


def test_candidates_of_groups_reach_everybody() -> None:
    """A caller that refuses the best group gets to the others, and round again."""
    pool = Backends([*_many(2, net=0), *_many(2, net=1)])

    candidates = list(islice(_groups(pool).iter(b""), 12))

    assert candidates[0] in pool.current[:2]
    assert set(candidates) == set(pool.current)


def test_drained_backends_count_nowhere() -> None:
    """A group of drained backends is no group."""
    pool = Backends([*_many(2, weight=0, net=0), *_many(2, net=1)])
    groups = _groups(pool)

    assert groups.shares == (1.0,)
    assert next(groups.iter(b"")) in pool.current[2:]
    assert list(_groups(Backends()).iter(b"")) == []


def test_overprovisioning_is_checked() -> None:
    """Below 1 a group could not take all requests with all of it ready."""
    with pytest.raises(ValueError, match="overprovisioning must be at least 1"):
        PriorityGroups(Backends().current, priority=lambda _: 0, overprovisioning=0.9)


# ---------------------------------------------------------------------- zones


def test_nearest_zone_is_preferred() -> None:
    """Then the next one of the list, then any."""
    zones = ("a", "b", "c", None)
    pool = Backends([Backend(f"10.0.0.{n}:80", metadata=zone) for n, zone in enumerate(zones)])
    selector = Selector(
        pool,
        partial(
            ZonePreference, zones=["b", "a", "b"], zone_of=lambda backend: backend.metadata_as(str)
        ),
    )
    order = []
    while (chosen := selector.select(b"", 256)) is not None:
        order.append(chosen.metadata)
        pool.set_healthy(chosen.addr, False)

    assert order[:2] == ["b", "a"]
    assert set(order[2:]) == {"c", None}
    assert len(order) == 4


def test_zone_preference_prepares_what_is_inside() -> None:
    """Rings within zones are built in small steps too."""
    pool = Backends(_many(100))
    zones = ZonePreference(pool.current, zones=["a"], zone_of=lambda _: "a", inner=KetamaHashing)

    assert sum(1 for _ in zones.prepare()) > 5
    assert next(zones.iter(b"k")) == next(KetamaHashing(pool.current).iter(b"k"))
