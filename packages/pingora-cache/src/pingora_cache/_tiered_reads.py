"""Lookups in two tiers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from pingora_cache._tiered_copies import CopyingHit
from pingora_cache._tiers import DOUBTED, Subject
from pingora_cache.admission import Admission
from pingora_error import Error

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_cache._tiered_marks import Mark
    from pingora_cache._tiers import Tiers
    from pingora_cache.admission import AdmissionPolicy
    from pingora_cache.key import CacheKey
    from pingora_cache.meta import CacheMeta
    from pingora_cache.storage import HitHandler

__all__ = ["TieredReads"]

# An object that has expired is worth a look more often.
_STALE_INTERVAL: Final = 0.1
# Who joins a write in the first tier need not look into the second if that had nothing lately.
_ABSENT_INTERVAL: Final = 1.0
_SAME: Final = 1e-6


@final
class TieredReads:
    """Looks objects up.

    Args:
        tiers: The tiers.
        promote: Decides what is copied into the first tier.
        recheck_interval: Seconds after which an object of the first tier is compared with the
            second before it is served; None for never.
        clock: Seconds since the epoch.
    """

    __slots__ = ("_clock", "_promote", "_recheck_interval", "_tiers")

    def __init__(
        self,
        tiers: Tiers,
        promote: AdmissionPolicy,
        recheck_interval: float | None,
        clock: Callable[[], float],
    ) -> None:
        self._tiers = tiers
        self._promote = promote
        self._recheck_interval = recheck_interval
        self._clock = clock

    async def find(self, key: CacheKey) -> tuple[CacheMeta, HitHandler] | None:
        """Find the object of a key, in the first tier or in the second.

        Args:
            key: The key.

        Returns:
            Its meta, and a reader; None if there is nothing.

        Raises:
            Error: If the first tier has nothing and the second is in trouble.
        """
        found = None
        try:
            found = await self._tiers.first.lookup(key)
        except Error as error:
            self._tiers.first_failed(error)
        if found is None:
            return await self._find_second(key)
        if found[1].is_partial:
            return await self._prefer_whole(key.copy(), *found)
        if self._is_due(key.combined_hash, found[0]):
            return await self._recheck(key.copy(), *found)
        return found

    async def _find_second(self, key: CacheKey) -> tuple[CacheMeta, HitHandler] | None:
        tiers = self._tiers
        key = key.copy()  # the request may change its own
        mark = tiers.marks.set(key.combined_hash, None, is_copy=True)
        try:
            found = await tiers.second.lookup(key)
        except BaseException as error:
            tiers.marks.remove(mark)
            if isinstance(error, Error):
                tiers.second_failed(error)
            raise
        if found is None:
            tiers.marks.remove(mark)
            tiers.absent.note(key.combined_hash, tiers.monotonic())
            return None
        return self._take_second(key, *found, mark)

    def _take_second(
        self, key: CacheKey, meta: CacheMeta, reader: HitHandler, mark: Mark
    ) -> tuple[CacheMeta, HitHandler]:
        size = reader.body_size
        if (
            reader.is_partial
            or size is None
            or size + meta.size > self._tiers.limit
            or not meta.is_fresh(self._clock())
            or self._promote.observe(key.to_compact(), size) is not Admission.READY
        ):
            self._tiers.marks.remove(mark)
            return meta, reader
        mark.tags = frozenset(meta.tags)
        return meta, CopyingHit(self._tiers, reader, Subject(key, meta, mark))

    def _is_due(self, key_hash: bytes, meta: CacheMeta) -> bool:
        # Whether an object of the first tier is to be compared with the second.
        interval = self._recheck_interval
        tiers = self._tiers
        checked = tiers.checked.get(key_hash)
        if checked == DOUBTED:
            return True
        if interval is None:
            return False
        if checked is not None:
            if not meta.is_fresh(self._clock()):
                # It may have been revalidated elsewhere, or is just being replaced.
                streams = tiers.second.supports_streaming_partial_write
                interval = 0.0 if streams else min(interval, _STALE_INTERVAL)
            if tiers.monotonic() - checked < interval:
                return False
        return tiers.alone.get(key_hash) is None

    async def _prefer_whole(
        self, key: CacheKey, meta: CacheMeta, reader: HitHandler
    ) -> tuple[CacheMeta, HitHandler]:
        # A write that goes on in the first tier may still fail: what is whole and fresh is better.
        tiers, key_hash = self._tiers, key.combined_hash
        now = tiers.monotonic()
        absent = tiers.absent.get(key_hash)
        if absent is not None and now - absent < _ABSENT_INTERVAL:
            return meta, reader
        tiers.absent.note(key_hash, now)  # many come at the same time
        try:
            other = await tiers.second.lookup(key)
        except Error as error:
            tiers.second_failed(error)
            return meta, reader
        except BaseException:
            reader.close()
            raise
        if other is None:
            return meta, reader
        if other[1].is_partial or not other[0].is_fresh(self._clock()):
            other[1].close()
            return meta, reader
        tiers.absent.forget(key_hash)
        reader.close()
        return other

    async def _recheck(
        self, key: CacheKey, meta: CacheMeta, reader: HitHandler
    ) -> tuple[CacheMeta, HitHandler] | None:
        # Compare an object of the first tier with the second.
        tiers, key_hash = self._tiers, key.combined_hash
        tiers.stats.rechecks += 1
        before, now = tiers.checked.get(key_hash), tiers.monotonic()
        if before != DOUBTED:
            tiers.checked.note(key_hash, now)  # the others need not wait for this
        mark = tiers.marks.set(key_hash, None, is_copy=True)
        own_mark: Mark | None = mark
        other: tuple[CacheMeta, HitHandler] | None = None
        try:
            try:
                other = await self._ask_second(key, now)
            except Error as error:
                tiers.second_failed(error)
                return meta, reader
            if other is not None:
                told, second = other
                if second.is_partial:
                    # What is finished has expired there, or is gone; the write may still fail.
                    self._take_back(key_hash, now)
                    reader.close()
                    return other
                if abs(told.created - meta.created) < _SAME:
                    second.close()
                    self._settle(mark, before, now)
                    return await self._agree(Subject(key, told, mark), meta), reader
            # Another one, whichever the clocks say is newer: of two machines they differ, and may be
            # set back. What the second tier has not taken is not compared.
            reader.close()
            tiers.stats.outdated += 1
            await tiers.drop_first(key.to_compact())
            if other is None:
                return None
            taken, other = self._take_second(key, *other, mark), None
            own_mark = None
            return taken
        except BaseException:
            reader.close()
            if other is not None:
                other[1].close()
            raise
        finally:
            if own_mark is not None:
                tiers.marks.remove(own_mark)

    async def _ask_second(self, key: CacheKey, now: float) -> tuple[CacheMeta, HitHandler] | None:
        try:
            return await self._tiers.second.lookup(key)
        except BaseException as error:
            if not isinstance(error, Error):
                self._take_back(key.combined_hash, now)  # nobody has compared it
            raise

    def _take_back(self, key_hash: bytes, now: float) -> None:
        checked = self._tiers.checked
        if checked.get(key_hash) == now:
            checked.forget(key_hash)

    def _settle(self, mark: Mark, before: float | None, now: float) -> None:
        # What was in doubt is not any more, unless something has happened meanwhile.
        if before == DOUBTED and not mark.is_void:
            self._tiers.checked.note(mark.key_hash, now)

    async def _agree(self, subject: Subject, meta: CacheMeta) -> CacheMeta:
        # Let the first tier know of a revalidation or a soft purge elsewhere.
        key, told, mark = subject
        later = told.updated - meta.updated
        if later < -_SAME or (later < _SAME and told.fresh_until > meta.fresh_until):
            return meta
        is_new = later > _SAME or told.fresh_until < meta.fresh_until
        if is_new and not mark.is_void:  # or else it has become older while we asked
            try:
                await self._tiers.first.update_meta(key, told)
            except Error as error:
                self._tiers.first_failed(error)
            await self._tiers.drop_void(key, mark)  # what happened meanwhile may be undone
        return told
