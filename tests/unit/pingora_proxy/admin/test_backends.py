"""The pool of a load balancer, as the admin interface sees it."""

from __future__ import annotations

import pytest

from pingora_load_balancing import Backend, Backends
from pingora_proxy.admin import PoolBackends

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


def test_who_enables_it_elsewhere_ends_the_draining() -> None:
    """Disabled again later it is just that."""
    pool = Backends([A])
    backends = PoolBackends(pool)
    backends.apply(A, "drain")
    pool.set_enabled(pool.current[0].addr, True)
    assert _states(backends) == {A: "ready"}
    pool.set_enabled(pool.current[0].addr, False)

    assert _states(backends) == {A: "disabled"}


@pytest.mark.parametrize("address", ["", "10.0.0.3:80", "10.0.0.1"])
def test_backends_that_are_not_there(address: str) -> None:
    """Nothing happens."""
    assert not PoolBackends(Backends([A])).apply(address, "disable")
