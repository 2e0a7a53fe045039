"""The suite for stores finds what it is for: each of these mistakes, made in a good store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_cache.memory import MemoryStorage, _filling, _hits, _miss, _objects, _writes
from pingora_cache.storage import PurgeResult
from pingora_cache.testing import StorageSuite, waiting
from pingora_error import Error

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from pingora_cache.key import CompactCacheKey
    from pingora_cache.meta import CacheMeta
    from pingora_cache.storage import Storage
    from pingora_cache.testing import StorageOptions


class Suite(StorageSuite):
    """Not collected by itself."""

    def make_storage(self, options: StorageOptions) -> AbstractAsyncContextManager[Storage]:
        return MemoryStorage(
            options.max_bytes or 100_000_000,
            max_object_size=options.max_object_size,
            stall_timeout=options.stall_timeout or 60.0,
        )


def _failure_is_an_end(patch: pytest.MonkeyPatch) -> None:
    read = _hits.PartialHit.read_body

    async def read_body(self: _hits.PartialHit) -> bytes | None:
        try:
            return await read(self)
        except Error:
            return None

    patch.setattr(_hits.PartialHit, "read_body", read_body)


def _seek_keeps_the_end(patch: pytest.MonkeyPatch) -> None:
    seek = _hits.SmallHit.seek

    def careless(self: _hits.SmallHit, start: int, end: int | None = None) -> None:
        before = self._end
        seek(self, start, end)
        if end is None:
            self._end = before

    patch.setattr(_hits.SmallHit, "seek", careless)


def _purge_leaves_writes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_filling.Filling, "purge", lambda *_: False)


def _purge_by_tag_leaves_writes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_filling.Filling, "purge_tag", lambda *_: False)


def _heads_are_free(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_writes, "weigh", lambda *_: 0)


def _a_meta_for_any_body(patch: pytest.MonkeyPatch) -> None:
    update = _objects.Objects.update

    def careless(self: _objects.Objects, slot: bytes, meta: CacheMeta) -> bool:
        entry = self.get(slot)
        created = meta.created if entry is None else entry.meta.created
        return update(self, slot, meta.replace(created=created))

    patch.setattr(_objects.Objects, "update", careless)


def _the_earlier_write_wins(patch: pytest.MonkeyPatch) -> None:
    put = _objects.Objects.put

    def careless(self: _objects.Objects, write: _writes.Write) -> bool:
        return self.get(write.slot) is not None or put(self, write)

    patch.setattr(_objects.Objects, "put", careless)


def _given_up_but_published(patch: pytest.MonkeyPatch) -> None:
    def close(self: _miss.MemoryMiss) -> None:
        write, self._write = self._write, None
        if write is not None and write.active:
            self._filling.publish(write)

    patch.setattr(_miss.MemoryMiss, "close", close)


def _soft_purge_is_hard(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_objects.Objects, "expire", lambda self, slot, now: self.remove(slot))


def _evicting_stops_writes(patch: pytest.MonkeyPatch) -> None:
    async def purge(self: MemoryStorage, key: CompactCacheKey, **_: object) -> PurgeResult:
        slot = key.combined_hash
        self._filling.purge(slot, lambda write: setattr(write, "deleted", True))
        return PurgeResult.PURGED if self._objects.remove(slot) else PurgeResult.NOT_FOUND

    patch.setattr(MemoryStorage, "purge", purge)


_MISTAKES: list[tuple[Callable[[pytest.MonkeyPatch], None], str]] = [
    (_failure_is_an_end, "test_the_writer_gives_up"),
    (_failure_is_an_end, "test_a_writer_that_nobody_holds_any_more"),
    (_failure_is_an_end, "test_one_write_fails_and_the_other_goes_on"),
    (_failure_is_an_end, "test_random_histories"),
    (_seek_keeps_the_end, "test_a_range_without_end_goes_to_the_end"),
    (_purge_leaves_writes, "test_purging_during_a_write"),
    (_purge_leaves_writes, "test_a_write_that_begins_after_the_purge"),
    (_purge_leaves_writes, "test_a_soft_purge_during_a_write"),
    (_purge_leaves_writes, "test_random_histories"),
    (_purge_by_tag_leaves_writes, "test_purging_by_tag_during_a_write"),
    (_purge_by_tag_leaves_writes, "test_random_histories"),
    (_heads_are_free, "test_heads_are_not_free"),
    (_a_meta_for_any_body, "test_a_meta_does_not_get_a_body_that_is_not_its_own"),
    (_the_earlier_write_wins, "test_two_writes_of_one_key_do_not_mix"),
    (_the_earlier_write_wins, "test_the_later_object_replaces_the_earlier"),
    (_given_up_but_published, "test_a_write_that_is_given_up"),
    (_given_up_but_published, "test_a_writer_that_nobody_holds"),
    (_given_up_but_published, "test_what_was_there_stays"),
    (_soft_purge_is_hard, "test_a_soft_purge"),
    (_evicting_stops_writes, "test_evicting_does_not_stop_a_write"),
]


@pytest.mark.parametrize(
    ("mistake", "test"),
    _MISTAKES,
    ids=lambda each: each if isinstance(each, str) else each.__name__,
)
async def test_a_mistake_is_found(
    mistake: Callable[[pytest.MonkeyPatch], None], test: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that makes it does not pass."""
    monkeypatch.setattr(waiting, "_PATIENCE", 0.3)
    mistake(monkeypatch)
    with pytest.raises((AssertionError, Error, TimeoutError)):
        await getattr(Suite(), test)()
