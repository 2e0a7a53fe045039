"""A Redis that has something else than was written, or answers something else."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from pingora_cache.redis import connect
from pingora_cache.redis._frames import Kind, Shape, seal
from pingora_cache.storage import PurgeResult
from pingora_cache.testing.harness import make_body, make_key, make_meta
from pingora_error import Error, ErrorType
from tests.support.cache_objects import begin, drain, find, read, write
from tests.support.cache_redis import (
    BODY,
    SMALL,
    FaultyRedis,
    cleared,
    failing,
    lying,
    only_key,
    open_redis,
    redis_keys,
)
from tests.support.redis_server import shared_redis
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from redis.asyncio import Redis

    from pingora_cache.redis import RedisStorage
    from tests.support.redis_server import RedisServer


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


async def test_a_damaged_piece(client: Redis, storage: RedisStorage) -> None:
    """Flipped, cut, swapped, of another write or of another type: an Error, then a miss."""
    for name in ("flip", "cut", "swap", "empty", "old"):
        await write(storage, make_body("another", 4500))
        old = await client.hget(await only_key(client, ":b:"), "1")
        await client.flushall()
        await write(storage, BODY)
        body = await only_key(client, ":b:")
        pieces = [await client.hget(body, str(index)) for index in range(5)]
        assert isinstance(old, bytes)
        assert isinstance(pieces[1], bytes)
        damaged = {
            "flip": pieces[1][:-1] + bytes([pieces[1][-1] ^ 1]),
            "cut": pieces[1][:-1],
            "swap": pieces[2],
            "empty": b"",
            "old": old,
        }[name]
        await client.hset(body, "1", damaged)
        corrupt = storage.stats.corrupt

        reader = await find(storage)
        assert await reader.read_body() == BODY[:1000]
        with pytest.raises(Error) as caught:
            await drain(reader)
        assert caught.value.etype == ErrorType.READ_ERROR, name
        assert storage.stats.corrupt == corrupt + 1
        await cleared(client)


async def test_pieces_of_another_size(client: Redis, storage: RedisStorage) -> None:
    """They prove what they are, but are not all of it."""
    write_id = b"\1" * 16
    short = seal(Kind.CHUNK, write_id, 0, [b"short"])
    shapes = {"body": Shape(write_id, 4500, 1000), "inline": Shape(write_id, 10, 0)}
    for name, shape in shapes.items():
        await write(storage, BODY if name == "body" else SMALL)
        head = await only_key(client, ":h")
        frame = seal(Kind.SHAPE, make_key().combined_hash, 0, [shape.to_bytes()])
        await client.hset(head, mapping={"i": write_id.hex(), "s": frame})
        if name == "body":
            body = f"{head[:-1]}b:{write_id.hex()}"
            await client.hset(body, mapping={str(index): short for index in range(5)})
            with pytest.raises(Error):
                await read(storage)
        else:
            await client.hset(head, "b", short)
            assert await read(storage) is None
        await client.flushall()
    assert storage.stats.corrupt == 2


@pytest.mark.parametrize("field", ["i", "s", "m", "c", "t", "b", "x"])
async def test_a_damaged_head(client: Redis, storage: RedisStorage, field: str) -> None:
    """No field of it is believed: the object is found as it was, or not at all."""
    for damage in (b"", b"garbage", b"nan", b"1:", b"\xff" * 100):
        await write(storage, SMALL, tags=[b"a"])
        await client.hset(await only_key(client, ":h"), field, damage)

        found = await storage.lookup(make_key())
        if found is not None:
            # What is left is when it was created, and when it was made to expire.
            assert field in "cx"
            assert await drain(found[1]) == SMALL
            assert not (await storage.update_meta(make_key(), make_meta()))
        await client.flushall()


async def test_a_head_without_a_field(client: Redis, storage: RedisStorage) -> None:
    """It is damaged, and cleared away."""
    for field in ("s", "m", "b", "t"):
        await write(storage, SMALL, tags=[b"a"])
        await client.hdel(await only_key(client, ":h"), field)

        assert await read(storage) is None, field
        await eventually(lambda: not storage.is_away)
    assert storage.stats.corrupt == 4


async def test_values_of_another_type(client: Redis, storage: RedisStorage) -> None:
    """They are misses, and make way for what is written."""
    await write(storage, BODY, tags=[b"a"])
    for key in await redis_keys(client):
        await client.delete(key)
        await client.rpush(key, "a list")
    names = await redis_keys(client, ":h")

    assert await read(storage) is None
    assert storage.stats.corrupt == 1
    await client.set(names[0], "a text")
    await client.set(names[0].replace(":h", ":w"), "a text")
    await write(storage, BODY, tags=[b"a"])
    assert await read(storage) == BODY
    await client.set(names[0], "a text")
    assert await storage.purge(make_key().to_compact()) is PurgeResult.NOT_FOUND
    assert await redis_keys(client, ":h") == []


@pytest.mark.parametrize("answer", [None, 1, b"x", "text", [], [1], [None] * 7, {}, [b""] * 7])
async def test_answers_without_sense(client: Redis, answer: object) -> None:
    """To whatever is asked: a miss or an Error, and nothing else."""
    faulty = FaultyRedis(client)
    async with open_redis(faulty) as storage:
        await write(storage, BODY, tags=[b"a"])
        for question in ("LOOKUP", "MGET", "CHUNK", "BEGIN", "APPEND", "PUBLISH", "TOUCH_TAGS"):
            faulty.faults = {question: lying(answer), "DISCARD": lying(1)}
            try:
                assert await read(storage) in {None, BODY}
                writer = await begin(storage, make_key("other"), tags=[b"a"])
                await writer.write_body(BODY, end=True)
                finished = await writer.finish()
                assert not finished.published or question in {"BEGIN", "PUBLISH", "LOOKUP", "CHUNK"}
            except Error:
                pass
        faulty.faults.clear()
        assert await read(storage) == BODY


async def test_a_client_that_decodes(server: RedisServer) -> None:
    """It never has a hit, rather than a wrong one."""
    async with AsyncExitStack() as stack:
        client = connect(f"{server.url}?decode_responses=true&encoding=latin-1")
        stack.push_async_callback(client.aclose)
        storage = await stack.enter_async_context(open_redis(client))
        await write(storage, SMALL)

        assert await read(storage) is None
        assert storage.stats.corrupt == 1


async def test_a_failing_client_is_an_error_of_ours(client: Redis) -> None:
    """Whatever it raises, and whatever is asked."""
    faulty = FaultyRedis(client)
    faulty.faults["*"] = failing(ValueError("a bug"))
    async with open_redis(faulty) as storage:
        with pytest.raises(Error):
            await read(storage)
