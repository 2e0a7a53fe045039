"""Measures eviction managers and bounded collections with many entries.

``PYTHONPATH=tools python -m bench.eviction --entries 1000000`` tells for each of them what a call
costs, the longest one, and what an entry takes, key included. Times are those of the processor,
so that other programs on the machine do not count.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import time
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from pingora_cache.eviction import ShardedLru, SimpleLru, TinyUfoEviction
from pingora_cache.key import CompactCacheKey
from pingora_cache.lru import Lru
from pingora_cache.tinyufo import TinyUfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pingora_cache.eviction import EvictionManager

_T = TypeVar("_T")

_SOME: Final = 200_000
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_COLUMNS: Final = (
    "use us",
    "most ms",
    "add us",
    "most ms",
    "swap us",
    "most ms",
    "B/entry",
    "gc ms",
)


def main() -> None:
    """Measure and print a table: using, adding, and adding when something has to go."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    entries = parser.parse_args().entries
    print(f"{'':16}" + "".join(f"{column:>9}" for column in _COLUMNS), flush=True)
    for measure in (
        lambda: _manager(SimpleLru(entries), entries),
        lambda: _manager(ShardedLru(32, entries), entries),
        lambda: _manager(TinyUfoEviction(entries), entries),
        lambda: _lru(entries),
        lambda: _tinyufo(entries),
    ):
        _in_child(measure)


def _manager(manager: EvictionManager, entries: int) -> None:
    def admit(key: CompactCacheKey) -> None:
        manager.admit(key, 1, 0.0)

    def access(key: CompactCacheKey) -> None:
        manager.access(key, 1, 0.0)

    _measure(type(manager).__name__, admit, access, _key, entries=entries)


def _tinyufo(entries: int) -> None:
    cache = TinyUfo[int, int](entries)
    _measure("TinyUfo", lambda key: cache.put(key, key), cache.get, int, entries=entries)


def _lru(entries: int) -> None:
    lru = Lru[int, int](entries, shards=32)
    _measure("Lru, 32 shards", lambda key: lru.admit(key, key), lru.get, int, entries=entries)


def _key(number: int) -> CompactCacheKey:
    return CompactCacheKey(blake2b(number.to_bytes(8, "big"), digest_size=16).digest())


def _measure(
    name: str,
    add: Callable[[_T], object],
    use: Callable[[_T], object],
    key: Callable[[int], _T],
    *,
    entries: int,
) -> None:
    before = _memory()
    added = _time(add, map(key, range(entries)))
    taken = (_memory() - before) / entries
    collection = _collection()
    chosen = random.choices(range(entries), k=_SOME)  # noqa: S311  # no secret
    used = _time(use, map(key, chosen))
    swapped = _time(add, map(key, range(entries, entries + _SOME)))
    times = "".join(f"{mean:9.2f}{most:9.2f}" for mean, most in (used, added, swapped))
    print(f"{name:16}{times}{taken:9.0f}{collection:9.1f}", flush=True)


def _time(call: Callable[[_T], object], values: Iterable[_T]) -> tuple[float, float]:
    """Time calls.

    Args:
        call: What to call.
        values: With what.

    Returns:
        What they take on average, microseconds, and the longest, milliseconds.
    """
    clock = time.thread_time
    total = most = 0.0
    count = 0
    for value in values:
        began = clock()
        call(value)
        taken = clock() - began
        total += taken
        most = max(most, taken)
        count += 1
    return total / count * 1e6, most * 1e3


def _memory() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE


def _collection() -> float:
    gc.collect()
    began = time.thread_time()
    gc.collect()
    return (time.thread_time() - began) * 1e3


def _in_child(work: Callable[[], None]) -> None:
    """Do something in a process of its own, whose memory is not that of what went before.

    Args:
        work: What to do.
    """
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
