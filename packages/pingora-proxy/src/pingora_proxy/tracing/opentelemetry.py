"""Spans with OpenTelemetry: one for the request, one for each attempt (extra ``otel``).

Names and attributes follow the semantic conventions for HTTP spans. The exporter runs in a thread
of the SDK's; when the collector is away, spans are dropped there, and requests do not notice.
"""

from __future__ import annotations

import time
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

from pingora_proxy.observe import ProxyObserver
from pingora_proxy.tracing.context import TraceContext
from pingora_proxy.tracing.propagation import TRACE

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer, TracerProvider as AnyTracerProvider

    from pingora_error import Error
    from pingora_http import RequestHeader
    from pingora_proxy.request_record import AttemptRecord
    from pingora_proxy.session import Session

__all__ = ["OpenTelemetryTracing", "otlp_tracer_provider"]

_SPAN: Final = "otel span"
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

    With worker processes, make one in each: in ``startup``.

    Args:
        endpoint: The collector's URL, such as ``http://127.0.0.1:4318/v1/traces``.
        service_name: How the service is called.
        sample: The share of new traces that are recorded, 0 to 1; others are as their parents say.
        timeout: Seconds that sending a batch may take.
        max_waiting: Spans that may wait; more are dropped.

    Returns:
        The provider; call ``shutdown`` at the end.
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
        provider: Where tracers come from.
        trusts_clients: Whether a context that comes with a request is continued.
    """

    def __init__(self, provider: AnyTracerProvider, *, trusts_clients: bool = True) -> None:
        self._tracer: Tracer = provider.get_tracer(_SCOPE)
        self._trusts_clients = trusts_clients

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
        attributes: dict[str, str | int] = {
            "http.request.method": request.method,
            "url.scheme": session.scheme,
            "url.path": path.decode("latin-1"),
            "network.protocol.version": str(request.version).removeprefix("HTTP/"),
        }
        if query:
            attributes["url.query"] = "REDACTED"
        if session.client_addr is not None:
            attributes["client.address"] = str(session.client_addr)
        span = self._tracer.start_span(
            request.method,
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
        record.state[attempt] = self._tracer.start_span(
            session.req_header.method,
            context=set_span_in_context(span, Context()),
            kind=SpanKind.CLIENT,
            attributes={
                "http.request.method": session.req_header.method,
                "server.address": str(attempt.peer.address),
                "http.request.resend_count": len(record.attempts) - 1,
            },
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
            span.update_name(f"{session.req_header.method} {session.route}")
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


def _end(span: Span, status: int | None, error: Error | None, *, fails_at: int) -> None:
    if status is not None:
        span.set_attribute("http.response.status_code", status)
    if error is not None:
        span.set_attribute("error.type", str(error.etype))
        span.set_status(Status(StatusCode.ERROR, str(error)))
    elif status is not None and status >= fails_at:
        span.set_attribute("error.type", str(status))
        span.set_status(Status(StatusCode.ERROR))
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
