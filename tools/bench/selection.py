"""Measures load balancing: what a pick costs, what a rebuild takes, and how long it blocks.

``PYTHONPATH=tools python -m bench.selection [BACKENDS]``
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
import timeit
import tracemalloc
from functools import partial
from typing import TYPE_CHECKING, Final

from pingora_load_balancing import (
    Backend,
    Backends,
    BoundedLoad,
    FNVHash,
    KetamaHashing,
    LeastLatency,
    LeastRequest,
    LoadBalancer,
    MaglevHashing,
    OriginalRoundRobin,
    PriorityGroups,
    Random,
    RoundRobin,
    SlowStart,
    Sticky,
)

if TYPE_CHECKING:
    from pingora_load_balancing import SelectionBuilder

SELECTIONS: Final[dict[str, SelectionBuilder]] = {
    "round robin": RoundRobin,
    "original round robin": OriginalRoundRobin,
    "random": Random,
    "least request (P2C)": LeastRequest,
    "least latency (P2C)": LeastLatency,
    "FNV hash": FNVHash,
    "Ketama": KetamaHashing,
    "Maglev": MaglevHashing,
    "bounded load, Ketama": BoundedLoad,
    "slow start, round robin": SlowStart,
    "priority groups": partial(PriorityGroups, priority=lambda backend: backend.weight % 2),
    "sticky, round robin": Sticky,
}
_PICKS: Final = 20_000
_REPEAT: Final = 5
_MIB: Final = 1 << 20


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="Measures load balancing.")
    parser.add_argument("backends", nargs="?", type=int, default=1_000)
    count: int = parser.parse_args().backends
    print(f"{count} backends; us per select() with weights all 1, and 1 to 7;")
    print("s per rebuild in a running loop, ms that the loop was blocked by it at most, MiB\n")
    print(f"{'':25}{'equal':>8}{'weighted':>10}{'rebuild':>10}{'blocked':>10}{'MiB':>8}")
    for name, build in SELECTIONS.items():
        equal, weighted = (pick_cost(build, count, most) for most in (1, 7))
        rebuild, blocked = asyncio.run(rebuild_cost(build, count))
        print(
            f"{name:25}{equal:8.2f}{weighted:10.2f}{rebuild:10.3f}{blocked * 1e3:10.1f}"
            f"{memory(build, count) / _MIB:8.2f}"
        )


def backends(count: int, most: int = 1, skip: int = 0) -> list[Backend]:
    """Make backends.

    Args:
        count: How many.
        most: The highest weight; they begin at 1.
        skip: Addresses to leave out at the beginning.

    Returns:
        The backends.
    """
    return [
        Backend(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:80", 1 + n % most)
        for n in range(skip, skip + count)
    ]


def pick_cost(build: SelectionBuilder, count: int, most: int) -> float:
    """Measure a pick, each with another key.

    Args:
        build: The selection.
        count: Number of backends.
        most: The highest weight.

    Returns:
        Microseconds, of the best of some runs.
    """
    balancer = LoadBalancer(backends(count, most), selection=build)
    keys = [b"/some/path/of/usual/length/%d" % number for number in range(_PICKS)]
    select = balancer.select

    def picks() -> None:
        for key in keys:
            select(key, 256)

    picks()
    return (
        min(timeit.repeat(picks, timer=time.process_time, number=1, repeat=_REPEAT)) / _PICKS * 1e6
    )


async def rebuild_cost(build: SelectionBuilder, count: int) -> tuple[float, float]:
    """Replace a tenth of the set while the loop is busy with other things.

    All but the whole is CPU time, so that other processes do not count.

    Args:
        build: The selection.
        count: Number of backends.

    Returns:
        Seconds until the new selection was in use, and the longest that nothing else could run.
    """
    pool = Backends(backends(count))
    balancer = LoadBalancer(pool=pool, selection=build)
    following = backends(count, skip=count // 10 + 1)
    longest = 0.0
    gc.collect()
    gc.freeze()

    async def watch() -> None:
        nonlocal longest
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest = max(longest, now - last)
            last = now

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0.01)
    longest = 0.0
    began = time.perf_counter()
    for _ in pool.replacing(following):
        await asyncio.sleep(0)
    await balancer.catch_up()
    took = time.perf_counter() - began
    # Once more, for the piece of work that ended just now.
    await asyncio.sleep(0)
    watcher.cancel()
    balancer.close()
    return took, longest


def memory(build: SelectionBuilder, count: int) -> int:
    """Measure what a selection takes beside the set.

    Args:
        build: The selection.
        count: Number of backends.

    Returns:
        Bytes.
    """
    pool = Backends(backends(count))
    gc.collect()
    tracemalloc.start()
    selection = build(pool.current)
    next(selection.iter(b"key"), None)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size


if __name__ == "__main__":
    main()
