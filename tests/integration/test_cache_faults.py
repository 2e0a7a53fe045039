"""A store that fails, wherever it can: the client gets its response, and a counter says why."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from pingora_cache.disk import DiskStorage
from pingora_cache.memory import MemoryStorage
from pingora_cache.reason import NoCacheReason
from pingora_cache.storage import STORAGE_FULL
from pingora_error import Error
from tests.support.cache_origin import DOWNLOAD, HELLO
from tests.support.cache_proxy import CacheRig, CachingProxy
from tests.support.cache_store import PlainStore
from tests.support.waiting import eventually
from tests.support.wire import Truncated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pingora_http import ResponseHeader
    from pingora_proxy import Session
    from tests.support.cache_proxy import CacheContext
    from tests.support.client import Response

_MINUTE = ("set-cache-control", "public, max-age=60")
_BODY_GATE = ("x-body-gate", "body")
_WHOLE = b"hello world!"


class FaultyStore(PlainStore):
    """Fails in the call that a test names.

    Attributes:
        failing: Names of calls, and the number of the one that fails, from 1; 0 for all.
        failure: What it fails with.
    """

    def __init__(self, *, streaming: bool = False) -> None:
        super().__init__(streaming=streaming)
        self.failing: dict[str, int] = {}
        self.failure: Exception = Error(STORAGE_FULL)
        self.count: Counter[str] = Counter()

    async def called(self, name: str) -> None:
        self.count[name] += 1
        await super().called(name)
        if name in self.failing and self.failing[name] in {0, self.count[name]}:
            raise self.failure


@pytest.fixture(params=[True, False], ids=["streaming", "plain"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[CacheRig]:
    """A rig whose store can fail; it holds nothing in the end."""
    store = FaultyStore(streaming=request.param)
    async with CacheRig(storage=store) as running:
        yield running
    assert (store.readers, store.writers) == (0, 0)
    assert running.app.stats.fills_active == 0


def store_of(rig: CacheRig) -> FaultyStore:
    assert isinstance(rig.storage, FaultyStore)
    return rig.storage


def status_of(response: Response) -> str | None:
    return response.get("x-cache-status")


FAILURES = [
    pytest.param(Error(STORAGE_FULL), id="error"),
    pytest.param(RuntimeError("a bug"), id="bug"),
]


# ------------------------------------------------------------------------------ writing


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("call", ["get_miss_handler", "write_body", "finish"])
async def test_a_store_that_cannot_write(rig: CacheRig, call: str, failure: Exception) -> None:
    """The client gets the whole response; nothing is stored, and the next one tries again."""
    store = store_of(rig)
    store.failing, store.failure = {call: 1}, failure
    url = "/unique/write/slow_body"
    first = await rig.send(url, _MINUTE)
    await rig.app.ended(1)
    second, third = await rig.send(url, _MINUTE), await rig.send(url)

    expected = "no-cache" if call == "get_miss_handler" else "miss"
    assert (status_of(first), first.body) == (expected, _WHOLE)
    assert [status_of(r) for r in (second, third)] == ["miss", "hit"]
    assert {second.body, third.body} == {_WHOLE}
    assert (rig.app.stats.fill_errors, rig.app.stats.fills) == (1, 1)
    assert rig.app.endings[0].error is None


@pytest.mark.parametrize("piece", [1, 2, 5])
async def test_a_write_that_fails_in_the_middle(rig: CacheRig, piece: int) -> None:
    """At whatever piece: the body goes on to the client."""
    store = store_of(rig)
    store.failing = {"write_body": piece}
    response = await rig.send("/unique/middle/download", _MINUTE)
    await rig.app.ended(1)

    assert (response.status, response.body == DOWNLOAD) == (200, True)
    assert store.count["write_body"] == piece
    assert not store.objects


async def test_a_slow_client_of_a_write_that_has_failed(rig: CacheRig) -> None:
    """It is not sent to the store after that, but gets the body as it comes."""
    store = store_of(rig)
    store.failing = {"write_body": 2}
    async with await rig.client(receive_buffer=4096) as client:
        await client.send_request("GET", "/unique/slow/download", [_MINUTE])
        head, _ = await client.read_final_head()
        body = client.body_of(head)
        assert await body.read()
        await asyncio.sleep(0.02)
        assert await body.read_all() == DOWNLOAD
    await rig.app.ended(1)

    assert not store.objects


async def test_a_store_that_cannot_be_read_along(rig: CacheRig) -> None:
    """When the reader of the fill itself is missing, the response is not stored."""
    store = store_of(rig)
    store.failing = {"lookup_streaming_write": 1}
    response = await rig.send("/unique/along/slow_body", _MINUTE)

    assert (response.status, response.body) == (200, _WHOLE)
    assert status_of(response) == ("no-cache" if store.supports_streaming_partial_write else "miss")


@pytest.mark.parametrize("failure", FAILURES)
async def test_giving_up_fails_too(rig: CacheRig, failure: Exception) -> None:
    """An upstream that breaks off, and a store that cannot forget: the client learns of the first."""
    store = store_of(rig)
    store.failing, store.failure = {"abort": 1}, failure
    async with await rig.client() as client:
        await client.send_request("GET", "/unique/abort/slow_body", [("x-abort-body", "1")])
        head, _ = await client.read_final_head()
        async with asyncio.timeout(30):
            with pytest.raises(Truncated):
                await client.body_of(head).read_all()
    ending = await rig.app.ended(1)

    assert ending.error is not None
    assert "upstream" in str(ending.error).lower() or "closed" in str(ending.error)
    assert not store.objects


async def test_a_slow_store_loses_nothing(rig: CacheRig) -> None:
    """One that takes its time, as a disk does: the response arrives, and is stored in the end."""
    store = store_of(rig)
    gates = [store.gate(name) for name in ("write_body", "finish")]
    task = rig.start("/unique/slow/slow_body", _MINUTE)
    await eventually(lambda: store.count["write_body"], "the first write")
    gates[0].set()
    response = await task
    assert response.body == _WHOLE
    assert not store.objects  # it is on its way, and the client has not waited
    gates[1].set()
    await rig.app.ended(1)

    assert status_of(await rig.send("/unique/slow/slow_body")) == "hit"


async def test_too_large_for_the_store() -> None:
    """A limit of the store's own is no trouble for the client, whether the length is told or not."""
    async with CacheRig(storage=MemoryStorage(1 << 20, max_object_size=8)) as rig:
        for url in ("/unique/known/now", "/unique/unknown/test3"):
            responses = [await rig.send(url, _MINUTE, ("Range", "bytes=0-20")) for _ in range(2)]
            assert {r.body for r in responses} == {HELLO}
        await rig.app.ended(4)

        assert rig.app.stats.fills == 0
        assert {ending.error for ending in rig.app.endings} == {None}


