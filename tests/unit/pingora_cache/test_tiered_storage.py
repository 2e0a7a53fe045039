"""Two stores that are one: what goes where, and what happens when one of them is in trouble."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from pingora_cache.cache import HttpCache
from pingora_cache.storage import (
    RESPONSE_TOO_LARGE,
    PurgeAction,
    PurgeKind,
    PurgeResult,
)
from pingora_cache.testing.harness import make_key, make_meta
from pingora_cache.tiered import TieredStorage, WritePolicy
from pingora_error import Error
from tests.support.cache_objects import begin, drain, find, read, write
from tests.support.cache_store import PlainStore
from tests.support.cache_tiers import BODY, HASH, KEY, TROUBLE, Pair

if TYPE_CHECKING:
    from pingora_cache.meta import CacheMeta


@pytest.fixture
def pair() -> Pair:
    return Pair()


def _with_length(size: int) -> CacheMeta:
    meta = make_meta()
    meta.header.insert_header("Content-Length", str(size))
    return meta


# ------------------------------------------------------------------------------ reading


async def test_the_first_tier_alone_answers_what_it_has(pair: Pair) -> None:
    """The second is not asked, as long as it was compared lately."""
    await write(pair.storage, BODY)
    pair.second.calls.clear()

    assert await read(pair.storage) == BODY
    assert pair.second.calls == []
    assert pair.storage.stats.hits == 1
    pair.check_idle()


async def test_what_is_read_from_the_second_tier_is_copied(pair: Pair) -> None:
    """As a whole, with its meta, and once."""
    meta = make_meta("copied", tags=[b"a"])
    pair.put_second(meta=meta)

    assert await read(pair.storage) == BODY
    assert pair.first.objects[HASH].body == BODY
    assert pair.first.objects[HASH].meta == meta
    assert await read(pair.storage) == BODY
    assert pair.second.calls.count("lookup") == 1
    assert (pair.storage.stats.promotions, pair.storage.stats.hits) == (1, 2)
    pair.check_idle()


async def test_an_empty_body_is_copied(pair: Pair) -> None:
    """At its end, which comes at once."""
    pair.put_second(body=b"")

    assert await read(pair.storage) == b""
    assert HASH in pair.first.objects
    pair.check_idle()


async def test_copying_at_the_second_time_by_default() -> None:
    """What is asked for once does not wash out what is asked for often."""
    first, second = PlainStore(), PlainStore()
    storage = TieredStorage(first, second)
    second.put(KEY, make_meta(), BODY)

    assert await read(storage) == BODY
    assert not first.objects
    assert await read(storage) == BODY
    assert first.objects


@pytest.mark.parametrize("what", ["large", "expired", "partial", "broken off", "a range", "full"])
async def test_what_is_not_copied(what: str) -> None:
    """It is read all the same, and nothing is left over."""
    pair = Pair(
        limit=5 if what == "large" else 10_000,
        streaming=(False, True),
        max_copying=5 if what == "full" else 10_000,
    )
    pair.put_second(meta=make_meta(fresh=-1.0) if what == "expired" else None)
    writer = await pair.second.get_miss_handler(KEY, make_meta())
    if what == "partial":
        pair.second.objects.clear()
        await writer.write_body(BODY, end=True)
    else:
        writer.close()
    reader = await find(pair.storage)
    if what == "broken off":
        assert await reader.read_body() == BODY[:5]
        reader.close()
    elif what == "partial":
        assert await reader.read_body() == BODY
        assert reader.is_partial
        await writer.finish()
        await reader.finish()
    elif what == "a range":
        with pytest.raises(RuntimeError):
            reader.seek(3, 7)  # this one cannot
        reader.close()
    else:
        assert await drain(reader) == BODY

    assert not pair.first.objects
    pair.check_idle()


async def test_a_first_tier_that_does_not_take_the_copy(pair: Pair) -> None:
    """It is read to the end, and counted."""
    for name in ("get_miss_handler", "write_body", "finish"):
        pair.put_second()
        pair.first.faults[name] = TROUBLE

        assert await read(pair.storage) == BODY
        assert not pair.first.objects
        pair.check_idle()
    assert pair.storage.stats.first_errors == 3


async def test_a_first_tier_in_trouble_is_left_out(pair: Pair) -> None:
    """The second answers."""
    pair.put_second()
    pair.first.faults["lookup"] = TROUBLE

    assert await read(pair.storage) == BODY
    assert (pair.storage.stats.first_errors, pair.storage.stats.errors) == (1, 1)


async def test_a_second_tier_in_trouble(pair: Pair) -> None:
    """What the first has is served; what it has not is an Error, which the cache counts."""
    await write(pair.storage, BODY)
    pair.clock.advance(60.0)
    pair.second.faults["lookup"] = TROUBLE

    assert await read(pair.storage) == BODY
    assert pair.storage.stats.second_errors == 1
    pair.second.faults["lookup"] = TROUBLE
    with pytest.raises(Error):
        await pair.storage.lookup(make_key("other"))
    pair.check_idle()


async def test_a_second_tier_that_breaks_off(pair: Pair) -> None:
    """The reader hears of it, and nothing is copied."""
    pair.put_second()
    reader = await find(pair.storage)
    assert await reader.read_body() == BODY[:5]
    pair.second.faults["read_body"] = TROUBLE
    with pytest.raises(Error):
        await drain(reader)

    assert not pair.first.objects
    pair.check_idle()


# ------------------------------------------------------------------------------ writing


async def test_a_write_goes_to_both(pair: Pair) -> None:
    """It is published in the second tier before it is in the first."""
    calls: list[str] = []
    pair.first.calls = pair.second.calls = calls
    await write(pair.storage, BODY)

    assert pair.first.objects[HASH].body == pair.second.objects[HASH].body == BODY
    assert calls.count("published") == 2
    assert pair.storage.stats.writes == 1
    pair.check_idle()


async def test_a_write_to_the_second_tier_only() -> None:
    """If that is the policy; but if it fails there, to the first."""
    pair = Pair(write_policy=WritePolicy.SECOND)
    await write(pair.storage, BODY)
    assert not pair.first.objects
    assert await read(pair.storage) == BODY
    assert pair.first.objects

    pair.second.faults["get_miss_handler"] = TROUBLE
    await write(pair.storage, b"other", make_key("other"))
    assert await read(pair.storage, make_key("other")) == b"other"
    pair.check_idle()


@pytest.mark.parametrize("known", [False, True])
async def test_a_body_too_large_for_the_first_tier(known: bool) -> None:
    """Goes to the second only, and takes the place of what the first has of the key."""
    pair = Pair(limit=1000)
    await write(pair.storage, b"small")
    meta = _with_length(2000) if known else make_meta()
    writer = await pair.storage.get_miss_handler(KEY, meta)
    assert pair.first.writers == (0 if known else 1)
    await writer.write_body(b"x" * 600, end=False)
    await writer.write_body(b"x" * 1400, end=True)
    assert (await writer.finish()).published

    assert not pair.first.objects
    assert await read(pair.storage) == b"x" * 2000
    pair.check_idle()


@pytest.mark.parametrize("name", ["get_miss_handler", "write_body", "finish"])
async def test_a_second_tier_that_does_not_take_a_write(pair: Pair, name: str) -> None:
    """It is in the first only, is not compared, and is there as long as it stays there."""
    pair.second.faults[name] = TROUBLE
    await write(pair.storage, BODY)

    stats = pair.storage.stats
    assert (stats.second_errors, stats.first_only, stats.writes) == (1, 1, 1)
    assert not pair.second.objects
    pair.clock.advance(1000.0)
    assert await read(pair.storage) == BODY
    pair.check_idle()


@pytest.mark.parametrize("name", ["get_miss_handler", "write_body", "finish"])
async def test_a_first_tier_that_does_not_take_a_write(pair: Pair, name: str) -> None:
    """It is in the second only; what the first had before is gone."""
    await write(pair.storage, b"before")
    pair.first.faults[name] = TROUBLE
    await write(pair.storage, BODY)

    assert not pair.first.objects
    assert pair.storage.stats.first_errors == 1
    assert await read(pair.storage) == BODY
    pair.check_idle()


@pytest.mark.parametrize("name", ["get_miss_handler", "write_body", "finish"])
async def test_no_tier_takes_a_write(pair: Pair, name: str) -> None:
    """It fails, and what was there before is as it was."""
    await write(pair.storage, b"before")
    pair.first.faults[name] = pair.second.faults[name] = TROUBLE

    with pytest.raises(Error):
        await write(pair.storage, BODY)
    assert not pair.first.faults
    assert pair.storage.stats.aborted_writes == (0 if name == "get_miss_handler" else 1)
    assert await read(pair.storage) == b"before"
    pair.check_idle()


async def test_a_body_that_the_second_tier_refuses(pair: Pair) -> None:
    """Too large for the large one is too large."""
    writer = await begin(pair.storage)
    pair.second.faults["write_body"] = Error(RESPONSE_TOO_LARGE)

    with pytest.raises(Error) as caught:
        await writer.write_body(BODY, end=True)
    assert caught.value.etype == RESPONSE_TOO_LARGE
    with pytest.raises(Error):
        await writer.finish()
    with pytest.raises(Error):
        await writer.write_body(BODY, end=True)
    writer.close()
    assert pair.storage.stats.second_errors == 0
    pair.check_idle()


async def test_a_body_that_the_first_tier_refuses(pair: Pair) -> None:
    """It is in the second."""
    pair.first.faults["write_body"] = Error(RESPONSE_TOO_LARGE)
    await write(pair.storage, BODY)

    assert pair.second.objects
    assert pair.storage.stats.first_errors == 0


async def test_an_old_object_does_not_come_back(pair: Pair) -> None:
    """When the first tier fails in everything, what it has is compared before it is served."""
    pair = Pair(recheck=None)
    await write(pair.storage, b"before")
    pair.first.faults["finish"] = pair.first.faults["purge"] = TROUBLE
    await write(pair.storage, BODY)

    assert pair.first.objects[HASH].body == b"before"
    pair.first.faults["purge"] = TROUBLE
    for _ in range(2):
        assert await read(pair.storage) == BODY


async def test_wrong_use_of_a_writer(pair: Pair) -> None:
    """Is told."""
    writer = await begin(pair.storage)
    await writer.write_body(BODY, end=True)
    with pytest.raises(RuntimeError):
        await writer.write_body(BODY, end=True)
    await writer.finish()
    for again in (writer.finish, writer.abort):
        if again == writer.finish:
            with pytest.raises(RuntimeError):
                await again()
        else:
            await again()
    writer.close()
    assert await read(pair.storage) == BODY


@pytest.mark.parametrize("how", ["close", "abort", "forget"])
async def test_a_writer_that_gives_up(how: str) -> None:
    """In both tiers, and what was gathered is given back."""
    for streaming in ((False, False), (True, True)):
        pair = Pair(streaming=streaming)
        writer = await begin(pair.storage)
        await writer.write_body(BODY, end=False)
        if how == "close":
            writer.close()
            writer.close()
        elif how == "abort":
            await writer.abort()
            await writer.abort()
        del writer

        assert not pair.first.objects
        assert not pair.second.objects
        assert pair.storage.stats.aborted_writes == 1
        assert len(pair.storage._tiers.marks) == pair.storage._tiers.budget.taken == 0


# ------------------------------------------------------------------------------ streaming


@pytest.mark.parametrize("size", [10, 20_000])
async def test_a_cache_over_tiers_of_which_one_streams(size: int) -> None:
    """It reads along with a write that is streamed, and does without for one that is not."""
    pair = Pair(streaming=(True, False))
    cache = HttpCache()
    cache.enable(pair.storage)
    cache.set_cache_key(KEY.copy())
    assert await cache.cache_lookup() is None
    cache.cache_miss()
    cache.set_cache_meta(_with_length(size))
    await cache.set_miss_handler()

    assert (cache.miss_body_reader is not None) == (size == 10)
    fill = cache.miss_handler
    assert fill is not None
    await fill.write(b"x" * size, end=True)
    finished = await cache.finish_miss_handler()
    assert finished is not None
    assert finished.published
    cache.close()
    assert await read(pair.storage) == b"x" * size
    pair.check_idle()


@pytest.mark.parametrize(
    ("streaming", "size", "tier"),
    [
        ((True, True), 10, "first"),
        ((True, True), None, "second"),
        ((True, True), 20_000, "second"),
        ((True, False), 10, "first"),
        ((True, False), None, "first"),
        ((True, False), 20_000, None),
        ((False, True), 10, "second"),
        ((False, True), None, "second"),
        ((False, False), 10, None),
    ],
)
async def test_which_tier_streams(
    streaming: tuple[bool, bool], size: int | None, tier: str | None
) -> None:
    """The first if the body fits or the second cannot; and both have the object in the end."""
    pair = Pair(streaming=streaming)
    assert pair.storage.supports_streaming_partial_write == any(streaming)
    meta = make_meta() if size is None else _with_length(size)
    writer = await pair.storage.get_miss_handler(KEY, meta)
    await writer.write_body(BODY, end=False)
    tag = writer.streaming_write_tag

    assert (tag is None) == (tier is None)
    if tag is not None:
        found = await pair.storage.lookup_streaming_write(KEY, tag)
        assert found is not None
        assert await found[1].read_body() == BODY
        assert (pair.first if tier == "first" else pair.second).readers == 1
        assert await pair.storage.lookup_streaming_write(KEY, tag + b"x") is None
        found[1].close()
    assert (await writer.finish()).published
    assert pair.second.objects[HASH].body == BODY
    assert (HASH in pair.first.objects) == (size != 20_000)
    found = await pair.storage.lookup_streaming_write(KEY, None)
    assert found is not None
    assert await drain(found[1]) == BODY
    assert await pair.storage.lookup_streaming_write(KEY, b"no tag") is None
    pair.check_idle()


async def test_a_streamed_body_that_outgrows_the_first_tier() -> None:
    """Those who read along get all of it; it is kept in the second only."""
    pair = Pair(streaming=(True, False), limit=15)
    await write(pair.storage, b"before")
    writer = await begin(pair.storage)
    found = await pair.storage.lookup_streaming_write(KEY, writer.streaming_write_tag)
    assert found is not None
    for _ in range(3):
        await writer.write_body(BODY, end=False)
    assert (await writer.finish()).published

    assert await drain(found[1]) == 3 * BODY
    assert not pair.first.objects
    assert pair.second.objects[HASH].body == 3 * BODY
    pair.check_idle()


async def test_a_streamed_body_that_only_the_first_tier_takes_and_outgrows() -> None:
    """It fails: nothing would keep it."""
    pair = Pair(streaming=(True, False), limit=15)
    pair.second.faults["get_miss_handler"] = TROUBLE
    writer = await begin(pair.storage)
    await writer.write_body(BODY, end=False)
    with pytest.raises(Error):
        await writer.write_body(BODY, end=False)
    writer.close()
    pair.check_idle()


async def test_what_is_gathered_has_a_limit() -> None:
    """Beyond it an object is in the second tier only."""
    for limit, room in ((15, 10_000), (10_000, 15)):
        pair = Pair(streaming=(True, True), limit=limit, max_copying=room)
        writer = await begin(pair.storage)
        for _ in range(3):
            await writer.write_body(BODY, end=False)
        assert (await writer.finish()).published

        assert not pair.first.objects
        assert await read(pair.storage) == 3 * BODY
        pair.check_idle()


async def test_what_is_whole_is_better_than_what_is_being_written() -> None:
    """A write in the first tier does not hide a fresh object of the second."""
    pair = Pair(streaming=(True, False))
    writer = await begin(pair.storage)
    await writer.write_body(b"new", end=False)
    joined = await find(pair.storage)
    assert await joined.read_body() == b"new"
    joined.close()

    pair.put_second()
    for wait, expected in ((0.0, b"new"), (5.0, BODY[:5])):
        pair.clock.advance(wait)
        reader = await find(pair.storage)
        assert await reader.read_body() == expected
        reader.close()
    pair.second.objects[HASH].meta = make_meta(fresh=-1.0)
    pair.clock.advance(5.0)
    reader = await find(pair.storage)
    assert await reader.read_body() == b"new"
    reader.close()
    pair.clock.advance(5.0)
    pair.second.faults["lookup"] = TROUBLE
    reader = await find(pair.storage)
    assert await reader.read_body() == b"new"
    reader.close()
    writer.close()
    pair.check_idle()


# ------------------------------------------------------------------------------ the rest


async def test_purges_go_to_both(pair: Pair) -> None:
    """The second first; the result is that of the tier where it came to more."""
    calls: list[str] = []
    for action in PurgeAction:
        await write(pair.storage, BODY)
        result = PurgeResult.PURGED if action is PurgeAction.DELETE else PurgeResult.EXPIRED
        assert await pair.storage.purge(KEY.to_compact(), action=action) is result
    found = await pair.storage.lookup(KEY)
    assert found is not None
    assert not found[0].is_fresh(time.time())
    found[1].close()
    pair.first.calls = pair.second.calls = calls
    assert await pair.storage.purge(KEY.to_compact(), kind=PurgeKind.EVICTION)
    assert await pair.storage.purge(KEY.to_compact()) is PurgeResult.NOT_FOUND
    assert calls == ["purge"] * 4
    assert pair.storage.stats.purges == 3

    pair.put_second(meta=make_meta(tags=[b"a"]))
    assert await pair.storage.purge_tag(b"a") == 1
    assert await read(pair.storage) is None


async def test_a_purge_that_fails_in_the_second_tier(pair: Pair) -> None:
    """Is an Error, and done in the first nevertheless."""
    await write(pair.storage, BODY, tags=[b"a"])
    pair.second.faults["purge"] = TROUBLE
    with pytest.raises(Error):
        await pair.storage.purge(KEY.to_compact())
    assert not pair.first.objects

    await write(pair.storage, BODY, tags=[b"a"])
    pair.second.faults["purge_tag"] = TROUBLE
    with pytest.raises(Error):
        await pair.storage.purge_tag(b"a")
    assert not pair.first.objects
    assert pair.storage.stats.second_errors == 2


async def test_metas_are_updated_in_both(pair: Pair) -> None:
    """And wherever the object is."""
    created = time.time()
    meta, later = make_meta("1", created=created), make_meta("2", created=created)
    assert not await pair.storage.update_meta(KEY, meta)
    pair.put_second(meta=meta)
    assert await pair.storage.update_meta(KEY, later)
    assert await read(pair.storage) == BODY
    assert await pair.storage.update_meta(KEY, meta)
    assert pair.first.objects[HASH].meta == pair.second.objects[HASH].meta == meta
    pair.second.objects.clear()
    assert await pair.storage.update_meta(KEY, later)
    assert pair.first.objects[HASH].meta == later
    assert await read(pair.storage) is None  # it was not in the second any more


async def test_a_meta_that_a_tier_does_not_take(pair: Pair) -> None:
    """The second may be in trouble if the first has it; what the first does not take goes."""
    meta = make_meta("1")
    pair.put_second(meta=meta)
    assert await read(pair.storage) == BODY
    pair.second.faults["update_meta"] = TROUBLE
    assert await pair.storage.update_meta(KEY, meta)
    pair.first.faults["update_meta"] = TROUBLE
    assert await pair.storage.update_meta(KEY, meta)
    assert not pair.first.objects
    pair.second.faults["update_meta"] = TROUBLE
    with pytest.raises(Error):
        await pair.storage.update_meta(KEY, meta)
    pair.first.faults["update_meta"] = pair.second.faults["update_meta"] = TROUBLE
    with pytest.raises(Error):
        await pair.storage.update_meta(KEY, meta)


async def test_opening_and_closing(pair: Pair) -> None:
    """Both, whatever happens to one of them."""
    closed = []

    class _Closing(PlainStore):
        async def close(self) -> None:
            closed.append(self)
            raise TROUBLE

    first, second = _Closing(), _Closing()
    storage = TieredStorage(first, second)
    await storage.open()
    assert (storage.first, storage.second) == (first, second)
    with pytest.raises(Error):
        await storage.close()
    assert closed == [first, second]


def test_numbers(pair: Pair) -> None:
    """What makes no sense is misuse; what was counted can be told."""
    for limit, room in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="not negative"):
            Pair(limit=limit, max_copying=room)
    with pytest.raises(ValueError, match="not negative"):
        Pair(recheck=-1.0)
    pair.first.stats.used_bytes, pair.second.stats.used_bytes = 3, 4
    pair.first.stats.objects, pair.second.stats.objects = 5, 2
    snapshot = pair.storage.stats.snapshot()
    assert (snapshot["used_bytes"], snapshot["objects"]) == (7, 5)
    assert {"hits", "promotions", "second_errors"} < snapshot.keys()
