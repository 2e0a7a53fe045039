"""What caches and stores count, for dashboards and for whoever asks why.

Plain numbers, added to in place: one object for all requests of a service in this process. Over
worker processes, add up the snapshots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pingora_cache.phase import CachePhase

if TYPE_CHECKING:
    from pingora_cache.reason import NoCacheReason

__all__ = ["CacheStats", "StorageStats"]

# Reasons of applications are free text: an unlucky one must not fill the memory.
_MAX_REASONS: Final = 64
_OTHER: Final = "other"

_HIT: Final = CachePhase.HIT
_COUNTERS: Final = {
    CachePhase.DISABLED: "uncached",
    CachePhase.UNINIT: "unfinished",
    CachePhase.BYPASS: "bypassed",
    CachePhase.CACHE_KEY: "unfinished",
    CachePhase.MISS: "misses",
    CachePhase.STALE: "stale",
    CachePhase.STALE_UPDATING: "stale_updating",
    CachePhase.EXPIRED: "expired",
    CachePhase.REVALIDATED: "revalidated",
    CachePhase.REVALIDATED_NO_CACHE: "revalidated",
}


class CacheStats:
    """What became of the requests of a service, as its cache sees it.

    A request for which caching was switched on is counted once, when its ``HttpCache`` is closed,
    by the phase that it is in then: in one of ``hits``, ``misses``, ``expired``, ``revalidated``,
    ``stale``, ``stale_updating``, ``bypassed``, ``uncached`` and ``unfinished``.

    Attributes:
        hits: Answered from the store, fresh.
        misses: There was nothing to use; the upstream was asked.
        expired: An object had expired, and the upstream sent a new one.
        revalidated: An object had expired, and the upstream confirmed it.
        stale: A stale object was served in place of an error.
        stale_updating: A stale object was served while somebody fetched a fresh one.
        bypassed: Predicted to be uncacheable and not looked up, and so it was.
        uncached: Caching was switched off on the way; ``reasons`` tells why.
        unfinished: Ended before it was known whether there is anything to use.
        lookups: Lookups in the store; a request looks up again for a variant and after a lock.
        lookup_errors: Lookups that failed; taken for a miss.
        lock_waits: Waits for another request that fetches the same object.
        lock_wait_seconds: How long these took together, seconds.
        lock_timeouts: Waits that took too long, and went to the upstream.
        lock_overflows: Requests that did not wait because too many did already.
        fills: Responses that were stored.
        fill_errors: Responses that were not stored in the end: the upstream or the store failed.
        fills_active: Responses that are being stored now.
        bytes_filled: Bytes of bodies written to the store, those of failed fills included.
        bytes_served: Bytes of bodies read from the store for clients; whoever reads adds to it.
        meta_errors: Revalidations that the store failed to note.
        purges: Purges that removed something, or made it expire.
        purge_errors: Purges that failed.
        evictions: Objects that an eviction manager outside the store had removed.
        invalidations: Objects removed because an unsafe request changed them; whoever does adds.
        age_sum: The ages of all objects served (hits, stale ones, revalidated ones), seconds.
        age_max: The highest of these ages, seconds.
        reasons: Requests in ``uncached``, by the name of the reason. At most 64 names; what comes
            beyond is counted as ``other``.
    """

    __slots__ = (
        "age_max",
        "age_sum",
        "bypassed",
        "bytes_filled",
        "bytes_served",
        "evictions",
        "expired",
        "fill_errors",
        "fills",
        "fills_active",
        "hits",
        "invalidations",
        "lock_overflows",
        "lock_timeouts",
        "lock_wait_seconds",
        "lock_waits",
        "lookup_errors",
        "lookups",
        "meta_errors",
        "misses",
        "purge_errors",
        "purges",
        "reasons",
        "revalidated",
        "stale",
        "stale_updating",
        "uncached",
        "unfinished",
    )

    def __init__(self) -> None:
        self.hits: int = 0
        self.misses: int = 0
        self.expired: int = 0
        self.revalidated: int = 0
        self.stale: int = 0
        self.stale_updating: int = 0
        self.bypassed: int = 0
        self.uncached: int = 0
        self.unfinished: int = 0
        self.lookups: int = 0
        self.lookup_errors: int = 0
        self.lock_waits: int = 0
        self.lock_timeouts: int = 0
        self.lock_overflows: int = 0
        self.lock_wait_seconds: float = 0.0
        self.fills: int = 0
        self.fill_errors: int = 0
        self.fills_active: int = 0
        self.bytes_filled: int = 0
        self.bytes_served: int = 0
        self.meta_errors: int = 0
        self.purges: int = 0
        self.purge_errors: int = 0
        self.evictions: int = 0
        self.invalidations: int = 0
        self.age_sum: float = 0.0
        self.age_max: float = 0.0
        self.reasons: dict[str, int] = {}

    @property
    def requests(self) -> int:
        """All requests that were counted."""
        return (
            self.hits
            + self.misses
            + self.expired
            + self.revalidated
            + self.stale
            + self.stale_updating
            + self.bypassed
            + self.uncached
            + self.unfinished
        )

    def count(self, phase: CachePhase) -> None:
        """Count a request that has ended; ``HttpCache.close`` does.

        Args:
            phase: The phase that it ended in.
        """
        if phase is _HIT:  # the way of most requests, without the detour over names
            self.hits += 1
        else:
            name = _COUNTERS[phase]
            setattr(self, name, getattr(self, name) + 1)

    def count_reason(self, reason: NoCacheReason) -> None:
        """Count why a request in ``uncached`` is there; ``HttpCache.close`` does.

        Args:
            reason: Why.
        """
        name = reason.name
        reasons = self.reasons
        if name not in reasons and len(reasons) >= _MAX_REASONS:
            name = _OTHER
        reasons[name] = reasons.get(name, 0) + 1

    def count_age(self, age: float) -> None:
        """Count the age of an object that was served; ``HttpCache.close`` does.

        Args:
            age: Seconds.
        """
        self.age_sum += age
        if age > self.age_max:  # noqa: PLR1730  # max() takes three times as long
            self.age_max = age

    def snapshot(self) -> dict[str, float]:
        """Tell all the numbers.

        Returns:
            They by name, with ``requests``, and with the reasons as ``reasons.<name>``.
        """
        numbers = {name: getattr(self, name) for name in self.__slots__ if name != "reasons"}
        numbers["requests"] = self.requests
        for name, count in self.reasons.items():
            numbers[f"reasons.{name}"] = count
        return numbers

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.hits} hits of {self.requests} requests>"


class StorageStats:
    """What happened in a store.

    Attributes:
        hits: Lookups that found something.
        misses: Lookups that found nothing.
        writes: Objects that were published.
        aborted_writes: Writes that failed or were given up; nothing was published.
        evictions: Objects removed to make room.
        evicted_bytes: Bytes that these counted for.
        purges: Purges that removed something, or made it expire.
        tag_purged: Objects that purges by tag have removed, counted as they are found: in memory
            some moments after the purge at the latest, on disk when they are looked for. Not for
            Redis, which lets them expire.
        errors: Calls that failed because of the medium.
        corrupt: Objects that were found damaged, and removed.
        used_bytes: Bytes that the objects count for now: bodies, metas and overhead.
        objects: Objects that can be found now.
    """

    __slots__ = (
        "aborted_writes",
        "corrupt",
        "errors",
        "evicted_bytes",
        "evictions",
        "hits",
        "misses",
        "objects",
        "purges",
        "tag_purged",
        "used_bytes",
        "writes",
    )

    def __init__(self) -> None:
        self.hits: int = 0
        self.misses: int = 0
        self.writes: int = 0
        self.aborted_writes: int = 0
        self.evictions: int = 0
        self.evicted_bytes: int = 0
        self.purges: int = 0
        self.tag_purged: int = 0
        self.errors: int = 0
        self.corrupt: int = 0
        self.used_bytes: int = 0
        self.objects: int = 0

    def snapshot(self) -> dict[str, int]:
        """Tell all the numbers.

        Returns:
            They by name.
        """
        return {name: getattr(self, name) for name in self.__slots__}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.objects} objects, {self.used_bytes} bytes>"
