"""Backends on real sockets that die, come back, stall, answer with errors, and flap."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services.service import ServiceReadyNotifier
from pingora_error import CustomCode, ErrorType
from pingora_load_balancing import Backend, Backends, LoadBalancer
from pingora_load_balancing.health import (
    CustomHealthCheck,
    HealthChecker,
    HttpHealthCheck,
    InitialHealth,
    TcpHealthCheck,
)
from tests.support.origin import Origin
from tests.support.origin_steps import reply, wait
from tests.support.ports import free_port
from tests.support.process import ROOT, ServerProcess
from tests.support.waiting import eventually
from tests.unit.pingora_core.connectors.rig import origin
from tests.unit.pingora_load_balancing.health.rig import TIMED_OUT, Silent, address, running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.origin import Exchange

pytestmark = pytest.mark.usefixtures("no_leaks")


async def test_backends() -> None:
    """After one round the bad backend, a closed port, is not ready, and the good ones are."""
    async with origin() as one, origin() as two:
        bad = f"127.0.0.1:{free_port()}"
        pool = Backends([one.address, bad, two.address])
        checker = HealthChecker(
            pool, TcpHealthCheck(), frequency=3600, initial=InitialHealth.FIRST_CHECK
        )
        async with running(checker) as run:
            await run.ready.wait()

            assert [state.is_ready for state in pool.current.states] == [True, False, True]
            error = checker.records[address(bad)].last_error
            assert error is not None
            assert error.etype is ErrorType.CONNECT_REFUSED
        await eventually(lambda: one.connections == two.connections == 1)
        await eventually(lambda: all(w.is_closing() for w in (*one.writers, *two.writers)))


async def test_killed_and_restarted(tmp_path: Path) -> None:
    """A backend is out while nobody listens, and back when somebody does, more than once."""
    path = str(tmp_path / "socket")
    where = address(f"unix:{path}")
    pool = Backends([f"unix:{path}"])
    heard: list[bool] = []
    checker = HealthChecker(
        pool,
        TcpHealthCheck(),
        frequency=0.01,
        consecutive_failure=2,
        health_changed=lambda _, healthy: heard.append(healthy),
    )
    async with running(checker):
        for _ in range(3):
            await eventually(lambda: not pool.is_ready(where))
            async with origin(path=path):
                await eventually(lambda: pool.is_ready(where))
        await eventually(lambda: not pool.is_ready(where))

    assert heard == [False, True] * 3 + [False]


async def test_a_process_that_is_killed() -> None:
    """The kernel refuses for it, or resets; started again on its port it is back."""
    port = free_port()
    where = address(f"127.0.0.1:{port}")
    script = str(ROOT / "examples" / "http_server.py")
    pool = Backends([f"127.0.0.1:{port}"])
    check = HttpHealthCheck(timeout=10.0, reuse_connection=True)
    async with running(HealthChecker(pool, check, frequency=0.02)):
        for _ in range(2):
            await eventually(lambda: not pool.is_ready(where))
            async with ServerProcess(script, "--listen", f"127.0.0.1:{port}") as server:
                await server.running()
                await eventually(lambda: pool.is_ready(where))
                server.send(signal.SIGKILL)
                await eventually(lambda: not pool.is_ready(where))


async def test_a_load_balancer_passes_over_the_sick() -> None:
    """With a health check of its own: nobody is sent to a backend that does not listen."""
    async with origin() as one, origin() as two:
        bad = f"127.0.0.1:{free_port()}"
        balancer = LoadBalancer(
            [one.address, bad, two.address],
            health_check=TcpHealthCheck(),
            health_check_frequency=3600,
        )
        health = balancer.health
        assert health is not None
        health.initial = InitialHealth.FIRST_CHECK
        switch, ready = ShutdownSwitch(), ServiceReadyNotifier()
        task = asyncio.create_task(balancer.start_with_ready_notifier(switch.watch, ready))
        await asyncio.wait_for(ready.wait(), 30)

        chosen = {str(balancer.select(b"", 10)) for _ in range(10)}
        switch.start()
        await asyncio.wait_for(task, 30)
        await eventually(lambda: one.connections == two.connections == 1)
        await eventually(lambda: all(w.is_closing() for w in (*one.writers, *two.writers)))

    assert chosen == {one.address, two.address}


async def test_errors_and_flapping() -> None:
    """A backend that answers with errors is out; one that flaps stays as it is."""
    pool = Backends()
    flapping = 0

    async def flap(exchange: Exchange) -> None:
        nonlocal flapping
        flapping += 1
        await exchange.reply("500 Oops" if flapping % 2 else "200 OK")

    async with Origin(reply("500 Oops")) as broken, Origin(flap) as moody:
        pool.replace([Backend(broken.address), Backend(moody.address)])
        checker = HealthChecker(
            pool,
            HttpHealthCheck(reuse_connection=True),
            frequency=0.003,
            consecutive_failure=2,
        )
        async with running(checker):
            await eventually(lambda: not pool.is_ready(address(broken.address)))
            await eventually(lambda: flapping > 20)
            records = checker.records
            assert pool.is_ready(address(moody.address))
            assert records[address(moody.address)].flips == 0
            error = records[address(broken.address)].last_error
            assert error is not None
            assert error.etype == CustomCode("UnexpectedStatus", 500)

            broken.handler = reply()
            await eventually(lambda: pool.is_ready(address(broken.address)))
    assert len(broken.connections) == len(moody.connections) == 1


async def test_stalling() -> None:
    """Backends that accept and say nothing are out, and do not hold up those that work."""
    async with AsyncExitStack() as stack:
        silent = [stack.enter_context(Silent()) for _ in range(5)]
        good = await stack.enter_async_context(Origin(reply()))
        pool = Backends([*(one.address for one in silent), good.address])
        checker = HealthChecker(
            pool, HttpHealthCheck(timeout=0.2, reuse_connection=True), frequency=0.01
        )
        await stack.enter_async_context(running(checker))

        await eventually(lambda: len(good.requests) > 5)
        await eventually(lambda: [s.is_ready for s in pool.current.states] == [False] * 5 + [True])
        reasons = {checker.records[address(one.address)].last_error for one in silent}
        assert all(r is not None and r.etype in TIMED_OUT for r in reasons)


async def test_gone_while_asked() -> None:
    """The connection of a check whose backend leaves is closed."""
    async with Origin(wait("never")) as server:
        pool = Backends([server.address])
        async with running(HealthChecker(pool, HttpHealthCheck(timeout=30), frequency=3600)):
            await server.requests_arrived()
            pool.replace([])
            server.open("never")
            await server.all_closed()


async def test_parallel_health_check() -> None:
    """A thousand backends on one listener, a bounded number of checks at a time."""
    now = most = 0

    async def count(exchange: Exchange) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        host = exchange.request.get("host") or ""
        sick = int(host.split(":")[0].rsplit(".", 1)[1]) % 10 == 0
        await exchange.reply("503 Sick" if sick else "200 OK")

    async with Origin(count, host="0.0.0.0") as server:
        hosts = [f"127.0.{n // 200}.{n % 200 + 1}" for n in range(1000)]
        pool = Backends(f"{host}:{server.port}" for host in hosts)
        checker = HealthChecker(
            pool,
            # Generous: it is not the time that is tested.
            HttpHealthCheck(timeout=30.0),
            frequency=3600,
            parallelism=32,
            initial=InitialHealth.FIRST_CHECK,
        )
        async with running(checker) as run:
            await asyncio.wait_for(run.ready.wait(), 50)

            assert pool.totals.sound == 900
            assert [str(s.backend) for s in pool.current.states if not s.is_healthy] == [
                f"{host}:{server.port}" for host in hosts if host.endswith("0")
            ]
        await server.all_closed()

    assert len(server.requests) == 1000
    assert 1 <= most <= 32


async def test_a_check_of_ones_own() -> None:
    """A function that does what it likes, here over a connection of its own."""

    async def speaks_first(backend: Backend) -> None:
        host, _, port = str(backend).partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            if await reader.readline() != b"220 ready\r\n":
                raise OSError("a wrong greeting")
        finally:
            writer.close()
            await writer.wait_closed()

    greeting = b"220 ready\r\n"

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        await reader.read()

    async with origin(greet) as server:
        pool = Backends([server.address])
        check = CustomHealthCheck(speaks_first)
        async with running(HealthChecker(pool, check, frequency=0.01)):
            await eventually(lambda: server.connections > 2)
            assert pool.is_ready(address(server.address))
            greeting = b"554 go away\r\n"
            await eventually(lambda: not pool.is_ready(address(server.address)))
