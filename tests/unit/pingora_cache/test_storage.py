"""The interfaces of stores: what they do for a store that overrides no more than it has to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_cache.stats import StorageStats
from pingora_cache.storage import (
    Finished,
    HitHandler,
    MissHandler,
    PurgeAction,
    PurgeKind,
    PurgeResult,
    Storage,
)
from pingora_cache.testing.harness import make_key, make_meta

if TYPE_CHECKING:
    from pingora_cache.key import CacheKey, CompactCacheKey
    from pingora_cache.meta import CacheMeta


class _Reader(HitHandler):
    closed = 0

    async def read_body(self) -> bytes | None:
        return None

    def close(self) -> None:
        self.closed += 1

    @property
    def body_size(self) -> int | None:
        return 0


class _Writer(MissHandler):
    closed = 0

    async def write_body(self, data: bytes, *, end: bool) -> None:
        raise NotImplementedError

    async def finish(self) -> Finished:
        return Finished(1, 2)

    def close(self) -> None:
        self.closed += 1


class _Store(Storage):
    def __init__(self) -> None:
        self.calls: list[str] = []

    async def close(self) -> None:
        self.calls.append("close")

    async def lookup(self, key: CacheKey) -> tuple[CacheMeta, HitHandler] | None:
        return make_meta(key.primary), _Reader()

    async def get_miss_handler(self, key: CacheKey, meta: CacheMeta) -> MissHandler:
        return _Writer()

    async def update_meta(self, key: CacheKey, meta: CacheMeta) -> bool:
        return False

    async def purge(
        self,
        key: CompactCacheKey,
        *,
        kind: PurgeKind = PurgeKind.INVALIDATION,
        action: PurgeAction = PurgeAction.DELETE,
    ) -> PurgeResult:
        return PurgeResult.NOT_FOUND

    async def purge_tag(
        self, tag: bytes, *, action: PurgeAction = PurgeAction.DELETE
    ) -> int | None:
        return 0

    @property
    def stats(self) -> StorageStats:
        return StorageStats()


async def test_a_reader_that_can_do_nothing_special() -> None:
    """It counts as an access, weighs nothing, cannot seek, and is closed by finishing."""
    reader = _Reader()

    assert (reader.can_seek, reader.can_seek_multipart) == (False, False)
    assert (reader.is_partial, reader.should_count_access) == (False, True)
    assert reader.eviction_weight == 0
    with pytest.raises(RuntimeError, match="_Reader cannot seek"):
        reader.seek(0, 1)
    await reader.finish()
    assert reader.closed == 1


async def test_a_writer_that_can_do_nothing_special() -> None:
    """It has no tag, and is closed by aborting."""
    writer = _Writer()
    await writer.abort()

    assert writer.closed == 1
    assert writer.streaming_write_tag is None


async def test_a_store_that_can_do_nothing_special() -> None:
    """It does not stream, looks up whatever the tag, and works as a context manager."""
    async with _Store() as store:
        assert not store.supports_streaming_partial_write
        found = await store.lookup_streaming_write(make_key(), b"tag")
        assert found is not None
        assert found[0].header.get("etag") == f'"{make_key().primary!r}"'
        assert store.calls == []

    assert store.calls == ["close"]


def test_whether_a_purge_met_anything() -> None:
    """The result is true if it did."""
    assert [bool(result) for result in PurgeResult] == [False, True, True]


def test_a_finished_write_is_published_unless_it_says_otherwise() -> None:
    """That is the common case."""
    assert Finished(1, 1).published
