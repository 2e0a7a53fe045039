"""A writer into two tiers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, final

from pingora_cache.storage import (
    RESPONSE_TOO_LARGE,
    STORAGE_CLOSED,
    WRITE_FAILED,
    Finished,
    MissHandler,
)
from pingora_error import Error

if TYPE_CHECKING:
    from pingora_cache._tiers import Subject, Tiers
    from pingora_cache.meta import CacheMeta

__all__ = ["FIRST", "SECOND", "TieredMiss", "Writers", "content_length"]

FIRST: Final = b"1"
SECOND: Final = b"2"


def content_length(meta: CacheMeta) -> int | None:
    """Tell how large a body is going to be.

    Args:
        meta: What is known about the response.

    Returns:
        What the head says, which is a hint here; None if it does not.
    """
    value = meta.header.get("Content-Length")
    return int(value) if value is not None and value.isascii() and value.isdigit() else None


class Writers(NamedTuple):
    """How an object goes into the tiers.

    Attributes:
        first: The writer of the first tier; None if it gets the object later, or not at all.
        second: The writer of the second tier; None if it does not take the object.
        gathers: Whether the body is gathered, and the first tier gets it at the end.
        streams_first: Whether others may be reading along with the first tier's write.
    """

    first: MissHandler | None
    second: MissHandler | None
    gathers: bool = False
    streams_first: bool = False

    def close(self) -> None:
        """Give up both."""
        for writer in (self.first, self.second):
            if writer is not None:
                writer.close()


@final
class TieredMiss(MissHandler):
    """Writes one object into both tiers, or into the one that takes it.

    Args:
        tiers: The tiers.
        writers: How the object goes into them.
        subject: The object; its mark is given back here.
    """

    __slots__ = (
        "_failure",
        "_first",
        "_gathered",
        "_gathered_size",
        "_has_end",
        "_is_over",
        "_is_too_large",
        "_mark",
        "_second",
        "_size",
        "_streams_first",
        "_subject",
        "_tag",
        "_tiers",
    )

    def __init__(self, tiers: Tiers, writers: Writers, subject: Subject) -> None:
        self._tiers = tiers
        self._first = writers.first
        self._second = writers.second
        self._streams_first = writers.streams_first
        self._gathered: list[bytes] | None = [] if writers.gathers else None
        self._gathered_size = 0
        self._subject = subject
        self._mark = subject.mark
        self._size = 0
        self._has_end = False
        self._is_over = False
        self._is_too_large = False  # for the first tier
        self._failure: Error | None = None
        self._tag = self._find_tag()

    def _find_tag(self) -> bytes | None:
        if self._first is not None and self._streams_first:
            tag = self._first.streaming_write_tag
            return None if tag is None else FIRST + tag
        if self._second is not None and self._tiers.second.supports_streaming_partial_write:
            tag = self._second.streaming_write_tag
            return None if tag is None else SECOND + tag
        return None

    @property
    def streaming_write_tag(self) -> bytes | None:
        """What this write is found by, in the tier that streams it; None if none does."""
        return self._tag

    # ------------------------------------------------------------------------- writing

    async def write_body(self, data: bytes, *, end: bool) -> None:
        """Add to the body in both tiers.

        Args:
            data: What follows; may be empty.
            end: Whether the body is complete with it.

        Raises:
            Error: If the write has failed in both tiers.
            RuntimeError: If the write has ended before, or its end was written.
        """
        self._check_open()
        if self._has_end:
            msg = "the end of the body was written before"
            raise RuntimeError(msg)
        self._has_end = end
        self._size += len(data)
        if self._size > self._tiers.limit and not self._is_too_large:
            self._outgrow()
        self._gather(data)
        error: Error | None = None
        if self._first is not None:
            try:
                await self._first.write_body(data, end=end)
            except Error as failure:
                error = failure
                self._lose_first(failure)
        if self._second is not None:
            try:
                await self._second.write_body(data, end=end)
            except Error as failure:
                error = failure
                self._lose_second(failure)
        if not self._can_publish:
            self._failure = error or Error.internal(WRITE_FAILED, "too large for the first tier")
            self._clean_up()
            raise self._failure

    @property
    def _can_publish(self) -> bool:
        if self._second is not None or self._gathered is not None:
            return True
        return self._first is not None and not self._is_too_large

    def _outgrow(self) -> None:
        # What others are reading along with goes on, as far as the first tier lets it.
        self._is_too_large = True
        self._drop_gathered()
        if self._first is not None and not self._streams_first:
            self._first.close()
            self._first = None

    def _gather(self, data: bytes) -> None:
        if self._gathered is None or not data:
            return
        if self._tiers.budget.take(len(data)):
            self._gathered_size += len(data)
            self._gathered.append(data)
        else:
            self._drop_gathered()

    def _drop_gathered(self) -> None:
        self._gathered = None
        self._tiers.budget.give(self._gathered_size)
        self._gathered_size = 0

    def _lose_first(self, error: Error) -> None:
        self._tiers.first_failed(error)
        if self._first is not None:
            self._first.close()
            self._first = None

    def _lose_second(self, error: Error) -> None:
        self._tiers.second_failed(error)
        if self._second is not None:
            self._second.close()
            self._second = None
        if error.etype in {RESPONSE_TOO_LARGE, STORAGE_CLOSED}:
            # Not in trouble: it does not want it, and what it does not want is not stored.
            self._outgrow()

    # ------------------------------------------------------------------------- ending

    async def finish(self) -> Finished:
        """Publish the object: in the second tier, and then in the first.

        Returns:
            What it came to.

        Raises:
            Error: If no tier takes it.
            RuntimeError: If the write has been finished or given up before.
        """
        self._check_open()
        self._is_over = True
        try:
            # Writes of one key come to both tiers in the same order.
            async with self._tiers.turns.take(self._mark.key_hash):
                finished = await self._publish()
        except BaseException as failure:
            self._tiers.stats.aborted_writes += 1
            self._tiers.marks.supersede(self._mark.key_hash)
            self._tiers.doubt(self._mark.key_hash)
            if isinstance(failure, Error):
                self._failure = failure
            raise
        finally:
            self._clean_up()
        self._tiers.stats.writes += finished.published
        return finished

    async def _publish(self) -> Finished:
        tiers, key_hash = self._tiers, self._mark.key_hash
        finished: Finished | None = None
        error = Error.internal(WRITE_FAILED, "no tier has taken the object")
        if self._second is not None:
            try:
                finished = await self._second.finish()
            except Error as failure:
                error = failure
                self._lose_second(failure)
        tiers.marks.supersede(key_hash)
        if self._mark.is_void or (finished is not None and not finished.published):
            # Purged, perhaps by another process, or not admitted: it must not be in the first
            # tier either.
            await self._leave_first()
            return finished or Finished(0, 0, published=False)
        stored = await self._publish_first()
        if stored is None:
            await self._leave_first()
            await tiers.drop_first(self._subject.key.to_compact())
        if finished is None:
            if stored is None:
                raise error
            if stored.published:
                tiers.stats.first_only += 1
                tiers.alone.note(key_hash, 0.0)
            return stored
        if stored is not None:
            tiers.note_same(key_hash)
        return finished

    async def _publish_first(self) -> Finished | None:
        # None if the first tier does not have it.
        try:
            if self._first is not None and not self._is_too_large:
                return await self._first.finish()
            if self._gathered is not None:
                return await self._tiers.put(self._subject, self._gathered)
        except Error as failure:
            self._lose_first(failure)
        return None

    async def _leave_first(self) -> None:
        # End the first tier's write unpublished, but well for those who read along.
        first, self._first = self._first, None
        if first is None:
            return
        try:
            # Published for a moment, which is not worse than for a moment before the second tier
            # had published it or was purged.
            if self._streams_first and (await first.finish()).published:
                await self._tiers.drop_first(self._subject.key.to_compact())
        except Error as failure:
            self._tiers.first_failed(failure)
        finally:
            first.close()

    def _clean_up(self) -> None:
        self._drop_gathered()
        self._tiers.marks.remove(self._mark)
        for writer in (self._first, self._second):
            if writer is not None:
                writer.close()

    def close(self) -> None:
        """Give up in both tiers, unless the write is finished; nothing on the second call."""
        if not self._is_over:
            self._is_over = True
            self._tiers.stats.aborted_writes += 1
            self._clean_up()

    async def abort(self) -> None:
        """Give up in both tiers, unless the write is finished, until nothing is left."""
        if self._is_over:
            return
        self._is_over = True
        self._tiers.stats.aborted_writes += 1
        try:
            for writer in (self._first, self._second):
                if writer is not None:
                    await writer.abort()
        finally:
            self._clean_up()

    def __del__(self) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._is_over:
            msg = "the write has ended"
            raise RuntimeError(msg)
        if self._failure is not None:
            raise self._failure.more_context("the write has failed")
