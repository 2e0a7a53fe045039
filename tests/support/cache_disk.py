"""A cache directory for tests: objects in it, and ways to spoil them."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from pingora_cache.key import CacheKey
from pingora_cache.meta import CacheMeta
from pingora_http import ResponseHeader

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pingora_cache.disk import DiskStorage
    from pingora_cache.storage import Finished, MissHandler

__all__ = [
    "MIB",
    "begin",
    "begun_in",
    "body",
    "fill",
    "key",
    "meta",
    "object_path",
    "read",
    "writes_in",
]

MIB = 1 << 20


def key(name: str = "key") -> CacheKey:
    """Make a key."""
    return CacheKey(name)


def body(name: object, size: int) -> bytes:
    """Make a body that cannot be taken for any part of another."""
    return random.Random(repr(name)).randbytes(size)


def meta(
    name: str = "meta",
    *,
    fresh: float = 3600.0,
    tags: Iterable[bytes] = (),
    size: int | None = None,
    now: float | None = None,
    filler: int = 0,
) -> CacheMeta:
    """Make a meta; ``size`` goes into Content-Length, ``filler`` bytes into another field."""
    born = time.time() if now is None else now
    header = ResponseHeader(200, headers=[("ETag", f'"{name}"')])
    if size is not None:
        header.insert_header("Content-Length", str(size))
    if filler:
        header.insert_header("X-Filler", "x" * filler)
    return CacheMeta(header, created=born, fresh_until=born + fresh, tags=tuple(tags))


async def begin(storage: DiskStorage, name: str, about: CacheMeta | None = None) -> MissHandler:
    """Begin to write an object."""
    return await storage.get_miss_handler(key(name), meta() if about is None else about)


async def fill(
    storage: DiskStorage,
    name: str,
    data: bytes,
    about: CacheMeta | None = None,
    step: int = 100_000,
) -> Finished:
    """Write an object from beginning to end."""
    writer = await begin(storage, name, about)
    try:
        for start in range(0, len(data), step):
            await writer.write_body(data[start : start + step], end=False)
        await writer.write_body(b"", end=True)
        return await writer.finish()
    finally:
        writer.close()


async def read(storage: DiskStorage, name: str) -> bytes | None:
    """Read an object from beginning to end; None if there is none."""
    found = await storage.lookup(key(name))
    if found is None:
        return None
    reader = found[1]
    try:
        pieces = []
        while (piece := await reader.read_body()) is not None:
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        reader.close()


def object_path(directory: Path, name: str) -> Path:
    """Tell where an object is."""
    digits = key(name).hex
    return directory / "objects" / digits[0] / digits[1:3] / digits


def writes_in(directory: Path) -> list[Path]:
    """Find the files of writes that go on, or were left."""
    return list(directory.glob("filling/*/*"))


def begun_in(directory: Path) -> list[Path]:
    """Find the files of writes that others can follow: something is in them."""
    return [path for path in writes_in(directory) if path.stat().st_size]
