"""Ranges out of the cache, and out of what is on its way into it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.cache_origin import ETAG, HELLO, LAST_MODIFIED
from tests.support.wire import CHUNKED

if TYPE_CHECKING:
    from tests.support.cache_proxy import CacheRig
    from tests.support.client import Response


def status_of(response: Response) -> str | None:
    return response.get("x-cache-status")


def ranges(value: str) -> tuple[str, str]:
    return ("Range", f"bytes={value}")


def parts_of(response: Response) -> bytes:
    """Return a multipart body with its boundary replaced, having checked the head."""
    match = re.fullmatch(
        "multipart/byteranges; boundary=([0-9a-f]{16})", response.get("content-type") or ""
    )
    assert match is not None
    assert response.get("content-length") == str(len(response.body))
    assert response.get("content-range") is None
    return response.body.replace(match[1].encode(), b"B")


def multipart(*bounds: tuple[int, int]) -> bytes:
    """Make what `parts_of` returns."""
    parts = [
        b"\r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes %d-%d/11\r\n\r\n%b"
        % (first, last, HELLO[first : last + 1])
        for first, last in bounds
    ]
    return b"".join(parts) + b"\r\n--B--\r\n"


async def test_range_request(cache: CacheRig) -> None:
    """A range fills the cache with the whole body, and is cut out of it from then on."""
    url = "/unique/single/now"
    miss, whole = await cache.send(url, ranges("0-1")), await cache.send(url)
    part, outside = await cache.send(url, ranges("0-1")), await cache.send(url, ranges("1-0"))
    head = await cache.send(url, ranges("0-1"), method="HEAD")
    cache.advance(1.1)
    expired = await cache.send(url, ranges("0-1"))

    assert [(r.status, status_of(r), r.body) for r in (miss, whole, part)] == [
        (206, "miss", b"he"),
        (200, "hit", HELLO),
        (206, "hit", b"he"),
    ]
    assert miss.get("x-epoch") == whole.get("x-epoch")
    assert (outside.status, status_of(outside), outside.body) == (416, "hit", b"")
    assert outside.get("content-range") == "bytes */11"
    assert (head.status, status_of(head), head.body) == (206, "hit", b"")
    assert [r.get("content-range") for r in (miss, part, head)] == ["bytes 0-1/11"] * 3
    assert [r.get("content-length") for r in (miss, part, head)] == ["2"] * 3
    assert (expired.status, status_of(expired), expired.body) == (206, "expired", b"he")
    assert all(request.get("range") is None for request in cache.origin.requests)


async def test_multipart_range_request(cache: CacheRig) -> None:
    """Several ranges come as multipart, on a miss and on a hit; nonsense gets the whole, or 416."""
    url = "/unique/multi/now"
    miss = await cache.send(url, ranges("0-1, 6-8"))
    hits = [await cache.send(url, ranges(value)) for value in ("2-3, 8-10", "1-2, 3-4, 8-10")]
    unordered = await cache.send(url, ranges("2-3, 8-10, 3-5"))
    single = await cache.send(url, ranges("0-2"))
    outside = await cache.send(url, ranges("20-22, 30-40"))
    head = await cache.send(url, ranges("3-7"), method="HEAD")
    multi_head = await cache.send(url, ranges("0-1, 6-8"), method="HEAD")

    assert (miss.status, status_of(miss)) == (206, "miss")
    assert parts_of(miss) == multipart((0, 1), (6, 8))
    assert [(r.status, status_of(r)) for r in hits] == [(206, "hit")] * 2
    assert parts_of(hits[0]) == multipart((2, 3), (8, 10))
    assert parts_of(hits[1]) == multipart((1, 2), (3, 4), (8, 10))
    assert (unordered.status, status_of(unordered), unordered.body) == (200, "hit", HELLO)
    assert unordered.get("content-type") == "text/plain"
    assert (single.status, status_of(single), single.body) == (206, "hit", b"hel")
    assert (outside.status, status_of(outside), outside.body) == (416, "hit", b"")
    assert (head.status, status_of(head), head.body) == (206, "hit", b"")
    assert (multi_head.status, multi_head.body) == (206, b"")
    assert multi_head.get("content-length") == miss.get("content-length")


async def test_single_then_mutltipart_range_request(cache: CacheRig) -> None:
    """One range, then several, then several of which one lies within the body."""
    url = "/unique/mixed/now"
    single = await cache.send(url, ranges("0-4"))
    multi = await cache.send(url, ranges("0-3, 6-7"))
    one_of_three = await cache.send(url, ranges("0-4, 12-14, 16-18"))

    assert (single.status, status_of(single), single.body) == (206, "miss", b"hello")
    assert (multi.status, status_of(multi)) == (206, "hit")
    assert parts_of(multi) == multipart((0, 3), (6, 7))
    assert (one_of_three.status, status_of(one_of_three)) == (206, "hit")
    assert (one_of_three.get("content-type"), one_of_three.body) == ("text/plain", b"hello")


async def test_ranges_of_what_came_in_chunks(cache: CacheRig) -> None:
    """Once it is stored its length is known, and there are ranges of it."""
    url = "/unique/chunks/test3"
    miss = await cache.send(url, ranges("0-1"))
    hit, whole = await cache.send(url, ranges("6-")), await cache.send(url)

    assert (miss.status, miss.framing, miss.body) == (200, CHUNKED, HELLO)
    assert (hit.status, status_of(hit), hit.body) == (206, "hit", b"world")
    assert whole.get("content-length") == "11"


@pytest.mark.parametrize(
    ("condition", "status"),
    [(ETAG, 206), ('"other"', 200), (LAST_MODIFIED, 206), ("Mon, 02 May 2022 01:04:39 GMT", 200)],
)
async def test_if_range(cache: CacheRig, condition: str, status: int) -> None:
    """The range counts for the very representation that is stored: on a miss and on a hit."""
    url = "/unique/if-range/revalidate_now"
    fields = (ranges("0-4"), ("If-Range", condition))
    miss, hit = await cache.send(url, *fields), await cache.send(url, *fields)
    cache.advance(1.1)
    revalidated = await cache.send(url, *fields)

    responses = (miss, hit, revalidated)
    assert [status_of(r) for r in responses] == ["miss", "hit", "revalidated"]
    assert {(r.status, r.body) for r in responses} == {
        (status, HELLO[:5] if status == 206 else HELLO)
    }


async def test_a_condition_comes_before_a_range(cache: CacheRig) -> None:
    """What the client has already is a 304, whatever part it asks for (RFC 9110 section 13.2.2)."""
    url = "/unique/both/revalidate_now"
    fields = (ranges("0-4"), ("If-None-Match", ETAG))
    responses = [await cache.send(url, *fields) for _ in range(2)]

    assert [(r.status, r.body) for r in responses] == [(304, b"")] * 2


async def test_ranges_of_a_large_object(cache: CacheRig) -> None:
    """Ranges anywhere in an object of many pieces, read by seeking."""
    url = "/unique/large/download"
    size = 4 << 20
    await cache.send(url, ("set-cache-control", "max-age=60"))
    for first, last in ((0, 0), (size - 1, size - 1), (262_143, 262_144), (100, 3_000_000)):
        response = await cache.send(url, ranges(f"{first}-{last}"))
        assert (response.status, status_of(response)) == (206, "hit")
        assert response.body == b"A" * (last - first + 1)
    several = await cache.send(url, ranges("0-9, 262140-262149, 4194000-"))
    assert several.body.count(b"A" * 10) > 2
    assert several.get("content-length") == str(len(several.body))


async def test_ranges_of_other_responses_do_not_count(cache: CacheRig) -> None:
    """Only a 200 has ranges: an error page is sent whole, from the cache too."""
    url = "/unique/missing/nothing"
    fields = (ranges("0-1"), ("set-cache-control", "max-age=60"))
    responses = [await cache.send(url, *fields) for _ in range(2)]

    assert [(r.status, status_of(r), r.body) for r in responses] == [
        (404, "miss", b"no such route"),
        (404, "hit", b"no such route"),
    ]


async def test_ranges_of_an_empty_body(cache: CacheRig) -> None:
    """There is no byte to ask for."""
    url = "/unique/empty/file_maker"
    empty = ("x-set-size", "0")
    await cache.send(url, empty)
    first, last = await cache.send(url, ranges("0-0")), await cache.send(url, ranges("-1"))

    assert (first.status, first.get("content-range"), first.body) == (416, "bytes */0", b"")
    assert (last.status, last.body, status_of(last)) == (200, b"", "hit")


@pytest.mark.parametrize("value", ["bytes=a-b", "lines=1-2", "bytes=0-1-2", "bytes", "=", "-"])
async def test_nonsense_is_ignored(cache: CacheRig, value: str) -> None:
    """A range that cannot be read is answered with the whole."""
    url = "/unique/nonsense/now"
    responses = [await cache.send(url, ("Range", value)) for _ in range(2)]

    assert [(r.status, status_of(r), r.body) for r in responses] == [
        (200, "miss", HELLO),
        (200, "hit", HELLO),
    ]
    assert responses[1].get("accept-ranges") == "bytes"


async def test_very_many_ranges_are_ignored(cache: CacheRig) -> None:
    """Nobody makes the proxy work for an answer that nobody can use."""
    url = "/unique/many/now"
    await cache.send(url)
    response = await cache.send(url, ranges(",".join(["0-0"] * 400)))
    overlapping = await cache.send(url, ranges("0-,0-,0-,0-"))

    assert [(r.status, r.body) for r in (response, overlapping)] == [(200, HELLO)] * 2
