"""Things that meet on one directory: the moments in between, held in the hand."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pingora_cache.disk import DiskStorage, _objects, _purge_log
from pingora_cache.disk._changes import remove_purged
from pingora_cache.disk._journal import Journal
from pingora_cache.disk._layout import Damaged
from pingora_cache.disk._locked import lock_own, open_locked, unlock
from pingora_cache.disk._objects import find_slowly, remove_object
from pingora_cache.disk._purge_log import PurgeLog
from pingora_cache.disk._purge_records import Kind
from pingora_cache.disk._tree import Tree
from pingora_cache.disk._writing import Subject, WriteFile
from pingora_cache.storage import WRITE_STALLED, PurgeAction
from pingora_error import Error
from tests.support.cache_disk import MIB, begin, body, fill, key, meta, object_path, read, writes_in
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SLOT = key().combined_hash


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[DiskStorage]:
    """A store with plenty of room."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        yield storage


@pytest.fixture
async def write(storage: DiskStorage) -> AsyncIterator[WriteFile]:
    """A write of another process that is complete, and has not the name of an object yet."""
    purges = storage._shop.log.purges
    subject = Subject(SLOT, b"some tag", meta().to_bytes(), (), purges.epoch, purges.position)
    file = WriteFile(Tree(storage.path), subject)
    file.complete([b"body"])
    yield file
    if file.descriptor is not None and file.descriptor.fd >= 0:
        file.discard()


