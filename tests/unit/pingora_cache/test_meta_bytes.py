"""Metas as bytes: they come back whole, the original's are read, and garbage is refused."""

from __future__ import annotations

import random
import struct

import msgspec
import pytest
import zstandard
from hypothesis import given, settings, strategies as st

from pingora_cache._meta_layout import decode_fields
from pingora_cache.meta import CACHE_META_ERROR, CacheMeta
from pingora_cache.meta_codec import MetaCodec, train_dictionary
from pingora_error import Error, ErrorType
from pingora_http import ResponseHeader, Version

_NOW = (1_700_000_000, 500_000_000)
_THEN = (1_600_000_000, 1)
_VARIANCE = b"variance_testing"
_HEAD = b"HTTP/1.1 200 OK\r\nServer: pingora\r\n\r\n"


def _pack(*items: object) -> bytes:
    return msgspec.msgpack.encode(items)


def _refused(fields: bytes, head: bytes = _HEAD) -> str:
    with pytest.raises(Error) as caught:
        CacheMeta.from_parts(fields, head)
    assert caught.value.etype == CACHE_META_ERROR
    return str(caught.value)


# ------------------------------------------------------------------- as the original


def test_internal_meta_serde_v0() -> None:
    """Version 0 is four items without a version."""
    meta = CacheMeta.from_parts(_pack(_NOW, _THEN, 5, 6), _HEAD)

    assert meta.fresh_until == 1_700_000_000.5
    assert abs(meta.created - 1.6e9) < 1e-6
    assert (meta.stale_while_revalidate, meta.stale_if_error) == (5, 6)


def test_internal_meta_serde_v1() -> None:
    """Version 1 is the same with its number in front."""
    old = CacheMeta.from_parts(_pack(_NOW, _THEN, 5, 6), _HEAD)

    assert CacheMeta.from_parts(_pack(1, _NOW, _THEN, 5, 6), _HEAD) == old


def test_internal_meta_serde_v2() -> None:
    """Version 2, laid out as the original writes it, comes back and goes out the same."""
    data = _pack(2, _NOW, _THEN, (1_650_000_000, 0), 5, 6)
    meta = CacheMeta.from_parts(data, _HEAD)

    assert meta.updated == meta.epoch == 1_650_000_000.0
    assert meta.variance is None
    assert meta.epoch_override is None
    assert meta.tags == ()
    # One nanosecond is below what a float tells apart here.
    assert meta.encode_fields() == _pack(2, _NOW, (1_600_000_000, 0), (1_650_000_000, 0), 5, 6)


def test_internal_meta_serde_across_versions() -> None:
    """Older versions become the latest; what they did not know was never updated."""
    for old in (_pack(_NOW, _THEN, 0, 0), _pack(1, _NOW, _THEN, 0, 0)):
        meta = CacheMeta.from_parts(old, _HEAD)
        assert meta.updated == meta.created
        new = meta.encode_fields()
        assert new[:2] == b"\x96\x02"
        assert CacheMeta.from_parts(new, _HEAD) == meta


def test_internal_meta_serde_v2_extend_fields_variance() -> None:
    """With a variance it is one item longer: sixteen numbers, as the original writes them."""
    base = _pack(2, _NOW, _NOW, _NOW, 0, 0)
    longer = _pack(2, _NOW, _NOW, _NOW, 0, 0, list(_VARIANCE))
    meta = CacheMeta.from_parts(base, _HEAD)

    assert CacheMeta.from_parts(longer, _HEAD) == meta.replace(variance=_VARIANCE)
    assert meta.replace(variance=_VARIANCE).encode_fields() == longer
    assert meta.encode_fields() == base
    # Bytes are understood, too.
    assert decode_fields(_pack(2, _NOW, _NOW, _NOW, 0, 0, _VARIANCE)).variance == _VARIANCE


def test_internal_meta_serde_v2_extend_fields_epoch_override() -> None:
    """With an override there is one item more, and the variance before it may be nothing."""
    shorter = _pack(2, _NOW, _NOW, _NOW, 0, 0, list(_VARIANCE))
    longer = _pack(2, _NOW, _NOW, _NOW, 0, 0, list(_VARIANCE), (1_650_000_000, 0))
    meta = CacheMeta.from_parts(shorter, _HEAD)
    assert meta.epoch_override is None

    overridden = meta.replace(epoch_override=1_650_000_000.0)
    assert CacheMeta.from_parts(longer, _HEAD) == overridden
    assert overridden.encode_fields() == longer
    assert overridden.replace(variance=None).encode_fields() == _pack(
        2, _NOW, _NOW, _NOW, 0, 0, None, (1_650_000_000, 0)
    )


