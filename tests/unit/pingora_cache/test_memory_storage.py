"""The store in memory: what it promises beyond what every store has to do."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache.memory import MemoryStorage
from pingora_cache.storage import WRITE_FAILED, WRITE_STALLED, PurgeAction
from pingora_cache.testing.harness import make_body, make_key, make_meta
from pingora_error import Error
from tests.support.cache_memory import MB, begin, drain, find, used, write
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable


# ------------------------------------------------------------------------- the original's tests


async def test_write_then_read() -> None:
    """Two writes are read back as one piece, and then the end; the meta is equal."""
    storage = MemoryStorage(MB)
    meta = make_meta()
    writer = await storage.get_miss_handler(make_key(), meta)
    await writer.write_body(b"test1", end=False)
    await writer.write_body(b"test2", end=False)
    await writer.finish()
    found = await storage.lookup(make_key())

    assert found is not None
    assert found[0].header == meta.header
    assert await found[1].read_body() == b"test1test2"
    assert await found[1].read_body() is None


async def test_read_range() -> None:
    """A range beyond the end is refused; others are read, in any order."""
    storage = MemoryStorage(MB)
    await write(storage, b"test1test2")
    reader = await find(storage)

    with pytest.raises(Error):
        reader.seek(10_000)
    reader.seek(5)
    assert await reader.read_body() == b"test2"
    assert await reader.read_body() is None
    reader.seek(4, 5)
    assert await reader.read_body() == b"1"
    assert await reader.read_body() is None


async def test_the_whole_body_of_a_small_object_is_there_at_once() -> None:
    """It comes from its beginning, wherever reading is, until the reader is closed."""
    storage = MemoryStorage(MB)
    await write(storage, b"test1test2")
    reader = await find(storage)

    reader.seek(5)
    assert reader.whole_body() == b"test1test2"
    assert await reader.read_body() == b"test2"
    assert reader.whole_body() == b"test1test2"
    reader.close()
    assert reader.whole_body() is None


@pytest.mark.parametrize("finished", [True, False])
async def test_no_other_body_is_there_at_once(finished: bool) -> None:
    """A large object is read in its pieces, and so is one that is still being written."""
    storage = MemoryStorage(MB)
    writer = await begin(storage)
    await writer.write_body(bytes(10_000), end=False)
    if finished:
        await writer.finish()
    reader = await find(storage)

    assert reader.whole_body() is None
    reader.close()
    writer.close()


async def test_write_while_read() -> None:
    """A reader waits until bytes come; a second one gets all so far; both see the end."""
    storage = MemoryStorage(MB)
    writer = await begin(storage)
    first = await find(storage)
    reading = asyncio.create_task(first.read_body())
    await asyncio.sleep(0)
    assert not reading.done()
    await writer.write_body(b"test1", end=False)
    assert await reading == b"test1"
    await writer.write_body(b"test2", end=False)
    second = await find(storage)
    assert await second.read_body() == b"test1test2"
    assert await first.read_body() == b"test2"
    await writer.finish()

    assert await first.read_body() is None
    assert await second.read_body() is None


async def test_purge_partial() -> None:
    """A purge removes an object that is being written; finishing it later is no trouble."""
    storage = MemoryStorage(MB)
    writer = await begin(storage)
    (await find(storage)).close()

    assert await storage.purge(make_key().to_compact())
    assert await storage.lookup(make_key()) is None
    assert not (await writer.finish()).published


async def test_purge_complete() -> None:
    """A purge removes a finished object."""
    storage = MemoryStorage(MB)
    await write(storage, b"test1test2")
    (await find(storage)).close()

    assert await storage.purge(make_key().to_compact())
    assert await storage.lookup(make_key()) is None


# -------------------------------------------------------------------------------------- reading


async def test_large_bodies_are_never_copied() -> None:
    """Each reader gets the same few pieces, those who followed the write too."""
    storage = MemoryStorage(10 * MB)
    body = make_body("large", 1 << 20)
    writer = await begin(storage)
    follower = await find(storage)
    for start in range(0, len(body), 65_536):
        await writer.write_body(body[start : start + 65_536], end=False)
    await writer.finish()
    first, second = await drain(await find(storage)), await drain(await find(storage))

    assert len(first) == 4
    assert all(one is other for one, other in zip(first, second, strict=True))
    assert all(one is other for one, other in zip(first, await drain(follower), strict=True))


@settings(max_examples=60)
@given(st.data())
def test_any_range_of_any_body(data: st.DataObject) -> None:
    """Every range is the slice."""
    size = data.draw(st.sampled_from([1, 10, 4096, 4097, 262_144, 262_145, 700_001]))
    body = make_body("range", size)

    async def check() -> None:
        storage = MemoryStorage(10 * MB)
        await write(storage, body)
        reader = await find(storage)
        for _ in range(5):
            start = data.draw(st.integers(0, size - 1))
            end = data.draw(st.none() | st.integers(start + 1, 2 * size))
            reader.seek(start, end)
            pieces = []
            while (piece := await reader.read_body()) is not None:
                pieces.append(piece)
            assert b"".join(pieces) == body[start:end]
        reader.close()

    asyncio.run(check())


async def test_metas_are_read_anew_when_they_are_not_kept_ready() -> None:
    """Of few objects the meta is ready; the others are found all the same."""
    storage = MemoryStorage(MB, ready_objects=2)
    for number in range(5):
        await write(storage, b"%d" % number, str(number))
    for _ in range(2):
        for number in range(5):
            found = await storage.lookup(make_key(str(number)))
            assert found is not None
            assert found[0].header.get("etag") == f'"{number}"'
            assert await drain(found[1]) == [b"%d" % number]

    assert len(storage._objects._ready) == 2


async def test_a_closed_reader_knows_no_size() -> None:
    """It has let go of everything; forgetting to close it is no harm either."""
    storage = MemoryStorage(10 * MB)
    for size in (10, 500_000):
        await write(storage, bytes(size))
        reader = await find(storage)
        assert reader.body_size == size
        assert reader.eviction_weight >= size
        reader.close()
        assert reader.body_size == 0
        forgotten = await find(storage)
        del forgotten
        gc.collect()

    assert not storage._objects._open


# ----------------------------------------------------------------------------------- who gets what


async def test_who_finds_which_write() -> None:
    """The one that began last, unless it was purged or has stalled; what is fresh goes before."""
    clock = FakeClock(time.time())
    storage = MemoryStorage(MB, clock=clock)
    writers = [await begin(storage) for _ in range(3)]
    for number, writer in enumerate(writers):
        await writer.write_body(b"%d" % number, end=False)
    assert await (await find(storage)).read_body() == b"2"
    await writers[2].abort()
    assert await (await find(storage)).read_body() == b"1"
    await writers[0].finish()
    assert await (await find(storage)).read_body() == b"0"
    clock.advance(4000.0)
    assert await (await find(storage)).read_body() == b"1"
    next(iter(storage._filling._by_tag.values())).body._progress -= 1000.0
    assert await (await find(storage)).read_body() == b"0"
    await writers[1].abort()


async def test_a_stalled_write_is_over() -> None:
    """It was given up by those who waited; the writer hears of it, and nothing is published."""
    storage = MemoryStorage(MB, stall_timeout=0.01)
    writer = await begin(storage)
    reader = await find(storage)
    with pytest.raises(Error) as caught:
        await reader.read_body()
    assert caught.value.etype == WRITE_STALLED
    with pytest.raises(Error) as told:
        await writer.write_body(b"late", end=True)
    assert told.value.etype == WRITE_STALLED
    with pytest.raises(Error):
        await writer.finish()

    assert await storage.lookup(make_key()) is None
    assert storage.stats.aborted_writes == 1
    assert used(storage) == 0


async def test_an_error_tells_what_happened() -> None:
    """The reader of a write that was given up is told so."""
    storage = MemoryStorage(MB)
    writer = await begin(storage)
    reader = await find(storage)
    del writer
    with pytest.raises(Error, match="gave up") as caught:
        await reader.read_body()

    assert caught.value.etype == WRITE_FAILED


async def test_a_meta_is_not_shared_with_its_writer() -> None:
    """What the writer does to its meta afterwards is not seen by those who find the object."""
    storage = MemoryStorage(MB)
    meta = make_meta()
    writer = await storage.get_miss_handler(make_key(), meta)
    meta.header.insert_header("X-Late", "1")
    for _ in range(2):
        found = await storage.lookup(make_key())
        assert found is not None
        assert found[0].header.get("x-late") is None
        await writer.finish() if found[1].is_partial else None


# --------------------------------------------------------------------------------------- purging


async def test_a_purge_by_tag_is_swept_up() -> None:
    """Soon nothing of it is in memory, and nothing is remembered about it."""
    storage = MemoryStorage(10 * MB)
    for number in range(500):
        meta = make_meta(number, tags=[b"a", b"b"] if number % 2 else [b"b"])
        writer = await storage.get_miss_handler(make_key(str(number)), meta)
        await writer.write_body(b"body", end=True)
        await writer.finish()
    await storage.purge_tag(b"b", action=PurgeAction.EXPIRE)
    await storage.purge_tag(b"a")
    await eventually(lambda: not storage._objects.purges)

    assert storage.stats.objects == 250
    found = await storage.lookup(make_key("0"))
    assert found is not None
    assert not found[0].is_fresh(time.time())
    assert await storage.lookup(make_key("1")) is None
    await storage.close()


async def test_the_older_of_two_soft_purges() -> None:
    """An object that was made to expire twice has expired; a sweep changes nothing about it."""
    clock = FakeClock(time.time())
    storage = MemoryStorage(MB, clock=clock)
    writer = await storage.get_miss_handler(make_key(), make_meta(tags=[b"a"]))
    await writer.finish()
    for _ in range(2):
        await storage.purge(make_key().to_compact(), action=PurgeAction.EXPIRE)
        await storage.purge_tag(b"a", action=PurgeAction.EXPIRE)
        found = await storage.lookup(make_key())
        assert found is not None
        assert found[0].fresh_until == clock() - 1.0
        clock.advance(5.0)
    await eventually(lambda: not storage._objects.purges)
    found = await storage.lookup(make_key())

    assert found is not None
    assert not found[0].is_fresh(clock())
    await storage.close()


async def test_closing_while_it_sweeps() -> None:
    """Nothing goes on behind."""
    storage = MemoryStorage(MB)
    await write(storage, b"body")
    await storage.purge_tag(b"a")
    await storage.close()

    assert storage._sweeper._timer is None
    assert (storage.stats.objects, used(storage)) == (0, 0)


async def test_a_reader_of_a_store_that_was_closed() -> None:
    """It reads on; the store forgets it when it is done."""
    storage = MemoryStorage(10 * MB)
    await write(storage, bytes(300_000))
    reader = await find(storage)
    await storage.close()

    assert used(storage) == 300_000
    assert b"".join(await drain(reader)) == bytes(300_000)
    assert used(storage) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: MemoryStorage(0),
        lambda: MemoryStorage(1, ready_objects=0),
        lambda: MemoryStorage(1, stall_timeout=0.0),
        lambda: MemoryStorage(1, max_object_size=-1),
    ],
)
def test_numbers_out_of_range(make: Callable[[], MemoryStorage]) -> None:
    """They are told at once."""
    with pytest.raises(ValueError, match="is"):
        make()


async def test_what_a_purge_by_tag_removes_is_counted() -> None:
    """Looked for or swept, each once; what was purged twice over as well."""
    storage = MemoryStorage(1_000_000)
    for number in range(50):
        tags = (b"a", b"b") if number % 2 else (b"c",)
        meta = make_meta(tags=list(tags))
        writer = await storage.get_miss_handler(make_key(str(number)), meta)
        await writer.finish()
    await storage.purge_tag(b"a")
    await storage.purge_tag(b"b")
    assert await storage.lookup(make_key("1")) is None
    assert storage.stats.tag_purged == 1

    await eventually(lambda: storage.stats.objects == 25, "the walk")
    assert storage.stats.tag_purged == 25
    await storage.close()
