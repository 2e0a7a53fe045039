"""The table of a process: keys come and go, and leave nothing behind."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_limits.shared._own import OwnTable
from pingora_limits.shared._tables import MOST, find, mark_at, slots_for, sum_up

if TYPE_CHECKING:
    from collections.abc import Callable

_SIZE = 64


def _table(capacity: int = _SIZE // 2) -> tuple[memoryview, OwnTable]:
    cells = memoryview(bytearray(8 * (_SIZE + 3))).cast("Q")
    return cells, OwnTable(cells, 3, size=_SIZE, capacity=capacity)


# Few homes, so that keys have to move on and around the end of the table; several marks, also 0.
_HASHES = st.builds(
    lambda home, mark: (mark << 41) - 2**63 * (mark % 2) + home,
    st.integers(58, 67),
    st.integers(0, 5),
)


@given(st.lists(st.tuples(_HASHES, st.integers(1, 3), st.booleans()), max_size=120))
def test_model(steps: list[tuple[int, int, bool]]) -> None:
    """Whatever comes and goes in whatever order: each key is found with its count, or was refused."""
    cells, table = _table(20)
    truth: dict[int, int] = {}
    names = {hashed for hashed, _, _ in steps}
    for hashed, amount, comes in steps:
        if comes:
            count = table.put(hashed, amount)
            if count:
                truth[hashed] = truth.get(hashed, 0) + amount
                assert count == truth[hashed]
            else:
                assert len(truth) == 20
                assert hashed not in truth
        elif hashed in truth:
            less = min(amount, truth[hashed])
            assert table.add(hashed, -less) == truth[hashed] - less
            truth[hashed] -= less
            if not truth[hashed]:
                del truth[hashed]
        for each in names:
            assert sum_up(cells, (3,), _SIZE, each) == truth.get(each, 0)
    for hashed, count in truth.items():
        table.add(hashed, -count)
    assert not any(cells)


def test_keys_that_have_gone_leave_room() -> None:
    """As many keys as one likes can pass through, a few at a time."""
    randomness = random.Random(1)
    cells, table = _table()
    present: list[int] = []
    for _ in range(5_000):
        hashed = randomness.getrandbits(64) - 2**63
        assert table.put(hashed, 1) == 1
        present.append(hashed)
        if len(present) > 20:
            assert table.add(present.pop(randomness.randrange(20)), -1) == 0

    assert sum(1 for cell in cells if cell) < 32


@given(_HASHES)
def test_a_mark_tells_how_far_from_home(hashed: int) -> None:
    """Also around the end of the table; a cell that is in use is never 0."""
    home = 3 + (hashed & (_SIZE - 1))

    assert mark_at(3, _SIZE, hashed, home) >> 36 & 31 == 0
    assert mark_at(3, _SIZE, hashed, home) != 0
    assert mark_at(3, _SIZE, 63, 3 + 2) >> 36 & 31 == 3


def test_a_count_does_not_run_over() -> None:
    """What does not fit into a cell is refused, and nothing has changed."""
    cells, table = _table()
    assert table.put(5, MOST) == MOST

    assert table.put(5, 1) == 0
    assert table.put(6, MOST + 1) == 0
    with pytest.raises(OverflowError, match="in flight of one key"):
        table.add(5, 1)

    assert find(cells, 3, _SIZE, 5) == (8, MOST)


class _Interrupted:
    """Cells that let something happen once, when they have been read so many times."""

    def __init__(self, reads: int, interrupt: Callable[[], object]) -> None:
        self.cells = memoryview(bytearray(8 * _SIZE)).cast("Q")
        self.reads = reads
        self.interrupt = interrupt
        self.is_armed = False

    def __getitem__(self, index: int) -> int:
        value = self.cells[index]
        if self.is_armed:
            self.reads -= 1
            if self.reads < 0:
                self.is_armed = False
                self.interrupt()
        return value

    def __setitem__(self, index: int, value: int) -> None:
        self.cells[index] = value


@pytest.mark.parametrize("released", [0, 1, 2])
@pytest.mark.parametrize(
    # A search for the nth key reads the home, and then one cell after the other.
    ("wanted", "reads"),
    [(wanted, reads) for wanted in range(4) for reads in range(1, wanted + 2)],
)
def test_a_release_in_the_middle_of_a_search(reads: int, released: int, wanted: int) -> None:
    """A garbage collection releases a key while the place of another, or its own, is looked for."""
    hashes = [(mark << 41) + 7 for mark in range(1, 5)]  # all at home in cell 7
    cells = _Interrupted(reads, lambda: table.add(hashes[released], -1))
    table = OwnTable(cells, 0, size=_SIZE, capacity=_SIZE)  # type: ignore[arg-type]
    for hashed in hashes[:3]:
        table.put(hashed, 1)
    cells.is_armed = True

    table.put(hashes[wanted], 1)

    assert not cells.is_armed
    truth = {index: int(index < 3) - (index == released) + (index == wanted) for index in range(4)}
    found = {index: sum_up(cells.cells, (0,), _SIZE, hashes[index]) for index in range(4)}
    assert found == truth
    for index, count in truth.items():
        if count:
            assert table.add(hashes[index], -count) == 0
    assert not any(cells.cells)


def test_a_full_neighbourhood_is_told() -> None:
    """A key that finds no place near its home is neither found nor placed."""
    cells = memoryview(bytearray(b"\xff" * 8 * _SIZE)).cast("Q")
    table = OwnTable(cells, 0, size=_SIZE, capacity=_SIZE)

    assert find(cells, 0, _SIZE, 7) == (-1, -1)
    assert table.put(7, 1) == 0


@pytest.mark.parametrize(("keys", "size"), [(1, 64), (32, 64), (33, 128), (10_000, 32_768)])
def test_sizes(keys: int, size: int) -> None:
    """A table is at most half full."""
    assert slots_for(keys) == size