@pytest.mark.parametrize("field", [("x-chunked", "1"), ("x-sized", "1")])
async def test_too_large_for_the_store_with_a_slow_client(field: tuple[str, str]) -> None:
    """A client that lags behind gets all of a body that turns out not to be stored."""
    async with CacheRig(storage=MemoryStorage(8 << 20, max_object_size=2 << 20)) as rig:
        async with await rig.client(receive_buffer=4096) as client:
            await client.send_request("GET", "/unique/slow/download", [field, _MINUTE])
            head, _ = await client.read_final_head()
            body = client.body_of(head)
            assert await body.read()
            await asyncio.sleep(0.02)
            assert await body.read_all() == DOWNLOAD
        await rig.app.ended(1)

        assert (rig.app.stats.fills, rig.app.stats.fill_errors) == (0, 1)


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_a_store_that_fails_when_a_client_depends_on_it(kind: str, tmp_path: Path) -> None:
    """A client that lags behind and reads in the store gets the rest as the upstream sends it."""
    store: MemoryStorage | DiskStorage = MemoryStorage(8 << 20)
    if kind == "disk":
        store = DiskStorage(tmp_path / "store", max_bytes=1 << 26)
    async with CacheRig(storage=store) as rig, await rig.client(receive_buffer=4096) as client:
        await client.send_request(
            "GET", "/unique/depends/download", [_MINUTE, _BODY_GATE, ("x-sized", "1")]
        )
        head, _ = await client.read_final_head()
        body = client.body_of(head)
        rig.origin.open("body", 40)
        await eventually(lambda: rig.app.stats.bytes_filled > (2 << 20), "the client to lag")
        if isinstance(store, DiskStorage):
            (fill,) = store._fills._by_tag.values()
            fill.fail(STORAGE_FULL, "no room")
        else:
            (write,) = store._filling._by_tag.values()
            store._filling._fail(write, STORAGE_FULL, "no room")
        rig.origin.open("body", 40)

        assert await body.read_all() == DOWNLOAD
        await rig.app.ended(1)
        assert (rig.app.stats.fills, rig.app.stats.fill_errors) == (0, 1)
        assert rig.app.endings[0].error is None


