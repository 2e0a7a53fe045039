"""The file of one object: what lies where in it, and how each part proves that it is whole.

Theory of operation
-------------------
```
 0     HEAD      whose file it is and where things lie; written once
 64    STATE     how much of the body there is; rewritten while the body grows, then never again
 96    MARK      a soft purge
 128   POINTERS  two: where the meta is; the one with the higher number counts
 240   meta | sums of blocks | padding
       body, in one piece
       sums that had no room in front | metas that came later
```

Every record carries a checksum, seeded with the tag of the write, so that nothing which belongs to
another file passes. The body is cut into blocks of 256 KiB, each with a checksum; that of the last,
incomplete one is in STATE. A block is checked before a byte of it is handed out.

*Nothing is overwritten that counts.* A new meta goes where neither pointer points, usually behind
the body, and then into the pointer that does not count. What is torn is seen by its checksum.

*The table of sums is a ring while the body grows*: a reader that follows finds the sums of the last
blocks in it, and those of all once the body is complete; if there are more than the table holds,
behind the body.

XXH3 with 64 bits takes 17 microseconds for a megabyte, where CRC-32 takes 270.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

__all__ = [
    "BLOCK",
    "BLOCK_SHIFT",
    "FRONT",
    "HEAD_END",
    "META_AT",
    "SUM",
    "Damaged",
    "Front",
    "Layout",
    "Pointer",
    "State",
    "block_sum",
    "is_in_table",
    "meta_sum",
    "plan",
    "sum_place",
]

BLOCK_SHIFT: Final = 18
BLOCK: Final = 1 << BLOCK_SHIFT
"""Bytes of a block: what a socket takes at once, and what is read to serve any byte of it."""

HEAD_END: Final = 240
META_AT: Final = HEAD_END
FRONT: Final = 16 * 1024
"""Bytes that are read at first: all of a small object."""

SUM: Final = Struct("<Q")

_MASK: Final = (1 << 64) - 1

# Sums kept in front: for 16 MiB of a body of unknown size, and for up to 256 MiB of a known one.
_TABLE_UNKNOWN: Final = 64
_TABLE_MOST: Final = 1024
# A table of fewer is no ring: the body was said to be no longer. Of one that is, this many sums may
# be overwritten before STATE says that the body has come so far.
_RING: Final = _TABLE_UNKNOWN
_SLACK: Final = 8
# Larger bodies begin at a page, as whoever hands them from file to socket likes it; for smaller
# ones the padding would be half of what they take.
_PAGE: Final = 4096
_LARGE: Final = 64 * 1024
_LINE: Final = 64


class Damaged(Exception):  # noqa: N818  # it says what a file is
    """A file is not what it should be; the text says in which part."""


class Layout(NamedTuple):
    """Where things lie.

    Attributes:
        table_at: Where the table of sums begins.
        table_size: How many sums it holds.
        body_at: Where the body begins.
    """

    table_at: int
    table_size: int
    body_at: int


class State(NamedTuple):
    """How far a body has come.

    Attributes:
        size: Its bytes so far.
        last_sum: The sum of what follows the last whole block.
        complete: Whether that is all.
    """

    size: int
    last_sum: int
    complete: bool


class Pointer(NamedTuple):
    """Where a meta is.

    Attributes:
        number: Counts the metas of the file, from 1.
        at: Where it begins.
        length: Its bytes.
        epoch: Which log of purges the position is of.
        position: What had been purged when it was made.
        sum: Its sum.
    """

    number: int
    at: int
    length: int
    epoch: int
    position: int
    sum: int


class Front(NamedTuple):
    """What is in front of a file.

    Attributes:
        slot: Whose file it is.
        tag: Which write made it.
        seed: The seed of its sums.
        layout: Where things lie.
        state: How far the body has come.
        pointer: Where its meta is.
        spare: The other pointer; None if there was only one meta so far.
        expired: When it was made to expire, wall clock seconds; 0.0 if it was not.
    """

    slot: bytes
    tag: bytes
    seed: int
    layout: Layout
    state: State
    pointer: Pointer
    spare: Pointer | None
    expired: float

    @property
    def body_end(self) -> int:
        """Where the body ends."""
        return self.layout.body_at + self.state.size

    @property
    def blocks(self) -> int:
        """Whole blocks of the body."""
        return self.state.size >> BLOCK_SHIFT

    @property
    def sums_at(self) -> int:
        """Where the sums of all whole blocks are, of a complete body."""
        return self.layout.table_at if self.blocks <= self.layout.table_size else self.body_end

    @property
    def end(self) -> int:
        """What a complete file has at least, bytes."""
        blocks = self.blocks
        sums = SUM.size * blocks if blocks > self.layout.table_size else 0
        return max(self.body_end + sums, self.pointer.at + self.pointer.length)


def plan(meta_size: int, body_size: int | None) -> Layout:
    """Lay a file out.

    Args:
        meta_size: Bytes of the meta.
        body_size: Bytes of the body, if it is known.

    Returns:
        Where things will lie.
    """
    if body_size is None:
        sums, line = _TABLE_UNKNOWN, _PAGE
    else:
        sums = body_size >> BLOCK_SHIFT
        if sums >= _RING:
            sums = min(sums + _SLACK, _TABLE_MOST)
        line = _PAGE if body_size > _LARGE else _LINE
    table_at = -(-(META_AT + meta_size) // SUM.size) * SUM.size
    end = table_at + sums * SUM.size
    return Layout(table_at, sums, -(-end // line) * line)


# ----------------------------------------------------------------------------------- sums


def sum_place(layout: Layout, number: int) -> int | None:
    """Tell where the sum of a block goes while the body grows.

    Args:
        layout: Where things lie.
        number: Which block.

    Returns:
        The place; None if there is none.
    """
    size = layout.table_size
    if size < _RING:
        return layout.table_at + SUM.size * number if number < size else None
    return layout.table_at + SUM.size * (number % size)


def is_in_table(layout: Layout, number: int, blocks: int) -> bool:
    """Tell whether the sum of a block is where ``sum_place`` says.

    Args:
        layout: Where things lie.
        number: Which block, one of those below.
        blocks: Whole blocks that the body has by now.

    Returns:
        Whether; False if another may have been written over it.
    """
    size = layout.table_size
    return number < size if size < _RING else number + size >= blocks + _SLACK


def block_sum(data: bytes | memoryview, seed: int, number: int) -> int:
    """Sum a block up.

    Args:
        data: Its bytes.
        seed: That of the file.
        number: Which block it is.

    Returns:
        64 bits.
    """
    return xxh3_64_intdigest(data, seed=(seed + number) & _MASK)


def meta_sum(data: bytes, seed: int) -> int:
    """Sum a meta up.

    Args:
        data: Its bytes.
        seed: That of the file.

    Returns:
        64 bits.
    """
    return xxh3_64_intdigest(data, seed=~seed & _MASK)
