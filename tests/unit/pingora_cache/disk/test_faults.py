"""A disk that fails, files that were spoiled: a miss with a reason, never a wrong byte or a crash."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pingora_cache.disk import DiskStorage, verify
from pingora_cache.disk._layout import META_AT
from pingora_error import Error
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
from tests.support.in_child import NOBODY, in_child
from tests.support.leaks import LeakCheck
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pingora_cache.storage import HitHandler, MissHandler


@pytest.fixture(autouse=True)
async def _no_leaks() -> AsyncIterator[None]:
    async with LeakCheck(collect=False):
        yield


def _change(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    # In place, as bits rot.
    with path.open("r+b") as file:
        file.write(data)


async def _drain(reader: HitHandler, pieces: list[bytes]) -> None:
    while piece := await reader.read_body():
        pieces.append(piece)


# ------------------------------------------------------------------------ spoiled files


@pytest.mark.parametrize("size", [1000, 40_000, 200_000])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.999])
async def test_a_file_that_was_cut_off(tmp_path: Path, size: int, share: float) -> None:
    """Is a miss, is counted, and is gone; so that the next write has its place."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        await fill(storage, "key", body("x", size), meta(size=size))
        path = object_path(tmp_path, "key")
        os.truncate(path, int(path.stat().st_size * share))

        assert await read(storage, "key") is None
        assert not path.exists()
        assert storage.stats.corrupt == 1
        assert sum(storage.stats.failures.values()) == 1
        await fill(storage, "key", b"new")
        assert await read(storage, "key") == b"new"


async def test_every_byte_of_a_small_file(tmp_path: Path) -> None:
    """Whichever byte of it rots: what is found is right, or nothing is found."""
    data = body("x", 500)
    async with DiskStorage(tmp_path, max_bytes=1 << 30, ready_objects=1) as storage:
        await fill(storage, "key", data)
        path = object_path(tmp_path, "key")
        whole = path.read_bytes()
        found = 0
        for at in range(0, len(whole), 3):
            path.write_bytes(whole)
            _change(path, at)
            result = await read(storage, "key")
            assert result in {None, data}
            found += result is not None
            if META_AT <= at < META_AT + 20 or at >= len(whole) - len(data):
                # What is in memory still may be used for the meta, the body is always looked at.
                assert result is None or at < len(whole) - len(data)
        assert found < 60  # padding, and the meta that is known


async def test_a_meta_that_rots(tmp_path: Path) -> None:
    """Is a miss for who has to read it."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        await fill(storage, "key", b"body", meta(filler=300))
    _change(object_path(tmp_path, "key"), META_AT + 100)
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        assert await read(storage, "key") is None
        assert storage.stats.failures == {"damaged meta": 1}


async def test_the_middle_of_a_large_body_rots(tmp_path: Path) -> None:
    """Its reader gets what comes before, then an error and not the bad block; then it is gone."""
    data = body("x", 2 * MIB)
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        await fill(storage, "key", data)
        path = object_path(tmp_path, "key")
        _change(path, path.stat().st_size - MIB)
        found = await storage.lookup(key())
        assert found is not None
        got: list[bytes] = []
        with pytest.raises(Error, match="damaged body"):
            await _drain(found[1], got)
        found[1].close()
        assert data.startswith(b"".join(got))
        assert 2 <= len(got) <= 4
        await eventually(lambda: not path.exists())
        assert await read(storage, "key") is None
        assert storage.stats.corrupt == 1


@pytest.mark.parametrize("at_once", [True, False])
async def test_cut_off_while_it_is_read(tmp_path: Path, *, at_once: bool) -> None:
    """By somebody else: the reader gets an error, the process does not die."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30, read_inline=at_once) as storage:
        await fill(storage, "key", body("x", 2 * MIB))
        found = await storage.lookup(key())
        assert found is not None
        assert await found[1].read_body()
        os.truncate(object_path(tmp_path, "key"), 100_000)
        with pytest.raises(Error, match="damaged end"):
            await _drain(found[1], [])
        found[1].close()