async def test_a_full_store() -> None:
    """What does not fit is passed on."""
    async with CacheRig(storage=MemoryStorage(1 << 20)) as rig:
        response = await rig.send("/unique/full/download", _MINUTE)

        assert response.body == DOWNLOAD


# ------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_store_that_cannot_look_up(rig: CacheRig, failure: Exception) -> None:
    """A lookup that fails is a miss, and counted."""
    store = store_of(rig)
    store.failure = failure
    await rig.send("/unique/lookup/now", _MINUTE)
    store.failing = {"lookup": 2}
    miss, hit = [await rig.send("/unique/lookup/now", _MINUTE) for _ in range(2)]

    assert [status_of(r) for r in (miss, hit)] == ["miss", "hit"]
    assert (rig.app.stats.lookup_errors, len(rig.origin.requests)) == (1, 2)


@pytest.mark.parametrize("field", [("x-a", "1"), ("Range", "bytes=0-4"), ("x-lock", "1")])
async def test_an_object_that_cannot_be_read(rig: CacheRig, field: tuple[str, str]) -> None:
    """Nothing was sent yet: the upstream is asked instead."""
    store = store_of(rig)
    url = "/unique/read/now"
    await rig.send(url, _MINUTE)
    store.count.clear()
    store.failing = {"read_body": 1}
    response, hit = await rig.send(url, field, _MINUTE), await rig.send(url, field, _MINUTE)

    assert (response.status, status_of(response), response.body) == (200, "no-cache", HELLO)
    assert status_of(hit) == "hit"
    assert rig.app.stats.reasons[str(NoCacheReason.STORAGE_ERROR)] == 1
    assert rig.app.lock.keys == 0


async def test_reading_that_fails_in_the_middle(rig: CacheRig) -> None:
    """What has begun cannot be taken back: it breaks off, and never ends as if it were whole."""
    store = store_of(rig)
    url = "/unique/middle/download"
    await rig.send(url, _MINUTE)
    await rig.app.ended(1)
    store.count.clear()
    store.failing = {"read_body": 2}
    async with await rig.client() as client:
        await client.send_request("GET", url)
        head, _ = await client.read_final_head()
        async with asyncio.timeout(30):
            with pytest.raises(Truncated):
                await client.body_of(head).read_all()
    ending = await rig.app.ended(2)

    assert ending.error is not None
    assert (await rig.send(url)).body == DOWNLOAD


@pytest.mark.parametrize("failure", FAILURES)
async def test_ending_to_read_fails(rig: CacheRig, failure: Exception) -> None:
    """The client has got everything by then, and the connection goes on."""
    store = store_of(rig)
    store.failing, store.failure = {"finish_reading": 0}, failure
    await rig.send("/unique/end/now", _MINUTE)
    async with await rig.client() as client:
        hits = [await client.request("GET", "/unique/end/now") for _ in range(2)]

    assert [(status_of(r), r.body) for r in hits] == [("hit", HELLO)] * 2
    assert {ending.error for ending in rig.app.endings} == {None}


async def test_a_revalidated_object_that_cannot_be_read(rig: CacheRig) -> None:
    """The upstream is asked once more, and for the body this time."""
    store = store_of(rig)
    url = "/unique/revalidated/revalidate_now"
    await rig.send(url)
    rig.advance(1.1)
    store.count.clear()
    store.failing = {"read_body": 1}
    response = await rig.send(url)

    assert (response.status, response.body) == (200, HELLO)
    requests = [request.get("if-none-match") for request in rig.origin.requests]
    assert requests == [None, '"abcd"', None]


async def test_a_revalidation_that_cannot_be_noted(rig: CacheRig) -> None:
    """The object is served as confirmed; the next request asks again."""
    store = store_of(rig)
    url = "/unique/noted/revalidate_now"
    await rig.send(url)
    rig.advance(1.1)
    store.failing = {"update_meta": 1}
    responses = [await rig.send(url) for _ in range(3)]

    assert [status_of(r) for r in responses] == ["revalidated", "revalidated", "hit"]
    assert rig.app.stats.meta_errors == 1


