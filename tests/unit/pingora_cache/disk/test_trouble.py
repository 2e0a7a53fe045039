"""Trouble between the parts: locks that are held, tasks that have to go on, logs that are lost."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pingora_cache.disk import DiskStorage
from pingora_cache.disk._layout import META_AT
from pingora_cache.disk._purge_log import PurgeLog
from pingora_cache.disk._tree import Tree, make_folder
from pingora_cache.disk._writing import write_all
from pingora_cache.eviction import SimpleLru
from pingora_cache.storage import WRITE_STALLED
from pingora_error import Error, ErrorType
from tests.support.cache_disk import (
    MIB,
    begin,
    begun_in,
    body,
    fill,
    key,
    meta,
    object_path,
    read,
    writes_in,
)
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from pingora_cache.key import CompactCacheKey


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[DiskStorage]:
    """A store with plenty of room."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        yield storage


def _broken(*_: object, **__: object) -> None:
    raise OSError(errno.EIO, "broken")


# ---------------------------------------------------------------------------------- locks


async def test_an_object_that_is_being_changed(storage: DiskStorage, tmp_path: Path) -> None:
    """One that looks damaged while somebody has locked it is looked at again, and not removed."""
    await fill(storage, "key", b"body")
    path = object_path(tmp_path, "key")
    whole = path.read_bytes()
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(whole[:10] + b"torn")
        file.flush()
        looking = asyncio.create_task(read(storage, "key"))
        await asyncio.sleep(0.03)
        assert not looking.done()
        file.seek(0)
        file.write(whole)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_UN)
        assert await looking == b"body"
    assert storage.stats.corrupt == 0


