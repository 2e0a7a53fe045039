"""Cache tags: read from either field, each once, and no more than there is room for."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache.tags import CACHE_TAG, SURROGATE_KEY, TagField, parse_tags
from pingora_http import ResponseHeader


def _response(*fields: tuple[str, str | bytes]) -> ResponseHeader:
    return ResponseHeader(200, headers=fields)


def test_cache_tag() -> None:
    """Cloudflare's field separates by commas; white space around them does not count."""
    response = _response(("Cache-Tag", "a,b , c\t,,  ,d e"), ("cache-tag", "f, a"))

    assert parse_tags(response) == (b"a", b"b", b"c", b"d e", b"f")


def test_surrogate_key() -> None:
    """Fastly's field separates by white space; a comma is part of a tag."""
    response = _response(("Surrogate-Key", "a  b\tc,d"), ("Surrogate-Key", "e a"))

    assert parse_tags(response) == (b"a", b"b", b"c,d", b"e")


def test_both() -> None:
    """A tag that both fields name is there once."""
    response = _response(("Surrogate-Key", "b c"), ("Cache-Tag", "a, b"))

    assert parse_tags(response) == (b"a", b"b", b"c")
    assert parse_tags(response, fields=[SURROGATE_KEY]) == (b"b", b"c")
    assert parse_tags(response, fields=[CACHE_TAG]) == (b"a", b"b")
    assert parse_tags(response, fields=()) == ()


def test_a_field_of_ones_own() -> None:
    """Which fields are read is up to the application."""
    response = _response(("xkey", "a b"), ("Cache-Tag", "c"))

    assert parse_tags(response, fields=(TagField("XKey", " "),)) == (b"a", b"b")
    assert parse_tags(response, fields=(TagField("no\u20acname", " "),)) == ()


def test_none() -> None:
    """Without a field, or with empty ones, there are no tags."""
    assert parse_tags(_response()) == ()
    assert parse_tags(_response(("Cache-Tag", ""), ("Surrogate-Key", "  "))) == ()


def test_bytes_and_case() -> None:
    """Tags are bytes, and differ if one byte does."""
    assert parse_tags(_response(("Cache-Tag", b"A,a,\xe4"))) == (b"A", b"a", b"\xe4")


def test_limits(caplog: pytest.LogCaptureFixture) -> None:
    """What there is no room for is left out, and said to be."""
    response = _response(("Cache-Tag", "a, toolong, b, a, c, d"))
    with caplog.at_level(logging.WARNING):
        assert parse_tags(response, max_tags=2, max_length=3) == (b"a", b"b")
        assert "left out 3 cache tags" in caplog.text
        assert "toolong" not in caplog.text

    caplog.clear()
    assert parse_tags(response, max_tags=5, max_length=7) == (b"a", b"toolong", b"b", b"c", b"d")
    assert parse_tags(_response(("Cache-Tag", "a" * 1025 + ",b"))) == (b"b",)
    many = ",".join(map(str, range(3000)))
    assert len(parse_tags(_response(("Cache-Tag", many)))) == 1000


@pytest.mark.parametrize("max_tags", [-1, 4097])
def test_misuse(max_tags: int) -> None:
    """No more tags than a meta holds."""
    with pytest.raises(ValueError, match="4096"):
        parse_tags(_response(), max_tags=max_tags)


_TAG = st.text("abc-", min_size=1, max_size=3).map(str.encode)


@given(tags=st.lists(_TAG, max_size=12), field=st.sampled_from([CACHE_TAG, SURROGATE_KEY]))
@settings(max_examples=60)
def test_tags_come_back(tags: list[bytes], field: TagField) -> None:
    """What an origin lists is what is read, in order, each once."""
    response = _response((field.name, field.separator.encode().join(tags)))

    assert parse_tags(response) == tuple(dict.fromkeys(tags))
