"""The parts of the store in memory: bodies, records, tables, purges by tag, and walks."""

from __future__ import annotations

import asyncio
import gc
import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache._handlers import WRITE_FAILED
from pingora_cache.key import CacheKey
from pingora_cache.memory._body import PIECE, Body
from pingora_cache.memory._records import Entry, Record, pack_tags, unpack_tags, weigh
from pingora_cache.memory._sweeper import Sweeper
from pingora_cache.memory._table import Table
from pingora_cache.memory._tag_purges import TagPurges
from pingora_cache.memory._trash import Trash
from pingora_cache.testing.harness import make_body, make_meta
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

_BODY = make_body("body", 3 * PIECE + 1000)
_SIZES = st.sampled_from(
    [0, 1, 100, 4095, 4096, 4097, 65_536, PIECE - 1, PIECE, PIECE + 1, 600_000]
)
_NUMBERS = st.integers(-(1 << 62), 1 << 62)


def _body() -> Body:
    return Body(b"slot", 60.0, None)


def _all(body: Body, position: int = 0) -> bytes:
    taken = bytearray()
    while (piece := body.take(position + len(taken))) is not None:
        taken += piece
    return bytes(taken)


# ----------------------------------------------------------------------------------- bodies


@settings(max_examples=40)
@given(st.lists(_SIZES, max_size=6), st.data())
def test_a_body_is_there_from_any_position_at_any_time(
    sizes: list[int], data: st.DataObject
) -> None:
    """Whatever the chunks, what follows a position is the same before and after the end."""

    async def check() -> None:
        body, written = _body(), b""
        for size in sizes:
            chunk = _BODY[len(written) : len(written) + size]
            body.append(chunk)
            written += chunk
            position = data.draw(st.integers(0, len(written)))
            assert body.size == len(written)
            assert _all(body, position) == written[position:]
        body.end()
        position = data.draw(st.integers(0, len(written)))
        assert _all(body, position) == written[position:]
        assert b"".join(body.pieces) == written
        assert all(len(piece) == PIECE for piece in body.pieces[:-1])

    asyncio.run(check())


async def test_chunks_are_handed_on_as_they_are() -> None:
    """Neither who follows a write nor who reads it afterwards copies a chunk that is large enough."""
    body, chunk = _body(), bytes(PIECE)
    body.append(chunk)
    body.append(b"x" * 10_000)
    taken = body.take(0)
    body.end()

    assert taken is chunk
    assert body.take(0) is chunk


async def test_tiny_chunks_are_joined() -> None:
    """A body that comes byte by byte does not become a list of bytes."""
    body = _body()
    for _ in range(20_000):
        body.append(b"x")

    assert len(body._tail) <= 5
    assert _all(body) == b"x" * 20_000


async def test_the_first_end_counts() -> None:
    """A body that is complete cannot fail, and one that has failed cannot become complete."""
    complete, failed = _body(), _body()
    complete.append(b"x")
    complete.end()
    complete.fail(WRITE_FAILED, "too late")
    failed.append(b"x")
    failed.fail(WRITE_FAILED, "first")
    failed.end()
    failed.fail(WRITE_FAILED, "second")

    assert (complete.complete, complete.failure) == (True, None)
    assert (failed.complete, failed.failure) == (False, (WRITE_FAILED, "first"))
    assert failed.pieces == []


async def test_all_who_wait_are_woken() -> None:
    """Once for what is new; who has left, or was cancelled, does not matter."""
    body = _body()
    waiters = [body.wait() for _ in range(4)]
    waiters[0].cancel()
    body.leave(waiters[1])
    body.leave(waiters[1])
    body.append(b"")
    assert not waiters[2].done()
    body.append(b"x")

    assert [waiter.done() for waiter in waiters] == [True, False, True, True]
    body.end()


async def test_a_stall_is_noticed_while_somebody_waits() -> None:
    """Not before the time is up since the last sign of life; when none has come, at once."""
    stalls: list[None] = []
    body = Body(b"slot", 60.0, lambda: stalls.append(None))
    waiter = body.wait()
    body._look()
    assert not stalls
    assert body._watch is not None
    body._progress -= 59.0
    assert not body.stalled()
    body.append(b"")
    body._progress -= 59.0
    body._look()
    assert not stalls
    body._progress -= 2.0
    assert body.stalled()
    body._look()
    assert len(stalls) == 1
    body.leave(waiter)
    body.fail(WRITE_FAILED, "")

    assert not body.stalled()
    assert body._watch is None


async def test_the_timer_of_a_stall_is_real() -> None:
    """Nobody has to look."""
    stalls: list[None] = []
    body = Body(b"slot", 0.01, lambda: stalls.append(None))
    waiter = body.wait()
    await eventually(lambda: stalls)
    body.leave(waiter)
    body.end()


