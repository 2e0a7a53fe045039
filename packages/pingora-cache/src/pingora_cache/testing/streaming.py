"""Tests of reading while writing: everyone gets all of it, or hears that it failed."""

from __future__ import annotations

import asyncio
import gc
import warnings
from typing import TYPE_CHECKING

from pingora_cache.testing.failing import ways_to_die
from pingora_cache.testing.harness import Harness, StorageOptions, make_body, make_key, make_meta
from pingora_cache.testing.waiting import misused, settled, soon
from pingora_error import Error

if TYPE_CHECKING:
    from pingora_cache.storage import HitHandler, MissHandler, Storage

__all__ = ["StreamingTests"]


class StreamingTests(Harness):
    """Streaming partial writes."""

    async def _follow(self, storage: Storage, writer: MissHandler) -> HitHandler:
        found = await soon(storage.lookup_streaming_write(make_key(), writer.streaming_write_tag))
        assert found is not None
        return found[1]

    # ----------------------------------------------------------------------------- reading

    async def test_a_reader_waits_for_bytes(self) -> None:
        """It gets them as they come, and the end when it comes."""
        async with self.streaming() as storage:
            writer = await self.begin(storage, meta=make_meta("m"))
            meta, reader = await self.find(storage)
            reading = asyncio.create_task(reader.read_body())
            await asyncio.sleep(0.01)
            assert not reading.done()
            await writer.write_body(b"test1", end=False)
            assert await soon(reading) == b"test1"
            await writer.write_body(b"test2", end=False)
            assert await soon(reader.read_body()) == b"test2"
            _, second = await self.find(storage)
            assert await self.read_bytes(second, 10) == b"test1test2"
            await writer.finish()

            assert await soon(reader.read_body()) is None
            assert await soon(second.read_body()) is None
            assert meta.header == make_meta("m").header
            reader.close()
            second.close()

    async def test_readers_that_begin_at_different_moments(self) -> None:
        """Before the first byte, between, after the last, and after the finish: all get all."""
        async with self.streaming() as storage:
            body = make_body("moments", 2_000_003)
            writer = await self.begin(storage)
            readings = []

            async def come() -> None:
                _, reader = await self.find(storage)
                readings.append(asyncio.create_task(self.drain(reader)))

            await come()
            for number, start in enumerate(range(0, len(body), 30_011)):
                await writer.write_body(body[start : start + 30_011], end=False)
                if number % 9 == 0:
                    await come()
                    await asyncio.sleep(0)
            await writer.write_body(b"", end=True)
            await come()
            await writer.finish()
            await come()

            assert len(readings) > 5
            for reading in readings:
                assert await soon(reading) == body

    async def test_facts_about_a_partial_object(self) -> None:
        """A reader of one knows that it is, does not count, and does not know the size."""
        async with self.streaming() as storage:
            writer = await self.begin(storage)
            await writer.write_body(b"12345", end=False)
            _, reader = await self.find(storage)

            assert reader.is_partial
            assert reader.body_size is None
            assert reader.eviction_weight == 0
            assert not reader.should_count_access
            await writer.finish()
            assert await self.drain(reader) == b"12345"

    async def test_a_slow_reader_does_not_hold_up_the_writer(self) -> None:
        """Megabytes are written while a reader has taken one piece, and it gets all of them."""
        async with self.streaming() as storage:
            body = make_body("slow", 6_000_000)
            writer = await self.begin(storage)
            await writer.write_body(body[:100], end=False)
            _, slow = await self.find(storage)
            assert await self.read_bytes(slow, 100) == body[:100]
            for start in range(100, len(body), 65_536):
                await soon(writer.write_body(body[start : start + 65_536], end=False))
            await soon(writer.finish())

            assert await self.read(storage) == body
            assert await self.drain(slow) == body[100:]

    async def test_a_read_that_is_cancelled_takes_nothing_away(self) -> None:
        """The next read goes on where the last one that ended had come to."""
        async with self.streaming() as storage:
            writer = await self.begin(storage)
            await writer.write_body(b"one", end=False)
            _, reader = await self.find(storage)
            assert await self.read_bytes(reader, 3) == b"one"
            for _ in range(3):
                reading = asyncio.create_task(reader.read_body())
                await asyncio.sleep(0.005)
                reading.cancel()
                await asyncio.wait([reading])
            await writer.write_body(b"two", end=True)
            await writer.finish()

            assert await self.drain(reader) == b"two"

    async def test_a_reader_that_is_closed_while_it_waits(self) -> None:
        """Its read ends with an error, and the writer goes on."""
        async with self.streaming() as storage:
            writer = await self.begin(storage)
            _, reader = await self.find(storage)
            reading = asyncio.create_task(reader.read_body())
            await asyncio.sleep(0.01)
            reader.close()

            await self.refused(reading)
            await misused(reader.read_body())
            await writer.write_body(b"body", end=True)
            await writer.finish()
            assert await self.read(storage) == b"body"

    async def test_a_reader_outlives_its_object(self) -> None:
        """Published, replaced, and purged: who followed the write reads that write."""
        async with self.streaming() as storage:
            body = make_body("outlive", 900_000)
            writer = await self.begin(storage)
            await writer.write_body(body[:400_000], end=False)
            reader = await self._follow(storage, writer)
            begun = await self.read_bytes(reader, 400_000)
            await writer.write_body(body[400_000:], end=True)
            await writer.finish()
            await self.write(storage, b"another")
            await storage.purge(make_key().to_compact())

            assert begun + await self.drain(reader) == body

    # ----------------------------------------------------------------------------- failing

    async def test_the_writer_gives_up(self) -> None:
        """No reader sees a clean end: neither who waits, nor who is behind, nor who comes next."""
        for die in ways_to_die():
            for size in (0, 5, 900_000):
                async with self.streaming() as storage:
                    body = make_body("dies", size)
                    writer = await self.begin(storage)
                    await writer.write_body(body, end=False)
                    _, waits = await self.find(storage)
                    _, behind = await self.find(storage)
                    assert await self.read_bytes(waits, size) == body
                    waiting = asyncio.create_task(waits.read_body())
                    await asyncio.sleep(0.005)
                    await die(writer)

                    await self.refused(waiting)
                    await self.refused(waits.read_body())
                    await self._never_ends(behind, body)
                    assert await soon(storage.lookup(make_key())) is None
                    waits.close()

    async def _never_ends(self, reader: HitHandler, body: bytes) -> None:
        # What was written before may still be read; then there is an error, and not an end.
        seen = b""
        try:
            while True:
                piece = await soon(reader.read_body())
                assert piece, "a clean end of a write that failed"
                seen += piece
        except Error:
            assert body.startswith(seen)
        finally:
            reader.close()

    async def test_a_writer_that_nobody_holds_any_more(self) -> None:
        """Its readers get an error when it is collected as garbage."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            async with self.streaming() as storage:
                writer = await self.begin(storage)
                await writer.write_body(b"some", end=False)
                _, reader = await self.find(storage)
                assert await self.read_bytes(reader, 4) == b"some"
                reading = asyncio.create_task(reader.read_body())
                await asyncio.sleep(0.005)
                del writer
                gc.collect()

                await self.refused(reading)
                reader.close()

    async def test_a_writer_that_makes_no_progress(self) -> None:
        """Readers do not wait for ever; if the write goes on after all, it is whole or nothing."""
        async with self.streaming(StorageOptions(stall_timeout=0.05)) as storage:
            writer = await self.begin(storage)
            await writer.write_body(b"some", end=False)
            _, reader = await self.find(storage)
            assert await self.read_bytes(reader, 4) == b"some"
            await self.refused(reader.read_body())
            reader.close()
            try:
                await writer.write_body(b"more", end=True)
                await writer.finish()
            except Error:
                assert await self.read(storage) is None
            else:
                assert await self.read(storage) == b"somemore"
            finally:
                writer.close()

    async def test_a_writer_that_is_slow_but_alive(self) -> None:
        """Progress, and not the duration, is what counts."""
        async with self.streaming(StorageOptions(stall_timeout=1.0)) as storage:
            writer = await self.begin(storage)
            _, reader = await self.find(storage)
            reading = asyncio.create_task(self.drain(reader))
            for _ in range(30):
                await writer.write_body(b"x", end=False)
                await asyncio.sleep(0.04)
            await writer.finish()

            assert await soon(reading) == b"x" * 30

    async def test_the_store_is_closed(self) -> None:
        """Readers that wait for a writer get an error."""
        async with self.streaming() as storage:
            writer = await self.begin(storage)
            _, reader = await self.find(storage)
            reading = asyncio.create_task(reader.read_body())
            await asyncio.sleep(0.005)
            await storage.close()

            await self.refused(reading)
            reader.close()
            writer.close()

    # ------------------------------------------------------------------------ several writes

    async def test_two_writes_of_one_key_do_not_mix(self) -> None:
        """Each has readers of its own, each reads its own, and the later finish wins."""
        async with self.streaming() as storage:
            bodies = [make_body(("mix", number), 700_000) for number in range(2)]
            writers = [await self.begin(storage, meta=make_meta(number)) for number in range(2)]
            readings = []
            for writer in writers:
                reader = await self._follow(storage, writer)
                readings.append(asyncio.create_task(self.drain(reader)))
            for start in range(0, 700_000, 50_000):
                for writer, body in zip(writers, bodies, strict=True):
                    await writer.write_body(body[start : start + 50_000], end=False)
                    await asyncio.sleep(0)
            await writers[1].finish()
            assert await self.read(storage) in bodies
            await writers[0].finish()

            assert [await soon(reading) for reading in readings] == bodies
            found, reader = await self.find(storage)
            assert found.header.get("etag") == '"0"'
            assert await self.drain(reader) == bodies[0]

    async def test_one_write_fails_and_the_other_goes_on(self) -> None:
        """Readers of the one get an error, those of the other all of it."""
        async with self.streaming() as storage:
            writers = [await self.begin(storage) for _ in range(2)]
            readers = [await self._follow(storage, writer) for writer in writers]
            for writer in writers:
                await writer.write_body(b"body", end=False)
            await writers[0].abort()
            await writers[1].finish()

            await self._never_ends(readers[0], b"body")
            assert await self.drain(readers[1]) == b"body"
            assert await self.read(storage) == b"body"

    async def test_a_write_is_found_by_its_tag(self) -> None:
        """Exactly it, as long as it goes on, also when it was purged; other tags find nothing."""
        async with self.streaming() as storage:
            writers = [await self.begin(storage, meta=make_meta(number)) for number in range(3)]
            tags = [writer.streaming_write_tag for writer in writers]
            assert len(set(tags)) == 3
            assert None not in tags
            await storage.purge(make_key().to_compact())
            for number, tag in enumerate(tags):
                found = await soon(storage.lookup_streaming_write(make_key(), tag))
                assert found is not None
                assert found[0].header.get("etag") == f'"{number}"'
                found[1].close()
            other = await soon(storage.lookup_streaming_write(make_key("other"), tags[0]))
            assert other is None
            for writer in writers:
                await writer.abort()
            assert await soon(storage.lookup_streaming_write(make_key(), tags[0])) is None
            assert await soon(storage.lookup_streaming_write(make_key(), b"?")) is None

    async def test_without_a_tag_it_is_a_lookup(self) -> None:
        """What is found is what ``lookup`` finds."""
        async with self.streaming() as storage:
            assert await soon(storage.lookup_streaming_write(make_key(), None)) is None
            await self.write(storage, b"body")
            found = await soon(storage.lookup_streaming_write(make_key(), None))
            assert found is not None
            assert await self.drain(found[1]) == b"body"

    async def test_who_comes_while_an_expired_object_is_replaced(self) -> None:
        """They join the write; a fresh object is found as it is, since a write may fail."""
        async with self.streaming() as storage:
            for fresh, expected in ((3600.0, b"old"), (-10.0, b"new")):
                await self.write(storage, b"old", meta=make_meta("old", fresh=fresh))
                writer = await self.begin(storage)
                await writer.write_body(b"new", end=False)
                _, reader = await self.find(storage)
                assert await self.read_bytes(reader, 3) == expected
                reader.close()
                await writer.abort()
                assert await self.read(storage) == b"old"

    # -------------------------------------------------------------------- several processes

    async def test_a_write_is_followed_from_another_process(self) -> None:
        """A reader there gets the bytes as they come, and all of them."""
        async with self.streaming() as storage, self.second(storage) as other:
            body = make_body("far", 1_000_000)
            writer = await self.begin(storage)
            await writer.write_body(body[:300_000], end=False)
            _, reader = await self.find_soon(other)
            begun = await self.read_bytes(reader, 300_000)
            await writer.write_body(body[300_000:], end=True)
            await writer.finish()

            assert begun + await self.drain(reader) == body
            assert await self.read(other) == body

    async def test_a_write_fails_in_another_process(self) -> None:
        """A reader here gets an error, and not an end."""
        async with self.streaming() as storage, self.second(storage) as other:
            writer = await self.begin(other)
            await writer.write_body(b"some", end=False)
            _, reader = await self.find_soon(storage)
            assert await self.read_bytes(reader, 4) == b"some"
            reading = asyncio.create_task(reader.read_body())
            await asyncio.sleep(0.01)
            await writer.abort()

            await self.refused(reading)
            reader.close()
            await settled(lambda: other.stats.aborted_writes == 1)
            assert await self.read(storage) is None
