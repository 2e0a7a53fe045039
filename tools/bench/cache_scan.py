"""Measures the store on disk at its start and end: the longest that it keeps the loop waiting.

``PYTHONPATH=tools python -m bench.cache_scan FOLDER [OBJECTS]`` makes an empty folder a store of so
many objects and removes it in the end. It tells the processor time that the process took between
two turns of the loop that were to be a millisecond apart: what other threads of it have kept the
loop waiting for, whatever else goes on on the machine.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pingora_cache.disk import DiskStorage
from pingora_cache.eviction import TinyUfoEviction

if TYPE_CHECKING:
    from collections.abc import Awaitable

_OBJECTS: Final = 1_000_000
_ROOM: Final = 1 << 40
_APART: Final = 0.001
# Links to one file: most file systems allow for no more than 65,000.
_LINKS: Final = 30_000


def main() -> None:
    """Measure and print."""
    root = Path(sys.argv[1])
    objects = int(sys.argv[2]) if len(sys.argv) > 2 else _OBJECTS
    root.mkdir()  # not one that somebody has
    try:
        _fill(root, objects)
        # As a server does when it starts.
        gc.collect()
        gc.freeze()
        asyncio.run(_measure(root, objects))
    finally:
        shutil.rmtree(root)


def _fill(root: Path, objects: int) -> None:
    # The walk looks at names and sizes only.
    source = root / "0"
    for number in range(objects):
        if number % _LINKS == 0:
            source = root / str(number)
            source.write_bytes(bytes(300))
        name = secrets.token_hex(16)
        folder = f"{root}/objects/{name[0]}/{name[1:3]}"
        try:
            os.link(source, f"{folder}/{name}")
        except FileNotFoundError:
            Path(folder).mkdir(parents=True, mode=0o700)
            os.link(source, f"{folder}/{name}")


async def _measure(root: Path, objects: int) -> None:
    print(f"{f'{objects:,} objects':32}{'s':>8}{'most ms':>10}{'99.9% ms':>10}", flush=True)
    storage = DiskStorage(root, max_bytes=_ROOM)
    await storage.open()

    async def all_counted() -> None:
        while storage.stats.objects < objects:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)

    await _watched("the walk at the start", all_counted())
    await _watched("the end, the state saved", storage.close())
    manager = TinyUfoEviction(_ROOM)
    await _watched("the state loaded", manager.load(root / "eviction"))


async def _watched(name: str, doing: Awaitable[object]) -> None:
    task = asyncio.ensure_future(doing)
    began = time.perf_counter()
    gaps: list[float] = []
    while not task.done():
        busy = time.process_time()
        await asyncio.sleep(_APART)
        gaps.append(time.process_time() - busy)
    await task
    gaps.sort()
    taken = time.perf_counter() - began
    rare = gaps[int(len(gaps) * 0.999)]
    print(f"{name:32}{taken:8.1f}{gaps[-1] * 1e3:10.1f}{rare * 1e3:10.1f}", flush=True)


if __name__ == "__main__":
    main()
