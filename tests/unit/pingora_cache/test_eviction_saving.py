"""Eviction managers that save their state and load it again."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import logging
import os
import random
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from pingora_cache.eviction import ShardedLru, SimpleLru, TinyUfoEviction, _accounts
from pingora_cache.eviction._file import Block, read, write
from pingora_error import Error, ErrorType
from tests.support.cache_eviction import FRESH, MANAGERS, key_for

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_cache.eviction import EvictionManager

FILES = {
    "SimpleLru": "simple_lru.data",
    "ShardedLru": "lru.data",
    "TinyUfoEviction": "tinyufo.data",
}


@pytest.fixture(params=MANAGERS)
def kind(request: pytest.FixtureRequest) -> str:
    """The name of each kind of manager."""
    name: str = request.param
    return name


def drained(manager: EvictionManager) -> list[str]:
    """Evict everything one by one, and tell the order."""
    order: list[str] = []
    while manager.total_items:
        order += map(str, manager.evict_to(manager.total_size - 1))
    return order


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def test_all_is_there_again(kind: str, tmp_path: Path) -> None:
    """Keys with all they have, and their sizes, are what they were."""
    manager = MANAGERS[kind](1_000_000)
    keys = [
        key_for(number, "tag" * (number % 3), b"v" * 16 if number % 2 else None)
        for number in range(500)
    ]
    for number, key in enumerate(keys):
        manager.admit(key, number, FRESH)

    await manager.save(tmp_path)
    loaded = MANAGERS[kind](1_000_000)

    assert await loaded.load(tmp_path) == 500
    assert (loaded.total_size, loaded.total_items) == (manager.total_size, 500)
    assert all(loaded.peek(key) for key in keys)
    assert names_in(tmp_path) == [FILES[kind]]


async def test_the_order_is_kept(tmp_path: Path) -> None:
    """What was used the longest ago is still the first to go; TinyUFO knows the uses too."""
    for manager, loaded in (
        (SimpleLru(1000), SimpleLru(1000)),
        (TinyUfoEviction(1000), TinyUfoEviction(1000)),
    ):
        for number in range(100):
            manager.admit(key_for(number), 10, FRESH)
        chance = random.Random(2)
        for _ in range(150):
            manager.access(key_for(chance.randrange(100)), 10, FRESH)
        for number in range(100, 130):
            manager.admit(key_for(number), 10, FRESH)

        await manager.save(tmp_path)
        await loaded.load(tmp_path)

        assert drained(loaded) == drained(manager)


async def test_the_order_across_shards_is_kept_roughly(tmp_path: Path) -> None:
    """With other shards than before, the older half still goes before the younger one."""
    manager = ShardedLru(16, 2000)
    for number in range(2000):
        manager.admit(key_for(number), 1, FRESH)
    await manager.save(tmp_path)
    loaded = ShardedLru(5, 2000)
    await loaded.load(tmp_path)

    gone = loaded.evict_to(1000)
    while more := loaded.evict_to(1000):
        gone += more

    old = {key_for(number) for number in range(1000)}
    assert len(gone) == 1000
    assert len(old.intersection(gone)) > 850


async def test_loading_goes_by_and_by(kind: str, tmp_path: Path) -> None:
    """Of many entries that are loaded a hundred or so are added in each turn of the loop."""
    manager = MANAGERS[kind](10_000)
    for number in range(5000):
        manager.admit(key_for(number), 1, FRESH)
    await manager.save(tmp_path)
    loaded = MANAGERS[kind](10_000)
    seen = [0]

    loading = asyncio.create_task(loaded.load(tmp_path))
    while not loading.done():
        await asyncio.sleep(0)
        seen.append(loaded.total_items)

    assert await loading == 5000
    assert max(after - before for before, after in itertools.pairwise(seen)) <= 128


async def test_loading_adds_behind(kind: str, tmp_path: Path) -> None:
    """What is known already stays as it is; what is loaded is older than that."""
    manager = MANAGERS[kind](1000)
    manager.admit(key_for("a"), 10, FRESH)
    manager.admit(key_for("b"), 10, FRESH)
    await manager.save(tmp_path)
    loaded = MANAGERS[kind](1000)
    loaded.admit(key_for("b"), 50, FRESH)

    assert await loaded.load(tmp_path) == 1

    assert loaded.total_size == 60
    if kind != "ShardedLru":  # there, the two may be in different shards
        assert loaded.evict_to(50) == [key_for("a")]


async def test_nothing_saved(kind: str, tmp_path: Path) -> None:
    """Without a file, or a directory, there is nothing to load."""
    manager = MANAGERS[kind](100)

    assert await manager.load(tmp_path) == 0
    assert await manager.load(tmp_path / "missing") == 0


async def test_empty(kind: str, tmp_path: Path) -> None:
    """A manager without objects saves that, in a directory that it makes."""
    manager = MANAGERS[kind](100)

    await manager.save(tmp_path / "new" / "one")

    assert await manager.load(str(tmp_path / "new" / "one")) == 0


async def test_saving_replaces_what_was_saved(kind: str, tmp_path: Path) -> None:
    """The last state that was saved is the one that is loaded."""
    manager = MANAGERS[kind](100)
    manager.admit(key_for("a"), 1, FRESH)
    await manager.save(tmp_path)
    manager.remove(key_for("a"))
    manager.admit(key_for("b"), 1, FRESH)
    await manager.save(tmp_path)
    loaded = MANAGERS[kind](100)

    assert await loaded.load(tmp_path) == 1

    assert loaded.peek(key_for("b"))


async def test_changes_while_saving(kind: str, tmp_path: Path) -> None:
    """Objects that come and go while a state is saved leave all others as they are."""
    manager = MANAGERS[kind](10_000)
    for number in range(1000):
        manager.admit(key_for(number), 1, FRESH)
    done = asyncio.Event()

    async def change() -> None:
        number = 1000
        while not done.is_set():
            manager.remove(key_for(number - 900))
            manager.admit(key_for(number), 3, FRESH)
            manager.admit(key_for(f"also {number}"), 3, FRESH)
            manager.access(key_for(number % 100), 1, FRESH)
            number += 1
            await asyncio.sleep(0)

    changing = asyncio.create_task(change())
    await manager.save(tmp_path)
    done.set()
    await changing
    loaded = MANAGERS[kind](10_000)
    await loaded.load(tmp_path)

    lasting = [key for key in map(key_for, range(1000)) if manager.peek(key)]
    assert len(lasting) >= 100
    assert all(map(loaded.peek, lasting))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:-1], id="cut off"),
        pytest.param(lambda data: data[:20], id="within the header"),
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda data: b"\0" * len(data), id="zeros"),
        pytest.param(lambda data: data[:7] + b"\x02" + data[8:], id="another version"),
        pytest.param(lambda data: data[:-30] + b"x" + data[-29:], id="altered"),
        pytest.param(lambda data: data[:24] + b"\xff" * 16 + data[40:], id="counts"),
        pytest.param(lambda data: data + b"\0", id="longer"),
    ],
)
async def test_damage(
    kind: str, damage: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged file is not read: there is a warning, and nothing is loaded."""
    manager = MANAGERS[kind](100)
    for name in "abc":
        manager.admit(key_for(name), 10, FRESH)
    await manager.save(tmp_path)
    path = tmp_path / FILES[kind]
    assert callable(damage)
    path.write_bytes(damage(path.read_bytes()))
    loaded = MANAGERS[kind](100)

    with caplog.at_level(logging.WARNING):
        assert await loaded.load(tmp_path) == 0

    assert "is not used" in caplog.text
    assert loaded.total_items == 0
    loaded.admit(key_for("d"), 1, FRESH)
    await loaded.save(tmp_path)
    assert await MANAGERS[kind](100).load(tmp_path) == 1


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=200), st.integers(0, 200))
def test_garbage(tmp_path: Path, garbage: bytes, at: int) -> None:
    """Whatever is in the file, it is read as it was written or not at all."""
    path = tmp_path / "lru.data"
    write(path, [Block([b"k" * 16, b"l" * 16 + b"\0tag"], [5, 6], b"\0\1")])
    data = path.read_bytes()
    altered = data[:at] + garbage + data[at + len(garbage) :]
    path.write_bytes(altered)

    found = read(path)

    assert bool(found) is (altered == data)


