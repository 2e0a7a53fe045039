"""What a proxy does, in numbers: the observer that feeds a registry of metrics.

Theory of operation: a request is counted once, at its end, in the histograms of its kind: method,
status, route, version. These are looked up together, in one dictionary; so is what belongs to an
upstream and an outcome. Everything else is counted by the framework anyway, and is read when
somebody wants to see it: ``ProxyMetrics.watch`` says where.

Names are those of the OpenTelemetry semantic conventions for HTTP where these have one.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final, NamedTuple, final

from pingora_core.apps.metrics import ConnectorSource, rate_limit_source
from pingora_core.metrics import BYTE_BOUNDS, DURATION_BOUNDS, Description, Kind, Reading
from pingora_core.modules import RateLimiter, RateLimiterBuilder
from pingora_core.services.metrics import watch_process, watch_service
from pingora_http import Version
from pingora_proxy.observe import ProxyObserver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_core.metrics import Counter, Histogram, Registry
    from pingora_core.services.listening import Service
    from pingora_core.upstreams.peer import PeerAddress
    from pingora_error import Error
    from pingora_proxy.hooks import CTX
    from pingora_proxy.observe import AttemptRecord
    from pingora_proxy.proxy import HttpProxy
    from pingora_proxy.session import Session

__all__ = ["DESCRIPTIONS", "ProxyMetrics"]

_SERVER_LABELS: Final = ("http.request.method", "http.response.status_code", "http.route")

DURATION: Final = Description(
    otel_name="http.server.request.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    help="From the head of a request to the end of the response.",
    labels=_SERVER_LABELS,
    bounds=DURATION_BOUNDS,
)
REQUEST_SIZE: Final = Description(
    otel_name="http.server.request.body.size",
    kind=Kind.HISTOGRAM,
    unit="By",
    help="Bodies of requests that have one, as far as they were read.",
    labels=_SERVER_LABELS,
    bounds=BYTE_BOUNDS,
)
RESPONSE_SIZE: Final = Description(
    otel_name="http.server.response.body.size",
    kind=Kind.HISTOGRAM,
    unit="By",
    help="Bodies of responses that have one, as far as they were sent.",
    labels=_SERVER_LABELS,
    bounds=BYTE_BOUNDS,
)
ACTIVE: Final = Description(
    otel_name="http.server.active_requests",
    kind=Kind.GAUGE,
    unit="{request}",
    help="Requests in flight.",
)
VERSIONS: Final = Description(
    otel_name="pingora.server.requests",
    kind=Kind.COUNTER,
    unit="{request}",
    help="Requests that have ended, by the version of HTTP.",
    labels=("network.protocol.version",),
)
ERRORS: Final = Description(
    otel_name="pingora.server.request.errors",
    kind=Kind.COUNTER,
    unit="{request}",
    help="Requests that have failed: why, and on whose side.",
    labels=("error.type", "error.source"),
)
SUBREQUESTS: Final = Description(
    otel_name="pingora.subrequests",
    kind=Kind.COUNTER,
    unit="{request}",
    help="Requests that the proxy made itself; they are in no metric of the server's side.",
)
RETRIES: Final = Description(
    otel_name="pingora.upstream.retries",
    kind=Kind.COUNTER,
    unit="{request}",
    help="Attempts beyond the first of a request, hedged ones included.",
)
UPSTREAM_DURATION: Final = Description(
    otel_name="http.client.request.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    help="Attempts to have an upstream answer, from the search for a connection to the end.",
    labels=("server.address", "http.response.status_code", "error.type"),
    bounds=DURATION_BOUNDS,
)
CONNECT: Final = Description(
    otel_name="pingora.upstream.connect.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    help="How long a new connection took: name, TCP, proxy, TLS.",
    labels=("server.address",),
    bounds=DURATION_BOUNDS,
)
TLS: Final = Description(
    otel_name="pingora.upstream.tls.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    help="How long the TLS handshake of a new connection took.",
    labels=("server.address",),
    bounds=DURATION_BOUNDS,
)
WAIT: Final = Description(
    otel_name="pingora.upstream.wait.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    help="From the connection to the head of the response.",
    labels=("server.address",),
    bounds=DURATION_BOUNDS,
)
OBSERVER_FAILURES: Final = Description(
    otel_name="pingora.observer.failures",
    kind=Kind.COUNTER,
    help="Calls of observers that have raised.",
    labels=("service",),
)

DESCRIPTIONS: Final = (
    DURATION,
    REQUEST_SIZE,
    RESPONSE_SIZE,
    ACTIVE,
    VERSIONS,
    ERRORS,
    SUBREQUESTS,
    RETRIES,
    UPSTREAM_DURATION,
    CONNECT,
    TLS,
    WAIT,
    OBSERVER_FAILURES,
)

_METHODS: Final = frozenset({
    b"CONNECT", b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT", b"TRACE",
})  # fmt: skip
_OTHER_METHOD: Final = "_OTHER"
"""What the convention calls the methods that it does not know."""

_VERSIONS: Final = {
    Version.HTTP_09: "0.9", Version.HTTP_10: "1.0", Version.HTTP_11: "1.1", Version.HTTP_20: "2",
    Version.HTTP_30: "3",
}  # fmt: skip

_MAX_KINDS: Final = 4096
"""Kinds of requests that are remembered; of those with odd methods there may be any number."""


class _Kind(NamedTuple):
    # The series of requests of one kind.
    duration: Histogram
    request_size: Histogram
    response_size: Histogram
    version: Counter


class _Upstream(NamedTuple):
    # The series of attempts at one upstream with one outcome.
    address: PeerAddress
    duration: Histogram
    wait: Histogram


@final
class ProxyMetrics(ProxyObserver):
    """Counts requests and attempts; given to ``http_proxy_service(..., observers=[...])``.

    One object may observe several services: their requests are counted together.

    Args:
        registry: Where; nobody else counts the same there.

    Attributes:
        registry: As given.

    Raises:
        ValueError: If the registry has these metrics already.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry: Registry = registry
        self._duration = registry.add_histogram(DURATION)
        self._request_size = registry.add_histogram(REQUEST_SIZE)
        self._response_size = registry.add_histogram(RESPONSE_SIZE)
        self._versions = registry.add_counter(VERSIONS)
        self._errors = registry.add_counter(ERRORS)
        self._subrequests = registry.add_counter(SUBREQUESTS).labels()
        self._retries = registry.add_counter(RETRIES).labels()
        self._upstream_duration = registry.add_histogram(UPSTREAM_DURATION)
        self._connect = registry.add_histogram(CONNECT)
        self._tls = registry.add_histogram(TLS)
        self._wait = registry.add_histogram(WAIT)
        self._kinds: dict[tuple[bytes, int, str | None, Version], _Kind] = {}
        self._upstreams: dict[tuple[int, int | None], _Upstream] = {}
        self._active = 0
        registry.add_source(self._read)
        watch_process(registry)

    def _read(self) -> Iterator[Reading]:
        yield Reading(ACTIVE, self._active)

    def watch(self, service: Service[HttpProxy[CTX]]) -> None:
        """Have everything read that a service counts itself.

        That is connections, TLS and HTTP/2 of its clients, its limits and load shedder, its rate
        limiter, its pools of upstream connections, failures of observers.

        Args:
            service: The service, set up; its name is the value of the label ``service``.
        """
        registry = self.registry
        proxy, name = service.app_logic, service.name
        watch_service(registry, service)
        registry.add_source(ConnectorSource(lambda: proxy.connector, name))
        limiter = proxy.downstream_modules.builder_of(RateLimiter)
        if isinstance(limiter, RateLimiterBuilder):
            registry.add_source(rate_limit_source(limiter.policies, name))
        observers = proxy.observers
        if observers is not None:
            registry.add_source(lambda: [Reading(OBSERVER_FAILURES, observers.failures, (name,))])

    # ------------------------------------------------------------- observing

    def request_started(self, session: Session) -> None:
        """Count a request in flight.

        Args:
            session: The request.
        """
        if session.subrequest_ctx is None:
            self._active += 1

    def request_ended(self, session: Session, error: Error | None) -> None:
        """Count a request. HOT.

        Args:
            session: The request.
            error: Why it failed; None if it did not.
        """
        record = session.record
        if record is None or record.ended is None:
            return
        attempts = record.attempts
        if attempts:
            if len(attempts) > 1:
                self._retries.value += len(attempts) - 1
            for attempt in attempts:
                self._count_attempt(attempt)
        if session.subrequest_ctx is not None:
            self._subrequests.value += 1
            return
        self._active -= 1
        down = session.downstream_session
        request = down.request
        response = down.response_written
        key = (
            request.raw_method,
            0 if response is None else response.status,
            session.route,
            request.version,
        )
        kind = self._kinds.get(key) or self._begin(*key)
        kind.version.value += 1
        # Histogram.observe() as it is written there, without the calls: it is for each request.
        taken = record.ended - record.started
        histogram = kind.duration
        histogram.counts[bisect_left(DURATION_BOUNDS, taken)] += 1
        histogram.sum += taken
        size = down.body_bytes_sent
        if size:
            histogram = kind.response_size
            histogram.counts[bisect_left(BYTE_BOUNDS, size)] += 1
            histogram.sum += size
        size = down.body_bytes_read
        if size:
            kind.request_size.observe(size)
        if error is not None:
            self._errors.labels(str(error.etype), error.esource.value).inc()

    def _count_attempt(self, attempt: AttemptRecord) -> None:
        if attempt.ended is None:
            return
        connected = attempt.connected
        address = attempt.peer.address
        error = attempt.error
        status = attempt.status
        if error is None:
            # By identity: to hash an address takes as long as everything else here.
            upstream = self._upstreams.get((id(address), status))
            if upstream is None or upstream.address is not address:
                upstream = self._begin_upstream(address, status)
        else:
            upstream = self._upstream_of(address, status, str(error.etype))
        taken = attempt.ended - attempt.started
        histogram = upstream.duration
        histogram.counts[bisect_left(DURATION_BOUNDS, taken)] += 1
        histogram.sum += taken
        if connected is None:
            return
        if attempt.head is not None:
            taken = attempt.head - connected
            histogram = upstream.wait
            histogram.counts[bisect_left(DURATION_BOUNDS, taken)] += 1
            histogram.sum += taken
        if not attempt.reused:
            self._count_connection(attempt, connected - attempt.started)

    def _count_connection(self, attempt: AttemptRecord, taken: float) -> None:
        address = str(attempt.peer.address)
        self._connect.labels(address).observe(taken)
        timing = None if attempt.digest is None else attempt.digest.timing_digest
        # The layers, lowest first: TCP or Unix, then TLS.
        if timing and len(timing) > 1 and timing[0] is not None and timing[-1] is not None:
            handshake = timing[-1].established_ts - timing[0].established_ts
            self._tls.labels(address).observe(max(0.0, handshake))

    # ----------------------------------------------------------------- series

    def _begin(self, method: bytes, status: int, route: str | None, version: Version) -> _Kind:
        if len(self._kinds) >= _MAX_KINDS:
            self._kinds.clear()
        labels = (
            method.decode() if method in _METHODS else _OTHER_METHOD,
            str(status) if status else "",
            route or "",
        )
        kind = self._kinds[method, status, route, version] = _Kind(
            self._duration.labels(*labels),
            self._request_size.labels(*labels),
            self._response_size.labels(*labels),
            self._versions.labels(_VERSIONS[version]),
        )
        return kind

    def _begin_upstream(self, address: PeerAddress, status: int | None) -> _Upstream:
        if len(self._upstreams) >= _MAX_KINDS:
            self._upstreams.clear()
        upstream = self._upstream_of(address, status, "")
        self._upstreams[id(address), status] = upstream
        return upstream

    def _upstream_of(self, address: PeerAddress, status: int | None, error_type: str) -> _Upstream:
        name = str(address)
        code = "" if status is None else str(status)
        return _Upstream(
            address, self._upstream_duration.labels(name, code, error_type), self._wait.labels(name)
        )
