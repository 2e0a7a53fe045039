"""Objects on their way into the cache: read along, by clients that leave, stall or come late."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_cache.phase import CachePhase
from pingora_proxy import _cache_exchange
from tests.support.cache_origin import DOWNLOAD, HELLO
from tests.support.h2wire import Kind
from tests.support.waiting import eventually
from tests.support.wire import Truncated

if TYPE_CHECKING:
    from tests.support.cache_proxy import CacheRig
    from tests.support.client import RawClient, Response
    from tests.support.wire import BodyStream, Head

_LOCK = ("x-lock", "1")
_GATE = ("x-gate", "head")
_BODY_GATE = ("x-body-gate", "body")
_MINUTE = ("set-cache-control", "public, max-age=60")
_NO_STORE = ("set-cache-control", "no-store")
_WHOLE = b"hello world!"


def status_of(response: Response) -> str | None:
    return response.get("x-cache-status")


async def begin(
    client: RawClient, url: str, *fields: tuple[str, str], method: str = "GET"
) -> tuple[Head, BodyStream]:
    """Send a request, and read the head of its response."""
    await client.send_request(method, url, fields)
    head, _ = await client.read_final_head()
    return head, client.body_of(head, method)


# --------------------------------------------------------------------------- read along


async def test_cache_streaming_partial_body(cache: CacheRig) -> None:
    """Who waits for the lock waits for the head only, and reads the body as it arrives."""
    url = "/unique/partial/slow_body"
    async with await cache.client() as first, await cache.client() as second:
        fields = (_LOCK, _GATE, _BODY_GATE, _MINUTE)
        writer = asyncio.create_task(begin(first, url, *fields))
        await cache.origin.requests_arrived(1)
        reader = asyncio.create_task(begin(second, url, _LOCK))
        await cache.waiting(1)
        cache.app.time.advance(0.9)
        cache.origin.open("head")
        head, body = await writer
        other_head, other_body = await reader
        assert (head.get("x-cache-status"), other_head.get("x-cache-status")) == ("miss", "hit")
        assert other_head.get("x-cache-lock-time-ms") == "900"
        for piece in (b"hello ", b"world", b"!"):
            assert await body.read() == await other_body.read() == piece
            cache.origin.open("body")
        assert await body.read() == await other_body.read() == b""

    assert len(cache.origin.requests) == 1


async def test_who_comes_late_reads_from_the_beginning(cache: CacheRig) -> None:
    """One that joins in the middle gets what has passed already, and then what comes."""
    url = "/unique/late/slow_body"
    async with await cache.client() as first, await cache.client() as second:
        _, body = await begin(first, url, _BODY_GATE, _MINUTE)
        cache.origin.open("body")
        assert [await body.read(), await body.read()] == [b"hello ", b"world"]
        head, late = await begin(second, url)
        assert head.get("x-cache-status") == "hit"
        cache.origin.open("body")
        assert await late.read_all() == _WHOLE
        assert await body.read_all() == _WHOLE


async def test_cache_streaming_multiple_writers(cache: CacheRig) -> None:
    """Two that store under one key at the same time do not mix their bodies."""
    url = "/unique/writers/slow_body"
    ours = cache.start(url, _GATE, _BODY_GATE, ("x-hello", "everyone"))
    theirs = cache.start(
        url, _GATE, _BODY_GATE, ("x-force-expire", "1"), ("x-hello", "todo el mundo")
    )
    await cache.origin.requests_arrived(2)
    cache.origin.open("head", 2)
    cache.origin.open("body", 4)

    first, second = await ours, await theirs
    assert (status_of(first), first.body) == ("miss", b"hello everyone!")
    assert (status_of(second), second.body) == ("miss", b"hello todo el mundo!")
    assert (await cache.send(url)).body in {first.body, second.body}


async def test_a_second_writer_in_the_middle_of_the_first(cache: CacheRig) -> None:
    """Also not when one begins while the other is read along."""
    url = "/unique/middle/slow_body"
    async with await cache.client() as first, await cache.client() as reader:
        _, body = await begin(first, url, _BODY_GATE, ("x-hello", "one"))
        head, along = await begin(reader, url)
        assert head.get("x-cache-status") == "hit"
        second = await cache.send(url, ("x-force-miss", "1"), ("x-hello", "two"))
        cache.origin.open("body", 2)
        assert (status_of(second), second.body) == ("miss", b"hello two!")
        assert await body.read_all() == await along.read_all() == b"hello one!"


async def test_a_writer_that_fails_fails_for_who_reads_along(cache: CacheRig) -> None:
    """A body that breaks off is broken off for everybody, and nothing of it is kept."""
    url = "/unique/broken/slow_body"
    async with await cache.client() as first, await cache.client() as second:
        _, body = await begin(first, url, _BODY_GATE, ("x-abort-body", "1"))
        _, along = await begin(second, url)
        cache.origin.open("body", 2)
        for stream in (body, along):
            with pytest.raises(Truncated):
                await stream.read_all()
    assert status_of(await cache.send(url)) == "miss"


async def test_a_range_of_what_is_arriving(cache: CacheRig) -> None:
    """A part is sent as soon as it is there; the object is stored to its end."""
    url = "/unique/range/download"
    gated = (_BODY_GATE, _MINUTE)
    async with await cache.client() as first, await cache.client() as second:
        _, body = await begin(first, url, *gated, ("Range", "bytes=0-99"))
        assert await body.read_all() == b"A" * 100
        head, along = await begin(second, url, ("Range", "bytes=70000-70009"))
        assert (head.get("x-cache-status"), head.get("content-length")) == ("hit", "10")
        cache.origin.open("body")
        assert await along.read_all() == b"A" * 10
        cache.origin.open("body", 62)
        await cache.app.ended(2)
    whole = await cache.send(url)
    assert (status_of(whole), whole.body) == ("hit", DOWNLOAD)


# ------------------------------------------------------------------------------- leaving


async def test_caching_when_downstream_bails(cache: CacheRig) -> None:
    """A client that leaves in the middle does not stop what others read."""
    url = "/unique/bails/slow_body"
    async with await cache.client() as leaving:
        asked = asyncio.create_task(begin(leaving, url, _LOCK, _GATE, _BODY_GATE, _MINUTE))
        await cache.origin.requests_arrived(1)
        other = cache.start(url, _LOCK)
        await cache.waiting(1)
        cache.app.time.advance(0.95)
        cache.origin.open("head")
        head, _ = await asked
        assert head.get("x-cache-status") == "miss"
    cache.origin.open("body", 2)

    response = await other
    assert (status_of(response), response.body) == ("hit", _WHOLE)
    assert response.get("x-cache-lock-time-ms") == "950"
    assert len(cache.origin.requests) == 1


async def test_caching_when_downstream_bails_uncacheable(cache: CacheRig) -> None:
    """What is not stored ends with its client; the other asks for itself."""
    url = "/unique/bails/slow_body"
    async with await cache.client() as leaving:
        asked = asyncio.create_task(begin(leaving, url, _LOCK, _GATE, _BODY_GATE, _NO_STORE))
        await cache.origin.requests_arrived(1)
        other = cache.start(url, _LOCK)
        await cache.waiting(1)
        cache.origin.open("head")
        head, _ = await asked
        assert head.get("x-cache-status") == "no-cache"

    response = await other
    assert (status_of(response), response.body) == ("no-cache", _WHOLE)
    endings = [await cache.app.ended(count) for count in (1, 2)]
    assert sorted(ending.error is None for ending in endings) == [False, True]
    assert len(cache.origin.requests) == 2


@pytest.mark.parametrize(
    ("said", "status"),
    [(_MINUTE, "hit"), (_NO_STORE, "no-cache")],
    ids=["bails_header", "bails_header_uncacheable"],
)
async def test_caching_when_downstream_bails_header(
    cache: CacheRig, said: tuple[str, str], status: str
) -> None:
    """A client that leaves before the head: what can be stored is fetched all the same."""
    url = "/unique/header/sleep"
    async with await cache.client() as leaving:
        await leaving.send_request("GET", url, (_LOCK, _GATE, said))
        await cache.origin.requests_arrived(1)
    cache.origin.open("head")
    ending = await cache.app.ended(1)

    assert ending.phase is (CachePhase.MISS if status == "hit" else CachePhase.DISABLED)
    response = await cache.send(url, _LOCK)
    expected = "hit" if status == "hit" else "miss"
    assert (status_of(response), response.body) == (expected, HELLO)


async def test_a_bypassed_response_that_is_stored_outlives_its_client(cache: CacheRig) -> None:
    """Also where the cache wants a response that it had not expected."""
    url = "/unique/bypassed/slow_body"
    await cache.send(url, ("set-cache-control", "private"))
    async with await cache.client() as leaving:
        head, _ = await begin(leaving, url, _BODY_GATE, _MINUTE)
        assert head.get("x-cache-status") == "miss"
    await asyncio.sleep(0.01)  # so that the proxy notices
    cache.origin.open("body", 2)
    await cache.app.ended(2)

    response = await cache.send(url)
    assert (status_of(response), response.body) == ("hit", _WHOLE)


@pytest.mark.parametrize("protocol", ["h1", "h2"])
async def test_downstream_head_miss_conn_close(cache: CacheRig, protocol: str) -> None:
    """A HEAD is answered at once, and its connection may close: the body is stored nevertheless."""
    url = "/unique/head/sleep"
    fields = (_BODY_GATE, _MINUTE)
    if protocol == "h1":
        async with await cache.client() as client:
            head, body = await begin(client, url, *fields, method="HEAD")
            assert (head.get("x-cache-status"), await body.read_all()) == ("miss", b"")
    else:
        async with await cache.h2_client() as h2:
            stream_id = await h2.send_request("HEAD", url, fields)
            stream = h2.streams[stream_id]
            await h2.wait_for(lambda: stream.final is not None, "head")
            assert (stream.get(b"x-cache-status"), bytes(stream.body)) == (b"miss", b"")
    cache.origin.open("body")

    response = await cache.send(url)
    assert (status_of(response), response.body) == ("hit", HELLO)
    assert len(cache.origin.requests) == 1


async def test_what_nobody_needs_any_more_ends_with_the_service(cache: CacheRig) -> None:
    """A fill without a client does not hold up a stop beyond its grace."""
    async with await cache.client() as leaving:
        await begin(leaving, "/unique/stop/slow_body", _BODY_GATE, _MINUTE)
    cache.proxy.begin_shutdown()
    cache.origin.open("body", 2)
    await cache.proxy.ended()

    assert cache.app.stats.fills_active == 0


# ------------------------------------------------------------------------------ stalling


@pytest.mark.parametrize("length", ["known", "unknown"])
@pytest.mark.parametrize("upstream", ["h1", "h2"])
async def test_caching_when_downstream_stalls(
    cache: CacheRig, upstream: str, length: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that reads no further does not hold up what others get: 4 MiB."""
    monkeypatch.setattr(_cache_exchange, "_PATIENCE", 0.02)
    url = "/unique/stalls/download"
    fields = [_LOCK, _MINUTE]
    if upstream == "h2":
        fields.append(("x-h2", "1"))
    if length == "unknown":
        fields.append(("x-chunked", "1"))
    async with await cache.client(receive_buffer=4096) as stalled:
        head, body = await begin(stalled, url, *fields)
        assert head.get("x-cache-status") == "miss"
        first = await body.read()
        assert first
        response = await cache.send(url, *fields)
        assert (status_of(response), response.body) == ("hit", DOWNLOAD)
        # It gets everything when it goes on, out of the store.
        assert await body.read_all() == DOWNLOAD
    assert len(cache.origin.requests) + len(cache.h2_origin.requests) == 1


