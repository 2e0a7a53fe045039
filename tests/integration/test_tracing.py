"""Traces go through the proxy; spans and crash reports arrive at real collectors."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import sentry_sdk
from sentry_sdk.integrations.logging import LoggingIntegration

from pingora_proxy.testing import ScriptedOrigin, reply, reset
from pingora_proxy.tracing import TracePropagation, trace_of
from pingora_proxy.tracing.opentelemetry import OpenTelemetryTracing, otlp_tracer_provider
from pingora_proxy.tracing.sentry import SentryReports
from tests.support.client import RawClient
from tests.support.collectors import Collector
from tests.support.ports import free_address
from tests.support.proxy import BareProxy, RunningProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pingora_core import HttpPeer
    from pingora_error import Error
    from pingora_proxy import Session

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


class Retrying(BareProxy):
    """Tries again when the upstream resets, and fails on demand."""

    seen: str | None = None

    async def request_filter(self, session: Session, ctx: None) -> bool:
        session.route = "/things/{id}"
        trace = trace_of(session)
        self.seen = None if trace is None else trace.trace_id
        if session.req_header.path == "/bug":
            # Not by a name that Sentry hides by itself.
            said = session.req_header.get("cookie", "")
            raise RuntimeError("on purpose"[: 10 + len(said)])
        return False

    async def error_while_proxy(
        self, peer: HttpPeer, session: Session, error: Error, ctx: None, client_reused: bool
    ) -> Error:
        error.set_retry(True)
        return error


async def _get(address: str, target: str, fields: str = "") -> int:
    async with await RawClient.connect(address) as client:
        await client.send(f"GET {target} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n".encode())
        return (await client.read_response()).status


async def test_a_trace_is_continued_and_passed_on() -> None:
    """The upstream sees the client's trace with another span; without one, a new trace."""
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200))
        app = Retrying(origin.address)
        async with RunningProxy(app, observers=[TracePropagation()]) as proxy:
            fields = f"traceparent: {PARENT}\r\ntracestate: a=1\r\n"
            assert await _get(proxy.address, "/", fields) == 200
            assert app.seen == TRACE
            assert await _get(proxy.address, "/", "traceparent: nonsense\r\n") == 200
    first, second = (request.header.get("traceparent", "") for request in origin.requests)
    assert first.startswith(f"00-{TRACE}-")
    assert first.endswith("-01")
    assert first != PARENT
    assert origin.requests[0].header.get("tracestate") == "a=1"
    assert TRACE not in second
    assert len(second) == len(first)


async def test_strangers_do_not_choose_traces() -> None:
    """At the edge a context of a client's is replaced; new ones are sampled."""
    observer = TracePropagation(trusts_clients=False, sample=0.5, choose=lambda: 0.7)
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200))
        async with RunningProxy(BareProxy(origin.address), observers=[observer]) as proxy:
            assert await _get(proxy.address, "/", f"traceparent: {PARENT}\r\n") == 200
    passed = origin.requests[0].header.get("traceparent", "")
    assert TRACE not in passed
    assert passed.endswith("-00")
    with pytest.raises(ValueError, match="between 0 and 1"):
        TracePropagation(sample=2)


async def test_spans_of_a_request_and_its_attempts_arrive() -> None:
    """One server span in the client's trace, a child for each attempt, the failed one marked."""
    with Collector() as collector:
        provider = otlp_tracer_provider(
            f"http://{collector.address}/v1/traces", service_name="edge"
        )
        async with ScriptedOrigin() as origin:
            origin.on("*", reset, reply(200, b"x"))
            observer = OpenTelemetryTracing(provider)
            async with RunningProxy(Retrying(origin.address), observers=[observer]) as proxy:
                assert await _get(proxy.address, "/x?k=v", f"traceparent: {PARENT}\r\n") == 200
        await asyncio.to_thread(provider.shutdown)
    server = next(span for span in collector.spans if span.kind == span.SPAN_KIND_SERVER)
    clients = [span for span in collector.spans if span.kind == span.SPAN_KIND_CLIENT]
    assert server.name == "GET /things/{id}"
    assert server.trace_id.hex() == TRACE
    assert server.parent_span_id.hex() == "00f067aa0ba902b7"
    facts = {item.key: item.value for item in server.attributes}
    assert facts["http.response.status_code"].int_value == 200
    assert facts["url.query"].string_value == "REDACTED"
    assert len(clients) == 2
    assert all(span.parent_span_id == server.span_id for span in clients)
    failed, answered = sorted(clients, key=lambda span: span.start_time_unix_nano)
    assert failed.status.code == failed.status.STATUS_CODE_ERROR
    assert [event.name for event in answered.events] == ["connected", "response head"]
    passed = [request.header.get("traceparent", "") for request in origin.requests]
    assert passed[-1] == f"00-{TRACE}-{answered.span_id.hex()}-01"


