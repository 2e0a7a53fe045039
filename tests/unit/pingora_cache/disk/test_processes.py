"""Several processes on one directory: what one does the others see, and they outlive its death."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from conformance.cache_crash_drill import Drill
from pingora_cache.disk import DiskStorage, verify
from pingora_cache.storage import WRITE_FAILED
from pingora_error import Error
from tests.support.cache_disk import begin, begun_in, body, fill, key, read, writes_in
from tests.support.cache_disk_puppet import Puppet
from tests.support.in_child import in_child
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pingora_cache.storage import HitHandler


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[DiskStorage]:
    """A store of this process, which is the manager."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        yield storage


@pytest.fixture
async def puppet(storage: DiskStorage, tmp_path: Path) -> AsyncIterator[Puppet]:
    """Another process on the same directory."""
    async with Puppet(tmp_path) as puppet:
        yield puppet


async def _all(reader: HitHandler) -> bytes:
    pieces = []
    while piece := await reader.read_body():
        pieces.append(piece)
    return b"".join(pieces)


async def test_what_one_does_the_other_sees(storage: DiskStorage, puppet: Puppet) -> None:
    """Objects, metas that are replaced, purges of keys and of tags: in both directions, at once."""
    assert await puppet.ask("fill", "one", 500_000, "red")
    assert await read(storage, "one") == body("one", 500_000)
    await fill(storage, "two", body("two", 50))
    assert await puppet.ask("read", "two", 50) == "right"

    assert await puppet.ask("purge", "two", "delete") == "purged"
    assert await read(storage, "two") is None
    await storage.purge_tag(b"red")
    assert await puppet.ask("read", "one", 500_000) == "nothing"

    assert await puppet.ask("fill", "one", 5, "red")
    assert await read(storage, "one") == body("one", 5)
    await puppet.ask("purge_tag", "red", "expire")
    found = await storage.lookup(key("one"))
    assert found is not None
    assert not found[0].is_fresh(found[0].created)
    found[1].close()
    assert await puppet.ask("purge_tag", "red", "delete") == "red"
    assert await read(storage, "one") is None
    await eventually(lambda: storage.stats.objects == 0)


async def test_a_write_is_followed(storage: DiskStorage, puppet: Puppet) -> None:
    """Bytes come as they are written, small ones too, and the end when it is finished."""
    await puppet.ask("begin", "key", 900_000)
    found = await storage.lookup(key())
    assert found is not None
    reader = found[1]
    assert reader.is_partial
    assert reader.body_size is None
    begun = b""
    while len(begun) < 900_000:
        begun += await reader.read_body() or b""
    assert begun == body("key", 900_000)
    for text in ("a few", "more"):
        waiting = asyncio.create_task(reader.read_body())
        await asyncio.sleep(0.01)
        await puppet.ask("add", "key", text)
        assert await waiting == text.encode()
    late = await storage.lookup(key())
    assert late is not None
    assert await puppet.ask("finish", "key") == "True"
    assert await reader.read_body() is None
    assert found[1].body_size == 900_009
    assert await _all(late[1]) == begun + b"a fewmore"
    reader.close()
    late[1].close()


async def test_a_writer_is_killed(storage: DiskStorage, puppet: Puppet, tmp_path: Path) -> None:
    """Its readers get an error and never an end, its file goes, and the next write is found."""
    await puppet.ask("begin", "key", 300_000)
    readers = [await storage.lookup(key()) for _ in range(3)]
    waiting = []
    for found in readers:
        assert found is not None
        waiting.append(asyncio.create_task(_all(found[1])))
    await asyncio.sleep(0.02)
    await puppet.kill()

    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [getattr(result, "etype", None) for result in results] == [WRITE_FAILED] * 3
    for found in readers:
        assert found is not None
        found[1].close()
    assert await storage.lookup(key()) is None
    await fill(storage, "key", b"new")
    assert await read(storage, "key") == b"new"
    await eventually(lambda: not writes_in(tmp_path), timeout=10.0)
    await eventually(lambda: len(list((tmp_path / "journals").iterdir())) == 1, timeout=10.0)


async def test_purged_by_another_process_while_it_is_written(
    storage: DiskStorage, puppet: Puppet
) -> None:
    """It completes for those who follow it, and is not published."""
    for action, published in (("delete", "False"), ("expire", "True")):
        await puppet.ask("begin", "key", 300_000)
        found = await storage.lookup(key())
        assert found is not None
        if action == "delete":
            assert await storage.purge(key().to_compact())
        else:
            assert await puppet.ask("purge", "key", "expire") == "expired"
        assert (await storage.lookup(key()) is None) == (action == "delete")
        await puppet.ask("add", "key", "end")
        assert await puppet.ask("finish", "key") == published
        assert await _all(found[1]) == body("key", 300_000) + b"end"
        found[1].close()
        if action == "delete":
            assert await read(storage, "key") is None


async def test_purged_by_a_tag_while_it_is_written(storage: DiskStorage, puppet: Puppet) -> None:
    """Also by a process that does not know of it."""
    await puppet.ask("begin", "key", 300_000, "red")
    await storage.purge_tag(b"red")
    assert await storage.lookup(key()) is None
    assert await puppet.ask("finish", "key") == "False"
    assert await read(storage, "key") is None


