"""A cache in Redis that others use too: what they purge, replace and revalidate meanwhile."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from redis.asyncio.cluster import RedisCluster

from pingora_cache.redis import RedisStorage, RedisTuning, connect
from pingora_cache.storage import PurgeAction
from pingora_cache.testing.harness import make_key, make_meta
from pingora_error import Error
from tests.support.cache_objects import begin, drain, find, read, write
from tests.support.cache_redis import (
    BODY,
    PATIENCE,
    SMALL,
    TUNING,
    FaultyRedis,
    mute,
    only_key,
    open_redis,
    redis_keys,
)
from tests.support.clock import FakeClock
from tests.support.redis_server import RedisServer, shared_redis
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from redis.asyncio import Redis

    from pingora_cache.meta import CacheMeta
    from pingora_cache.storage import HitHandler


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with shared_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Redis]:
    client = connect(server.url)
    try:
        await client.flushall()
        yield client
    finally:
        await client.aclose()


@pytest.fixture
async def storage(client: Redis) -> AsyncIterator[RedisStorage]:
    async with open_redis(client) as storage:
        yield storage


async def _meta(storage: RedisStorage) -> CacheMeta:
    found = await storage.lookup(make_key())
    assert found is not None
    found[1].close()
    return found[0]


async def _is_fresh(storage: RedisStorage) -> bool:
    return (await _meta(storage)).is_fresh(time.time())


# -------------------------------------------------------------------------- revalidation


async def test_a_revalidation_makes_fresh_again(storage: RedisStorage) -> None:
    """What was purged softly before it was looked up, by key or by tag, has been asked about."""
    await write(storage, BODY, tags=[b"a"])
    for purge in (
        storage.purge(make_key().to_compact(), action=PurgeAction.EXPIRE),
        storage.purge_tag(b"a", action=PurgeAction.EXPIRE),
    ):
        await purge
        stale = await _meta(storage)
        assert not stale.is_fresh(time.time())

        assert await storage.update_meta(make_key(), stale.replace(fresh_until=time.time() + 60))
        assert await _is_fresh(storage)
        assert await read(storage) == BODY


async def test_a_soft_purge_during_a_revalidation_holds(storage: RedisStorage) -> None:
    """The origin may have confirmed it before what the purge is about."""
    await write(storage, BODY, tags=[b"a"])
    for purge in (
        storage.purge(make_key().to_compact(), action=PurgeAction.EXPIRE),
        storage.purge_tag(b"a", action=PurgeAction.EXPIRE),
    ):
        before = await _meta(storage)
        await purge
        assert await storage.update_meta(make_key(), before.replace(fresh_until=time.time() + 60))

        assert not await _is_fresh(storage)
        now = await _meta(storage)
        assert await storage.update_meta(make_key(), now.replace(fresh_until=time.time() + 60))
        assert await _is_fresh(storage)


async def test_a_purge_during_a_revalidation_holds(storage: RedisStorage) -> None:
    """Nothing comes back, whether it was purged by key or by tag."""
    for purge in (
        storage.purge(make_key().to_compact()),
        storage.purge_tag(b"a"),
    ):
        await write(storage, BODY, tags=[b"a"])
        before = await _meta(storage)
        await purge

        assert not await storage.update_meta(make_key(), before)
        assert await read(storage) is None


async def test_a_revalidation_does_not_meet_another_object(storage: RedisStorage) -> None:
    """Not even one that was created in the same moment."""
    meta = make_meta("first")

    async def fill(body: bytes) -> None:
        writer = await storage.get_miss_handler(make_key(), meta)
        await writer.write_body(body, end=True)
        await writer.finish()

    await fill(b"first")
    before = await _meta(storage)
    await fill(b"second")

    assert not await storage.update_meta(make_key(), before)
    assert await storage.update_meta(make_key(), await _meta(storage))
    assert await read(storage) == b"second"


async def test_a_revalidation_by_somebody_who_has_not_looked_here(storage: RedisStorage) -> None:
    """As from a faster store in front: the time of creation tells."""
    await write(storage, SMALL, tags=[b"a"])
    created = (await _meta(storage)).created
    await storage.purge_tag(b"a", action=PurgeAction.EXPIRE)

    assert not await storage.update_meta(make_key(), make_meta(created=created - 1))
    assert await storage.update_meta(make_key(), make_meta(created=created, tags=[b"a", b"b"]))
    assert await _is_fresh(storage)
    await storage.purge_tag(b"b")
    assert not await storage.update_meta(make_key(), make_meta(created=created, tags=[b"a", b"b"]))
    assert await read(storage) is None


# -------------------------------------------------------------------------- readers and writers


async def test_a_slow_reader_keeps_its_body(client: Redis, storage: RedisStorage) -> None:
    """What was replaced remains for a while, and longer with each piece that is read."""
    await write(storage, BODY)
    reader = await find(storage)
    old = await only_key(client, ":b:")
    await write(storage, BODY[::-1])
    assert 0 < await client.ttl(old) <= TUNING.reader_grace

    await client.expire(old, 10)
    assert await reader.read_body() == BODY[:1000]
    assert await client.ttl(old) > 20
    assert await drain(reader) == BODY[1000:]
    assert await read(storage) == BODY[::-1]


async def test_a_slow_writer_says_that_it_goes_on(client: Redis) -> None:
    """However little it writes; what was forgotten meanwhile is not published."""
    clock = FakeClock()
    faulty = FaultyRedis(client)
    async with RedisStorage(faulty, timeout=PATIENCE, tuning=TUNING, monotonic=clock) as storage:
        writer = await begin(storage)
        announced = await only_key(client, ":w")
        for _ in range(5):
            await client.expire(announced, 10)
            clock.advance(TUNING.write_lifetime / 2)
            await writer.write_body(b"x", end=False)
        assert (await writer.finish()).published
        assert faulty.asked.count("RENEW") == 5

        writer = await begin(storage)
        await client.delete(await only_key(client, ":w"))
        clock.advance(TUNING.write_lifetime / 2)
        for _ in range(4):
            await writer.write_body(BODY, end=False)
        assert not (await writer.finish()).published
        assert await read(storage) == b"xxxxx"
        assert await redis_keys(client, ":b:") == []


async def test_a_write_that_dies_without_a_word(client: Redis, storage: RedisStorage) -> None:
    """Its process was killed: nothing is found, and Redis forgets what is left."""
    writer = await begin(storage)
    await writer.write_body(BODY, end=False)
    keys = await redis_keys(client)
    assert len(keys) == 2
    assert all([await client.ttl(key) <= TUNING.write_lifetime for key in keys])
    assert await read(storage) is None
    writer.close()


async def test_a_cancelled_publication(client: Redis) -> None:
    """The object is there whole, or not at all."""
    faulty = FaultyRedis(client)
    async with open_redis(faulty) as storage:
        for body in (BODY, SMALL):
            writer = await begin(storage)
            await writer.write_body(body, end=True)
            faulty.faults["PUBLISH"] = mute
            finishing = asyncio.create_task(writer.finish())
            await eventually(lambda: faulty.asked[-1] == "PUBLISH")
            finishing.cancel()
            await asyncio.wait([finishing])
            writer.close()
            faulty.faults.clear()

            assert await read(storage) in {None, body}


async def test_a_cancelled_read_takes_nothing_away(storage: RedisStorage) -> None:
    """The next one goes on where it was; nor does a closed reader hang."""

    async def cancelled(reader: HitHandler) -> None:
        reading = asyncio.create_task(reader.read_body())
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])

    await write(storage, BODY)
    reader = await find(storage)
    await cancelled(reader)
    body = await reader.read_body() or b""
    await cancelled(reader)
    assert body + await drain(reader) == BODY

    reader = await find(storage)
    reading = asyncio.create_task(reader.read_body())
    await asyncio.sleep(0)
    reader.close()
    with pytest.raises(Error):
        await reading


async def test_writers_of_one_key_do_not_mix(client: Redis) -> None:
    """From any number of processes at a time: who is last wins, whole."""
    bodies = [bytes([number]) * (500 + 700 * number) for number in range(12)]
    async with open_redis(client) as one, open_redis(client) as other:

        async def fill(storage: RedisStorage, body: bytes) -> None:
            writer = await begin(storage)
            for start in range(0, len(body), 300):
                await writer.write_body(body[start : start + 300], end=False)
            await writer.finish()

        await asyncio.gather(*(fill((one, other)[n % 2], body) for n, body in enumerate(bodies)))

        assert await read(one) in bodies
        assert await read(one) == await read(other)


async def test_prefixes_are_caches_of_their_own(client: Redis) -> None:
    """They share a Redis and nothing else, tags included."""
    async with open_redis(client, prefix="a") as one, open_redis(client, prefix="b") as other:
        await write(one, b"one", tags=[b"t"])
        await write(other, b"other", tags=[b"t"])
        await one.purge_tag(b"t")

        assert await read(one) is None
        assert await read(other) == b"other"


# -------------------------------------------------------------------------- a cluster


@asynccontextmanager
async def _cluster(directory: Path) -> AsyncIterator[RedisCluster]:
    """Run a cluster of one node, which is as strict as one of many."""
    async with RedisServer(directory, "--cluster-enabled", "yes") as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"CLUSTER ADDSLOTSRANGE 0 16383\r\n")
        assert await reader.readline() == b"+OK\r\n"
        answer = b""
        for _ in range(500):
            writer.write(b"GET a\r\n")
            answer = await reader.readline()
            if answer == b"$-1\r\n":
                break
            await asyncio.sleep(0.02)
        writer.close()
        await writer.wait_closed()
        assert answer == b"$-1\r\n"
        client = RedisCluster(host="127.0.0.1", port=server.port, socket_timeout=PATIENCE)
        try:
            yield client
        finally:
            await client.aclose()


async def test_a_cluster(tmp_path: Path) -> None:
    """Each question is about one slot of it."""
    tuning = RedisTuning(chunk_size=1000, inline_size=100, tag_slots=16)
    async with _cluster(tmp_path) as client, open_redis(client, tuning=tuning) as storage:
        tags = [b"%d" % number for number in range(10)]
        await write(storage, BODY, tags=tags)
        await write(storage, SMALL, make_key("small"))
        assert await read(storage) == BODY
        assert await read(storage, make_key("small")) == SMALL
        assert await storage.update_meta(make_key(), await _meta(storage))
        await storage.purge_tag(b"7", action=PurgeAction.EXPIRE)
        assert not await _is_fresh(storage)
        await storage.purge_tag(b"3")
        assert await read(storage) is None
        assert await storage.purge(make_key("small").to_compact())
        writer = await begin(storage)
        await writer.write_body(BODY, end=True)
        await writer.abort()
        assert storage.stats.errors == storage.stats.corrupt == 0
