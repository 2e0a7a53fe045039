"""Tests of purging: what was purged is not found again, and nobody who reads is disturbed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pingora_cache.storage import PurgeAction, PurgeKind, PurgeResult
from pingora_cache.testing.harness import Harness, make_body, make_key, make_meta
from pingora_cache.testing.waiting import settled, soon

if TYPE_CHECKING:
    from pingora_cache.key import CacheKey
    from pingora_cache.storage import Storage

__all__ = ["PurgingTests"]


async def _purge(
    storage: Storage,
    key: CacheKey | None = None,
    *,
    kind: PurgeKind = PurgeKind.INVALIDATION,
    action: PurgeAction = PurgeAction.DELETE,
) -> PurgeResult:
    compact = (key or make_key()).to_compact()
    return await soon(storage.purge(compact, kind=kind, action=action))


class PurgingTests(Harness):
    """Purging by key and by tag."""

    async def _is_fresh(self, storage: Storage, key: CacheKey | None = None) -> bool:
        meta, reader = await self.find(storage, key)
        reader.close()
        return meta.is_fresh(time.time())

    # ------------------------------------------------------------------------------- by key

    async def test_an_object_is_purged(self) -> None:
        """It is gone, once; purging nothing is no trouble."""
        async with self.storage() as storage:
            assert await _purge(storage) is PurgeResult.NOT_FOUND
            await self.write(storage, make_body("x", 400_000))
            assert await _purge(storage) is PurgeResult.PURGED
            assert await storage.lookup(make_key()) is None
            assert not await _purge(storage)
            assert not await storage.update_meta(make_key(), make_meta())

    async def test_only_what_is_named_is_purged(self) -> None:
        """Not the other variants, and not the object without a variance."""
        async with self.storage() as storage:
            keys = [make_key(), make_key(variance=b"a"), make_key(variance=b"b")]
            for key in keys:
                await self.write(storage, b"body", key=key)
            assert await _purge(storage, keys[1])

            assert await storage.lookup(keys[1]) is None
            assert await self.read(storage, keys[0]) == b"body"
            assert await self.read(storage, keys[2]) == b"body"
            assert await _purge(storage, keys[0])
            assert await self.read(storage, keys[2]) == b"body"

    async def test_readers_are_not_disturbed(self) -> None:
        """Whoever reads an object when it is purged reads it to its end."""
        async with self.storage() as storage:
            for size in (10, 900_000):
                body = make_body("read", size)
                await self.write(storage, body)
                _, idle = await self.find(storage)
                _, busy = await self.find(storage)
                begun = await soon(busy.read_body())
                assert begun
                assert await _purge(storage)

                assert begun + await self.drain(busy) == body
                assert await self.drain(idle) == body

    async def test_purging_during_a_write(self) -> None:
        """It completes for those who read it, finishes without an error, and is not published."""
        async with self.storage() as storage:
            streams = storage.supports_streaming_partial_write
            writer = await self.begin(storage)
            await writer.write_body(b"before", end=False)
            readers = [(await self.find(storage))[1]] if streams else []
            result = await _purge(storage)
            assert await storage.lookup(make_key()) is None
            await writer.write_body(b"after", end=True)
            finished = await soon(writer.finish())

            if streams:
                assert result is PurgeResult.PURGED
            assert not finished.published
            assert await storage.lookup(make_key()) is None
            for reader in readers:
                assert await self.drain(reader) == b"beforeafter"
            if self.counts:
                assert (storage.stats.objects, storage.stats.used_bytes) == (0, 0)

    async def test_purging_between_the_last_byte_and_the_finish(self) -> None:
        """It counts as during the write."""
        async with self.storage() as storage:
            writer = await self.begin(storage)
            await writer.write_body(b"body", end=True)
            await _purge(storage)
            assert not (await soon(writer.finish())).published
            assert await storage.lookup(make_key()) is None

    async def test_a_write_that_begins_after_the_purge(self) -> None:
        """It is published, and an older one that finishes later does not take its place."""
        async with self.storage() as storage:
            old = await self.begin(storage)
            await old.write_body(b"old", end=False)
            await _purge(storage)
            new = await self.begin(storage)
            await new.write_body(b"new", end=True)
            assert (await soon(new.finish())).published
            assert not (await soon(old.finish())).published

            assert await self.read(storage) == b"new"

    async def test_purging_an_object_and_the_write_of_the_next(self) -> None:
        """Neither is found afterwards."""
        async with self.storage() as storage:
            await self.write(storage, b"one", meta=make_meta(fresh=-10.0))
            writer = await self.begin(storage)
            await writer.write_body(b"two", end=True)
            assert await _purge(storage) is PurgeResult.PURGED
            assert await storage.lookup(make_key()) is None
            await writer.finish()

            assert await storage.lookup(make_key()) is None

    async def test_evicting_does_not_stop_a_write(self) -> None:
        """What an eviction manager removes is the object that it knew."""
        async with self.storage() as storage:
            await self.write(storage, b"one")
            writer = await self.begin(storage)
            await writer.write_body(b"two", end=True)
            assert await _purge(storage, kind=PurgeKind.EVICTION)
            assert (await soon(writer.finish())).published

            assert await self.read(storage) == b"two"

    # --------------------------------------------------------------------------- soft purges

    async def test_a_soft_purge(self) -> None:
        """The object is found, has expired, and is fresh again when it was confirmed."""
        async with self.storage() as storage:
            assert await _purge(storage, action=PurgeAction.EXPIRE) is PurgeResult.NOT_FOUND
            await self.write(storage, b"body", meta=make_meta("e"))
            assert await self._is_fresh(storage)
            assert await _purge(storage, action=PurgeAction.EXPIRE) is PurgeResult.EXPIRED
            meta, reader = await self.find(storage)

            assert not meta.is_fresh(time.time())
            assert meta.header.get("etag") == '"e"'
            assert await self.drain(reader) == b"body"
            confirmed = make_meta("e", created=meta.created).replace(updated=time.time())
            assert await storage.update_meta(make_key(), confirmed)
            assert await self._is_fresh(storage)

    async def test_a_soft_purge_during_a_revalidation(self) -> None:
        """What was confirmed before the purge, and is told after it, has expired."""
        async with self.storage() as storage:
            names = [b"a"] if self.has_tags else []
            for by_tag in (False, True)[: 1 + self.has_tags]:
                await self.write(storage, b"body", meta=make_meta("e", tags=names))
                meta, reader = await self.find(storage)
                reader.close()
                confirmed = meta.replace(updated=time.time(), fresh_until=time.time() + 60)
                if by_tag:
                    await soon(storage.purge_tag(b"a", action=PurgeAction.EXPIRE))
                else:
                    await _purge(storage, action=PurgeAction.EXPIRE)
                await storage.update_meta(make_key(), confirmed)

                assert not await self._is_fresh(storage)

    async def test_what_a_purge_said_of_variants(self) -> None:
        """It is found with the object."""
        async with self.storage() as storage:
            await self.write(storage, b"body", meta=make_meta("e"))
            meta, reader = await self.find(storage)
            reader.close()
            assert await storage.update_meta(make_key(), meta.replace(variants_expired=1e9))
            told, reader = await self.find(storage)
            reader.close()

            assert told.variants_expired == 1e9

    async def test_a_soft_purge_during_a_write(self) -> None:
        """It is published, and has expired."""
        async with self.storage() as storage:
            writer = await self.begin(storage)
            await writer.write_body(b"body", end=False)
            await _purge(storage, action=PurgeAction.EXPIRE)
            await writer.write_body(b"", end=True)
            assert (await soon(writer.finish())).published

            assert not await self._is_fresh(storage)
            assert await self.read(storage) == b"body"

    # ------------------------------------------------------------------------------- by tag

    async def test_purging_by_tag(self) -> None:
        """All objects with the tag are gone, and no others, however similar their tags."""
        self.need(self.has_tags, "tags")
        tags = [(b"a",), (b"a", b"b"), (b"b",), (b"ab",), (b"A",), (), (b"c", b"a\0", b"a")]
        async with self.storage() as storage:
            for number, names in enumerate(tags):
                meta = make_meta(number, tags=names)
                await self.write(storage, b"body", key=make_key(str(number)), meta=meta)
            assert await soon(storage.purge_tag(b"a")) in {3, None}

            for number, names in enumerate(tags):
                body = await self.read(storage, make_key(str(number)))
                assert body == (None if b"a" in names else b"body")
            assert await soon(storage.purge_tag(b"a")) in {0, None}
            assert await soon(storage.purge_tag(b"nothing has it")) in {0, None}

    async def test_tags_of_any_bytes(self) -> None:
        """A tag is a string of bytes and nothing else."""
        self.need(self.has_tags, "tags")
        tags = [b"\0", b"\xff\xfe", b"a b", b"*", b"../x", b"t" * 1000, b"{x}", b"\r\n"]
        async with self.storage() as storage:
            for tag in tags:
                await self.write(storage, tag, key=make_key(tag), meta=make_meta(tags=[tag]))
            for number, tag in enumerate(tags):
                await soon(storage.purge_tag(tag))
                for other in tags[number + 1 :]:
                    assert await self.read(storage, make_key(other)) == other
                assert await storage.lookup(make_key(tag)) is None

    async def test_an_object_written_after_its_tag_was_purged(self) -> None:
        """It is found: a purge meets what is there, not what comes."""
        self.need(self.has_tags, "tags")
        async with self.storage() as storage:
            for turn in range(3):
                await self.write(storage, b"body", meta=make_meta(turn, tags=[b"a"]))
                assert await self.read(storage) == b"body"
                await soon(storage.purge_tag(b"a"))
                assert await storage.lookup(make_key()) is None

    async def test_purging_by_tag_during_a_write(self) -> None:
        """Writes of objects with the tag are not published, others are."""
        self.need(self.has_tags, "tags")
        async with self.storage() as storage:
            tagged = await self.begin(storage, key=make_key("1"), meta=make_meta(tags=[b"a"]))
            other = await self.begin(storage, key=make_key("2"), meta=make_meta(tags=[b"b"]))
            await soon(storage.purge_tag(b"a"))
            for writer in (tagged, other):
                await writer.write_body(b"body", end=True)
            assert not (await soon(tagged.finish())).published
            assert (await soon(other.finish())).published

            assert await storage.lookup(make_key("1")) is None
            assert await self.read(storage, make_key("2")) == b"body"

    async def test_a_soft_purge_by_tag(self) -> None:
        """What has the tag has expired, until it is confirmed or written anew."""
        self.need(self.has_tags, "tags")
        async with self.storage() as storage:
            keys = [make_key(str(number)) for number in range(3)]
            for key in keys:
                await self.write(storage, b"body", key=key, meta=make_meta(tags=[b"a", b"b"]))
            writer = await self.begin(storage, meta=make_meta(tags=[b"a"]))
            await soon(storage.purge_tag(b"a", action=PurgeAction.EXPIRE))
            await writer.write_body(b"body", end=True)
            await writer.finish()

            for key in [*keys, make_key()]:
                assert not await self._is_fresh(storage, key)
                assert await self.read(storage, key) == b"body"
            meta, reader = await self.find(storage, keys[0])
            reader.close()
            confirmed = make_meta(created=meta.created, tags=[b"a"]).replace(updated=time.time())
            assert await storage.update_meta(keys[0], confirmed)
            await self.write(storage, b"again", key=keys[1], meta=make_meta(tags=[b"a"]))
            assert [await self._is_fresh(storage, key) for key in keys] == [True, True, False]
            await soon(storage.purge_tag(b"b"))
            assert await storage.lookup(keys[2]) is None

    async def test_the_tags_of_a_new_meta(self) -> None:
        """They take the place of those of the old one."""
        self.need(self.has_tags, "tags")
        async with self.storage() as storage:
            await self.write(storage, b"body", meta=make_meta(tags=[b"old"]))
            meta, reader = await self.find(storage)
            reader.close()
            changed = make_meta(created=meta.created, tags=[b"new"])
            assert await storage.update_meta(make_key(), changed)

            await soon(storage.purge_tag(b"old"))
            assert await self.read(storage) == b"body"
            await soon(storage.purge_tag(b"new"))
            assert await storage.lookup(make_key()) is None

    async def test_what_is_purged_by_tag_takes_no_room_for_ever(self) -> None:
        """Sooner or later it is not counted any more, though nobody looks for it."""
        self.need(self.has_tags and self.counts, "count of what it holds")
        async with self.storage() as storage:
            for number in range(20):
                key = make_key(str(number))
                tags = [b"a"] if number % 2 else [b"b"]
                await self.write(storage, b"body", key=key, meta=make_meta(tags=tags))
            await soon(storage.purge_tag(b"a"))
            await settled(lambda: storage.stats.objects == 10)

            for number in range(20):
                body = await self.read(storage, make_key(str(number)))
                assert body == (None if number % 2 else b"body")

    # -------------------------------------------------------------------- several processes

    async def test_purging_from_another_process(self) -> None:
        """What was purged there is not found here, nor published when it is finished."""
        async with self.storage() as storage, self.second(storage) as other:
            await self.write(storage, b"body")
            assert await self.read(other) == b"body"
            assert await _purge(other) is PurgeResult.PURGED
            assert await storage.lookup(make_key()) is None
            writer = await self.begin(storage)
            await writer.write_body(b"body", end=True)
            await _purge(other)

            assert not (await soon(writer.finish())).published
            assert await storage.lookup(make_key()) is None
            assert await other.lookup(make_key()) is None

    async def test_purging_by_tag_from_another_process(self) -> None:
        """It meets what was written here."""
        async with self.storage() as storage, self.second(storage) as other:
            self.need(self.has_tags, "tags")
            await self.write(storage, b"body", meta=make_meta(tags=[b"a"]))
            await soon(other.purge_tag(b"a"))

            assert await storage.lookup(make_key()) is None
