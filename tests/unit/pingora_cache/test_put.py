"""Putting responses: what may be stored is, whole or not at all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_cache.control import CacheControl
from pingora_cache.eviction import SimpleLru
from pingora_cache.filters import CacheMetaDefaults
from pingora_cache.key import CacheKey
from pingora_cache.memory import MemoryStorage
from pingora_cache.policy import CachePolicy
from pingora_cache.put import INCOMPLETE_BODY, CachePut, CachePutCtx
from pingora_cache.reason import NoCacheReason
from pingora_cache.stats import CacheStats
from pingora_cache.storage import RESPONSE_TOO_LARGE
from pingora_error import Error, ErrorType
from tests.support.cache_store import PlainStore
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pingora_cache.meta import CacheMeta
    from pingora_cache.storage import Storage
    from pingora_cache.verdict import RespCacheable
    from pingora_http import ResponseHeader

_KEY = CacheKey("1", namespace="a")
_DEFAULTS = CacheMetaDefaults(lambda _: 1.0, 1, 1)
_FIELDS = (
    b"Date: Thu, 26 Apr 2018 05:42:05 GMT\r\n"
    b"Content-Type: text/html; charset=utf-8\r\n"
    b"Connection: keep-alive\r\n"
    b"X-Frame-Options: SAMEORIGIN\r\n"
    b"Cache-Control: public, max-age=1\r\n"
    b"Server: origin-server\r\n"
)
_HEAD = b"HTTP/1.1 200 OK\r\n" + _FIELDS + b"Content-Length: 4\r\n\r\n"
# Without a Date, which the default policy would take for the age.
_NEW = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 4\r\n\r\n"


def _put(storage: Storage, **options: int) -> CachePutCtx:
    """Make a context that decides as the original does."""
    put = CachePut(CachePolicy.pingora(_DEFAULTS))
    return CachePutCtx(put, _KEY, storage, max_file_size_bytes=options.get("limit"))


async def _feed(put: CachePutCtx, *pieces: bytes) -> NoCacheReason | None:
    """Have pieces put."""
    rest = iter(pieces)

    async def read() -> bytes | None:
        await asyncio.sleep(0)
        return next(rest, None)

    return await put.cache_put(read)


async def _stored(storage: Storage) -> tuple[CacheMeta, bytes]:
    found = await storage.lookup(_KEY)
    assert found is not None
    meta, reader = found
    body = b""
    while (piece := await reader.read_body()) is not None:
        body += piece
    reader.close()
    return meta, body


# ------------------------------------------------------------------- as the original


async def test_cache_put() -> None:
    """What is put can be looked up."""
    async with MemoryStorage(1_000_000) as storage:
        assert await _feed(_put(storage), _HEAD + b"rust") is None

        meta, body = await _stored(storage)
        assert meta.header.get("date") == "Thu, 26 Apr 2018 05:42:05 GMT"
        assert body == b"rust"


async def test_cache_put_uncacheable() -> None:
    """What must not be stored is not, and the reason is told."""
    head = _HEAD.replace(b"public, max-age=1", b"no-store")
    async with MemoryStorage(1_000_000) as storage:
        put = _put(storage)
        assert await _feed(put, head + b"rust") is NoCacheReason.ORIGIN_NOT_CACHE

        assert put.uncacheable is not None
        assert await storage.lookup(_KEY) is None


async def test_cache_put_204_invalid_body() -> None:
    """A 204 is stored without a body, whatever follows it, and without the length of one."""
    async with MemoryStorage(1_000_000) as storage:
        head = _HEAD.replace(b"200 OK", b"204 OK")
        assert await _feed(_put(storage), head, b"rust") is None

        meta, body = await _stored(storage)
        assert meta.header.get("date") == "Thu, 26 Apr 2018 05:42:05 GMT"
        assert meta.header.get("content-length") is None
        assert body == b""


async def test_cache_put_extra_body() -> None:
    """Of a body, only as much as its length says is stored; the rest is read and dropped."""
    async with MemoryStorage(1_000_000) as storage:
        assert await _feed(_put(storage), _HEAD, b"rustab", b"cdef") is None

        assert (await _stored(storage))[1] == b"rust"


# ------------------------------------------------------------------- decisions


async def test_the_default_policy() -> None:
    """By default that decides which decides for responses of origins."""
    clock = FakeClock(1_700_000_000.0)
    put = CachePutCtx(CachePut(), _KEY, storage := PlainStore(), clock=clock)
    head = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nSet-Cookie: a=b\r\n\r\n"
    assert await _feed(put, head + b"x") is NoCacheReason.ORIGIN_NOT_CACHE
    assert put.uncacheable is not None
    assert put.uncacheable.detail == "Set-Cookie"

    head = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n"
    put = CachePutCtx(CachePut(), _KEY, storage, clock=clock)
    assert await _feed(put, head, b"x", b"", b"y") is None
    meta, body = await _stored(storage)
    assert body == b"xy"
    assert (meta.created, meta.fresh_until) == (clock.now, clock.now + 60)
    assert meta.header.get("transfer-encoding") is None


async def test_decisions_of_ones_own() -> None:
    """A subclass hears of the head and decides."""
    heard: list[str | None] = []

    class Put(CachePut):
        def trace_header(self, response: ResponseHeader) -> None:
            heard.append(str(CacheControl.from_header(response)))

        def cacheable(self, response: ResponseHeader, now: float) -> RespCacheable:
            return super().cacheable(response, now + 1000)

    storage = PlainStore()
    put = CachePutCtx(Put(), _KEY, storage, clock=FakeClock(1_700_000_000.0))
    assert await _feed(put, _NEW + b"rust") is None
    assert (await _stored(storage))[0].created == 1_700_001_000.0
    assert heard == ["max-age=60"]


async def test_a_variant() -> None:
    """What is put as a variant says so."""
    key = _KEY.copy()
    key.variance = b"v" * 16
    storage = PlainStore()
    assert await _feed(CachePutCtx(CachePut(), key, storage), _NEW + b"rust") is None

    assert await storage.lookup(_KEY) is None
    found = await storage.lookup(key)
    assert found is not None
    assert found[0].variance == key.variance
    found[1].close()


# ------------------------------------------------------------------- limits


async def test_too_large_by_its_length() -> None:
    """A body that says that it is too large is not stored, and is read to its end."""
    storage = PlainStore()
    put = _put(storage, limit=3)
    assert await _feed(put, _HEAD, b"ru", b"st") is NoCacheReason.RESPONSE_TOO_LARGE
    assert storage.calls == []

    assert await _feed(_put(storage, limit=4), _HEAD, b"ru", b"st") is None
    assert (await _stored(storage))[1] == b"rust"


async def test_too_large_by_its_body() -> None:
    """A body that turns out to be too large leaves nothing behind."""
    storage = PlainStore()
    head = b"HTTP/1.1 200 OK\r\n" + _FIELDS + b"\r\n"
    with pytest.raises(Error) as caught:
        await _feed(_put(storage, limit=3), head, b"ru", b"st")

    assert caught.value.etype == RESPONSE_TOO_LARGE
    assert (storage.writers, storage.objects) == (0, {})


async def test_a_304_tells_another_length() -> None:
    """The length of a 304 is not that of its body."""
    storage = PlainStore()
    head = _HEAD.replace(b"200 OK", b"304 Not Modified").replace(b": 4", b": 4000")
    assert await _feed(_put(storage, limit=3), head) is None
    assert (await _stored(storage))[1] == b""


def test_misuse() -> None:
    """No body is smaller than nothing."""
    with pytest.raises(ValueError, match="smaller"):
        _put(PlainStore(), limit=-1)


# ------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("pieces", "etype"),
    [
        ([], INCOMPLETE_BODY),
        ([b"HTTP/1.1 200 OK\r\n"], INCOMPLETE_BODY),
        ([_HEAD, b"rus"], INCOMPLETE_BODY),
        ([b"nonsense\r\n\r\n"], ErrorType.INVALID_HTTP_HEADER),
    ],
)
async def test_incomplete(pieces: list[bytes], etype: object) -> None:
    """What is no whole response leaves nothing behind."""
    storage = PlainStore()
    with pytest.raises(Error) as caught:
        await _feed(_put(storage), *pieces)

    assert caught.value.etype == etype
    assert (storage.writers, storage.objects) == (0, {})


async def test_a_reader_that_fails() -> None:
    """When the request breaks off, what was written goes."""
    storage = PlainStore()
    pieces = iter([_HEAD, b"ru"])

    async def read() -> bytes | None:
        piece = next(pieces, None)
        if piece is None:
            raise Error.down(ErrorType.CONNECTION_CLOSED)
        return piece

    with pytest.raises(Error) as caught:
        await _put(storage).cache_put(read)
    assert caught.value.etype is ErrorType.CONNECTION_CLOSED
    assert (storage.writers, storage.objects) == (0, {})


async def test_cancelled() -> None:
    """When who puts is cancelled, what was written goes."""
    storage = PlainStore()
    gate = storage.gate("write_body")
    task = asyncio.create_task(_feed(_put(storage), _HEAD + b"rust"))
    await eventually(lambda: "write_body" in storage.calls)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not gate.is_set()
    assert (storage.writers, storage.objects) == (0, {})


@pytest.mark.parametrize("call", ["get_miss_handler", "write_body", "finish"])
async def test_a_store_that_fails(call: str) -> None:
    """A store in trouble is told as an Error, and counted; nothing is left open."""
    storage = PlainStore()
    storage.faults[call] = OSError("disk full")
    stats = CacheStats()
    put = CachePutCtx(CachePut(), _KEY, storage, stats=stats)
    with pytest.raises(Error) as caught:
        await _feed(put, _NEW + b"rust")

    assert "disk full" in str(caught.value)
    assert (stats.fill_errors, stats.fills, stats.fills_active) == (1, 0, 0)
    assert (storage.writers, storage.objects) == (0, {})


async def test_eviction_outside_the_store() -> None:
    """A manager of one's own hears of what is put."""
    storage, lru, stats = PlainStore(), SimpleLru(1000), CacheStats()
    put = CachePutCtx(CachePut(), _KEY, storage, eviction=lru, stats=stats)
    assert await _feed(put, _NEW + b"rust") is None

    assert lru.peek(_KEY.to_compact())
    assert (stats.fills, stats.bytes_filled) == (1, 4)


async def test_step_by_step() -> None:
    """The pieces may also be handed over; whoever gives up leaves nothing behind."""
    storage = PlainStore()
    put = _put(storage)
    await put.write(_HEAD)
    assert storage.writers == 1
    put.close()
    put.close()
    assert (storage.writers, storage.objects) == (0, {})

    put = _put(storage)
    for piece in (_HEAD, b"ru", b"st"):
        await put.write(piece)
    assert put.uncacheable is None
    assert await put.finish() is None
    put.close()
    assert (await _stored(storage))[1] == b"rust"
    _put(storage).close()
