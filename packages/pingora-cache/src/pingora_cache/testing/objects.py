"""Tests of finished objects: what was written is what is read, under its key and no other."""

from __future__ import annotations

from pingora_cache.key import CacheKey
from pingora_cache.storage import STORAGE_CLOSED
from pingora_cache.testing.harness import Harness, StorageOptions, make_body, make_key, make_meta
from pingora_cache.testing.waiting import misused, settled, soon
from pingora_error import Error

__all__ = ["ObjectTests"]

_KEYS = [
    b"",
    b"\0",
    b"\0\0",
    b"a",
    b"a\0",
    b"a/b",
    b"a\nb",
    b"../../../etc/passwd",
    b"%2e%2e",
    b"a" * 20_000,
    bytes(range(256)),
    "schl\N{LATIN SMALL LETTER U WITH DIAERESIS}ssel".encode(),
    b"{tag}",
    b"*",
]


class ObjectTests(Harness):
    """Finished objects."""

    # ----------------------------------------------------------------- writing and reading

    async def test_written_then_read(self) -> None:
        """What was written in two pieces is read back, with its meta, and then the end."""
        async with self.storage() as storage:
            meta = make_meta("one")
            writer = await self.begin(storage, meta=meta)
            await writer.write_body(b"test1", end=False)
            await writer.write_body(b"test2", end=True)
            finished = await writer.finish()
            found, reader = await self.find(storage)

            assert await self.drain(reader) == b"test1test2"
            assert finished.published
            assert finished.size == finished.total >= 10
            assert found.header == meta.header

    async def test_nothing_is_found_where_nothing_was_written(self) -> None:
        """An unknown key is nothing, and no trouble."""
        async with self.storage() as storage:
            await self.write(storage, b"x", key=make_key("other"))

            assert await storage.lookup(make_key()) is None

    async def test_empty_bodies(self) -> None:
        """An empty body is a body, whether or not anything was written."""
        async with self.storage() as storage:
            writer = await self.begin(storage, key=make_key("never"))
            await writer.finish()
            writer = await self.begin(storage, key=make_key("nothing"))
            await writer.write_body(b"", end=True)
            await writer.finish()

            for name in ("never", "nothing"):
                _, reader = await self.find(storage, make_key(name))
                assert reader.body_size == 0
                assert await self.drain(reader) == b""

    async def test_pieces_without_bytes(self) -> None:
        """Empty pieces between others change nothing, and no reader gets one."""
        async with self.storage() as storage:
            writer = await self.begin(storage)
            for data in (b"", b"a", b"", b"", b"bc", b""):
                await writer.write_body(data, end=False)
            await writer.write_body(b"", end=True)
            await writer.finish()

            assert await self.read(storage) == b"abc"

    async def test_bodies_of_all_sizes(self) -> None:
        """Bodies are whole around every power of two, up to three megabytes."""
        async with self.storage() as storage:
            sizes = [(1 << bits) + more for bits in range(4, 22, 3) for more in (-1, 0, 1)]
            for size in [*sizes, 3_000_017]:
                body = make_body(size, size)
                await self.write(storage, body)
                _, reader = await self.find(storage)

                assert reader.body_size == size
                assert await self.drain(reader) == body

    async def test_a_body_in_very_small_pieces(self) -> None:
        """A body that comes byte by byte is the same body."""
        async with self.storage() as storage:
            body = make_body("small", 700)
            await self.write(storage, body, chunk=1)

            assert await self.read(storage) == body

    async def test_a_body_in_one_very_large_piece(self) -> None:
        """A body that comes at once is the same body."""
        async with self.storage() as storage:
            body = make_body("large", 2_500_000)
            await self.write(storage, body, chunk=len(body))

            assert await self.read(storage) == body

    async def test_readers_have_their_own_position(self) -> None:
        """Two readers of one object do not take from each other."""
        async with self.storage() as storage:
            body = make_body("two", 1_000_000)
            await self.write(storage, body)
            _, first = await self.find(storage)
            begun = await first.read_body()
            _, second = await self.find(storage)

            assert begun
            assert await self.drain(second) == body
            assert begun + await self.drain(first) == body

    # -------------------------------------------------------------------------------- keys

    async def test_keys_of_any_bytes(self) -> None:
        """Keys that look like paths, patterns, or each other are keys like all others."""
        async with self.storage() as storage:
            for primary in _KEYS:
                await self.write(storage, make_body(primary, 40), key=make_key(primary))
            for primary in _KEYS:
                assert await self.read(storage, make_key(primary)) == make_body(primary, 40)

    async def test_variants_are_objects_of_their_own(self) -> None:
        """The same key with another variance, or with none, is another object."""
        async with self.storage() as storage:
            variances = [None, b"\0", b"\1", b"\xff" * 16]
            for variance in variances[:3]:
                key = make_key(variance=variance)
                await self.write(storage, make_body(variance, 40), key=key)

            for variance in variances[:3]:
                body = await self.read(storage, make_key(variance=variance))
                assert body == make_body(variance, 40)
            assert await storage.lookup(make_key(variance=variances[3])) is None

    async def test_the_user_tag_does_not_tell_objects_apart(self) -> None:
        """Who is accounted for an object plays no part in finding it."""
        async with self.storage() as storage:
            await self.write(storage, b"body", key=CacheKey("key", user_tag="a"))

            assert await self.read(storage, CacheKey("key", user_tag="b")) == b"body"
            assert await storage.purge(CacheKey("key", user_tag="c").to_compact())
            assert await storage.lookup(CacheKey("key", user_tag="a")) is None

    # -------------------------------------------------------------------------- overwriting

    async def test_the_later_object_replaces_the_earlier(self) -> None:
        """There is one object, the last one, larger or smaller."""
        async with self.storage() as storage:
            for size in (10, 500_000, 3, 70_000, 0, 300_000):
                body = make_body(("again", size), size)
                await self.write(storage, body, meta=make_meta(size))
                found, reader = await self.find(storage)

                assert found.header.get("etag") == f'"{size}"'
                assert await self.drain(reader) == body

    async def test_readers_keep_what_they_began_with(self) -> None:
        """Whoever reads an object when it is replaced reads that object to its end."""
        async with self.storage() as storage:
            bodies = [make_body(name, 800_000) for name in range(4)]
            readers = []
            for body in bodies:
                await self.write(storage, body)
                _, reader = await self.find(storage)
                readers.append((reader, await soon(reader.read_body())))

            for body, (reader, begun) in zip(bodies, readers, strict=True):
                assert begun
                assert begun + await self.drain(reader) == body

    async def test_it_is_found_as_before_until_the_next_is_finished(self) -> None:
        """A fresh object is served while another is written in its place."""
        async with self.storage() as storage:
            await self.write(storage, b"one")
            writer = await self.begin(storage)
            await writer.write_body(b"two", end=True)

            assert await self.read(storage) == b"one"
            await writer.finish()
            assert await self.read(storage) == b"two"

    # ---------------------------------------------------------------------------- handlers

    async def test_a_reader_is_closed_once_and_for_all(self) -> None:
        """Closing again is nothing; reading after it is wrong use."""
        async with self.storage() as storage:
            await self.write(storage, make_body("x", 500_000))
            _, reader = await self.find(storage)
            await reader.read_body()
            reader.close()
            reader.close()
            await reader.finish()

            await misused(reader.read_body())

    async def test_facts_about_a_finished_object(self) -> None:
        """A reader of a finished object knows its size, and counts."""
        async with self.storage() as storage:
            await self.write(storage, b"12345")
            _, reader = await self.find(storage)

            assert reader.body_size == 5
            assert not reader.is_partial
            assert reader.should_count_access
            assert reader.can_seek_multipart in {reader.can_seek, False}
            reader.close()

    async def test_wrong_use_of_a_writer(self) -> None:
        """Writing after the end and finishing twice are wrong use, and harm nothing."""
        async with self.storage() as storage:
            writer = await self.begin(storage)
            await writer.write_body(b"body", end=True)
            await misused(writer.write_body(b"more", end=False))
            await misused(writer.write_body(b"", end=True))
            await writer.finish()
            await misused(writer.finish())
            await misused(writer.write_body(b"more", end=False))
            await writer.abort()
            writer.close()

            assert await self.read(storage) == b"body"

    # ---------------------------------------------------------------------------- the store

    async def test_statistics(self) -> None:
        """Hits, misses, writes, failed writes and purges are counted."""
        async with self.storage() as storage:
            await storage.lookup(make_key())
            await self.write(storage, b"body")
            for _ in range(3):
                await self.read(storage)
            writer = await self.begin(storage, key=make_key("other"))
            await writer.abort()
            await storage.purge(make_key("nothing").to_compact())
            await storage.purge(make_key().to_compact())

            await settled(lambda: storage.stats.aborted_writes == 1)
            assert (storage.stats.hits, storage.stats.misses) == (3, 1)
            assert (storage.stats.writes, storage.stats.purges, storage.stats.errors) == (1, 1, 0)

    async def test_what_is_used_is_counted(self) -> None:
        """The numbers follow what is there, and come back to nothing."""
        self.need(self.counts, "count of what it holds")
        async with self.storage() as storage:
            assert (storage.stats.objects, storage.stats.used_bytes) == (0, 0)
            await self.write(storage, make_body(1, 10_000), key=make_key("1"))
            one = storage.stats.used_bytes
            assert one >= 10_000
            await self.write(storage, make_body(2, 10_000), key=make_key("2"))
            two = storage.stats.used_bytes
            assert storage.stats.objects == 2
            assert two >= one + 10_000
            await self.write(storage, make_body(3, 4_000), key=make_key("2"))
            assert storage.stats.objects == 2
            assert one + 4_000 <= storage.stats.used_bytes <= two - 6_000
            for name in ("1", "2"):
                assert await storage.purge(make_key(name).to_compact())
            assert (storage.stats.objects, storage.stats.used_bytes) == (0, 0)

    async def test_a_store_that_was_closed(self) -> None:
        """It refuses everything; writes have failed; readers end with all or with an error."""
        async with self.storage(StorageOptions()) as storage:
            body = make_body("closed", 700_000)
            await self.write(storage, body)
            _, reader = await self.find(storage)
            begun = await soon(reader.read_body())
            assert begun
            writer = await self.begin(storage, key=make_key("other"))
            await writer.write_body(b"some", end=False)
            await storage.close()
            await storage.close()

            await self.refused(storage.lookup(make_key()), STORAGE_CLOSED)
            await self.refused(storage.get_miss_handler(make_key(), make_meta()), STORAGE_CLOSED)
            await self.refused(storage.purge(make_key().to_compact()), STORAGE_CLOSED)
            await self.refused(storage.update_meta(make_key(), make_meta()), STORAGE_CLOSED)
            await self.refused(writer.write_body(b"more", end=True))
            await self.refused(writer.finish())
            writer.close()
            try:
                assert begun + await self.drain(reader) == body
            except Error:
                reader.close()