async def test_a_stale_object_that_cannot_be_read(rig: CacheRig) -> None:
    """What the upstream says is passed on then."""
    store = store_of(rig)
    url = "/unique/stale/now"
    await rig.send(url)
    for field, status in ((("x-status", "503"), 503), (("x-abort", "1"), 502)):
        rig.advance(0.6)
        store.count.clear()
        store.failing = {"read_body": 1}
        response = await rig.send(url, field, ("set-cache-control", "no-store"))
        assert response.status == status


async def test_a_stale_object_that_is_updated_and_cannot_be_read(rig: CacheRig) -> None:
    """Then the client waits for the upstream itself."""
    store = store_of(rig)
    url = "/unique/updating/now"
    await rig.send(url)
    rig.advance(1.1)
    store.count.clear()
    store.failing = {"read_body": 1}
    response = await rig.send(url, ("x-lock", "1"))

    assert (response.status, response.body) == (200, HELLO)
    await rig.app.ended(3)
    assert rig.app.lock.keys == 0


# ------------------------------------------------------------------------------- purging


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_purge_that_fails(rig: CacheRig, failure: Exception) -> None:
    """It is answered with 500: nobody may believe that it is gone."""
    store = store_of(rig)
    url = "/unique/purge/now"
    await rig.send(url, _MINUTE)
    store.failing, store.failure = {"purge": 1}, failure
    failed, purged = [await rig.send(url, method="PURGE") for _ in range(2)]

    assert [(r.status, r.body) for r in (failed, purged)] == [(500, b""), (200, b"")]
    assert rig.app.stats.purge_errors == 1


async def test_a_purge_while_it_is_stored(rig: CacheRig) -> None:
    """Those who read it get it whole; nobody finds it afterwards."""
    url = "/unique/during/slow_body"
    task = rig.start(url, _BODY_GATE, _MINUTE)
    await rig.origin.requests_arrived(1)
    await eventually(lambda: store_of(rig).writers, "the fill")
    purged = await rig.send(url, method="PURGE")
    rig.origin.open("body", 2)

    assert (purged.status, (await task).body) == (200, _WHOLE)
    await rig.app.ended(2)
    assert status_of(await rig.send(url)) == "miss"


async def test_an_invalidation_that_fails(rig: CacheRig) -> None:
    """The response to the request that changes something is passed on all the same."""
    store_of(rig).failing = {"purge": 0}
    response = await rig.send("/unique/invalid/now", method="POST", body=b"x")

    assert (response.status, response.body) == (200, HELLO)


# ------------------------------------------------------------------------ the application


class _Faulty(CachingProxy):
    """Fails in a callback."""

    failing = ""
    failure: Exception = RuntimeError("a fault of the program")

    def check(self, name: str) -> None:
        if name == self.failing:
            raise self.failure

    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: CacheContext
    ) -> None:
        self.check("response_filter")
        await super().response_filter(session, upstream_response, ctx)

    async def upstream_response_body_filter(
        self, session: Session, body: bytes | None, end_of_stream: bool, ctx: CacheContext
    ) -> bytes | None:
        self.check("upstream_response_body_filter")
        return body


async def test_a_filter_that_fails_ends_the_fill() -> None:
    """The client is told at once; a response that nobody could be sent is not fetched to its end."""
    async with CacheRig(_Faulty) as rig:
        assert isinstance(rig.app, _Faulty)
        rig.app.failing = "response_filter"
        response = await rig.send("/unique/filter/slow_body", _BODY_GATE, _MINUTE)
        assert response.status == 500
        await rig.app.ended(1)
        assert (rig.app.stats.fills_active, rig.app.stats.fills) == (0, 0)
        rig.app.failing = ""
        assert status_of(await rig.send("/unique/filter/slow_body", _MINUTE)) == "miss"


async def test_a_filter_of_the_body_that_fails() -> None:
    """What it does to the stored body fails for the client and for the store."""
    async with CacheRig(_Faulty) as rig:
        assert isinstance(rig.app, _Faulty)
        rig.app.failing = "upstream_response_body_filter"
        async with await rig.client() as client:
            await client.send_request("GET", "/unique/filter/slow_body", [_MINUTE])
            with pytest.raises(Truncated):
                await client.read_response("GET")
        ending = await rig.app.ended(1)
        assert ending.error is not None
        assert "RuntimeError" in str(ending.error)
        rig.app.failing = ""
        assert status_of(await rig.send("/unique/filter/slow_body", _MINUTE)) == "miss"
