"""Hit ratios are those that Pingora publishes; ``bench.hit_ratio`` compares all of them."""

from __future__ import annotations

import pytest

from bench.hit_ratio import (
    PUBLISHED,
    SIZES,
    TOLERANCE,
    hit_ratio,
    make_lru,
    make_tinyufo,
    zipf,
)


@pytest.mark.parametrize(("skew", "sizes", "draws"), [(1.05, 1, 250_000), (1.5, 3, 200_000)])
def test_hit_ratio(skew: float, sizes: int, draws: int) -> None:
    """LRU and TinyUFO have as many hits as in the original."""
    keys = zipf(skew, draws)

    for size, published in zip(SIZES[:sizes], PUBLISHED[skew], strict=False):
        for make, expected in zip((make_lru, make_tinyufo), published, strict=True):
            found = hit_ratio(make, size, keys, warm_up=50_000)
            assert found == pytest.approx(expected, abs=TOLERANCE), (size, make.__name__)
