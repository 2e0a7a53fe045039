"""A small store for tests of what uses stores: it can be made to fail and to wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pingora_cache.stats import StorageStats
from pingora_cache.storage import (
    WRITE_FAILED,
    Finished,
    HitHandler,
    MissHandler,
    PurgeAction,
    PurgeKind,
    PurgeResult,
    Storage,
)
from pingora_error import Error

if TYPE_CHECKING:
    from pingora_cache.key import CacheKey, CompactCacheKey
    from pingora_cache.meta import CacheMeta

__all__ = ["PlainReader", "PlainStore", "PlainWriter"]


class PlainObject:
    """A body, whole or growing.

    Attributes:
        meta: What is known about it.
        pieces: The body.
        is_ended: Whether it is whole.
        has_failed: Whether it never will be.
        is_purged: Whether it is not to be published.
        changed: Set whenever something of the above changes.
    """

    def __init__(self, meta: CacheMeta) -> None:
        self.meta = meta
        self.pieces: list[bytes] = []
        self.is_ended = False
        self.has_failed = False
        self.is_purged = False
        self.changed = asyncio.Event()

    @property
    def body(self) -> bytes:
        """All that there is."""
        return b"".join(self.pieces)

    def change(self) -> None:
        """Wake the readers."""
        self.changed.set()
        self.changed = asyncio.Event()


class PlainReader(HitHandler):
    """Reads an object."""

    def __init__(self, store: PlainStore, found: PlainObject) -> None:
        self._store = store
        self._object = found
        self._next = 0
        self._partial = not found.is_ended
        self.is_closed = False
        store.readers += 1

    async def read_body(self) -> bytes | None:
        await self._store.called("read_body")
        while True:
            if self._object.has_failed:
                raise Error(WRITE_FAILED)
            if self._next < len(self._object.pieces):
                self._next += 1
                return self._object.pieces[self._next - 1]
            if self._object.is_ended:
                return None
            await self._object.changed.wait()

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._store.readers -= 1

    async def finish(self) -> None:
        await self._store.called("finish_reading")
        self.close()

    @property
    def body_size(self) -> int | None:
        return len(self._object.body) if self._object.is_ended else None

    @property
    def is_partial(self) -> bool:
        return self._partial

    @property
    def eviction_weight(self) -> int:
        return 0 if self._partial else len(self._object.body)


class PlainWriter(MissHandler):
    """Writes an object."""

    def __init__(self, store: PlainStore, key: bytes, meta: CacheMeta) -> None:
        self._store = store
        self._key = key
        self._is_open = True
        self.object = PlainObject(meta)
        store.writers += 1

    async def write_body(self, data: bytes, *, end: bool) -> None:
        await self._store.called("write_body")
        if data:
            self.object.pieces.append(data)
        self.object.change()

    async def finish(self) -> Finished:
        await self._store.called("finish")
        written = self.object
        written.is_ended = True
        written.change()
        self._leave()
        if written.is_purged:
            return Finished(0, 0, published=False)
        self._store.objects[self._key] = written
        await self._store.called("published")
        size = len(written.body)
        return Finished(size, size + (100 if self._store.appends else 0))

    async def abort(self) -> None:
        await self._store.called("abort")
        self.close()

    def close(self) -> None:
        if self._is_open:
            self.object.has_failed = True
            self.object.change()
            self._leave()

    def _leave(self) -> None:
        self._is_open = False
        self._store.writers -= 1
        self._store.writing.remove((self._key, self))

    @property
    def streaming_write_tag(self) -> bytes | None:
        return str(id(self)).encode() if self._store.supports_streaming_partial_write else None


class PlainStore(Storage):
    """Keeps everything for ever.

    Args:
        streaming: Whether readers may follow a write.

    Attributes:
        objects: What can be found, by combined hash.
        writing: What is being written.
        readers: Readers that are open.
        writers: Writers that are open.
        calls: What was called, in order.
        faults: What the next call of a name raises; removed by it.
        gates: What calls of a name wait for.
        loses_writes: Whether writes that go on are not found.
        appends: Whether a write says that it added to an object that was there.
    """

    def __init__(self, *, streaming: bool = False) -> None:
        self.objects: dict[bytes, PlainObject] = {}
        self.writing: list[tuple[bytes, PlainWriter]] = []
        self.readers = 0
        self.writers = 0
        self.calls: list[str] = []
        self.faults: dict[str, BaseException] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.loses_writes = False
        self.appends = False
        self._streaming = streaming
        self._stats = StorageStats()

    async def called(self, name: str) -> None:
        """Do what was arranged for a call.

        Args:
            name: Its name.
        """
        self.calls.append(name)
        gate = self.gates.get(name)
        if gate is not None:
            await gate.wait()
        if name in self.faults:
            raise self.faults.pop(name)

    def gate(self, name: str) -> asyncio.Event:
        """Let calls wait.

        Args:
            name: Their name.

        Returns:
            What they wait for.
        """
        return self.gates.setdefault(name, asyncio.Event())

    def put(self, key: CacheKey, meta: CacheMeta, *pieces: bytes) -> None:
        """Have an object.

        Args:
            key: Its key.
            meta: What is known about it.
            pieces: Its body.
        """
        whole = PlainObject(meta)
        whole.pieces = list(pieces)
        whole.is_ended = True
        self.objects[key.combined_hash] = whole

    async def close(self) -> None:
        self.objects.clear()

    async def lookup(self, key: CacheKey) -> tuple[CacheMeta, HitHandler] | None:
        await self.called("lookup")
        found = self.objects.get(key.combined_hash)
        if found is None and self._streaming:
            for hashed, writer in reversed(self.writing):
                if hashed == key.combined_hash and not writer.object.is_purged:
                    found = writer.object
        return None if found is None else (found.meta, PlainReader(self, found))

    async def lookup_streaming_write(
        self, key: CacheKey, tag: bytes | None
    ) -> tuple[CacheMeta, HitHandler] | None:
        await self.called("lookup_streaming_write")
        for _, writer in self.writing:
            if writer.streaming_write_tag == tag and not self.loses_writes:
                reader = PlainReader(self, writer.object)
                await self.called("found_streaming_write")
                return writer.object.meta, reader
        return None

    @property
    def supports_streaming_partial_write(self) -> bool:
        return self._streaming

    async def get_miss_handler(self, key: CacheKey, meta: CacheMeta) -> MissHandler:
        await self.called("get_miss_handler")
        writer = PlainWriter(self, key.combined_hash, meta)
        self.writing.append((key.combined_hash, writer))
        return writer

    async def update_meta(self, key: CacheKey, meta: CacheMeta) -> bool:
        await self.called("update_meta")
        found = self.objects.get(key.combined_hash)
        if found is None or found.meta.created != meta.created:
            return False
        found.meta = meta
        return True

    async def purge(
        self,
        key: CompactCacheKey,
        *,
        kind: PurgeKind = PurgeKind.INVALIDATION,
        action: PurgeAction = PurgeAction.DELETE,
    ) -> PurgeResult:
        await self.called("purge")
        hashed = key.combined_hash
        met = False
        if kind is PurgeKind.INVALIDATION:
            for written, writer in self.writing:
                if written == hashed:
                    writer.object.is_purged = met = True
        if action is PurgeAction.EXPIRE:
            found = self.objects.get(hashed)
            if found is not None:
                found.meta = found.meta.expired(found.meta.updated)
                return PurgeResult.EXPIRED
        elif self.objects.pop(hashed, None) is not None:
            met = True
        return PurgeResult.PURGED if met else PurgeResult.NOT_FOUND

    async def purge_tag(
        self, tag: bytes, *, action: PurgeAction = PurgeAction.DELETE
    ) -> int | None:
        await self.called("purge_tag")
        tagged = [key for key, found in self.objects.items() if tag in found.meta.tags]
        for key in tagged:
            del self.objects[key]
        return len(tagged)

    @property
    def stats(self) -> StorageStats:
        return self._stats
