"""Tests of stores that are full: they stay within their limit, and what is found is whole."""

from __future__ import annotations

import contextlib
import random
from typing import Final

from pingora_cache.key import CacheKey
from pingora_cache.meta import CacheMeta
from pingora_cache.testing.harness import Harness, StorageOptions, make_body, make_key, make_meta
from pingora_cache.testing.waiting import settled, soon
from pingora_error import Error
from pingora_http import ResponseHeader

__all__ = ["PressureTests"]

_MAX: Final = 4_000_000
_OPTIONS: Final = StorageOptions(max_bytes=_MAX)


class PressureTests(Harness):
    """Bounds."""

    async def test_more_than_there_is_room_for(self) -> None:
        """Old objects go, the limit is kept, and whatever is found is whole."""
        self.need(self.bounded, "limit")
        async with self.storage(_OPTIONS) as storage:
            for number in range(80):
                await self.write(storage, make_body(number, 100_000), key=make_key(str(number)))
                if self.counts:
                    await settled(lambda: storage.stats.used_bytes <= _MAX)
            found = 0
            for number in range(80):
                body = await self.read(storage, make_key(str(number)))
                assert body in {None, make_body(number, 100_000)}
                found += body is not None

            assert 10 <= found <= 40
            assert storage.stats.evictions + found >= 80
            assert storage.stats.evicted_bytes >= 40 * 100_000

    async def test_heads_are_not_free(self) -> None:
        """Objects without a body take room too."""
        self.need(self.bounded, "limit")
        async with self.storage(_OPTIONS) as storage:
            fields = [("X-Long", "x" * 20_000)]
            meta = make_meta().replace(header=ResponseHeader(200, headers=fields))
            for number in range(300):
                await self.write(storage, b"", key=make_key(str(number)), meta=meta)
            await settled(lambda: storage.stats.evictions >= 100)
            found = [await self.read(storage, make_key(str(number))) for number in range(300)]

            assert 20 <= sum(body is not None for body in found) <= 200

    async def test_readers_of_what_is_evicted(self) -> None:
        """They read on to the end; what they hold is part of what is used."""
        self.need(self.bounded, "limit")
        async with self.storage(_OPTIONS) as storage:
            readers = []
            for number in range(4):
                key = make_key(str(number))
                await self.write(storage, make_body(number, 500_000), key=key)
                _, reader = await self.find(storage, key)
                readers.append((reader, await soon(reader.read_body())))
            for number in range(4, 40):
                try:
                    await self.write(storage, make_body(number, 400_000), key=make_key(str(number)))
                except Error:
                    # There may be no room for as long as all is in use.
                    continue
                finally:
                    if self.counts:
                        assert storage.stats.used_bytes <= _MAX

            for number, (reader, begun) in enumerate(readers):
                assert begun
                assert begun + await self.drain(reader) == make_body(number, 500_000)
            await self.write(storage, b"room again", key=make_key("last"))

    async def test_unfinished_writes_take_room(self) -> None:
        """Many large writes at once exceed nothing: some are refused, the others are whole."""
        self.need(self.bounded, "limit")
        async with self.storage(_OPTIONS) as storage:
            await self.write(storage, make_body("before", 100_000), key=make_key("before"))
            writers = {str(n): await self.begin(storage, key=make_key(str(n))) for n in range(10)}
            for turn in range(10):
                for name, writer in list(writers.items()):
                    try:
                        data = make_body((name, turn), 100_000)
                        await soon(writer.write_body(data, end=False))
                    except Error:
                        writer.close()
                        del writers[name]
                    if self.counts:
                        assert storage.stats.used_bytes <= _MAX
            for writer in writers.values():
                with contextlib.suppress(Error):
                    await soon(writer.finish())

            for name in map(str, range(10)):
                body = await self.read(storage, make_key(name))
                if body is not None:
                    assert body == b"".join(make_body((name, turn), 100_000) for turn in range(10))

    async def test_nothing_is_counted_that_cannot_be_found(self) -> None:
        """After any number of writes, failures, purges and evictions the books are right."""
        self.need(self.bounded and self.counts, "count of what it holds")
        chance = random.Random(7)  # noqa: S311  # the same in each run
        async with self.storage(_OPTIONS) as storage:
            keys = [make_key(str(number)) for number in range(30)]
            for turn in range(300):
                key = chance.choice(keys)
                match chance.randrange(4):
                    case 0:
                        await storage.purge(key.to_compact())
                    case 1:
                        writer = await self.begin(storage, key=key)
                        await writer.write_body(make_body(turn, 50_000), end=True)
                        await writer.abort()
                    case _:
                        size = chance.choice([0, 100, 5_000, 300_000])
                        await self.write(storage, make_body(turn, size), key=key)
            assert storage.stats.used_bytes <= _MAX
            found = [await self.read(storage, key) for key in keys]
            bodies = [body for body in found if body is not None]
            await settled(lambda: storage.stats.objects == len(bodies))
            assert storage.stats.used_bytes >= sum(map(len, bodies))
            for key in keys:
                await storage.purge(key.to_compact())
            assert (storage.stats.objects, storage.stats.used_bytes) == (0, 0)

    async def test_what_is_asked_for_often_stays(self) -> None:
        """A few objects that everybody wants survive a flood of others that nobody does."""
        self.need(self.bounded, "limit")
        async with self.storage(_OPTIONS) as storage:
            popular = [make_key(f"popular {number}") for number in range(4)]
            for key in popular:
                await self.write(storage, make_body("p", 50_000), key=key)
            kept = 0
            for number in range(150):
                for key in popular:
                    if await self.read(storage, key) is None:
                        await self.write(storage, make_body("p", 50_000), key=key)
                    else:
                        kept += 1
                await self.write(storage, make_body(number, 50_000), key=CacheKey(str(number)))

            assert kept >= 500

    async def test_a_meta_that_grows(self) -> None:
        """It is counted as it is now."""
        self.need(self.counts, "count of what it holds")
        async with self.storage() as storage:
            await self.write(storage, b"body")
            before = storage.stats.used_bytes
            old, reader = await self.find(storage)
            reader.close()
            header = ResponseHeader(200, headers=[("X-Long", "x" * 10_000)])
            meta = CacheMeta(header, created=old.created, fresh_until=old.fresh_until)
            assert await storage.update_meta(make_key(), meta)

            assert storage.stats.used_bytes >= before + 9_000
            await storage.purge(make_key().to_compact())
            assert storage.stats.used_bytes == 0