async def test_two_processes_write_one_key(storage: DiskStorage, puppet: Puppet) -> None:
    """They do not mix; the later finish wins."""
    await puppet.ask("begin", "key", 600_000)
    await fill(storage, "key", body("mine", 700_000))
    assert await read(storage, "key") == body("mine", 700_000)
    await puppet.ask("add", "key", "end")
    assert await puppet.ask("finish", "key") == "True"
    assert await read(storage, "key") == body("key", 600_000) + b"end"


async def test_another_process_becomes_the_manager(tmp_path: Path) -> None:
    """When the manager is killed, what is there is counted on, and room is made."""
    async with Puppet(tmp_path, max_bytes=4_000_000) as manager:
        for number in range(10):
            await manager.ask("fill", f"old {number}", 100_000)
        async with DiskStorage(tmp_path, max_bytes=4_000_000) as storage:
            await eventually(lambda: storage.stats.objects == 10, timeout=10.0)
            await manager.kill()
            for number in range(60):
                await fill(storage, f"new {number}", body(number, 100_000))
            await eventually(lambda: storage.stats.evictions > 20, timeout=10.0)
            await eventually(
                lambda: storage.stats.used_bytes == verify(tmp_path).used_bytes, timeout=10.0
            )
            assert storage.stats.used_bytes <= 4_000_000


def test_made_before_the_fork_and_opened_after(tmp_path: Path) -> None:
    """One made by the parent serves each of its children, which see what the others wrote."""
    storage = DiskStorage(tmp_path, max_bytes=1 << 30)

    def write() -> None:
        async def run() -> None:
            async with storage:
                await fill(storage, "key", b"body")

        asyncio.run(run())

    def look() -> bytes | None:
        async def run() -> bytes | None:
            async with storage:
                return await read(storage, "key")

        return asyncio.run(run())

    in_child(write)
    assert in_child(look) == b"body"


async def test_forked_while_it_is_open(tmp_path: Path) -> None:
    """The child cannot use it, may close it, and holds none of its locks."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        writer = await begin(storage, "key")
        await writer.write_body(b"some", end=False)
        await eventually(lambda: begun_in(tmp_path))
        reader, held = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(held)
            refused = _is_refused(storage)
            os.read(reader, 1)
            os._exit(not refused)
        os.close(reader)
        await writer.abort()
    # The child is still there.
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as second:
        await fill(second, "key", b"body")
        await eventually(lambda: second.stats.objects == 1, timeout=10.0)
    os.close(held)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def _is_refused(storage: DiskStorage) -> bool:
    async def run() -> bool:
        try:
            await storage.lookup(key())
        except RuntimeError:
            await storage.close()
            return True
        return False

    loop = asyncio.new_event_loop()
    asyncio._set_running_loop(None)
    return loop.run_until_complete(run())


async def test_killed_while_it_publishes(tmp_path: Path) -> None:
    """What it has published without saying so is counted all the same."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        child = os.fork()
        if child == 0:  # pragma: no cover  # it kills itself
            asyncio.run(_publish_and_die(tmp_path))
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.WTERMSIG(status) == 9
        assert await read(storage, "key") == b"published"
        await eventually(lambda: storage.stats.objects == 1, timeout=10.0)


async def _publish_and_die(directory: Path) -> None:  # pragma: no cover
    def publish(path: str, target: str) -> None:
        rename(path, target)
        os.kill(os.getpid(), 9)

    rename = os.rename
    os.rename = publish  # type: ignore[assignment]
    storage = DiskStorage(directory, max_bytes=1 << 30)
    await fill(storage, "key", b"published")


async def test_a_reader_far_behind_the_writer(storage: DiskStorage, puppet: Puppet) -> None:
    """The sums it needs are written over by then: it waits for the end, and gets all of it."""
    size = 25 << 20
    found = None
    await puppet.ask("begin", "key", 10)
    found = await storage.lookup(key())
    assert found is not None
    assert await found[1].read_body() == body("key", 10)
    for _ in range(5):
        await puppet.ask("add", "key", "x" * (size // 5))
    waiting = asyncio.create_task(_all(found[1]))
    await asyncio.sleep(0.02)
    assert await puppet.ask("finish", "key") == "True"
    assert await waiting == b"x" * (size // 5 * 5)
    found[1].close()


async def test_closing_ends_what_is_followed(tmp_path: Path) -> None:
    """A store that is closed tells those who follow a write of another process."""
    async with Puppet(tmp_path) as puppet:
        await puppet.ask("begin", "key", 10)
        storage = DiskStorage(tmp_path, max_bytes=1 << 30)
        found = await storage.lookup(key())
        assert found is not None
        assert await found[1].read_body() == body("key", 10)
        waiting = asyncio.create_task(found[1].read_body())
        await asyncio.sleep(0.01)
        await storage.close()
        with pytest.raises(Error, match="StorageClosed"):
            await waiting
        found[1].close()


async def test_processes_are_killed_while_they_fill(tmp_path: Path) -> None:
    """The crash drill, in short: no wrong byte, all space accounted, nothing left behind."""
    report = await Drill(tmp_path, kills=3, workers=2, pause=0.1).run()

    assert report.missed == [], str(report)
    assert report.kills == 3
