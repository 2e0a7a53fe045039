"""Each number that is read where it is kept has the name and the labels that it is known by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_core.apps.load_shedding import LoadShedder
from pingora_core.apps.metrics import (
    ConnectorSource,
    connection_limits_source,
    http2_source,
    load_shedder_source,
    rate_limit_source,
)
from pingora_core.connectors.http.connector import Connector
from pingora_core.listeners.admission import ConnectionLimits
from pingora_core.metrics import Registry
from pingora_core.modules.rate_limit_policy import RateLimitPolicy
from pingora_core.protocols.http.v2.options import Http2Stats
from pingora_limits import TokenBucket

if TYPE_CHECKING:
    from pingora_core.metrics.registry import Source


def read(*sources: Source) -> dict[tuple[str, ...], float]:
    """Read sources: numbers by metric and labels, but those that are 0."""
    registry = Registry()
    for source in sources:
        registry.add_source(source)
    return {
        (name, *labels): numbers[0]
        for name, family in registry.collect().items()
        for labels, numbers in family.series.items()
        if numbers[0]
    }


def test_limits_and_what_they_decide() -> None:
    """Connections, requests at the load shedder, requests at a policy."""
    limits = ConnectionLimits(max_connections=1)
    limits.admitted, limits.refused_full, limits.refused_address, limits.held = 1, 2, 3, 4
    shedder = LoadShedder(10)
    shedder.admitted, shedder.shed, shedder.exempt, shedder.in_flight = 5, 6, 7, 8
    policy = RateLimitPolicy("p", TokenBucket(1, 1), lambda _: None)
    counts = policy.counts
    counts.allowed, counts.limited, counts.shadowed, counts.failed = 9, 11, 12, 13

    assert read(
        connection_limits_source(limits, "s"),
        load_shedder_source(shedder, "s"),
        rate_limit_source([policy], "s"),
    ) == {
        ("pingora_connections_admitted_total", "s"): 1,
        ("pingora_connections_refused_total", "s", "full"): 2,
        ("pingora_connections_refused_total", "s", "address"): 3,
        ("pingora_connections_held_total", "s"): 4,
        ("pingora_load_shedding_requests_total", "s", "admitted"): 5,
        ("pingora_load_shedding_requests_total", "s", "refused"): 6,
        ("pingora_load_shedding_requests_total", "s", "exempt"): 7,
        ("pingora_load_shedding_in_flight", "s"): 8,
        ("pingora_load_shedding_limit", "s"): 10,
        ("pingora_rate_limit_requests_total", "s", "p", "allowed"): 9,
        ("pingora_rate_limit_requests_total", "s", "p", "refused"): 11,
        ("pingora_rate_limit_requests_total", "s", "p", "shadowed"): 12,
        ("pingora_rate_limit_requests_total", "s", "p", "failed"): 13,
    }


def test_connections_of_clients_with_http2() -> None:
    """Streams, those that were refused or were no HTTP, floods by their kind."""
    stats = Http2Stats()
    stats.open, stats.streams, stats.refused, stats.malformed = 1, 2, 3, 4
    stats.floods["PING"] = 5

    assert read(http2_source(lambda: stats, "s")) == {
        ("pingora_http2_connections", "s", "downstream"): 1,
        ("pingora_http2_streams_total", "s", "downstream"): 2,
        ("pingora_http2_streams_refused_total", "s", "downstream"): 3,
        ("pingora_http2_streams_malformed_total", "s", "downstream"): 4,
        ("pingora_http2_floods_total", "s", "downstream", "PING"): 5,
    }


async def test_connectors_that_follow_each_other_count_together() -> None:
    """After a second reload, too: nothing goes back."""
    connectors: list[Connector] = []

    def begin(opened: int, reused: int) -> None:
        connectors.append(Connector())
        connectors[-1].transport.connected_count = opened
        connectors[-1].transport.reused_count = reused

    begin(1, 2)
    source = ConnectorSource(lambda: connectors[-1], "s")
    for opened, reused in ((10, 20), (100, 200)):
        read(source)
        begin(opened, reused)
    try:
        assert read(source) == {
            ("pingora_upstream_connections_opened_total", "s"): 111,
            ("pingora_upstream_connections_reused_total", "s", "1.1"): 222,
        }
    finally:
        for connector in connectors:
            await connector.close()
