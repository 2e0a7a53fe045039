"""Where a key is in a table of shared cells, and what a cell says.

A cell holds the mark of a key (23 bits of its hash), how far from its home it is (5 bits) and its
count (36 bits), so that one write changes all of it and no reader sees half of a change. Other bits
of its hash name the home; a key stands there or in one of the next few cells, before the first
empty one. Two keys are confused if they share home and mark, and then share their counts: in a
table for 10,000 keys one pair in 250 thousand million.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "INSTEAD_OF_NONE",
    "MARKS",
    "MOST",
    "REACH",
    "STEP",
    "find",
    "mark_at",
    "slots_for",
    "sum_up",
]

MOST: Final = 2**36 - 1
STEP: Final = 2**36
REACH: Final = 32
MARKS: Final = 2**64 - REACH * STEP
# Of the one key in eight million whose mark would be 0; a cell of 0 is empty.
INSTEAD_OF_NONE: Final = REACH * STEP


def mark_at(table: int, size: int, hashed: int, at: int) -> int:
    """Tell what a cell says beside the count.

    Args:
        table: Where the table begins.
        size: Cells in the table, a power of two.
        hashed: The hash of the key.
        at: The position of the cell.

    Returns:
        The upper bits of the cell.
    """
    return (hashed & MARKS or INSTEAD_OF_NONE) + ((at - table - hashed) & (size - 1)) * STEP


def slots_for(keys: int) -> int:
    """Size a table.

    Args:
        keys: How many it is to take.

    Returns:
        A power of two, at least twice as large.
    """
    return 1 << max(6, (2 * keys - 1).bit_length())


def find(cells: memoryview, table: int, size: int, hashed: int) -> tuple[int, int]:
    """Find the cell of a key, or the empty one where it belongs.

    Args:
        cells: The memory.
        table: Where the table begins.
        size: Cells in the table, a power of two.
        hashed: The hash of the key.

    Returns:
        The position of the cell and its count; minus one instead of the count if the cell is
        empty, minus one twice if there is neither.
    """
    mark = hashed & MARKS or INSTEAD_OF_NONE
    home = hashed & (size - 1)
    for index in range(home, home + REACH):
        at = table + (index & (size - 1))
        cell = cells[at]
        if cell ^ mark <= MOST:
            return at, cell ^ mark
        if cell == 0:
            return at, -1
        mark += STEP
    return -1, -1


def sum_up(cells: memoryview, tables: Sequence[int], size: int, hashed: int) -> int:
    """Sum the counts of a key.

    Args:
        cells: The memory.
        tables: Where the tables begin.
        size: Cells in each table, a power of two.
        hashed: The hash of the key.

    Returns:
        The sum.
    """
    home = hashed & (size - 1)
    mark = hashed & MARKS or INSTEAD_OF_NONE
    total = 0
    for table in tables:
        count = cells[table + home] ^ mark
        if count <= MOST:
            total += count
        elif count != mark:  # not empty: the key may have had to move on
            _, count = find(cells, table, size, hashed)
            total += max(0, count)
    return total
