"""Which trace a request belongs to, and how many spans it may have."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pingora_proxy.request_record import RequestRecord
from pingora_proxy.testing import make_session
from pingora_proxy.tracing import trace_of
from pingora_proxy.tracing.opentelemetry import OpenTelemetryTracing

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.mark.parametrize("trusts", [True, False])
async def test_a_trace_is_continued_for_who_is_trusted(trusts: bool) -> None:
    """For others a new one begins."""
    session = make_session("GET", "/", [("traceparent", PARENT)])
    session.record = RequestRecord()
    OpenTelemetryTracing(TracerProvider(), trusts_clients=trusts).request_started(session)
    trace = trace_of(session)
    assert trace is not None
    assert (trace.trace_id == TRACE) is trusts


async def test_a_request_has_so_many_spans_of_phases() -> None:
    """However many pieces its body has."""
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    session = make_session("GET", "/")
    session.record = RequestRecord()
    observer = OpenTelemetryTracing(provider)
    observer.request_started(session)
    for _ in range(100):
        observer.phase_ended(session, "response_body_filter", 0.5)
    assert len(spans.get_finished_spans()) == 64
    provider.shutdown()
