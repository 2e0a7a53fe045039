"""Many upgrades and reloads in a row under load: what do the clients lose?"""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.load.counts import table
from tests.support.load.process import CrewProcess, OriginProcess
from tests.support.load.site import Site

from conformance.upgrade_soak.processes import Generations, slow_steps_in, warnings_in

if TYPE_CHECKING:
    from tests.support.load.counts import Counts

__all__ = ["Plan", "run"]

_DRAIN_SECONDS = 1.0
_STEP_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done.

    Attributes:
        workers: Of the server.
        upgrades: How many; every other one is started by the server itself.
        reloads: How many.
        debug: Whether the server runs in asyncio's debug mode.
        logs: Folder that its logs are kept in; None to throw them away.
    """

    workers: int
    upgrades: int
    reloads: int
    debug: bool
    logs: Path | None


async def run(plan: Plan) -> bool:
    """Upgrade and reload in turns, and print what it did to the clients.

    Args:
        plan: How often.

    Returns:
        Whether nothing was lost.
    """
    print(f"{plan.upgrades} upgrades and {plan.reloads} reloads, workers: {plan.workers}")
    with tempfile.TemporaryDirectory(prefix="pingora-soak-") as name:
        async with OriginProcess() as origin:
            conf = {"workers": plan.workers, "stream_drain_seconds": _DRAIN_SECONDS}
            site = Site(Path(name), origin, conf)
            environment = {"PYTHONASYNCIODEBUG": "1"} if plan.debug else {}
            async with Generations(site, environment) as server:
                steps = max(plan.upgrades, plan.reloads)
                limit = (steps + 3) * 3 * _STEP_SECONDS
                async with CrewProcess(site.target, None, limit) as crew:
                    await _wait_until_served(crew, dict.fromkeys(await crew.requests(), 0))
                    for number in range(steps):
                        await _step(server, crew, number, plan)
                    counts = await crew.finish()
                await server.stop()
                lines = server.lines(plan.logs)
    if plan.debug:
        print(slow_steps_in(lines))
    return _judge(counts, warnings_in(lines))


async def _step(server: Generations, crew: CrewProcess, number: int, plan: Plan) -> None:
    said = [f"  {number + 1:3}"]
    if number < plan.upgrades:
        began = time.monotonic()
        if number % 2:
            await server.upgrade_itself()
            how = "SIGUSR2"
        else:
            await server.upgrade_by_hand()
            how = "-u, SIGQUIT"
        said.append(f"upgrade ({how}): {time.monotonic() - began:.1f} s to the end of the old one")
        await _wait_until_served(crew, await crew.requests())
    if number < plan.reloads:
        began = time.monotonic()
        await server.reload(f"reload {number}")
        said.append(f"reload: {time.monotonic() - began:.2f} s")
        await _wait_until_served(crew, await crew.requests())
    print("  ".join(said), flush=True)


async def _wait_until_served(crew: CrewProcess, before: dict[str, int]) -> None:
    # Every client again: so no sort of them sleeps through the run.
    latest: dict[str, int] = {}
    asked = time.monotonic()
    while not latest or any(latest[name] <= before[name] for name in before):
        latest = await crew.requests()
        if time.monotonic() - asked > _STEP_SECONDS:
            idle = [name for name in before if latest[name] <= before[name]]
            msg = f"not served any more: {', '.join(idle)}"
            raise AssertionError(msg)
        await asyncio.sleep(0.05)


def _judge(counts: list[Counts], warnings: list[str]) -> bool:
    print(table(counts))
    failed = sum(row.failed for row in counts)
    resets = sum(row.resets for row in counts)
    for line in warnings[:20]:
        print(f"  log: {line}")
    is_met = not failed and not resets and not warnings
    verdict = "met" if is_met else "MISSED"
    print(
        f"failed requests: {failed}, resets: {resets}, warnings in the logs: {len(warnings)}; "
        f"at most 0 each: {verdict}\n",
        flush=True,
    )
    return is_met
