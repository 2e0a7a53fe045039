"""The manager, step by step: what it counts, what it gives up on, and when it goes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pingora_cache.disk._io import DiskStats
from pingora_cache.disk._journal import Journal
from pingora_cache.disk._manager import Manager
from pingora_cache.disk._shop import Limits
from pingora_cache.disk._tree import Tree, leaf_of
from pingora_cache.disk._usage import UsageFile
from pingora_cache.eviction import SimpleLru
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_cache.disk._usage import Usage

_MAX = 1_600_000
_PAGE = 4096


class _Rig:
    """A directory with a manager and a journal."""

    def __init__(self, directory: Path) -> None:
        self.tree = Tree(directory)
        self.tree.make()
        self.clock = FakeClock()
        self.stats = DiskStats()
        self.manager = self.make()
        self.journal = Journal(self.tree)
        self.journal.open()

    def make(self) -> Manager:
        limits = Limits(_MAX, None)
        return Manager(
            self.tree,
            SimpleLru(limits.capacity),
            limits=limits,
            stats=self.stats,
            clock=self.clock,
        )

    def put(self, number: int, pages: int = 1) -> bytes:
        slot = number.to_bytes(2, "big") + bytes(14)
        path = self.path(slot)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(pages * _PAGE))
        return slot

    def path(self, slot: bytes) -> Path:
        return Path(self.tree.object(slot.hex()))

    def usage(self) -> Usage:
        file = UsageFile(self.tree.usage)
        file.open()
        usage = file.read()
        file.close()
        assert usage is not None
        return usage


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[_Rig]:
    """A rig; its manager is elected."""
    rig = _Rig(tmp_path)
    assert rig.manager.elect()
    yield rig
    rig.manager.resign()
    rig.journal.close()


def test_there_is_one(rig: _Rig) -> None:
    """Another one is not elected before the first has resigned, or its lock was deleted."""
    other = rig.make()
    assert not other.elect()
    assert rig.manager.keeps()
    Path(rig.tree.manager).unlink()
    assert other.elect()
    assert not rig.manager.keeps()
    assert not rig.manager.is_elected
    other.resign()
    assert rig.manager.elect()


def test_a_lock_that_cannot_be_had(rig: _Rig) -> None:
    """Is told, and nothing stays open."""
    rig.manager.resign()
    Path(rig.tree.usage).unlink(missing_ok=True)
    Path(rig.tree.usage).mkdir()
    with pytest.raises(OSError, match="directory"):
        rig.manager.elect()
    assert not rig.manager.is_elected
    Path(rig.tree.usage).rmdir()
    assert rig.manager.elect()


def test_what_journals_name_is_looked_at(rig: _Rig) -> None:
    """What is stored, changed, removed: the disk says what it is."""
    rig.manager.step()
    slots = [rig.put(number) for number in range(5)]
    for slot in slots:
        rig.journal.announce(slot)
        rig.journal.confirm(slot)
    rig.manager.step()
    assert rig.usage()[1:4] == (5 * _PAGE, 0, 5)

    rig.put(0, 3)
    rig.path(slots[1]).unlink()
    rig.journal.look(slots)
    rig.manager.step()
    assert rig.usage()[1:4] == (6 * _PAGE, 0, 4)


def test_what_was_announced_by_a_process_that_died(rig: _Rig) -> None:
    """Is looked at when its journal is given up."""
    rig.manager.step()
    rig.journal.announce(rig.put(1))
    rig.manager.step()
    assert rig.usage().objects == 0
    rig.journal.close()
    rig.manager.step()
    assert rig.usage().objects == 1
    assert not list(Path(rig.tree.journals).iterdir())


def test_the_next_manager_trusts_the_last_one_for_a_while(rig: _Rig) -> None:
    """Until it has seen everything itself, what the last one counted counts."""
    for number in range(300):
        rig.put(number * 7, 1)
    rig.manager.step()
    assert rig.usage().objects == 300
    rig.manager.resign()
    second = rig.make()
    assert second.elect()
    clock, slow = rig.clock, iter(range(10_000))

    def tick() -> float:
        return clock.now + next(slow) * 0.01

    second._clock = tick
    second.step()
    assert 0 < second.objects < 300
    assert rig.usage().used == 300 * _PAGE
    for _ in range(200):
        second.step()
    assert rig.usage()[1:4] == (300 * _PAGE, 0, 300)
    second.resign()


def test_a_walk_that_fails_is_begun_again(rig: _Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be looked at is not taken for nothing."""
    for number in range(10):
        rig.put(number * 256)
    rig.manager.step()
    rig.manager.resign()
    second = rig.make()
    assert second.elect()

    def fail(_: object) -> list[int]:
        raise OSError(24, "no descriptor")

    with monkeypatch.context() as patch:
        patch.setattr(Tree, "leaves", fail)
        with pytest.raises(OSError, match="no descriptor"):
            second.step()
    assert second._counted() == 10 * _PAGE
    second.step()
    assert rig.usage().objects == 10
    second.resign()


