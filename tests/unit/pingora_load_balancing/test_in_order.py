"""The first backend that is ready gets everything."""

from __future__ import annotations

from pingora_load_balancing import Backend, InOrder, LoadBalancer


def _chosen(balancer: LoadBalancer) -> list[str]:
    return [str(balancer.select(b"%d" % number, 256)) for number in range(5)]


def test_the_next_one_stands_in() -> None:
    """While the ones before it are out; they get everything back when they return."""
    balancer = LoadBalancer(["10.0.0.3:80", "10.0.0.1:80", "10.0.0.2:80"], selection=InOrder)
    assert _chosen(balancer) == ["10.0.0.3:80"] * 5

    balancer.set_enable(balancer.backends[0], False)
    assert _chosen(balancer) == ["10.0.0.1:80"] * 5
    balancer.set_enable(balancer.backends[1], False)
    assert _chosen(balancer) == ["10.0.0.2:80"] * 5
    balancer.set_enable(balancer.backends[2], False)
    assert _chosen(balancer) == ["None"] * 5

    balancer.set_enable(balancer.backends[0], True)
    assert _chosen(balancer) == ["10.0.0.3:80"] * 5


def test_those_without_weight_get_nothing() -> None:
    """Other weights do not matter."""
    backends = [Backend("10.0.0.1:80", 0), Backend("10.0.0.2:80", 1), Backend("10.0.0.3:80", 9)]
    assert _chosen(LoadBalancer(backends, selection=InOrder)) == ["10.0.0.2:80"] * 5
