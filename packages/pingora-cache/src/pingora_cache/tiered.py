"""A small fast store in front of a large one: memory over disk, memory over Redis.

Theory of operation
-------------------
The second tier is the truth; the first one has copies of what is small and asked for often. Lookups
ask the first, then the second; writes go to the second, then to the first; purges likewise. Whatever
is under way between the tiers while an object is purged, replaced or revalidated is told so
(``_tiered_marks``), and so nothing that was purged comes back.

- *Other processes.* The first tier is often one of many: each worker, each machine has its own. What
  one of them purges the others learn from the second tier: an object of the first tier is compared
  with the second at most ``recheck_interval`` seconds after the last time, before it is served. So a
  purge holds everywhere after that time, and at once where it was made.
- *Failures.* A second tier in trouble fails no request that the first can serve, and no fill: an
  object that it does not take is in the first tier only, and is not compared. A first tier in trouble
  is left out. Both are counted. A purge that does not reach both tiers is an ``Error``.
- *What goes into the first tier.* Bodies up to ``first_max_object_size``: when they are written
  (``WritePolicy``), and when they are read from the second tier in one piece, if ``promote`` says so.
- *Reading along.* If a tier can stream partial writes, so does this: through the first tier if the
  body is known to fit into it or the second cannot; otherwise through the second, and the first gets
  the body at the end. A body of unknown size that turns out to be larger than what goes into the
  first tier while that streams it goes on there as long as it is let, and is not kept.
"""

from __future__ import annotations

import time
from enum import Enum
from typing import TYPE_CHECKING, final

from pingora_cache._tiered_reads import TieredReads
from pingora_cache._tiered_writes import FIRST, SECOND, TieredMiss, Writers, content_length
from pingora_cache._tiers import Subject, TieredStats, Tiers
from pingora_cache.admission import NthRequest
from pingora_cache.storage import (
    WRITE_FAILED,
    PurgeAction,
    PurgeKind,
    PurgeResult,
    Storage,
)
from pingora_error import Error

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_cache._tiered_marks import Mark
    from pingora_cache.admission import AdmissionPolicy
    from pingora_cache.key import CacheKey, CompactCacheKey
    from pingora_cache.meta import CacheMeta
    from pingora_cache.storage import HitHandler, MissHandler

__all__ = ["TieredStats", "TieredStorage", "WritePolicy"]


class WritePolicy(Enum):
    """Where a new object goes.

    Attributes:
        BOTH: Into both tiers, if it is small enough for the first.
        SECOND: Into the second tier only; it comes into the first when it is asked for.
    """

    BOTH = "both"
    SECOND = "second"


