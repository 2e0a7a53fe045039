"""What can be asked of ``HttpCache`` in any phase: where it stands and what it knows.

Part of ``pingora_cache.cache``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_cache._state import CacheState
from pingora_cache.admission import Admission
from pingora_cache.body_size import BodySizeTracker
from pingora_cache.cache_status import status_of_phase
from pingora_cache.digest import HttpCacheDigest
from pingora_cache.lock import ReadLock
from pingora_cache.phase import CachePhase

if TYPE_CHECKING:
    from pingora_cache.admission import AdmissionPolicy
    from pingora_cache.cache_status import CacheStatusValue
    from pingora_cache.key import CacheKey
    from pingora_cache.meta import CacheMeta
    from pingora_cache.reason import NoCacheReason
    from pingora_cache.storage import Storage

__all__ = ["CacheView"]

_DISABLED = CachePhase.DISABLED
_CACHE_KEY = CachePhase.CACHE_KEY
_UNINIT = CachePhase.UNINIT
_BYPASS = CachePhase.BYPASS
_STALE = CachePhase.STALE
_STALE_UPDATING = CachePhase.STALE_UPDATING
_REVALIDATED_NO_CACHE = CachePhase.REVALIDATED_NO_CACHE
_NOT_FROM_UPSTREAM = (
    CachePhase.HIT,
    CachePhase.STALE,
    CachePhase.STALE_UPDATING,
    CachePhase.UNINIT,
    CachePhase.CACHE_KEY,
)


class CacheView(CacheState):
    """The questions; see ``HttpCache``."""

    __slots__ = ()

    # ------------------------------------------------------------------ where it stands

    @property
    def phase(self) -> CachePhase:
        """Where the request stands."""
        return self._phase

    @property
    def no_cache_reason(self) -> NoCacheReason | None:
        """Why caching is off, or why a revalidated object is not kept; None in other phases."""
        phase = self._phase
        return self._reason if phase is _DISABLED or phase is _REVALIDATED_NO_CACHE else None

    @property
    def enabled(self) -> bool:
        """Whether the cache is in use: neither off nor bypassed."""
        phase = self._phase
        return phase is not _DISABLED and phase is not _BYPASS

    @property
    def bypassing(self) -> bool:
        """Whether the lookup was left out."""
        return self._phase is _BYPASS

    @property
    def upstream_used(self) -> bool:
        """Whether the response comes from the upstream, or was confirmed by it."""
        return self._phase not in _NOT_FROM_UPSTREAM

    @property
    def is_closed(self) -> bool:
        """Whether the request has ended."""
        return self._is_closed

    @property
    def is_subrequest(self) -> bool:
        """Whether this is a request of the proxy's own, on behalf of another one."""
        return self._is_subrequest

    def tag_as_subrequest(self) -> None:
        """Mark the request as one of the proxy's own: it is not counted among the requests."""
        self._is_subrequest = True

    # ------------------------------------------------------------------ what it knows

    @property
    def cache_key(self) -> CacheKey:
        """What is looked for.

        Raises:
            CachePhaseError: When caching is off, or there is no key yet.
        """
        phase = self._phase
        key = self._key
        if key is None or phase is _DISABLED or phase is _UNINIT:
            raise self._wrong_phase("cache_key")
        return key

    @property
    def maybe_cache_key(self) -> CacheKey | None:
        """What was looked for, also when caching was switched off since; None if nothing."""
        return self._key

    @property
    def cache_meta(self) -> CacheMeta:
        """What is known about the object: the one found, or the one that takes its place.

        Raises:
            CachePhaseError: When there is no object; a miss has one once its meta is set.
        """
        meta = self._meta
        if meta is None:
            raise self._wrong_phase("cache_meta")
        return meta

    @property
    def maybe_cache_meta(self) -> CacheMeta | None:
        """What is known about the object; None if there is none."""
        return self._meta

    @property
    def storage(self) -> Storage | None:
        """Where responses are kept; None when caching is off."""
        return self._storage

    @property
    def supports_streaming_partial_write(self) -> bool | None:
        """Whether the store lets readers follow a write; None when there is no store."""
        storage = self._storage
        return None if storage is None else storage.supports_streaming_partial_write

    def is_alone(self, meta: CacheMeta) -> bool:
        """Tell whether an object that was found has no variants.

        Args:
            meta: What is known about it.

        Returns:
            Whether it is for all who ask for the key.
        """
        key = self._key
        header = meta.header
        return (
            meta.variance is None
            and key is not None
            and key.combined_hash is key.primary_hash  # no variance, without a property
            and b"vary" not in (header.raw_index or header.first_values())
        )

    def now(self) -> float:
        """Read the clock that the times of metas are compared with.

        Returns:
            Seconds since the epoch.
        """
        clock = self._clock  # calling it where it lies takes twice as long (2026-11)
        return clock()

    @property
    def admission(self) -> AdmissionPolicy | None:
        """What decides what is worth storing."""
        return self._admission

    @property
    def lock_duration(self) -> float | None:
        """Spent waiting for others altogether, seconds; None if it never waited."""
        return self._lock_duration

    @property
    def lookup_duration(self) -> float | None:
        """Spent on lookups altogether, seconds; None if there was none."""
        return self._lookup_duration

    @property
    def digest(self) -> HttpCacheDigest:
        """Both durations as they are now, to keep."""
        return HttpCacheDigest(self._lock_duration, self._lookup_duration)

    @property
    def lookup_error(self) -> Exception | None:
        """What went wrong in the last lookup, which was taken for a miss; None if nothing."""
        return self._lookup_error

    @property
    def is_cache_locked(self) -> bool:
        """Whether this request is to wait for another one that fetches the object."""
        return type(self._locked) is ReadLock

    @property
    def can_serve_stale_error(self) -> bool:
        """Whether there is a stale object that may be served in place of an error."""
        phase = self._phase
        meta = self._meta
        if meta is None or (phase is not _STALE and phase is not _STALE_UPDATING):
            return False
        return meta.serve_stale_if_error(self._clock())

    @property
    def can_serve_stale_updating(self) -> bool:
        """Whether there is a stale object that may be served while somebody fetches a new one."""
        phase = self._phase
        meta = self._meta
        if meta is None or (phase is not _STALE and phase is not _STALE_UPDATING):
            return False
        return meta.serve_stale_while_revalidate(self._clock())

    def status(self, name: str) -> CacheStatusValue:
        """Tell how this cache has handled the request, as ``Cache-Status`` does (RFC 9211).

        Args:
            name: What this cache is called.

        Returns:
            What to append to the response; to be asked for when its head is complete. The key is
            not in it.
        """
        meta, key = self._meta, self._key
        return status_of_phase(
            name,
            self._phase,
            reason=self.no_cache_reason,
            fresh_for=None if meta is None else meta.fresh_until - self._clock(),
            is_variant=key is not None and key.variance is not None,
            looked_up=self._lookup_duration is not None,
            waited=self._lock_duration is not None,
            stored=self._fill_begun,
            refused=self._is_refused,
        )

    # ------------------------------------------------------------------ prediction

    @property
    def cacheable_prediction(self) -> bool:
        """Whether the response is probably cacheable; True if nobody predicts.

        Raises:
            CachePhaseError: When caching is off, or there is no key yet.
        """
        predictor = self._predictor
        if predictor is None and self._phase is _CACHE_KEY:
            return True  # the usual case, without a second property
        key = self.cache_key
        return predictor is None or predictor.cacheable_prediction(key)

    def response_became_cacheable(self) -> None:
        """Tell the predictor that the response is cacheable; also when caching is off again."""
        if self._predictor is not None and self._key is not None:
            self._predictor.mark_cacheable(self._key)

    def response_became_uncacheable(self, reason: NoCacheReason) -> None:
        """Tell the predictor that the response is not cacheable; also when caching is off again.

        Args:
            reason: Why; not every reason says something about the next response.
        """
        if self._predictor is not None and self._key is not None:
            self._predictor.mark_uncacheable(self._key, reason)

    def is_worth_storing(self, size: int | None) -> bool:
        """Ask the admission policy about the response, which also counts the request for it.

        Args:
            size: Bytes of its body; None if that is not known.

        Returns:
            Whether to store it now; True if there is no such policy.

        Raises:
            CachePhaseError: When caching is off, or there is no key yet.
        """
        key = self.cache_key
        admission = self._admission
        if admission is None:
            return True
        return admission.observe(key.to_compact(), size) is Admission.READY

    # ------------------------------------------------------------------ size

    @property
    def max_file_size_bytes(self) -> int | None:
        """The largest body that is stored, bytes; None for any."""
        return None if self._size is None else self._size.limit

    def set_max_file_size_bytes(self, limit: int) -> None:
        """Store no body larger than this; heads do not count.

        Args:
            limit: The largest body, bytes.

        Raises:
            CachePhaseError: When caching is off.
            ValueError: If it is negative.
        """
        if self._phase is _DISABLED:
            raise self._wrong_phase("set_max_file_size_bytes")
        self._size = BodySizeTracker(limit)

    def track_body_bytes_for_max_file_size(self, size: int) -> bool:
        """Count a piece of the body, also when caching is off again.

        A fill counts for itself what is written to it.

        Args:
            size: Its bytes.

        Returns:
            Whether the body is within the largest size with it; True if there is no such size.
        """
        return self._size is None or self._size.add(size)

    @property
    def exceeded_max_file_size(self) -> bool:
        """Whether the pieces counted are beyond the largest size."""
        return self._size is not None and self._size.is_exceeded