async def test_nobody_waits_for_a_stall() -> None:
    """When all who waited have left, nothing is given up."""
    stalls: list[None] = []
    body = Body(b"slot", 60.0, lambda: stalls.append(None))
    body.leave(body.wait())
    body._progress -= 100.0
    body._look()

    assert body.stalled()
    assert not stalls
    body.end()


def test_a_reader_whose_loop_is_gone() -> None:
    """It is not woken, which would fail."""
    loop = asyncio.new_event_loop()

    async def leave_waiting() -> Body:
        body = _body()
        waiter = body.wait()
        waiter.add_done_callback(lambda _: None)
        return body

    body = loop.run_until_complete(leave_waiting())
    loop.close()
    body.fail(WRITE_FAILED, "")

    assert body.failure is not None


# ---------------------------------------------------------------------------------- records


@given(
    st.tuples(_NUMBERS, _NUMBERS, _NUMBERS, _NUMBERS),
    st.floats(allow_nan=False),
    st.tuples(*[st.binary(max_size=40)] * 4),
)
def test_a_record_comes_back(
    numbers: tuple[int, int, int, int], expired: float, texts: tuple[bytes, bytes, bytes, bytes]
) -> None:
    """Packing and unpacking are inverse."""
    record = Record(*numbers, expired, *texts)

    assert Record.unpack(record.pack()) == record


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_tags_come_back(tags: list[bytes]) -> None:
    """Packing and unpacking are inverse."""
    assert unpack_tags(pack_tags(tags)) == tags


def test_whether_purges_may_concern_a_record() -> None:
    """They do if it has tags and is older."""

    def record(epoch: int, tags: bytes) -> bytes:
        return Record(epoch, 0, 0, -1, 0.0, b"key", tags, b"meta", b"").pack()

    assert Record.is_tagged_before(record(4, b"x"), 5)
    assert not Record.is_tagged_before(record(5, b"x"), 5)
    assert not Record.is_tagged_before(record(4, b""), 5)


def test_an_entry_is_a_record_ready_to_use() -> None:
    """Its meta is expired if the object is, and its body is where it says."""
    meta = make_meta(tags=[b"a"])
    key = CacheKey("key", user_tag="who")
    packed, tags = meta.to_bytes(), pack_tags(meta.tags)
    record = Record(3, 9, 4, -1, 0.0, key.to_compact().to_bytes(), tags, packed, b"body")
    entry = Entry(record.pack())
    expired = Entry(record._replace(expired=1000.0).pack())

    assert entry.meta.header == meta.header
    assert entry.key == key.to_compact()
    assert entry.data[entry.body_at :] == b"body"
    assert (entry.epoch, entry.weight, entry.size, entry.first) == (3, 9, 4, -1)
    assert expired.meta.fresh_until == 999.0
    assert weigh(packed, tags) > len(packed) + len(tags)


# ---------------------------------------------------------------------------------- tables


def test_a_table_counts() -> None:
    """Objects are counted as they come and go."""
    table = Table()
    slots = [bytes([number % 256]) * 16 for number in range(256)]
    for slot in slots:
        table.put(slot, b"1")
        table.put(slot, b"2")
    assert table.objects == 256
    assert table.get(slots[7]) == b"2"
    assert table.pop(slots[7]) == b"2"
    assert table.pop(slots[7]) is None
    assert table.get(slots[7]) is None

    assert table.objects == 255
    table.clear()
    assert (table.objects, table.get(slots[0])) == (0, None)


def test_pieces_are_found_by_number() -> None:
    """Each body has numbers of its own."""
    table = Table()
    first = table.put_pieces([b"a", b"b"])
    other = table.put_pieces([b"c"])
    assert table.pieces(first, 2) == [b"a", b"b"]
    assert table.pop_pieces(first, 2) == [b"a", b"b"]

    assert table.pieces(other, 1) == [b"c"]
    assert table.pieces(0, 0) == []


