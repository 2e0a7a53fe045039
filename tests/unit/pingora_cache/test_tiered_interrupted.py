"""Two stores that are one: what is cancelled, or met, at an await is not forgotten."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from pingora_cache.storage import PurgeAction, PurgeKind
from pingora_cache.testing.harness import make_meta
from tests.support.cache_objects import drain, find, read, write
from tests.support.cache_tiers import BODY, HASH, KEY, Pair
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tests.support.cache_store import PlainStore


@pytest.fixture
def pair() -> Pair:
    return Pair()


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


async def _cancel(store: PlainStore, task: asyncio.Task[object]) -> None:
    task.cancel()
    await asyncio.wait([task])
    store.gates.clear()


# --------------------------------------------------------------------------- comparing


async def test_a_comparison_that_is_cancelled_was_none(pair: Pair) -> None:
    """The next who comes compares, whoever else gave up before."""
    await write(pair.storage, BODY)
    pair.clock.advance(10.0)
    comparing = await _held(pair.second, "lookup", pair.storage.lookup(KEY))
    await _cancel(pair.second, comparing)
    pair.second.objects.clear()

    assert await read(pair.storage) is None
    pair.check_idle()


async def test_what_is_in_doubt_stays_so_when_the_comparison_is_cancelled() -> None:
    """Even if nothing else is ever compared."""
    pair = Pair(recheck=None)
    await write(pair.storage, b"old")
    pair.put_second(meta=make_meta(created=time.time() + 5))
    pair.storage._tiers.doubt(HASH)
    comparing = await _held(pair.second, "lookup", pair.storage.lookup(KEY))
    await _cancel(pair.second, comparing)

    assert await read(pair.storage) == BODY
    pair.check_idle()


async def test_what_is_in_doubt_is_not_served_while_one_compares_it() -> None:
    """The others compare it too."""
    pair = Pair(recheck=None)
    await write(pair.storage, b"old")
    pair.put_second(meta=make_meta(created=time.time() + 5))
    pair.storage._tiers.doubt(HASH)
    comparing = await _held(pair.second, "lookup", read(pair.storage))
    other = asyncio.create_task(read(pair.storage))
    await asyncio.sleep(0)

    assert not other.done()
    assert await _go_on(pair.second, "lookup", comparing) == BODY
    assert await other == BODY
    pair.check_idle()


async def test_what_is_in_doubt_and_the_same_is_compared_once() -> None:
    """Then it is known."""
    pair = Pair(recheck=None)
    await write(pair.storage, BODY)
    pair.storage._tiers.doubt(HASH)

    assert [await read(pair.storage) for _ in range(3)] == [BODY] * 3
    assert pair.storage.stats.rechecks == 1


async def test_a_doubt_that_comes_while_an_object_is_compared() -> None:
    """Is not answered by that: a write may have come to the second tier only."""
    pair = Pair(recheck=None)
    await write(pair.storage, BODY)
    pair.storage._tiers.doubt(HASH)
    comparing = await _held(pair.second, "lookup", read(pair.storage))
    writer = await pair.storage.get_miss_handler(KEY, make_meta(created=time.time() + 5))
    await writer.write_body(b"newer", end=True)
    finishing = await _held(pair.second, "finish", writer.finish())
    finishing.cancel()
    await asyncio.wait([finishing])
    del pair.second.gates["finish"]
    assert await _go_on(pair.second, "lookup", comparing) == BODY
    pair.second.put(KEY, make_meta(created=time.time() + 5), b"newer")

    assert await read(pair.storage) == b"newer"


async def test_a_soft_purge_while_the_first_tier_is_told(pair: Pair) -> None:
    """What the second tier had before is not put over it."""
    now = time.time() - 10
    pair.put_second(meta=make_meta("1", created=now))
    assert await read(pair.storage) == BODY
    pair.second.objects[HASH].meta = make_meta("2", created=now).replace(updated=now + 5)
    pair.clock.advance(10.0)
    comparing = await _held(pair.first, "update_meta", read(pair.storage))
    await pair.storage.purge(KEY.to_compact(), action=PurgeAction.EXPIRE)
    assert await _go_on(pair.first, "update_meta", comparing) == BODY

    found = await pair.storage.lookup(KEY)
    assert found is not None
    assert not found[0].is_fresh(time.time())
    found[1].close()
    pair.check_idle()


# ------------------------------------------------------------------------------ copies


@pytest.mark.parametrize("name", ["finish", "published"])
async def test_an_eviction_while_the_copy_is_written(pair: Pair, name: str) -> None:
    """An eviction does not mean writes: the copy goes when it is there."""
    pair.put_second()
    copying = await _held(pair.first, name, read(pair.storage))
    await pair.storage.purge(KEY.to_compact(), kind=PurgeKind.EVICTION)

    assert await _go_on(pair.first, name, copying) == BODY
    assert not pair.first.objects
    pair.check_idle()


async def test_an_object_is_revalidated_while_its_copy_is_written(pair: Pair) -> None:
    """The copy has the older meta, and goes."""
    meta = make_meta("old")
    pair.put_second(meta=meta)
    copying = await _held(pair.first, "finish", read(pair.storage))
    assert await pair.storage.update_meta(KEY, make_meta("new", created=meta.created))

    assert await _go_on(pair.first, "finish", copying) == BODY
    assert not pair.first.objects
    pair.check_idle()


async def test_who_begins_while_an_object_is_revalidated(pair: Pair) -> None:
    """May have seen what it was before, and does not keep it."""
    meta = make_meta("old")
    pair.put_second(meta=meta)
    new = make_meta("new", created=meta.created)
    updating = await _held(pair.second, "update_meta", pair.storage.update_meta(KEY, new))
    reader = await find(pair.storage)
    assert await _go_on(pair.second, "update_meta", updating)

    assert await drain(reader) == BODY
    assert not pair.first.objects
    pair.check_idle()


async def test_a_copy_that_is_cancelled_when_it_is_there() -> None:
    """It is compared before it is served, even if nothing else ever is."""
    pair = Pair(recheck=None)
    pair.put_second()
    copying = await _held(pair.first, "published", read(pair.storage))
    await pair.storage.purge(KEY.to_compact(), kind=PurgeKind.EVICTION)
    pair.put_second(body=b"newer", meta=make_meta(created=time.time() + 5))
    pair.first.put(KEY, make_meta(), BODY)
    await _cancel(pair.first, copying)

    assert await read(pair.storage) == b"newer"
    pair.check_idle()
