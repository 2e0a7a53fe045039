"""What ``HttpCache`` knows of its request, and the moves that are possible in any phase.

Part of ``pingora_cache.cache``.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from pingora_cache._writer_ends import status_of
from pingora_cache.lock import LockStatus, WritePermit
from pingora_cache.phase import CachePhase, CachePhaseError
from pingora_cache.policy import CachePolicy
from pingora_cache.reason import NoCacheReason
from pingora_cache.stats import CacheStats

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_cache.admission import AdmissionPolicy
    from pingora_cache.body_size import BodySizeTracker
    from pingora_cache.eviction import EvictionManager
    from pingora_cache.fill import CacheFill
    from pingora_cache.key import CacheKey
    from pingora_cache.lock import CacheKeyLock, Locked
    from pingora_cache.meta import CacheMeta
    from pingora_cache.predictor import CacheablePredictor
    from pingora_cache.storage import HitHandler, Storage

__all__ = ["CacheState"]

logger = logging.getLogger(__name__)

# Members of an enum are slow to look up on its class.
_NEVER_ENABLED = NoCacheReason.NEVER_ENABLED
_DISABLED = CachePhase.DISABLED
_HIT = CachePhase.HIT
_UNINIT = CachePhase.UNINIT
_BYPASS = CachePhase.BYPASS
_CACHE_KEY = CachePhase.CACHE_KEY
_LOCKABLE = (CachePhase.CACHE_KEY, CachePhase.STALE, CachePhase.HIT)
_SERVED = (
    CachePhase.HIT,
    CachePhase.STALE,
    CachePhase.STALE_UPDATING,
    CachePhase.REVALIDATED,
    CachePhase.REVALIDATED_NO_CACHE,
)

_DEFAULT_POLICY = CachePolicy()

_TRANSIENT_ERROR = LockStatus.TRANSIENT_ERROR

# Where those count who are not asked for their numbers.
_UNREAD = CacheStats()


class CacheState:
    """The state of one request; see ``HttpCache``.

    Attributes:
        policy: What decides what may be stored and served; set by ``enable``.
        stats: What counts; set by ``enable``. Not properties, as they are read for every hit.
    """

    __slots__ = (
        "_admission",
        "_clock",
        "_eviction",
        "_fill",
        "_fill_begun",
        "_found",
        "_hit_handler",
        "_is_closed",
        "_is_refused",
        "_is_subrequest",
        "_key",
        "_lock",
        "_lock_duration",
        "_lock_wait_timeout",
        "_locked",
        "_lookup_duration",
        "_lookup_error",
        "_meta",
        "_miss_body_reader",
        "_monotonic",
        "_phase",
        "_predictor",
        "_reason",
        "_size",
        "_storage",
        "_valid_after",
        "_variants_expired",
        "policy",
        "stats",
    )

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._phase = _DISABLED
        self._reason = _NEVER_ENABLED
        self._is_closed = False
        self._is_subrequest = False
        # What enable() brings.
        self._storage: Storage | None = None
        self._eviction: EvictionManager | None = None
        self._predictor: CacheablePredictor | None = None
        self._lock: CacheKeyLock | None = None
        self._lock_wait_timeout: float | None = None
        self.policy: CachePolicy = _DEFAULT_POLICY
        self._admission: AdmissionPolicy | None = None
        self.stats: CacheStats = _UNREAD
        # What is known and held on the way.
        self._key: CacheKey | None = None
        self._meta: CacheMeta | None = None
        self._valid_after: float | None = None
        self._variants_expired = 0.0
        # Whether a fresh object was found, and not taken.
        self._is_refused = False
        self._lookup_error: Exception | None = None
        self._locked: Locked | None = None
        self._found: HitHandler | None = None
        self._hit_handler: HitHandler | None = None
        self._miss_body_reader: HitHandler | None = None
        self._fill: CacheFill | None = None
        self._fill_begun = False
        self._size: BodySizeTracker | None = None
        self._lookup_duration: float | None = None
        self._lock_duration: float | None = None

    # ------------------------------------------------------------------ on and off

    def enable(
        self,
        storage: Storage,
        *,
        eviction: EvictionManager | None = None,
        predictor: CacheablePredictor | None = None,
        lock: CacheKeyLock | None = None,
        lock_wait_timeout: float | None = None,
        policy: CachePolicy | None = None,
        admission: AdmissionPolicy | None = None,
        stats: CacheStats | None = None,
    ) -> None:
        """Switch caching on for this request; the key comes next.

        Args:
            storage: Where responses are kept.
            eviction: Bounds a store that does not bound itself; the stores of this package do.
            predictor: Remembers what was uncacheable the last time.
            lock: Lets one request fetch an object while the others wait.
            lock_wait_timeout: How long this request waits for others altogether, seconds; None
                for as long as the lock lets it.
            policy: Decides what may be stored and served; None for the defaults.
            admission: Decides what is worth storing.
            stats: What counts; one object for all requests of a service.

        Raises:
            CachePhaseError: If caching is on already.
        """
        if self._phase is not _DISABLED or self._is_closed:
            raise self._wrong_phase("enable")
        self._phase = _UNINIT
        self._storage = storage
        self._eviction = eviction
        self._predictor = predictor
        self._lock = lock
        self._lock_wait_timeout = lock_wait_timeout
        self.policy = _DEFAULT_POLICY if policy is None else policy
        self._admission = admission
        self.stats = _UNREAD if stats is None else stats
        if self._reason is not _NEVER_ENABLED:  # else nothing has happened yet
            self._key = self._size = self._valid_after = self._lookup_error = None
            self._fill_begun = self._is_refused = False

    def set_cache_lock(
        self, lock: CacheKeyLock | None, *, lock_wait_timeout: float | None = None
    ) -> None:
        """Use another lock, or none, from now on.

        Args:
            lock: The lock.
            lock_wait_timeout: As in ``enable``.

        Raises:
            CachePhaseError: Before there is a key, after a miss, or while a lock is held.
        """
        if self._phase not in _LOCKABLE or self._locked is not None or self._is_closed:
            raise self._wrong_phase("set_cache_lock")
        self._lock = lock
        self._lock_wait_timeout = lock_wait_timeout

    def set_cache_key(self, key: CacheKey) -> None:
        """Say what is looked for.

        Args:
            key: The key. From now on it belongs to this cache, which sets its variance.

        Raises:
            CachePhaseError: Before caching is on, or after the lookup.
        """
        phase = self._phase
        if (phase is not _UNINIT and phase is not _CACHE_KEY) or self._locked is not None:
            raise self._wrong_phase("set_cache_key")
        self._phase = _CACHE_KEY
        self._key = key

    def bypass(self) -> None:
        """Do without a lookup; the response is stored if it is cacheable after all.

        Raises:
            CachePhaseError: In any phase but that between key and lookup.
        """
        if self._phase is not _CACHE_KEY or self._locked is not None:
            raise self._wrong_phase("bypass")
        self._phase = _BYPASS

    def disable(self, reason: NoCacheReason) -> None:
        """Switch caching off for the rest of this request.

        What is held is given up: the lock with what the reason means for those who wait, readers,
        and a fill that has not been taken. Key, predictor and size remain, so that the next
        request can learn from this one.

        Args:
            reason: Why. When caching is off already, it takes the place of the earlier one,
                unless caching had never been on.

        Raises:
            ValueError: If the reason is ``NEVER_ENABLED``, or this request fetches for others and
                the reason is one of those who wait (``CACHE_LOCK_...``).
        """
        if reason == NoCacheReason.NEVER_ENABLED:
            msg = "caching that is switched off has been on"
            raise ValueError(msg)
        if self._phase is _DISABLED:
            if self._reason == NoCacheReason.NEVER_ENABLED:
                logger.warning("caching is disabled (%s), but was never enabled", reason)
            else:
                self._reason = reason
            return
        status = LockStatus.TRANSIENT_ERROR
        if self.is_cache_lock_writer:
            status = status_of(reason, self._lock)
        self._let_go(status)
        self._phase = _DISABLED
        self._reason = reason
        self._storage = self._eviction = self._meta = None

    def close(self) -> None:
        """End with the request: give back what is held, and count what became of it.

        A fill that was taken goes on. Does nothing the second time. The phase stays, for the log.
        """
        if self._is_closed:
            return
        self._is_closed = True
        phase = self._phase
        if phase is _DISABLED and self._reason == NoCacheReason.NEVER_ENABLED:
            return
        stats = self.stats
        if not self._is_subrequest and stats is not _UNREAD:
            stats.count(phase)
            if phase is _DISABLED:
                stats.count_reason(self._reason)
            elif self._meta is not None and (phase is _HIT or phase in _SERVED):
                stats.count_age(self._meta.age(self._clock()))
        self._let_go(_TRANSIENT_ERROR)

    @property
    def is_cache_lock_writer(self) -> bool:
        """Whether others wait for this request, or for the fill that it has not given away."""
        if type(self._locked) is WritePermit:
            return True
        return self._fill is not None and self._fill.holds_lock

    # ------------------------------------------------------------------ inside

    def _let_go(self, status: LockStatus) -> None:
        if self._locked is not None:
            self._release(status)
        fill = self._fill
        if fill is not None:
            self._fill = None
            fill.release_lock(status)
            fill.close()
        self._drop_readers()

    def _drop_readers(self) -> None:
        if self._found is not None:
            self._found.close()
            self._found = None
        if self._hit_handler is not None:
            self._hit_handler.close()
            self._hit_handler = None
        if self._miss_body_reader is not None:
            self._miss_body_reader.close()
            self._miss_body_reader = None

    def _release(self, status: LockStatus) -> None:
        locked, self._locked = self._locked, None
        if type(locked) is WritePermit:
            locked.release(status)

    def _has_left(self, phase: CachePhase) -> bool:
        """Whether the request was closed, or moved on, while a store was waited for.

        Returns:
            True if it was.
        """
        return self._is_closed or self._phase is not phase

    def _wrong_phase(self, call: str) -> CachePhaseError:
        closed = ", closed" if self._is_closed else ""
        return CachePhaseError(f"{call} in phase {self._phase}{closed}")
