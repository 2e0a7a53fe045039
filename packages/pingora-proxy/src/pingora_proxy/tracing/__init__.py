"""Traces: W3C trace context in and out, spans, crash reports.

:mod:`pingora_proxy.tracing.opentelemetry` and :mod:`pingora_proxy.tracing.sentry` need extras of
the same names; the trace context needs nothing.
"""

from pingora_proxy.tracing.context import TraceContext
from pingora_proxy.tracing.propagation import TracePropagation, trace_of

__all__ = ["TraceContext", "TracePropagation", "trace_of"]
