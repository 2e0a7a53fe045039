"""Reading on the loop what is in memory, and in a thread what is not; and checking it all."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pingora_cache.disk import DiskStorage, Verification, verify
from pingora_cache.disk._descriptor import Cold, Descriptor, Reader
from pingora_cache.disk._layout import FRONT, META_AT
from tests.support.cache_disk import MIB, begin, body, fill, meta, object_path, read

if TYPE_CHECKING:
    from collections.abc import Iterator

_MEMORY = Path("/dev/shm")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """A file of 100,000 bytes."""
    path = tmp_path / "file"
    path.write_bytes(body("file", 100_000))
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_what_is_in_memory_is_read(file: int) -> None:
    """As many bytes as there are."""
    reader = Reader(inline=True)
    data = body("file", 100_000)

    assert reader.front(file) == data[:FRONT]
    assert reader.read(file, 1, 7) == data[7:8]
    assert reader.read(file, 50_000, 60_000) == data[60_000:]


def test_what_is_not_in_memory_is_refused(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading it would hold up the loop."""

    def nowait(*_: object) -> int:
        raise BlockingIOError

    reader = Reader(inline=True)
    monkeypatch.setattr(os, "preadv", nowait)
    with pytest.raises(Cold):
        reader.front(file)
    with pytest.raises(Cold):
        reader.read(file, 10, 0)


@pytest.mark.parametrize("first", ["front", "read"])
def test_file_systems_that_cannot_tell(
    file: int, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Are read from on the loop; whether they can is asked once."""
    asked = []

    def nowait(*_: object) -> int:
        asked.append(1)
        raise OSError(errno.EOPNOTSUPP, "not here")

    reader = Reader(inline=True)
    monkeypatch.setattr(os, "preadv", nowait)
    for _ in range(2):
        if first == "front":
            assert reader.front(file) == body("file", 100_000)[:FRONT]
        assert reader.read(file, 10, 0) == body("file", 100_000)[:10]
    assert len(asked) == 2


def test_real_trouble_is_no_question_of_the_file_system(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that comes with the question and without it is told."""

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "broken")

    reader = Reader(inline=True)
    monkeypatch.setattr(os, "preadv", broken)
    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(OSError, match="broken"):
        reader.front(file)
    with pytest.raises(OSError, match="broken"):
        reader.read(file, 10, 0)


def test_trouble_that_passes(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is gone when it is looked into is told, and the next question asked again."""
    answers = iter(
        [OSError(errno.EIO, "broken"), None, OSError(errno.EIO, "broken"), BlockingIOError()]
    )
    preadv = os.preadv

    def flaky(*arguments: object) -> int:
        answer = next(answers, None)
        if answer is not None:
            raise answer
        return preadv(*arguments)  # type: ignore[arg-type]

    reader = Reader(inline=True)
    monkeypatch.setattr(os, "preadv", flaky)
    for _ in range(2):
        with pytest.raises(OSError, match="broken"):
            reader.front(file)
    assert reader.front(file) == body("file", 100_000)[:FRONT]


def test_a_descriptor_has_users(tmp_path: Path) -> None:
    """It is closed when the last of them is done."""
    fd = os.open(tmp_path, os.O_RDONLY)
    descriptor = Descriptor(fd)
    descriptor.hold()
    descriptor.release()
    os.fstat(fd)
    descriptor.release()
    assert descriptor.fd == -1
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(fd)


async def test_objects_that_are_on_the_disk_only(tmp_path: Path) -> None:
    """What the system has forgotten is read in threads, small and large."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30, sync=True) as storage:
        for size in (10, 50_000, 2 * MIB):
            await fill(storage, "key", body(size, size))
            fd = os.open(object_path(tmp_path, "key"), os.O_RDWR)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
            assert await read(storage, "key") == body(size, size)


@pytest.mark.skipif(not os.access(_MEMORY, os.W_OK), reason="there is no tmpfs to write to")
async def test_a_store_in_memory() -> None:
    """A tmpfs holds one too."""
    with tempfile.TemporaryDirectory(dir=_MEMORY) as directory:
        async with DiskStorage(directory, max_bytes=1 << 24) as storage:
            for size in (10, 50_000, 2 * MIB):
                await fill(storage, "key", body(size, size))
                assert await read(storage, "key") == body(size, size)


# ------------------------------------------------------------------------------- verifying


async def test_all_is_well(tmp_path: Path) -> None:
    """A verification counts what is there."""
    sizes = (0, 100, 300_000, 20 * MIB)
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        for size in sizes:
            await fill(storage, str(size), body("x", MIB) * (size // MIB) + body("x", size % MIB))
        writer = await begin(storage, "writing")
        await writer.write_body(body("x", 300_000), end=False)
        await writer.write_body(body("x", 900_000), end=False)
        found = verify(tmp_path)
        await writer.abort()

    assert (found.objects, found.body_bytes, found.unfinished) == (4, sum(sizes), 1)
    assert sum(sizes) < found.used_bytes < sum(sizes) + 40_000
    assert found.damaged == {}


async def test_damage_is_found(tmp_path: Path) -> None:
    """Wherever it is; nothing is removed."""
    async with DiskStorage(tmp_path, max_bytes=1 << 30) as storage:
        for name in ("head", "meta", "body", "end", "other", "link"):
            await fill(storage, name, body(name, 600_000), meta(filler=100))
    for name, at in (("head", 3), ("meta", META_AT + 9), ("body", 500_000)):
        path = object_path(tmp_path, name)
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)
    os.truncate(object_path(tmp_path, "end"), 500_000)
    object_path(tmp_path, "other").write_bytes(object_path(tmp_path, "body").read_bytes())
    object_path(tmp_path, "link").unlink()
    object_path(tmp_path, "link").mkdir()

    found = verify(tmp_path)

    assert found.objects == 5
    assert {Path(path).name: why for path, why in found.damaged.items()} == {
        object_path(tmp_path, name).name: why
        for name, why in (
            ("head", "head"),
            ("meta", "meta"),
            ("body", "body"),
            ("end", "body"),
            ("other", "head"),
        )
    }
    assert object_path(tmp_path, "head").exists()


def test_nothing_to_verify(tmp_path: Path) -> None:
    """A folder that is not there is told; an empty store is not damaged."""
    with pytest.raises(OSError, match="No such file"):
        verify(tmp_path / "nothing")
    (tmp_path / "objects").mkdir()
    (tmp_path / "filling").mkdir()
    assert verify(tmp_path) == Verification()