async def test_a_file_in_the_place_of_another(tmp_path: Path) -> None:
    """A whole object, but of another key, is not served."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        await fill(storage, "one", b"secret")
        await fill(storage, "two", b"public")
        shutil.copy(object_path(tmp_path, "one"), object_path(tmp_path, "two"))

        assert await read(storage, "two") is None
        assert await read(storage, "one") == b"secret"
        assert storage.stats.failures == {"damaged head": 1}


async def test_files_that_are_none_of_ours(tmp_path: Path) -> None:
    """A folder, a pipe, a link, an empty file in the place of objects: misses, and no harm done."""
    kept = tmp_path / "kept"
    kept.write_bytes(b"precious")
    makers: dict[str, Callable[[Path], object]] = {
        "folder": Path.mkdir,
        "pipe": os.mkfifo,
        "link": lambda path: path.symlink_to(kept),
        "empty": Path.touch,
        "zeros": lambda path: path.write_bytes(bytes(10_000)),
    }
    async with DiskStorage(tmp_path / "cache", max_bytes=1 << 30) as storage:
        for name, make in makers.items():
            path = object_path(tmp_path / "cache", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path)
            assert await read(storage, name) is None
            if name == "folder":
                with pytest.raises(Error):
                    await fill(storage, name, b"new")
                continue
            await fill(storage, name, b"new")
            assert await read(storage, name) == b"new"
        (tmp_path / "cache" / "objects" / "stranger").touch()
        (tmp_path / "cache" / "filling" / "stranger").touch()
        (tmp_path / "cache" / "journals" / "stranger").touch()
    async with DiskStorage(tmp_path / "cache", max_bytes=1 << 30) as storage:
        await eventually(lambda: storage.stats.objects == 4)
    assert kept.read_bytes() == b"precious"
    assert (tmp_path / "cache" / "objects" / "stranger").exists()


async def test_state_that_is_damaged(tmp_path: Path) -> None:
    """Whatever the files beside the objects hold: objects are found, and counted anew."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        for number in range(5):
            await fill(storage, str(number), body(number, 1000))
    for path in [tmp_path / "usage", tmp_path / "purges", *(tmp_path / "eviction").iterdir()]:
        path.write_bytes(b"rubbish" * 1000)
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        for number in range(5):
            assert await read(storage, str(number)) == body(number, 1000)
        await eventually(lambda: storage.stats.objects == 5)


# ---------------------------------------------------------------------- a disk that fails


async def _write_on(writer: MissHandler) -> None:
    for _ in range(40):
        await writer.write_body(body("y", 100_000), end=False)
        await asyncio.sleep(0.001)


def _failing(number: int) -> object:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("when", ["at once", "later"])
async def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """The write fails, its readers get an error, nothing is left; what was there is still there."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        await fill(storage, "key", b"old", meta(fresh=-1))
        writer = await begin(storage, "key")
        if when == "later":
            await writer.write_body(body("x", 300_000), end=False)
            await eventually(lambda: begun_in(tmp_path))
        found = await storage.lookup(key())
        assert found is not None
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwritev", _failing(errno.ENOSPC))
            with pytest.raises(Error, match="CacheWriteFailed"):
                await _write_on(writer)
        with pytest.raises(Error):
            await _drain(found[1], [])
        found[1].close()
        writer.close()
        await eventually(lambda: not writes_in(tmp_path))
        assert await read(storage, "key") == b"old"
        assert storage.stats.failures == {"ENOSPC": 1}
        assert storage.stats.aborted_writes == 1
        assert await storage.update_meta(key(), meta()) is False


async def test_disk_full_when_a_small_object_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step fails: nothing is published."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        for name in ("pwritev", "rename"):
            with monkeypatch.context() as patch:
                patch.setattr(os, name, _failing(errno.ENOSPC))
                with pytest.raises(Error, match="FileWriteError"):
                    await fill(storage, "key", b"small")
            await eventually(lambda: not writes_in(tmp_path))
            assert await read(storage, "key") is None
        assert storage.stats.failures == {"ENOSPC": 2}


async def test_a_meta_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one stays, and its body."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        await fill(storage, "key", b"body", meta("old", now=1000.0))
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", _failing(errno.EIO))
            with pytest.raises(Error, match="FileWriteError"):
                await storage.update_meta(key(), meta("new", now=1000.0))
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", lambda *_: 1)
            with pytest.raises(Error, match="FileWriteError"):
                await storage.update_meta(key(), meta("new", now=1000.0))
        found = await storage.lookup(key())
        assert found is not None
        assert found[0].header.get("etag") == '"old"'
        assert await found[1].read_body() == b"body"
        found[1].close()


async def test_a_body_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the medium is an error for the reader, or a miss; the object is not removed."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        await fill(storage, "key", body("x", MIB))
        found = await storage.lookup(key())
        assert found is not None
        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", _failing(errno.EIO))
            patch.setattr(os, "preadv", _failing(errno.EIO))
            with pytest.raises(Error, match="FileReadError"):
                await found[1].read_body()
            assert await storage.lookup(key()) is None
        found[1].close()
        assert storage.stats.failures["EIO"] >= 2
        assert await read(storage, "key") == body("x", MIB)


def _limited() -> str:
    # In a child: what a file may have, and how many may be open, cannot be raised again.
    async def run() -> str:
        directory = Path(os.environ["CACHE_DIRECTORY"])
        async with DiskStorage(directory, max_bytes=1 << 30) as storage:
            resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))
            with pytest.raises(Error):
                await fill(storage, "large", body("x", 3 * MIB))
            await fill(storage, "small", b"x")
            await eventually(lambda: not writes_in(directory))
            return ",".join(storage.stats.failures)

    return asyncio.run(run())


def test_files_may_not_be_so_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of the process (RLIMIT_FSIZE) fails the write, and kills nobody."""
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path))

    assert in_child(_limited) == "EFBIG"


