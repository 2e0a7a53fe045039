"""What is going on right now, by key, over all worker processes of a server.

Theory of operation: each process counts in a slot (``_slots``) with one table (``_tables``) and one
sketch for the keys that the table has no room for; a count is the sum over the slots of living
processes. Which those are is looked at whenever one takes a slot, and every second: who can lock
the slot of another has found that the other is dead, and empties it.

A slot has in its head whether its counts are valid and whether its sketch was ever used; in its
body the table and the sketch.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final, final

from pingora_limits._forking import forget_after_fork
from pingora_limits._hashing import hash_key
from pingora_limits._sketch import HASHES, SLOTS_PER_KEY, Sketch, cells_of
from pingora_limits._tally import check_amount
from pingora_limits.inflight import Guard
from pingora_limits.shared._own import OwnSketch, OwnTable
from pingora_limits.shared._slots import Slots
from pingora_limits.shared._tables import slots_for, sum_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_limits._hashing import Key

__all__ = ["SharedInflight"]

_VALID, _CROWDED = 0, 1
_LOOK_AGAIN: Final = 1.0


@final
class SharedInflight:
    """``Inflight``, counted over all processes that are forked after it was made.

    Make it before the server forks its workers, and use it in them. Each process counts in memory
    of its own that all others read. What a process had in flight when it died is gone within a
    second, or at once when its replacement counts something. A guard belongs to the process that
    got it; in a process forked from that one it does nothing.

    A process counts ``expected_keys`` keys at a time exactly, further ones by estimates that are
    never too low. A process that finds no slot free counts for itself alone, by estimates, beside
    what it reads of the others, and says so in the log.

    Args:
        processes: Processes that count at the same time at most. Workers that are being replaced
            count beside their successors. A slot that was never used costs no memory.
        expected_keys: Keys that a process has in flight at the same time and counts exactly, at
            least 1.
        clock: Seconds that only grow.

    Raises:
        ValueError: If a number is out of range.
    """

    __slots__ = (
        "__weakref__",
        "_alone",
        "_capacity",
        "_cells",
        "_clock",
        "_columns",
        "_look_again",
        "_looked",
        "_others",
        "_roll",
        "_sketch",
        "_sketches",
        "_slot",
        "_slots",
        "_table",
        "_table_size",
        "_tables",
    )

    def __init__(
        self,
        *,
        processes: int = 64,
        expected_keys: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if expected_keys < 1:
            msg = f"at least 1 key is expected, not {expected_keys}"
            raise ValueError(msg)
        self._capacity = expected_keys
        self._columns = SLOTS_PER_KEY * expected_keys
        self._table_size = slots_for(expected_keys)
        self._slots = Slots(processes, self._table_size + HASHES * self._columns)
        self._cells = self._slots.cells
        self._clock = clock
        self._table: OwnTable | None = None
        self._sketch: OwnSketch | None = None
        self.forget()
        forget_after_fork(self)

    def forget(self) -> None:
        """Own no slot: a process that was forked has to take its own."""
        self._disown()
        self._slot: int | None = None  # that of this process
        self._table = None
        self._sketch = None
        self._alone: Sketch | None = None  # what it counts with if there was no slot for it
        self._looked = self._look_again = -math.inf
        self._roll = 0
        self._others: tuple[int, ...] = ()  # tables in other slots
        self._tables: tuple[int, ...] = ()  # tables in all slots
        self._sketches: tuple[int, ...] = ()  # sketches in use in all slots

    @property
    def memory(self) -> int:
        """Bytes that the counts take now, in all processes together."""
        return self._slots.memory

    @property
    def max_memory(self) -> int:
        """Bytes that the counts take at most, in all processes together."""
        return self._slots.max_memory

    def incr(self, key: Key, value: int = 1) -> tuple[Guard, int]:
        """Count something that begins.

        Args:
            key: What it belongs to.
            value: How much it is, from 1 to 4 Gi.

        Returns:
            A guard to release when it ends, and the count of the key in all processes with this
            included. The count falls also when the guard is dropped.

        Raises:
            TypeError: If the key is of another type.
            ValueError: If the value is out of range; nothing was counted.
        """
        if value != 1:
            check_amount(value, 1)
        hashed = hash_key(key)
        now = self._clock()
        cells = self._cells
        if cells[0] != self._roll or not self._looked <= now < self._look_again:
            self._look(now)
        table = self._table
        if table is None and self._alone is None:
            self._take_slot()
            self._look(now)
            table = self._table
        count = 0 if table is None else table.put(hashed, value)
        if table is None or not count:
            crowd = self._need_sketch()
            crowd.add(hashed, value)
            return Guard(self, crowd, hashed, value), self.count(hashed)
        if self._others:
            count += sum_up(cells, self._others, self._table_size, hashed)
        if self._sketches:
            count += self._estimate(hashed)
        return Guard(self, table, hashed, value), count

    def get(self, key: Key) -> int:
        """Tell what is in flight.

        Args:
            key: The key.

        Returns:
            Its count in all processes.
        """
        return self.count(hash_key(key))

    def count(self, hashed: int) -> int:
        """Tell what is in flight of a key of which only the hash is known.

        Args:
            hashed: The hash of the key.

        Returns:
            Its count in all processes.
        """
        now = self._clock()
        if self._cells[0] != self._roll or not self._looked <= now < self._look_again:
            self._look(now)
        total = sum_up(self._cells, self._tables, self._table_size, hashed)
        if self._sketches:
            total += self._estimate(hashed)
        return total if self._alone is None else total + self._alone.get(hashed)

    def close(self) -> None:
        """Give the memory back; nothing can be counted in this process any more."""
        self._disown()
        self._slots.close()

    def _disown(self) -> None:
        if self._table is not None:
            self._table.is_mine = False
        if self._sketch is not None:
            self._sketch.is_mine = False

    def _estimate(self, hashed: int) -> int:
        cells = self._cells
        total = 0
        for sketch in self._sketches:
            mine = cells_of(hashed, HASHES, self._columns, sketch)
            total += min(map(cells.__getitem__, mine))
        return total

    def _need_sketch(self) -> OwnSketch | Sketch:
        if self._alone is not None:
            return self._alone
        if self._sketch is None:
            assert self._slot is not None
            start = self._slots.body(self._slot) + self._table_size
            self._sketch = OwnSketch(self._cells, start, columns=self._columns)
            self._cells[self._slots.head(self._slot) + _CROWDED] = 1
            self._slots.announce()
        return self._sketch

    def _look(self, now: float) -> None:
        """Find the slots whose counts are valid."""
        if not self._looked <= now < self._look_again:
            self._looked, self._look_again = now, now + _LOOK_AGAIN
            self._bury()
        cells = self._cells
        self._roll = cells[0]
        body, head = self._slots.body, self._slots.head
        valid = [slot for slot in range(self._slots.count) if cells[head(slot) + _VALID]]
        self._tables = tuple(body(slot) for slot in valid)
        self._others = tuple(body(slot) for slot in valid if slot != self._slot)
        crowded = [slot for slot in valid if cells[head(slot) + _CROWDED]]
        self._sketches = tuple(body(slot) + self._table_size for slot in crowded)

    def _take_slot(self) -> None:
        self._slot = slot = self._slots.take()
        if slot is None:
            self._alone = Sketch(HASHES, self._columns)
            return
        self._empty(slot)
        start, size = self._slots.body(slot), self._table_size
        self._table = OwnTable(self._cells, start, size=size, capacity=self._capacity)
        self._cells[self._slots.head(slot) + _VALID] = 1
        self._slots.announce()

    def _bury(self) -> None:
        """Empty the slots of processes that have died."""
        for slot in range(self._slots.count):
            is_valid = self._cells[self._slots.head(slot) + _VALID]
            if is_valid and slot != self._slot and self._slots.lock(slot):
                self._empty(slot)
                self._slots.announce()
                self._slots.unlock(slot)

    def _empty(self, slot: int) -> None:
        cells, head = self._cells, self._slots.head(slot)
        cells[head + _VALID] = 0
        sketch = HASHES * self._columns if cells[head + _CROWDED] else 0
        self._slots.clear(self._slots.body(slot), self._table_size + sketch)
        cells[head + _CROWDED] = 0
