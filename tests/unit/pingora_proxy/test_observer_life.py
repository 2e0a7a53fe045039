"""Observers live as long as the services that they observe, and no longer."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

import pytest

from pingora_core.metrics import Description, Kind, Reading, Registry
from pingora_core.runtime.log_sinks import FileSink, LogQueue
from pingora_error import Error, ErrorType
from pingora_proxy import observe
from pingora_proxy.access_log import AccessLog
from pingora_proxy.metrics import ProxyMetrics
from pingora_proxy.observe import ProxyObserver
from pingora_proxy.testing import ScriptedOrigin, reply
from tests.support.client import RawClient
from tests.support.proxy import BareProxy, RunningProxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pingora_proxy import Session

_CALLS = Description(otel_name="test.calls", kind=Kind.COUNTER, help="Calls.", labels=("service",))


class _Living(ProxyObserver):
    def __init__(self, told: list[str]) -> None:
        self.told = told

    async def startup(self) -> None:
        self.told.append("startup")

    def request_ended(self, session: Session, error: Error | None) -> None:
        self.told.append("request")

    async def cleanup(self) -> None:
        self.told.append("cleanup")

    def read_metrics(self, service: str) -> Iterator[Reading]:
        yield Reading(_CALLS, len(self.told), (service,))


class _Application(BareProxy):
    def __init__(self, origin: str, told: list[str], *, fails: bool = False) -> None:
        super().__init__(origin)
        self.told = told
        self.fails = fails

    async def startup(self) -> None:
        self.told.append("application's startup")
        if self.fails:
            raise Error.internal(ErrorType.INTERNAL_ERROR, "on purpose")

    async def cleanup(self) -> None:
        self.told.append("application's cleanup")


async def _get(address: str) -> int:
    async with await RawClient.connect(address) as client:
        return (await client.request("GET", "/")).status


async def test_an_observer_begins_first_and_ends_last() -> None:
    """Before anybody is listened to; after the last request and the application's own end."""
    told: list[str] = []
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200))
        app = _Application(origin.address, told)
        async with RunningProxy(app, observers=[_Living(told)]) as proxy:
            assert told == ["startup", "application's startup"]
            assert await _get(proxy.address) == 200
    assert told[2:] == ["request", "application's cleanup", "cleanup"]


async def test_an_observer_of_two_services_ends_with_the_last() -> None:
    """Each call is made once; it may be used again afterwards."""
    told: list[str] = []
    shared = _Living(told)
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200))
        for _ in range(2):
            async with RunningProxy(BareProxy(origin.address), observers=[shared]) as longer:
                async with RunningProxy(BareProxy(origin.address), observers=[shared]):
                    pass
                assert told == ["startup"]
                assert await _get(longer.address) == 200
            assert told == ["startup", "request", "cleanup"]
            told.clear()


async def test_a_service_that_does_not_start_lets_its_observers_go() -> None:
    """What was begun is ended; the others were never asked to."""
    told: list[str] = []
    proxy = RunningProxy(_Application("127.0.0.1:1", told, fails=True), observers=[_Living(told)])
    with pytest.raises(Error, match="on purpose"):
        async with proxy:
            pass
    assert told[-1] == "cleanup"


async def test_one_that_does_not_end_keeps_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its time is bounded, an exception is logged, and the others end all the same."""
    monkeypatch.setattr(observe, "_CLEANUP_SECONDS", 0.02)
    told: list[str] = []

    class Stuck(ProxyObserver):
        async def cleanup(self) -> None:
            await asyncio.Event().wait()

    class Broken(ProxyObserver):
        async def cleanup(self) -> None:
            raise RuntimeError("on purpose")

    observers = [_Living(told), Stuck(), Broken()]
    with caplog.at_level(logging.WARNING):
        async with RunningProxy(BareProxy("127.0.0.1:1"), observers=observers):
            pass
    assert told == ["startup", "cleanup"]
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


async def test_an_access_log_needs_nobody_to_close_it(tmp_path: Path) -> None:
    """What was logged is in the file when the service has ended, and in the metrics."""
    log = AccessLog(LogQueue(FileSink(tmp_path / "access.log")))
    registry = Registry()
    observer = ProxyMetrics(registry)
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200))
        proxy = RunningProxy(BareProxy(origin.address), observers=[observer, log])
        observer.watch(proxy.service)
        async with proxy:
            for _ in range(3):
                assert await _get(proxy.address) == 200
    lines = (tmp_path / "access.log").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == [200, 200, 200]
    series = registry.collect()["pingora_log_lines_total"].series
    assert series[proxy.service.name, "written"] == [3.0]
    log.queue.put(b"late")
    assert registry.collect()["pingora_log_lines_total"].series[proxy.service.name, "dropped"] == [
        1
    ]


async def test_what_observers_count_is_in_the_metrics() -> None:
    """Those of a service, under its name."""
    registry = Registry()
    observer = ProxyMetrics(registry)
    proxy = RunningProxy(BareProxy("127.0.0.1:1"), observers=[observer, _Living(["x"])])
    observer.watch(proxy.service)
    assert registry.collect()["test_calls_total"].series == {(proxy.service.name,): [1.0]}
