"""Room: what is counted, what is evicted, and who has to wait."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from pingora_cache.disk import DiskStorage, verify
from pingora_cache.eviction import SimpleLru
from pingora_cache.storage import RESPONSE_TOO_LARGE, STORAGE_FULL
from pingora_error import Error
from tests.support.cache_disk import begin, body, fill, key, meta, object_path, read, writes_in
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

_MAX = 2_000_000


def _bytes_in(directory: Path) -> int:
    total = 0
    for path in [*directory.glob("objects/*/*/*"), *writes_in(directory)]:
        with contextlib.suppress(FileNotFoundError):
            total += -(-path.stat().st_size // 4096) * 4096
    return total


async def _counted(storage: DiskStorage, objects: int) -> None:
    # Until the manager has done so.
    def is_counted() -> bool:
        storage._shop.nudge()
        return storage.stats.objects == objects

    await eventually(is_counted)


async def test_it_stays_within_the_limit(tmp_path: Path) -> None:
    """At every moment, while much more is written than there is room for, by several at once."""

    async def write(who: int) -> None:
        for number in range(12):
            await fill(storage, f"{who} {number}", body((who, number), 60_000), step=7_000)

    async with DiskStorage(tmp_path, max_bytes=_MAX) as storage:
        writing = [asyncio.create_task(write(who)) for who in range(4)]
        most = 0
        while not all(task.done() for task in writing):
            most = max(most, _bytes_in(tmp_path))
            await asyncio.sleep(0.002)
        await asyncio.gather(*writing)
        assert most <= _MAX
        await eventually(lambda: storage.stats.used_bytes == verify(tmp_path).used_bytes)
        assert storage.stats.evictions > 10
        assert storage.stats.objects > 15


async def test_what_is_used_stays(tmp_path: Path) -> None:
    """Across a restart too: the list of the eviction manager is saved."""
    async with DiskStorage(tmp_path, max_bytes=_MAX, eviction=SimpleLru(_MAX)) as storage:
        for number in range(20):
            await fill(storage, str(number), body(number, 40_000))
            await _counted(storage, number + 1)
        for number in range(5):
            await read(storage, str(number))
    async with DiskStorage(tmp_path, max_bytes=_MAX, eviction=SimpleLru(_MAX)) as storage:
        for number in range(20, 45):
            await fill(storage, str(number), body(number, 40_000))
        await eventually(lambda: storage.stats.used_bytes == verify(tmp_path).used_bytes)
        kept = [number for number in range(20) if object_path(tmp_path, str(number)).exists()]
        assert 0 < len(kept) < 20
        assert kept[:5] == [0, 1, 2, 3, 4]


async def test_a_smaller_limit(tmp_path: Path) -> None:
    """What was there before a limit was lowered is brought down to it."""
    async with DiskStorage(tmp_path, max_bytes=_MAX) as storage:
        for number in range(20):
            await fill(storage, str(number), body(number, 80_000))
    async with DiskStorage(tmp_path, max_bytes=_MAX // 4) as storage:
        await eventually(lambda: verify(tmp_path).used_bytes <= _MAX // 4)
        await eventually(lambda: storage.stats.used_bytes == verify(tmp_path).used_bytes)
        assert storage.stats.objects > 2


async def test_objects_that_are_too_large(tmp_path: Path) -> None:
    """Beyond ``max_object_size``, or all the room there is: refused, and others are not evicted."""
    async with DiskStorage(tmp_path, max_bytes=_MAX, max_object_size=100_000) as storage:
        await fill(storage, "kept", body("kept", 100_000))
        with pytest.raises(Error) as caught:
            await fill(storage, "key", body("x", 100_001))
        assert caught.value.etype == RESPONSE_TOO_LARGE
    async with DiskStorage(tmp_path, max_bytes=65_536) as storage:
        with pytest.raises(Error) as caught:
            await fill(storage, "key", body("x", 65_000))
        assert caught.value.etype == RESPONSE_TOO_LARGE
        with pytest.raises(Error) as caught:
            await begin(storage, "key", meta(filler=70_000))
        assert caught.value.etype == RESPONSE_TOO_LARGE
        assert storage.stats.evictions == 0 or storage.stats.objects == 0


async def test_no_room_while_all_is_being_written(tmp_path: Path) -> None:
    """The write that finds none fails after a moment; the others go on."""
    async with DiskStorage(tmp_path, max_bytes=_MAX) as storage:
        writers = [await begin(storage, str(number)) for number in range(3)]
        for writer in writers[:2]:
            await writer.write_body(body("x", 900_000), end=False)
        await eventually(lambda: _bytes_in(tmp_path) > 1_800_000)
        await writers[2].write_body(body("x", 450_000), end=True)
        with pytest.raises(Error) as caught:
            await writers[2].finish()
        assert caught.value.etype == STORAGE_FULL
        finished = [await writer.finish() for writer in writers[:2]]
        assert all(each.published for each in finished)
        for writer in writers:
            writer.close()


async def test_it_is_counted_anew_every_hour(tmp_path: Path) -> None:
    """What somebody has removed, or put there, is noticed then."""
    clock = FakeClock()
    async with DiskStorage(tmp_path, max_bytes=_MAX, monotonic=clock) as storage:
        for name in ("one", "two"):
            await fill(storage, name, body(name, 10_000))
        await _counted(storage, 2)
        object_path(tmp_path, "one").unlink()
        await _counted(storage, 2)
        clock.advance(3601)
        await _counted(storage, 1)
        assert storage.stats.used_bytes == verify(tmp_path).used_bytes


async def test_the_state_is_saved_every_minute(tmp_path: Path) -> None:
    """For the case that the process is killed."""
    clock = FakeClock()
    async with DiskStorage(tmp_path, max_bytes=_MAX, monotonic=clock) as storage:
        await fill(storage, "key", b"x")
        await _counted(storage, 1)
        assert not list((tmp_path / "eviction").iterdir())
        clock.advance(61)
        await eventually(lambda: list((tmp_path / "eviction").iterdir()))


async def test_objects_that_were_purged_by_a_tag_make_room(tmp_path: Path) -> None:
    """When they are looked for."""
    async with DiskStorage(tmp_path, max_bytes=_MAX) as storage:
        await fill(storage, "key", body("x", 10_000), meta(tags=[b"red"]))
        await storage.purge_tag(b"red")
        assert object_path(tmp_path, "key").exists()
        assert await storage.lookup(key()) is None
        await eventually(lambda: not object_path(tmp_path, "key").exists())
        await _counted(storage, 0)
