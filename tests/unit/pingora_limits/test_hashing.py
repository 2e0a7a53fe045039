"""A key becomes one number, or one short text that every machine writes alike."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_limits import Rate
from pingora_limits._hashing import encode_key, hash_key

if TYPE_CHECKING:
    from pingora_limits import Key

_KEYS = st.text() | st.binary() | st.integers()


class _Plan(enum.StrEnum):
    FREE = "free"


@given(_KEYS, _KEYS)
def test_different_keys_have_different_hashes(first: Key, second: Key) -> None:
    """Two keys are counted together only if they are the same."""
    same = type(first) is type(second) and first == second

    assert (hash_key(first) == hash_key(second)) is same
    assert (encode_key(first) == encode_key(second)) is same


@given(_KEYS)
def test_a_hash_has_64_bits(key: Key) -> None:
    """Large integers do not make large hashes."""
    assert -(2**63) <= hash_key(key) < 2**63


def test_types_are_told_apart() -> None:
    """The text "1", the byte "1" and the number 1 are three keys."""
    keys: list[Key] = ["1", b"1", 1]

    assert len({hash_key(key) for key in keys}) == 3
    assert len({encode_key(key) for key in keys}) == 3


@pytest.mark.parametrize(("one", "other"), [(_Plan.FREE, "free"), (True, 1)])
def test_subclasses_are_what_they_are_equal_to(one: Key, other: Key) -> None:
    """A member of an enumeration of texts is the key of its text."""
    assert hash_key(one) == hash_key(other)
    assert encode_key(one) == encode_key(other)


def test_numbers_that_python_hashes_alike_are_different_keys() -> None:
    """hash(-1) == hash(-2), and integers repeat modulo 2**61 - 1."""
    keys = [-1, -2, 5, 5 + 2**61 - 1]

    assert len({hash_key(key) for key in keys}) == 4


@pytest.mark.parametrize("key", [None, 1.5, ("a",), bytearray(b"a")])
def test_other_types_are_misuse(key: object) -> None:
    """A key of another type is refused, and by name."""
    for function in (hash_key, encode_key, Rate(1.0).observe):
        with pytest.raises(TypeError, match=f"str, bytes or int, not {type(key).__name__}"):
            function(key)  # type: ignore[arg-type]


def test_encoded_keys_are_stable_and_short() -> None:
    """Other machines and later versions write the same."""
    assert encode_key("10.0.0.1") == b"s:10.0.0.1"
    assert encode_key(b"\x00\xff") == b"b:\x00\xff"
    assert encode_key(255) == b"i:ff"
    assert encode_key("a" * 65) == b"s#c4bed20069c5205e2a284af0d43de3263a5f8abe3806dbaf"
    assert encode_key("\ud800") == b"s:\xed\xa0\x80"
    assert max(len(encode_key(key)) for key in ("a" * 1000, b"a" * 64, 2**4000)) == 66
