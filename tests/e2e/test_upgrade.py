"""A server that is replaced by the next one while it works: nothing is lost."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.load.counts import failures_of, table
from tests.support.load.crew import Crew
from tests.support.load.origin import LoadOrigin
from tests.support.load.site import ProxyProcess, Site
from tests.support.load.websocket import open_websocket
from tests.support.process import ROOT
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(300)

DRAIN = 1.5
NOBODY = 65534
WORKERS = pytest.mark.parametrize("workers", [1, 2], ids=["1 worker", "2 workers"])
# All sorts but the one that leaves no CPU to the others.
SIZES = {
    "h1-new": 2,
    "h1-5ms": 1,
    "h1-150ms": 1,
    "h1-slow": 1,
    "uds-new": 1,
    "uds-kept": 1,
    "tls-new": 1,
    "tls-kept": 1,
    "h2": 1,
    "upload": 1,
    "sse": 1,
    "sse-tls": 1,
    "ws": 1,
    "wss": 1,
}

FEW = {"h1-new": 1, "uds-new": 1, "h1-5ms": 1, "tls-kept": 1, "h2": 1, "sse": 1, "ws": 1}


@pytest.fixture
async def origin() -> AsyncIterator[LoadOrigin]:
    async with LoadOrigin() as origin:
        yield origin


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Ends what a test enters into it."""
    async with AsyncExitStack() as stack:
        yield stack


def site_of(
    directory: Path, origin: LoadOrigin, workers: int = 1, drain: float = DRAIN, **conf: object
) -> Site:
    return Site(directory, origin, {"workers": workers, "stream_drain_seconds": drain, **conf})


async def warm(crew: Crew) -> None:
    await eventually(lambda: crew.is_warm, "an answer for each sort of client")


async def goes_on(crew: Crew) -> None:
    requests = crew.requests()
    await eventually(
        lambda: crew.has_gone_on_since(requests), "another answer for each client", timeout=20
    )


def assert_nothing_failed(crew: Crew) -> None:
    assert not failures_of(crew.counts.values()), table(crew.counts.values())


# -------------------------------------------------------------------------- when it goes well


@WORKERS
async def test_upgrades_under_load_lose_nothing(
    tmp_path: Path, origin: LoadOrigin, stack: AsyncExitStack, workers: int
) -> None:
    """Clients of every sort: no request fails, no connection is reset."""
    site = site_of(tmp_path, origin, workers, drain=0.5)
    server = await (await stack.enter_async_context(ProxyProcess(site))).running()

    async with Crew(site.target, SIZES) as crew:
        await warm(crew)
        for version in ("2", "3"):
            site.configure(version)
            old = server
            server = await stack.enter_async_context(ProxyProcess(site, "-u"))
            old.send(signal.SIGQUIT)
            await server.running()
            assert await old.ended() == 0
            assert await site.version() == version
            await goes_on(crew)

    assert_nothing_failed(crew)
    assert not site.upgrade_sock.exists()
    assert await server.stop() == 0
    assert not os.path.exists(site.target.uds)  # noqa: ASYNC240, PTH110 - a look


@WORKERS
async def test_the_server_starts_its_successor_itself(
    tmp_path: Path, origin: LoadOrigin, stack: AsyncExitStack, workers: int
) -> None:
    """SIGUSR2: the same program with the same arguments, and the configuration of now."""
    site = site_of(tmp_path, origin, workers, drain=0.5)
    server = await (await stack.enter_async_context(ProxyProcess(site))).running()

    async with Crew(site.target, SIZES) as crew:
        await warm(crew)
        site.configure("2")
        server.send(signal.SIGUSR2)
        await server.says("phase Running", times=2)
        assert await server.ended() == 0
        assert await site.version() == "2"
        await goes_on(crew)

    assert_nothing_failed(crew)