@pytest.mark.parametrize(
    "block",
    [
        Block([b"k" * 16], [0], b"\0"),
        Block([b"k" * 15], [1], b"\0"),
        Block([b"k" * 16 + b"\2"], [1], b"\0"),
        Block([b"k" * 16 + b"\0\xff"], [1], b"\0"),
    ],
)
def test_nonsense_with_a_good_checksum(tmp_path: Path, block: Block) -> None:
    """Weights and keys that cannot be are refused though nothing was damaged."""
    write(tmp_path / "x", [Block([b"k" * 16], [1], b"\0"), block])

    assert read(tmp_path / "x") == []


async def test_temp_file_cleanup(kind: str, tmp_path: Path) -> None:
    """Loading removes what killed writers have left, and nothing else."""
    manager = MANAGERS[kind](100)
    manager.admit(key_for("a"), 1, FRESH)
    await manager.save(tmp_path)
    name = FILES[kind]
    left = [tmp_path / f"{name}.0123abcd.tmp", tmp_path / f"{name}.tmp.tmp"]
    others = [tmp_path / "other.data.1.tmp", tmp_path / f"{name}.bak", tmp_path / f"x{name}.1.tmp"]
    for path in (*left, *others):
        path.write_bytes(b"")

    assert await MANAGERS[kind](100).load(tmp_path) == 1

    assert [path.exists() for path in left] == [False, False]
    assert all(path.exists() for path in others)
    assert (tmp_path / name).exists()


