"""Where records and pieces of bodies are kept: dictionaries that nothing ever walks or stops for.

Theory of operation: one large dictionary stops the program for tens of milliseconds whenever it
has to grow; many small ones grow one at a time. They hold numbers and bytes only, so that the
garbage collector leaves them out altogether.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Table"]

_SHARDS: Final = 256


@final
class Table:
    """Records by slot, and pieces of bodies by number.

    Slots are hashes, so that any byte of them tells shards apart.
    """

    __slots__ = ("_next", "_pieces", "_records", "objects")

    def __init__(self) -> None:
        self._records: list[dict[bytes, bytes]] = [{} for _ in range(_SHARDS)]
        self._pieces: list[dict[int, bytes]] = [{} for _ in range(_SHARDS)]
        self._next = 0
        self.objects = 0

    # ------------------------------------------------------------------------ records

    def get(self, slot: bytes) -> bytes | None:
        """Find a record.

        Args:
            slot: Where.

        Returns:
            The record, or None.
        """
        return self._records[slot[0]].get(slot)

    def put(self, slot: bytes, record: bytes) -> None:
        """Keep a record, in place of one that is there.

        Args:
            slot: Where.
            record: The record.
        """
        shard = self._records[slot[0]]
        self.objects -= len(shard)
        shard[slot] = record
        self.objects += len(shard)

    def pop(self, slot: bytes) -> bytes | None:
        """Remove a record.

        Args:
            slot: Where.

        Returns:
            The record that was there, or None.
        """
        record = self._records[slot[0]].pop(slot, None)
        if record is not None:
            self.objects -= 1
        return record

    def slots(self) -> Iterator[bytes]:
        """Walk through all slots, in any number of steps; the table may change between them.

        Yields:
            What was there when the walk came to its shard; some may be gone by now, and what was
            added meanwhile may be left out.
        """
        for shard in self._records:
            yield from list(shard)

    # ------------------------------------------------------------------------- pieces

    def put_pieces(self, pieces: Sequence[bytes]) -> int:
        """Keep the pieces of a body.

        Args:
            pieces: The pieces.

        Returns:
            The number of the first; the others follow.
        """
        first = self._next
        self._next += len(pieces)
        for number, piece in enumerate(pieces, first):
            self._pieces[number % _SHARDS][number] = piece
        return first

    def pieces(self, first: int, count: int) -> list[bytes]:
        """Find the pieces of a body.

        Args:
            first: What ``put_pieces`` returned.
            count: How many there are.

        Returns:
            The pieces.
        """
        shards = self._pieces
        return [shards[number % _SHARDS][number] for number in range(first, first + count)]

    def pop_pieces(self, first: int, count: int) -> list[bytes]:
        """Remove the pieces of a body.

        Args:
            first: What ``put_pieces`` returned.
            count: How many there are.

        Returns:
            The pieces.
        """
        shards = self._pieces
        return [shards[number % _SHARDS].pop(number) for number in range(first, first + count)]

    def clear(self) -> list[dict[bytes, bytes] | dict[int, bytes]]:
        """Remove everything.

        Returns:
            What it was, in parts: to free all of it takes half a second for a million records.
        """
        parts: list[dict[bytes, bytes] | dict[int, bytes]] = [*self._records, *self._pieces]
        self._records = [{} for _ in range(_SHARDS)]
        self._pieces = [{} for _ in range(_SHARDS)]
        self.objects = 0
        return parts