async def test_cache_h2_downstream_stalls(cache: CacheRig) -> None:
    """One that grants no credit on its stream does not either."""
    url = "/unique/h2-stalls/download"
    async with await cache.h2_client() as stalled, await cache.h2_client() as other:
        stalled.auto_credit = False
        stream_id = await stalled.send_request("GET", url, (_LOCK, _MINUTE))
        stream = stalled.streams[stream_id]
        await stalled.expect(Kind.DATA, stream_id)
        assert stream.get(b"x-cache-status") == b"miss"
        response = await other.request("GET", url, (_LOCK,))
        assert response.get(b"x-cache-status") == b"hit"
        assert bytes(response.body) == DOWNLOAD
        assert len(stream.body) <= 65_535
    await cache.app.ended(2)


async def test_two_streams_of_one_connection_one_of_which_stalls(cache: CacheRig) -> None:
    """The stream beside it on the same connection goes on as well."""
    url = "/unique/beside/download"
    async with await cache.h2_client() as client:
        client.auto_credit = False
        stalled = await client.send_request("GET", url, (_LOCK, _MINUTE))
        await client.expect(Kind.DATA, stalled)
        small = await cache.send("/unique/small/now")
        assert small.body == HELLO
        whole = await cache.send(url, _LOCK)
        assert (status_of(whole), whole.body) == ("hit", DOWNLOAD)


