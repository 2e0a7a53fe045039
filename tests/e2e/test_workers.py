"""A server with workers, as an operator meets it: faults, signals, recycling, leadership."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.client import RawClient
from tests.support.process import ServerProcess
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Workers:
    """A running server with workers.

    Attributes:
        server: Its supervisor.
        address: Where it listens.
    """

    def __init__(self, server: ServerProcess, address: str) -> None:
        self.server = server
        self.address = address

    @property
    def pids(self) -> set[int]:
        """The workers that live."""
        return children_of(self.server.process.pid)

    async def get(self, target: str = "/") -> str:
        async with await RawClient.connect(self.address) as client:
            response = await client.request("GET", target)
        assert response.status == 200, response
        return response.body.decode()

    async def get_all(self, count: int) -> set[int]:
        """Ask until so many workers have answered."""
        seen: set[int] = set()
        async with asyncio.timeout(30):
            while len(seen) < count:
                seen.add(int(await self.get()))
        return seen


def children_of(pid: int) -> set[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return {int(each) for each in path.read_text(encoding="ascii").split()}
    except FileNotFoundError:
        return set()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2]
    except FileNotFoundError:
        return False
    return state.split()[0] != "Z"


@asynccontextmanager
async def running(
    tmp_path: Path, *arguments: str, listen: str = "127.0.0.1:0", **conf: object
) -> AsyncIterator[Workers]:
    path = tmp_path / "conf.yaml"
    write(path, **{"workers": 2} | conf)
    program = ("-m", "tests.support.worker_program", "--listen", listen, "-c", str(path))
    async with ServerProcess(*program, *arguments) as server:
        children: set[int] = set()
        try:
            listens = await server.line_with("listens on ")
            await server.line_with("phase Running")
            children = children_of(server.process.pid)
            yield Workers(server, listens.rpartition(" ")[2])
        finally:
            for pid in children | children_of(server.process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def write(path: Path, **conf: object) -> None:
    path.write_text("".join(f"{key}: {value}\n" for key, value in conf.items()), encoding="utf-8")


# ------------------------------------------------------------------------------------- serving


async def test_every_worker_serves(tmp_path: Path) -> None:
    """The workers are children of the process that was started, and share its socket."""
    async with running(tmp_path) as workers:
        assert await workers.get_all(2) == workers.pids


async def test_workers_are_bound_to_processors(tmp_path: Path) -> None:
    """Each to one of those that the server may use, in turn; the supervisor to none."""
    usable = sorted(os.sched_getaffinity(0))
    async with running(tmp_path, worker_cpu_affinity="auto") as workers:
        bound = [os.sched_getaffinity(pid) for pid in workers.pids]

        wanted = [{usable[index % len(usable)]} for index in range(2)]
        assert sorted(bound, key=min) == sorted(wanted, key=min)
        assert sorted(os.sched_getaffinity(workers.server.process.pid)) == usable


async def test_a_worker_that_is_killed_is_replaced_and_nobody_else_notices(tmp_path: Path) -> None:
    """Only what was in flight in it is lost; its place is filled again at once."""
    async with running(tmp_path) as workers:
        before = await workers.get_all(2)
        async with await RawClient.connect(workers.address) as client:
            mine = int((await client.request("GET", "/")).body)
            (other,) = before - {mine}

            os.kill(other, signal.SIGKILL)
            await workers.server.line_with("SIGKILL")
            await eventually(lambda: len(workers.pids - {other}) == 2, "the replacement")

            assert int((await client.request("GET", "/")).body) == mine
        assert await workers.get_all(2) == workers.pids == (workers.pids - {other})


async def test_workers_that_all_die_come_back(tmp_path: Path) -> None:
    """Connections that come meanwhile wait for the next worker instead of being refused."""
    async with running(tmp_path) as workers:
        before = workers.pids

        for pid in before:
            os.kill(pid, signal.SIGKILL)

        assert int(await workers.get()) not in before


async def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    """One that gives no sign of life says where it hangs, is killed and replaced."""
    async with running(tmp_path, worker_heartbeat_timeout_seconds=1.5) as workers:
        before = workers.pids
        async with await RawClient.connect(workers.address) as client:
            await client.send(b"GET /block HTTP/1.1\r\nHost: a\r\n\r\n")

            await workers.server.line_with("has not answered for")
            await workers.server.line_with("worker_program.py")  # of the dump
            await workers.server.line_with("SIGKILL")

        await eventually(lambda: len(workers.pids - before) == 1, "the replacement")
        assert await workers.get_all(2) == workers.pids


async def test_a_stopped_worker_is_replaced(tmp_path: Path) -> None:
    """A worker that does not run at all is killed just the same."""
    async with running(tmp_path, worker_heartbeat_timeout_seconds=1.5) as workers:
        before = workers.pids
        os.kill(min(before), signal.SIGSTOP)

        await workers.server.line_with("has not answered for")

        await eventually(lambda: len(workers.pids - {min(before)}) == 2, "the replacement")


async def test_a_crash_loop_ends_the_server(tmp_path: Path) -> None:
    """A server whose workers do nothing but die says so and ends, for its manager to see."""
    path = tmp_path / "conf.yaml"
    write(path, workers=1, worker_max_requests=1000, worker_restart_limit=3)
    program = ("-m", "tests.support.worker_program", "-c", str(path), "--fail", "crash")
    async with ServerProcess(*program) as server:
        assert await server.wait() == 1

    assert "ended with exit code 3" in server.lines[-1]
    assert "more than 3 times within 60 s" in server.lines[-1]


async def test_a_service_that_fails_stops_the_whole_server(tmp_path: Path) -> None:
    """What a service declares about its failure holds for the server, not for one worker."""
    path = tmp_path / "conf.yaml"
    write(path, workers=2)
    program = ("-m", "tests.support.worker_program", "-c", str(path), "--fail", "error")
    async with ServerProcess(*program) as server:
        assert await server.wait() == 1

    assert "no luck today" in server.lines[-1]


# ------------------------------------------------------------------------------------- stopping


async def test_sigterm_drains_all_workers(tmp_path: Path) -> None:
    """What is in flight in any of them ends; then all processes have gone."""
    async with running(tmp_path) as workers:
        pids = workers.pids
        slow = [asyncio.create_task(workers.get("/slow")) for _ in range(8)]
        for _ in slow:
            await workers.server.line_with("a slow request")

        workers.server.send(signal.SIGTERM)

        assert {int(each) for each in await asyncio.gather(*slow)} <= pids
        assert await workers.server.wait() == 0
        assert not any(map(is_alive, pids))


async def test_a_second_signal_forces_all_workers(tmp_path: Path) -> None:
    """Whoever asks twice gets the end of all processes."""
    async with running(tmp_path) as workers:
        pids = workers.pids
        async with await RawClient.connect(workers.address) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
            await asyncio.sleep(0.05)
            workers.server.send(signal.SIGTERM)
            await workers.server.line_with("phase ShutdownGracePeriod")

            workers.server.send(signal.SIGTERM)

            assert await workers.server.wait() == 0
        assert not any(map(is_alive, pids))


async def test_workers_without_a_supervisor_drain_and_end(tmp_path: Path) -> None:
    """They notice its death, finish what is in flight and leave the address to the next server."""
    async with running(tmp_path) as workers:
        pids = workers.pids
        address = workers.address
        slow = asyncio.create_task(workers.get("/slow"))
        await workers.server.line_with("a slow request")

        workers.server.send(signal.SIGKILL)

        assert int(await slow) in pids
        await workers.server.wait()
        await eventually(lambda: not any(map(is_alive, pids)), "the end of the workers")
        async with running(tmp_path, listen=address) as following:
            assert int(await following.get()) in following.pids


async def test_a_worker_that_is_told_to_stop_is_replaced(tmp_path: Path) -> None:
    """SIGTERM to a worker lets it end in the graceful way and another take its place."""
    async with running(tmp_path) as workers:
        first = min(workers.pids)

        os.kill(first, signal.SIGTERM)

        await eventually(lambda: len(workers.pids - {first}) == 2, "the replacement")
        assert await workers.get_all(2) == workers.pids


# ------------------------------------------------------------------------------------ recycling


async def test_workers_are_recycled_after_requests(tmp_path: Path) -> None:
    """A worker that has served its share is replaced, and no request fails meanwhile."""
    async with running(tmp_path, worker_max_requests=50) as workers:
        before = workers.pids
        async with asyncio.timeout(20):
            while workers.pids & before:
                await workers.get()


async def test_workers_are_recycled_when_they_have_grown(tmp_path: Path) -> None:
    """A worker that occupies too much memory is replaced."""
    limit = 128 << 20
    async with running(tmp_path, workers=1, worker_max_memory=limit) as workers:
        (before,) = workers.pids
        for _ in range(3):
            await workers.get("/eat")

        await workers.server.line_with("is replaced: it occupies")
        await eventually(lambda: workers.pids and before not in workers.pids, "the replacement")


# ----------------------------------------------------------------------------------- leadership


async def test_one_worker_leads_and_another_takes_over(tmp_path: Path) -> None:
    """Work that is for one worker runs in one, and in another one when that dies."""
    async with running(tmp_path) as workers:
        leader = leader_in(workers)

        os.kill(leader, signal.SIGKILL)

        line = await workers.server.line_with("single runs in")
        assert int(line.rpartition(" ")[2]) in workers.pids - {leader}


def leader_in(workers: Workers) -> int:
    found = [re.search(r"single runs in (\d+)", line) for line in workers.server.lines]
    (leader,) = [int(each[1]) for each in found if each]
    return leader


# --------------------------------------------------------------------------------------- reload


async def test_a_reload_reaches_all_workers_and_those_that_come_later(tmp_path: Path) -> None:
    """The program is told in each of them, without a restart; a replacement starts with it."""
    async with running(tmp_path) as workers:
        before = workers.pids
        write(tmp_path / "conf.yaml", workers=2, greeting="servus")

        workers.server.send(signal.SIGHUP)
        for _ in range(2):
            await workers.server.line_with("the new configuration is in use")

        assert {await workers.get("/greeting") for _ in range(30)} == {"servus"}
        assert workers.pids == before
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        assert {await workers.get("/greeting") for _ in range(30)} == {"servus"}


@pytest.mark.parametrize(
    ("conf", "complaint"),
    [
        ({"workers": "many"}, "workers: got 'many'"),
        ({"workers": 2, "greeting": 5}, "greeting: wanted text"),
    ],
    ids=["refused-by-server", "refused-by-program"],
)
async def test_a_bad_reload_changes_nothing(
    tmp_path: Path, conf: dict[str, object], complaint: str
) -> None:
    """What is wrong with it is in the log; the server goes on as it was."""
    async with running(tmp_path) as workers:
        before = workers.pids
        write(tmp_path / "conf.yaml", **conf)

        workers.server.send(signal.SIGHUP)

        line = await workers.server.line_with("Reload failed, the server goes on as it was")
        assert complaint in line
        assert {await workers.get("/greeting") for _ in range(10)} == {"hello"}
        assert workers.pids == before


async def test_a_reload_changes_the_number_of_workers(tmp_path: Path) -> None:
    """More are started, those that are too many end in the graceful way."""
    async with running(tmp_path) as workers:
        write(tmp_path / "conf.yaml", workers=3)
        workers.server.send(signal.SIGHUP)
        await eventually(lambda: len(workers.pids) == 3, "the third worker")
        await workers.get_all(3)

        write(tmp_path / "conf.yaml", workers=2)
        workers.server.send(signal.SIGHUP)
        await eventually(lambda: len(workers.pids) == 2, "its end")
        assert await workers.get_all(2) == workers.pids


# ------------------------------------------------------------------------------------ lame duck


async def test_readiness_is_false_while_listeners_still_accept(tmp_path: Path) -> None:
    """For a while a balancer can see that the server is going before connections are refused."""
    async with running(tmp_path, lame_duck_seconds=1.0) as workers:
        async with await RawClient.connect(workers.address) as client:
            assert (await client.request("GET", "/ready")).status == 200

        workers.server.send(signal.SIGTERM)
        await workers.server.line_with("phase GracefulTerminate")

        async def status() -> int:
            async with await RawClient.connect(workers.address) as probe:
                return (await probe.request("GET", "/ready")).status

        async with asyncio.timeout(30):
            while await status() != 503:
                pass
        assert await workers.server.wait() == 0
