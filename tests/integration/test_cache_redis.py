"""A cache in a real Redis that dies, stalls, is full, forgets and lies: never a wrong body."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from pingora_cache.meta_codec import MetaCodec
from pingora_cache.redis import REDIS_AWAY, REDIS_REFUSED, RedisStorage, RedisTuning, connect
from pingora_cache.storage import STORAGE_FULL, PurgeAction, PurgeResult
from pingora_cache.testing.harness import make_body, make_key, make_meta
from pingora_error import Error, ErrorType
from tests.support.cache_objects import begin, drain, find, read, write
from tests.support.cache_redis import (
    BODY,
    PATIENCE,
    SMALL,
    TUNING,
    FaultyRedis,
    cleared,
    deaf,
    mute,
    only_key,
    open_redis,
    recovered,
    redis_keys,
)
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from redis.asyncio import Redis

    from pingora_cache.key import CacheKey
    from pingora_cache.storage import MissHandler, Storage
    from tests.support.cache_redis import Ask


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Redis]:
    client = connect(server.url)
    try:
        yield client
    finally:
        await client.aclose()


@pytest.fixture
async def storage(client: Redis) -> AsyncIterator[RedisStorage]:
    async with open_redis(client) as storage:
        yield storage


async def _write_on(writer: MissHandler) -> None:
    for _ in range(10):
        await writer.write_body(BODY, end=False)


# -------------------------------------------------------------------------- what is in Redis


async def test_everything_in_redis_expires(client: Redis, storage: RedisStorage) -> None:
    """Whatever is done, a key without an end is never left, and nothing of a write given up."""
    await write(storage, BODY, tags=[b"a"])
    await write(storage, SMALL, make_key("small"))
    writer = await begin(storage, make_key("writing"), tags=[b"b"])
    await writer.write_body(BODY, end=False)
    await storage.purge(make_key().to_compact(), action=PurgeAction.EXPIRE)
    await storage.purge_tag(b"a", action=PurgeAction.EXPIRE)
    found = await storage.lookup(make_key())
    assert found is not None
    assert not found[0].is_fresh(time.time())
    await storage.update_meta(make_key(), make_meta(created=found[0].created, tags=[b"c"]))

    keys = await redis_keys(client)
    assert len(keys) == 8  # two heads, two bodies, a writer, three tags
    assert all([await client.pttl(key) > 0 for key in keys])

    await writer.abort()
    assert not await redis_keys(client, ":w")
    assert len(await redis_keys(client, ":b:")) == 1


@pytest.mark.parametrize("body", [BODY, SMALL], ids=["large", "small"])
async def test_a_publication_that_is_asked_for_twice(client: Redis, body: bytes) -> None:
    """As clients do whose connection is lost before the answer: it is the same object."""

    async def twice(ask: Ask) -> object:
        await ask()
        return await ask()

    faulty = FaultyRedis(client)
    faulty.faults["PUBLISH"] = twice
    async with open_redis(faulty) as storage:
        await write(storage, body)
        assert storage.stats.writes == 1
        assert await read(storage) == body
        assert not await redis_keys(client, ":w")


async def test_how_long_an_object_is_kept(client: Redis, storage: RedisStorage) -> None:
    """As long as it is fresh or may be served stale, and a while for revalidation; then it goes."""
    meta = make_meta(fresh=1000.0).replace(stale_if_error=2000, stale_while_revalidate=500)
    writer = await storage.get_miss_handler(make_key(), meta)
    await writer.write_body(BODY, end=True)
    await writer.finish()

    expected = 1000 + 2000 + TUNING.keep
    assert expected - 60 < await client.ttl(await only_key(client, ":h")) <= expected
    assert await client.ttl(await only_key(client, ":b:")) > expected

    assert await storage.update_meta(make_key(), make_meta(created=meta.created, fresh=-1e9))
    assert 0 < await client.ttl(await only_key(client, ":h")) <= TUNING.keep
    assert await read(storage) == BODY


async def test_metas_made_smaller(client: Redis, storage: RedisStorage) -> None:
    """A codec reads what was there before; without it what it has written is damaged."""
    codec = MetaCodec(b"Content-Type: text/plain ETag")
    async with RedisStorage(client, prefix="cache", timeout=PATIENCE, codec=codec) as smaller:
        await write(storage, SMALL)
        assert await read(smaller) == SMALL
        await write(smaller, SMALL)
        found = await smaller.lookup(make_key())
        assert found is not None
        assert await smaller.update_meta(make_key(), found[0])
        assert await read(smaller) == SMALL

        assert await read(storage) is None
        assert storage.stats.corrupt == 1


async def test_small_bodies_are_found_in_one_round_trip(client: Redis) -> None:
    """With their meta; tags need another, and large bodies one for each piece."""
    faulty = FaultyRedis(client)
    async with open_redis(faulty) as storage:
        await write(storage, SMALL)
        faulty.asked.clear()
        assert await read(storage) == SMALL
        assert faulty.asked == ["LOOKUP"]

        await write(storage, BODY, tags=[b"a", b"b", b"c"])
        faulty.asked.clear()
        assert await read(storage) == BODY
        assert faulty.asked == ["LOOKUP", "MGET", *["CHUNK"] * 5]


async def test_reading_ahead_is_one_piece(client: Redis) -> None:
    """And what was read ahead is given back when the reader goes."""
    faulty = FaultyRedis(client)
    async with open_redis(faulty) as storage:
        await write(storage, BODY)
        reader = await find(storage)
        faulty.asked.clear()
        assert reader.eviction_weight > len(BODY)
        assert await reader.read_body() == BODY[:1000]
        await eventually(lambda: faulty.asked == ["CHUNK"] * 2)
        reader.seek(2500, 2600)
        assert await reader.read_body() == BODY[2500:2600]
        assert await reader.read_body() is None
        reader.close()

        assert faulty.asked == ["CHUNK"] * 3


async def test_few_connections(client: Redis, server: RedisServer) -> None:
    """However many ask at the same time."""
    tuning = RedisTuning(max_commands=3)
    async with open_redis(server.url, tuning=tuning) as storage:
        await write(storage, SMALL)
        before = (await client.info("clients"))["connected_clients"]
        bodies = await asyncio.gather(*(read(storage) for _ in range(50)))

        assert bodies == [SMALL] * 50
        assert (await client.info("clients"))["connected_clients"] <= before + 2


# -------------------------------------------------------------------------- Redis goes away


async def test_redis_dies_while_a_body_is_read(server: RedisServer, storage: RedisStorage) -> None:
    """The reader gets an Error, never the end; lookups fail; when it is back, all is as new."""
    await write(storage, BODY)
    reader = await find(storage)
    first = await reader.read_body()
    await server.kill()

    with pytest.raises(Error):
        await drain(reader)
    with pytest.raises(Error) as caught:
        await storage.lookup(make_key())
    assert caught.value.etype == REDIS_AWAY
    assert storage.is_away
    assert first == BODY[:1000]

    await server.start()
    await recovered(storage)
    assert await read(storage) is None
    await write(storage, BODY)
    assert await read(storage) == BODY


async def test_redis_dies_while_a_body_is_written(
    server: RedisServer, storage: RedisStorage
) -> None:
    """The write fails, and stays failed when Redis is back without what was sent before."""
    writer = await begin(storage)
    await writer.write_body(BODY, end=False)
    await server.kill()
    with pytest.raises(Error):
        await _write_on(writer)
    await server.start()
    with pytest.raises(Error):
        await writer.finish()
    writer.close()

    await recovered(storage)
    assert await read(storage) is None
    assert storage.stats.aborted_writes == 1


async def test_redis_restarts_empty_while_a_body_is_written(
    server: RedisServer, storage: RedisStorage
) -> None:
    """What was announced is forgotten: nothing is published, least of all the second half."""
    writer = await begin(storage)
    await writer.write_body(BODY[:2500], end=False)
    await server.kill()
    await server.start()
    try:
        await writer.write_body(BODY[2500:], end=True)
        assert not (await writer.finish()).published
    except Error:  # a piece was on its way
        pass
    writer.close()

    await recovered(storage)
    assert await read(storage) is None


@contextmanager
def _hurry(storage: RedisStorage) -> Iterator[None]:
    """Have a short deadline; not from the start, since a test machine may be slow."""
    storage._link.timeout = 0.1
    try:
        yield
    finally:
        storage._link.timeout = PATIENCE


async def test_redis_stalls(server: RedisServer, storage: RedisStorage) -> None:
    """One deadline is waited for, then everything fails at once; a reader gets an Error."""
    await write(storage, BODY)
    reader = await find(storage)
    writer = await begin(storage, make_key("other"))
    server.stall()
    with _hurry(storage):
        with pytest.raises(Error):
            await drain(reader)
        errors = storage.stats.errors
        for _ in range(100):
            with pytest.raises(Error):
                await storage.lookup(make_key())
        with pytest.raises(Error):
            await storage.get_miss_handler(make_key(), make_meta())
        with pytest.raises(Error):
            await storage.purge(make_key().to_compact())
        with pytest.raises(Error):
            await storage.purge_tag(b"a", action=PurgeAction.EXPIRE)
        with pytest.raises(Error):
            await storage.update_meta(make_key(), make_meta())
        with pytest.raises(Error):
            await _write_on(writer)
    assert storage.stats.errors >= errors + 100
    writer.close()
    server.resume()

    await recovered(storage)
    assert await read(storage) == BODY
    assert await read(storage, make_key("other")) is None


async def test_a_lookup_has_one_deadline(client: Redis) -> None:
    """Not one for each question that it asks."""
    faulty = FaultyRedis(client)
    async with open_redis(faulty) as storage:
        await write(storage, BODY, tags=[b"a"])
        faulty.faults["MGET"] = deaf
        with _hurry(storage), pytest.raises(Error) as caught:
            await storage.lookup(make_key())
        assert caught.value.etype == REDIS_AWAY
        assert storage.is_away


async def test_a_write_that_redis_is_too_slow_for(client: Redis) -> None:
    """It fails within the deadline of a call, however many pieces there are."""
    faulty = FaultyRedis(client)
    async with open_redis(faulty) as storage:
        writer = await begin(storage)
        faulty.faults["APPEND"] = deaf
        with _hurry(storage), pytest.raises(Error):
            await writer.write_body(make_body("large", 50_000), end=False)
        assert faulty.asked.count("APPEND") == 2
        writer.close()


async def test_a_redis_that_does_not_keep_up(client: Redis) -> None:
    """Each answer comes in time, but all together do not."""
    faulty = FaultyRedis(client)

    async def slow(ask: Ask) -> object:
        await asyncio.sleep(0.04)
        return await ask()

    async with open_redis(faulty) as storage:
        writer = await begin(storage)
        faulty.faults["APPEND"] = slow
        with _hurry(storage), pytest.raises(Error):
            await writer.write_body(make_body("large", 50_000), end=False)
        with pytest.raises(Error):
            await writer.finish()
        writer.close()


async def test_a_writer_that_is_closed_while_it_writes(client: Redis) -> None:
    """What waits ends with an Error."""
    faulty = FaultyRedis(client)
    async with open_redis(faulty) as storage:
        writer = await begin(storage)
        faulty.faults["APPEND"] = deaf
        writing = asyncio.create_task(writer.write_body(make_body("large", 5000), end=False))
        await eventually(lambda: faulty.asked.count("APPEND") == 2)
        writer.close()
        with pytest.raises(Error):
            await writing
        assert storage.stats.aborted_writes == 1


async def test_a_publication_whose_answer_is_lost(client: Redis) -> None:
    """The write has failed for the writer; the object is there whole, or not at all."""
    faulty = FaultyRedis(client)
    async with open_redis(faulty) as storage:
        for body in (BODY, SMALL):
            writer = await begin(storage)
            await writer.write_body(body, end=False)
            faulty.faults["PUBLISH"] = mute
            with _hurry(storage), pytest.raises(Error):
                await writer.finish()
            faulty.faults.clear()
            await recovered(storage)
            assert await read(storage) in {None, body}


async def test_closing_while_redis_stalls(server: RedisServer) -> None:
    """It ends, and what was under way fails."""
    async with open_redis(server.url) as storage:
        await write(storage, BODY)
        server.stall()
        looking = asyncio.create_task(read(storage))
        await asyncio.sleep(0.01)
        storage._link.timeout = 0.1
    with pytest.raises(Error):
        await looking
    server.resume()


# -------------------------------------------------------------------------- Redis has no room


async def _fill_up(client: Redis) -> None:
    used = (await client.info("memory"))["used_memory"]
    await client.config_set("maxmemory-policy", "noeviction")
    await client.config_set("maxmemory", max(1, used // 2))


async def test_redis_without_room(client: Redis, storage: RedisStorage) -> None:
    """Writes fail, and what is there is found, revalidated or not; purges hold."""
    await write(storage, BODY, tags=[b"a"])
    await write(storage, SMALL, make_key("small"))
    writing = await begin(storage, make_key("other"))
    await _fill_up(client)

    with pytest.raises(Error) as caught:
        await begin(storage, make_key("new"))
    assert caught.value.etype == REDIS_REFUSED
    with pytest.raises(Error):
        await _write_on(writing)
    writing.close()
    found = await storage.lookup(make_key("small"))
    assert found is not None
    with pytest.raises(Error):
        await storage.update_meta(make_key("small"), found[0])

    assert not storage.is_away
    assert await read(storage) == BODY
    # There is no room for a note that they have expired: they go.
    assert (
        await storage.purge(make_key("small").to_compact(), action=PurgeAction.EXPIRE)
        is PurgeResult.PURGED
    )
    assert await read(storage, make_key("small")) is None
    await storage.purge_tag(b"a", action=PurgeAction.EXPIRE)
    assert await read(storage) is None


async def test_redis_that_evicts(client: Redis, storage: RedisStorage) -> None:
    """Objects go, and never a part of one: each is found whole or not at all."""
    used = (await client.info("memory"))["used_memory"]
    await client.config_set("maxmemory-policy", "allkeys-lru")
    await client.config_set("maxmemory", used + 2_000_000)
    bodies = {str(number): make_body(number, 60_000) for number in range(80)}
    for name, body in bodies.items():
        with suppress(Error):  # what was announced, or a piece, may be evicted as well
            await _try_to_write(storage, body, make_key(name))

    found = []
    for name, body in bodies.items():
        with suppress(Error):
            found.append(await read(storage, make_key(name)))
            assert found[-1] in {None, body}
    assert 0 < len(list(filter(None, found))) < len(bodies)
    assert (await client.info("stats"))["evicted_keys"]


async def _try_to_write(storage: Storage, body: bytes, key: CacheKey) -> None:
    writer = await begin(storage, key, tags=[b"t%d" % (body[0] % 7)])
    try:
        await writer.write_body(body, end=True)
        await writer.finish()
    finally:
        writer.close()


async def test_an_evicted_body_is_no_hit(client: Redis, storage: RedisStorage) -> None:
    """It is found out before the object is promised, counted, and cleared away."""
    await write(storage, BODY)
    await client.delete(await only_key(client, ":b:"))

    assert await read(storage) is None
    assert (storage.stats.evictions, storage.stats.corrupt) == (1, 0)
    await cleared(client)


async def test_a_body_that_is_evicted_while_it_is_read(
    client: Redis, storage: RedisStorage
) -> None:
    """The reader gets an Error, and the next lookup nothing."""
    await write(storage, BODY)
    reader = await find(storage)
    assert await reader.read_body() == BODY[:1000]
    await client.delete(await only_key(client, ":b:"))

    with pytest.raises(Error) as caught:
        await drain(reader)
    assert caught.value.etype == ErrorType.READ_ERROR
    await cleared(client)


async def test_an_evicted_tag_purges(client: Redis, storage: RedisStorage) -> None:
    """Without what tells whether an object was purged, it may have been."""
    await write(storage, BODY, tags=[b"a"])
    await client.delete(await only_key(client, "tags"))

    assert await read(storage) is None
    await write(storage, BODY, tags=[b"a"])
    assert await read(storage) == BODY


async def test_too_much_on_its_way(client: Redis) -> None:
    """Bodies beyond the budget of the process are not stored; the budget comes back."""
    tuning = RedisTuning(chunk_size=1000, inline_size=100, max_buffered=3000)
    faulty = FaultyRedis(client)
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(open_redis(faulty, tuning=tuning))
        first = await begin(storage)
        await first.write_body(b"x" * 900, end=False)
        second = await begin(storage, make_key("second"))
        await second.write_body(b"x" * 900, end=False)
        third = await begin(storage, make_key("third"))
        await third.write_body(b"x" * 900, end=False)
        with pytest.raises(Error) as caught:
            await second.write_body(b"x" * 900, end=False)
        assert caught.value.etype == STORAGE_FULL
        second.close()

        await first.write_body(b"x" * 900, end=True)
        await first.finish()
        third.close()
        await write(storage, b"x" * 2900, make_key("second"))
        reader = await find(storage)
        assert await drain(reader) == b"x" * 1800
