"""The index of a head that hot code reads without a call."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from pingora_http import HeaderMap

_NAMES = st.sampled_from(["a", "A", "b", "B", "c", "d"])
_FIELDS = st.lists(st.tuples(_NAMES, st.sampled_from(["1", "2"])), max_size=6)
_CHANGES = st.lists(
    st.tuples(st.sampled_from(["insert", "append", "remove"]), _NAMES, st.sampled_from(["3", "4"])),
    max_size=8,
)


@given(_FIELDS, _CHANGES)
@settings(max_examples=200)
def test_the_index_is_what_first_values_returns(
    fields: list[tuple[str, str]], changes: list[tuple[str, str, str]]
) -> None:
    """It is None or right after each change, also where its order is not that of the fields."""
    head = HeaderMap(fields)
    for kind, name, value in changes:
        if kind == "insert":
            head.insert_header(name, value)
        elif kind == "append":
            head.append_header(name, value)
        else:
            head.remove_headers({name.lower().encode(), b"not-there"})
            assert name not in head
        assert head.raw_index is None or head.raw_index is head.first_values()
        fresh = HeaderMap(list(head))
        assert dict(head.first_values()) == dict(fresh.first_values())


@pytest.mark.parametrize(
    ("value", "stored"),
    [(" a b ", b"a b"), ("\ta\t", b"a"), ("", b""), ("\xe9 ", b"\xe9"), (b" x\t", b"x")],
)
def test_a_value_is_stripped_whatever_it_is_given_as(value: str | bytes, stored: bytes) -> None:
    """Text in ASCII, text beyond, and bytes lose the white space around them alike."""
    head = HeaderMap()
    head.insert_header("x", value)
    assert head.raw_items == [(b"x", stored)]
