"""Whole objects: written to a store and read from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_cache.testing.harness import make_key, make_meta

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_cache.key import CacheKey
    from pingora_cache.storage import HitHandler, MissHandler, Storage

__all__ = ["begin", "drain", "find", "read", "write"]


async def begin(
    storage: Storage, key: CacheKey | None = None, *, tags: Iterable[bytes] = ()
) -> MissHandler:
    """Begin to write an object.

    Args:
        storage: The store.
        key: The key; None for that of ``make_key()``.
        tags: Its tags.

    Returns:
        The writer.
    """
    return await storage.get_miss_handler(key or make_key(), make_meta(tags=tags))


async def write(
    storage: Storage, body: bytes, key: CacheKey | None = None, *, tags: Iterable[bytes] = ()
) -> None:
    """Write an object, which has to be published.

    Args:
        storage: The store.
        body: The body.
        key: The key; None for that of ``make_key()``.
        tags: Its tags.
    """
    writer = await begin(storage, key, tags=tags)
    try:
        await writer.write_body(body, end=True)
        assert (await writer.finish()).published
    finally:
        writer.close()


async def find(storage: Storage, key: CacheKey | None = None) -> HitHandler:
    """Find an object that has to be there.

    Args:
        storage: The store.
        key: The key; None for that of ``make_key()``.

    Returns:
        A reader of it.
    """
    found = await storage.lookup(key or make_key())
    assert found is not None
    return found[1]


async def read(storage: Storage, key: CacheKey | None = None) -> bytes | None:
    """Read an object.

    Args:
        storage: The store.
        key: The key; None for that of ``make_key()``.

    Returns:
        Its body; None if there is none.
    """
    found = await storage.lookup(key or make_key())
    return None if found is None else await drain(found[1])


async def drain(reader: HitHandler) -> bytes:
    """Read to the end.

    Args:
        reader: The reader; it is closed.

    Returns:
        What it read.
    """
    try:
        body = b""
        while (piece := await reader.read_body()) is not None:
            body += piece
        return body
    finally:
        reader.close()
