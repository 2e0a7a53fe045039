"""How often keys were asked for lately, in a fixed number of bytes for each key.

Theory of operation: a count-min sketch, four rows of 8-bit counters. A key has one counter in each
row and shares it with others, in each row with different ones; the least of its counters is never
below its count, and seldom above. A new count raises only the counters that are below it, which
keeps the others closer to the truth. The cells of a key are ``a + i * b`` modulo the width, where
``a`` and ``b`` are parts of its mixed hash (Kirsch and Mitzenmacher).

So that old fame fades, all counters are halved whenever eight times as many counts have been added
as there are keys (TinyLFU's reset). For a large sketch that takes milliseconds; it is therefore
done in blocks, one with each of the counts that follow.

The number of keys may grow: with twice the width, a key's cell is the old one or the one that is
as far behind it as the old width, so that two copies of each row beside one another are right.
That takes milliseconds for a large sketch, which is why it grows to a million keys and no further.

Source: tinyufo/src/estimation.rs, which has up to twenty rows and halves them in one go.
"""

from __future__ import annotations

from typing import Final, final

__all__ = ["Sketch"]

_ROWS: Final = 4
_CELLS_PER_KEY: Final = 4
_LEAST_WIDTH: Final = 1024
_COUNTS_PER_KEY: Final = 8
_MOST: Final = 255
# To double the width of more would take longer than 12 ms (2026-11).
_MOST_GROWN: Final = 1 << 20
_BLOCK: Final = 16384
_HALVES: Final = bytes(count >> 1 for count in range(256))

# The multipliers of Murmur's finaliser: the hash of a small integer is the integer itself.
_MIX_1: Final = 0xFF51_AFD7_ED55_8CCD
_MIX_2: Final = 0xC4CE_B9FE_1A85_EC53
_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
_LOW: Final = 0xFFFF_FFFF


@final
class Sketch:
    """Counts keys by their hash.

    Args:
        keys: How many keys are to be told apart, at least 1.

    Attributes:
        keys: As given, or what it has grown to.
    """

    __slots__ = ("_added", "_cells", "_sweep", "_width", "_window", "keys")

    def __init__(self, keys: int) -> None:
        self.keys = keys
        self._width = max(_CELLS_PER_KEY * keys, _LEAST_WIDTH)
        self._cells = bytearray(_ROWS * self._width)
        self._window = _COUNTS_PER_KEY * keys
        self._added = 0
        # Where the halving has got to; -1 if none is going on.
        self._sweep = -1

    @property
    def memory(self) -> int:
        """Bytes that the counters take."""
        return len(self._cells)

    def add(self, hashed: int) -> int:
        """Count a key once more.

        Args:
            hashed: Its hash, any number of up to 64 bits.

        Returns:
            Its count now, or more; 255 at most.
        """
        self._added += 1
        if self._added >= self._window or self._sweep >= 0:
            self._age()
        cells = self._cells
        places = self._places(hashed)
        first, second, third, fourth = places
        count = min(cells[first], cells[second], cells[third], cells[fourth])
        if count == _MOST:
            return count
        count += 1
        for place in places:
            if cells[place] < count:  # noqa: PLR1730 - a call of max takes four times as long
                cells[place] = count
        return count

    def get(self, hashed: int) -> int:
        """Tell the count of a key.

        Args:
            hashed: Its hash.

        Returns:
            Its count, or more.
        """
        cells = self._cells
        first, second, third, fourth = self._places(hashed)
        return min(cells[first], cells[second], cells[third], cells[fourth])

    def _places(self, hashed: int) -> tuple[int, int, int, int]:
        mixed = (hashed ^ hashed >> 33) * _MIX_1 & _MASK
        mixed = (mixed ^ mixed >> 33) * _MIX_2 & _MASK
        width = self._width
        column, step = mixed >> 32, mixed & _LOW
        return (
            column % width,
            width + (column + step) % width,
            2 * width + (column + 2 * step) % width,
            3 * width + (column + 3 * step) % width,
        )

    def grow(self, keys: int) -> None:
        """Make room for more keys, up to a million; the counts stay.

        It may be put off to a later call.

        Args:
            keys: How many there are.
        """
        if keys <= self.keys or self._sweep >= 0 or self.keys >= _MOST_GROWN:
            return
        self.keys = min(max(2 * self.keys, keys), _MOST_GROWN)
        self._window = _COUNTS_PER_KEY * self.keys
        while self._width < self.keys * _CELLS_PER_KEY:
            width = self._width
            cells = memoryview(self._cells)
            rows = [cells[row * width : (row + 1) * width] for row in range(_ROWS)]
            self._cells = bytearray().join([row for row in rows for _ in range(2)])
            self._width = 2 * width

    def _age(self) -> None:
        if self._sweep < 0:
            self._added = 0
            self._sweep = 0
        start = self._sweep
        end = start + _BLOCK
        self._cells[start:end] = self._cells[start:end].translate(_HALVES)
        self._sweep = end if end < len(self._cells) else -1