@contextlib.contextmanager
def _held(path: Path, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    with path.open("rb") as file:
        fcntl.flock(file, kind)
        yield


def _is_free(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _open_files() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


# -------------------------------------------------------------------- the end of a write


async def test_a_write_that_is_complete_and_not_published(
    storage: DiskStorage, write: WriteFile
) -> None:
    """It is found: as a write as long as it is one, and as an object afterwards."""
    found = await storage.lookup(key())
    assert found is not None
    reader = found[1]
    assert (reader.is_partial, reader.body_size) == (True, 4)
    write.publish(0.0, sync=False)
    write.release()
    assert [await reader.read_body(), await reader.read_body()] == [b"body", None]
    reader.close()
    assert await read(storage, "key") == b"body"


async def test_a_write_that_becomes_an_object_between_two_looks(
    storage: DiskStorage, write: WriteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has found no object before, and no write after, looks for the object again."""

    def writes_of(*_: object) -> list[tuple[bytes, str]]:
        write.publish(0.0, sync=False)
        return []

    monkeypatch.setattr(Tree, "writes_of", writes_of)
    assert await read(storage, "key") == b"body"
    assert (storage.stats.hits, storage.stats.misses) == (1, 0)


async def test_a_writer_that_died_when_it_was_complete(
    storage: DiskStorage, write: WriteFile
) -> None:
    """Its file never becomes an object, and nobody is told that it will."""
    write.release()
    assert await read(storage, "key") is None


async def test_an_object_that_is_being_removed_is_no_write(
    storage: DiskStorage, write: WriteFile, tmp_path: Path
) -> None:
    """Although it lies among them for a moment, locked."""
    (path,) = writes_in(tmp_path)
    aside = path.rename(Tree(tmp_path).write(SLOT, b"the tag."))
    assert await read(storage, "key") is None
    aside.unlink()


def test_a_published_object_is_not_locked(write: WriteFile, tmp_path: Path) -> None:
    """However long the loop of its writer takes to hear of it."""
    assert not _is_free(writes_in(tmp_path)[0])
    assert write.publish(0.0, sync=False)
    assert _is_free(object_path(tmp_path, "key"))


async def test_a_write_that_fails_when_it_is_about_to_be_published(
    storage: DiskStorage, tmp_path: Path
) -> None:
    """It ends once, and the writer hears why."""
    writer = await begin(storage, "key")
    await writer.write_body(b"body", end=True)
    (fill_,) = storage._fills._by_tag.values()
    finishing = asyncio.create_task(writer.finish())
    asyncio.get_running_loop().call_soon(fill_.fail, WRITE_STALLED, "just now")
    with pytest.raises(Error, match="just now"):
        await finishing
    assert storage.stats.aborted_writes == 1
    await eventually(lambda: not writes_in(tmp_path))
    assert await read(storage, "key") is None


# ---------------------------------------------------------------------------------- locks


async def test_a_purge_of_what_is_being_removed(storage: DiskStorage, tmp_path: Path) -> None:
    """It waits: or else the name would be free for a new object, which would be removed instead."""
    await fill(storage, "key", b"body")
    with _held(object_path(tmp_path, "key")):
        purging = asyncio.create_task(storage.purge(key().to_compact()))
        await asyncio.sleep(0.03)
        assert object_path(tmp_path, "key").exists()
    assert await purging
    assert not object_path(tmp_path, "key").exists()


def test_removing_what_stays_locked(write: WriteFile, tmp_path: Path) -> None:
    """By a process that was stopped: it goes all the same."""
    assert not remove_object(str(object_path(tmp_path, "key")))
    write.publish(0.0, sync=False)
    path = object_path(tmp_path, "key")
    with _held(path):
        assert remove_object(str(path), tries=2)
    assert not path.exists()


async def test_a_soft_purge_of_what_stays_locked(
    storage: DiskStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be marked, and so it goes: a purge does not depend on a process that was stopped."""
    monkeypatch.setattr("pingora_cache.disk._locked._PAUSE", 0.0)
    await fill(storage, "key", b"body")
    with _held(object_path(tmp_path, "key")):
        assert await storage.purge(key().to_compact(), action=PurgeAction.EXPIRE)
    assert await read(storage, "key") is None


async def test_two_find_the_same_damage(storage: DiskStorage, tmp_path: Path) -> None:
    """One after the other: the later must not remove what is put in its place."""
    await fill(storage, "key", b"body")
    path = object_path(tmp_path, "key")
    with path.open("r+b") as file:
        file.write(b"?")
    with _held(path, fcntl.LOCK_SH):
        looking = asyncio.create_task(read(storage, "key"))
        await asyncio.sleep(0.03)
        assert path.exists()
        assert not looking.done()
    assert await looking is None
    assert not path.exists()


async def test_who_has_waited_for_a_change_holds_no_lock(
    storage: DiskStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While he reads the body, which may take long."""
    await fill(storage, "key", body("key", MIB))
    real, torn = _objects._read, [Damaged("torn")]

    def read_torn(*args: object) -> object:
        if torn:
            raise torn.pop()
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(_objects, "_read", read_torn)
    path = object_path(tmp_path, "key")
    found = find_slowly(storage._io, str(path), SLOT)
    assert not isinstance(found, Damaged)
    assert found is not None
    assert _is_free(path)
    found.reader.close()


def test_a_lock_is_not_inherited(tmp_path: Path) -> None:
    """A process that was forked meanwhile has the file open too, and for long."""
    path = tmp_path / "object"
    path.touch()
    locked = open_locked(str(path))
    assert locked is not None
    copy = os.dup(locked.fd)  # what a fork makes
    assert not _is_free(path)
    unlock(locked)
    assert _is_free(path)
    os.close(copy)


def test_a_new_file_that_others_have_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for a process that was stopped, neither for a write nor for a journal."""
    monkeypatch.setattr("pingora_cache.disk._locked._PAUSE", 0.0)
    path = tmp_path / "write"
    path.touch()
    with _held(path), path.open("rb") as file, pytest.raises(OSError, match="all the time"):
        lock_own(file.fileno(), str(path))

    tree = Tree(tmp_path)
    tree.make()
    real, locked = fcntl.flock, [True]

    def flock(fd: int, kind: int) -> None:
        assert kind & fcntl.LOCK_NB
        if locked:
            locked.pop()
            raise BlockingIOError
        real(fd, kind)

    monkeypatch.setattr("pingora_cache.disk._journal.fcntl.flock", flock)
    journal = Journal(tree)
    journal.open()
    journal.look([SLOT])
    journal.close()
    assert not locked


async def test_no_tag_was_purged_of_what_has_none(storage: DiskStorage, tmp_path: Path) -> None:
    """An object without tags, of another log, that was put in the place of one that had some."""
    await fill(storage, "key", b"body")
    storage._shop._log.close()
    (tmp_path / "purges").unlink()
    assert not remove_purged(storage._shop, str(object_path(tmp_path, "key")), SLOT)
    assert await read(storage, "key") == b"body"


# ----------------------------------------------------------------------- the log of purges


async def test_lookups_that_are_cancelled_while_the_log_is_read(
    storage: DiskStorage, tmp_path: Path
) -> None:
    """Leave nothing open."""
    await fill(storage, "key", b"body", meta(tags=[b"red"]))
    other = PurgeLog(str(tmp_path / "purges"), most=80)
    other.open()
    await eventually(lambda: storage._keeper._manager._journals)
    before = _open_files()
    for _ in range(5):
        other.add(Kind.DELETE_TAG, b"blue", 1.0)  # and it is another file
        other.catch_up()
        lookups = [asyncio.create_task(read(storage, "key")) for _ in range(3)]
        await asyncio.sleep(0)
        for lookup in lookups:
            lookup.cancel()
        await asyncio.wait(lookups)
    assert await read(storage, "key") == b"body"
    await eventually(lambda: _open_files() <= before)
    other.close()


async def test_the_log_is_replaced_all_the_time(
    storage: DiskStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lookup that has to know it fails in the end."""
    await fill(storage, "key", b"body", meta(tags=[b"red"]))
    monkeypatch.setattr(PurgeLog, "refresh", lambda _: False)
    monkeypatch.setattr(PurgeLog, "_try_open", lambda _: True)
    assert await read(storage, "key") is None
    assert storage.stats.errors


async def test_a_process_is_stopped_while_it_purges(
    storage: DiskStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others can write, and hear after a while that they cannot purge."""
    await fill(storage, "other", b"body")
    with _held(tmp_path / "purges"):
        purging = asyncio.create_task(storage.purge(key("other").to_compact()))
        await fill(storage, "key", b"body")
        assert not purging.done()
    assert await purging
    monkeypatch.setattr("pingora_cache.disk._purge_log._PAUSE", 0.0)
    with _held(tmp_path / "purges"):
        with pytest.raises(Error, match="locked all the time"):
            await storage.purge(key().to_compact())
        with pytest.raises(Error, match="locked all the time"):
            await storage.purge_tag(b"red")
    assert await storage.purge(key().to_compact())


def test_a_log_that_looks_damaged_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While somebody writes over what a dead process has left: nothing is lost by that."""
    path = str(tmp_path / "purges")
    log = PurgeLog.opened(path)
    log.add(Kind.DELETE_TAG, b"red", 1.0)
    real, answers = PurgeLog._read, [False]
    monkeypatch.setattr(PurgeLog, "_read", lambda self: answers.pop() if answers else real(self))
    other = PurgeLog.opened(path)
    assert not answers
    assert (other.purges.epoch, other.purges.position) == (log.purges.epoch, 1)
    log.close()
    other.close()


def test_a_damaged_log_that_stays_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a process that was stopped: it is begun anew all the same."""
    monkeypatch.setattr("pingora_cache.disk._purge_log._PAUSE", 0.0)
    path = tmp_path / "purges"
    log = PurgeLog.opened(str(path))
    log.close()
    path.write_bytes(b"?" * 100)
    with _held(path):
        other = PurgeLog.opened(str(path))
        assert other.purges.epoch not in {0, log.purges.epoch}
        other.close()


def test_a_damaged_log_that_another_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has waited for the lock takes the new one, and does not replace that."""
    path = tmp_path / "purges"
    path.write_bytes(b"?" * 100)
    logs: list[PurgeLog] = []
    real = _purge_log._try_lock

    def try_lock(fd: int) -> bool:
        if not logs:
            path.unlink()
            logs.append(PurgeLog.opened(str(path)))
        return real(fd)

    monkeypatch.setattr(_purge_log, "_try_lock", try_lock)
    logs.append(PurgeLog.opened(str(path)))
    assert logs[0].purges.epoch == logs[1].purges.epoch != 0
    for log in logs:
        log.close()


# ---------------------------------------------------------------------- opening and closing


async def test_several_find_that_it_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And try again at once: it is opened once."""
    storage = DiskStorage(tmp_path, max_bytes=1 << 30)
    real, failing, opened = Tree.make, [True], []

    def make(tree: Tree) -> None:
        if failing:
            failing.pop()
            raise OSError(28, "no room")
        opened.append(1)
        real(tree)

    monkeypatch.setattr(Tree, "make", make)

    async def insist() -> None:
        with contextlib.suppress(Error):
            await storage.open()
        await storage.open()

    await asyncio.gather(*[insist() for _ in range(3)])
    assert opened == [1]
    await storage.close()


async def test_closing_is_cancelled(tmp_path: Path) -> None:
    """It is closed all the same, and another process becomes the manager."""
    storage = DiskStorage(tmp_path, max_bytes=1 << 30)
    await storage.open()
    await eventually(lambda: storage._keeper._manager.is_elected)
    closing = asyncio.create_task(storage.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    await storage.close()
    assert _is_free(tmp_path / "manager")
    with pytest.raises(Error):
        await storage.open()
