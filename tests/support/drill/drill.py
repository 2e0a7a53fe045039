"""The drill itself: one backend is killed, one slowed, one broken, all at once; then all are healed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Self

from tests.support.drill.load import Connection, Load
from tests.support.ports import free_port
from tests.support.process import ROOT, ServerProcess
from tests.support.waiting import eventually

__all__ = ["BackendProcess", "Drill", "DrillReport", "Sample"]

_RATIO = 0.2
_MIN_PER_SECOND = 10.0
_WINDOW = 10.0
_BAD = ("killed", "slowed", "broken")
_HEALTHY = "healthy"
# Another one than the proxy's: two services with the same address share a socket, port 0 or not.
_STATUS_HOST = "127.0.0.2"


class BackendProcess:
    """A backend in a process of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.drill.backend", self.name, str(self.port)),
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
            assert await self._process.stdout.readline(), "it has not started"

    async def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await process.communicate()

    async def behave(self, *, delay: float = 0.0, status: int = 200) -> None:
        connection = await Connection.open(self.port)
        await connection.get(f"/_set?delay={delay}&status={status}")
        connection.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()


@dataclass(frozen=True, slots=True)
class Sample:
    """What the proxy has said of itself at one time, which lies between two.

    Attributes:
        asked: When it was asked.
        time: When it had answered.
        ejected: The names of the backends that were out.
        requests: So far.
        retries: So far.
        refused: Retries that were refused so far.
    """

    asked: float
    time: float
    ejected: frozenset[str]
    requests: int
    retries: int
    refused: int


@dataclass(slots=True)
class DrillReport:
    """What came of it.

    Attributes:
        requests: By the clients.
        failures: That they saw.
        out: Seconds from the fault of each bad backend to its ejection.
        back: Seconds from its healing to its first answer.
        retries: Which the proxy has made.
        worst_use: Highest share of the budget that was used in any window.
        storm_requests: By the clients while all backends failed.
        storm_retries: Which the proxy has made of these.
        storm_refused: Which it has not made because the budget was used up.
        lag: Seconds that the machine had no time for the drill.
        answers: How often each backend has answered with 200.
        longest: Seconds that a bad backend may stay in, those left out that the machine was late.
    """

    requests: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    out: dict[str, float] = field(default_factory=dict)
    back: dict[str, float] = field(default_factory=dict)
    retries: int = 0
    worst_use: float = 0.0
    storm_requests: int = 0
    storm_retries: int = 0
    storm_refused: int = 0
    lag: float = 0.0
    answers: dict[str, int] = field(default_factory=dict)
    longest: float = 2.0

    @property
    def failure_share(self) -> float:
        """Share of the requests that failed for the clients, the storm left out."""
        return sum(self.failures.values()) / self.requests

    @property
    def missed(self) -> list[str]:
        """The bars that were not reached, empty if all were."""
        bars = {
            "fewer than 0.1 % failures seen by clients": self.failure_share < 0.001,
            f"out within {self.longest} s": max(self.out.values()) <= self.longest + self.lag,
            "retries within the budget": self.worst_use <= 1.0,
            "the budget held when everything failed": self.storm_refused > 0,
        }
        return [bar for bar, is_reached in bars.items() if not is_reached]

    def __str__(self) -> str:
        def seconds(times: dict[str, float]) -> str:
            return ", ".join(f"{name} {value:.2f} s" for name, value in times.items())

        return "\n".join(
            (
                f"requests {self.requests}, answers {self.answers}",
                f"failures seen by clients: {self.failures or 0} ({self.failure_share:.3%})",
                f"out after: {seconds(self.out)}",
                f"back after: {seconds(self.back)}",
                f"retries {self.retries}; the budget was used up to {self.worst_use:.0%}",
                f"all failing: {self.storm_requests} requests, {self.storm_retries} retries",
                f"all failing: {self.storm_refused} retries refused by the budget",
                f"the machine was late by {self.lag:.2f} s in all",
            )
        )


