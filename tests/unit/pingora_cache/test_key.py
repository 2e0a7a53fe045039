"""Keys: their hashes are the original's, their bytes tell them apart."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache._key_parts import encode_parts
from pingora_cache.key import CACHE_KEY_ERROR, CacheKey, CompactCacheKey, hash_bytes, parse_hex
from pingora_error import Error

_AA = "ac10f2aef117729f8dad056b3059eb7e"
_AA_ZEROS = "004174d3e75a811a5b44c46b3856f3ee"
_OVERRIDE = "27c35e6e9373877f29e562464e46497e"
_ZEROS = bytes(16)


def _hash(text: str) -> bytes:
    value = parse_hex(text)
    assert value is not None
    return value


def _has(key: CacheKey, primary: str, combined: str, variance: bytes | None = None) -> None:
    """Assert the hashes of a key, and of what it is reduced to."""
    compact = key.to_compact()
    assert key.primary_hash.hex() == compact.primary.hex() == primary
    assert key.variance == compact.variance == variance
    assert key.hex == compact.hex == combined
    assert key.combined_hash == compact.combined_hash == bytes.fromhex(combined)


# ------------------------------------------------------------------- as the original


def test_cache_key_hash() -> None:
    """Without namespace and variance all hashes are that of the primary key."""
    _has(CacheKey("aa", user_tag="1"), _AA, _AA)


def test_cache_key_hash_override() -> None:
    """An override takes the place of the hash, and can be replaced."""
    key = CacheKey("aa", user_tag="1", primary_override=_hash(_OVERRIDE))
    _has(key, _OVERRIDE, _OVERRIDE)

    other = "62c95cd5614e70a02be2e233e1d65c39"
    key.primary_override = _hash(other)
    assert key.primary_override == _hash(other)
    _has(key, other, other)

    key.primary_override = None
    _has(key, _AA, _AA)


def test_cache_key_vary_hash() -> None:
    """A variance is hashed with the primary hash."""
    key = CacheKey("aa", user_tag="1")
    key.variance = _ZEROS
    _has(key, _AA, _AA_ZEROS, _ZEROS)

    key.variance = None
    _has(key, _AA, _AA)


def test_cache_key_vary_hash_override() -> None:
    """A variance is hashed with the override, if there is one."""
    key = CacheKey("saaaad", user_tag="1", primary_override=_hash(_AA))
    key.variance = _ZEROS
    _has(key, _AA, _AA_ZEROS, _ZEROS)

    key.primary_override = None
    assert key.combined_hash == hash_bytes(hash_bytes(b"saaaad") + _ZEROS)


def test_hex_str() -> None:
    """What is written as hexadecimal digits is read back."""
    key = bytes(range(16))

    assert parse_hex(key.hex()) == key


def test_primary_key_str() -> None:
    """A primary key and a namespace are text if they are UTF-8."""
    key = CacheKey("föo", namespace="näme")
    assert key.primary_text == "föo"
    assert key.namespace_text == "näme"


def test_primary_key_str_of_raw_bytes() -> None:
    """Bytes that are no UTF-8 are no text."""
    key = CacheKey(b"foo\xff", namespace=b"\xff")
    assert key.primary_text is None
    assert key.namespace_text is None


# ------------------------------------------------------------------- hashes


@pytest.mark.parametrize(
    "text", ["", "0" * 31, "0" * 33, "g" * 32, " " * 32, "0_" * 16, "0 " * 16, "\u0660" * 32]
)
def test_what_is_no_hash(text: str) -> None:
    """Only 32 hexadecimal digits are a hash."""
    assert parse_hex(text) is None


@pytest.mark.parametrize("size", [0, 15, 17, 32])
def test_a_hash_has_sixteen_bytes(size: int) -> None:
    """Anything else is a mistake of the programmer's."""
    key = CacheKey("a")
    with pytest.raises(ValueError, match="16 bytes"):
        key.variance = bytes(size)
    with pytest.raises(ValueError, match="16 bytes"):
        key.primary_override = bytes(size)
    with pytest.raises(ValueError, match="16 bytes"):
        CacheKey("a", primary_override=bytes(size))
    assert key == CacheKey("a")


def test_text_is_utf8() -> None:
    """Text and its UTF-8 bytes are the same key; a lone surrogate is one, too."""
    assert CacheKey("ä", namespace="ö") == CacheKey(b"\xc3\xa4", namespace=b"\xc3\xb6")
    assert CacheKey("\ud800") != CacheKey("\ud801")


def test_a_namespace_ends_where_it_ends() -> None:
    """H1: what is moved from the namespace to the primary key, or back, makes another key."""
    keys = [
        CacheKey("abc"),
        CacheKey("bc", namespace="a"),
        CacheKey("c", namespace="ab"),
        CacheKey("", namespace="abc"),
        CacheKey(b"\0\0\0\1abc"),
    ]

    assert len({key.combined_hash for key in keys}) == len(keys)


def test_a_namespace_survives_an_override() -> None:
    """When the override goes, the namespace counts again."""
    key = CacheKey("c", namespace="ab", primary_override=_ZEROS)
    key.primary_override = None

    assert key == CacheKey("c", namespace="ab")


