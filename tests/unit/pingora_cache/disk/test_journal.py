"""Journals: what processes tell the manager, and what remains of those that have died."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pingora_cache.disk._journal import Journal, JournalReader, Note, Saying
from pingora_cache.disk._tree import Tree

if TYPE_CHECKING:
    from collections.abc import Iterator

_A, _B = b"a" * 16, b"b" * 16


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A directory."""
    tree = Tree(tmp_path)
    tree.make()
    return tree


@pytest.fixture
def journal(tree: Tree) -> Iterator[Journal]:
    """A journal in it."""
    journal = Journal(tree)
    journal.open()
    yield journal
    journal.close()


def _journals(tree: Tree) -> list[Path]:
    return list(Path(tree.journals).iterdir())


def _reader(tree: Tree) -> JournalReader:
    (path,) = _journals(tree)
    return JournalReader(str(path))


def test_what_is_told_is_read(tree: Tree, journal: Journal) -> None:
    """In order; announcements are kept until they are confirmed."""
    reader = _reader(tree)
    journal.announce(_A)
    journal.announce(_B)
    journal.look([_B])
    journal.confirm(_A)
    journal.ask(1000)

    notes = reader.read()

    assert notes[:2] == [Note(Saying.LOOK, _B), Note(Saying.STORED, _A)]
    assert int.from_bytes(notes[2].slot, "little") == 1000
    assert reader.announced == {_B: 1}
    assert reader.read() == []
    assert not reader.is_left()
    journal.confirm(_B)
    assert reader.read() == [Note(Saying.STORED, _B)]
    assert reader.announced == {}
    reader.close()


def test_two_writes_of_one_key(tree: Tree, journal: Journal) -> None:
    """One that is confirmed does not confirm the other."""
    reader = _reader(tree)
    journal.announce(_A)
    journal.announce(_A)
    journal.confirm(_A)
    reader.read()

    assert reader.announced == {_A: 1}
    reader.close()


def test_a_journal_of_a_process_that_ended(tree: Tree, journal: Journal) -> None:
    """It is left once all of it was read, with what was announced, and is deleted then."""
    reader = _reader(tree)
    journal.announce(_A)
    journal.close()
    assert not reader.is_left()
    reader.read()

    assert reader.is_left()
    assert reader.announced == {_A: 1}
    reader.delete()
    assert _journals(tree) == []


def test_records_that_are_damaged_or_unfinished(tree: Tree, journal: Journal) -> None:
    """They are passed over, and those that follow are read."""
    journal.look([_A, _B])
    (path,) = _journals(tree)
    with path.open("r+b") as file:
        file.seek(10)
        file.write(b"!")
        file.seek(0, os.SEEK_END)
        file.write(b"torn")
    reader = JournalReader(str(path))

    assert reader.read() == [Note(Saying.LOOK, _B)]
    journal.close()
    assert reader.is_left()
    reader.close()


def test_no_room_in_the_journal(
    tree: Tree, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be announced is not; the records stay in line."""
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
        with pytest.raises(OSError, match="no room"):
            journal.announce(_A)
    journal.look([_B])
    reader = _reader(tree)

    assert reader.read() == [Note(Saying.LOOK, _B)]
    assert reader.announced == {}
    reader.close()


def test_a_long_journal_is_replaced(tree: Tree, journal: Journal) -> None:
    """By a new one, while nothing is announced; the old one is left to the manager."""
    journal.look([_A] * 50_000)
    journal.announce(_B)
    journal.renew()
    assert len(_journals(tree)) == 1
    journal.confirm(_B)
    journal.renew()

    assert len(_journals(tree)) == 2


def test_a_deleted_journal_is_replaced(tree: Tree, journal: Journal) -> None:
    """Somebody has deleted it: there is a new one soon."""
    (path,) = _journals(tree)
    path.unlink()
    journal.renew()
    journal.look([_A])
    reader = _reader(tree)

    assert reader.read() == [Note(Saying.LOOK, _A)]
    reader.close()


def test_a_journal_that_is_closed(journal: Journal) -> None:
    """Nothing can be announced any more."""
    journal.close()
    journal.renew()
    with pytest.raises(OSError, match="closed"):
        journal.announce(_A)