class Drill:
    """Runs it.

    Args:
        warm_up: Seconds of load before anything happens.
        phase: Seconds that the faults last.
        storm: Seconds that all backends fail in the end.
        rate: Requests per second.
        ejection_time: Seconds that the first ejection lasts.
        per_try_timeout: Seconds that the proxy gives a backend, less than the slow one takes.
    """

    def __init__(
        self,
        *,
        warm_up: float = 2.0,
        phase: float = 3.0,
        storm: float = 2.0,
        rate: float = 150.0,
        ejection_time: float = 1.0,
        per_try_timeout: float = 0.5,
    ) -> None:
        self._warm_up = warm_up
        self._phase = phase
        self._storm = storm
        self._rate = rate
        self._ejection_time = ejection_time
        self._per_try_timeout = per_try_timeout
        self._backends = {name: BackendProcess(name) for name in (*_BAD, _HEALTHY)}
        self._samples: list[Sample] = []
        self.report = DrillReport(longest=per_try_timeout + 1.5)

    async def run(self) -> DrillReport:
        async with AsyncExitStack() as stack:
            for backend in self._backends.values():
                await stack.enter_async_context(backend)
            proxy = await stack.enter_async_context(self._proxy())
            port = await _port(proxy)
            status = await Connection.open(await _port(proxy), _STATUS_HOST)
            stack.callback(status.close)
            sampling = asyncio.create_task(self._sample(status))
            try:
                await self._drill(port)
                await self._judge_storm(port)
            finally:
                sampling.cancel()
                await asyncio.wait([sampling])
        self.report.worst_use = max(map(self._use, range(len(self._samples))))
        return self.report

    def _proxy(self) -> ServerProcess:
        addresses = [f"127.0.0.1:{backend.port}" for backend in self._backends.values()]
        return ServerProcess(
            str(ROOT / "examples" / "failover.py"),
            *("--listen", "127.0.0.1:0", "--status", f"{_STATUS_HOST}:0"),
            *("--ejection-time", str(self._ejection_time), "--budget", str(_RATIO)),
            *("--per-try-timeout", str(self._per_try_timeout)),
            *addresses,
        )

    async def _drill(self, port: int) -> None:
        report = self.report
        killed, slowed, broken = (self._backends[name] for name in _BAD)
        async with Load(port, self._rate) as load:
            await eventually(lambda: len(load.answers) == len(self._backends))
            await asyncio.sleep(self._warm_up)
            began = time.monotonic()
            await killed.kill()
            await slowed.behave(delay=2.0)
            await broken.behave(status=500)
            for name in _BAD:
                sample = await self._sampled(lambda s, name=name: name in s.ejected, began)
                report.out[name] = sample.time - began
            report.lag = load.lag
            await asyncio.sleep(self._phase)
            await killed.start()
            await slowed.behave()
            await broken.behave()
            healed = time.monotonic()
            before = {name: load.answers[name] for name in _BAD}
            waiting = set(_BAD)
            async with asyncio.timeout(30):
                while waiting:
                    await asyncio.sleep(0.01)
                    for name in tuple(waiting):
                        if load.answers[name] >= before[name] + 10:
                            waiting.discard(name)
                            report.back[name] = time.monotonic() - healed
        report.requests = load.requests
        report.failures = dict(load.failures)
        report.answers = dict(load.answers)
        report.retries = self._samples[-1].retries

    async def _judge_storm(self, port: int) -> None:
        before = self._samples[-1]
        for backend in self._backends.values():
            await backend.behave(status=500)
        async with Load(port, self._rate) as load:
            await asyncio.sleep(self._storm)
        ended = time.monotonic()
        after = await self._sampled(lambda _: True, ended)
        self.report.storm_requests = load.requests
        self.report.storm_retries = after.retries - before.retries
        self.report.storm_refused = after.refused - before.refused

    async def _sample(self, status: Connection) -> None:
        names = {f"127.0.0.1:{b.port}": name for name, b in self._backends.items()}
        while True:
            asked = time.monotonic()
            _, _, body = await status.get("/")
            page = json.loads(body)
            states = page["backends"].items()
            self._samples.append(
                Sample(
                    asked,
                    time.monotonic(),
                    frozenset(names[address] for address, state in states if state == "ejected"),
                    page["requests"],
                    page["retries"],
                    page["retries refused"],
                )
            )
            await asyncio.sleep(0.02)

    async def _sampled(self, wanted: object, since: float) -> Sample:
        assert callable(wanted)

        def found() -> Sample | None:
            later = (s for s in reversed(self._samples) if s.time > since)
            matching = [s for s in later if wanted(s)]
            return matching[-1] if matching else None

        await eventually(lambda: found() is not None, "a state of the proxy")
        sample = found()
        assert sample is not None
        return sample

    def _use(self, index: int) -> float:
        # Of the budget, in the window that ends with the last retry before a sample. When exactly
        # that was is not known: no retry is counted that may lie before the window, and no request
        # is left out that may lie in it.
        last = self._samples[index]
        before = self._samples[max(index - 1, 0)]
        if last.retries == before.retries:
            return 0.0
        first = next(s for s in self._samples if s is last or s.asked >= last.time - _WINDOW)
        earlier = [s.requests for s in self._samples if s.time <= before.asked - _WINDOW]
        requests = last.requests - (earlier[-1] if earlier else 0)
        return (last.retries - first.retries) / (requests * _RATIO + _MIN_PER_SECOND * _WINDOW)


async def _port(proxy: ServerProcess) -> int:
    line = await proxy.line_with("listens on ")
    return int(line.rpartition(":")[2])
