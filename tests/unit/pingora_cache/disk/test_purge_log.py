"""The log of purges: all who have it open know the same, whatever becomes of the file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache.disk._purge_log import PurgeLog
from pingora_cache.disk._purge_records import (
    LOG_HEAD,
    Kind,
    LogHead,
    Purges,
    Record,
    Verdict,
    read_records,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Make(Protocol):
    """Opens a log."""

    def __call__(self, most: int = ...) -> PurgeLog: ...


_GONE = Verdict(deleted=True, expired=0.0)
_NOTHING = Verdict(deleted=False, expired=0.0)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Opens logs, all on the same file."""
    logs = []

    def opened(most: int = 1 << 20) -> PurgeLog:
        log = PurgeLog(str(tmp_path / "purges"), most=most)
        logs.append(log)
        log.open()
        return log

    yield opened
    for log in logs:
        log.close()


# ---------------------------------------------------------------------------------- records


@given(
    st.lists(
        st.builds(
            Record,
            st.integers(1, 2**60),
            st.floats(0, 1e10),
            st.sampled_from(Kind),
            st.binary(max_size=300),
        )
    ),
    st.integers(0, 400),
)
def test_records_are_read_back(records: list[Record], cut: int) -> None:
    """They come back as they were; one that is cut off is not read, and is no damage."""
    data = b"".join(record.pack() for record in records)
    assert read_records(data) == (records, len(data), False)

    batch = read_records(data[: max(len(data) - cut, 0)])
    assert batch.records == records[: len(batch.records)]
    assert batch.size == len(b"".join(record.pack() for record in batch.records))
    assert not batch.damaged


@given(st.data())
def test_changed_records_are_noticed(data: st.DataObject) -> None:
    """A record in which a byte has changed is not read, or not complete any more."""
    first, second = (
        Record(1, 2.0, Kind.DELETE_TAG, b"red"),
        Record(2, 2.0, Kind.EXPIRE_KEY, b"k" * 16),
    )
    packed = bytearray(first.pack() + second.pack())
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= data.draw(st.integers(1, 255))

    batch = read_records(bytes(packed))

    assert batch.records in ([], [first])


def test_a_tag_that_is_too_long() -> None:
    """A tag has to fit into a record."""
    with pytest.raises(ValueError, match="65536 bytes is too long"):
        Record(1, 0.0, Kind.DELETE_TAG, bytes(65536)).pack()


# --------------------------------------------------------------------------------- meaning


def _purges(*records: Record, max_tags: int = 100, max_keys: int = 100) -> Purges:
    purges = Purges(LogHead(5), max_tags=max_tags, max_keys=max_keys)
    for record in records:
        purges.add(record)
    return purges


def test_purges_apply_to_what_was_made_before() -> None:
    """An object with the tag from before the purge is gone or expired; a later one is not."""
    purges = _purges(
        Record(1, 10.0, Kind.DELETE_TAG, b"red"), Record(2, 20.0, Kind.EXPIRE_TAG, b"blue")
    )

    assert purges.judge_tags([b"red"], 5, 0) == _GONE
    assert purges.judge_tags([b"red"], 5, 1) == _NOTHING
    assert purges.judge_tags([b"x", b"blue"], 5, 1) == Verdict(deleted=False, expired=20.0)
    assert purges.judge_tags([b"blue", b"red"], 5, 0) == _GONE
    assert purges.judge_tags([b"blue"], 5, 2) == _NOTHING
    assert purges.judge_tags([], 5, 0) == _NOTHING


def test_objects_of_another_log_count_as_purged() -> None:
    """Positions of another log mean nothing: with a tag it may have been purged."""
    assert _purges().judge_tags([b"red"], 6, 0) == _GONE
    assert _purges().judge_write(b"k", [], 6, 0) == _GONE


def test_purges_of_keys_apply_to_writes() -> None:
    """A write that began before a purge of its key, or of a tag of it, is met by it."""
    purges = _purges(
        Record(1, 10.0, Kind.DELETE_KEY, b"a"),
        Record(2, 20.0, Kind.EXPIRE_KEY, b"b"),
        Record(3, 30.0, Kind.EXPIRE_TAG, b"red"),
    )

    assert purges.judge_write(b"a", [], 5, 0) == _GONE
    assert purges.judge_write(b"a", [], 5, 1) == _NOTHING
    assert purges.judge_write(b"b", [], 5, 0) == Verdict(deleted=False, expired=20.0)
    assert purges.judge_write(b"b", [b"red"], 5, 0) == Verdict(deleted=False, expired=30.0)
    assert purges.judge_write(b"a", [b"red"], 5, 0) == _GONE
    assert purges.judge_write(b"c", [b"red"], 5, 3) == _NOTHING


def test_what_is_forgotten_counts_as_purged() -> None:
    """With too many tags all older objects with tags are gone; with too many keys, older writes."""
    tags = [Record(n, 1.0, Kind.DELETE_TAG, b"%d" % n) for n in range(1, 12)]
    purges = _purges(*tags, max_tags=10)
    assert purges.judge_tags([b"other"], 5, 10) == _GONE
    assert purges.judge_tags([b"other"], 5, 11) == _NOTHING
    assert purges.judge_write(b"k", [], 5, 3) == _NOTHING

    keys = [Record(n, 1.0, Kind.DELETE_KEY, b"%d" % n) for n in range(1, 12)]
    purges = _purges(*keys, max_keys=10)
    assert purges.judge_write(b"other", [], 5, 0) == _GONE
    assert purges.judge_write(b"other", [], 5, 1) == _NOTHING
    assert purges.judge_tags([b"other"], 5, 0) == _NOTHING


