"""One response on its way into a store.

A fill owns all that it needs from its beginning on: the writer of the store, the permit of the
cache lock where it is still held, the limit of the size, the eviction manager. So it can outlive
the request that began it: a task of its own writes it to the end although the client has left.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NamedTuple, final

from pingora_cache._background import in_background
from pingora_cache._publishing import publishing
from pingora_cache._writer_ends import status_of, storage_error
from pingora_cache.lock import LockStatus
from pingora_cache.reason import NoCacheReason
from pingora_cache.storage import RESPONSE_TOO_LARGE, PurgeKind
from pingora_error import Error

if TYPE_CHECKING:
    from pingora_cache.eviction import EvictionManager
    from pingora_cache.key import CacheKey, CompactCacheKey
    from pingora_cache.lock import CacheKeyLock, WritePermit
    from pingora_cache.meta import CacheMeta
    from pingora_cache.stats import CacheStats
    from pingora_cache.storage import Finished, MissHandler, Storage

__all__ = ["CacheFill", "FillTarget"]

_logger = logging.getLogger(__name__)

_ENDED: Final = "this fill has ended"


class FillTarget(NamedTuple):
    """Where a fill goes, and who is told about it.

    Attributes:
        storage: The store.
        eviction: An eviction manager outside the store, if any.
        lock: The cache lock, if any; decides what waiters are told.
        stats: What counts.
        max_size: The largest body, bytes; None for any.
    """

    storage: Storage
    eviction: EvictionManager | None
    lock: CacheKeyLock | None
    stats: CacheStats
    max_size: int | None


@final
class CacheFill:
    """Writes one response to a store, and releases the cache lock in the end, exactly once.

    A fill ends with ``finish``; with ``abort`` or ``close``, which leave nothing in the store; or
    with a call that raises, which does the same. Its owner calls ``close`` on every path, in a
    ``finally``. One call at a time, from any task.

    Args:
        handler: What writes to the store.
        target: Where that is, and who is told.
        permit: Of the cache lock, to be released; None where there is no lock.
        key: The key to write.
        meta: What is known about the response.

    Attributes:
        key: The key that is written.
        meta: What is known about the response.
        bytes_written: Bytes of the body so far.

    Source: the miss handler of HttpCache in pingora-cache/src/lib.rs, as an object of its own.
    """

    __slots__ = ("_handler", "_permit", "_target", "bytes_written", "key", "meta")

    def __init__(
        self,
        handler: MissHandler,
        target: FillTarget,
        permit: WritePermit | None,
        *,
        key: CacheKey,
        meta: CacheMeta,
    ) -> None:
        self.key: CacheKey = key
        self.meta: CacheMeta = meta
        self.bytes_written: int = 0
        self._handler: MissHandler | None = handler
        self._target = target
        self._permit = permit
        target.stats.fills_active += 1

    @property
    def is_ended(self) -> bool:
        """Whether it was finished, given up or has failed."""
        return self._handler is None

    @property
    def holds_lock(self) -> bool:
        """Whether others wait for its end."""
        return self._permit is not None

    @property
    def streaming_write_tag(self) -> bytes | None:
        """What the store finds this very write by while it goes on."""
        return None if self._handler is None else self._handler.streaming_write_tag

    async def write(self, data: bytes, *, end: bool = False) -> None:
        """Add to the body.

        Args:
            data: What follows; may be empty.
            end: Whether the body is complete with it.

        Raises:
            Error: If it cannot be stored: type ``RESPONSE_TOO_LARGE`` beyond the largest size,
                else what the store reports. The fill has ended then.
            RuntimeError: If the fill has ended before.
        """
        handler = self._handler
        if handler is None:
            raise RuntimeError(_ENDED)
        target = self._target
        size = len(data)
        written = self.bytes_written + size
        if target.max_size is not None and written > target.max_size:
            self._end(LockStatus.GIVE_UP)
            context = f"{written} bytes of a body, beyond {target.max_size}"
            error = Error.internal(RESPONSE_TOO_LARGE, context)
            raise error
        try:
            await handler.write_body(data, end=end)
        except Exception as cause:
            error = self._failed("write", cause)
            raise error from cause
        self.bytes_written = written
        target.stats.bytes_filled += size

    async def finish(self) -> Finished:
        """Publish the response, and let those who wait for it look it up.

        Returns:
            What the store says about it.

        Raises:
            Error: If the store could not; nothing is published.
            RuntimeError: If the fill has ended before.
        """
        handler = self._handler
        if handler is None:
            raise RuntimeError(_ENDED)
        eviction = self._target.eviction
        if eviction is None:
            return await self._publish(handler)
        return await self._publish_and_admit(handler, eviction)

    async def abort(self, reason: NoCacheReason = NoCacheReason.UPSTREAM_ERROR) -> None:
        """Give up, leaving nothing in the store; nothing if the fill has ended.

        Args:
            reason: Why; decides what those who wait are told.

        Raises:
            Error: If the store has trouble with it; the fill has ended nevertheless.
        """
        handler = self._settle(status_of(reason, self._target.lock))
        if handler is None:
            return
        try:
            await handler.abort()
        except Exception as cause:
            error = storage_error("abort", cause)
            raise error from cause
        finally:
            handler.close()

    def close(self, reason: NoCacheReason = NoCacheReason.INTERNAL_ERROR) -> None:
        """Give up at once, leaving nothing in the store; nothing if the fill has ended.

        Args:
            reason: Why; decides what those who wait are told.
        """
        if self._handler is not None:
            self._end(status_of(reason, self._target.lock))

    def release_lock(self, status: LockStatus) -> None:
        """Tell those who wait before the fill has ended; nothing if they know.

        Args:
            status: What to tell.
        """
        self._release(status)

    # ------------------------------------------------------------------------- inside

    async def _publish(self, handler: MissHandler) -> Finished:
        try:
            finished = await handler.finish()
        except Exception as cause:
            error = self._failed("finish", cause)
            raise error from cause
        if self._handler is not None:  # else it was closed, too late
            self._handler = None
            stats = self._target.stats
            stats.fills_active -= 1
            stats.fills += 1
        self._release(LockStatus.DONE)
        return finished

    async def _publish_and_admit(self, handler: MissHandler, eviction: EvictionManager) -> Finished:
        # Publishing and admission are two steps here: a purge in between must not leave an entry
        # of the manager behind that stands for nothing.
        hashed = self.key.combined_hash
        with publishing(self._target.storage, hashed) as publication:
            finished = await self._publish(handler)
        if finished.published and not publication.is_purged:
            key = self.key.to_compact()
            if finished.total == finished.size:
                evicted = eviction.admit(key, finished.size, self.meta.fresh_until)
            else:
                evicted = eviction.increment_weight(key, finished.size)
            if evicted:
                work = _purge_evicted(self._target, eviction, evicted)
                in_background(work, "eviction from the cache store")
        return finished

    def _failed(self, doing: str, cause: Exception) -> Error:
        error = storage_error(doing, cause)
        too_large = error.etype == RESPONSE_TOO_LARGE
        self._end(LockStatus.GIVE_UP if too_large else LockStatus.TRANSIENT_ERROR)
        return error

    def _end(self, status: LockStatus) -> None:
        handler = self._settle(status)
        if handler is not None:
            handler.close()

    def _settle(self, status: LockStatus) -> MissHandler | None:
        handler, self._handler = self._handler, None
        if handler is not None:
            stats = self._target.stats
            stats.fills_active -= 1
            stats.fill_errors += 1
        self._release(status)
        return handler

    def _release(self, status: LockStatus) -> None:
        permit, self._permit = self._permit, None
        if permit is not None:
            permit.release(status)

    def __del__(self) -> None:
        if self._handler is not None:
            self._target.stats.fills_active -= 1
            self._target.stats.fill_errors += 1

    def __repr__(self) -> str:
        state = "ended" if self.is_ended else "going on"
        return f"<{type(self).__name__} of {self.bytes_written} bytes, {state}>"


async def _purge_evicted(
    target: FillTarget, eviction: EvictionManager, evicted: list[CompactCacheKey]
) -> None:
    stats = target.stats
    while evicted:
        for key in evicted:
            try:
                await target.storage.purge(key, kind=PurgeKind.EVICTION)
            except Exception:
                stats.purge_errors += 1
                _logger.warning("%s was evicted and could not be purged", key, exc_info=True)
            else:
                stats.evictions += 1
        # A manager names a bounded number of keys at a time.
        evicted = eviction.evict_to(eviction.limit)
