"""Spans with OpenTelemetry: of requests, attempts, and phases that take time (extra ``otel``).

Theory of operation: names and attributes follow the semantic conventions for HTTP spans. What the
cache waits for is a phase (``cache lookup``, ``cache lock``), and so are callbacks; a phase that was
quick has no span, and waiting for the upstream is in the span of the attempt. The exporter runs in a
thread of the SDK's, which a forked process gets for itself; when the collector is away, spans are
dropped there, and requests do not notice.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from pingora_proxy._conventions import METHODS, OTHER_METHOD, VERSIONS, error_type, name_server
from pingora_proxy._log_text import cut, printable, readable, redact
from pingora_proxy._version import __version__
from pingora_proxy.observe import ProxyObserver
from pingora_proxy.tracing.context import TraceContext
from pingora_proxy.tracing.propagation import TRACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Span, Tracer, TracerProvider as AnyTracerProvider

    from pingora_error import Error
    from pingora_http import RequestHeader
    from pingora_proxy.request_record import AttemptRecord
    from pingora_proxy.session import Session

__all__ = ["OpenTelemetryTracing", "otlp_tracer_provider"]

_SPAN: Final = "otel span"
_PHASES: Final = "otel phases"
_OTHER_NAME: Final = "HTTP"
"""What a span is called whose method is not known."""

_LONGEST: Final = 256
_MAX_PHASES: Final = 64
"""Spans of phases that a request may have: a body has any number of pieces."""

_IN_ATTEMPTS: Final = frozenset({"send request", "read response", "relay response", "ended"})
"""What an attempt consists of: its span is the time of these."""

_SCOPE: Final = "pingora_proxy"


def otlp_tracer_provider(
    endpoint: str,
    *,
    service_name: str,
    sample: float = 1.0,
    timeout: float = 5.0,
    max_waiting: int = 2048,
) -> TracerProvider:
    """Make a provider that sends spans to a collector, by OTLP over HTTP.

    With worker processes, one that was made before they were forked will do.

    Args:
        endpoint: The collector's URL, such as ``http://127.0.0.1:4318/v1/traces``.
        service_name: How the service is called.
        sample: The share of new traces that are recorded, 0 to 1; others are as their parents say.
        timeout: Seconds that sending a batch may take.
        max_waiting: Spans that may wait; more are dropped.

    Returns:
        The provider; `OpenTelemetryTracing` shuts it down at the end.
    """
    provider = TracerProvider(
        resource=Resource.create({"service.name": service_name}),
        sampler=ParentBased(TraceIdRatioBased(sample)),
    )
    exporter = OTLPSpanExporter(endpoint, timeout=timeout)
    provider.add_span_processor(
        BatchSpanProcessor(
            exporter,
            max_queue_size=max_waiting,
            max_export_batch_size=min(512, max_waiting),
            schedule_delay_millis=1000,
        )
    )
    return provider


class OpenTelemetryTracing(ProxyObserver):
    """Makes spans of requests; the trace context is passed on to upstreams.

    Args:
        provider: Where tracers come from; shut down after the last request, so that what waits
            is sent.
        trusts_clients: Whether a context that comes with a request is continued.
        min_phase: How long a callback or a step has to take to have a span, seconds.

    Raises:
        ValueError: If ``min_phase`` is negative.
    """

    def __init__(
        self,
        provider: AnyTracerProvider,
        *,
        trusts_clients: bool = True,
        min_phase: float = 0.001,
    ) -> None:
        if min_phase < 0:
            raise ValueError(f"no time is less than none: {min_phase}")
        self._provider = provider
        self._tracer: Tracer = provider.get_tracer(_SCOPE, __version__)
        self._trusts_clients = trusts_clients
        self._min_phase = min_phase

    async def cleanup(self) -> None:
        """Send what waits, as far as the collector takes it in time."""
        shutdown: object = getattr(self._provider, "shutdown", None)
        if callable(shutdown):
            # Not in a thread that the interpreter waits for at its end: a collector may hang.
            ended = asyncio.Event()
            loop = asyncio.get_running_loop()
            args = (shutdown, partial(loop.call_soon_threadsafe, ended.set))
            threading.Thread(target=_call, args=args, name="otel shutdown", daemon=True).start()
            await ended.wait()

    def request_started(self, session: Session) -> None:
        """Begin the span of a request.

        Args:
            session: The request.
        """
        record = session.record
        if record is None:
            return
        request = session.req_header
        given = TraceContext.read(request) if self._trusts_clients else None
        path, _, query = request.raw_target.partition(b"?")
        method = METHODS.get(request.raw_method)
        attributes: dict[str, str | int] = {
            "http.request.method": method or OTHER_METHOD,
            "url.scheme": session.scheme,
            "url.path": printable(cut(redact(path, ()))),
            "network.protocol.version": VERSIONS[request.version],
        }
        if method is None:
            attributes["http.request.method_original"] = printable(request.raw_method[:_LONGEST])
        if query:
            attributes["url.query"] = "REDACTED"
        agent = request.get_raw(b"user-agent")
        if agent is not None:
            attributes["user_agent.original"] = printable(agent[:_LONGEST])
        client = session.client_addr
        if client is not None:
            attributes["client.address"] = getattr(client, "host", "") or str(client)
        span = self._tracer.start_span(
            method or _OTHER_NAME,
            context=_parent(given),
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=_nanoseconds(record.started_at),
        )
        record.state[_SPAN] = span
        record.state[TRACE] = _context(span)

    def attempt_started(self, session: Session, attempt: AttemptRecord) -> None:
        """Begin the span of an attempt.

        Args:
            session: The request.
            attempt: The attempt.
        """
        record = session.record
        span = _span(session, _SPAN)
        if record is None or span is None:
            return
        method = METHODS.get(session.req_header.raw_method)
        address, port = name_server(attempt.peer.address)
        attributes: dict[str, str | int] = {
            "http.request.method": method or OTHER_METHOD,
            "server.address": address,
        }
        if port:
            attributes["server.port"] = int(port)
        if len(record.attempts) > 1:
            attributes["http.request.resend_count"] = len(record.attempts) - 1
        record.state[attempt] = self._tracer.start_span(
            method or _OTHER_NAME,
            context=set_span_in_context(span, Context()),
            kind=SpanKind.CLIENT,
            attributes=attributes,
        )

    def upstream_request(
        self, session: Session, attempt: AttemptRecord, request: RequestHeader
    ) -> None:
        """Pass the trace on.

        Args:
            session: The request.
            attempt: The attempt.
            request: The head that is about to be sent.
        """
        span = _span(session, attempt)
        if span is not None:
            _context(span).write(request)

    def attempt_ended(self, session: Session, attempt: AttemptRecord) -> None:
        """End the span of an attempt.

        Args:
            session: The request.
            attempt: The attempt.
        """
        span = _span(session, attempt)
        if span is None:
            return
        shift = time.time() - time.monotonic()
        if attempt.connected is not None:
            kind = "connection reused" if attempt.reused else "connected"
            span.add_event(kind, timestamp=_nanoseconds(attempt.connected + shift))
        if attempt.head is not None:
            span.add_event("response head", timestamp=_nanoseconds(attempt.head + shift))
        _end(span, attempt.status, attempt.error, fails_at=400)

    def phase_ended(self, session: Session, phase: str, seconds: float) -> None:
        """Make a span of a callback or a step that has taken time.

        Args:
            session: The request.
            phase: What it was.
            seconds: How long it took.
        """
        if seconds < self._min_phase or phase in _IN_ATTEMPTS:
            return
        record = session.record
        span = _span(session, _SPAN)
        if record is None or span is None or not span.is_recording():
            return
        made = record.state.get(_PHASES, 0)
        if not isinstance(made, int) or made >= _MAX_PHASES:
            return
        record.state[_PHASES] = made + 1
        attempt = record.attempts[-1] if record.attempts else None
        if attempt is not None and attempt.ended is None:
            span = _span(session, attempt) or span
        now = time.time()
        child = self._tracer.start_span(
            phase,
            context=set_span_in_context(span, Context()),
            start_time=_nanoseconds(now - seconds),
        )
        child.end(_nanoseconds(now))

    def request_ended(self, session: Session, error: Error | None) -> None:
        """End the span of a request.

        Args:
            session: The request.
            error: Why it failed; None if it did not.
        """
        span = _span(session, _SPAN)
        if span is None:
            return
        if session.route is not None:
            method = METHODS.get(session.req_header.raw_method, _OTHER_NAME)
            span.update_name(f"{method} {session.route}")
            span.set_attribute("http.route", session.route)
        cache = session.active_cache
        if cache is not None:
            span.set_attribute("pingora.cache.phase", cache.phase.value)
        response = session.response_written
        _end(span, None if response is None else response.status, error, fails_at=500)


def _span(session: Session, key: object) -> Span | None:
    record = session.record
    found = None if record is None else record.state.get(key)
    return found if hasattr(found, "get_span_context") else None  # type: ignore[return-value]  # put there above


def _call(function: Callable[[], object], then: Callable[[], object]) -> None:
    try:
        function()
    finally:
        with suppress(RuntimeError):  # nobody waits any more
            then()


def _end(span: Span, status: int | None, error: Error | None, *, fails_at: int) -> None:
    if status is not None:
        span.set_attribute("http.response.status_code", status)
    kind = error_type(status, error, fails_at=fails_at)
    if kind:
        span.set_attribute("error.type", kind)
        span.set_status(Status(StatusCode.ERROR, None if error is None else readable(str(error))))
    span.end()


def _parent(given: TraceContext | None) -> Context:
    if given is None:
        return Context()
    state = TraceState.from_header([given.state]) if given.state else TraceState()
    parent = SpanContext(
        int(given.trace_id, 16),
        int(given.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(given.flags),
        trace_state=state,
    )
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _context(span: Span) -> TraceContext:
    context = span.get_span_context()
    return TraceContext(
        f"{context.trace_id:032x}",
        f"{context.span_id:016x}",
        int(context.trace_flags),
        context.trace_state.to_header(),
    )


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
