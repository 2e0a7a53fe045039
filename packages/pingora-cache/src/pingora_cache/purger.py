"""Purging by key: of an object and all its variants, in the store and in what counts beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from pingora_cache._publishing import note_purge
from pingora_cache._writer_ends import storage_error
from pingora_cache.storage import PurgeResult

if TYPE_CHECKING:
    from pingora_cache.fill import FillTarget
    from pingora_cache.key import CacheKey
    from pingora_cache.storage import PurgeAction

__all__ = ["CachePurger"]


@final
class CachePurger:
    """Purges objects of one store; made by ``HttpCache.purger``.

    Args:
        target: The store, and who is told.
    """

    __slots__ = ("_target",)

    def __init__(self, target: FillTarget) -> None:
        self._target = target

    async def purge(self, key: CacheKey, action: PurgeAction, now: float) -> PurgeResult:
        """Remove the object of a key, or make it expire, with all its variants.

        Args:
            key: The key.
            action: What is to be done.
            now: Wall clock seconds.

        Returns:
            What it came to; false if there was nothing.

        Raises:
            Error: If the store is in trouble; the object may still be there.
        """
        stats, storage = self._target.stats, self._target.storage
        try:
            result = await storage.purge(key.to_compact(), action=action)
            if result is PurgeResult.EXPIRED and not await self._expire_variants(key, now):
                result = await storage.purge(key.to_compact()) or result
        except Exception as cause:
            stats.purge_errors += 1
            error = storage_error("purge", cause)
            raise error from cause
        if result:
            stats.purges += 1
        if result is PurgeResult.PURGED:
            self._forget(key)
        return result

    async def invalidate(self, key: CacheKey) -> PurgeResult:
        """Remove what a request has made invalid: the object of a key, with all its variants.

        Args:
            key: The key.

        Returns:
            What it came to; false if there was nothing.

        Raises:
            Error: If the store is in trouble; the object may still be there.
        """
        target = self._target
        try:
            result = await target.storage.purge(key.to_compact())
        except Exception as cause:
            target.stats.purge_errors += 1
            error = storage_error("invalidate", cause)
            raise error from cause
        if result:
            target.stats.invalidations += 1
            self._forget(key)
        return result

    def _forget(self, key: CacheKey) -> None:
        target = self._target
        if target.eviction is not None:
            note_purge(target.storage, key.combined_hash)
            target.eviction.remove(key.to_compact())

    async def _expire_variants(self, key: CacheKey, now: float) -> bool:
        # Whether the object of a primary key tells its variants now, or has none.
        storage = self._target.storage
        if key.variance is not None:
            return True
        found = await storage.lookup(key)
        if found is None:
            return True
        meta, reader = found
        is_partial = reader.is_partial
        reader.close()
        if meta.variance is None:
            return True
        return not is_partial and await storage.update_meta(key, meta.replace(variants_expired=now))