def test_folders_that_cannot_be_read(rig: _Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are passed over; their objects are found by the next walk."""
    for number in range(3):
        rig.put(number * 256)
    leaf = Tree.leaf
    bad = leaf_of(b"\1" + bytes(15))

    def some(self: Tree, number: int) -> object:
        if number == bad:
            raise OSError(13, "not yours")
        return leaf(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Tree, "leaf", some)
        rig.manager.step()
    assert rig.usage().objects == 2
    rig.clock.advance(3601)
    rig.manager.step()
    assert rig.usage().objects == 3


def test_what_is_too_much_is_removed(rig: _Rig) -> None:
    """Oldest first, down to what leaves room; the more so if somebody asks for it."""
    slots = [rig.put(number, 10) for number in range(60)]
    for slot in slots:
        rig.journal.announce(slot)
        rig.journal.confirm(slot)
    rig.manager.step()
    capacity = _MAX - _MAX // 16
    assert capacity - 10 * _PAGE < rig.usage().used <= capacity
    assert not rig.path(slots[0]).exists()
    assert rig.path(slots[-1]).exists()

    rig.journal.ask(500_000)
    rig.manager.step()
    assert rig.usage().used <= _MAX - 500_000
    assert rig.stats.evicted_bytes == rig.stats.evictions * 10 * _PAGE


def test_what_cannot_be_removed_is_counted(rig: _Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is not stopped by it for ever, and says so; later it goes."""
    for number in range(60):
        rig.put(number, 10)
    unlink = os.unlink

    def fail(path: str) -> None:
        if "/objects/" in path:
            raise OSError(30, "read only")
        unlink(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", fail)
        with pytest.raises(OSError, match="read only"):
            rig.manager.step()
        assert rig.usage().used == 600 * _PAGE
    rig.clock.advance(3601)
    rig.manager.step()
    assert rig.usage().used <= _MAX


def test_a_step_takes_so_long_at_most(rig: _Rig) -> None:
    """What is left is done by the next ones: journals, walks, evictions."""
    for number in range(200):
        rig.put(number * 16, 10)
    slow = iter(range(100_000))
    rig.manager._clock = lambda: next(slow) * 0.01
    steps = 1
    rig.manager.step()
    while rig.manager.is_busy:
        steps += 1
        rig.manager.step()
    assert steps > 20
    assert rig.usage().used <= _MAX

    for _ in range(3):
        rig.journal.look([b"x" * 16] * 3000)
    rig.manager.step()
    assert rig.manager.is_busy


def test_what_is_not_ours_is_left_alone(rig: _Rig) -> None:
    """Folders with the names of objects, files with strange names, journals that are none."""
    slot = rig.put(1)
    path = rig.path(slot)
    path.unlink()
    path.mkdir()
    (Path(rig.tree.journals) / "folder").mkdir()
    rig.journal.look([slot])
    rig.manager.step()
    assert rig.usage().objects == 0
    assert path.is_dir()