@given(
    first=st.tuples(st.binary(max_size=6), st.binary(max_size=6)),
    second=st.tuples(st.binary(max_size=6), st.binary(max_size=6)),
)
@settings(max_examples=200)
def test_namespaces_do_not_meet(first: tuple[bytes, bytes], second: tuple[bytes, bytes]) -> None:
    """Two pairs of namespace and primary key have one hash only if they are the same."""
    hashes = [CacheKey(primary, namespace=name).combined_hash for name, primary in (first, second)]

    assert (hashes[0] == hashes[1]) == (first == second)


@given(
    first=st.lists(st.binary(max_size=5), max_size=5),
    second=st.lists(st.binary(max_size=5), max_size=5),
)
@settings(max_examples=200)
def test_parts_do_not_meet(first: list[bytes], second: list[bytes]) -> None:
    """H1: two sequences of parts are written alike only if they are the same."""
    assert (encode_parts(first) == encode_parts(second)) == (first == second)


@given(parts=st.lists(st.binary(max_size=300), max_size=6))
@settings(max_examples=100)
def test_parts_can_be_read_back(parts: list[bytes]) -> None:
    """Each part stands after its length, and nothing is left over."""
    data = encode_parts(parts)
    found = []
    while data:
        size = int.from_bytes(data[:4], "big")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]

    assert found == parts


# ------------------------------------------------------------------- objects


def test_equality() -> None:
    """Keys are equal if their hashes and whom they are accounted to are."""
    key = CacheKey("a", user_tag="x")
    other = CacheKey("other", user_tag="x", primary_override=key.primary_hash)
    assert key == other
    assert hash(key) == hash(other)

    assert key != CacheKey("a")
    assert key != CacheKey("b", user_tag="x")
    assert key != "a"
    other.variance = _ZEROS
    assert key != other


def test_a_copy_varies_on_its_own() -> None:
    """A copy has all that the key has, and can be given another variance."""
    key = CacheKey("a", namespace="n", user_tag="x", primary_override=_ZEROS)
    key.extensions["colour"] = "red"
    other = key.copy()
    assert other == key
    assert (other.primary, other.namespace, other.user_tag) == (b"a", b"n", "x")
    assert other.primary_override == _ZEROS

    other.variance = bytes(range(16))
    other.extensions["colour"] = "blue"
    assert key.variance is None
    assert key.hex == _ZEROS.hex()
    assert key.extensions == {"colour": "red"}
    assert CacheKey("b").copy().extensions == {}


def test_a_key_in_a_log_tells_no_secret() -> None:
    """The primary key may hold what nobody should read."""
    assert "secret" not in repr(CacheKey("/?token=secret", namespace="secret"))
    assert _AA in repr(CacheKey("aa"))


def test_compact_text() -> None:
    """A compact key is written as the original does."""
    key = CompactCacheKey(_hash(_AA), user_tag="me")
    assert str(key) == f"{_AA}, user_tag: me"

    key = CompactCacheKey(_hash(_AA), _ZEROS)
    assert str(key) == f"{_AA}, variance: {'0' * 32}, user_tag: "


def test_a_compact_key_is_a_tuple() -> None:
    """It can be the key of a dictionary, and be copied."""
    key = CompactCacheKey(_hash(_AA), _ZEROS, "me")

    assert {key: 1}[CompactCacheKey(_hash(_AA), _ZEROS, "me")] == 1
    assert copy.deepcopy(key) == key
    assert key != CompactCacheKey(_hash(_AA), _ZEROS)
    assert key != CompactCacheKey(_hash(_AA), None, "me")


@given(
    primary=st.binary(min_size=16, max_size=16),
    variance=st.none() | st.binary(min_size=16, max_size=16),
    tag=st.text(st.characters(exclude_categories=()), max_size=20),
)
@settings(max_examples=100)
def test_a_compact_key_comes_back(primary: bytes, variance: bytes | None, tag: str) -> None:
    """What is written as bytes is read back, whatever is in it."""
    key = CompactCacheKey(primary, variance, tag)

    assert CompactCacheKey.from_bytes(key.to_bytes()) == key


@given(data=st.binary(max_size=60))
@settings(max_examples=200)
def test_garbage_is_no_compact_key(data: bytes) -> None:
    """Any bytes are a key, and just the bytes of that key, or refused."""
    try:
        key = CompactCacheKey.from_bytes(data)
    except Error as error:
        assert error.etype == CACHE_KEY_ERROR  # noqa: PT017  # either is right
    else:
        assert key.to_bytes() == data


@pytest.mark.parametrize(
    "data", [b"", bytes(16), bytes(16) + b"\2", bytes(16) + b"\1" + bytes(15), bytes(17) + b"\xff"]
)
def test_damaged_compact_keys(data: bytes) -> None:
    """A key that ends too early, is of an unknown kind, or has a tag that is no text."""
    with pytest.raises(Error) as caught:
        CompactCacheKey.from_bytes(data)

    assert caught.value.etype == CACHE_KEY_ERROR
