"""The count-min sketch is never too low, seldom much too high, and as large as it was made."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given, strategies as st

from pingora_limits import Estimator
from pingora_limits._hashing import hash_key
from pingora_limits._sketch import Sketch, cells_of

_SMALL = st.builds(Estimator, st.integers(1, 5), st.integers(1, 8))
_EVENTS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=60)


@pytest.fixture
def stranger() -> str:
    """A key that does not share all its cells with ``a`` in a sketch of 8 rows of 8.

    One key in fifty does, and hashes differ from process to process.
    """
    taken = set(cells_of(hash_key("a"), 8, 8))
    return next(key for key in "bcdefghij" if not taken >= set(cells_of(hash_key(key), 8, 8)))


def test_incr(stranger: str) -> None:
    """Counts grow by what is added; other keys stay out of it."""
    estimator = Estimator(8, 8)

    assert estimator.incr("a", 1) == 1
    assert estimator.incr(stranger, 1) == 1
    assert estimator.incr("a", 2) == 3
    assert estimator.incr(stranger, 2) == 3


def test_desc(stranger: str) -> None:
    """What was added can be taken away."""
    estimator = Estimator(8, 8)
    estimator.incr("a", 3)
    estimator.incr(stranger, 3)

    estimator.decr("a", 1)
    estimator.decr(stranger, 1)

    assert (estimator.get("a"), estimator.get(stranger)) == (2, 2)


def test_get(stranger: str) -> None:
    """Looking changes nothing."""
    estimator = Estimator(8, 8)
    estimator.incr("a", 1)
    estimator.incr("a", 2)
    estimator.incr(stranger, 1)
    estimator.incr(stranger, 2)

    assert (estimator.get("a"), estimator.get(stranger)) == (3, 3)
    assert estimator.total == 6


def test_reset(stranger: str) -> None:
    """After a reset nothing was ever counted."""
    estimator = Estimator(8, 8)
    estimator.incr("a", 1)
    estimator.incr(stranger, 2)

    estimator.reset()

    assert (estimator.get("a"), estimator.get(stranger), estimator.total) == (0, 0, 0)


@given(_SMALL, _EVENTS)
def test_an_estimate_is_never_too_low(estimator: Estimator, events: list[tuple[int, int]]) -> None:
    """Whatever the size, and also after something was taken away again."""
    truth: Counter[int] = Counter()
    for key, value in events:
        truth[key] += value
        assert estimator.incr(key, value) >= truth[key]
    for key, value in events[::2]:
        truth[key] -= value
        estimator.decr(key, value)

    assert all(estimator.get(key) >= truth[key] for key in range(21))
    assert estimator.total == truth.total()


@given(st.integers(1, 5), st.integers(1, 8), _EVENTS)
def test_a_conservative_update_is_never_too_low(
    hashes: int, slots: int, events: list[tuple[int, int]]
) -> None:
    """Cells that are high enough already need not grow; nor is it ever above the plain update."""
    careful, plain = Sketch(hashes, slots), Sketch(hashes, slots)
    truth: Counter[int] = Counter()
    for key, value in events:
        hashed = hash(str(key))
        truth[hashed] += value
        count = careful.raise_by(hashed, value)
        assert truth[hashed] <= count <= plain.add(hashed, value)
        assert careful.get(hashed) == count


@given(st.integers(-(2**63), 2**63 - 1), st.integers(1, 6), st.integers(1, 9))
def test_all_ways_to_the_cells_are_the_same(hashed: int, hashes: int, slots: int) -> None:
    """A key has one cell in each row, whoever looks for it."""
    sketch = Sketch(hashes, slots)

    cells = cells_of(hashed, hashes, slots, 100)
    sketch.add(hashed, 3)

    assert [(cell - 100) // slots for cell in cells] == list(range(hashes))
    assert sketch.get(hashed) == 3
    assert sketch.raise_by(hashed, 1) == 4


def test_errors_stay_within_the_bound() -> None:
    """The share of estimates above the error bound is no greater than theory has it."""
    randomness = random.Random(5)
    sketch = Sketch(4, 1024)
    keys = [randomness.getrandbits(64) - 2**63 for _ in range(5_000)]
    truth: Counter[int] = Counter()
    for key in randomness.choices(keys, [1 / rank for rank in range(1, 5_001)], k=30_000):
        truth[key] += 1
        sketch.add(key, 1)

    bound = sketch.error_bound
    above = sum(sketch.get(key) - truth[key] > bound for key in keys)

    assert bound == pytest.approx(math.e / 1024 * 30_000)
    assert above / len(keys) <= math.exp(-4)


def test_sized_by_expected_keys() -> None:
    """With as many equal keys as expected, few are over-estimated by a whole other key."""
    estimator = Estimator.for_keys(2_000)
    for key in range(2_000):
        estimator.incr(key, 10)

    wrong = sum(estimator.get(key) >= 20 for key in range(2_000))

    assert estimator.memory == 2_000 * 64
    assert estimator.error_bound == pytest.approx(math.e / 4_000 * 20_000)
    assert wrong <= 2_000 // 20


@pytest.mark.parametrize(("hashes", "slots"), [(0, 1), (1, 0), (-1, 8)])
def test_no_room_is_misuse(hashes: int, slots: int) -> None:
    """A sketch without a cell is a mistake."""
    with pytest.raises(ValueError, match="at least 1 row and 1 slot"):
        Estimator(hashes, slots)


def test_repr() -> None:
    """Its repr tells its shape and its load."""
    estimator = Estimator(2, 3)
    estimator.incr("a", 4)

    assert repr(estimator) == "<Estimator 2 x 3, total 4>"