async def test_a_name_and_password_in_a_target_are_in_no_span() -> None:
    """Such a request is refused; that it came is told, without them."""
    with Collector() as collector:
        url = f"http://{collector.address}/v1/traces"
        observer = OpenTelemetryTracing(otlp_tracer_provider(url, service_name="edge"))
        async with RunningProxy(BareProxy("127.0.0.1:1"), observers=[observer]) as proxy:
            assert await _get(proxy.address, "http://me:w@rd@a.test/x") == 400
    (server,) = collector.spans
    facts = {item.key: item.value.string_value for item in server.attributes}
    assert facts["url.path"] == "http://***@a.test/x"
    assert "rd" not in str(server)


async def test_a_collector_that_is_away_does_not_touch_traffic() -> None:
    """Spans are dropped by the exporter; requests are answered."""
    provider = otlp_tracer_provider(
        f"http://{free_address()}/v1/traces", service_name="edge", timeout=0.1, max_waiting=2
    )
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200))
        observer = OpenTelemetryTracing(provider)
        async with RunningProxy(BareProxy(origin.address), observers=[observer]) as proxy:
            for _ in range(5):
                assert await _get(proxy.address, "/") == 200
    await asyncio.to_thread(provider.shutdown)


async def test_what_takes_time_has_a_span() -> None:
    """A callback in the request, a connection in its attempt; what is quick has none."""

    class Slow(BareProxy):
        async def request_filter(self, session: Session, ctx: None) -> bool:
            await asyncio.sleep(0.03)
            return False

    with Collector() as collector:
        provider = otlp_tracer_provider(
            f"http://{collector.address}/v1/traces", service_name="edge"
        )
        async with ScriptedOrigin() as origin:
            origin.on("*", reply(200))
            observers = [OpenTelemetryTracing(provider, min_phase=0.02)]
            async with (
                RunningProxy(Slow(origin.address), observers=observers) as proxy,
                await RawClient.connect(proxy.address) as client,
            ):
                await client.send(b"BREW /x HTTP/1.1\r\nHost: a\r\nUser-Agent: \x9b\r\n\r\n")
                assert (await client.read_response()).status == 200
        # The provider was shut down with the service.
    spans = {span.name: span for span in collector.spans}
    server = next(span for span in collector.spans if span.kind == span.SPAN_KIND_SERVER)
    assert spans["request_filter"].parent_span_id == server.span_id
    slow = spans["request_filter"]
    assert slow.end_time_unix_nano - slow.start_time_unix_nano >= 29_000_000
    assert "upstream_request_filter" not in spans
    facts = {item.key: item.value for item in server.attributes}
    assert server.name == "HTTP"
    assert facts["http.request.method"].string_value == "_OTHER"
    assert facts["http.request.method_original"].string_value == "BREW"
    assert facts["client.address"].string_value == "127.0.0.1"
    assert facts["user_agent.original"].string_value == "\\x9b"
    attempt = next(span for span in collector.spans if span.kind == span.SPAN_KIND_CLIENT)
    facts = {item.key: item.value for item in attempt.attributes}
    assert facts["server.address"].string_value == "127.0.0.1"
    assert facts["server.port"].int_value == int(origin.address.rpartition(":")[2])


def _end_sentry() -> None:
    transport = sentry_sdk.get_client().transport
    sentry_sdk.get_client().close(timeout=2)
    pool = getattr(transport, "_pool", None)
    if pool is not None:
        pool.clear()
    sentry_sdk.init()


async def test_a_fault_of_the_program_is_reported_without_secrets() -> None:
    """One event, though it is logged as well; no fields, no query, no variables of callbacks."""
    reports = SentryReports(rate=0.001, burst=1)
    with Collector() as collector:
        sentry_sdk.init(
            dsn=f"http://key@{collector.address}/1",
            default_integrations=False,
            integrations=[LoggingIntegration()],
            shutdown_timeout=2,
        )
        try:
            async with ScriptedOrigin() as origin:
                origin.on("*", reply(200))
                proxy = RunningProxy(
                    Retrying(origin.address), observers=[TracePropagation(), reports]
                )
                async with proxy:
                    fields = f"traceparent: {PARENT}\r\nCookie: id=hidden\r\n"
                    assert await _get(proxy.address, "/bug?token=hidden", fields) == 500
                    assert await _get(proxy.address, "/bug") == 500
                    assert await _get(proxy.address, "/fine") == 200
            await asyncio.to_thread(sentry_sdk.flush, 5)
            await eventually(lambda: collector.events)
        finally:
            await asyncio.to_thread(_end_sentry)
    (event,) = collector.events
    assert event["transaction"] == "GET /things/{id}"
    assert event["tags"] == {"phase": "request_filter", "trace_id": TRACE}
    assert "hidden" not in str(collector.bodies)
    assert (reports.reported, reports.suppressed) == (1, 1)