async def test_many_read_along_at_their_own_pace(cache: CacheRig) -> None:
    """One fetch serves fast ones, slow ones and one that leaves."""
    url = "/unique/pace/download"
    async with (
        await cache.client(receive_buffer=4096) as slow,
        await cache.client(receive_buffer=4096) as leaving,
    ):
        _, body = await begin(slow, url, _LOCK, _MINUTE)
        _, other = await begin(leaving, url, _LOCK)
        assert await body.read()
        assert await other.read()
        fast = await asyncio.gather(*(cache.send(url, _LOCK) for _ in range(3)))
        leaving.reset()
        assert {r.body == DOWNLOAD for r in fast} == {True}
        assert await body.read_all() == DOWNLOAD
    assert len(cache.origin.requests) == 1
    await eventually(lambda: not cache.app.stats.fills_active, "the end of the fill")


# -------------------------------------------------------------------------------- HTTP/2


async def test_cache_upstream_h2_downstream_h1(cache: CacheRig) -> None:
    """What comes over HTTP/2 is stored, and served over HTTP/1."""
    url = "/unique/h2/download"
    miss = await cache.send(url, ("x-h2", "1"), _LOCK, _MINUTE)
    hit = await cache.send(url, ("x-h2", "1"), _MINUTE)

    assert (status_of(miss), miss.get("origin-http2")) == ("miss", "1")
    assert (status_of(hit), hit.get("origin-http2")) == ("hit", "1")
    assert miss.body == hit.body == DOWNLOAD
    assert (len(cache.h2_origin.requests), cache.h2_origin.violations) == (1, [])


