"""Where a request stands in the cache, and what it found there.

``HttpCache`` walks through the phases; ``CachePhaseError`` is what it raises when it is asked for
something that the phase it is in does not allow.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["CachePhase", "CachePhaseError", "ForcedFreshness", "HitStatus"]


class CachePhaseError(RuntimeError):
    """A call that the phase does not allow: a mistake in the program. Nothing was changed."""


class CachePhase(Enum):
    """Where a request stands. The value is Pingora's word for it, as seen in logs.

    Attributes:
        DISABLED: Caching is off; ``HttpCache.no_cache_reason`` says why.
        UNINIT: Caching is on, and there is no key yet.
        BYPASS: The response was predicted to be uncacheable: there is no lookup, but it is stored
            if it turns out to be cacheable after all.
        CACHE_KEY: There is a key; lookup comes next.
        HIT: A fresh object is being served.
        MISS: There was nothing to use; the upstream is asked.
        STALE: An object was found and has expired.
        STALE_UPDATING: A stale object is being served while somebody fetches a fresh one.
        EXPIRED: The object had expired, and the upstream sent a new one.
        REVALIDATED: The object had expired, and the upstream confirmed it.
        REVALIDATED_NO_CACHE: As before, but the upstream also said not to store it any more.

    Source: enum CachePhase in pingora-cache/src/lib.rs.
    """

    DISABLED = "disabled"
    UNINIT = "uninitialized"
    BYPASS = "bypass"
    CACHE_KEY = "key"
    HIT = "hit"
    MISS = "miss"
    STALE = "stale"
    STALE_UPDATING = "stale-updating"
    EXPIRED = "expired"
    REVALIDATED = "revalidated"
    REVALIDATED_NO_CACHE = "revalidated-nocache"

    def __str__(self) -> str:
        return self.value


class ForcedFreshness(Enum):
    """What an application decides about an object that was found, whatever its age.

    Attributes:
        FORCE_EXPIRED: Take it for expired: ask the upstream to confirm it.
        FORCE_MISS: Take it for absent: fetch it again.
        FORCE_FRESH: Serve it.

    Source: enum ForcedFreshness in pingora-cache/src/lib.rs.
    """

    FORCE_EXPIRED = "force_expired"
    FORCE_MISS = "force_miss"
    FORCE_FRESH = "force_fresh"

    def __str__(self) -> str:
        return self.value

    @property
    def hit_status(self) -> HitStatus:
        """The same as the status of a hit."""
        return HitStatus(self.value)


class HitStatus(Enum):
    """What an object that was found is good for.

    Attributes:
        EXPIRED: It has expired.
        FORCE_EXPIRED: The application takes it for expired.
        FORCE_MISS: The application takes it for absent.
        FAILED_HIT_FILTER: The application's filter failed, so that nothing is known about it.
        FRESH: It is fresh.
        FORCE_FRESH: The application takes it for fresh.

    Source: enum HitStatus in pingora-cache/src/lib.rs.
    """

    EXPIRED = "expired"
    FORCE_EXPIRED = "force_expired"
    FORCE_MISS = "force_miss"
    FAILED_HIT_FILTER = "failed_hit_filter"
    FRESH = "fresh"
    FORCE_FRESH = "force_fresh"

    def __str__(self) -> str:
        return self.value

    @property
    def is_fresh(self) -> bool:
        """Whether it can be served as it is."""
        return self is HitStatus.FRESH or self is HitStatus.FORCE_FRESH

    @property
    def is_treated_as_miss(self) -> bool:
        """Whether it is not used at all."""
        return self is HitStatus.FORCE_MISS or self is HitStatus.FAILED_HIT_FILTER
