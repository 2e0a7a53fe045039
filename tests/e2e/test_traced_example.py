"""The traced example passes traces on, and its spans arrive, from workers too."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from pingora_proxy.testing import Client, ScriptedOrigin, reply
from tests.support.collectors import Collector
from tests.support.process import ROOT, ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

_SCRIPT = str(ROOT / "examples" / "traced.py")
_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
_PARENT = [("traceparent", f"00-{_TRACE}-00f067aa0ba902b7-01")]


async def test_a_trace_is_continued_and_logged() -> None:
    """The server behind sees the trace of the client; the log names it."""
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200))
        async with ServerProcess(_SCRIPT, origin.address, "--listen", "127.0.0.1:0") as server:
            host, port = await server.running()
            async with Client(f"{host}:{port}") as client:
                assert (await client.get("/", _PARENT)).status == 200
            await server.line_with(f"trace {_TRACE}")
        passed = origin.requests[0].header.get("traceparent", "")
        assert passed.startswith(f"00-{_TRACE}-")


async def test_spans_of_workers_arrive(tmp_path: Path) -> None:
    """Two workers stop in order; what they had to tell is there."""
    conf = tmp_path / "traced.yaml"
    conf.write_text(f"workers: 2\nupgrade_sock: {tmp_path}/upgrade.sock\n")
    with Collector() as collector:
        options = ["--otlp", f"http://{collector.address}/v1/traces", "-c", str(conf)]
        options += ["--sentry", f"http://key@{collector.address}/1"]
        async with ScriptedOrigin() as origin:
            origin.on("*", reply(200))
            async with ServerProcess(
                _SCRIPT, origin.address, "--listen", "127.0.0.1:0", *options
            ) as server:
                host, port = await server.running()
                for _ in range(4):
                    async with Client(f"{host}:{port}") as client:
                        assert (await client.get("/", _PARENT)).status == 200
                server.send(signal.SIGTERM)
                assert await server.wait() == 0
        spans = collector.spans
    assert {span.trace_id.hex() for span in spans} == {_TRACE}
    assert sum(span.kind == span.SPAN_KIND_SERVER for span in spans) == 4
    assert sum(span.kind == span.SPAN_KIND_CLIENT for span in spans) == 4
