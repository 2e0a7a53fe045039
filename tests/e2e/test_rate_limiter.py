"""Rate limits as an operator meets them: one limit for all workers, whoever of them dies."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from tests.e2e.test_workers import children_of, write
from tests.support.client import RawClient
from tests.support.origin import Origin
from tests.support.origin_steps import reply
from tests.support.process import ROOT, ServerProcess
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.client import Response

EXAMPLE = str(ROOT / "examples" / "rate_limiter.py")
BURST = 30


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[tuple[ServerProcess, str]]:
    """Run a program with workers; yields it and where it listens."""
    async with ServerProcess(*arguments) as server:
        children: set[int] = set()
        try:
            line = await server.line_with("listens on ")
            await server.line_with("phase Running")
            children = children_of(server.process.pid)
            yield server, line.rpartition(" ")[2]
        finally:
            for pid in children | children_of(server.process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


async def ask(address: str, target: str = "/", *fields: tuple[str, str]) -> Response:
    async with await RawClient.connect(address) as client:
        return await client.request("GET", target, fields)


async def test_workers_refuse_at_the_total_also_when_one_is_killed(tmp_path: Path) -> None:
    """What a worker allowed before it died stays allowed, and its successor adds nothing."""
    conf = tmp_path / "conf.yaml"
    write(conf, workers=2)
    program = ("-m", "tests.support.rate_limit_program", "--burst", str(BURST), "-c", str(conf))
    async with running(*program) as (server, address):
        answers: list[tuple[int, int]] = []

        async def ask_until(count: int, pids: set[int]) -> None:
            """Ask until so many were allowed, and these workers have all answered."""
            while True:
                allowed = sum(status == 200 for status, _ in answers)
                if allowed >= count and pids <= {pid for _, pid in answers}:
                    return
                response = await ask(address)
                answers.append((response.status, int(response.body)))

        await ask_until(10, children_of(server.process.pid))
        victim = answers[0][1]
        os.kill(victim, signal.SIGKILL)
        await server.line_with("SIGKILL")

        def survivors() -> set[int]:
            return children_of(server.process.pid) - {victim}

        await eventually(lambda: len(survivors()) == 2, "the replacement")
        await ask_until(BURST, survivors())
        for _ in range(20):
            response = await ask(address)
            answers.append((response.status, int(response.body)))
            assert int(response.get("retry-after") or 0) > 0

        statuses = [status for status, _ in answers]
        assert statuses[:BURST] == [200] * BURST
        assert set(statuses[BURST:]) == {429}
        assert {pid for _, pid in answers} == survivors() | {victim}
        server.send(signal.SIGTERM)
        assert await server.wait() == 0


async def test_the_example_limits_clients_over_two_workers(tmp_path: Path) -> None:
    """By address and by path; the quota of a key is only looked at."""
    conf = tmp_path / "conf.yaml"
    write(conf, workers=2)
    options = ("--listen", "127.0.0.1:0", "--rate", "0.001", "--burst", "10", "--quota", "1")
    async with (
        Origin(reply(body=b"ok")) as origin,
        running(EXAMPLE, origin.address, *options, "-c", str(conf)) as (server, address),
    ):
        searches = [await ask(address, "/search?q=1") for _ in range(3)]
        keyed = [await ask(address, "/", ("X-Api-Key", "mine")) for _ in range(2)]
        others = [await ask(address) for _ in range(7)]

        assert [response.status for response in searches] == [200, 200, 429]
        assert searches[0].get("ratelimit-policy") == (
            '"client";q=10;w=10000, "search";q=2;w=10000'
        )
        assert (searches[0].get("ratelimit") or "").startswith('"client";r=9;t=1000, "search";r=1;')
        assert (searches[2].get("ratelimit") or "").startswith('"search";r=0;t=')
        assert [response.status for response in keyed] == [200, 200]
        assert [response.status for response in others] == [200] * 6 + [429]
        assert int(others[6].get("retry-after") or 0) in range(900, 1001)
        assert "violated-policies" in others[6].body.decode()
        await server.line_with("would be refused by: key")
        await server.line_with("refused by: client, would be refused by: -")
        assert len(origin.requests) == 10


async def test_the_example_spares_whom_it_is_told_to(tmp_path: Path) -> None:
    """Clients of such networks are not limited by address, and see no limits."""
    options = ("--listen", "127.0.0.1:0", "--burst", "1", "--exempt", "127.0.0.0/8")
    async with (
        Origin(reply(body=b"ok")) as origin,
        running(EXAMPLE, origin.address, *options) as (_, address),
    ):
        responses = [await ask(address) for _ in range(5)]

    assert {(response.status, response.get("ratelimit")) for response in responses} == {(200, None)}
