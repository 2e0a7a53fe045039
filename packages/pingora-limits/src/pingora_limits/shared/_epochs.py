"""Tables of shared memory that last for one epoch and the next, a slot of them for each process.

Theory of operation: time is cut into numbered intervals, epochs, on a grid that all processes share
since they share the clock. A slot (``_slots``) has two blocks, for even and for odd epochs, and says
to which epoch each belongs; its process begins a block anew when it first counts in an epoch. What
is true of a key is made of the blocks of that epoch in all slots. So what a process counted before
it died stays until its epoch and the next are over, and whoever takes over its slot goes on.

A block is a table (``_tables``) and a sketch for the keys that the table has no room for, updated
conservatively. A key is in one or the other, as in ``_tally``. If asked for, each of its cells has a
companion, a floating-point number in a second pair of blocks behind the first.

A slot has in its head the epochs of the blocks, how many keys their tables hold and whether their
sketches are in use; in its body two blocks, and maybe two blocks of companions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from pingora_limits._forking import forget_after_fork
from pingora_limits._sketch import HASHES, SLOTS_PER_KEY, cells_of
from pingora_limits.shared._slots import Slots
from pingora_limits.shared._tables import find, slots_for

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EpochTables", "Tables"]

_EPOCH, _KEYS, _SKETCH = 0, 2, 4
# Epochs are never 0, also when the clock went back behind its first reading.
_FIRST_EPOCH: Final = 2**32


class Tables(NamedTuple):
    """Where the tables of an epoch begin.

    Attributes:
        exact: Tables that hold all keys of their process.
        crowded: Tables beside which the sketch is in use, each with where its sketch begins.
    """

    exact: tuple[int, ...]
    crowded: tuple[tuple[int, int], ...]


_NOTHING: Final = Tables((), ())


class EpochTables:
    """The blocks of all slots, as one process sees them.

    Args:
        interval: Length of an epoch in seconds, above 0.
        processes: Processes that may count at the same time, at least 1.
        expected_keys: Keys for which a table has room, at least 1.
        clock: Seconds that only grow, the same in all processes.
        has_companions: Whether each cell has one.

    Attributes:
        interval: Length of an epoch in seconds.

    Raises:
        ValueError: If a number is out of range.
    """

    __slots__ = (
        "__weakref__",
        "_block",
        "_capacity",
        "_cells",
        "_clock",
        "_columns",
        "_companions",
        "_crowded_others",
        "_current",
        "_end",
        "_epoch",
        "_head",
        "_is_alone",
        "_origin",
        "_others",
        "_previous",
        "_roll",
        "_slot",
        "_slots",
        "_start",
        "_table",
        "_table_size",
        "interval",
    )

    def __init__(
        self,
        interval: float,
        *,
        processes: int,
        expected_keys: int,
        clock: Callable[[], float],
        has_companions: bool = False,
    ) -> None:
        if not 0 < interval < math.inf:
            msg = f"an interval is longer than 0 seconds and ends, not {interval}"
            raise ValueError(msg)
        if expected_keys < 1:
            msg = f"at least 1 key is expected, not {expected_keys}"
            raise ValueError(msg)
        self.interval = interval
        self._capacity = expected_keys
        self._columns = SLOTS_PER_KEY * expected_keys
        self._table_size = slots_for(expected_keys)
        self._block = self._table_size + HASHES * self._columns
        self._companions = 2 * self._block if has_companions else 0
        self._slots = Slots(processes, 2 * self._block + self._companions)
        self._cells = self._slots.cells
        self._clock = clock
        self._origin = clock()
        self.forget()
        forget_after_fork(self)

    def forget(self) -> None:
        """Own no slot: a process that was forked has to take its own."""
        self._slot: int | None = None  # that of this process
        self._head = 0  # where its head begins
        self._is_alone = False  # whether there was no slot for it
        self._epoch = 0
        self._start = self._end = -math.inf
        self._roll = 0
        # Where the table of this process begins; without one, an empty one that nobody writes to.
        self._table = self._slots.void
        self._current = self._previous = _NOTHING  # of all slots, in this epoch and the last one
        self._others: tuple[int, ...] = ()  # as in _current, without the own slot
        self._crowded_others: tuple[tuple[int, int], ...] = ()

    @property
    def memory(self) -> int:
        """Bytes that the system has given so far, for all processes together."""
        return self._slots.memory

    @property
    def max_memory(self) -> int:
        """Bytes that all processes together take at most."""
        return self._slots.max_memory

    def close(self) -> None:
        """Give the memory back; nothing can be counted in this process any more."""
        self._slots.close()

    def _turn(self, now: float) -> None:
        """Let the epoch of a reading be the current one, and look at all slots.

        To be called when the reading is outside of the epoch, or the roll has changed.

        Args:
            now: The reading of the clock.
        """
        number = math.floor((now - self._origin) / self.interval)
        epoch = number + _FIRST_EPOCH
        if epoch != self._epoch:
            self._epoch = epoch
            self._start = self._origin + number * self.interval
            self._end = self._start + self.interval
            if self._slot is None and not self._is_alone:
                self._slot = self._slots.take()
                self._is_alone = self._slot is None
            if self._slot is not None:
                self._begin_block(self._slot, epoch & 1)
        self._scan()

    def _begin_block(self, slot: int, parity: int) -> None:
        self._head = head = self._slots.head(slot)
        self._table = table = self._slots.body(slot) + parity * self._block
        cells = self._cells
        if cells[head + _EPOCH + parity] == self._epoch:
            return  # a process that is no more has begun it
        length = self._block if cells[head + _SKETCH + parity] else self._table_size
        cells[head + _EPOCH + parity] = 0
        self._slots.clear(table, length)
        if self._companions:
            self._slots.clear(table + self._companions, length)
        cells[head + _KEYS + parity] = cells[head + _SKETCH + parity] = 0
        cells[head + _EPOCH + parity] = self._epoch
        self._slots.announce()

    def _scan(self) -> None:
        self._roll = self._cells[0]
        self._current = current = self._begun(self._epoch)
        self._previous = self._begun(self._epoch - 1)
        mine = self._table
        self._others = tuple(table for table in current.exact if table != mine)
        self._crowded_others = tuple(pair for pair in current.crowded if pair[0] != mine)

    def _begun(self, epoch: int) -> Tables:
        cells, parity = self._cells, epoch & 1
        exact: list[int] = []
        crowded: list[tuple[int, int]] = []
        for slot in range(self._slots.count):
            head = self._slots.head(slot)
            if cells[head + _EPOCH + parity] != epoch:
                continue
            table = self._slots.body(slot) + parity * self._block
            if cells[head + _SKETCH + parity]:
                crowded.append((table, table + self._table_size))
            else:
                exact.append(table)
        return Tables(tuple(exact), tuple(crowded))

    def _place(self, hashed: int) -> tuple[int, int]:
        """Find the cell of a key in the table of this process, or reserve one.

        Args:
            hashed: The hash of the key.

        Returns:
            Its position and count; 0 twice if the key belongs to the sketch.
        """
        cells, keys = self._cells, self._head + _KEYS + (self._epoch & 1)
        at, count = find(cells, self._table, self._table_size, hashed)
        if count >= 0:
            return at, count
        if at < 0 or cells[keys] >= self._capacity:
            return 0, 0
        # Counted before it is there: one too many costs room, one too few would let it fill up.
        cells[keys] += 1
        return at, 0

    def _sketch_cells(self, hashed: int) -> list[int]:
        """Find the cells of a key in the sketch of this process, which is in use from now on.

        Args:
            hashed: The hash of the key.

        Returns:
            Their positions.
        """
        flag = self._head + _SKETCH + (self._epoch & 1)
        if not self._cells[flag]:
            self._cells[flag] = 1
            self._slots.announce()
            self._scan()
        return cells_of(hashed, HASHES, self._columns, self._table + self._table_size)
