"""The command line: ``./tools/dev conformance upgrade_soak``."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from conformance.upgrade_soak import memory, upgrades

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


class _Options(argparse.Namespace):
    upgrades: int
    reloads: int
    workers: list[int]
    minutes: float
    round_seconds: float
    debug: bool
    logs: Path | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for and print the counts.

    Args:
        arguments: The command line after the name; None for the process's own.

    Returns:
        The exit code: 0 if every bar was met.
    """
    options = _parse(arguments)
    try:
        return uvloop.run(_run(options))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("upgrade_soak: stopped", file=sys.stderr)
        return 130
    except AssertionError as error:
        print(f"upgrade_soak: {error}", file=sys.stderr)
        return 1


async def _run(options: _Options) -> int:
    # Ends like Ctrl-C, so that every process is stopped and every folder removed.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    missed = 0
    for workers in options.workers:
        if options.minutes:
            seconds = options.minutes * 60
            plan = memory.Plan(workers, seconds, options.round_seconds, options.debug, options.logs)
            missed += not await memory.run(plan)
        else:
            steps = upgrades.Plan(
                workers, options.upgrades, options.reloads, options.debug, options.logs
            )
            missed += not await upgrades.run(steps)
    return 1 if missed else 0


def _parse(arguments: Sequence[str] | None) -> _Options:
    parser = argparse.ArgumentParser(
        prog="tools/dev conformance upgrade_soak",
        description="Upgrades and reloads a proxy under a steady load of clients of every sort "
        "and counts what they lose: nothing, is the bar. With --minutes: reloads, clients that go "
        "away and upstream faults instead; is the memory flat, are the descriptors constant?",
    )
    parser.add_argument("--upgrades", type=int, default=20, help="how many (20)")
    parser.add_argument("--reloads", type=int, default=20, help="how many (20)")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2], help="with how many workers each (1 2)"
    )
    parser.add_argument(
        "--minutes", type=float, default=0, help="watch memory and descriptors for so long instead"
    )
    parser.add_argument(
        "--round-seconds", type=float, default=30, help="length of a round of that (30)"
    )
    parser.add_argument(
        "--debug", action="store_true", help="asyncio's debug mode; its warnings count as failures"
    )
    parser.add_argument("--logs", type=Path, help="folder to keep the logs of the server in")
    options = parser.parse_args(arguments, namespace=_Options())
    if min(options.upgrades, options.reloads) < 0 or min(options.workers) < 1:
        parser.error("there are no less than 0 upgrades and reloads, and 1 worker")
    return options


if __name__ == "__main__":
    sys.exit(main())
