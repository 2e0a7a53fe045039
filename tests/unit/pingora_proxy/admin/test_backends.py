"""The pool of a load balancer, as the admin interface sees it."""

from __future__ import annotations

import pytest

from pingora_load_balancing import Backend, Backends
from pingora_proxy.admin import PoolBackends
from tests.support.clock import FakeClock

A, B = "10.0.0.1:80", "10.0.0.2:80"


def _states(backends: PoolBackends) -> dict[str, str]:
    return {row["address"]: row["state"] for row in backends.rows()}


def test_rows() -> None:
    """Address, weight, load and latency come from the pool."""
    pool = Backends([A, Backend(B, weight=3)])
    pool.report(pool.current[0], latency=0.25)
    with pool.lease(pool.current[1]):
        first, second = PoolBackends(pool).rows()

    assert first == {
        "address": A,
        "state": "ready",
        "is_ready": True,
        "is_enabled": True,
        "weight": 1,
        "in_flight": 0,
        "latency": 0.25,
    }
    assert (second["weight"], second["in_flight"], second["latency"]) == (3, 1, None)


def test_why_a_backend_is_not_used() -> None:
    """The operator's decision is told before the breaker's, that before health and ejection."""
    pool = Backends([A, Backend(B, weight=0)])
    addr = pool.current[0].addr
    backends = PoolBackends(pool)

    pool.set_ejected(addr, True)
    assert _states(backends) == {A: "ejected", B: "drained"}
    pool.set_healthy(addr, False)
    assert _states(backends)[A] == "unhealthy"
    pool.set_open(addr, True)
    assert _states(backends)[A] == "circuit open"
    pool.set_enabled(addr, False)
    assert _states(backends)[A] == "disabled"
    with pool.lease(pool.current[1]):
        assert _states(backends)[B] == "draining"
    assert not any(row["is_ready"] for row in backends.rows())


def test_draining_ends_with_the_last_request() -> None:
    """Both take a backend out; of one that drains it is told when nothing is left."""
    pool = Backends([A, B])
    backends = PoolBackends(pool)
    lease = pool.lease(pool.current[0])

    assert backends.apply(A, "drain")
    assert backends.apply(B, "disable")
    assert _states(backends) == {A: "draining", B: "disabled"}
    lease.release()
    assert _states(backends) == {A: "drained", B: "disabled"}
    assert backends.apply(A, "enable")
    assert backends.apply(B, "enable")
    assert _states(backends) == {A: "ready", B: "ready"}


def test_discovery_does_not_undo_what_the_operator_did() -> None:
    """A document that says ``enabled`` is read again and again; the operator was there later."""
    pool = Backends([A, B])
    backends = PoolBackends(pool)
    addr = pool.current[0].addr
    backends.apply(A, "drain")
    pool.replace([Backend(A), Backend(B)], {addr: True})
    assert _states(backends) == {A: "drained", B: "ready"}
    pool.set_enabled(addr, True)
    assert _states(backends)[A] == "drained"

    backends.apply(A, "enable")
    pool.set_enabled(addr, False)
    assert _states(backends)[A] == "disabled"
    pool.replace([Backend(A), Backend(B)], {addr: True})
    assert _states(backends)[A] == "ready"


def test_a_backend_that_comes_back_is_as_it_was() -> None:
    """Discovery that loses one for a moment does not enable it; much later it may be another."""
    clock = FakeClock()
    pool = Backends([A, B])
    backends = PoolBackends(pool, clock=clock)
    backends.apply(A, "disable")
    pool.replace([Backend(B)])
    clock.advance(60)
    pool.replace([Backend(A), Backend(B)])
    assert _states(backends)[A] == "disabled"

    pool.replace([Backend(B)])
    clock.advance(601)
    pool.replace([Backend(A), Backend(B)])
    assert _states(backends)[A] == "ready"


def test_what_was_decided_before_discovery_has_found_it() -> None:
    """A worker that begins is told of a backend that it does not know yet."""
    pool = Backends([B])
    backends = PoolBackends(pool)
    backends.keep(A, "drain")
    backends.keep("10.0.0.9:80", "enable")
    backends.keep(B, "disable")
    pool.replace([Backend(A), Backend(B)])

    assert _states(backends) == {A: "drained", B: "disabled"}


def test_what_is_remembered_is_bounded() -> None:
    """However many addresses are told that are never found."""
    pool = Backends([A])
    backends = PoolBackends(pool)
    for number in range(5000):
        backends.keep(f"10.1.{number // 250}.{number % 250}:80", "disable")

    assert len(backends._decided) == len(backends._absent) == 4096
    pool.set_healthy(pool.current[0].addr, False)
    assert _states(backends) == {A: "unhealthy"}


@pytest.mark.parametrize("address", ["", "10.0.0.3:80", "10.0.0.1"])
def test_backends_that_are_not_there(address: str) -> None:
    """Nothing happens."""
    assert not PoolBackends(Backends([A])).apply(address, "disable")