def test_later_versions_of_the_original() -> None:
    """What the original has added behind the override is skipped, whether it is there or not."""
    known: list[object] = [2, _NOW, _NOW, _NOW, 0, 0, list(_VARIANCE), _NOW]
    meta = CacheMeta.from_parts(_pack(*known), _HEAD)

    assert CacheMeta.from_parts(_pack(*known, _THEN), _HEAD) == meta
    assert CacheMeta.from_parts(_pack(*known[:6], None, None, _THEN), _HEAD) == meta.replace(
        variance=None, epoch_override=None
    )


# ------------------------------------------------------------------- layout


def test_ours_come_last() -> None:
    """What only we know stands at the end, and only if there is any."""
    meta = CacheMeta.from_parts(_pack(2, _NOW, _NOW, _NOW, 0, 0), _HEAD)
    meta = meta.replace(tags=(b"a", b"\xff\0"), revalidate=True)
    data = _pack(2, _NOW, _NOW, _NOW, 0, 0, None, None, None, [b"a", b"\xff\0"], True)

    assert meta.encode_fields() == data
    assert CacheMeta.from_parts(data, _HEAD) == meta

    meta = meta.replace(tags=(), revalidate=False, variants_expired=1e9)
    data = _pack(2, _NOW, _NOW, _NOW, 0, 0, None, None, None, [], False, [10**9, 0])
    assert meta.encode_fields() == data
    assert CacheMeta.from_parts(data, _HEAD) == meta


@pytest.mark.parametrize("more", [1, 5, 6, 7, 300])
def test_what_comes_later_is_skipped(more: int) -> None:
    """A later writer may add items, of any kind and in any number."""
    known: list[object] = [2, _NOW, _NOW, _NOW, 0, 0, None, None, None, [b"a"], True, None]
    unknown = [{"a": [1, 2.5, None]}] * more
    meta = CacheMeta.from_parts(_pack(*known, *unknown), _HEAD)

    assert meta == CacheMeta.from_parts(_pack(*known), _HEAD)


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (-1.0, 0.0),
        (float("-inf"), 0.0),
        (float("nan"), 0.0),
        (float("inf"), 2.0**53),
        (1e300, 2.0**53),
        (0.999_999_999_9, 1.0),
    ],
)
def test_times_that_do_not_fit(seconds: float, written: float) -> None:
    """A time that cannot be written becomes the nearest that can."""
    meta = CacheMeta(ResponseHeader(200), created=0.0, fresh_until=seconds)

    assert CacheMeta.from_bytes(meta.to_bytes()).fresh_until == written


def test_windows_that_do_not_fit() -> None:
    """A window is at most what the original has room for."""
    meta = CacheMeta(ResponseHeader(200), created=0.0, fresh_until=0.0, stale_if_error=2**70)

    assert CacheMeta.from_bytes(meta.to_bytes()).stale_if_error == 2**32 - 1


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b"\x96\x02",
        bytes(20),
        b"\xdc" + bytes(20),
        b"\xdc\xff\xff\x02" + bytes(20),
        b"\xdd" + bytes(20),
        _pack(3, _NOW, _NOW, _NOW, 0, 0),
        _pack(0, _NOW, _NOW, _NOW, 0, 0),
        _pack(2, _NOW, _NOW, _NOW, 0),
        _pack(2, _NOW, _NOW, _NOW, 0, -1),
        _pack(2, _NOW, _NOW, _NOW, 0, 2**32),
        _pack(2, _NOW, _NOW, _NOW, 0, "0"),
        _pack(2, _NOW, _NOW, (1, 10**9), 0, 0),
        _pack(2, _NOW, _NOW, (-1, 0), 0, 0),
        _pack(2, _NOW, _NOW, (2**64 - 1, 0), 0, 0),
        _pack(2, _NOW, _NOW, (1,), 0, 0),
        _pack(2, _NOW, _NOW, 1.5, 0, 0),
        _pack(2, _NOW, _NOW, _NOW, 0, 0, b"short"),
        _pack(2, _NOW, _NOW, _NOW, 0, 0, [0] * 17),
        _pack(2, _NOW, _NOW, _NOW, 0, 0, [256] * 16),
        _pack(2, _NOW, _NOW, _NOW, 0, 0, None, None, None, [b"t"] * 4097),
        _pack(2, _NOW, _NOW, _NOW, 0, 0, None, None, None, ["text"]),
        _pack(2, _NOW, _NOW, _NOW, 0, 0) + b"\0",
        _pack(_NOW, _NOW, 0, "x"),
        _pack(1, _NOW, _NOW, 0),
        _pack(2, *[0] * 10)[:2] + b"\x91" * 100_000,
    ],
)
def test_what_is_no_meta(fields: bytes) -> None:
    """Anything else is refused: garbage, what ends too early, unknown versions, deep nesting."""
    _refused(fields)


