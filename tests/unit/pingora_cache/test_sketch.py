"""How often keys were asked for lately."""

from __future__ import annotations

import itertools
from random import Random

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache.tinyufo._sketch import Sketch


def test_sketch_parameters() -> None:
    """It takes 16 bytes a key, and some kilobytes at least."""
    assert Sketch(1_000_000).memory == 16_000_000
    assert Sketch(1).memory == 4096


def test_tiny_lfu() -> None:
    """Counts go up one by one, and are halved after eight for each key."""
    sketch = Sketch(1)
    assert sketch.get(1) == 0
    assert [sketch.add(1), sketch.add(1)] == [1, 2]
    assert sketch.get(1) == 2
    assert [sketch.add(3) for _ in range(5)] == [1, 2, 3, 4, 5]

    assert sketch.add(3) == 3  # the eighth: 5 halved is 2, and one more
    assert sketch.get(1) == 1


def test_saturation() -> None:
    """A count stops at 255."""
    sketch = Sketch(1000)

    assert [sketch.add(5) for _ in range(300)][-1] == 255


def test_counts_are_not_too_low() -> None:
    """Between two halvings no count is below the truth, and few are above."""
    sketch = Sketch(1000)
    random = Random(3)
    truth = [0] * 1000
    for _ in range(7900):
        key = random.randrange(1000)
        truth[key] += 1
        sketch.add(hash((key,)))

    over = [sketch.get(hash((key,))) - truth[key] for key in range(1000)]

    assert min(over) >= 0
    assert sum(each > 0 for each in over) < 50


def test_small_integers_are_spread() -> None:
    """Keys whose hashes are small or regular numbers do not share their counters."""
    for step in (1, 64, 4096, 2**32):
        sketch = Sketch(1000)
        for key in range(500):
            sketch.add(key * step)
        assert sum(sketch.get(key * step) for key in range(500)) < 520
        assert sum(sketch.get(key * step) for key in range(500, 1000)) < 60


def test_halving_goes_in_blocks() -> None:
    """A large sketch is halved bit by bit; in the end all of it is."""
    sketch = Sketch(20_000)
    keys = [hash((key,)) for key in range(2000)]
    for key in keys:
        for _ in range(40):
            sketch.add(key)
    assert {sketch.get(key) for key in keys} == {40}

    sketch._added = sketch._window
    untouched = hash("somebody else")
    counts = []
    for _ in range(30):
        sketch.add(untouched)
        counts.append(sum(sketch.get(key) for key in keys))

    assert counts[0] > 60_000
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 40_000


@pytest.mark.parametrize("more", [2, 3, 50])
def test_growth_keeps_the_counts(more: int) -> None:
    """With more room, all counts are what they were."""
    sketch = Sketch(300)
    keys = [hash((key,)) for key in range(200)]
    for key in keys:
        for _ in range(5):
            sketch.add(key)
    before = [sketch.get(key) for key in keys]

    sketch.grow(300 * more)

    assert [sketch.get(key) for key in keys] == before
    assert sketch.memory >= 16 * 300 * more
    sketch.grow(10)
    assert sketch.keys >= 300 * more


def test_growth_waits_for_the_halving() -> None:
    """While counters are being halved the table does not grow; it does when it is asked again."""
    sketch = Sketch(20_000)
    sketch._added = sketch._window
    sketch.add(1)

    sketch.grow(40_000)
    assert sketch.keys == 20_000
    for _ in range(30):
        sketch.add(1)
    sketch.grow(40_000)
    assert sketch.keys == 40_000


@settings(max_examples=100, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1))
def test_any_hash_will_do(hashed: int) -> None:
    """Every hash that Python makes can be counted."""
    sketch = Sketch(10)

    assert sketch.add(hashed) == 1
    assert sketch.get(hashed) == 1


def test_growth_ends() -> None:
    """A sketch grows to a million keys; to double more would take too long at a time."""
    sketch = Sketch(700_000)
    sketch.add(5)

    sketch.grow(10_000_000)
    assert sketch.keys == 1 << 20
    for _ in range(10):
        sketch.add(6)
    before = sketch.memory
    sketch.grow(20_000_000)
    sketch.add(6)

    assert sketch.memory == before <= 32 * 700_000 * 2
    assert sketch.get(5) == 1
    assert Sketch(2_000_000).memory == 32_000_000


def test_a_large_sketch_grows_row_by_row() -> None:
    """With each count one row is doubled once, and all counts are right all the time."""
    sketch = Sketch(100_000)
    keys = [hash((key,)) for key in range(500)]
    for key in keys:
        for _ in range(3):
            sketch.add(key)
    row = sketch.memory // 4

    sketch.grow(1 << 20)
    sizes = [sketch.memory]
    for _ in range(40):
        sketch.add(hash("somebody else"))
        sizes.append(sketch.memory)
        assert [sketch.get(key) for key in keys] == [3] * 500

    steps = [after - before for before, after in itertools.pairwise(sizes)]
    assert sizes[0] == 4 * row
    assert max(steps) <= 8 * row  # the last doubling of one of the four
    assert sizes[-1] == 4 * 16 * row
    assert sketch.add(hash("somebody else")) == 41
