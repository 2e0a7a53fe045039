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
as far behind it as the old width, so that two copies of each row beside one another are right. A
row is doubled with each of the counts that follow. That still takes a millisecond for a large one,
which is why it grows to a million keys and no further.

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
# To double a row of more would take longer than 3 ms (2026-11).
_MOST_GROWN: Final = 1 << 20
# Up to this width all rows grow at once.
_GROWN_AT_ONCE: Final = 1 << 18
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

    __slots__ = ("_added", "_is_at_work", "_row", "_rows", "_sweep", "_width", "_window", "keys")

    def __init__(self, keys: int) -> None:
        self.keys = keys
        # What each row is, or grows to.
        self._width = max(_CELLS_PER_KEY * keys, _LEAST_WIDTH)
        self._rows = [bytearray(self._width) for _ in range(_ROWS)]
        self._window = _COUNTS_PER_KEY * keys
        self._added = 0
        self._is_at_work = False
        # Where the halving has got to: the row, and the cell in it; -1 if none is going on.
        self._row = 0
        self._sweep = -1

    @property
    def memory(self) -> int:
        """Bytes that the counters take."""
        return sum(map(len, self._rows))

    def add(self, hashed: int) -> int:
        """Count a key once more.

        Args:
            hashed: Its hash, any number of up to 64 bits.

        Returns:
            Its count now, or more; 255 at most.
        """
        self._added += 1
        if self._added >= self._window or self._is_at_work:
            self._work()
        rows = self._rows
        places = self._places(hashed)
        one, two, three, four = rows
        first, second, third, fourth = places
        count = min(one[first], two[second], three[third], four[fourth])
        if count == _MOST:
            return count
        count += 1
        for row, place in zip(rows, places, strict=True):
            if row[place] < count:  # noqa: PLR1730 - a call of max takes four times as long
                row[place] = count
        return count

    def get(self, hashed: int) -> int:
        """Tell the count of a key.

        Args:
            hashed: Its hash.

        Returns:
            Its count, or more.
        """
        one, two, three, four = self._rows
        first, second, third, fourth = self._places(hashed)
        return min(one[first], two[second], three[third], four[fourth])

    def _places(self, hashed: int) -> tuple[int, int, int, int]:
        mixed = (hashed ^ hashed >> 33) * _MIX_1 & _MASK
        mixed = (mixed ^ mixed >> 33) * _MIX_2 & _MASK
        one, two, three, four = self._rows
        column, step = mixed >> 32, mixed & _LOW
        return (
            column % len(one),
            (column + step) % len(two),
            (column + 2 * step) % len(three),
            (column + 3 * step) % len(four),
        )

    def grow(self, keys: int) -> None:
        """Make room for more keys, up to a million; the counts stay.

        It may be put off to a later call, and large rows grow one with each count that follows.

        Args:
            keys: How many there are.
        """
        if keys <= self.keys or self._is_at_work or self.keys >= _MOST_GROWN:
            return
        self.keys = min(max(2 * self.keys, keys), _MOST_GROWN)
        self._window = _COUNTS_PER_KEY * self.keys
        while self._width < self.keys * _CELLS_PER_KEY:
            self._width *= 2
        self._is_at_work = True
        while self._is_at_work and self._width <= _GROWN_AT_ONCE:
            self._work()

    def _work(self) -> None:
        # A step of growing, or of halving.
        for number, row in enumerate(self._rows):
            if len(row) < self._width:
                self._rows[number] = row + row
                return
        self._is_at_work = self._sweep >= 0 or self._added >= self._window
        if self._is_at_work:
            self._age()

    def _age(self) -> None:
        if self._sweep < 0:
            self._added = 0
            self._row = self._sweep = 0
        row = self._rows[self._row]
        start = self._sweep
        end = start + _BLOCK
        row[start:end] = row[start:end].translate(_HALVES)
        self._sweep = end
        if end >= len(row):
            self._row += 1
            self._sweep = 0 if self._row < _ROWS else -1
        self._is_at_work = self._sweep >= 0