# ------------------------------------------------------------------- heads


def test_heads_come_back() -> None:
    """Order, case, repeated fields, empty values, any byte and any reason are kept."""
    head = ResponseHeader(
        799,
        Version.HTTP_10,
        [("B", "1"), ("b", "2"), ("A", ""), ("Set-Cookie", "a: b"), ("X", b"\xe4\t\xff")],
        reason=b"Gone \xfcber",
    )
    for header in (head, ResponseHeader(200), ResponseHeader(204, headers=[("A", "b")])):
        meta = CacheMeta(header, created=1.0, fresh_until=2.0)
        assert CacheMeta.from_bytes(meta.to_bytes()) == meta


def test_http2_heads_come_back_as_http11() -> None:
    """The version is that of the text, which is what is sent to clients of HTTP/1."""
    meta = CacheMeta(ResponseHeader(200, Version.HTTP_20), created=1.0, fresh_until=2.0)

    assert CacheMeta.from_bytes(meta.to_bytes()).header == ResponseHeader(200)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\r\n\r\n",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 2\xb20 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nB: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\nB: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\rB: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
        b"HTTP/1.1 200 \x7f\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA b: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n A: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA:c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA:b: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA\r\nB: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\xe4: c\r\n\r\n",
        b"A: b\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_what_is_no_head(head: bytes) -> None:
    """Damaged heads are refused, above all those that would be two when sent."""
    _refused(_pack(2, _NOW, _NOW, _NOW, 0, 0), head)


def test_header_bombs() -> None:
    """A head of too many fields or bytes is neither written nor read."""
    fields = _pack(2, _NOW, _NOW, _NOW, 0, 0)
    for count, size in ((257, 1), (1, 128 * 1024), (20_000, 1)):
        header = ResponseHeader(200, headers=[("X", "y" * size)] * count)
        meta = CacheMeta(header, created=1.0, fresh_until=2.0)
        with pytest.raises(Error) as caught:
            meta.to_bytes()
        assert caught.value.etype == CACHE_META_ERROR
        assert "too" in _refused(fields, header.to_wire())

    most = ResponseHeader(200, headers=[("X", "y" * 500)] * 256)
    meta = CacheMeta(most, created=1.0, fresh_until=2.0)
    assert CacheMeta.from_bytes(meta.to_bytes()) == meta


def test_too_many_tags() -> None:
    """More tags than can be read back are not written."""
    meta = CacheMeta(ResponseHeader(200), created=1.0, fresh_until=2.0, tags=(b"t",) * 4096)
    assert CacheMeta.from_bytes(meta.to_bytes()) == meta

    with pytest.raises(Error) as caught:
        meta.replace(tags=(b"t",) * 4097).to_bytes()
    assert caught.value.etype == CACHE_META_ERROR


# ------------------------------------------------------------------- whole metas


_TIMES = st.integers(0, 2**42).map(lambda number: number / 512)
_NAMES = st.text("abcXYZ-_.!~09", min_size=1, max_size=8)
_LINES = st.binary(max_size=12).map(
    lambda data: bytes(byte for byte in data if byte > 31 and byte != 127).strip(b" \t")
)


@st.composite
def _metas(draw: st.DrawFn) -> CacheMeta:
    return CacheMeta(
        ResponseHeader(
            draw(st.integers(100, 999)),
            draw(st.sampled_from([Version.HTTP_10, Version.HTTP_11])),
            draw(st.lists(st.tuples(_NAMES, _LINES), max_size=6)),
            draw(st.none() | _LINES),
        ),
        created=draw(_TIMES),
        updated=draw(_TIMES),
        fresh_until=draw(_TIMES),
        stale_while_revalidate=draw(st.integers(0, 2**32 - 1)),
        stale_if_error=draw(st.integers(0, 2**32 - 1)),
        variance=draw(st.none() | st.binary(min_size=16, max_size=16)),
        epoch_override=draw(st.none() | _TIMES),
        tags=tuple(draw(st.lists(st.binary(max_size=6), max_size=3))),
        revalidate=draw(st.booleans()),
    )