# ------------------------------------------------------------------------------------- log


def test_all_know_what_one_has_purged(make: Make) -> None:
    """What one adds the others read, and positions are the same for all."""
    one, two = make(), make()
    one.add(Kind.DELETE_TAG, b"red", 1.0)
    two.add(Kind.DELETE_TAG, b"blue", 2.0)

    assert one.refresh()
    assert two.refresh()
    assert one.purges.position == two.purges.position == 2
    assert one.purges.epoch == two.purges.epoch != 0
    assert [*one.purges.records()] == [*two.purges.records()] == [*make().purges.records()]


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(Kind), st.integers(0, 30), st.integers(0, 2)), max_size=120)
)
def test_a_log_that_is_rewritten_means_the_same(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[Kind, int, int]]
) -> None:
    """However often it is rewritten, nobody ever takes a purged object for one that is not."""
    path = str(tmp_path_factory.mktemp("log") / "purges")
    logs = [PurgeLog(path, most=1000) for _ in range(3)]
    truth = Purges(LogHead(0))
    for log in logs:
        log.open()
    for position, (kind, name, who) in enumerate(history, 1):
        logs[who].add(kind, b"%d" % name, 1.0)
        truth.add(Record(position, 1.0, kind, b"%d" % name))
    for log in logs:
        log.catch_up()
        for at in range(len(history) + 1):
            for name in range(31):
                names = [b"%d" % name]
                epoch = log.purges.epoch
                for verdict, real in (
                    (log.purges.judge_tags(names, epoch, at), truth.judge_tags(names, 0, at)),
                    (
                        log.purges.judge_write(names[0], [], epoch, at),
                        truth.judge_write(names[0], [], 0, at),
                    ),
                ):
                    assert verdict in {real, _GONE}
        assert log.purges.position == len(history)
        log.close()


def test_it_stays_short(make: Make, tmp_path: Path) -> None:
    """The same purge again and again does not make it grow; nor do different ones."""
    log, other = make(10_000), make(10_000)
    for _ in range(2000):
        log.add(Kind.DELETE_TAG, b"red", 1.0)
    other.catch_up()
    assert other.purges.tag_floor == 0
    assert other.purges.judge_tags([b"red"], other.purges.epoch, 1999) == _GONE
    assert other.purges.judge_tags([b"red"], other.purges.epoch, 2000) == _NOTHING

    for number in range(2000):
        log.add(Kind.DELETE_TAG, b"%d" % number, 1.0)
    assert (tmp_path / "purges").stat().st_size < 11_000
    assert log.purges.judge_tags([b"1"], log.purges.epoch, 2000) == _GONE


def test_a_record_that_a_dead_process_left_unfinished(make: Make, tmp_path: Path) -> None:
    """It is waited for by readers, and cut off by whoever writes next."""
    one, two = make(), make()
    one.add(Kind.DELETE_TAG, b"red", 1.0)
    torn = Record(2, 1.0, Kind.DELETE_TAG, b"green").pack()[:-2]
    with (tmp_path / "purges").open("ab") as file:
        file.write(torn)
    two.catch_up()
    assert two.purges.position == 1

    one.add(Kind.DELETE_TAG, b"blue", 1.0)
    two.catch_up()
    assert two.purges.judge_tags([b"blue"], two.purges.epoch, 1) == _GONE
    assert two.purges.judge_tags([b"green"], two.purges.epoch, 1) == _NOTHING


@pytest.mark.parametrize("at", [0, 20, LOG_HEAD + 3])
def test_a_damaged_log_is_begun_anew(make: Make, tmp_path: Path, at: int) -> None:
    """Everything with a tag from before counts as purged then."""
    old = make()
    old.add(Kind.DELETE_TAG, b"red", 1.0)
    old.close()
    path = tmp_path / "purges"
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)

    new = make()

    assert new.purges.epoch != old.purges.epoch
    assert new.purges.judge_tags([b"blue"], old.purges.epoch, 9) == _GONE
    new.add(Kind.DELETE_TAG, b"red", 1.0)
    assert make().purges.position == 1


def test_a_log_that_was_deleted_is_begun_anew(make: Make, tmp_path: Path) -> None:
    """By whoever notices first; the others find the new one, folder and all."""
    one, two = make(), make()
    epoch = one.purges.epoch
    (tmp_path / "purges").unlink()

    two.add(Kind.DELETE_TAG, b"red", 1.0)
    assert not one.refresh()
    one.catch_up()
    assert one.purges.epoch == two.purges.epoch != epoch
    assert one.purges.position == 1


def test_a_log_that_cannot_be_opened(make: Make, tmp_path: Path) -> None:
    """What stands in its place is told as a failure, and nothing hangs."""
    (tmp_path / "purges").mkdir()
    with pytest.raises(OSError, match="directory"):
        make()


def test_no_room_for_a_record(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is half there afterwards."""
    log = make()
    log.add(Kind.DELETE_TAG, b"red", 1.0)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
        with pytest.raises(OSError, match="no room"):
            log.add(Kind.DELETE_TAG, b"blue", 1.0)
    log.add(Kind.DELETE_TAG, b"green", 1.0)

    assert make().purges.position == 2
    assert [path.name for path in tmp_path.iterdir()] == ["purges"]
