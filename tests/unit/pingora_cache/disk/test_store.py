"""The store on disk: what it promises beyond what every store has to do."""

from __future__ import annotations

import asyncio
import os
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pingora_cache.disk import DiskStorage, verify
from pingora_cache.storage import STORAGE_CLOSED, PurgeAction
from pingora_error import Error
from tests.support.cache_disk import MIB, begin, body, fill, key, meta, object_path, read, writes_in
from tests.support.clock import FakeClock
from tests.support.leaks import LeakCheck
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(autouse=True)
async def _no_leaks() -> AsyncIterator[None]:
    async with LeakCheck(collect=False):
        yield


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[DiskStorage]:
    """A store with plenty of room."""
    async with DiskStorage(tmp_path / "cache", max_bytes=1 << 30) as storage:
        yield storage


# ------------------------------------------------------------------------------- restarts


async def test_objects_outlive_the_process(tmp_path: Path) -> None:
    """They are found at once after a restart, meta and body; and so is what was purged of them."""
    sizes = {"none": 0, "small": 10, "middle": 50_000, "large": 3 * MIB + 17}
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as first:
        for name, size in sizes.items():
            await fill(first, name, body(name, size), meta(name, tags=[b"all"]))
        await fill(first, "tagged", b"x", meta(tags=[b"red"]))
        await first.purge_tag(b"red")
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as second:
        for name, size in sizes.items():
            found = await second.lookup(key(name))
            assert found is not None
            assert found[0].header.get("etag") == f'"{name}"'
            found[1].close()
            assert await read(second, name) == body(name, size)
        assert await read(second, "tagged") is None


