"""The room of the store in memory: what is counted, what has to go, and what is refused."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest

from pingora_cache.key import CacheKey
from pingora_cache.memory import MemoryStorage
from pingora_cache.meta import CACHE_META_ERROR
from pingora_cache.storage import RESPONSE_TOO_LARGE, STORAGE_CLOSED, STORAGE_FULL
from pingora_cache.testing.harness import make_key, make_meta
from pingora_error import Error
from pingora_http import ResponseHeader
from tests.support.cache_memory import MB, FirstIn, begin, bodies, drain, find, read, used, write
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pingora_cache.storage import MissHandler


async def test_what_is_counted() -> None:
    """Body, meta, tags and overhead, from the first byte written to the end."""
    storage = MemoryStorage(MB)
    writer = await begin(storage)
    base = used(storage)
    assert 400 < base < 1000
    await writer.write_body(bytes(50_000), end=False)
    assert used(storage) == base + 50_000
    finished = await writer.finish()

    assert finished.size == finished.total == used(storage) == base + 50_000
    assert (await find(storage)).eviction_weight == base + 50_000


async def test_a_body_that_is_read_is_counted_until_the_last_reader_is_done() -> None:
    """However its object was removed; what a purged write has written as well."""
    storage = MemoryStorage(10 * MB)
    await write(storage, bytes(500_000))
    readers = [await find(storage) for _ in range(2)]
    await write(storage, b"")
    small = used(storage)
    assert small > 500_000
    readers[0].close()
    assert used(storage) == small
    readers[1].close()
    assert used(storage) == small - 500_000

    writer = await begin(storage, "purged")
    await writer.write_body(bytes(300_000), end=False)
    follower = await find(storage, "purged")
    await storage.purge(make_key("purged").to_compact())
    await writer.finish()
    assert used(storage) == small - 500_000 + 300_000
    follower.close()
    assert used(storage) == small - 500_000


async def test_a_write_that_was_given_up_at_its_end_is_counted_while_it_is_read() -> None:
    """Its readers get all of it, since it was complete."""
    storage = MemoryStorage(10 * MB)
    writer = await begin(storage)
    follower = await find(storage)
    await writer.write_body(bytes(300_000), end=True)
    writer.close()
    assert used(storage) == 300_000

    assert b"".join(await drain(follower)) == bytes(300_000)
    assert used(storage) == 0
    assert await storage.lookup(make_key()) is None


async def test_a_write_that_follows_its_reader_into_the_store() -> None:
    """Who followed the write and who found the object share the body; then it is evicted."""
    storage = MemoryStorage(10 * MB)
    writer = await begin(storage)
    follower = await find(storage)
    await writer.write_body(bytes(300_000), end=True)
    await writer.finish()
    reader = await find(storage)
    before = used(storage)
    await storage.purge(make_key().to_compact())
    assert before > used(storage) == 300_000
    reader.close()
    assert used(storage) == 300_000

    assert b"".join(await drain(follower)) == bytes(300_000)
    assert used(storage) == 0


async def test_no_room_because_all_is_in_use() -> None:
    """The write that wants more fails, and the others go on."""
    storage = MemoryStorage(MB)
    first, second = await begin(storage, "1"), await begin(storage, "2")
    await first.write_body(bytes(600_000), end=False)
    with pytest.raises(Error) as caught:
        await second.write_body(bytes(600_000), end=True)
    assert caught.value.etype == STORAGE_FULL
    with pytest.raises(Error):
        await second.finish()
    await first.write_body(b"", end=True)
    assert (await first.finish()).published

    reader = await find(storage, "1")
    third = await begin(storage, "3")
    await storage.purge(make_key("1").to_compact())
    with pytest.raises(Error):
        await third.write_body(bytes(600_000), end=True)
    reader.close()
    await write(storage, bytes(600_000), "4")


async def test_evicting_what_is_read_makes_no_room() -> None:
    """It is tried, since nobody knows what else could go; then the write is refused."""
    storage = MemoryStorage(MB)
    await write(storage, bytes(600_000), "1")
    reader = await find(storage, "1")
    with pytest.raises(Error) as caught:
        await write(storage, bytes(600_000), "2")
    assert caught.value.etype == STORAGE_FULL
    assert used(storage) == 600_000
    assert b"".join(await drain(reader)) == bytes(600_000)
    await write(storage, bytes(600_000), "2")

    assert used(storage) < 602_000


async def test_no_room_to_begin_with() -> None:
    """A head that does not fit is refused before anything is written."""
    tiny = MemoryStorage(300)
    with pytest.raises(Error) as caught:
        await begin(tiny)
    assert caught.value.etype == RESPONSE_TOO_LARGE
    storage = MemoryStorage(MB)
    writer = await begin(storage)
    await writer.write_body(bytes(930_000), end=False)
    writers: list[MissHandler] = []

    async def fill() -> None:
        while True:
            writers.append(await begin(storage))

    with pytest.raises(Error) as full:
        await fill()

    assert full.value.etype == STORAGE_FULL
    assert used(storage) <= MB


async def test_heads_that_cannot_be_kept() -> None:
    """They are refused before anything is written, or changed."""
    storage = MemoryStorage(10 * MB)
    await write(storage, b"body")
    found = await storage.lookup(make_key())
    assert found is not None
    meta = found[0].replace(header=ResponseHeader(200, headers=[("X", "")] * 300))
    with pytest.raises(Error) as caught:
        await storage.get_miss_handler(make_key(), meta)
    assert caught.value.etype == CACHE_META_ERROR
    with pytest.raises(Error):
        await storage.update_meta(make_key(), meta)

    assert await read(storage) == b"body"


async def test_an_eviction_manager_of_ones_own() -> None:
    """It hears of what is found, stored and removed, and decides what is to go."""
    manager = FirstIn(50_000)
    storage = MemoryStorage(MB, eviction=manager)
    for number in range(10):
        await write(storage, bytes(10_000), str(number))
    assert manager.total_size <= 50_000
    assert [key in manager.sizes for key in (make_key("0").to_compact(),)] == [False]
    assert await storage.lookup(make_key("0")) is None
    assert await read(storage, "9") == bytes(10_000)
    assert manager.accessed == [make_key("9").to_compact()]
    await storage.purge(make_key("9").to_compact())

    assert make_key("9").to_compact() not in manager.sizes
    assert storage.stats.objects == manager.total_items
    assert used(storage) == manager.total_size
    assert storage.stats.evictions == 10 - manager.total_items - 1


async def test_an_eviction_manager_that_refuses() -> None:
    """What it would not have is not published; who followed the write has all of it."""
    manager = FirstIn(50_000)
    manager.refused.add(make_key().to_compact())
    storage = MemoryStorage(MB, eviction=manager)
    writer = await begin(storage)
    follower = await find(storage)
    await writer.write_body(bytes(20_000), end=True)
    finished = await writer.finish()

    assert (finished.size, finished.total, finished.published) == (0, 0, False)
    assert await storage.lookup(make_key()) is None
    assert used(storage) == 20_000
    assert b"".join(await drain(follower)) == bytes(20_000)
    assert used(storage) == 0


async def test_a_meta_that_grows_makes_others_go() -> None:
    """The limit holds whatever is changed."""
    storage = MemoryStorage(100_000, eviction=FirstIn(100_000))
    names = [str(number) for number in range(100)]
    for name in names:
        await write(storage, b"", name)
    count = storage.stats.objects
    found = await storage.lookup(make_key("99"))
    assert found is not None
    header = ResponseHeader(200, headers=[("X-Long", "x" * 60_000)])
    assert await storage.update_meta(make_key("99"), found[0].replace(header=header))

    assert storage.stats.objects < count
    assert used(storage) <= 100_000


async def test_an_object_goes_over_to_another_account() -> None:
    """The manager knows it under the user tag that it was written with last."""
    manager = FirstIn(MB)
    storage = MemoryStorage(MB, eviction=manager)
    for tag in ("one", "two"):
        key = CacheKey("key", user_tag=tag)
        writer = await storage.get_miss_handler(key, make_meta())
        await writer.finish()

    assert list(manager.sizes) == [CacheKey("key", user_tag="two").to_compact()]


async def test_a_writer_that_is_kept_keeps_no_body() -> None:
    """Nor does a reader that was closed: what was evicted is gone, whoever holds its handlers."""
    storage = MemoryStorage(10 * MB)
    writer = await begin(storage)
    follower = await find(storage)
    await writer.write_body(bytes(300_123), end=True)
    await writer.finish()
    reader = await find(storage)
    await storage.purge(make_key().to_compact())
    assert bodies(300_123) == 1
    for handler in (follower, reader):
        handler.close()

    assert bodies(300_123) == 0
    assert writer.streaming_write_tag


async def test_very_large_bodies_are_freed_in_small_steps() -> None:
    """They count until they are gone, or somebody needs the room; what failed does too."""
    storage = MemoryStorage(60 * MB)
    body = bytes(20 * MB)
    for doing in ("purge", "release", "fail"):
        writer = await begin(storage)
        reader = await find(storage)
        await writer.write_body(body, end=False)
        if doing == "fail":
            writer.close()
        else:
            await writer.finish()
            if doing == "purge":
                reader.close()
            await storage.purge(make_key().to_compact())
        reader.close()
        assert used(storage) > 19 * MB
        await eventually(lambda: used(storage) == 0)

    for _ in range(4):
        await write(storage, body)
        await storage.purge(make_key().to_compact())
        assert 19 * MB < used(storage) <= 60 * MB
    await storage.close()
    assert used(storage) == 0


async def test_a_large_piece_makes_room_in_several_turns() -> None:
    """Thousands of small objects that go for one piece go by some hundred in each turn."""
    storage = MemoryStorage(4 * MB)
    for number in range(4000):
        await write(storage, b"", f"small {number}")
    before = storage.stats.objects
    assert before > 3000
    counts = [before]
    writer = await begin(storage, "large")

    async def write_large() -> None:
        await writer.write_body(bytes(3 * MB), end=True)
        await writer.finish()

    writing = asyncio.create_task(write_large())
    while not writing.done():
        await asyncio.sleep(0)
        counts.append(storage.stats.objects)

    await writing
    assert max(earlier - later for earlier, later in itertools.pairwise(counts)) <= 2 * 256
    assert before - counts[-1] > 1000
    assert used(storage) <= 4 * MB
    assert len(await read(storage, "large")) == 3 * MB


async def test_a_write_that_fails_while_it_makes_room() -> None:
    """A purge of everything, or the end of the store, is noticed between the turns."""
    storage = MemoryStorage(4 * MB)
    for number in range(4000):
        await write(storage, b"", f"small {number}")
    writer = await begin(storage, "large")
    writing = asyncio.create_task(writer.write_body(bytes(3 * MB), end=True))
    await asyncio.sleep(0)
    await storage.close()

    with pytest.raises(Error) as failure:
        await writing
    assert failure.value.etype == STORAGE_CLOSED
    assert used(storage) == 0


async def test_a_large_store_is_closed_in_several_turns() -> None:
    """Its objects are gone at once, and their memory is freed in parts."""
    storage = MemoryStorage(4 * MB)
    for number in range(2000):
        await write(storage, b"", f"small {number}")
    turns = 0

    closing = asyncio.create_task(storage.close())
    await asyncio.sleep(0)
    assert storage.stats.objects == used(storage) == 0
    while not closing.done():
        await asyncio.sleep(0)
        turns += 1

    await closing
    assert turns > 256