async def test_an_object_that_stays_locked(
    storage: DiskStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its meta cannot be changed, which is told after a while; it can be read."""
    monkeypatch.setattr("pingora_cache.disk._locked._PAUSE", 0.0)
    await fill(storage, "key", b"body", meta(now=1000.0))
    with object_path(tmp_path, "key").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Error, match="locked all the time"):
            await storage.update_meta(key(), meta(now=1000.0))
        assert await read(storage, "key") == b"body"
        _damage(object_path(tmp_path, "key"))
        assert await read(storage, "key") is None
        assert object_path(tmp_path, "key").exists()
    assert await read(storage, "key") is None
    assert not object_path(tmp_path, "key").exists()


def _damage(path: Path, at: int = 3) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"?")


async def test_changing_what_is_damaged(storage: DiskStorage, tmp_path: Path) -> None:
    """It is removed; there is nothing to change."""
    for name in ("confirmed", "purged"):
        await fill(storage, name, b"body", meta(now=1000.0, tags=[b"red"]))
        _damage(object_path(tmp_path, name))
    assert not await storage.update_meta(key("confirmed"), meta(now=1000.0))
    assert not object_path(tmp_path, "confirmed").exists()
    await storage.purge(key("purged").to_compact())
    assert not object_path(tmp_path, "purged").exists()


async def test_replacing_what_is_being_removed(storage: DiskStorage, tmp_path: Path) -> None:
    """The new object is not put in the place of the old one while that is about to be removed."""
    await fill(storage, "key", b"old")
    path = object_path(tmp_path, "key")
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writing = asyncio.create_task(fill(storage, "key", b"new"))
        await asyncio.sleep(0.03)
        assert not writing.done()
        assert path.read_bytes().find(b"old") >= 0
        path.unlink()
        fcntl.flock(file, fcntl.LOCK_UN)
    await writing
    assert await read(storage, "key") == b"new"


async def test_replacing_what_stays_locked(
    storage: DiskStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a process that was stopped: it is replaced after a while."""
    monkeypatch.setattr("pingora_cache.disk._locked._PAUSE", 0.0)
    await fill(storage, "key", b"old")
    with object_path(tmp_path, "key").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        await fill(storage, "key", b"new")
    assert await read(storage, "key") == b"new"


async def test_changing_what_was_purged_by_a_tag(storage: DiskStorage) -> None:
    """It is there as a file only: it is not confirmed, and not purged again."""
    for name in ("confirmed", "purged"):
        await fill(storage, name, b"body", meta(now=1000.0, tags=[b"red"]))
    await storage.purge_tag(b"red")
    assert not await storage.update_meta(key("confirmed"), meta(now=1000.0, tags=[b"red"]))
    assert not await storage.purge(key("purged").to_compact())
    assert await read(storage, "confirmed") is None


def test_removing_what_was_replaced_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new object stays, at whatever moment it comes."""
    tree = Tree(tmp_path)
    slot = key().combined_hash
    path = object_path(tmp_path, "key")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"old")
    with path.open("rb") as old:
        path.unlink()
        tree.remove_same(str(path), slot, old.fileno())
        path.write_bytes(b"new")
        tree.remove_same(str(path), slot, old.fileno())
        assert path.read_bytes() == b"new"

        answers = [True, False, True]
        monkeypatch.setattr("pingora_cache.disk._tree.is_same", lambda *_: answers.pop(0))
        tree.remove_same(str(path), slot, old.fileno())
        assert path.read_bytes() == b"new"
        path.unlink()
        tree.remove_same(str(path), slot, old.fileno())
    assert writes_in(tmp_path) == []


# ---------------------------------------------------------------------------- other writes


async def test_a_write_of_others_that_stalls(tmp_path: Path) -> None:
    """Who follows it gives up; who comes later does not follow it."""
    async with (
        DiskStorage(tmp_path, max_bytes=1 << 30) as one,
        DiskStorage(tmp_path, max_bytes=1 << 30, stall_timeout=0.05) as two,
    ):
        writer = await begin(one, "key")
        await writer.write_body(b"some", end=False)
        await eventually(lambda: begun_in(tmp_path))
        found = await two.lookup(key())
        assert found is not None
        assert await found[1].read_body() == b"some"
        with pytest.raises(Error) as caught:
            await found[1].read_body()
        assert caught.value.etype == WRITE_STALLED
        assert await two.lookup(key()) is None
        found[1].close()
        await writer.abort()


async def test_a_write_of_others_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for it gets an error; a lookup does not find it."""
    async with (
        DiskStorage(tmp_path, max_bytes=1 << 30) as one,
        DiskStorage(tmp_path, max_bytes=1 << 30) as two,
    ):
        writer = await begin(one, "key")
        await writer.write_body(b"some", end=False)
        await eventually(lambda: begun_in(tmp_path))
        found = await two.lookup(key())
        assert found is not None
        assert await found[1].read_body() == b"some"
        waiting = asyncio.create_task(found[1].read_body())
        await asyncio.sleep(0.01)
        with monkeypatch.context() as patch:
            patch.setattr("pingora_cache.disk._following.os.pread", _broken)
            with pytest.raises(Error, match="broken"):
                await waiting
        found[1].close()
        with monkeypatch.context() as patch:
            patch.setattr("pingora_cache.disk._following.find_write", _broken)
            patch.setattr("pingora_cache.disk._fills.find_write", _broken)
            assert await two.lookup(key()) is None
        assert two.stats.failures == {"EIO": 1}
        await writer.abort()


async def test_files_that_are_no_writes(storage: DiskStorage, tmp_path: Path) -> None:
    """Rubbish with the name of a write, locked as one: nobody follows it, a purge removes it."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as other:
        writer = await begin(other, "key")
        await writer.write_body(b"some", end=False)
        await eventually(lambda: begun_in(tmp_path))
        (path,) = writes_in(tmp_path)
        whole = path.read_bytes()
        await writer.abort()
    spoiled = whole[:META_AT] + b"?" + whole[META_AT + 1 :]
    for rubbish in (whole, b"", b"rubbish" * 100, spoiled):
        with _locked(path, rubbish):
            found = await storage.lookup(key())
            assert (found is not None) == (rubbish == whole)
            if found is not None:
                found[1].close()
            await storage.purge(key().to_compact())
        assert not writes_in(tmp_path)


@contextmanager
def _locked(path: Path, data: bytes) -> Iterator[None]:
    path.write_bytes(data)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_a_disk_that_takes_only_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not written is written again."""
    pwritev = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, pieces, at: pwritev(fd, [pieces[0][:3]], at))
    with (tmp_path / "file").open("w+b") as file:
        write_all(file.fileno(), [b"first", b"second"], 2)
    assert (tmp_path / "file").read_bytes() == b"\0\0firstsecond"


# ------------------------------------------------------------------------------------ logs


