"""Each number of a cache and a store has the name and the labels that it is known by."""

from __future__ import annotations

from pingora_cache.stats import CacheStats, StorageStats
from pingora_core.metrics import Registry
from pingora_proxy.cache_metrics import cache_source, storage_source

# By attribute: the metric, and the label beside the name of the cache.
OF_CACHES = {
    "hits": ("requests_total", "hit"),
    "misses": ("requests_total", "miss"),
    "expired": ("requests_total", "expired"),
    "revalidated": ("requests_total", "revalidated"),
    "stale": ("requests_total", "stale"),
    "stale_updating": ("requests_total", "stale_updating"),
    "bypassed": ("requests_total", "bypass"),
    "uncached": ("requests_total", "uncached"),
    "unfinished": ("requests_total", "unfinished"),
    "lookups": ("lookups_total",),
    "lookup_errors": ("errors_total", "lookup"),
    "meta_errors": ("errors_total", "update_meta"),
    "lock_waits": ("lock_waits_total", "begun"),
    "lock_timeouts": ("lock_waits_total", "timeout"),
    "lock_overflows": ("lock_waits_total", "overflow"),
    "lock_wait_seconds": ("lock_wait_time_seconds_total",),
    "fills": ("fills_total", "stored"),
    "fill_errors": ("fills_total", "failed"),
    "fills_active": ("fills_active",),
    "bytes_filled": ("io_bytes_total", "write"),
    "bytes_served": ("io_bytes_total", "read"),
    "purges": ("purges_total", "removed"),
    "purge_errors": ("purges_total", "failed"),
    "evictions": ("removed_total", "evicted"),
    "invalidations": ("removed_total", "invalidated"),
    "age_sum": ("age_seconds_total",),
    "age_max": ("age_max_seconds",),
}
OF_STORES = {
    "hits": ("lookups_total", "hit"),
    "misses": ("lookups_total", "miss"),
    "writes": ("writes_total", "published"),
    "aborted_writes": ("writes_total", "aborted"),
    "evictions": ("evictions_total",),
    "evicted_bytes": ("evicted_bytes_total",),
    "errors": ("errors_total", "medium"),
    "corrupt": ("errors_total", "corrupt"),
    "used_bytes": ("used_bytes",),
    "objects": ("objects",),
}


def numbers_of(registry: Registry, prefix: str) -> dict[tuple[str, ...], float]:
    """Read what begins so: by the rest of the name, and the labels but that of the cache."""
    return {
        (name.removeprefix(prefix), *labels[1:]): numbers[0]
        for name, family in registry.collect().items()
        if name.startswith(prefix)
        for labels, numbers in family.series.items()
    }


def test_a_cache() -> None:
    """All that it counts, each under its own name."""
    stats = CacheStats()
    wanted = {}
    for number, (name, labels) in enumerate(OF_CACHES.items(), 1):
        setattr(stats, name, number)
        wanted[labels] = number
    registry = Registry()
    registry.add_source(cache_source(stats, "pages"))
    assert set(OF_CACHES) == set(CacheStats.__slots__) - {"reasons"}
    assert numbers_of(registry, "pingora_cache_") == wanted


def test_a_store() -> None:
    """As well; one that all workers share has other names for what it holds."""
    stats = StorageStats()
    wanted = {}
    for number, (name, labels) in enumerate(OF_STORES.items(), 1):
        setattr(stats, name, number)
        wanted[labels] = number
    registry = Registry()
    registry.add_source(storage_source(lambda: stats, "pages"))
    assert numbers_of(registry, "pingora_cache_storage_") == wanted
    shared = Registry()
    shared.add_source(storage_source(lambda: stats, "disk", is_shared=True))
    held = {labels: wanted.pop(labels) for labels in (("used_bytes",), ("objects",))}
    assert numbers_of(shared, "pingora_cache_shared_storage_") == held
    assert numbers_of(shared, "pingora_cache_storage_") == wanted
