"""Two stores that are one: what happens in between. Nothing that was purged comes back."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from pingora_cache.admission import AlwaysAdmit
from pingora_cache.memory import MemoryStorage
from pingora_cache.storage import MissHandler, PurgeAction, PurgeKind
from pingora_cache.testing.harness import make_key, make_meta
from pingora_cache.tiered import TieredStorage
from pingora_error import Error
from tests.support.cache_objects import begin, drain, find, read, write
from tests.support.cache_store import PlainStore
from tests.support.cache_tiers import BODY, HASH, KEY, TROUBLE, Pair
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Purge = Callable[[Pair], Awaitable[object]]


@pytest.fixture
def pair() -> Pair:
    return Pair()


async def _by_key(pair: Pair) -> None:
    await pair.storage.purge(KEY.to_compact())


async def _by_tag(pair: Pair) -> None:
    await pair.storage.purge_tag(b"a")


async def _softly(pair: Pair) -> None:
    await pair.storage.purge(KEY.to_compact(), action=PurgeAction.EXPIRE)


async def _evict(pair: Pair) -> None:
    await pair.storage.purge(KEY.to_compact(), kind=PurgeKind.EVICTION)


_PURGES = pytest.mark.parametrize("purge", [_by_key, _by_tag, _softly, _evict])


async def _held(store: PlainStore, name: str, doing: Awaitable[object]) -> asyncio.Task[object]:
    """Begin something, up to where it calls a store, which does not answer until told."""
    store.gate(name)
    before = len(store.calls)

    async def do() -> object:
        return await doing

    task = asyncio.create_task(do())
    await eventually(lambda: name in store.calls[before:], name)
    return task


async def _go_on(store: PlainStore, name: str, task: asyncio.Task[object]) -> object:
    store.gates.pop(name).set()
    return await asyncio.wait_for(task, 10)


def _is_purged(pair: Pair) -> bool:
    found = pair.first.objects.get(HASH)
    return found is None or not found.meta.is_fresh(time.time())


# ------------------------------------------------------------------------------ copies


@_PURGES
async def test_a_purge_before_the_body_is_read(pair: Pair, purge: Purge) -> None:
    """What was found before is read, and not copied."""
    pair.put_second(meta=make_meta(tags=[b"a"]))
    reader = await find(pair.storage)
    await purge(pair)

    assert await drain(reader) == BODY
    assert not pair.first.objects
    pair.check_idle()


@_PURGES
async def test_a_purge_while_the_body_is_read(pair: Pair, purge: Purge) -> None:
    """It is not copied."""
    pair.put_second(meta=make_meta(tags=[b"a"]))
    reader = await find(pair.storage)
    assert await reader.read_body() == BODY[:5]
    await purge(pair)

    assert await drain(reader) == BODY[5:]
    assert not pair.first.objects
    pair.check_idle()


@_PURGES
async def test_a_purge_while_the_second_tier_is_asked(pair: Pair, purge: Purge) -> None:
    """Whatever the answer is."""
    pair.put_second(meta=make_meta(tags=[b"a"]))
    looking = await _held(pair.second, "read_body", read(pair.storage))
    await purge(pair)

    assert await _go_on(pair.second, "read_body", looking) == BODY
    assert not pair.first.objects
    pair.check_idle()


@pytest.mark.parametrize("purge", [_by_key, _by_tag, _softly])
@pytest.mark.parametrize("name", ["get_miss_handler", "write_body", "finish"])
async def test_a_purge_while_the_copy_is_written(pair: Pair, purge: Purge, name: str) -> None:
    """It is not published, or is gone after the purge."""
    pair.put_second(meta=make_meta(tags=[b"a"]))
    copying = await _held(pair.first, name, read(pair.storage))
    if purge is _by_tag and name != "get_miss_handler":
        # The first tier of these tests does not look for tags of writes.
        pair.first.writing[0][1].object.is_purged = True
    await purge(pair)

    assert await _go_on(pair.first, name, copying) == BODY
    assert _is_purged(pair)
    pair.check_idle()


@_PURGES
@pytest.mark.parametrize("tier", ["first", "second"])
async def test_who_begins_during_a_purge(pair: Pair, purge: Purge, tier: str) -> None:
    """May have seen what is not purged yet, and does not keep it."""
    pair.put_second(meta=make_meta(tags=[b"a"]))
    store = pair.first if tier == "first" else pair.second
    name = "purge_tag" if purge is _by_tag else "purge"
    purging = await _held(store, name, purge(pair))
    found = await pair.storage.lookup(KEY)
    await _go_on(store, name, purging)
    if found is not None:
        assert await drain(found[1]) == BODY

    assert _is_purged(pair)
    pair.check_idle()


async def test_a_purge_of_something_else_changes_nothing(pair: Pair) -> None:
    """Another key, another tag."""
    pair.put_second(meta=make_meta(tags=[b"a"]))
    reader = await find(pair.storage)
    await pair.storage.purge(make_key("other").to_compact())
    await pair.storage.purge_tag(b"b")

    assert await drain(reader) == BODY
    assert pair.first.objects[HASH].body == BODY


async def test_a_newer_object_is_not_replaced_by_a_copy(pair: Pair) -> None:
    """Whatever comes first: its publication or the end of the copy."""
    pair.put_second()
    reader = await find(pair.storage)
    await write(pair.storage, b"newer")
    assert await drain(reader) == BODY
    assert pair.first.objects[HASH].body == b"newer"

    pair.first.objects.clear()
    pair.put_second()
    reader = await find(pair.storage)
    writer = await begin(pair.storage)
    await writer.write_body(b"newer", end=True)
    finishing = await _held(pair.second, "published", writer.finish())
    assert await drain(reader) == BODY
    await _go_on(pair.second, "published", finishing)
    assert pair.first.objects[HASH].body == b"newer"

    pair.first.objects.clear()
    pair.put_second()
    copying = await _held(pair.first, "get_miss_handler", read(pair.storage))
    pair.first.gates["get_miss_handler"].set()
    writer = await begin(pair.storage)
    await writer.write_body(b"newer", end=True)
    assert (await writer.finish()).published
    assert await copying == BODY
    assert pair.first.objects[HASH].body == b"newer"
    pair.check_idle()


async def test_a_revalidated_object_is_not_replaced_by_a_copy(pair: Pair) -> None:
    """Whose meta is older."""
    meta = make_meta("old")
    pair.put_second(meta=meta)
    reader = await find(pair.storage)
    assert await pair.storage.update_meta(KEY, make_meta("new", created=meta.created))

    assert await drain(reader) == BODY
    assert not pair.first.objects


async def test_two_copies_at_a_time(pair: Pair) -> None:
    """Are one, or the same."""
    pair.put_second()
    readers = [await find(pair.storage) for _ in range(3)]
    assert await asyncio.gather(*map(drain, readers)) == [BODY] * 3
    assert pair.first.objects[HASH].body == BODY
    pair.check_idle()


async def test_a_cancelled_copy(pair: Pair) -> None:
    """Takes nothing away from the reader."""
    pair.put_second()
    reader = await find(pair.storage)
    assert await reader.read_body() == BODY[:5]
    reading = await _held(pair.first, "get_miss_handler", reader.read_body())
    reading.cancel()
    await asyncio.wait([reading])
    pair.first.gates.clear()

    assert await drain(reader) == BODY[5:]
    assert not pair.first.objects
    pair.check_idle()


async def test_a_copy_of_what_is_not_whole(pair: Pair) -> None:
    """A second tier that breaks its word does not spoil the first."""
    pair.put_second()
    reader = await find(pair.storage)
    pair.second.objects[HASH].pieces.pop()
    assert await drain(reader) == BODY[:5]

    assert not pair.first.objects
    pair.check_idle()


async def test_ranges_of_what_is_being_copied() -> None:
    """Only who reads all of it from the beginning leaves a copy."""
    first, second = PlainStore(), MemoryStorage(1_000_000)
    storage = TieredStorage(first, second, promote=AlwaysAdmit())
    await write(second, BODY)

    for ranges, expected, copied in (
        ([(2, None)], BODY[2:], False),
        ([(0, 5), (5, 10)], BODY[5:], False),
        ([(2, 4), (0, None)], BODY, False),
        ([(0, None), (0, 10), (0, 100)], BODY, True),
    ):
        reader = await find(storage)
        assert reader.can_seek
        assert reader.can_seek_multipart
        assert not reader.is_partial
        assert reader.should_count_access
        assert reader.eviction_weight > 10
        assert reader.body_size == 10
        for start, end in ranges:
            reader.seek(start, end)
        with pytest.raises(Error):
            reader.seek(10)
        assert await drain(reader) == expected
        assert bool(first.objects) == copied
    first.objects.clear()
    reader = await find(storage)
    assert await reader.read_body() == BODY  # and so it was copied
    reader.seek(3, 5)
    assert await drain(reader) == BODY[3:5]
    assert first.objects[HASH].body == BODY
    assert storage._tiers.budget.taken == 0


# ------------------------------------------------------------------------------ writes


@pytest.mark.parametrize("purge", [_by_key, _by_tag, _softly])
@pytest.mark.parametrize("streaming", [(False, False), (True, True)])
async def test_a_purge_while_a_write_begins(purge: Purge, streaming: tuple[bool, bool]) -> None:
    """Between its beginning in one tier and in the other."""
    pair = Pair(streaming=streaming)
    store = pair.first if streaming == (False, False) else pair.second
    beginning = await _held(store, "get_miss_handler", begin(pair.storage, tags=[b"a"]))
    await purge(pair)
    pair.first.calls.clear()
    writer = await _go_on(store, "get_miss_handler", beginning)
    assert "purge" in pair.first.calls  # once more, since one of them may not have heard of it

    assert isinstance(writer, MissHandler)
    for tier in (pair.first, pair.second):
        assert [each.object.is_purged for _, each in tier.writing] == [True] * tier.writers
    writer.close()
    pair.check_idle()


async def test_a_write_that_is_cancelled_while_it_begins(pair: Pair) -> None:
    """What has begun in one tier is given up."""
    beginning = await _held(pair.first, "get_miss_handler", begin(pair.storage))
    assert pair.second.writers == 1
    beginning.cancel()
    await asyncio.wait([beginning])

    pair.check_idle()


async def test_a_purge_of_what_is_gathered(pair: Pair) -> None:
    """The first tier does not know of it yet."""
    pair = Pair(streaming=(True, True))
    for purge in (_by_key, _softly):
        pair.second.faults["write_body"] = TROUBLE  # only the first tier will have it
        writer = await begin(pair.storage)
        await writer.write_body(BODY, end=True)
        await purge(pair)
        finished = await writer.finish()

        assert finished.published == (purge is _softly)
        assert _is_purged(pair)
    pair.check_idle()


async def test_a_write_that_was_purged_elsewhere(pair: Pair) -> None:
    """The second tier knows: it is in the first neither, and whoever reads along gets all of it."""
    pair = Pair(streaming=(True, False))
    writer = await begin(pair.storage)
    reader = await find(pair.storage)
    await writer.write_body(BODY, end=True)
    await pair.second.purge(KEY.to_compact())

    assert not (await writer.finish()).published
    assert await drain(reader) == BODY
    assert not pair.first.objects
    pair.check_idle()


async def test_a_first_tier_that_fails_to_leave_a_write(pair: Pair) -> None:
    """Counted, and nothing else."""
    pair = Pair(streaming=(True, False))
    writer = await begin(pair.storage)
    await pair.second.purge(KEY.to_compact())
    pair.first.faults["finish"] = TROUBLE

    assert not (await writer.finish()).published
    assert pair.storage.stats.first_errors == 1
    pair.check_idle()


async def test_writes_come_to_both_tiers_in_the_same_order(pair: Pair) -> None:
    """Who is last in one is last in the other."""
    first, second = await begin(pair.storage), await begin(pair.storage)
    await first.write_body(b"first", end=True)
    await second.write_body(b"second", end=True)
    one = await _held(pair.second, "published", first.finish())
    other = asyncio.create_task(second.finish())
    await asyncio.sleep(0.01)
    await _go_on(pair.second, "published", one)
    await other

    assert pair.first.objects[HASH].body == pair.second.objects[HASH].body == b"second"
    pair.check_idle()


async def test_a_cancelled_publication(pair: Pair) -> None:
    """What the first tier has is compared with the second before it is served."""
    pair = Pair(recheck=None)
    await write(pair.storage, b"before")
    writer = await begin(pair.storage)
    await writer.write_body(BODY, end=True)
    finishing = await _held(pair.second, "published", writer.finish())
    finishing.cancel()
    await asyncio.wait([finishing])
    pair.second.gates.clear()

    assert pair.first.objects[HASH].body == b"before"
    assert await read(pair.storage) == BODY
    pair.check_idle()


# ------------------------------------------------------------------------------ comparing


async def test_an_object_that_others_have_purged(pair: Pair) -> None:
    """It is served until it is compared, and then it is gone."""
    await write(pair.storage, BODY)
    pair.second.objects.clear()
    pair.clock.advance(9.0)
    assert await read(pair.storage) == BODY
    pair.clock.advance(1.0)

    assert await read(pair.storage) is None
    assert not pair.first.objects
    stats = pair.storage.stats
    assert (stats.rechecks, stats.outdated, stats.hits, stats.misses) == (1, 1, 1, 1)
    pair.check_idle()


async def test_an_object_that_others_have_replaced(pair: Pair) -> None:
    """The new one is served, and copied."""
    await write(pair.storage, b"old")
    pair.clock.advance(10.0)
    pair.put_second(meta=make_meta("new", created=time.time() + 5))

    assert await read(pair.storage) == BODY
    assert pair.first.objects[HASH].body == BODY
    pair.check_idle()


async def test_an_object_that_others_have_revalidated_or_expired(pair: Pair) -> None:
    """The first tier learns it; but not from one who knows less."""
    now = time.time()
    meta = make_meta("1", created=now)
    pair.put_second(meta=meta)
    assert await read(pair.storage) == BODY
    for told, expected in (
        (make_meta("2", created=now).replace(updated=now + 5), '"2"'),
        (make_meta("3", created=now).replace(updated=now + 4), '"2"'),
        (make_meta("4", created=now, fresh=-5.0).replace(updated=now + 5), '"4"'),
        (make_meta("5", created=now).replace(updated=now + 5), '"4"'),
    ):
        pair.clock.advance(10.0)
        pair.second.objects[HASH].meta = told
        found = await pair.storage.lookup(KEY)
        assert found is not None
        assert found[0].header.get("etag") == expected
        assert pair.first.objects[HASH].meta.header.get("etag") == expected
        assert await drain(found[1]) == BODY
    pair.first.faults["update_meta"] = TROUBLE
    pair.clock.advance(10.0)
    pair.second.objects[HASH].meta = make_meta("6", created=now).replace(updated=now + 6)
    assert await read(pair.storage) == BODY
    assert pair.storage.stats.first_errors == 1
    pair.check_idle()


async def test_a_soft_purge_while_a_comparison_goes_on(pair: Pair) -> None:
    """What the second tier had before does not undo it."""
    now = time.time()
    pair.put_second(meta=make_meta("1", created=now))
    assert await read(pair.storage) == BODY
    pair.second.objects[HASH].meta = make_meta("2", created=now).replace(updated=now + 5)
    pair.clock.advance(10.0)
    comparing = await _held(pair.second, "lookup", pair.storage.lookup(KEY))
    await _softly(pair)
    await _go_on(pair.second, "lookup", comparing)

    assert "update_meta" not in pair.first.calls
    assert _is_purged(pair)


async def test_an_object_in_doubt_stays_in_doubt(pair: Pair) -> None:
    """As long as the second tier cannot tell."""
    pair = Pair(recheck=None)
    await write(pair.storage, b"old")
    pair.put_second(meta=make_meta(created=time.time() + 5))
    pair.storage._tiers.doubt(HASH)
    pair.second.faults["lookup"] = TROUBLE

    assert await read(pair.storage) == b"old"
    assert await read(pair.storage) == BODY


async def test_what_replaces_a_purged_object_may_seem_older(pair: Pair) -> None:
    """Another process has purged and fetched it, by a clock that is behind: that one counts."""
    await write(pair.storage, BODY)
    pair.clock.advance(10.0)
    pair.second.put(KEY, make_meta(created=time.time() - 100), b"refetched")

    assert await read(pair.storage) == b"refetched"
    assert pair.storage.stats.outdated == 1
    pair.check_idle()


async def test_a_second_tier_that_has_missed_a_write(pair: Pair) -> None:
    """The newer object of the first is served, which is known to be there alone."""
    pair.put_second(meta=make_meta(created=time.time() - 100), body=b"older")
    pair.second.faults["get_miss_handler"] = TROUBLE
    await write(pair.storage, BODY)
    pair.clock.advance(10.0)

    assert await read(pair.storage) == BODY
    pair.check_idle()


async def test_an_expired_object_is_compared_more_often(pair: Pair) -> None:
    """Somebody else may have revalidated it."""
    await write(pair.storage, BODY)
    for store in (pair.first, pair.second):
        store.objects[HASH].meta = store.objects[HASH].meta.expired(time.time())
    for wait, rechecks in ((0.0625, 0), (0.0625, 1), (0.0625, 1), (0.125, 2)):
        pair.clock.advance(wait)
        assert await read(pair.storage) == BODY
        assert pair.storage.stats.rechecks == rechecks


async def test_an_expired_object_that_is_being_replaced_in_the_second_tier() -> None:
    """Whoever comes joins the write, if the second tier streams it."""
    pair = Pair(streaming=(True, True))
    await write(pair.storage, b"old")
    for store in (pair.first, pair.second):
        store.objects[HASH].meta = store.objects[HASH].meta.expired(time.time())
    pair.second.objects.clear()
    writer = await begin(pair.storage)
    await writer.write_body(BODY, end=True)

    reader = await find(pair.storage)
    assert reader.is_partial
    assert (await writer.finish()).published
    assert await drain(reader) == BODY
    assert await read(pair.storage) == BODY
    pair.check_idle()


async def test_one_compares_for_all(pair: Pair) -> None:
    """The others do not wait for it."""
    await write(pair.storage, BODY)
    pair.clock.advance(10.0)
    comparing = await _held(pair.second, "lookup", read(pair.storage))
    assert [await read(pair.storage) for _ in range(5)] == [BODY] * 5

    assert await _go_on(pair.second, "lookup", comparing) == BODY
    assert pair.storage.stats.rechecks == 1
    pair.check_idle()


async def test_a_cancelled_comparison(pair: Pair) -> None:
    """Leaves nothing open, whichever store it waits for."""
    await write(pair.storage, BODY)
    pair.clock.advance(10.0)
    for store, name in ((pair.second, "lookup"), (pair.first, "purge")):
        pair.clock.advance(10.0)
        if store is pair.first:
            pair.put_second(meta=make_meta("new", created=time.time() + 5))
        comparing = await _held(store, name, pair.storage.lookup(KEY))
        comparing.cancel()
        await asyncio.wait([comparing])
        store.gates.clear()
        pair.check_idle()

    streaming = Pair(streaming=(True, False))
    writer = await begin(streaming.storage)
    joining = await _held(streaming.second, "lookup", streaming.storage.lookup(KEY))
    joining.cancel()
    await asyncio.wait([joining])
    writer.close()
    streaming.check_idle()


async def test_a_cancelled_lookup(pair: Pair) -> None:
    """Leaves nothing open."""
    looking = await _held(pair.second, "lookup", pair.storage.lookup(KEY))
    looking.cancel()
    await asyncio.wait([looking])
    pair.check_idle()


async def test_nothing_is_compared_if_nobody_else_writes(pair: Pair) -> None:
    """As the interval says."""
    pair = Pair(recheck=None)
    await write(pair.storage, BODY)
    pair.second.objects.clear()
    pair.clock.advance(1e6)

    assert await read(pair.storage) == BODY