@WORKERS
async def test_a_websocket_lives_until_its_drain_deadline(
    tmp_path: Path, origin: LoadOrigin, stack: AsyncExitStack, workers: int
) -> None:
    """It goes on over the old server, then it is closed properly: 1001, going away."""
    site = site_of(tmp_path, origin, workers)
    old = await (await stack.enter_async_context(ProxyProcess(site))).running()
    websocket = await open_websocket(site.target)
    stack.push_async_callback(websocket.close)

    new = await stack.enter_async_context(ProxyProcess(site, "-u"))
    old.send(signal.SIGQUIT)
    began = time.monotonic()
    await old.says("phase ShutdownGracePeriod")
    await new.running()

    async def talk() -> None:
        for number in range(1000):
            await websocket.send(f"number {number}")
            assert await asyncio.wait_for(websocket.recv(), 30) == f"number {number}"
            await asyncio.sleep(0.02)

    with pytest.raises(ConnectionClosed) as caught:
        await talk()

    assert time.monotonic() - began >= DRAIN * 0.9
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1001
    assert await old.ended() == 0


# ------------------------------------------------------------------------- when it goes wrong


@asynccontextmanager
async def undisturbed(site: Site) -> AsyncIterator[ProxyProcess]:
    """A server of version 1 under load; whatever is tried, its clients do not notice."""
    async with ProxyProcess(site) as server:
        await server.running()
        async with Crew(site.target, FEW) as crew:
            await warm(crew)
            yield server
            await goes_on(crew)
            assert await site.version() == "1"
        assert_nothing_failed(crew)
        assert {counts.reconnects for counts in crew.counts.values()} == {0}
        assert await server.stop() == 0


@WORKERS
@pytest.mark.parametrize(
    ("start", "code"),
    [("crash", 1), ("die", -signal.SIGKILL)],
    ids=["a service that fails", "a process that dies"],
)
async def test_a_successor_that_crashes_leaves_the_server_serving(
    tmp_path: Path, origin: LoadOrigin, workers: int, start: str, code: int
) -> None:
    """It has the sockets already, and is not ready yet."""
    site = site_of(tmp_path, origin, workers, worker_restart_limit=1)
    async with undisturbed(site) as old:
        site.configure("2", start=start)
        async with ProxyProcess(site, "-u") as new:
            old.send(signal.SIGQUIT)
            await new.says("received 3 listening sockets")
            # A supervisor outlives its workers for a moment, and tells of them.
            assert await new.ended() in {1, code}
        await old.says("the server goes on as it was")


@WORKERS
async def test_a_successor_that_fails_late_finishes_what_it_has_begun(
    tmp_path: Path, origin: LoadOrigin, workers: int
) -> None:
    """It has accepted connections that the server would have served, and cuts none of them."""
    site = site_of(tmp_path, origin, workers)
    async with undisturbed(site) as old:
        site.configure("2", start="late", is_start_awaited=False)
        async with ProxyProcess(site, "-u") as new:
            old.send(signal.SIGQUIT)
            assert await new.ended() == 1
            assert new.count("told to crash")
        await old.says("the server goes on as it was")


@WORKERS
async def test_a_successor_that_is_killed_leaves_the_server_serving(
    tmp_path: Path, origin: LoadOrigin, workers: int
) -> None:
    """kill -9 while it comes up."""
    site = site_of(tmp_path, origin, workers)
    async with undisturbed(site) as old:
        site.configure("2", start="never")
        async with ProxyProcess(site, "-u") as new:
            old.send(signal.SIGQUIT)
            await new.says("service 'BG start' starts")
            new.send(signal.SIGKILL)
            await old.says("the server goes on as it was")


@WORKERS
async def test_a_successor_that_is_never_ready_leaves_the_server_serving(
    tmp_path: Path, origin: LoadOrigin, workers: int
) -> None:
    """There is a limit to waiting for it."""
    site = site_of(tmp_path, origin, workers, upgrade_ready_timeout_seconds=0.5)
    async with undisturbed(site) as old:
        site.configure("2", start="never")
        async with ProxyProcess(site, "-u"):
            old.send(signal.SIGQUIT)
            await old.says("is not ready after 0.5 s")


