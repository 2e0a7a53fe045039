"""The predicates allow exactly the bytes that the RFCs allow."""

from __future__ import annotations

import string

import pytest

from pingora_http import grammar, names
from pingora_http.grammar import is_field_value, is_target, is_token

_TCHAR = set((string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~").encode())


@pytest.mark.parametrize("number", range(256))
def test_every_byte(number: int) -> None:
    """RFC 9110 sections 5.6.2 and 5.5; RFC 9112 section 3.2: byte by byte."""
    byte = bytes([number])
    is_text = 0x21 <= number <= 0x7E or number >= 0x80

    assert is_token(byte) == is_token(b"a" + byte) == (number in _TCHAR)
    assert is_field_value(byte) == (is_text or byte in {b" ", b"\t"})
    assert is_target(byte) == is_text


def test_empty_text() -> None:
    """A value may be empty; a token or a target may not."""
    assert is_field_value(b"")
    assert not is_token(b"")
    assert not is_target(b"")


def test_lower_case_tokens() -> None:
    """The lower-case alphabet is the token alphabet without capitals."""
    assert set(grammar.TOKEN_BYTES) == _TCHAR
    assert set(grammar.TOKEN_LOWER_BYTES) == set(grammar.TOKEN_BYTES.lower())


def test_names_are_ready_for_look_up() -> None:
    """Every constant is a lower-case token and is called as it reads."""
    constants = {key: value for key, value in vars(names).items() if key.isupper()}

    assert constants
    for name, value in constants.items():
        assert isinstance(value, bytes)
        assert is_token(value)
        assert value == name.lower().replace("_", "-").encode()
