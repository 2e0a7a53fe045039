"""A reader of the second tier that gathers what it reads for the first.

The first tier gets the body in one go when it is complete, and not piece by piece as the client takes
it: others may read along with a write in the first tier, and would be as slow as this client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from pingora_cache.storage import HitHandler
from pingora_error import Error

if TYPE_CHECKING:
    from pingora_cache._tiers import Subject, Tiers

__all__ = ["CopyingHit"]


@final
class CopyingHit(HitHandler):
    """Reads an object of the second tier, and copies it if it is read as a whole.

    Args:
        tiers: The tiers.
        source: The reader of the second tier, of a finished object.
        subject: The object; its mark was set before the second tier was asked, and is given back
            here.
    """

    __slots__ = ("_copy", "_held", "_mark", "_size", "_source", "_subject", "_taken", "_tiers")

    def __init__(self, tiers: Tiers, source: HitHandler, subject: Subject) -> None:
        self._tiers = tiers
        self._source = source
        self._subject = subject
        self._mark = subject.mark
        self._size = source.body_size or 0
        self._taken = 0
        self._copy: list[bytes] | None = None
        self._held: bytes | None = None
        if tiers.budget.take(self._size):
            self._copy = []
        else:
            self._abandon()

    async def read_body(self) -> bytes | None:
        """Read on.

        Returns:
            The next piece; None at the end.

        Raises:
            Error: If the second tier fails.
            RuntimeError: If the reader has been closed.
        """
        if self._held is None:
            piece = await self._source.read_body()
            copy = self._copy
            if copy is None:
                return piece
            if piece is not None:
                copy.append(piece)
                self._taken += len(piece)
            if self._taken == self._size:
                self._held = piece
                await self._publish(copy)
            elif piece is None:
                self._abandon()
            else:
                return piece
        # Whoever was cancelled while the copy was written gets the last piece the next time.
        piece, self._held = self._held, None
        return piece

    async def _publish(self, copy: list[bytes]) -> None:
        tiers, mark = self._tiers, self._mark
        self._copy = None
        try:
            # Whoever has the turn publishes something newer.
            if mark.is_void or tiers.turns.is_taken(mark.key_hash):
                return
            async with tiers.turns.take(mark.key_hash):
                finished = await tiers.put(self._subject, copy)
                # Who has made it void meanwhile may not have met it.
                dropped = await tiers.drop_void(self._subject.key, mark)
            if finished is not None and finished.published and not dropped:
                tiers.stats.promotions += 1
                tiers.note_same(mark.key_hash)
        except Error as error:
            tiers.first_failed(error)
        except BaseException:
            tiers.doubt(mark.key_hash)  # the copy may be there, and out of date
            raise
        finally:
            tiers.budget.give(self._size)
            tiers.marks.remove(mark)

    def _abandon(self) -> None:
        if self._copy is not None:
            self._copy = None
            self._tiers.budget.give(self._size)
        self._tiers.marks.remove(self._mark)

    def close(self) -> None:
        """Give up what the handler holds; nothing on the second call."""
        self._held = None
        self._abandon()
        self._source.close()

    async def finish(self) -> None:
        """End reading in good order."""
        self._held = None
        self._abandon()
        await self._source.finish()

    def __del__(self) -> None:
        self._abandon()

    @property
    def can_seek(self) -> bool:
        """As in the second tier."""
        return self._source.can_seek

    @property
    def can_seek_multipart(self) -> bool:
        """As in the second tier."""
        return self._source.can_seek_multipart

    def seek(self, start: int, end: int | None = None) -> None:
        """Go on reading at ``start``, up to ``end``. Parts of an object are not copied.

        Args:
            start: Bytes from the beginning of the body.
            end: Where to end, exclusive; None or beyond the body for its end.

        Raises:
            Error: If ``start`` is not inside the body.
            RuntimeError: If the handler cannot seek, or has been closed.
            ValueError: If ``start`` is negative or ``end`` is not above it.
        """
        self._source.seek(start, end)
        self._held = None
        if self._copy is None:
            return
        if start == 0 and (end is None or end >= self._size):
            self._copy.clear()
            self._taken = 0
        else:
            self._abandon()

    @property
    def body_size(self) -> int | None:
        """Bytes of the whole body."""
        return self._source.body_size

    @property
    def is_partial(self) -> bool:
        """As in the second tier."""
        return self._source.is_partial

    @property
    def should_count_access(self) -> bool:
        """As in the second tier."""
        return self._source.should_count_access

    @property
    def eviction_weight(self) -> int:
        """As in the second tier."""
        return self._source.eviction_weight
