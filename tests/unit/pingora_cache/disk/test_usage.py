"""Counts of the manager, and what the processes may write between two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given, strategies as st

from pingora_cache.disk._usage import Allowance, Usage, UsageFile

if TYPE_CHECKING:
    from pathlib import Path


def test_a_count_is_read_back(tmp_path: Path) -> None:
    """By every process; one that is damaged or missing is none."""
    path = tmp_path / "usage"
    one, two = UsageFile(str(path)), UsageFile(str(path))
    one.open()
    two.open()
    assert two.read() is None
    one.write(Usage(1, 20, 30, 4))
    assert two.read() == Usage(1, 20, 30, 4)

    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert two.read() is None
    path.unlink()
    one.open()
    one.write(Usage(2, 1, 1, 1, is_last=True))
    two.open()
    assert two.read() == Usage(2, 1, 1, 1, is_last=True)
    one.close()
    two.close()


def test_an_eighth_of_what_is_free() -> None:
    """More than that has to wait for two counts; the first piece only for room."""
    allowance = Allowance(1000)
    allowance.update(Usage(1, 100, 100, 1))

    assert not allowance.spend(801)
    assert allowance.spend(500)
    assert not allowance.spend(1)
    allowance.update(Usage(2, 100, 600, 1))
    assert not allowance.spend(1)
    allowance.update(Usage(3, 600, 100, 2))
    assert allowance.spend(20)
    assert allowance.spend(17)
    assert not allowance.spend(1)


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(1, 16)), max_size=300), st.data())
def test_eight_processes_stay_within_the_limit(
    asked: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Pieces of an eighth of the spare room, written by eight that know nothing of one another."""
    limit, capacity = 2048, 1920
    allowances = [Allowance(limit) for _ in range(8)]
    used = number = 0
    for who, size in asked:
        if allowances[who].spend(size):
            used += size
        assert used <= limit
        if data.draw(st.booleans()):
            number += 1
            used = min(used, capacity)
            for allowance in allowances:
                allowance.update(Usage(number, used, 0, 0))