async def test_the_log_of_purges_cannot_be_read(
    storage: DiskStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has tags is a miss then; what has none is found; nothing can be written or purged."""
    await fill(storage, "tagged", body("x", MIB), meta(tags=[b"red"]))
    await fill(storage, "plain", b"body")
    writer = await begin(storage, "written")
    with monkeypatch.context() as patch:
        patch.setattr(PurgeLog, "refresh", _broken)
        patch.setattr(PurgeLog, "catch_up", _broken)
        patch.setattr(PurgeLog, "add", _broken)
        assert await read(storage, "tagged") is None
        assert await read(storage, "plain") == b"body"
        with pytest.raises(Error, match="FileReadError"):
            await begin(storage, "other")
        with pytest.raises(Error, match="FileWriteError"):
            await writer.finish()
        with pytest.raises(Error, match="FileWriteError"):
            await storage.purge(key("plain").to_compact())
        with pytest.raises(Error, match="FileWriteError"):
            await storage.purge_tag(b"red")
    assert await read(storage, "tagged") == body("x", MIB)


async def test_the_log_is_replaced_while_it_is_used(storage: DiskStorage, tmp_path: Path) -> None:
    """What it says of objects with tags is not known any more; the next ones are found."""
    await fill(storage, "key", b"body", meta(tags=[b"red"]))
    (tmp_path / "purges").unlink()
    assert await read(storage, "key") is None
    await fill(storage, "key", b"body", meta(tags=[b"red"]))
    assert await read(storage, "key") == b"body"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """Something else has its name."""
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_folder(str(tmp_path / "file"))


# ------------------------------------------------------------------------------- the keeper


async def test_it_goes_on_after_trouble(
    storage: DiskStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is wrong is told once, and it is counted again as soon as that works."""
    with monkeypatch.context() as patch:
        patch.setattr("pingora_cache.disk._manager.Manager.step", _broken)
        for _ in range(3):
            storage._shop.nudge()
            await asyncio.sleep(0.02)
    assert storage.stats.failures["EIO"] >= 2
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    await fill(storage, "key", b"body")
    await eventually(lambda: storage.stats.objects == 1)


class _Faulty(SimpleLru):  # type: ignore[misc]  # a user's own may be anything
    """An eviction manager that fails."""

    def admit(self, key: CompactCacheKey, size: int, fresh_until: float) -> list[CompactCacheKey]:
        raise ZeroDivisionError

    async def save(self, directory: str | Path) -> None:
        raise Error(ErrorType.FILE_WRITE_ERROR, "not saved")

    async def load(self, directory: str | Path) -> int:
        raise Error(ErrorType.FILE_READ_ERROR, "not loaded")


async def test_an_eviction_manager_that_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Is in the log; what is written is found all the same."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30, eviction=_Faulty(1 << 30)) as storage:
        await fill(storage, "key", b"body")
        await eventually(lambda: "ZeroDivisionError" in caplog.text)
        assert await read(storage, "key") == b"body"
    assert "not loaded" in caplog.text
    assert "not saved" in caplog.text


async def test_closed_while_it_opens(tmp_path: Path) -> None:
    """Nothing stays behind."""
    storage = DiskStorage(tmp_path, max_bytes=1 << 30)
    opening = asyncio.create_task(storage.open())
    await asyncio.sleep(0)
    await storage.close()
    await opening
    with pytest.raises(Error, match="StorageClosed"):
        await storage.lookup(key())


async def test_closed_while_it_publishes(tmp_path: Path) -> None:
    """The write is whole, or fails; and is the same after a restart."""
    storage = DiskStorage(tmp_path, max_bytes=1 << 30)
    writers = [await begin(storage, str(number)) for number in range(8)]
    for writer in writers:
        await writer.write_body(body("x", 400_000), end=True)
    finishing = [asyncio.create_task(writer.finish()) for writer in writers]
    await asyncio.sleep(0.001)
    await storage.close()
    results = await asyncio.gather(*finishing, return_exceptions=True)
    for writer in writers:
        writer.close()
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        for number, result in enumerate(results):
            found = await read(storage, str(number))
            assert (found is None) == isinstance(result, Error)
            assert found in {None, body("x", 400_000)}
    assert writes_in(tmp_path) == []


async def test_what_cannot_be_told_is_told_later(
    storage: DiskStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that cannot be written costs no news for the manager, unless it is too many."""
    shop = storage._shop
    slot = key("told").combined_hash
    with monkeypatch.context() as patch:
        patch.setattr("pingora_cache.disk._journal.Journal.look", _broken)
        shop.change(slot)
        await eventually(lambda: storage.stats.failures.get("EIO"), "a turn that fails")
        await eventually(lambda: slot in shop.touched, "the note")
    await eventually(lambda: slot not in shop.touched, "a turn that does not")

    monkeypatch.setattr("pingora_cache.disk._shop._MOST_TOUCHED", 1)
    shop.touched.clear()
    shop.touch_again({slot: None, slot[::-1]: None})
    assert not shop.touched