async def test_a_file_that_is_being_written_is_left_alone(kind: str, tmp_path: Path) -> None:
    """What another process is writing just now is not removed."""
    path = tmp_path / f"{FILES[kind]}.0123abcd.tmp"
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        await MANAGERS[kind](100).load(tmp_path)
        assert path.exists()

    await MANAGERS[kind](100).load(tmp_path)
    assert not path.exists()


async def test_saving_fails(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If saving fails, it says so, what was saved before is there, and nothing is left over."""
    manager = MANAGERS[kind](100)
    manager.admit(key_for("a"), 1, FRESH)
    await manager.save(tmp_path)
    manager.admit(key_for("b"), 1, FRESH)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(Error) as caught:
            await manager.save(tmp_path)

    assert caught.value.etype is ErrorType.FILE_WRITE_ERROR
    assert names_in(tmp_path) == [FILES[kind]]
    assert await MANAGERS[kind](100).load(tmp_path) == 1


async def test_paths_that_cannot_be(kind: str, tmp_path: Path) -> None:
    """A directory in place of the file, or a file in place of the directory, is an error."""
    manager = MANAGERS[kind](100)
    (tmp_path / FILES[kind]).mkdir()
    with pytest.raises(Error) as caught:
        await manager.load(tmp_path)
    assert caught.value.etype is ErrorType.FILE_READ_ERROR

    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Error) as caught:
        await manager.save(tmp_path / "file")
    assert caught.value.etype is ErrorType.FILE_WRITE_ERROR


async def test_loading_goes_in_steps(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a bounded number of entries, the loop does other things."""
    monkeypatch.setattr(_accounts, "BLOCK", 100)
    manager = MANAGERS[kind](10_000)
    for number in range(1000):
        manager.admit(key_for(number), 1, FRESH)
    await manager.save(tmp_path)
    loaded = MANAGERS[kind](10_000)
    seen = set()

    async def watch() -> None:
        while loaded.total_items < 1000:
            seen.add(loaded.total_items)
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    await loaded.load(tmp_path)
    await watching

    assert seen == set(range(0, 1000, 100))


async def test_big_endian_machines_write_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers are turned round on the way in and out where that is needed."""
    other = "big" if sys.byteorder == "little" else "little"
    monkeypatch.setattr(sys, "byteorder", other)

    write(tmp_path / "x", [Block([b"k" * 16], [1], b"\0")])
    [found] = read(tmp_path / "x")

    assert (list(found.names), list(found.weights), found.states) == ([b"k" * 16], [1], b"\0")
