"""Metrics of a server with workers: whichever is asked tells all, and killing one loses nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from tests.support.client import RawClient
from tests.support.collectors import Collector
from tests.support.origin import Origin
from tests.support.origin_steps import reply
from tests.support.process import ROOT, ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

PROGRAM = str(ROOT / "examples" / "metrics.py")


class Running:
    """The example while it runs.

    Attributes:
        proxy: Where the proxy listens.
        page: Where the metrics are.
    """

    def __init__(self, server: ServerProcess, proxy: str, page: str) -> None:
        self.server = server
        self.proxy = proxy
        self.page = page

    async def ask(self, count: int) -> None:
        for number in range(count):
            async with await RawClient.connect(self.proxy) as client:
                fields = [("X-Tenant", "acme")]
                response = await client.request("GET", f"/users/{number}", fields)
            assert response.status == 200

    async def read(self) -> dict[tuple[str, str], float]:
        """Tell the numbers by name and the value of the first label."""
        async with await RawClient.connect(self.page) as client:
            response = await client.request("GET", "/metrics")
        assert response.status == 200, response
        return {
            (sample.name, next(iter(sample.labels.values()), "")): sample.value
            for family in text_string_to_metric_families(response.body.decode())
            for sample in family.samples
        }

    async def read_until(
        self, holds: Callable[[dict[tuple[str, str], float]], bool]
    ) -> dict[tuple[str, str], float]:
        async with asyncio.timeout(30):
            while not holds(numbers := await self.read()):  # noqa: ASYNC110 - of other processes
                await asyncio.sleep(0.05)
        return numbers

    @property
    def workers(self) -> set[int]:
        pid = self.server.process.pid
        path = Path(f"/proc/{pid}/task/{pid}/children")
        return {int(each) for each in path.read_text(encoding="ascii").split()}


async def running(server: ServerProcess) -> Running:
    proxy = await server.line_with("Proxy Service' listens on ")
    page = await server.line_with("'Prometheus' listens on ")
    await server.line_with("phase Running")
    return Running(server, proxy.rpartition(" ")[2], page.rpartition(" ")[2])


async def test_a_killed_worker_takes_no_counts_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums over the workers are right, also after one was killed and another has come."""
    monkeypatch.setenv("PINGORA_WORKERS", "2")
    arguments = ("--listen", "127.0.0.1:0", "--metrics", "127.0.0.2:0")
    requests = ("http_server_request_duration_seconds_count", "GET")
    async with (
        Origin(reply(body=b"ok")) as origin,
        ServerProcess(PROGRAM, origin.address, *arguments) as server,
    ):
        example = await running(server)
        await example.ask(20)
        before = await example.read_until(lambda numbers: numbers.get(requests) == 20)
        assert before["gateway_tenant_requests_total", "acme"] == 20
        assert before["pingora_workers", ""] == 2
        assert before["pingora_worker_starts_total", ""] == 2
        assert {worker for name, worker in before if name == "process_memory_usage_bytes"} == {
            "0",
            "1",
        }
        for _ in range(10):  # whichever is asked
            assert (await example.read())[requests] == 20

        os.kill(min(example.workers), signal.SIGKILL)
        after = await example.read_until(
            lambda numbers: numbers["pingora_worker_starts_total", ""] == 3
        )
        assert after["pingora_worker_ends_total", "killed"] == 1
        await example.read_until(lambda numbers: numbers["pingora_workers", ""] == 2)
        assert (await example.read())[requests] == 20
        await example.ask(5)
        last = await example.read_until(lambda numbers: numbers[requests] >= 25)
        assert last[requests] == 25
        server.send(signal.SIGTERM)
        assert await server.wait() == 0


async def test_a_collector_gets_them_too() -> None:
    """With ``--otlp``, at the latest when the server ends."""
    arguments = ("--listen", "127.0.0.1:0", "--metrics", "127.0.0.2:0")
    with Collector() as collector:
        url = f"http://{collector.address}/v1/metrics"
        async with (
            Origin(reply(body=b"ok")) as origin,
            ServerProcess(PROGRAM, origin.address, "--otlp", url, *arguments) as server,
        ):
            example = await running(server)
            await example.ask(1)
            server.send(signal.SIGTERM)
            assert await server.wait() == 0
    assert b"http.server.request.duration" in collector.bodies[-1][1]
