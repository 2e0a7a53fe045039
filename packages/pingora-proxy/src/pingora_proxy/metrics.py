"""What a proxy does, in numbers: the observer that feeds a registry of metrics.

Theory of operation: a request is counted once, at its end, in the histograms of its kind: method,
status, route, version. These are looked up together, in one dictionary; so is what belongs to an
upstream and an outcome. Everything else is counted by the framework anyway, and is read when
somebody wants to see it: ``ProxyMetrics.watch`` says where.

Names are those of the OpenTelemetry semantic conventions for HTTP where these have one.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, final

from pingora_core.apps.metrics import ConnectorSource, rate_limit_source
from pingora_core.metrics import BYTE_BOUNDS, DURATION_BOUNDS, Description, Reading
from pingora_core.modules import RateLimiter, RateLimiterBuilder
from pingora_core.services.metrics import watch_process, watch_service
from pingora_proxy._conventions import (
    METHODS,
    OTHER_METHOD,
    VERSIONS as VERSION_NAMES,
    error_type,
    name_server,
)
from pingora_proxy.observe import ProxyObserver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_core.metrics import Counter, Histogram, Registry
    from pingora_core.services.listening import Service
    from pingora_core.upstreams.peer import PeerAddress
    from pingora_error import Error
    from pingora_http import Version
    from pingora_proxy.hooks import CTX
    from pingora_proxy.observe import AttemptRecord
    from pingora_proxy.proxy import HttpProxy
    from pingora_proxy.session import Session

    # Method, status, route, version, scheme.
    _Key: TypeAlias = tuple[bytes, int, str | None, Version, str]

__all__ = ["DESCRIPTIONS", "ProxyMetrics"]

_SERVER_LABELS: Final = (
    "http.request.method",
    "http.response.status_code",
    "http.route",
    "url.scheme",
    "error.type",
)
_UPSTREAM_LABELS: Final = ("server.address", "server.port")


DURATION: Final = Description.histogram(
    "http.server.request.duration",
    "From the head of a request to the end of the response.",
    *_SERVER_LABELS,
)
REQUEST_SIZE: Final = Description.histogram(
    "http.server.request.body.size",
    "Bodies of requests that have one, as far as they were read.",
    *_SERVER_LABELS,
    unit="By",
    bounds=BYTE_BOUNDS,
)
RESPONSE_SIZE: Final = Description.histogram(
    "http.server.response.body.size",
    "Bodies of responses that have one, as far as they were sent.",
    *_SERVER_LABELS,
    unit="By",
    bounds=BYTE_BOUNDS,
)
ACTIVE: Final = Description.gauge(
    "http.server.active_requests", "Requests in flight.", unit="{request}"
)
VERSIONS: Final = Description.counter(
    "pingora.server.requests",
    "Requests that have ended, by the version of HTTP.",
    "network.protocol.version",
    unit="{request}",
)
ERRORS: Final = Description.counter(
    "pingora.server.request.errors",
    "Requests that have failed: why, and on whose side.",
    "error.type",
    "error.source",
    unit="{request}",
)
SUBREQUESTS: Final = Description.counter(
    "pingora.subrequests",
    "Requests that the proxy made itself; they are in no metric of the server's side.",
    unit="{request}",
)
RETRIES: Final = Description.counter(
    "pingora.upstream.retries",
    "Attempts beyond the first of a request, hedged ones included.",
    unit="{request}",
)
UPSTREAM_DURATION: Final = Description.histogram(
    "http.client.request.duration",
    "Attempts to have an upstream answer, from the search for a connection to the end.",
    "http.request.method",
    *_UPSTREAM_LABELS,
    "http.response.status_code",
    "error.type",
)
CONNECT: Final = Description.histogram(
    "pingora.upstream.connect.duration",
    "How long a new connection took: name, TCP, proxy, TLS.",
    *_UPSTREAM_LABELS,
)
TLS: Final = Description.histogram(
    "pingora.upstream.tls.duration",
    "How long the TLS handshake of a new connection took, and CONNECT where a proxy is between.",
    *_UPSTREAM_LABELS,
)
WAIT: Final = Description.histogram(
    "pingora.upstream.wait.duration",
    "From the connection to the head of the response.",
    *_UPSTREAM_LABELS,
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
)

_MAX_KINDS: Final = 4096
"""Kinds of requests and upstreams that are remembered."""


class _Kind(NamedTuple):
    # The series of requests of one kind.
    duration: Histogram
    request_size: Histogram
    response_size: Histogram
    version: Counter


class _Upstream(NamedTuple):
    # The series of attempts at one upstream with one method and one outcome.
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

    is_patient = True

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
        self._kinds: dict[_Key, _Kind] = {}
        self._upstreams: dict[tuple[int, int | None, bytes], _Upstream] = {}
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
            registry.add_source(lambda: observers.read_metrics(name))

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
        down = session.downstream_session
        request = down.request
        method = request.raw_method
        attempts = record.attempts
        if attempts:
            if len(attempts) > 1:
                self._retries.value += len(attempts) - 1
            for attempt in attempts:
                self._count_attempt(attempt, method)
        if session.subrequest_ctx is not None:
            self._subrequests.value += 1
            return
        self._active -= 1
        response = record.response
        key = (
            method,
            0 if response is None else response.status,
            session.route,
            request.version,
            "http" if down.digest.ssl_digest is None else "https",
        )
        if error is None:
            kind = self._kinds.get(key) or self._begin(key)
        else:
            self._errors.labels(str(error.etype), error.esource.value).inc()
            kind = self._kind_of(key, error)
        duration, request_size, response_size, version = kind
        version.value += 1
        # Histogram.observe() as it is written there, without the calls: it is for each request.
        taken = record.ended - record.started
        duration.counts[bisect_left(DURATION_BOUNDS, taken)] += 1
        duration.sum += taken
        size = record.response_bytes
        if size:
            response_size.counts[bisect_left(BYTE_BOUNDS, size)] += 1
            response_size.sum += size
        size = record.request_bytes
        if size:
            request_size.observe(size)

    def _count_attempt(self, attempt: AttemptRecord, method: bytes) -> None:
        if attempt.ended is None:
            return
        connected = attempt.connected
        address = attempt.peer.address
        status = attempt.status
        if attempt.error is None:
            # By identity: to hash an address takes as long as everything else here.
            upstream = self._upstreams.get((id(address), status, method))
            if upstream is None or upstream[0] is not address:
                upstream = self._begin_upstream(address, status, method)
        else:
            upstream = self._upstream_of(address, status, method, attempt.error)
        _, histogram, wait = upstream
        taken = attempt.ended - attempt.started
        histogram.counts[bisect_left(DURATION_BOUNDS, taken)] += 1
        histogram.sum += taken
        if connected is None:
            return
        if attempt.head is not None:
            taken = attempt.head - connected
            wait.counts[bisect_left(DURATION_BOUNDS, taken)] += 1
            wait.sum += taken
        if not attempt.reused:
            self._count_connection(attempt, connected - attempt.started)

    def _count_connection(self, attempt: AttemptRecord, taken: float) -> None:
        labels = name_server(attempt.peer.address)
        self._connect.labels(*labels).observe(taken)
        timing = None if attempt.digest is None else attempt.digest.timing_digest
        # The layers, lowest first: TCP or Unix, then TLS.
        if timing and len(timing) > 1 and timing[0] is not None and timing[-1] is not None:
            handshake = timing[-1].established_ts - timing[0].established_ts
            self._tls.labels(*labels).observe(max(0.0, handshake))

    # ----------------------------------------------------------------- series

    def _begin(self, key: _Key) -> _Kind:
        kind = self._kind_of(key, None)
        # Odd methods are not remembered: there may be any number of them, and they may be long.
        if key[0] in METHODS:
            if len(self._kinds) >= _MAX_KINDS:
                self._kinds.clear()
            self._kinds[key] = kind
        return kind

    def _kind_of(self, key: _Key, error: Error | None) -> _Kind:
        method, status, route, version, scheme = key
        labels = (
            METHODS.get(method, OTHER_METHOD),
            str(status) if status else "",
            route or "",
            scheme,
            error_type(status, error, fails_at=500),
        )
        return _Kind(
            self._duration.labels(*labels),
            self._request_size.labels(*labels),
            self._response_size.labels(*labels),
            self._versions.labels(VERSION_NAMES[version]),
        )

    def _begin_upstream(self, address: PeerAddress, status: int | None, method: bytes) -> _Upstream:
        upstream = self._upstream_of(address, status, method, None)
        if method in METHODS:
            if len(self._upstreams) >= _MAX_KINDS:
                self._upstreams.clear()
            self._upstreams[id(address), status, method] = upstream
        return upstream

    def _upstream_of(
        self, address: PeerAddress, status: int | None, method: bytes, error: Error | None
    ) -> _Upstream:
        labels = name_server(address)
        code = "" if status is None else str(status)
        name = METHODS.get(method, OTHER_METHOD)
        return _Upstream(
            address,
            self._upstream_duration.labels(
                name, *labels, code, error_type(status, error, fails_at=400)
            ),
            self._wait.labels(*labels),
        )
