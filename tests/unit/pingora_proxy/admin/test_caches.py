"""The cache, as the admin interface sees and purges it."""

from __future__ import annotations

import pytest

from pingora_cache import CacheKey, CacheStats, MemoryStorage
from pingora_proxy.admin import StorageCache
from tests.support.cache_objects import read, write

URL = "https://example.com/a?b=1"
KEY = CacheKey.for_uri("https", "example.com", "/a?b=1")


@pytest.mark.parametrize(
    "url", [URL, "https://EXAMPLE.com:443/a?b=1", "https://example.com/a?b=1#fragment"]
)
async def test_a_url_is_purged(url: str) -> None:
    """Its object is gone, and the service's count of purges knows."""
    async with MemoryStorage(1 << 20) as storage:
        await write(storage, b"body", KEY)
        stats = CacheStats()
        cache = StorageCache(storage, stats)

        assert await cache.purge_url(url, soft=False)
        assert await read(storage, KEY) is None
        assert not await cache.purge_url(url, soft=False)
        assert cache.stats()["requests"]["purges"] == 1
        assert cache.stats()["storage"]["objects"] == 0


async def test_a_soft_purge_keeps_the_object() -> None:
    """It has expired, and can be revalidated or served in place of an error."""
    async with MemoryStorage(1 << 20) as storage:
        await write(storage, b"body", KEY)

        assert await StorageCache(storage).purge_url(URL, soft=True)
        assert await read(storage, KEY) == b"body"
        assert set(StorageCache(storage).stats()) == {"storage"}


async def test_a_tag_is_purged() -> None:
    """All objects that have it are, and only these."""
    async with MemoryStorage(1 << 20) as storage:
        other = CacheKey.for_uri("https", "example.com", "/")
        await write(storage, b"body", KEY, tags=[b"red"])
        await write(storage, b"other", other, tags=[b"blue"])
        cache = StorageCache(storage)

        assert await cache.purge_tag("red", soft=False) in {1, None}  # this store does not count
        assert await read(storage, KEY) is None
        assert await read(storage, other) == b"other"


async def test_keys_of_the_service() -> None:
    """A service with keys of its own says how they are made."""

    def key_for(scheme: str, authority: str, target: str) -> CacheKey:
        return CacheKey.for_uri(scheme, authority, target, namespace="v2")

    async with MemoryStorage(1 << 20) as storage:
        await write(storage, b"body", key_for("https", "example.com", "/a?b=1"))

        assert not await StorageCache(storage).purge_url(URL, soft=False)
        assert await StorageCache(storage, key_for=key_for).purge_url(URL, soft=False)


@pytest.mark.parametrize("url", ["", "/a", "example.com/a", "ftp://x/a", "https://", "http://u@x/"])
async def test_other_urls(url: str) -> None:
    """Only absolute ones without user information name an object."""
    async with MemoryStorage(1 << 20) as storage:
        with pytest.raises(ValueError, match="absolute URL"):
            await StorageCache(storage).purge_url(url, soft=False)