async def test_a_bad_configuration_leaves_the_server_serving(
    tmp_path: Path, origin: LoadOrigin
) -> None:
    """The successor that the server starts itself ends before it asks for anything."""
    site = site_of(tmp_path, origin)
    async with undisturbed(site) as old:
        site.conf_path.write_text("workers: many\n")
        old.send(signal.SIGUSR2)
        await old.says("the server goes on as it was")
        assert old.count("workers: got 'many'") == 1


async def test_nobody_to_hand_over_to_leaves_the_server_serving(
    tmp_path: Path, origin: LoadOrigin
) -> None:
    """SIGQUIT without a successor is no way to stop a server."""
    site = site_of(tmp_path, origin, upgrade_sock_connect_accept_max_retries=0)
    async with undisturbed(site) as old:
        old.send(signal.SIGQUIT)
        await old.says("no successor listens on the upgrade socket")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of another user")
async def test_an_upgrade_socket_of_another_user_leaves_the_server_serving(
    tmp_path: Path, origin: LoadOrigin
) -> None:
    """Neither side has anything to do with it."""
    site = site_of(tmp_path, origin, upgrade_sock_connect_accept_max_retries=0)
    with socket.socket(socket.AF_UNIX) as trap:
        trap.bind(str(site.upgrade_sock))
        os.chown(site.upgrade_sock, NOBODY, NOBODY)
    async with undisturbed(site) as old:
        async with ProxyProcess(site, "-u") as new:
            assert await new.ended() == 1
            assert new.count(f"belongs to another user: {NOBODY}") == 1
        old.send(signal.SIGQUIT)
        await old.says("the server goes on as it was")
    assert site.upgrade_sock.is_socket()


async def test_an_upgrade_that_failed_can_be_tried_again(
    tmp_path: Path, origin: LoadOrigin, stack: AsyncExitStack
) -> None:
    """Nothing of the first attempt is left in the way of the second."""
    site = site_of(tmp_path, origin, drain=0.2)
    old = await (await stack.enter_async_context(ProxyProcess(site))).running()
    async with Crew(site.target, FEW) as crew:
        await warm(crew)
        site.configure("2", start="crash")
        async with ProxyProcess(site, "-u") as failing:
            old.send(signal.SIGQUIT)
            await old.says("the server goes on as it was")
            assert await failing.ended() == 1

        site.configure("2")
        new = await stack.enter_async_context(ProxyProcess(site, "-u"))
        old.send(signal.SIGQUIT)
        await new.running()
        assert await old.ended() == 0
        await goes_on(crew)
    assert_nothing_failed(crew)


# -------------------------------------------------------------------------------- the example


@WORKERS
async def test_the_demo_loses_nothing(workers: int) -> None:
    """The example ends with its verdict, and with 0."""
    demo = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "examples" / "upgrade_demo.py"),
        f"--workers={workers}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(60):
            output, _ = await demo.communicate()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(demo.pid, signal.SIGKILL)
        await demo.wait()
    assert re.fullmatch(rb"version 1 -> version 2, \d{3,} requests, 0 failed\n", output)
    assert demo.returncode == 0


async def test_the_clients_notice_a_server_that_breaks_off(
    tmp_path: Path, origin: LoadOrigin
) -> None:
    """A stop without grace is what these tests would see if an upgrade were one."""
    site = site_of(tmp_path, origin)
    async with ProxyProcess(site) as server:
        await server.running()
        async with Crew(site.target, SIZES) as crew:
            await warm(crew)
            server.send(signal.SIGINT)
            assert await server.ended() == 0
            await eventually(
                lambda: all(counts.failed for counts in crew.counts.values()),
                "a failure of every client",
                timeout=20,
            )