async def test_what_was_counted_outlives_the_process(tmp_path: Path) -> None:
    """The next manager knows at once what is used."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as first:
        for number in range(20):
            await fill(first, str(number), body(number, 10_000))
        await eventually(lambda: first.stats.objects == 20)
        used = first.stats.used_bytes
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as second:
        assert (second.stats.objects, second.stats.used_bytes) == (20, used)
    assert verify(tmp_path).used_bytes == used


async def test_nobody_has_to_open_it(tmp_path: Path) -> None:
    """The first call does, whichever it is, and two at a time do it once."""
    storage = DiskStorage(tmp_path / "a" / "b", max_bytes=1 << 20)
    found = await asyncio.gather(storage.lookup(key()), storage.lookup(key()))
    assert list(found) == [None, None]
    await storage.open()
    await storage.close()


async def test_a_store_that_cannot_be_opened(tmp_path: Path) -> None:
    """Tells so at every call, and can be opened when it is mended."""
    (tmp_path / "file").write_bytes(b"")
    storage = DiskStorage(tmp_path / "file" / "cache", max_bytes=1 << 20)
    for _ in range(2):
        with pytest.raises(Error, match="FileOpenError"):
            await storage.lookup(key())
    assert storage.stats.failures == {"ENOTDIR": 2}
    (tmp_path / "file").unlink()
    assert await storage.lookup(key()) is None
    await storage.close()


async def test_a_store_that_was_never_opened(tmp_path: Path) -> None:
    """Can be closed, and then no more be opened."""
    storage = DiskStorage(tmp_path / "cache", max_bytes=1 << 20)
    await storage.close()
    with pytest.raises(Error, match=STORAGE_CLOSED.name):
        await storage.open()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_bytes": 1},
        {"stall_timeout": 0},
        {"threads": 1},
        {"ready_objects": 0},
        {"max_object_size": -1},
    ],
)
def test_numbers_out_of_range(tmp_path: Path, wrong: dict[str, int]) -> None:
    """Are refused."""
    with pytest.raises(ValueError, match="is"):
        DiskStorage(tmp_path, **{"max_bytes": 1 << 20, **wrong})  # type: ignore[arg-type]


# -------------------------------------------------------------------------------- reading


async def test_reading_in_threads(tmp_path: Path) -> None:
    """With ``read_inline`` off nothing is read on the loop, and everything is found all the same."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30, read_inline=False) as storage:
        for size in (0, 10, 20_000, 100_000, 3 * MIB):
            await fill(storage, "key", body(size, size))
            assert await read(storage, "key") == body(size, size)
            found = await storage.lookup(key())
            assert found is not None
            if size > 100:
                found[1].seek(size // 2, size // 2 + 50)
                assert await found[1].read_body() == body(size, size)[size // 2 :][:50]
            found[1].close()


async def test_a_reader_that_is_closed_while_a_thread_reads(tmp_path: Path) -> None:
    """It gets an error; the descriptor is closed when the thread is done, and by nobody twice."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30, read_inline=False) as storage:
        await fill(storage, "key", body("x", 3 * MIB))
        found = await storage.lookup(key())
        assert found is not None
        reading = asyncio.create_task(found[1].read_body())
        await asyncio.sleep(0)
        found[1].close()
        with pytest.raises(Error, match="closed while"):
            await reading


async def test_a_read_that_is_cancelled_takes_nothing_away(tmp_path: Path) -> None:
    """The next one gets what it would have got."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30, read_inline=False) as storage:
        data = body("x", 700_000)
        await fill(storage, "key", data)
        found = await storage.lookup(key())
        assert found is not None
        reading = asyncio.create_task(found[1].read_body())
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        pieces = []
        while piece := await found[1].read_body():
            pieces.append(piece)
        found[1].close()
        assert b"".join(pieces) == data


async def test_pieces_suit_a_socket(storage: DiskStorage) -> None:
    """A large body comes in blocks of 256 KiB, a small one at once."""
    for size, pieces in ((60_000, [60_000]), (MIB + 5, [MIB // 4] * 4 + [5])):
        await fill(storage, "key", body("x", size))
        found = await storage.lookup(key())
        assert found is not None
        sizes = []
        while piece := await found[1].read_body():
            sizes.append(len(piece))
        found[1].close()
        assert sizes == pieces


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("blocks", [63, 64, 65, 66, 130])
async def test_bodies_with_many_blocks(storage: DiskStorage, *, known: bool, blocks: int) -> None:
    """Sums that do not fit in front are behind; any range is found, whatever the size was said."""
    data = body("part", MIB // 4) * blocks + b"end"
    about = meta(size=len(data) if known else None)
    await fill(storage, "key", data, about, step=MIB)
    found = await storage.lookup(key())
    assert found is not None
    for start in (0, 5, MIB, len(data) - 3, len(data) - MIB):
        found[1].seek(start, start + 100)
        piece = await found[1].read_body()
        assert piece
        assert data[start : start + len(piece)] == piece
    found[1].close()
    assert await read(storage, "key") == data


async def test_a_length_that_was_wrong(storage: DiskStorage) -> None:
    """More or less than the origin said: the body is what was written."""
    for said in (0, 5, MIB, 10**14, 10**30):
        for size in (0, 7, 300_000, 3 * MIB):
            await fill(storage, "key", body(size, size), meta(size=said))
            assert await read(storage, "key") == body(size, size)


async def test_the_body_lies_as_it_is(tmp_path: Path) -> None:
    """In one piece, at a page if it is large: it can be handed from the file to a socket."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        data = body("x", MIB)
        await fill(storage, "key", data, meta(size=len(data)))
    assert object_path(tmp_path, "key").read_bytes().index(data) == 4096


# ---------------------------------------------------------------------------------- metas


async def test_metas_that_grow_and_shrink(tmp_path: Path) -> None:
    """Each is found after it was set, after a restart too; the file does not grow for ever."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        await fill(storage, "key", body("x", 100_000), meta(now=1000.0))
        first = object_path(tmp_path, "key").stat().st_size
        for number in range(60):
            about = meta(f"v{number}", now=1000.0, filler=number * 37 % 500)
            assert await storage.update_meta(key(), about)
            found = await storage.lookup(key())
            assert found is not None
            assert found[0].header.get("etag") == f'"v{number}"'
            found[1].close()
        assert object_path(tmp_path, "key").stat().st_size < first + 10_000
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        found = await storage.lookup(key())
        assert found is not None
        assert found[0].header.get("etag") == '"v59"'
        found[1].close()
        assert await read(storage, "key") == body("x", 100_000)
        await eventually(lambda: storage.stats.used_bytes == verify(tmp_path).used_bytes)


async def test_a_meta_that_grows_again_and_again(tmp_path: Path) -> None:
    """When its file has become much longer than the object, the object goes."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        await fill(storage, "key", b"x", meta(now=1000.0))
        kept = [
            await storage.update_meta(key(), meta(now=1000.0, filler=number * 1500))
            for number in range(1, 60)
        ]
        assert kept[0]
        assert not kept[-1]
        assert await read(storage, "key") is None


async def test_a_soft_purge_ends_with_the_next_meta(storage: DiskStorage) -> None:
    """What has expired is fresh again when it was confirmed; so also for tags."""
    for purging in ("key", "tag"):
        await fill(storage, "key", b"x", meta(now=time.time(), tags=[b"red"]))
        if purging == "key":
            await storage.purge(key().to_compact(), action=PurgeAction.EXPIRE)
        else:
            await storage.purge_tag(b"red", action=PurgeAction.EXPIRE)
        found = await storage.lookup(key())
        assert found is not None
        assert not found[0].is_fresh(time.time())
        found[1].close()
        confirmed = meta(now=time.time(), tags=[b"red"]).replace(created=found[0].created)
        assert await storage.update_meta(key(), confirmed)
        found = await storage.lookup(key())
        assert found is not None
        assert found[0].is_fresh(time.time())
        found[1].close()


async def test_large_metas(storage: DiskStorage) -> None:
    """A head of 100 KB is kept, and found."""
    about = meta(filler=100_000)
    await fill(storage, "key", b"x", about)
    found = await storage.lookup(key())
    assert found is not None
    assert found[0].header == about.header
    found[1].close()


# ----------------------------------------------------------------------------------- time


async def test_clocks_that_jump(tmp_path: Path) -> None:
    """Whatever the clock does, objects are found, the later write wins, purges hold."""
    clock = FakeClock(1e9)
    async with DiskStorage(tmp_path, max_bytes=1 << 30, clock=clock) as storage:
        for jump in (0.0, 1e8, -2e8, 5e8, -9e8, 0.0):
            clock.now = 1e9 + jump
            await fill(storage, "key", body(jump, 100), meta(now=clock.now, tags=[b"red"]))
            assert await read(storage, "key") == body(jump, 100)
            clock.now -= 5000
            await storage.purge_tag(b"red")
            assert await read(storage, "key") is None
            await fill(storage, "other", body(jump, 100), meta(now=clock.now))
            await storage.purge(key("other").to_compact())
            assert await read(storage, "other") is None


# --------------------------------------------------------------------------------- writes


async def test_a_small_object_is_written_at_once(tmp_path: Path) -> None:
    """Nothing is on the disk before it is complete; it is never seen in pieces."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30, sync=True) as storage:
        writer = await begin(storage, "key")
        await writer.write_body(b"small", end=True)
        assert writes_in(tmp_path) == []
        finished = await writer.finish()
        assert finished.size == 4096
        assert await read(storage, "key") == b"small"


def _is_on_disk(directory: Path, data: bytes) -> bool:
    return any(data in path.read_bytes() for path in writes_in(directory))


async def test_a_write_that_waits_is_put_on_the_disk(tmp_path: Path) -> None:
    """So that other processes find it, with all of its bytes; each time that something came."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        writer = await begin(storage, "key")
        for data in (b"one", b"two"):
            await writer.write_body(data, end=False)
            await eventually(partial(_is_on_disk, tmp_path, data))
        await writer.abort()
        assert writes_in(tmp_path) == []


async def test_a_body_byte_by_byte(storage: DiskStorage) -> None:
    """Does not become a list of a hundred thousand objects."""
    writer = await begin(storage, "key")
    data = body("x", 60_000)
    for byte in data:
        await writer.write_body(bytes([byte]), end=False)
    found = await storage.lookup(key())
    assert found is not None
    await writer.finish()
    sizes = []
    while piece := await found[1].read_body():
        sizes.append(len(piece))
    found[1].close()
    assert sum(sizes) == 60_000
    assert len(sizes) < 100
    assert await read(storage, "key") == data


async def test_a_write_that_is_cancelled_while_it_is_published(storage: DiskStorage) -> None:
    """It is published all the same, or not at all."""
    writer = await begin(storage, "key")
    await writer.write_body(body("x", 500_000), end=True)
    finishing = asyncio.create_task(writer.finish())
    await asyncio.sleep(0)
    finishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finishing
    writer.close()
    await eventually(lambda: storage.stats.writes == 1)
    assert await read(storage, "key") == body("x", 500_000)


async def test_purged_while_nothing_is_on_the_disk_yet(tmp_path: Path) -> None:
    """A write that has no file yet is met by a purge of another process too."""
    async with (
        DiskStorage(tmp_path, max_bytes=1 << 30) as one,
        DiskStorage(tmp_path, max_bytes=1 << 30) as two,
    ):
        for action in PurgeAction:
            writer = await begin(one, "key")
            await writer.write_body(b"small", end=True)
            await two.purge(key().to_compact(), action=action)
            finished = await writer.finish()
            found = await one.lookup(key())
            if action is PurgeAction.DELETE:
                assert not finished.published
                assert found is None
            else:
                assert found is not None
                assert not found[0].is_fresh(time.time())
                found[1].close()


async def test_the_directory_is_for_its_owner_only(tmp_path: Path) -> None:
    """Responses may be private to others."""
    async with DiskStorage(tmp_path / "cache", max_bytes=1 << 30) as storage:
        await fill(storage, "key", b"secret")
    for folder, _, files in os.walk(tmp_path / "cache" / "objects"):
        assert not os.stat(folder).st_mode & 0o077  # noqa: PTH116
        for file in files:
            assert not os.stat(f"{folder}/{file}").st_mode & 0o077  # noqa: PTH116
