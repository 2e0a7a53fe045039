"""Compares the hit ratios of the LRU and of TinyUFO with those that Pingora publishes.

``PYTHONPATH=tools python -m bench.hit_ratio`` takes some minutes: 5,000,000 draws from a Zipf
distribution over 10,000 items for each of 25 combinations of skew and size. A key that misses is
put in. It fails if a ratio is more than 0.3 percentage points away from the published one.

Source: tinyufo/benches/bench_hit_ratio.rs.
"""

from __future__ import annotations

import argparse
import random
import sys
from array import array
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Protocol

from pingora_cache.lru import Lru
from pingora_cache.tinyufo import TinyUfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "ITEMS",
    "PUBLISHED",
    "SIZES",
    "TOLERANCE",
    "hit_ratio",
    "make_lru",
    "make_tinyufo",
    "zipf",
]

ITEMS: Final = 10_000
TOLERANCE: Final = 0.3
"""How far a ratio may be from the published one, percentage points."""

SIZES: Final = (0.005, 0.01, 0.05, 0.1, 0.25)
"""The sizes of the caches, as parts of the items."""

PUBLISHED: Final[dict[float, tuple[tuple[float, float], ...]]] = {
    0.90: ((19.24, 33.35), (26.23, 40.06), (45.58, 57.80), (55.72, 66.36), (71.16, 78.53)),
    1.00: ((31.08, 45.15), (39.17, 52.30), (58.71, 68.79), (67.59, 75.92), (79.94, 85.28)),
    1.05: ((37.66, 51.12), (46.07, 58.41), (65.06, 73.93), (73.13, 80.24), (83.74, 88.14)),
    1.10: ((44.49, 57.28), (52.97, 64.24), (70.95, 78.55), (78.05, 84.01), (87.12, 90.66)),
    1.50: ((85.27, 89.69), (89.86, 92.94), (96.01, 97.23), (97.51, 98.24), (98.81, 99.09)),
}
"""The ratios of LRU and TinyUFO, per cent, by the skew, for each size."""

_DRAWS: Final = 5_000_000


class _Cache(Protocol):
    def get(self, key: int, /) -> object | None: ...


def make_lru(size: int) -> tuple[_Cache, Callable[[int, bool], object]]:
    """Make an LRU.

    Args:
        size: How many values it has.

    Returns:
        It, and how to put a value in.
    """
    lru = Lru[int, bool](size)
    return lru, lru.admit


def make_tinyufo(size: int) -> tuple[_Cache, Callable[[int, bool], object]]:
    """Make a TinyUFO.

    Args:
        size: How many values it has.

    Returns:
        It, and how to put a value in.
    """
    cache = TinyUfo[int, bool](size)
    return cache, cache.put


def zipf(skew: float, draws: int, seed: int = 42) -> array[int]:
    """Draw items, the i-th of which is asked for as often as 1 divided by i to the skew.

    Args:
        skew: The exponent.
        draws: How many.
        seed: What the draws are made of.

    Returns:
        The numbers of the items.
    """
    sums = list(accumulate(rank**-skew for rank in range(1, ITEMS + 1)))
    chance = random.Random(seed)  # noqa: S311  # no secret
    return array("H", chance.choices(range(ITEMS), cum_weights=sums, k=draws))


def hit_ratio(
    make: Callable[[int], tuple[_Cache, Callable[[int, bool], object]]],
    size: float,
    keys: Iterable[int],
    warm_up: int = 0,
) -> float:
    """Ask a cache for keys, and put in those that it does not have.

    Args:
        make: Makes the cache.
        size: Its size, as a part of the items.
        keys: The keys.
        warm_up: How many of the first of them do not count.

    Returns:
        How many were there, per cent.
    """
    cache, put = make(round(size * ITEMS))
    get = cache.get
    hits = number = 0
    for number, key in enumerate(keys, 1):
        if get(key) is None:
            put(key, True)  # noqa: FBT003  # a value
        elif number > warm_up:
            hits += 1
    return 100 * hits / (number - warm_up)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=_DRAWS, help="fewer are less exact")
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    print(f"{'skew':>5}{'size':>7}{'LRU':>9}{'published':>11}{'TinyUFO':>9}{'published':>11}")
    worst = 0.0
    for skew, row in PUBLISHED.items():
        keys = zipf(skew, options.draws, options.seed)
        for size, published in zip(SIZES, row, strict=True):
            found = [hit_ratio(make, size, keys) for make in (make_lru, make_tinyufo)]
            cells = "".join(
                f"{ours:9.2f}{theirs:11.2f}" for ours, theirs in zip(found, published, strict=True)
            )
            print(f"{skew:5.2f}{size:7.1%}{cells}", flush=True)
            for ours, theirs in zip(found, published, strict=True):
                worst = max(worst, abs(ours - theirs), key=abs)
    print(f"largest difference: {worst:.2f} points")
    sys.exit(worst > TOLERANCE)


if __name__ == "__main__":
    main()
