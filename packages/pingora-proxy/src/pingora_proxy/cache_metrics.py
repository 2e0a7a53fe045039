"""What caches and stores count, for metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pingora_core.metrics import Description, OverWorkers, Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pingora_cache.stats import CacheStats, StorageStats

__all__ = ["DESCRIPTIONS", "cache_source", "storage_source"]

_CACHE: Final = ("cache",)


def _counter(name: str, help_text: str, *labels: str, unit: str = "") -> Description:
    return Description.counter(name, help_text, *_CACHE + labels, unit=unit)


def _gauge(
    name: str, help_text: str, *, unit: str = "", over: OverWorkers = OverWorkers.SUM
) -> Description:
    return Description.gauge(name, help_text, *_CACHE, unit=unit, over=over)


REQUESTS: Final = _counter(
    "pingora.cache.requests", "What became of requests that may be cached.", "outcome"
)
UNCACHED: Final = _counter(
    "pingora.cache.requests.uncached", "Why caching was switched off on the way.", "reason"
)
LOOKUPS: Final = _counter("pingora.cache.lookups", "Lookups in the store.")
LOCK_WAITS: Final = _counter(
    "pingora.cache.lock.waits",
    "Waits for another request that fetches the same: begun, timed out, or too many.",
    "outcome",
)
LOCK_TIME: Final = _counter("pingora.cache.lock.wait.time", "How long these took.", unit="s")
FILLS: Final = _counter("pingora.cache.fills", "Responses that were stored, or failed.", "outcome")
FILLING: Final = _gauge("pingora.cache.fills.active", "Responses that are being stored now.")
IO: Final = _counter(
    "pingora.cache.io", "Bytes of bodies written to the store and read from it.", "direction",
    unit="By",
)  # fmt: skip
PURGES: Final = _counter(
    "pingora.cache.purges", "Purges that removed something, or failed.", "outcome"
)
REMOVED: Final = _counter(
    "pingora.cache.removed", "Objects evicted from outside the store, or invalidated.", "reason"
)
ERRORS: Final = _counter("pingora.cache.errors", "Calls of the store that failed.", "operation")
AGE: Final = _counter("pingora.cache.age", "Ages of all objects served, added up.", unit="s")
AGE_MAX: Final = _gauge(
    "pingora.cache.age.max", "The highest of these ages.", unit="s", over=OverWorkers.MOST
)

STORE_LOOKUPS: Final = _counter("pingora.cache.storage.lookups", "Lookups in a store.", "outcome")
STORE_WRITES: Final = _counter("pingora.cache.storage.writes", "Writes to a store.", "outcome")
STORE_EVICTIONS: Final = _counter(
    "pingora.cache.storage.evictions", "Objects removed to make room."
)
STORE_EVICTED: Final = _counter(
    "pingora.cache.storage.evicted", "Bytes that these counted for.", unit="By"
)
STORE_ERRORS: Final = _counter(
    "pingora.cache.storage.errors", "What went wrong in a store.", "error.type"
)
STORE_USED: Final = _gauge(
    "pingora.cache.storage.used", "Bytes that the objects count for.", unit="By"
)
STORE_OBJECTS: Final = _gauge("pingora.cache.storage.objects", "Objects that can be found.")
SHARED_USED: Final = _gauge(
    "pingora.cache.shared_storage.used",
    "Bytes that the objects count for in a store that all workers share.",
    unit="By",
    over=OverWorkers.MOST,
)
SHARED_OBJECTS: Final = _gauge(
    "pingora.cache.shared_storage.objects",
    "Objects that can be found in a store that all workers share.",
    over=OverWorkers.MOST,
)

DESCRIPTIONS: Final = (
    REQUESTS, UNCACHED, LOOKUPS, LOCK_WAITS, LOCK_TIME, FILLS, FILLING, IO, PURGES, REMOVED,
    ERRORS, AGE, AGE_MAX, STORE_LOOKUPS, STORE_WRITES, STORE_EVICTIONS, STORE_EVICTED,
    STORE_ERRORS, STORE_USED, STORE_OBJECTS, SHARED_USED, SHARED_OBJECTS,
)  # fmt: skip


def cache_source(stats: CacheStats, name: str) -> Callable[[], Iterator[Reading]]:
    """Make a source of what the cache of a service counts.

    Args:
        stats: The counts; those that ``session.cache.enable`` is given.
        name: Value of the label ``cache``.

    Returns:
        The source, for ``Registry.add_source``.
    """

    def read() -> Iterator[Reading]:
        for outcome, count in (
            ("hit", stats.hits),
            ("miss", stats.misses),
            ("expired", stats.expired),
            ("revalidated", stats.revalidated),
            ("stale", stats.stale),
            ("stale_updating", stats.stale_updating),
            ("bypass", stats.bypassed),
            ("uncached", stats.uncached),
            ("unfinished", stats.unfinished),
        ):
            yield Reading(REQUESTS, count, (name, outcome))
        for reason, count in stats.reasons.items():
            yield Reading(UNCACHED, count, (name, reason))
        yield Reading(LOOKUPS, stats.lookups, (name,))
        yield Reading(LOCK_WAITS, stats.lock_waits, (name, "begun"))
        yield Reading(LOCK_WAITS, stats.lock_timeouts, (name, "timeout"))
        yield Reading(LOCK_WAITS, stats.lock_overflows, (name, "overflow"))
        yield Reading(LOCK_TIME, stats.lock_wait_seconds, (name,))
        yield Reading(FILLS, stats.fills, (name, "stored"))
        yield Reading(FILLS, stats.fill_errors, (name, "failed"))
        yield Reading(FILLING, stats.fills_active, (name,))
        yield Reading(IO, stats.bytes_filled, (name, "write"))
        yield Reading(IO, stats.bytes_served, (name, "read"))
        yield Reading(PURGES, stats.purges, (name, "removed"))
        yield Reading(PURGES, stats.purge_errors, (name, "failed"))
        yield Reading(REMOVED, stats.evictions, (name, "evicted"))
        yield Reading(REMOVED, stats.invalidations, (name, "invalidated"))
        yield Reading(ERRORS, stats.lookup_errors, (name, "lookup"))
        yield Reading(ERRORS, stats.meta_errors, (name, "update_meta"))
        yield Reading(AGE, stats.age_sum, (name,))
        yield Reading(AGE_MAX, stats.age_max, (name,))

    return read


def storage_source(
    find: Callable[[], StorageStats], name: str, *, is_shared: bool = False
) -> Callable[[], Iterator[Reading]]:
    """Make a source of what a store counts.

    Args:
        find: Finds the counts: ``lambda: storage.stats``.
        name: Value of the label ``cache``.
        is_shared: Whether all workers share its content, as they do on disk and in Redis.

    Returns:
        The source, for ``Registry.add_source``.
    """
    used, objects = (SHARED_USED, SHARED_OBJECTS) if is_shared else (STORE_USED, STORE_OBJECTS)

    def read() -> Iterator[Reading]:
        stats = find()
        yield Reading(STORE_LOOKUPS, stats.hits, (name, "hit"))
        yield Reading(STORE_LOOKUPS, stats.misses, (name, "miss"))
        yield Reading(STORE_WRITES, stats.writes, (name, "published"))
        yield Reading(STORE_WRITES, stats.aborted_writes, (name, "aborted"))
        yield Reading(STORE_EVICTIONS, stats.evictions, (name,))
        yield Reading(STORE_EVICTED, stats.evicted_bytes, (name,))
        yield Reading(STORE_ERRORS, stats.errors, (name, "medium"))
        yield Reading(STORE_ERRORS, stats.corrupt, (name, "corrupt"))
        yield Reading(used, stats.used_bytes, (name,))
        yield Reading(objects, stats.objects, (name,))

    return read