def _out_of_descriptors() -> tuple[bool, str]:
    async def run() -> tuple[bool, str]:
        directory = Path(os.environ["CACHE_DIRECTORY"])
        async with DiskStorage(directory, max_bytes=1 << 30) as storage:
            await fill(storage, "key", b"x")
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            top = os.dup(0)
            os.close(top)
            resource.setrlimit(resource.RLIMIT_NOFILE, (top, hard))
            missed = await storage.lookup(key()) is None
            with pytest.raises(Error):
                await fill(storage, "other", b"x")
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert await read(storage, "key") == b"x"
            await fill(storage, "other", b"x")
            return missed, ",".join(storage.stats.failures)

    return asyncio.run(run())


def test_out_of_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lookups are misses, writes fail; with descriptors again everything is there again."""
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path))

    assert in_child(_out_of_descriptors) == (True, "EMFILE")


def _no_permission() -> tuple[bool, str]:
    async def run() -> tuple[bool, str]:
        directory = Path(os.environ["CACHE_DIRECTORY"])
        async with DiskStorage(directory, max_bytes=1 << 30) as storage:
            await fill(storage, "key", b"x")
            path = object_path(directory, "key")
            path.chmod(0)
            missed = await storage.lookup(key()) is None
            path.parent.chmod(0)
            assert await storage.lookup(key()) is None
            with pytest.raises(Error):
                await fill(storage, "key", b"new")
            with pytest.raises(Error):
                await storage.purge(key().to_compact())
            path.parent.chmod(0o700)
            path.chmod(0o600)
            assert await read(storage, "key") == b"x"
            return missed, ",".join(storage.stats.failures)

    return asyncio.run(run())


def test_permission_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lookups are misses, changes fail, and all is well when it is given back."""
    user = NOBODY if os.geteuid() == 0 else None
    directory = tmp_path / "cache"
    directory.mkdir()
    if user is not None:
        os.chown(directory, user, user)
        for above in (tmp_path, *tmp_path.parents):
            if not above.stat().st_mode & 0o001:
                above.chmod(above.stat().st_mode | 0o011)
    monkeypatch.setenv("CACHE_DIRECTORY", str(directory))

    assert in_child(_no_permission, user=user) == (True, "EACCES")


# ------------------------------------------------------------------ the directory is gone


def _delete(directory: Path) -> None:
    # At once, or what is made meanwhile would be in the way.
    gone = directory.rename(directory.with_name("gone"))
    shutil.rmtree(gone)


async def test_the_directory_is_deleted(tmp_path: Path) -> None:
    """While it is used: readers read on, writes that go on are lost, and then all begins anew."""
    directory = tmp_path / "cache"
    async with DiskStorage(directory, max_bytes=1 << 30) as storage:
        await fill(storage, "key", body("x", MIB))
        await fill(storage, "tagged", b"x", meta(tags=[b"red"]))
        found = await storage.lookup(key())
        assert found is not None
        writer = await begin(storage, "other")
        await writer.write_body(body("y", 300_000), end=False)
        await eventually(lambda: begun_in(directory))
        _delete(directory)

        got = b""
        while piece := await found[1].read_body():
            got += piece
        found[1].close()
        assert got == body("x", MIB)
        assert not (await writer.finish()).published
        assert await read(storage, "key") is None
        await eventually((directory / "journals").exists, timeout=10.0)
        await fill(storage, "key", b"new", meta(tags=[b"red"]))
        await storage.purge_tag(b"blue")
        assert await read(storage, "key") == b"new"
        await eventually(lambda: storage.stats.objects == 1, timeout=10.0)
        await storage.purge_tag(b"red")
        assert await read(storage, "key") is None
    assert verify(directory).unfinished == 0


async def test_written_at_once_after_the_directory_is_deleted(tmp_path: Path) -> None:
    """Nobody has to wait for the folders to be made again."""
    directory = tmp_path / "cache"
    async with DiskStorage(directory, max_bytes=1 << 30) as storage:
        _delete(directory)
        await fill(storage, "key", b"new")
        assert await read(storage, "key") == b"new"


async def test_what_a_dead_process_left(tmp_path: Path) -> None:
    """Files of writes that nobody goes on with are removed; those of others' are left alone."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        writer = await begin(storage, "alive")
        await writer.write_body(b"some", end=False)
        await eventually(lambda: begun_in(tmp_path))
        (alive,) = writes_in(tmp_path)
        left = alive.parent / f"{key('left').hex}.{'0' * 16}"
        shutil.copy(alive, left)
        (tmp_path / f"purges.{'0' * 16}").touch()
        await eventually(lambda: not left.exists(), timeout=10.0)
        assert alive.exists()
        assert await read(storage, "left") is None
        await writer.abort()
    async with DiskStorage(tmp_path, max_bytes=1 << 30):
        await eventually(lambda: not (tmp_path / f"purges.{'0' * 16}").exists())
