"""Where the framework's own counts are read from, for metrics: connectors, TLS, limits, floods.

Each function makes a source for ``Registry.add_source``. Nothing is counted here: what is read are
the attributes that connectors, acceptors and limits have anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from pingora_core.listeners.limits import get_accept_guard
from pingora_core.listeners.tls import TlsAcceptor
from pingora_core.metrics import Description, OverWorkers, Reading
from pingora_core.runtime.counters import COUNTERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pingora_core.apps.load_shedding import LoadShedder
    from pingora_core.connectors.http.connector import Connector
    from pingora_core.listeners.admission import ConnectionLimits
    from pingora_core.listeners.endpoint import Endpoint
    from pingora_core.modules.rate_limit_policy import RateLimitPolicy
    from pingora_core.protocols.http.v2.options import Http2Stats
    from pingora_core.runtime.log_sinks import LogQueue

__all__ = [
    "DESCRIPTIONS",
    "ConnectorSource",
    "connection_limits_source",
    "http2_source",
    "load_shedder_source",
    "log_queue_source",
    "rate_limit_source",
    "read_process_counters",
    "tls_source",
]

_SERVICE: Final = ("service",)


def _counter(name: str, help_text: str, *labels: str, unit: str = "") -> Description:
    return Description.counter(name, help_text, *_SERVICE + labels, unit=unit)


def _gauge(
    name: str, help_text: str, *labels: str, unit: str = "", over: OverWorkers = OverWorkers.SUM
) -> Description:
    return Description.gauge(name, help_text, *_SERVICE + labels, unit=unit, over=over)


# --------------------------------------------------------------------- process

HEADS: Final = Description.counter(
    "pingora.requests.received",
    "Requests whose head has arrived, of all services, whatever became of them.",
    unit="{request}",
)
PAUSED: Final = Description.gauge(
    "pingora.accepting.paused",
    "Workers that accept no connections because they run out of file descriptors.",
    unit="{process}",
)


def read_process_counters() -> Iterator[Reading]:
    """Read what a process has one of; a source.

    Yields:
        The numbers.
    """
    yield Reading(HEADS, COUNTERS.requests)
    yield Reading(PAUSED, get_accept_guard().is_paused)


# ------------------------------------------------------------------ connectors

CONNECTS: Final = _counter("pingora.upstream.connections.opened", "Connections made to upstreams.")
REUSES: Final = _counter(
    "pingora.upstream.connections.reused",
    "Requests that went on a connection that was there: the pool's hits.",
    "network.protocol.version",
)
IDLE: Final = _gauge(
    "pingora.upstream.connections.idle",
    "Connections to upstreams that wait in the pool.",
    "network.protocol.version",
)
UNEXPECTED: Final = _counter(
    "pingora.upstream.connections.unexpected_data",
    "Idle connections closed because the upstream has sent something.",
)


@final
class ConnectorSource:
    """Reads a connector, and the one that takes its place after a reload.

    Args:
        find: Finds the connector in use.
        service: Value of the label of that name.
    """

    __slots__ = ("_before", "_connector", "_find", "_service")

    def __init__(self, find: Callable[[], Connector], service: str) -> None:
        self._find = find
        self._service = service
        self._connector = find()
        self._before: dict[tuple[str, tuple[str, ...]], float] = {}

    def __call__(self) -> Iterator[Reading]:
        """Read it.

        Yields:
            The numbers.
        """
        connector = self._find()
        before = self._before
        if connector is not self._connector:
            # What the old one has counted must not be lost.
            for description, value, labels in self._counts():
                key = description.otel_name, labels
                before[key] = before.get(key, 0) + value
            self._connector = connector
        for description, value, labels in self._counts():
            known = before.get((description.otel_name, labels), 0)
            yield Reading(description, value + known, labels)
        service = self._service
        yield Reading(IDLE, connector.transport.idle_count, (service, "1.1"))
        yield Reading(IDLE, connector.http2.pool.idle_count, (service, "2"))
        yield Reading(H2_OPEN, connector.http2.stats.open, (service, "upstream"))

    def _counts(self) -> Iterator[Reading]:
        transport, http2 = self._connector.transport, self._connector.http2
        service = self._service
        yield Reading(CONNECTS, transport.connected_count, (service,))
        yield Reading(REUSES, transport.reused_count, (service, "1.1"))
        yield Reading(REUSES, http2.pool.reused_count, (service, "2"))
        yield Reading(UNEXPECTED, transport.unexpected_data_connection_count, (service,))
        yield from _read_http2(http2.stats, service, "upstream")


# ---------------------------------------------------------------------- HTTP/2

_SIDE: Final = "side"

H2_OPEN: Final = _gauge("pingora.http2.connections", "HTTP/2 connections open now.", _SIDE)
H2_STREAMS: Final = _counter("pingora.http2.streams", "HTTP/2 streams opened.", _SIDE)
H2_REFUSED: Final = _counter(
    "pingora.http2.streams.refused",
    "HTTP/2 streams refused: there were too many, or the connection was ending.",
    _SIDE,
)
H2_MALFORMED: Final = _counter(
    "pingora.http2.streams.malformed",
    "HTTP/2 streams reset because what arrived on them was no HTTP.",
    _SIDE,
)
H2_FLOODS: Final = _counter(
    "pingora.http2.floods",
    "HTTP/2 connections ended because of a flood, by the kind of frame.",
    _SIDE,
    "kind",
)


def http2_source(find: Callable[[], Http2Stats], service: str) -> Callable[[], Iterator[Reading]]:
    """Make a source of what HTTP/2 connections of clients count.

    Args:
        find: Finds the counts.
        service: Value of the label of that name.

    Returns:
        The source.
    """

    def read() -> Iterator[Reading]:
        stats = find()
        yield Reading(H2_OPEN, stats.open, (service, "downstream"))
        yield from _read_http2(stats, service, "downstream")

    return read


def _read_http2(stats: Http2Stats, service: str, side: str) -> Iterator[Reading]:
    labels = (service, side)
    yield Reading(H2_STREAMS, stats.streams, labels)
    yield Reading(H2_REFUSED, stats.refused, labels)
    yield Reading(H2_MALFORMED, stats.malformed, labels)
    for kind, count in stats.floods.items():
        yield Reading(H2_FLOODS, count, (service, side, kind))


# ------------------------------------------------------------------------- TLS

HANDSHAKES: Final = _counter(
    "pingora.tls.handshakes", "TLS handshakes of clients, completed.", "tls.protocol.version"
)
RESUMED: Final = _counter("pingora.tls.handshakes.resumed", "Those that have resumed a session.")
HANDSHAKE_FAILURES: Final = _counter(
    "pingora.tls.handshakes.failed", "TLS handshakes of clients that came to nothing."
)
EXPIRY: Final = _gauge(
    "pingora.tls.certificate.expiry",
    "When the certificate ends, seconds since the epoch.",
    "tls.server.name",
    unit="s",
    over=OverWorkers.LEAST,
)


def tls_source(
    find: Callable[[], Iterable[Endpoint]], service: str
) -> Callable[[], Iterator[Reading]]:
    """Make a source of what listeners with TLS count.

    Args:
        find: Finds the endpoints.
        service: Value of the label of that name.

    Returns:
        The source.
    """

    def read() -> Iterator[Reading]:
        acceptors = {
            id(each.acceptor): each.acceptor
            for each in find()
            if isinstance(each.acceptor, TlsAcceptor)
        }
        ends: dict[str, float] = {}
        for acceptor in acceptors.values():
            for version, count in acceptor.handshakes.items():
                yield Reading(HANDSHAKES, count, (service, version))
            yield Reading(RESUMED, acceptor.resumed, (service,))
            yield Reading(HANDSHAKE_FAILURES, acceptor.failures, (service,))
            for certificate in acceptor.settings.certificates:
                name = certificate.names[0] if certificate.names else ""
                end = certificate.cert_key.leaf.not_valid_after_utc.timestamp()
                ends[name] = min(end, ends.get(name, end))
        for name, end in ends.items():
            yield Reading(EXPIRY, end, (service, name))

    return read


# ---------------------------------------------------------------------- limits

ADMITTED: Final = _counter("pingora.connections.admitted", "Connections that were let in.")
REFUSED: Final = _counter(
    "pingora.connections.refused", "Connections that were closed at once.", "reason"
)
HELD: Final = _counter("pingora.connections.held", "How often accepting stopped: it was full.")
WAITING: Final = _gauge("pingora.connections.waiting", "Connections that wait for a place.")
CLIENTS: Final = _gauge("pingora.connections.clients", "Client addresses with connections.")

SHED: Final = _counter(
    "pingora.load_shedding.requests", "What became of requests at the load shedder.", "decision"
)
SHED_LIMIT: Final = _gauge("pingora.load_shedding.limit", "Requests that may be in flight.")
SHED_IN_FLIGHT: Final = _gauge("pingora.load_shedding.in_flight", "Requests that have a permit.")

RATE_LIMITED: Final = _counter(
    "pingora.rate_limit.requests", "What became of requests at a policy.", "policy", "decision"
)


def connection_limits_source(
    limits: ConnectionLimits, service: str
) -> Callable[[], Iterator[Reading]]:
    """Make a source of what the limits of connections count.

    Args:
        limits: The limits.
        service: Value of the label of that name.

    Returns:
        The source.
    """

    def read() -> Iterator[Reading]:
        yield Reading(ADMITTED, limits.admitted, (service,))
        yield Reading(REFUSED, limits.refused_full, (service, "full"))
        yield Reading(REFUSED, limits.refused_address, (service, "address"))
        yield Reading(HELD, limits.held, (service,))
        yield Reading(WAITING, limits.waiting, (service,))
        yield Reading(CLIENTS, limits.clients, (service,))

    return read


def load_shedder_source(shedder: LoadShedder, service: str) -> Callable[[], Iterator[Reading]]:
    """Make a source of what a load shedder counts.

    Args:
        shedder: The load shedder.
        service: Value of the label of that name.

    Returns:
        The source.
    """

    def read() -> Iterator[Reading]:
        yield Reading(SHED, shedder.admitted, (service, "admitted"))
        yield Reading(SHED, shedder.shed, (service, "refused"))
        yield Reading(SHED, shedder.exempt, (service, "exempt"))
        yield Reading(SHED_LIMIT, shedder.limit, (service,))
        yield Reading(SHED_IN_FLIGHT, shedder.in_flight, (service,))

    return read


def rate_limit_source(
    policies: Iterable[RateLimitPolicy], service: str
) -> Callable[[], Iterator[Reading]]:
    """Make a source of what the policies of a rate limiter decide.

    Args:
        policies: The policies; ``RateLimiterBuilder.policies``.
        service: Value of the label of that name.

    Returns:
        The source.
    """
    policies = tuple(policies)

    def read() -> Iterator[Reading]:
        for policy in policies:
            counts = policy.counts
            yield Reading(RATE_LIMITED, counts.allowed, (service, policy.name, "allowed"))
            yield Reading(RATE_LIMITED, counts.limited, (service, policy.name, "refused"))
            yield Reading(RATE_LIMITED, counts.shadowed, (service, policy.name, "shadowed"))
            yield Reading(RATE_LIMITED, counts.failed, (service, policy.name, "failed"))

    return read


# ------------------------------------------------------------------------ logs

LINES: Final = Description.counter(
    "pingora.log.lines", "Lines of a log: written, or dropped.", "log", "outcome"
)
LINES_WAITING: Final = Description.gauge(
    "pingora.log.lines.waiting", "Lines that wait to be written.", "log"
)
LOG_FAILURES: Final = Description.counter(
    "pingora.log.failures", "How often a log could not be written.", "log"
)


def log_queue_source(queue: LogQueue, name: str) -> Callable[[], Iterator[Reading]]:
    """Make a source of what the queue of a log counts.

    Args:
        queue: The queue.
        name: Value of the label ``log``.

    Returns:
        The source.
    """

    def read() -> Iterator[Reading]:
        yield Reading(LINES, queue.written, (name, "written"))
        yield Reading(LINES, queue.dropped, (name, "dropped"))
        yield Reading(LINES_WAITING, queue.waiting, (name,))
        yield Reading(LOG_FAILURES, queue.failures, (name,))

    return read


DESCRIPTIONS: Final = (
    HEADS, PAUSED, CONNECTS, REUSES, IDLE, UNEXPECTED, H2_OPEN, H2_STREAMS, H2_REFUSED,
    H2_MALFORMED, H2_FLOODS, HANDSHAKES, RESUMED, HANDSHAKE_FAILURES, EXPIRY, ADMITTED, REFUSED,
    HELD, WAITING, CLIENTS, SHED, SHED_LIMIT, SHED_IN_FLIGHT, RATE_LIMITED, LINES, LINES_WAITING,
    LOG_FAILURES,
)  # fmt: skip
