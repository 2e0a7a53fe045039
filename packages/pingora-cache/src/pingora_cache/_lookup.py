"""From a key to an object, or to the duty or the patience to get one.

Part of ``pingora_cache.cache``.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pingora_cache._view import CacheView
from pingora_cache._writer_ends import status_of, storage_error
from pingora_cache.lock import LockStatus, ReadLock, WritePermit
from pingora_cache.phase import CachePhase, HitStatus
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from pingora_cache.key import CacheKey
    from pingora_cache.meta import CacheMeta
    from pingora_cache.reason import NoCacheReason
    from pingora_cache.storage import HitHandler

__all__ = ["CacheLookup"]

logger = logging.getLogger(__name__)

_CACHE_KEY = CachePhase.CACHE_KEY
_BYPASS = CachePhase.BYPASS
_HIT = CachePhase.HIT
_MISS = CachePhase.MISS
_STALE = CachePhase.STALE
_STALE_UPDATING = CachePhase.STALE_UPDATING
_READABLE = (
    CachePhase.HIT,
    CachePhase.STALE,
    CachePhase.STALE_UPDATING,
    CachePhase.REVALIDATED,
    CachePhase.REVALIDATED_NO_CACHE,
)
_FINISHABLE = (*_READABLE, CachePhase.MISS, CachePhase.EXPIRED)

_FRESH = HitStatus.FRESH
_FORCE_FRESH = HitStatus.FORCE_FRESH
_EXPIRED = HitStatus.EXPIRED
_FORCE_EXPIRED = HitStatus.FORCE_EXPIRED


class CacheLookup(CacheView):
    """Lookup, hit and lock; see ``HttpCache``."""

    __slots__ = ()

    async def cache_lookup(self) -> tuple[CacheMeta, HitHandler] | None:
        """Look the key up; when there is nothing, ask for the lock.

        What is found stays with this cache: it is closed by the next lookup, or in the end, unless
        ``cache_found`` takes it into use. A store in trouble has nothing; ``lookup_error`` tells
        of it.

        Returns:
            What is known about the object, and a reader for it; None if there is none, or only
            one that is older than the primary object of its variants.

        Raises:
            CachePhaseError: In phases other than ``CACHE_KEY`` and ``STALE``.
            Error: If the request ended meanwhile.
        """
        phase = self._phase
        storage = self._storage
        key = self._key
        if (
            (phase is not _CACHE_KEY and phase is not _STALE)
            or storage is None
            or key is None
            or self._is_closed
        ):
            raise self._wrong_phase("cache_lookup")
        if self._found is not None:
            self._found.close()
            self._found = None
        self.stats.lookups += 1
        self._lookup_error = None
        monotonic = self._monotonic  # calling it where it lies takes twice as long (2026-11)
        started = monotonic()
        try:
            found = await storage.lookup(key)
        except Exception as error:  # noqa: BLE001  # whatever a store raises is a miss, counted
            self._note_lookup_error(error)
            found = None
        self._lookup_duration = (self._lookup_duration or 0.0) + monotonic() - started
        if found is not None:
            meta, handler = found
            if self._has_left(phase):
                handler.close()
                ended = _ended()
                raise ended
            valid_after = self._valid_after
            if valid_after is None:
                self._found = handler
                return found
            if meta.created >= valid_after:
                self._found = handler
                outdated = self._variants_expired
                return (meta.expired(outdated), handler) if meta.updated <= outdated else found
            handler.close()
        elif self._has_left(phase):
            ended = _ended()
            raise ended
        self._ask_for_lock(key, stale_writer=False)
        return None

    def cache_vary_lookup(self, variance: bytes, meta: CacheMeta) -> bool:
        """Say which variant is wanted, now that an object of the key tells by what it varies.

        The object in the primary slot is a tombstone for all variants that are older than it, and
        tells until when those have expired that were stored.

        Args:
            variance: The hash of what the request has in the fields that the object varies by.
            meta: What ``cache_lookup`` found.

        Returns:
            Whether it is that very variant. If not, look up again.

        Raises:
            CachePhaseError: In phases other than ``CACHE_KEY`` and ``STALE``.
        """
        phase = self._phase
        key = self._key
        if (phase is not _CACHE_KEY and phase is not _STALE) or key is None:
            raise self._wrong_phase("cache_vary_lookup")
        matches = meta.variance == variance
        # An object that was found in the primary slot is revalidated and written there as well.
        if not (matches and key.variance is None):
            key.variance = variance
        self._valid_after = meta.created
        self._variants_expired = meta.variants_expired
        return matches

    def cache_found(self, meta: CacheMeta, handler: HitHandler, status: HitStatus) -> None:
        """Take what was found into use, or leave it.

        What has expired, or is not used, needs the upstream: the lock is asked for, unless this
        request has a permit already.

        Args:
            meta: What ``cache_lookup`` found.
            handler: Its reader.
            status: What it is good for. ``FORCE_EXPIRED`` also takes the windows away in which it
                might be served stale.

        Raises:
            CachePhaseError: In phases other than ``CACHE_KEY`` and ``STALE``.
        """
        phase = self._phase
        key = self._key
        if (phase is not _CACHE_KEY and phase is not _STALE) or key is None or self._is_closed:
            raise self._wrong_phase("cache_found")
        # Stale, and found again after a wait: the first reader is not needed any more.
        if self._hit_handler is not None and self._hit_handler is not handler:
            self._hit_handler.close()
            self._hit_handler = None
        if self._found is not None and self._found is not handler:
            self._found.close()
        self._found = None
        if status is _FRESH or status is _FORCE_FRESH:
            self._phase = _HIT
            if self._locked is not None:
                self._release(LockStatus.DONE)
        elif status is _EXPIRED or status is _FORCE_EXPIRED:
            self._phase = _STALE
            self._is_refused = False
            if status is _FORCE_EXPIRED:
                self._is_refused = meta.is_fresh(self._clock())
                meta = meta.without_stale()
            self._ask_for_lock(key, stale_writer=True)
        else:
            handler.close()
            self._hit_handler = self._meta = None
            self._ask_for_lock(key, stale_writer=False)
            return
        self._meta = meta
        self._hit_handler = handler
        eviction = self._eviction
        if eviction is not None and handler.should_count_access:
            eviction.access(key.to_compact(), handler.eviction_weight, meta.fresh_until)

    def cache_miss(self) -> None:
        """Note that there is nothing to use: the upstream is asked.

        Raises:
            CachePhaseError: In phases other than ``CACHE_KEY``, ``BYPASS`` and ``STALE``.
        """
        phase = self._phase
        if phase is not _CACHE_KEY and phase is not _STALE and phase is not _BYPASS:
            raise self._wrong_phase("cache_miss")
        self._phase = _MISS
        self._meta = None
        if self._hit_handler is not None or self._found is not None:
            self._drop_readers()

    def set_stale_updating(self) -> None:
        """Note that the stale object is served while somebody fetches a new one.

        Raises:
            CachePhaseError: In phases other than ``STALE``.
        """
        if self._phase is not _STALE:
            raise self._wrong_phase("set_stale_updating")
        self._phase = _STALE_UPDATING

    # ------------------------------------------------------------------ reading a hit

    @property
    def hit_handler(self) -> HitHandler:
        """The reader of the object that is served.

        Raises:
            CachePhaseError: When no object is served, or it was finished.
        """
        handler = self._hit_handler
        if handler is None or self._phase not in _READABLE:
            raise self._wrong_phase("hit_handler")
        return handler

    async def finish_hit_handler(self) -> None:
        """End reading; nothing if that was done.

        Raises:
            CachePhaseError: In phases without an object.
            Error: If the store has trouble with it.
        """
        if self._phase not in _FINISHABLE:
            raise self._wrong_phase("finish_hit_handler")
        handler = self._hit_handler
        if handler is None:
            handler = self._miss_body_reader
            self._miss_body_reader = None
        self._hit_handler = None
        if handler is None:
            return
        try:
            await handler.finish()
        except BaseException as cause:
            handler.close()
            if isinstance(cause, Exception):
                error = storage_error("finish reading", cause)
                raise error from cause
            raise

    # ------------------------------------------------------------------ the lock

    async def cache_lock_wait(self) -> LockStatus:
        """Wait for the request that fetches the object.

        Returns:
            How that went. ``WAIT_TIMEOUT`` when all that this request may wait is used up.

        Raises:
            CachePhaseError: If there is nothing to wait for: see ``is_cache_locked``.
        """
        locked = self._locked
        if type(locked) is not ReadLock:
            raise self._wrong_phase("cache_lock_wait")
        self._locked = None
        waited_before = self._lock_duration or 0.0
        timeout = self._lock_wait_timeout
        if timeout is not None:
            timeout -= waited_before
        stats = self.stats
        stats.lock_waits += 1
        started = self._monotonic()
        try:
            status = await locked.wait(timeout)
        finally:
            waited = self._monotonic() - started
            self._lock_duration = waited_before + waited
            stats.lock_wait_seconds += waited
        if status is LockStatus.WAIT_TIMEOUT or status is LockStatus.AGE_TIMEOUT:
            stats.lock_timeouts += 1
        elif status is LockStatus.GIVE_UP and locked.status is LockStatus.WAITING:
            stats.lock_overflows += 1
        return status

    def take_write_lock(self) -> WritePermit:
        """Give the permit away, to a request in the background that fetches in place of this one.

        Returns:
            The permit, which is the taker's to release.

        Raises:
            CachePhaseError: If this request has none: see ``is_cache_lock_writer``.
        """
        locked = self._locked
        if type(locked) is not WritePermit:
            raise self._wrong_phase("take_write_lock")
        self._locked = None
        return locked

    def set_write_lock(self, permit: WritePermit) -> None:
        """Take over the permit of another request; this one does not ask for locks any more.

        Args:
            permit: What ``take_write_lock`` gave.

        Raises:
            CachePhaseError: When caching is off, or this request has a permit already.
        """
        if self._storage is None or self._is_closed or self.is_cache_lock_writer:
            raise self._wrong_phase("set_write_lock")
        self._locked = permit

    def release_write_lock(self, reason: NoCacheReason) -> None:
        """Tell those who wait that this request stops; nothing if nobody can wait for it.

        Args:
            reason: Why; decides what they are told.

        Raises:
            ValueError: If the reason is not one that a writer can have.
        """
        status = status_of(reason, self._lock)
        self._release(status)
        if self._fill is not None:
            self._fill.release_lock(status)

    def _ask_for_lock(self, key: CacheKey, *, stale_writer: bool) -> None:
        lock = self._lock
        if lock is not None and type(self._locked) is not WritePermit:
            self._locked = lock.lock(key, stale_writer=stale_writer)

    def _note_lookup_error(self, error: Exception) -> None:
        self._lookup_error = error
        stats = self.stats
        stats.lookup_errors += 1
        # A store that is down fails at every request: the log hears of the 1st, 2nd, 4th, 8th ...
        if stats.lookup_errors & (stats.lookup_errors - 1) == 0:
            logger.warning("%d lookups in the cache store failed: %s", stats.lookup_errors, error)

    def _note_meta_error(self, error: Exception) -> None:
        stats = self.stats
        stats.meta_errors += 1
        if stats.meta_errors & (stats.meta_errors - 1) == 0:
            logger.warning(
                "%d times the cache store could not note a revalidation: %s",
                stats.meta_errors,
                error,
            )


def _ended() -> Error:
    return Error.internal(ErrorType.INTERNAL_ERROR, "the request ended during its cache lookup")
