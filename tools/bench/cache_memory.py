"""Measures the store in memory: what entries take, what calls cost, and the longest pauses.

Pauses are told in time of the processor, so that other programs on the machine do not count.

``PYTHONPATH=tools python -m bench.cache_memory [ENTRIES]``
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from pingora_cache.key import CacheKey
from pingora_cache.memory import MemoryStorage
from pingora_cache.meta import CacheMeta
from pingora_core.runtime import calm_collector
from pingora_http import ResponseHeader

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

_T = TypeVar("_T")

_ENTRIES: Final = 1_000_000
_BODY: Final = 300
_HOT: Final = 1_000
_LARGE: Final = 1 << 20
_FIELDS: Final = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Length", str(_BODY)),
    ("Date", "Mon, 23 Nov 2026 12:00:00 GMT"),
    ("Last-Modified", "Tue, 03 May 2022 01:04:39 GMT"),
    ("ETag", '"0123456789abcdef"'),
    ("Cache-Control", "public, max-age=3600"),
    ("Vary", "Accept-Encoding"),
    ("Server", "nginx"),
)


@dataclass(slots=True)
class _Times:
    """What calls of one kind took, in seconds."""

    name: str
    total: float = 0.0
    count: int = 0
    longest: float = 0.0

    def add(self, taken: float, busy: float) -> None:
        self.total += taken
        self.count += 1
        self.longest = max(self.longest, busy)

    def show(self) -> None:
        mean = self.total / self.count * 1e6
        print(f"{self.name:44}{mean:9.2f}{self.longest * 1e3:13.2f}", flush=True)


def main() -> None:
    """Measure and print."""
    entries = int(sys.argv[1]) if len(sys.argv) > 1 else _ENTRIES
    # As a server does when it starts.
    gc.collect()
    calm_collector()
    asyncio.run(_measure(entries))


async def _measure(entries: int) -> None:
    weight = await _weight()
    before = _resident()
    # The store has a sixteenth of its room for writes in progress.
    storage = MemoryStorage(entries * weight * 16 // 15 + weight)
    print(f"{f'{entries:,} entries':44}{'us':>9}{'longest, ms':>13}")

    async def write(number: int) -> None:
        await _write(storage, number)

    await _timed("write, the table growing", range(entries), write, int)
    taken = (_resident() - before) / storage.stats.objects
    more = range(entries, entries + entries // 2)
    await _timed("write, each evicting another", more, write, int)
    chance = random.Random(1)  # noqa: S311  # the same in each run
    kept = [number for number in range(more.stop) if await storage.lookup(_key(number))]
    hot = chance.sample(kept, _HOT)
    for number in hot:
        await storage.lookup(_key(number))
    await _timed("lookup, the meta ready", hot * 50, storage.lookup, _key)
    cold = chance.sample(kept, min(len(kept), 50_000))
    await _timed("lookup, the meta to be read", cold, storage.lookup, _key)
    await _timed("lookup of nothing", range(-50_000, 0), storage.lookup, _key)

    async def hit(key: CacheKey) -> None:
        await _hit(storage, key)

    await _timed("a hit from lookup to finish", hot * 20, hit, _key)
    await _timed("purge", cold[: len(cold) // 2], storage.purge, lambda n: _key(n).to_compact())
    await _timed("purge by tag", range(5), storage.purge_tag, _tag)
    del kept, hot, cold
    await _sweep(storage)

    async def collect(_: int) -> None:
        gc.collect()

    await _timed("full collection of garbage", range(3), collect, int)
    await _while("turn of the loop while it makes room", _makes_room(storage))
    await _while("turn of the loop while it is closed", storage.close())
    await _large()
    print(
        f"\nbytes for each entry, {_BODY} of body and {_head()} of head: {taken:.0f} in memory, "
        f"{weight} counted"
    )
    print(
        f"at the most resident: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
    )


async def _timed(
    name: str,
    items: Iterable[int],
    call: Callable[[_T], Awaitable[object]],
    make: Callable[[int], _T],
) -> None:
    # What a call needs is made one by one: a list of it would be something to walk through for
    # the garbage collector, which is part of what is measured.
    times = _Times(name)
    for item in items:
        argument = make(item)
        busy = time.thread_time()
        began = time.perf_counter()
        await call(argument)
        taken = time.perf_counter() - began
        times.add(taken, time.thread_time() - busy)
    times.show()


def _key(number: int) -> CacheKey:
    return CacheKey(f"https/www.example.com/objects/{number}")


def _meta(number: int) -> CacheMeta:
    now = time.time()
    header = ResponseHeader(200, headers=_FIELDS)
    return CacheMeta(header, created=now, fresh_until=now + 3600, tags=(_tag(number % 100),))


def _tag(number: int) -> bytes:
    return b"tag %d" % number


def _head() -> int:
    return len(ResponseHeader(200, headers=_FIELDS).to_wire())


async def _weight() -> int:
    storage = MemoryStorage(1_000_000)
    await _write(storage, 1)
    return storage.stats.used_bytes


async def _write(storage: MemoryStorage, number: int) -> None:
    writer = await storage.get_miss_handler(_key(number), _meta(number))
    await writer.write_body(os.urandom(_BODY), end=True)
    await writer.finish()


async def _hit(storage: MemoryStorage, key: CacheKey) -> None:
    found = await storage.lookup(key)
    assert found is not None
    _, reader = found
    while await reader.read_body() is not None:
        pass
    await reader.finish()


async def _sweep(storage: MemoryStorage) -> None:
    # Until nothing has gone for a while; what stops others shows in how late a turn comes.
    times = _Times("turn of the loop while it sweeps")
    objects, since = storage.stats.objects, time.perf_counter()
    while time.perf_counter() - since < 3.0:
        busy = time.thread_time()
        began = time.perf_counter()
        await asyncio.sleep(0)
        taken = time.perf_counter() - began
        times.add(taken, time.thread_time() - busy)
        if times.count % 1000 == 0 and storage.stats.objects != objects:
            objects, since = storage.stats.objects, time.perf_counter()
    times.show()


async def _makes_room(storage: MemoryStorage) -> None:
    # One piece that takes the place of a hundred thousand small objects, if there are as many.
    room = storage.stats.used_bytes // 10
    writer = await storage.get_miss_handler(_key(-1), _meta(0))
    await writer.write_body(bytes(room), end=True)
    await writer.finish()


async def _while(name: str, doing: Awaitable[object]) -> None:
    times = _Times(name)
    task = asyncio.ensure_future(doing)
    while not task.done():
        busy = time.thread_time()
        began = time.perf_counter()
        await asyncio.sleep(0)
        times.add(time.perf_counter() - began, time.thread_time() - busy)
    await task
    times.show()


async def _large() -> None:
    storage = MemoryStorage(256 << 20)
    data = os.urandom(65_536)

    async def write(number: int) -> None:
        writer = await storage.get_miss_handler(_key(number), _meta(0))
        for _ in range(_LARGE // len(data)):
            await writer.write_body(data, end=False)
        await writer.finish()

    async def hit(key: CacheKey) -> None:
        await _hit(storage, key)

    await _timed("write of 1 MiB in pieces of 64 KiB", range(600), write, int)
    kept = [number for number in range(600) if await storage.lookup(_key(number))]
    await _timed("a hit of 1 MiB", kept[:100] * 50, hit, _key)
    await storage.close()


def _resident() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
