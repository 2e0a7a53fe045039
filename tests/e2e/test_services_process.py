"""Services that depend on each other and fail, as an operator meets them: messages, exit codes."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.process import ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

BEGIN = """
import asyncio, logging, sys
from pingora_core import BackgroundService, Opt, Server, background_service
from pingora_core.services import Placement, Restart

class Work(BackgroundService):
    async def start(self, shutdown):
        logging.info("%s works", type(self).__name__)
        await shutdown.wait()

logging.basicConfig(level=logging.INFO, format="%(message)s")
server = Server(Opt.parse_args())
"""

BAD_START = """
class Discovery(Work):
    async def start_with_ready_notifier(self, shutdown, ready):
        await asyncio.sleep(0.02)
        raise OSError("the registry does not answer")

class Proxy(Work):
    pass

discovery = server.add_service(
    background_service("discovery", Discovery(), on_failure=Restart())
)
server.add_service(background_service("proxy", Proxy())).add_dependency(discovery)
server.run_forever()
"""

CRASH_LOOP = """
class Crashing(Work):
    async def start(self, shutdown):
        await asyncio.sleep(0)
        raise KeyError("crash")

policy = Restart(initial_delay=0.01, max_restarts=2)
server.add_service(background_service("crashing", Crashing(), on_failure=policy))
server.add_service(background_service("other", Work()))
server.run_forever()
"""

MISPLACED = """
one = server.add_service(background_service("one", Work(), placement=Placement.ONE_WORKER))
server.add_service(background_service("all", Work())).add_dependency(one)
server.run_forever()
"""

ADDED = """
class Broken(Work):
    async def start_with_ready_notifier(self, shutdown, ready):
        raise OSError("no")

class Adding(Work):
    async def start(self, shutdown):
        try:
            await server.start_service(background_service("broken", Broken()))
        except Exception as error:
            logging.info("refused: %s", error)
        first = await server.start_service(background_service("first", Work()))
        second = await server.start_service(
            background_service("second", Work()), dependencies=[first]
        )
        try:
            await server.stop_service(first)
        except ValueError as error:
            logging.info("refused: %s", error)
        await server.stop_service(second)
        await server.stop_service(first)
        logging.info("all is done")
        await shutdown.wait()

server.add_service(background_service("adding", Adding()))
server.run_forever()
"""


async def test_a_service_that_cannot_start_stops_the_server_and_is_named() -> None:
    """Whatever its policy: the last line says who and why, what waits for it is not started."""
    async with ServerProcess("-c", BEGIN + BAD_START) as server:
        assert await server.wait() == 1

    assert "service 'BG discovery' failed" in server.lines[-1]
    assert "the registry does not answer" in server.lines[-1]
    assert "Proxy works" not in server.lines
    assert "phase Running" not in server.lines
    assert not any("Traceback" in line for line in server.lines)


async def test_a_crash_loop_is_given_up() -> None:
    """Each failure and each pause is in the log, then the server stops with exit code 1."""
    async with ServerProcess("-c", BEGIN + CRASH_LOOP) as server:
        assert await server.wait() == 1

    assert sum("next try in 0.0 s" in line for line in server.lines) == 2
    assert sum("KeyError: 'crash'" in line for line in server.lines) >= 3
    assert "service 'BG crashing' failed" in server.lines[-1]
    assert "given up after 2 restarts in 600 s" in server.lines[-1]


@pytest.mark.parametrize("workers", [1, 2])
async def test_no_worker_may_wait_for_what_another_one_runs(tmp_path: Path, workers: int) -> None:
    """With workers a misplaced dependency is refused before anything is started."""
    conf = tmp_path / "conf.yaml"
    conf.write_text(f"workers: {workers}", encoding="utf-8")
    async with ServerProcess("-c", BEGIN + MISPLACED, "-c", str(conf)) as server:
        if workers == 1:
            await server.line_with("phase Running")
            server.send(signal.SIGTERM)
            assert await server.wait() == 0
            return
        assert await server.wait() == 2

    assert "'BG all' runs in every worker and depends on 'BG one'" in server.lines[-1]
    assert "Work works" not in server.lines


async def test_services_are_added_and_removed_by_another_one() -> None:
    """What fails to start is told to the service that wanted it; the server goes on."""
    async with ServerProcess("-c", BEGIN + ADDED) as server:
        await server.line_with("all is done")
        server.send(signal.SIGTERM)
        assert await server.wait() == 0

    refusals = [line for line in server.lines if line.startswith("refused: ")]
    assert "service 'BG broken' failed" in refusals[0]
    assert "'BG first' cannot be removed: it is needed by 'BG second'" in refusals[1]