@given(meta=_metas())
@settings(max_examples=150)
def test_metas_come_back(meta: CacheMeta) -> None:
    """Whatever a meta says, it says the same after it was written and read."""
    meta.extensions["not"] = "kept"
    found = CacheMeta.from_bytes(meta.to_bytes())

    assert found == meta
    assert found.epoch == meta.epoch
    assert found.extensions == {}
    assert MetaCodec().from_bytes(MetaCodec().to_bytes(meta)) == meta


@given(data=st.binary(max_size=200))
@settings(max_examples=150)
def test_garbage(data: bytes) -> None:
    """Garbage is refused with the one error."""
    for reader in (CacheMeta.from_bytes, MetaCodec().from_bytes):
        with pytest.raises(Error) as caught:
            reader(data)
        assert caught.value.etype == CACHE_META_ERROR


@pytest.mark.parametrize("compressed", [False, True])
def test_mutations(compressed: bool) -> None:
    """Damaged metas are refused, or read as one that can be written, used and sent."""
    chance = random.Random(20_26)
    codec = MetaCodec()
    header = ResponseHeader(200, headers=[("Content-Type", "text/html"), ("ETag", '"a"')])
    meta = CacheMeta(
        header, created=1e9, fresh_until=2e9, variance=_VARIANCE, epoch_override=1e9, tags=(b"a",)
    )
    whole = codec.to_bytes(meta) if compressed else meta.to_bytes()
    read = 0
    for _ in range(4000):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(data))
            match chance.randrange(4):
                case 0:
                    data[at] = chance.randrange(256)
                case 1:
                    data[at] ^= 1 << chance.randrange(8)
                case 2:
                    data[at:at] = chance.randbytes(chance.randint(1, 4))
                case _:
                    del data[at : at + chance.randint(1, 4)]
        try:
            found = codec.from_bytes(bytes(data))
        except Error as error:
            assert error.etype == CACHE_META_ERROR  # noqa: PT017  # either is right
        else:
            read += 1
            assert found.is_fresh(0.0) in {True, False}
            assert found.header.to_wire().count(b"\r\n\r\n") == 1
            assert CacheMeta.from_bytes(found.to_bytes()) == found
    assert read > 100


# ------------------------------------------------------------------- compressed heads


def _samples() -> list[CacheMeta]:
    fields = [("Content-Type", "text/html; charset=utf-8"), ("Cache-Control", "public, max-age=60")]
    return [
        CacheMeta(
            ResponseHeader(200, headers=[*fields, ("ETag", f'"{number * 7919:x}"')]),
            created=1.0,
            fresh_until=2.0,
        )
        for number in range(300)
    ]


def test_a_dictionary_makes_heads_small() -> None:
    """With a dictionary a head takes a fraction; plain ones are read, too."""
    samples = _samples()
    codec = MetaCodec(train_dictionary(samples, size=2048), level=9)
    meta = samples[7]
    small = codec.to_bytes(meta)

    assert len(small) < len(meta.to_bytes()) / 2
    assert codec.from_bytes(small) == meta
    assert codec.from_bytes(meta.to_bytes()) == meta


def test_another_dictionary() -> None:
    """Without the dictionary that it was written with, a meta is damaged."""
    samples = _samples()
    small = MetaCodec(train_dictionary(samples, size=2048)).to_bytes(samples[7])
    others = [MetaCodec(), MetaCodec(train_dictionary(samples[::2], size=1024))]
    for reader in (CacheMeta.from_bytes, *(codec.from_bytes for codec in others)):
        with pytest.raises(Error) as caught:
            reader(small)
        assert caught.value.etype == CACHE_META_ERROR


@pytest.mark.parametrize("with_size", [False, True])
def test_compressed_bombs(with_size: bool) -> None:
    """A few bytes that would become a gigabyte are refused before they do."""
    writer = zstandard.ZstdCompressor(write_content_size=with_size).compressobj(
        size=10_000_000 if with_size else -1
    )
    bomb = writer.compress(bytes(10_000_000)) + writer.flush()
    fields = _pack(2, _NOW, _NOW, _NOW, 0, 0)
    with pytest.raises(Error) as caught:
        MetaCodec().from_bytes(struct.pack(">I", len(fields)) + fields + bomb)

    assert caught.value.etype == CACHE_META_ERROR


def test_codec_misuse() -> None:
    """Levels and dictionaries that do not exist are refused at once."""
    for level in (0, 23):
        with pytest.raises(ValueError, match="level"):
            MetaCodec(level=level)
    with pytest.raises(ValueError, match="dictionary"):
        MetaCodec(b"\x37\xa4\x30\xec" + b"x" * 50)
    with pytest.raises(Error) as caught:
        train_dictionary(_samples()[:1])
    assert caught.value.etype is ErrorType.INTERNAL_ERROR
