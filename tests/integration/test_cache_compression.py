"""Compression on the client's side of the cache: one stored body, sent in several codings."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

from tests.support.cache_origin import HELLO

if TYPE_CHECKING:
    from tests.support.cache_proxy import CacheRig
    from tests.support.client import Response

_COMPRESS = (("x-downstream-compression", "1"), ("accept-encoding", "gzip"))
_DECOMPRESS = (("x-downstream-decompression", "1"), ("x-upstream-accept-encoding", "gzip"))
_LAST = (("set-cache-control", "max-age=60"),)


def status_of(response: Response) -> str | None:
    return response.get("x-cache-status")


async def test_cache_downstream_compression(cache: CacheRig) -> None:
    """What is stored as it is, is compressed for who takes it so: on a miss and on a hit."""
    url = "/unique/compression/no_compression"
    miss, hit = await cache.send(url, *_COMPRESS), await cache.send(url, *_COMPRESS)
    plain = await cache.send(url)

    assert [status_of(r) for r in (miss, hit, plain)] == ["miss", "hit", "hit"]
    for packed in (miss, hit):
        assert packed.get("content-encoding") == "gzip"
        assert len(packed.body) < 32
        assert gzip.decompress(packed.body) == b"B" * 32
    assert (plain.get("content-encoding"), plain.body) == (None, b"B" * 32)
    assert len(cache.origin.requests) == 1


async def test_cache_downstream_decompression(cache: CacheRig) -> None:
    """What is stored compressed is unpacked for who does not take it: also when revalidated."""
    url = "/unique/decompression/gzip"
    miss, hit = await cache.send(url, *_DECOMPRESS), await cache.send(url, *_DECOMPRESS)
    cache.advance(1.1)
    revalidated = await cache.send(url, *_DECOMPRESS)

    assert [status_of(r) for r in (miss, hit, revalidated)] == ["miss", "hit", "revalidated"]
    for plain in (miss, hit, revalidated):
        assert plain.get("content-encoding") is None
        assert plain.body == b"Hello World!\n"
    assert miss.get("received-accept-encoding") == "gzip"


async def test_a_part_is_not_compressed(cache: CacheRig) -> None:
    """A range is one of the stored bytes; compressing it would make another one of it."""
    url = "/unique/part/no_compression"
    part = ("Range", "bytes=0-9")
    responses = [await cache.send(url, *_COMPRESS, part, *_LAST) for _ in range(2)]

    assert [(r.status, r.body) for r in responses] == [(206, b"B" * 10)] * 2
    assert {r.get("content-encoding") for r in responses} == {None}


async def test_a_compressed_response_has_a_weak_validator(cache: CacheRig) -> None:
    """The client's 304 and the stored object's ETag fit together in spite of it."""
    url = "/unique/weak/no_compression"
    etag = ("set-etag", '"abc"')
    packed = await cache.send(url, *_COMPRESS, etag, *_LAST)
    tag = packed.get("etag")
    assert tag == 'W/"abc"'
    condition = ("If-None-Match", tag)
    not_modified = await cache.send(url, *_COMPRESS, condition)

    assert (not_modified.status, status_of(not_modified), not_modified.body) == (304, "hit", b"")


async def test_small_things_and_errors_stay_as_they_are(cache: CacheRig) -> None:
    """What the module leaves alone is sent with its length, from the cache as well."""
    url = "/unique/now/now"
    fields = (*_COMPRESS, *_LAST, ("set-cache-control", "no-transform"))
    responses = [await cache.send(url, *fields) for _ in range(2)]

    assert [status_of(r) for r in responses] == ["miss", "hit"]
    assert {(r.body, r.get("content-length")) for r in responses} == {(HELLO, "11")}
