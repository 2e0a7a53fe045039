"""Which backend is to be checked when; no I/O, no clock."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from pingora_load_balancing.health.record import HealthRecord

__all__ = ["Schedule"]

# Dead entries that are kept before they are worth a clean-up.
_TOLERATED: Final = 64


@final
class Schedule:
    """Records in the order in which they are due; those due first come first, so none starves.

    A record is in here once at most. What is taken out or put off leaves its entry behind, which
    is recognised by its ticket, and swept up when half of all are dead.
    """

    __slots__ = ("_count", "_heap", "_last_ticket")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, HealthRecord]] = []
        self._last_ticket = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, record: HealthRecord, due: float) -> None:
        """Schedule a record, in place of what it was scheduled for before.

        Args:
            record: The record.
            due: When, seconds.
        """
        if not record.ticket:
            self._count += 1
        self._last_ticket += 1
        record.ticket = self._last_ticket
        heapq.heappush(self._heap, (due, self._last_ticket, record))
        self._sweep()

    def remove(self, record: HealthRecord) -> None:
        """Take a record out.

        Args:
            record: The record; if it is not in here nothing happens.
        """
        if record.ticket:
            record.ticket = 0
            self._count -= 1
            self._sweep()

    def pop_due(self, now: float) -> tuple[HealthRecord, float] | None:
        """Take the record that has been due for longest.

        Args:
            now: The time, seconds.

        Returns:
            The record and when it was due; None if none is due.
        """
        due = self.next_due()
        if due is None or due > now:
            return None
        _, _, record = heapq.heappop(self._heap)
        record.ticket = 0
        self._count -= 1
        return record, due

    def next_due(self) -> float | None:
        """Tell when the first record is due.

        Returns:
            When, seconds; None if there is no record.
        """
        heap = self._heap
        while heap and heap[0][1] != heap[0][2].ticket:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def shift(self, seconds: float) -> None:
        """Move everything, after the clock itself has moved.

        Args:
            seconds: By how much.
        """
        # The order stays, and with it the heap.
        self._heap = [(due + seconds, ticket, record) for due, ticket, record in self._heap]

    def _sweep(self) -> None:
        if len(self._heap) > 2 * self._count + _TOLERATED:
            self._heap = [entry for entry in self._heap if entry[1] == entry[2].ticket]
            heapq.heapify(self._heap)
