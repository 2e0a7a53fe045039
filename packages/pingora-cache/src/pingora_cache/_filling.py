"""From the head of a response to a fill, and what can be done to objects in the store.

Part of ``pingora_cache.cache``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_cache._background import in_background
from pingora_cache._lookup import CacheLookup
from pingora_cache._writer_ends import storage_error
from pingora_cache.fill import CacheFill, FillTarget
from pingora_cache.lock import LockStatus, WritePermit
from pingora_cache.phase import CachePhase
from pingora_cache.purger import CachePurger
from pingora_cache.reason import NoCacheReason
from pingora_cache.storage import PurgeAction
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from pingora_cache.key import CacheKey
    from pingora_cache.meta import CacheMeta
    from pingora_cache.storage import Finished, HitHandler, PurgeResult, Storage

__all__ = ["CacheFilling"]

_CACHE_KEY = CachePhase.CACHE_KEY
_EXPIRED = CachePhase.EXPIRED
_MISS = CachePhase.MISS
_STALE = CachePhase.STALE


class CacheFilling(CacheLookup):
    """Miss, fill and purge; see ``HttpCache``."""

    __slots__ = ()

    def set_cache_meta(self, meta: CacheMeta) -> None:
        """Say what is to be stored. What was stale has expired with that.

        Args:
            meta: What is known about the response of the upstream.

        Raises:
            CachePhaseError: In phases other than ``MISS`` and ``STALE``, or after the fill began.
        """
        phase = self._phase
        if (phase is not _MISS and phase is not _STALE) or self._fill_begun:
            raise self._wrong_phase("set_cache_meta")
        self._meta = meta
        if phase is _STALE:
            self._phase = _EXPIRED
            if self._hit_handler is not None:
                self._hit_handler.close()
                self._hit_handler = None

    def update_variance(self, variance: bytes | None) -> None:
        """Say which variant the response is; before the fill.

        If it is not the variant that was looked up, it takes over the primary slot, and all older
        variants are outdated with that. Those who wait for the variant that was looked up look
        again.

        Args:
            variance: The hash of what the request has in the fields that the response varies by;
                None if it does not vary.

        Raises:
            CachePhaseError: In phases other than ``MISS`` and ``EXPIRED``, before there is a meta
                or after the fill began.
        """
        phase = self._phase
        meta = self._meta
        key = self._key
        if (phase is not _MISS and phase is not _EXPIRED) or meta is None or self._fill_begun:
            raise self._wrong_phase("update_variance")
        if meta.variance != variance:
            self._meta = meta.replace(variance=variance)
        if key is not None and key.variance is not None and key.variance != variance:
            self._release(LockStatus.DONE)
            key.variance = None

    async def set_miss_handler(self) -> None:
        """Begin the fill; once.

        If the store streams partial writes, those who wait can read along from here on, and this
        request has a reader as well: ``miss_body_reader``.

        Raises:
            CachePhaseError: In phases other than ``MISS`` and ``EXPIRED``, before there is a meta,
                or for the second time.
            Error: If the store does not take it, or the request ended meanwhile.
        """
        phase = self._phase
        storage = self._storage
        key = self._key
        meta = self._meta
        if (
            (phase is not _MISS and phase is not _EXPIRED)
            or storage is None
            or key is None
            or meta is None
            or self._fill_begun
            or self._is_closed
        ):
            raise self._wrong_phase("set_miss_handler")
        self._fill_begun = True
        try:
            handler = await storage.get_miss_handler(key, meta)
        except BaseException as cause:
            self._fill_begun = False
            if isinstance(cause, Exception):
                self.stats.fill_errors += 1
                error = storage_error("begin to write", cause)
                raise error from cause
            raise
        if self._has_left(phase):
            handler.close()
            error = _ended()
            raise error
        permit = None
        if type(self._locked) is WritePermit:
            permit, self._locked = self._locked, None
        fill = self._fill = CacheFill(handler, self._target(storage), permit, key=key, meta=meta)
        # A store may stream some of its writes only: those that it has a tag for.
        if storage.supports_streaming_partial_write and fill.streaming_write_tag is not None:
            fill.release_lock(LockStatus.DONE)
            await self._read_along(storage, fill)

    async def _read_along(self, storage: Storage, fill: CacheFill) -> None:
        try:
            found = await storage.lookup_streaming_write(fill.key, fill.streaming_write_tag)
            if found is None:
                context = "the cache store does not find what it is writing"
                raise Error.internal(ErrorType.INTERNAL_ERROR, context)
        except Exception as cause:
            self._fill = None
            fill.close(NoCacheReason.STORAGE_ERROR)
            error = storage_error("read along", cause)
            raise error from cause
        if self._fill is not fill:
            found[1].close()
            error = _ended()
            raise error
        self._miss_body_reader = found[1]

    def _target(self, storage: Storage) -> FillTarget:
        limit = self.max_file_size_bytes
        return FillTarget(storage, self._eviction, self._lock, self.stats, limit)

    @property
    def miss_body_reader(self) -> HitHandler | None:
        """The reader that follows this request's own fill; None if the store does not stream."""
        return self._miss_body_reader

    def take_miss_body_reader(self) -> HitHandler | None:
        """Take over the reader that follows this request's own fill.

        Returns:
            The reader, which is the taker's to close; None if there is none any more.
        """
        reader, self._miss_body_reader = self._miss_body_reader, None
        return reader

    @property
    def miss_handler(self) -> CacheFill | None:
        """The fill; None if it has not begun, has ended or was taken.

        Raises:
            CachePhaseError: In phases other than ``MISS`` and ``EXPIRED``.
        """
        phase = self._phase
        if phase is not _MISS and phase is not _EXPIRED:
            raise self._wrong_phase("miss_handler")
        return self._fill

    def take_fill(self) -> CacheFill:
        """Take over the fill, so that it goes on when this request ends.

        Returns:
            The fill, which is the taker's to finish or to close. It may be used from any task.

        Raises:
            CachePhaseError: If there is none: see ``set_miss_handler``.
        """
        fill = self._fill
        if fill is None:
            raise self._wrong_phase("take_fill")
        self._fill = None
        return fill

    async def finish_miss_handler(self) -> Finished | None:
        """Publish what was written; nothing if the fill has ended or was taken.

        Returns:
            What the store says about it; None if there was nothing to do.

        Raises:
            CachePhaseError: In phases other than ``MISS`` and ``EXPIRED``.
            Error: If the store could not; nothing is published.
        """
        fill = self.miss_handler
        if fill is None or fill.is_ended:
            return None
        return await fill.finish()

    async def abort_miss_handler(
        self, reason: NoCacheReason = NoCacheReason.UPSTREAM_ERROR
    ) -> None:
        """Give up what was written; nothing if the fill has ended or was taken.

        Args:
            reason: Why; decides what those who wait are told.

        Raises:
            CachePhaseError: In phases other than ``MISS`` and ``EXPIRED``.
            Error: If the store has trouble with it; the fill has ended nevertheless.
        """
        fill = self.miss_handler
        if fill is not None:
            await fill.abort(reason)

    # ------------------------------------------------------------------ purge

    async def purge(self, *, action: PurgeAction = PurgeAction.DELETE) -> PurgeResult:
        """Remove the object of the key, or make it expire.

        A primary object takes all its variants with it: they are older than what follows it. Where
        it expires it tells them that they have expired as well; if that cannot be noted, because
        it is just being replaced, it is removed.

        Args:
            action: What is to be done.

        Returns:
            What it came to; false if there was nothing.

        Raises:
            CachePhaseError: In phases other than ``CACHE_KEY``.
            Error: If the store is in trouble; the object may still be there.
        """
        storage = self._storage
        if self._phase is not _CACHE_KEY or storage is None:
            raise self._wrong_phase("purge")
        return await self.purger().purge(self.cache_key, action, self._clock())

    def spawn_async_purge(self, context: str, *, action: PurgeAction = PurgeAction.DELETE) -> None:
        """Do what ``purge`` does behind this request.

        ``drain_background`` waits for it.

        Args:
            context: Why, for the log if it fails.
            action: What is to be done.

        Raises:
            CachePhaseError: When caching is off, or there is no key yet.
        """
        storage = self._storage
        if storage is None:
            raise self._wrong_phase("spawn_async_purge")
        key = self.cache_key.copy()
        in_background(_purge_behind(self.purger(), key, action, self._clock()), context)

    def purger(self) -> CachePurger:
        """Make what purges in this store once this cache is off.

        Returns:
            What does.

        Raises:
            CachePhaseError: When caching is off.
        """
        storage = self._storage
        if storage is None:
            raise self._wrong_phase("purger")
        return CachePurger(self._target(storage))

    async def purge_tag(
        self, tag: bytes, *, action: PurgeAction = PurgeAction.DELETE
    ) -> int | None:
        """Purge all objects that carry a tag.

        Args:
            tag: The tag.
            action: What is to be done with each.

        Returns:
            How many; None if the store does not know.

        Raises:
            CachePhaseError: When caching is off.
            Error: If the store is in trouble; some of the objects may still be there.
        """
        storage = self._storage
        if storage is None:
            raise self._wrong_phase("purge_tag")
        stats = self.stats
        try:
            purged = await storage.purge_tag(tag, action=action)
        except Exception as cause:
            stats.purge_errors += 1
            error = storage_error("purge a tag", cause)
            raise error from cause
        stats.purges += 1 if purged is None else purged
        return purged


async def _purge_behind(
    purger: CachePurger, key: CacheKey, action: PurgeAction, now: float
) -> None:
    await purger.purge(key, action, now)


def _ended() -> Error:
    return Error.internal(ErrorType.INTERNAL_ERROR, "the request ended before its fill began")