def test_a_walk_bears_changes() -> None:
    """What is added or removed meanwhile disturbs it not; what stays is met once."""
    table = Table()
    slots = [bytes([number % 256, number // 256]) * 8 for number in range(600)]
    for slot in slots:
        table.put(slot, b"")
    met = []
    for number, slot in enumerate(table.slots()):
        met.append(slot)
        table.put(bytes([number % 256, 77]) * 8, b"")
        table.pop(slots[number % 600])

    assert len(met) == len(set(met))
    assert set(met) <= {*slots, *(bytes([number, 77]) * 8 for number in range(256))}


@pytest.mark.skipif(
    not gc.is_tracked([]) or gc.is_tracked({b"": b""}), reason="this Python tracks all dictionaries"
)
def test_the_garbage_collector_has_nothing_to_walk_through() -> None:
    """Tables hold bytes and numbers only, which is what they are for."""
    table = Table()
    for number in range(1000):
        table.put(number.to_bytes(2, "big") * 8, b"record")
    table.put_pieces([b"piece"] * 1000)

    assert not any(map(gc.is_tracked, itertools.chain(table._records, table._pieces)))


# ----------------------------------------------------------------------------- purges by tag


_TAG = st.sampled_from([b"a", b"b", b"c", b"d"])
_DOING = st.one_of(
    st.tuples(st.just("delete"), _TAG),
    st.tuples(st.just("expire"), _TAG),
    st.tuples(st.just("publish"), st.lists(_TAG, max_size=2)),
    st.tuples(st.just("forget"), st.none()),
)


@settings(max_examples=150)
@given(st.lists(_DOING, max_size=25))
def test_purges_by_tag_are_as_if_done_at_once(doings: list[tuple[str, object]]) -> None:
    """Asking later comes to the same as a list of who has what tag."""
    purges, now = TagPurges(), 1.0
    known: list[tuple[list[bytes], int]] = []
    deleted, expired = set[int](), dict[int, float]()
    for what, tag in doings:
        now += 1.0
        match what, tag:
            case "delete", bytes():
                purges.delete(tag)
                deleted |= {n for n, (tags, _) in enumerate(known) if tag in tags}
            case "expire", bytes():
                purges.expire(tag, now)
                expired |= {n: now for n, (tags, _) in enumerate(known) if tag in tags}
            case "publish", list():
                known.append((tag, purges.epoch))
            case _:
                # As after a walk: nothing older than the last purge is left unapplied.
                purges.forget(purges.epoch)
                known = [(tags, purges.epoch) for tags, _ in known]
                assert not purges
                deleted, expired = set(), {}
        for number, (tags, epoch) in enumerate(known):
            verdict = purges.judge(tags, epoch)
            assert verdict.deleted == (number in deleted)
            if not verdict.deleted:
                assert verdict.expired == expired.get(number, 0.0)


def test_too_many_tags_to_remember() -> None:
    """Then everything older that has a tag counts as deleted; what is newer does not."""
    purges = TagPurges(max_tags=10)
    for number in range(11):
        purges.delete(b"%d" % number)

    assert purges.judge([b"other"], 0).deleted
    assert purges.judge([b"10"], 10).deleted
    assert not purges.judge([b"other"], 11).deleted
    assert not purges.judge([], 0).deleted
    assert len(purges._deleted) == 1
    purges.forget(11)
    assert not purges


# ------------------------------------------------------------------------------------ walks


async def test_a_walk_in_small_steps() -> None:
    """It runs to its end beside other work; when asked meanwhile, once more."""
    walks: list[int] = []

    def walk() -> Iterator[None]:
        walks.append(0)
        for _ in range(300):
            walks[-1] += 1
            yield

    sweeper = Sweeper(walk)
    sweeper.start()
    sweeper.start()
    sweeper.start()
    assert sweeper.busy
    await eventually(lambda: not sweeper.busy)

    assert walks == [300, 300]
    sweeper.close()


async def test_a_walk_that_is_stopped() -> None:
    """It does not go on, however long it was to be."""
    steps = itertools.count()
    seen: list[int] = []

    def walk() -> Iterator[None]:
        for step in steps:
            seen.append(step)
            yield

    sweeper = Sweeper(walk)
    sweeper.start()
    await eventually(lambda: seen)
    sweeper.close()
    sweeper.close()
    count = len(seen)
    sweeper._step()

    assert len(seen) == count
    assert not sweeper.busy


# ------------------------------------------------------------------------------------ trash


async def test_what_is_large_is_freed_in_small_steps() -> None:
    """It counts until it is gone, and goes at once as far as the room is needed."""
    trash = Trash()
    small, large = [b"x"] * 64, [b"12345"] * 1000
    trash.add(small)
    assert (small, trash.size) == ([], 0)
    trash.add(large)
    assert (large, trash.size) == ([], 5000)
    trash.burn(12)
    assert trash.size == 4985
    trash.add([b"1"] * 100)
    trash.burn(10_000)
    assert trash.size == 0
    trash.add([b"1"] * 100)
    await eventually(lambda: not trash.size)
    trash.add([b"1"] * 100)
    trash.close()
    assert trash.size == 0
    trash.add([b"1"] * 100)

    assert trash.size == 0


def test_without_a_loop_all_is_freed_at_once() -> None:
    """As when a reader is forgotten until there is no loop any more."""
    trash = Trash()
    trash.add([b"1"] * 100)

    assert trash.size == 0
