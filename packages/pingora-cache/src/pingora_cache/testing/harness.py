"""What the tests of the suite share: making a store, writing and reading whole objects."""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from unittest import SkipTest

from pingora_cache.key import CacheKey
from pingora_cache.meta import CacheMeta
from pingora_cache.testing.waiting import soon
from pingora_error import Error
from pingora_http import ResponseHeader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterable
    from contextlib import AbstractAsyncContextManager

    from pingora_cache.storage import Finished, HitHandler, MissHandler, Storage
    from pingora_error import ErrorKind

__all__ = ["Harness", "StorageOptions", "make_body", "make_key", "make_meta"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageOptions:
    """What a test wants of the store; None for the store's default.

    Attributes:
        max_bytes: Bytes in all.
        max_object_size: Bytes of one body.
        stall_timeout: Seconds that readers wait for a writer without progress.
    """

    max_bytes: int | None = None
    max_object_size: int | None = None
    stall_timeout: float | None = None


_ANY: Final = StorageOptions()


def make_body(name: object, size: int) -> bytes:
    """Make a body that cannot be taken for any part of another.

    Args:
        name: What tells it from others.
        size: Bytes.

    Returns:
        The same bytes for the same arguments.
    """
    return random.Random(repr(name)).randbytes(size)  # noqa: S311  # to be told apart, not guessed


def make_key(primary: str | bytes = "key", *, variance: bytes | None = None) -> CacheKey:
    """Make a key.

    Args:
        primary: What it names.
        variance: One byte or more that is made the variance of 16; None for none.

    Returns:
        The key.
    """
    key = CacheKey(primary)
    if variance is not None:
        key.variance = variance.ljust(16, b"\0")
    return key


def make_meta(
    name: object = "meta",
    *,
    fresh: float = 3600.0,
    tags: Iterable[bytes] = (),
    created: float | None = None,
) -> CacheMeta:
    """Make a meta.

    Args:
        name: Goes into the ETag, so that it tells this meta from others.
        fresh: Seconds from now for which it is fresh; negative for one that has expired.
        tags: Its tags.
        created: When, wall clock seconds; None for now.

    Returns:
        The meta.
    """
    now = time.time()
    header = ResponseHeader(200, headers=[("Content-Type", "text/plain"), ("ETag", f'"{name}"')])
    born = now if created is None else created
    return CacheMeta(header, created=born, fresh_until=now + fresh, tags=tuple(tags))


class Harness(ABC):
    """The base of the tests.

    Attributes:
        bounded: Whether the store keeps to ``StorageOptions.max_bytes``.
        limits_objects: Whether it keeps to ``StorageOptions.max_object_size``.
        has_tags: Whether it can purge by tag.
        counts: Whether its ``stats.objects`` and ``stats.used_bytes`` tell what is in it.
        tells_purges: Whether ``purge`` tells exactly if there was anything. A store that purges
            by tag without looking at objects may find some that cannot be found any more.
    """

    bounded: bool = True
    limits_objects: bool = True
    has_tags: bool = True
    counts: bool = True
    tells_purges: bool = True

    # ------------------------------------------------------------- what a subclass tells

    @abstractmethod
    def make_storage(self, options: StorageOptions) -> AbstractAsyncContextManager[Storage]:
        """Make an empty store that no other test uses.

        Args:
            options: What the test wants.

        Returns:
            What opens the store, and removes everything of it in the end.
        """

    def make_second(self, first: Storage) -> AbstractAsyncContextManager[Storage] | None:
        """Make another store on the same objects, as another process would.

        Args:
            first: A store of ``make_storage``.

        Returns:
            What opens the other store; None, unless overridden, if objects are not shared.
        """
        del first
        return None

    # ------------------------------------------------------------------------- needs

    def need(self, ability: bool, what: str) -> None:  # noqa: FBT001  # reads as words
        """Skip the test unless the store can do something.

        Args:
            ability: Whether it can.
            what: What it is.

        Raises:
            SkipTest: If it cannot.
        """
        if not ability:
            msg = f"the store has no {what}"
            raise SkipTest(msg)

    def storage(self, options: StorageOptions = _ANY) -> AbstractAsyncContextManager[Storage]:
        """Make a store.

        Args:
            options: What the test wants.

        Returns:
            What opens the store, and removes it in the end.
        """
        return self.make_storage(options)

    @asynccontextmanager
    async def streaming(self, options: StorageOptions = _ANY) -> AsyncIterator[Storage]:
        """Make a store that streams partial writes, or skip the test.

        Args:
            options: What the test wants.

        Yields:
            The store.
        """
        async with self.make_storage(options) as storage:
            self.need(storage.supports_streaming_partial_write, "streaming partial writes")
            yield storage

    @asynccontextmanager
    async def second(self, first: Storage) -> AsyncIterator[Storage]:
        """Make another store on the same objects, or skip the test.

        Args:
            first: A store of ``make_storage``.

        Yields:
            The other store.
        """
        second = self.make_second(first)
        if second is None:
            self.need(False, "objects in common with other processes")  # noqa: FBT003
            return
        async with second as storage:
            yield storage

    # ----------------------------------------------------------------------- whole objects

    async def write(
        self,
        storage: Storage,
        body: bytes,
        *,
        key: CacheKey | None = None,
        meta: CacheMeta | None = None,
        chunk: int = 50_000,
    ) -> Finished:
        """Write an object from beginning to end.

        Args:
            storage: The store.
            body: The body.
            key: The key; None for that of ``make_key()``.
            meta: The meta; None for that of ``make_meta()``.
            chunk: Bytes that are written at a time.

        Returns:
            What it came to.
        """
        writer = await self.begin(storage, key=key, meta=meta)
        try:
            for start in range(0, len(body), chunk):
                await soon(writer.write_body(body[start : start + chunk], end=False))
            await soon(writer.write_body(b"", end=True))
            return await soon(writer.finish())
        finally:
            writer.close()

    async def begin(
        self, storage: Storage, *, key: CacheKey | None = None, meta: CacheMeta | None = None
    ) -> MissHandler:
        """Begin to write an object.

        Args:
            storage: The store.
            key: The key; None for that of ``make_key()``.
            meta: The meta; None for that of ``make_meta()``.

        Returns:
            The writer.
        """
        return await soon(
            storage.get_miss_handler(key or make_key(), make_meta() if meta is None else meta)
        )

    async def find(
        self, storage: Storage, key: CacheKey | None = None
    ) -> tuple[CacheMeta, HitHandler]:
        """Look up what has to be there.

        Args:
            storage: The store.
            key: The key; None for that of ``make_key()``.

        Returns:
            What was found.
        """
        found = await soon(storage.lookup(key or make_key()))
        assert found is not None
        return found

    async def find_soon(
        self, storage: Storage, key: CacheKey | None = None
    ) -> tuple[CacheMeta, HitHandler]:
        """Look up what another process writes, until it is there.

        Args:
            storage: The store.
            key: The key; None for that of ``make_key()``.

        Returns:
            What was found.
        """

        async def look() -> tuple[CacheMeta, HitHandler]:
            while (found := await storage.lookup(key or make_key())) is None:  # noqa: ASYNC110  # of any store
                await asyncio.sleep(0.002)
            return found

        return await soon(look())

    async def read(self, storage: Storage, key: CacheKey | None = None) -> bytes | None:
        """Read an object from beginning to end.

        Args:
            storage: The store.
            key: The key; None for that of ``make_key()``.

        Returns:
            Its body; None if there is none.
        """
        found = await soon(storage.lookup(key or make_key()))
        if found is None:
            return None
        return await self.drain(found[1])

    async def drain(self, reader: HitHandler) -> bytes:
        """Read to the end.

        Args:
            reader: The reader; it is closed.

        Returns:
            What it read.
        """
        body = bytearray()
        try:
            while (piece := await soon(reader.read_body())) is not None:
                assert piece
                body += piece
            assert await soon(reader.read_body()) is None
            await soon(reader.finish())
        finally:
            reader.close()
        return bytes(body)

    async def read_bytes(self, reader: HitHandler, size: int) -> bytes:
        """Read until there is so much; for writes of which no more has been written.

        Args:
            reader: The reader.
            size: Bytes.

        Returns:
            What it read, so much exactly.
        """
        body = bytearray()
        while len(body) < size:
            piece = await soon(reader.read_body())
            assert piece
            body += piece
        assert len(body) == size
        return bytes(body)

    async def refused(self, doing: Awaitable[object], etype: ErrorKind | None = None) -> Error:
        """Do what has to fail.

        Args:
            doing: What.
            etype: The type that the error has to have; None for any.

        Returns:
            The error.

        Raises:
            AssertionError: If it does not fail.
        """
        try:
            result = await soon(doing)
        except Error as error:
            refusal = error
        else:
            msg = f"it did not fail but told {result!r}"
            raise AssertionError(msg)
        assert etype is None or refusal.etype == etype, refusal
        return refusal
