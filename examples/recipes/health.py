"""Checks of backends' health: the snippets of docs/how-to/health.md."""

from __future__ import annotations

import json
from collections.abc import Iterable

# --8<-- [start:imports]
from pingora_core.services import background_service
from pingora_load_balancing import LoadBalancer
from pingora_load_balancing.health import HttpHealthCheck

# --8<-- [end:imports]

# isort: split
from pingora_core import Server
from pingora_load_balancing import Backends
from pingora_load_balancing.health import HealthChecker, HealthResponse, TcpHealthCheck
from pingora_load_balancing.selection import KetamaHashing, RoundRobin


def balance(server: Server, addresses: Iterable[str]) -> LoadBalancer:
    """Choose among the backends that are well."""
    # --8<-- [start:check]
    check = HttpHealthCheck("shop.internal", path="/healthz")
    upstreams = LoadBalancer(addresses, health_check=check, health_check_frequency=2.0)
    server.add_service(background_service("upstreams", upstreams))
    # --8<-- [end:check]
    return upstreams


# --8<-- [start:validator]
async def has_room(response: HealthResponse) -> None:
    """Refuse a backend with a long queue."""
    if json.loads(response.body)["queue"] > 100:
        raise RuntimeError("the queue is long")


check = HttpHealthCheck("shop.internal", path="/load", validator=has_room)
# --8<-- [end:validator]


def share(
    server: Server, addresses: Iterable[str]
) -> tuple[LoadBalancer, LoadBalancer, HealthChecker]:
    """Choose in two ways, and check once."""
    # --8<-- [start:share]
    pool = Backends(addresses)
    by_turns = LoadBalancer(pool=pool, selection=RoundRobin)
    by_key = LoadBalancer(pool=pool, selection=KetamaHashing)
    checker = HealthChecker(pool, TcpHealthCheck(), consecutive_failure=3)
    server.add_service(background_service("health", checker))
    # --8<-- [end:share]
    return by_turns, by_key, checker