async def test_cache_h2_premature_end(cache: CacheRig) -> None:
    """A stream that ends before its length is not stored."""
    url = "/unique/premature/set_content_length"
    fields = (_LOCK, ("x-h2", "1"))
    async with await cache.client() as client:
        _, body = await begin(client, url, *fields, ("x-set-content-length", "13"))
        with pytest.raises(Truncated):
            await body.read_all()
    response = await cache.send(url, *fields, ("x-set-content-length", "11"))

    assert (status_of(response), response.body) == ("miss", HELLO)


@pytest.mark.parametrize("upstream", ["h1", "h2"])
async def test_both_versions_share_what_is_stored(cache: CacheRig, upstream: str) -> None:
    """A client of either version gets what one of the other has caused to be stored."""
    url = "/unique/shared/revalidate_now"
    through = (("x-h2", "1"),) if upstream == "h2" else ()
    async with await cache.h2_client() as h2:
        miss = await h2.request("GET", url, through)
        hit = await cache.send(url, *through)
        part = await h2.request("GET", url, [("range", "bytes=6-"), *through])
        head = await h2.request("HEAD", url, through)
        same = await h2.request("GET", url, [("if-none-match", '"abcd"'), *through])
        cache.advance(1.1)
        confirmed = await h2.request("GET", url, through)

    responses = (miss, part, head, same, confirmed)
    statuses = [r.get(b"x-cache-status") for r in responses]
    assert statuses == [b"miss", b"hit", b"hit", b"hit", b"revalidated"]
    assert [r.status for r in responses] == [200, 206, 200, 304, 200]
    assert [bytes(r.body) for r in responses] == [HELLO, b"world", b"", b"", HELLO]
    assert (status_of(hit), hit.body) == ("hit", HELLO)
