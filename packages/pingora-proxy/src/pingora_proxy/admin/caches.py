"""The cache of ``pingora_cache``, as the admin interface sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, final
from urllib.parse import urlsplit

from pingora_cache.cache import HttpCache
from pingora_cache.key import CacheKey
from pingora_cache.memory import MemoryStorage
from pingora_cache.storage import PurgeAction
from pingora_proxy._fetches import noted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pingora_cache.eviction import EvictionManager
    from pingora_cache.stats import CacheStats
    from pingora_cache.storage import Storage

__all__ = ["StorageCache"]


@final
class StorageCache:
    """A store, with what its service counts.

    Args:
        storage: The store.
        stats: What the requests of the service are counted in; None if nothing counts.
        eviction: What the service gives ``session.cache.enable``, if anything.
        key_for: Makes the key of scheme, authority and target, for a service that overrides
            ``cache_key_callback``; None for the default keys.
        is_shared: Whether all workers have the store in common; None for what it is by its class:
            a ``MemoryStorage`` is not, anything else is.

    Attributes:
        is_shared: Whether what the store holds is told once, and not added up over the workers.
    """

    __slots__ = ("_eviction", "_key_for", "_stats", "_storage", "is_shared")

    def __init__(
        self,
        storage: Storage,
        stats: CacheStats | None = None,
        *,
        eviction: EvictionManager | None = None,
        key_for: Callable[[str, str, str], CacheKey] | None = None,
        is_shared: bool | None = None,
    ) -> None:
        in_memory = isinstance(storage, MemoryStorage)
        self.is_shared: bool = not in_memory if is_shared is None else is_shared
        self._storage = storage
        self._stats = stats
        self._eviction = eviction
        self._key_for = _default_key if key_for is None else key_for

    def stats(self) -> Mapping[str, Mapping[str, float]]:
        """Tell what was counted.

        Returns:
            ``requests``, if they are counted, and ``storage``.
        """
        groups: dict[str, Mapping[str, float]] = {"storage": self._storage.stats.snapshot()}
        if self._stats is not None:
            groups["requests"] = self._stats.snapshot()
        return groups

    async def purge_url(self, url: str, *, soft: bool) -> bool:
        """Remove what is kept of a URL, with all variants.

        Args:
            url: Absolute, of ``http`` or ``https``.
            soft: Whether it is kept, and has expired, with all variants.

        Returns:
            Whether there was something.

        Raises:
            ValueError: If it is no such URL.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc or "@" in parts.netloc:
            msg = "an absolute URL is needed, such as https://example.com/logo.png"
            raise ValueError(msg)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        cache = HttpCache()
        cache.enable(self._storage, eviction=self._eviction, stats=self._stats)
        cache.set_cache_key(self._key_for(parts.scheme, parts.netloc, target))
        return bool(await noted(cache.cache_key, cache.purge(action=_action(soft=soft))))

    async def purge_tag(self, tag: str, *, soft: bool) -> int | None:
        """Remove all that has a tag.

        Args:
            tag: The tag.
            soft: Whether it is kept, and has expired.

        Returns:
            How many objects; None if that is not known.
        """
        cache = HttpCache()
        cache.enable(self._storage, eviction=self._eviction, stats=self._stats)
        return await cache.purge_tag(tag.encode(), action=_action(soft=soft))


def _action(*, soft: bool) -> PurgeAction:
    return PurgeAction.EXPIRE if soft else PurgeAction.DELETE


def _default_key(scheme: str, authority: str, target: str) -> CacheKey:
    return CacheKey.for_uri(scheme, authority, target)