@final
class TieredStorage(Storage):
    """Keeps responses in two stores.

    Args:
        first: The small and fast one, of this process.
        second: The large one, which other processes may use too.
        promote: Decides, each time an object is found in the second tier only, whether it is to
            be copied into the first. The default is at the second time.
        write: Where new objects go.
        first_max_object_size: Bytes of the largest body, with its meta, that goes into the first
            tier.
        recheck_interval: Seconds after which an object of the first tier is compared with the
            second before it is served; None for never, if nobody else uses the second tier.
        max_copying: Bytes of bodies that are gathered for the first tier at a time.
        clock: Seconds since the epoch.
        monotonic: Seconds that only grow.

    Raises:
        ValueError: If a number is out of range.
    """

    __slots__ = (
        "_clock",
        "_first",
        "_reads",
        "_second",
        "_tiers",
        "_write",
    )

    def __init__(  # noqa: PLR0913 - a record of choices
        self,
        first: Storage,
        second: Storage,
        *,
        promote: AdmissionPolicy | None = None,
        write: WritePolicy = WritePolicy.BOTH,
        first_max_object_size: int = 1024 * 1024,
        recheck_interval: float | None = 1.0,
        max_copying: int = 64 * 1024 * 1024,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if first_max_object_size < 0 or max_copying < 0:
            msg = "sizes are not negative"
            raise ValueError(msg)
        if recheck_interval is not None and not recheck_interval >= 0:
            msg = f"an interval is not negative ({recheck_interval})"
            raise ValueError(msg)
        self._first = first
        self._second = second
        self._write = write
        self._clock = clock
        self._tiers = Tiers(
            first,
            second,
            limit=first_max_object_size,
            max_copying=max_copying,
            monotonic=monotonic,
        )
        policy = NthRequest(2) if promote is None else promote
        self._reads = TieredReads(self._tiers, policy, recheck_interval, clock)

    async def open(self) -> None:
        """Get both tiers ready; nothing on the second call.

        Raises:
            Error: If one of them cannot work.
        """
        await self._first.open()
        await self._second.open()

    async def close(self) -> None:
        """Close both tiers; nothing on the second call."""
        try:
            await self._first.close()
        finally:
            await self._second.close()

    @property
    def first(self) -> Storage:
        """The small and fast one."""
        return self._first

    @property
    def second(self) -> Storage:
        """The large one."""
        return self._second

    @property
    def stats(self) -> TieredStats:
        """What has happened so far. The tiers have theirs.

        Bytes are those of both; objects those of the tier that has more, since most are in both.
        """
        stats = self._tiers.stats
        first, second = self._first.stats, self._second.stats
        stats.used_bytes = first.used_bytes + second.used_bytes
        stats.objects = max(first.objects, second.objects)
        return stats

    @property
    def supports_streaming_partial_write(self) -> bool:
        """Whether one of the tiers does. Not every object is streamed: see the writer's tag."""
        return (
            self._first.supports_streaming_partial_write
            or self._second.supports_streaming_partial_write
        )

    # ------------------------------------------------------------------------- reading

    async def lookup(self, key: CacheKey) -> tuple[CacheMeta, HitHandler] | None:
        """Find the object of a key, in the first tier or in the second.

        Args:
            key: The key.

        Returns:
            Its meta, and a reader; None if there is nothing.

        Raises:
            Error: If the first tier has nothing and the second is in trouble.
        """
        found = await self._reads.find(key)
        if found is None:
            self._tiers.stats.misses += 1
        else:
            self._tiers.stats.hits += 1
        return found

    async def lookup_streaming_write(
        self, key: CacheKey, tag: bytes | None
    ) -> tuple[CacheMeta, HitHandler] | None:
        """Find the very write that has a tag, in the tier that streams it.

        Args:
            key: The key that is written.
            tag: The tag; None for whatever ``lookup`` finds.

        Returns:
            Its meta, and a reader; None if there is no such write.

        Raises:
            Error: If that tier is in trouble.
        """
        if tag is None:
            return await self.lookup(key)
        tier = {FIRST: self._first, SECOND: self._second}.get(tag[:1])
        return None if tier is None else await tier.lookup_streaming_write(key, tag[1:])

    # ------------------------------------------------------------------------- writing

    async def get_miss_handler(self, key: CacheKey, meta: CacheMeta) -> MissHandler:
        """Begin to write an object.

        Args:
            key: The key.
            meta: What is known about the response. A ``Content-Length`` in its head decides
                which tier streams the write.

        Returns:
            The writer.

        Raises:
            Error: If no tier takes it.
        """
        key = key.copy()  # the request may change its own
        mark = self._tiers.marks.set(key.combined_hash, frozenset(meta.tags), is_copy=False)
        first: MissHandler | None = None
        second: MissHandler | None = None
        error: Error | None = None
        try:
            try:
                second = await self._second.get_miss_handler(key, meta)
            except Error as failure:
                error = failure
                self._tiers.second_failed(failure)
            direct, gathers = self._plan(meta, has_second=second is not None)
            if direct:
                try:
                    first = await self._first.get_miss_handler(key, meta)
                except Error as failure:
                    error = failure
                    self._tiers.first_failed(failure)
            if first is None and second is None:
                raise error or Error.internal(WRITE_FAILED, "no tier takes the object")
            await self._purge_again(key.to_compact(), mark)
        except BaseException:
            self._tiers.marks.remove(mark)
            Writers(first, second).close()
            raise
        streams = first is not None and self._first.supports_streaming_partial_write
        writers = Writers(first, second, gathers=gathers, streams_first=streams)
        return TieredMiss(self._tiers, writers, Subject(key, meta, mark))

    def _plan(self, meta: CacheMeta, *, has_second: bool) -> tuple[bool, bool]:
        # Whether the first tier is written to, or gets the body at the end.
        length = content_length(meta)
        if length is not None and length + meta.size > self._tiers.limit:
            return False, False
        if has_second:
            if self._write is WritePolicy.SECOND:
                return False, False
            if length is None and self._second.supports_streaming_partial_write:
                return False, True
        return True, False

    async def _purge_again(self, key: CompactCacheKey, mark: Mark) -> None:
        # Of a purge that came while the writers were made one of them may not have heard.
        if mark.is_void:
            await self._purge_both(key, PurgeKind.INVALIDATION, PurgeAction.DELETE)
        elif mark.expired_at is not None:
            await self._purge_both(key, PurgeKind.INVALIDATION, PurgeAction.EXPIRE)

    async def update_meta(self, key: CacheKey, meta: CacheMeta) -> bool:
        """Replace what is known about an object, in both tiers.

        Args:
            key: The key.
            meta: The new one, complete, with the ``created`` of the one that it replaces.

        Returns:
            Whether it was replaced in one of them.

        Raises:
            Error: If the first tier does not have it, and the second is in trouble.
        """
        key = key.copy()
        tiers, key_hash = self._tiers, key.combined_hash
        tiers.marks.supersede(key_hash)
        error: Error | None = None
        is_in_second = is_in_first = False
        try:
            is_in_second = await self._second.update_meta(key, meta)
        except Error as failure:
            error = failure
            tiers.second_failed(failure)
        try:
            is_in_first = await self._first.update_meta(key, meta)
        except Error as failure:
            tiers.first_failed(failure)
            await tiers.drop_first(key.to_compact())
        if error is not None and not is_in_first:
            raise error
        tiers.marks.supersede(key_hash)  # who has begun meanwhile may have seen the older one
        if is_in_first and is_in_second:
            tiers.note_same(key_hash)
        elif error is None:
            tiers.checked.forget(key_hash)
        return is_in_first or is_in_second

    # ------------------------------------------------------------------------- purging

    async def purge(
        self,
        key: CompactCacheKey,
        *,
        kind: PurgeKind = PurgeKind.INVALIDATION,
        action: PurgeAction = PurgeAction.DELETE,
    ) -> PurgeResult:
        """Remove the object of a key from both tiers, or make it expire.

        Args:
            key: The key.
            kind: Why.
            action: What is to be done.

        Returns:
            What it came to, in the tier where it came to more.

        Raises:
            Error: If a tier is in trouble; the object may still be there.
        """
        marks, key_hash = self._tiers.marks, key.combined_hash
        when = self._clock() if action is PurgeAction.EXPIRE else None
        is_for_writes = kind is PurgeKind.INVALIDATION
        marks.purge(key_hash, when, copies_only=not is_for_writes)
        try:
            result = await self._purge_both(key, kind, action)
        finally:
            # Those who have begun meanwhile may have seen what was not purged yet.
            marks.purge(key_hash, when, copies_only=not is_for_writes)
        self._tiers.stats.purges += bool(result)
        return result

    async def _purge_both(
        self, key: CompactCacheKey, kind: PurgeKind, action: PurgeAction
    ) -> PurgeResult:
        try:
            second = await self._second.purge(key, kind=kind, action=action)
        except Error as error:
            self._tiers.second_failed(error)
            await self._first.purge(key, kind=kind, action=action)
            raise
        first = await self._first.purge(key, kind=kind, action=action)
        self._tiers.checked.forget(key.combined_hash)
        results = (first, second)
        for result in (PurgeResult.PURGED, PurgeResult.EXPIRED):
            if result in results:
                return result
        return PurgeResult.NOT_FOUND

    async def purge_tag(
        self, tag: bytes, *, action: PurgeAction = PurgeAction.DELETE
    ) -> int | None:
        """Purge all objects with a tag, and the writes of such, in both tiers.

        Args:
            tag: The tag.
            action: What is to be done with each, as in ``purge``.

        Returns:
            How many it met, in the tier where it met more; None if that is not known.

        Raises:
            Error: If a tier is in trouble; some of the objects may still be there.
        """
        marks = self._tiers.marks
        when = self._clock() if action is PurgeAction.EXPIRE else None
        marks.purge_tag(tag, when)
        try:
            try:
                second = await self._second.purge_tag(tag, action=action)
            except Error as error:
                self._tiers.second_failed(error)
                await self._first.purge_tag(tag, action=action)
                raise
            first = await self._first.purge_tag(tag, action=action)
        finally:
            marks.purge_tag(tag, when)
        self._tiers.stats.purges += 1
        return None if first is None or second is None else max(first, second)
