"""Cache-Status: what is written is a structured field, and says no more than it should."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache.cache import HttpCache
from pingora_cache.cache_status import (
    CacheStatusValue,
    ForwardReason,
    append_cache_status,
    parse_cache_status,
    status_of_phase,
)
from pingora_cache.phase import CachePhase
from pingora_cache.reason import NoCacheReason
from pingora_error import Error, ErrorType
from pingora_http import ResponseHeader


def _response(*lines: str | bytes) -> ResponseHeader:
    return ResponseHeader(200, headers=[("Cache-Status", line) for line in lines])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (CacheStatusValue(cache="ExampleCache", hit=True), "ExampleCache; hit"),
        (CacheStatusValue(cache="ExampleCache", hit=True, ttl=376), "ExampleCache; hit; ttl=376"),
        (CacheStatusValue(cache="ExampleCache", hit=True, ttl=-412), "ExampleCache; hit; ttl=-412"),
        (
            CacheStatusValue(cache="ExampleCache", fwd=ForwardReason.URI_MISS),
            "ExampleCache; fwd=uri-miss",
        ),
        (
            CacheStatusValue(cache="ExampleCache", fwd=ForwardReason.STALE, fwd_status=304),
            "ExampleCache; fwd=stale; fwd-status=304",
        ),
        (
            CacheStatusValue(
                cache="ExampleCache", fwd=ForwardReason.URI_MISS, stored=True, collapsed=True
            ),
            "ExampleCache; fwd=uri-miss; stored; collapsed",
        ),
        (
            CacheStatusValue(cache="ExampleCache", fwd=ForwardReason.URI_MISS, collapsed=False),
            "ExampleCache; fwd=uri-miss; collapsed=?0",
        ),
        (
            CacheStatusValue(cache="BrowserCache", fwd=ForwardReason.BYPASS),
            "BrowserCache; fwd=bypass",
        ),
        (
            CacheStatusValue(cache="CDN Company Here", hit=True, ttl=545),
            '"CDN Company Here"; hit; ttl=545',
        ),
        (CacheStatusValue(cache="a", detail="OriginNotCache"), "a; detail=OriginNotCache"),
        (CacheStatusValue(cache="a", detail='say "no"\\'), 'a; detail="say \\"no\\"\\\\"'),
        (CacheStatusValue(cache="1", key="https://a/"), '"1"; key="https://a/"'),
        (CacheStatusValue(cache="a", ttl=10**20), "a; ttl=999999999999999"),
        (CacheStatusValue(cache="a", ttl=-(10**20)), "a; ttl=-999999999999999"),
        (CacheStatusValue(cache="a"), "a"),
    ],
)
def test_text(value: CacheStatusValue, text: str) -> None:
    """RFC 9211 section 3, and what goes beyond its examples."""
    assert str(value) == text
    found = parse_cache_status(_response(text))
    assert [str(member) for member in found] == [text]


def test_each_cache_appends() -> None:
    """What the caches nearer to the origin have said stays in front, however it is split."""
    response = _response("a; hit, b; fwd=miss", "c; fwd=stale")
    response.append_header("X", "y")
    append_cache_status(response, CacheStatusValue(cache="d", hit=True))

    assert [value.cache for value in parse_cache_status(response)] == ["a", "b", "c", "d"]
    assert response.get_all("cache-status") == ["a; hit, b; fwd=miss", "c; fwd=stale", "d; hit"]

    fresh = ResponseHeader(200)
    append_cache_status(fresh, CacheStatusValue(cache="d", hit=True))
    assert fresh.get_all("cache-status") == ["d; hit"]


def test_nothing_gets_out_of_its_string() -> None:
    """Text that would end a string, a member or a field does not: it is escaped or encoded."""
    nasty = 'a", evil; hit\r\nSet-Cookie: x=y\0 \u20ac\ud800'
    response = ResponseHeader(200)
    append_cache_status(response, CacheStatusValue(cache=nasty, key=nasty, detail=nasty))

    (value,) = parse_cache_status(response)
    encoded = 'a", evil; hit%0D%0ASet-Cookie: x=y%00 %E2%82%AC%ED%A0%80'
    assert (value.cache, value.key, value.detail) == (encoded, encoded, encoded)
    assert not value.hit
    assert len(response) == 1


def test_text_is_bounded() -> None:
    """A key of a megabyte does not make a head of a megabyte."""
    long = "x" * 1_000_000

    assert len(str(CacheStatusValue(cache=long, key=long, detail=long))) < 3200


def test_a_key_only_when_asked() -> None:
    """Nothing about the key is told by default."""
    assert CacheStatusValue(cache="a").key is None
    assert "key" not in str(CacheStatusValue(cache="a", hit=True, ttl=1, detail="x"))


def test_misuse() -> None:
    """What contradicts itself is refused."""
    with pytest.raises(ValueError, match="either"):
        CacheStatusValue(cache="a", hit=True, fwd=ForwardReason.MISS)
    with pytest.raises(ValueError, match="name"):
        CacheStatusValue(cache="")
    with pytest.raises(ValueError, match="three digits"):
        CacheStatusValue(cache="a", fwd_status=99)


@pytest.mark.parametrize(
    "line",
    [
        "a; hit,",
        ", a",
        "a hit",
        "a; ttl=",
        "a; Hit",
        '"a',
        "a; detail=%",
        "(a b); hit",
        "1; hit",
        '""; hit',
        "?1",
        b"\xe4",
    ],
)
def test_malformed(line: str | bytes) -> None:
    """What is no list of names is refused as a whole."""
    with pytest.raises(Error) as caught:
        parse_cache_status(_response("fine; hit", line))

    assert caught.value.etype is ErrorType.INVALID_HTTP_HEADER


@pytest.mark.parametrize(
    "parameters",
    [
        "hit=?0",
        "hit=1",
        "fwd",
        "fwd=unheard-of",
        'fwd="miss"',
        "fwd-status=99",
        "fwd-status=?1",
        "ttl=1.5",
        "stored=yes",
        "collapsed=1",
        "key=token",
        "key",
        "detail=1",
        "unheard-of=:YQ==:",
    ],
)
def test_parameters_of_another_type(parameters: str) -> None:
    """What means nothing is left out; the rest of the member counts."""
    (value,) = parse_cache_status(_response(f"a; {parameters}"))

    assert value == CacheStatusValue(cache="a")


def test_hit_wins() -> None:
    """A member that says both is a hit."""
    (value,) = parse_cache_status(_response("a; fwd=miss; hit"))

    assert value == CacheStatusValue(cache="a", hit=True)


def test_none() -> None:
    """Without the field, or with an empty one, nobody has said anything."""
    assert parse_cache_status(ResponseHeader(200)) == []
    assert parse_cache_status(_response("", "a; hit", "")) == [
        CacheStatusValue(cache="a", hit=True)
    ]


_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)


@given(
    values=st.lists(
        st.builds(
            CacheStatusValue,
            cache=_TEXT.filter(bool),
            hit=st.booleans(),
            fwd_status=st.none() | st.integers(100, 999),
            ttl=st.none() | st.integers(-(10**14), 10**14),
            stored=st.booleans(),
            collapsed=st.none() | st.booleans(),
            key=st.none() | _TEXT,
            detail=st.none() | _TEXT.filter(bool),
        ),
        max_size=3,
    ),
    reason=st.sampled_from(ForwardReason),
)
@settings(max_examples=100)
def test_values_come_back(values: list[CacheStatusValue], reason: ForwardReason) -> None:
    """What is written is read back, in one line or in several."""
    values = [value if value.hit else dataclasses.replace(value, fwd=reason) for value in values]
    response = ResponseHeader(200)
    for value in values:
        append_cache_status(response, value)

    assert parse_cache_status(response) == values
    if values:
        assert parse_cache_status(_response(", ".join(map(str, values)))) == values


@given(line=st.binary(max_size=40))
@settings(max_examples=100)
def test_garbage(line: bytes) -> None:
    """Garbage is refused, or read as something that can be written again."""
    plain = line.translate(None, bytes(range(32)) + b"\x7f")
    try:
        found = parse_cache_status(_response(plain))
    except Error as error:
        assert error.etype is ErrorType.INVALID_HTTP_HEADER  # noqa: PT017  # either is right
    else:
        assert parse_cache_status(_response(", ".join(map(str, found)))) == found


# ------------------------------------------------------------------- of a request

_ORIGIN = NoCacheReason.ORIGIN_NOT_CACHE


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (status_of_phase("c", CachePhase.HIT, fresh_for=30.9), "c; hit; ttl=30"),
        (status_of_phase("c", CachePhase.HIT, fresh_for=-0.1), "c; hit; ttl=-1"),
        (
            status_of_phase("c", CachePhase.HIT, fresh_for=9.0, waited=True),
            "c; hit; ttl=9; collapsed",
        ),
        (
            status_of_phase("c", CachePhase.STALE_UPDATING, fresh_for=-5.0),
            "c; hit; ttl=-5; detail=stale-while-revalidate",
        ),
        (
            status_of_phase("c", CachePhase.STALE, fresh_for=-5.0),
            "c; fwd=stale; ttl=-5; detail=stale-if-error",
        ),
        (
            status_of_phase("c", CachePhase.MISS, fresh_for=5.0, stored=True),
            "c; fwd=uri-miss; ttl=5; stored",
        ),
        (
            status_of_phase("c", CachePhase.MISS, is_variant=True, waited=True),
            "c; fwd=vary-miss; collapsed=?0",
        ),
        (
            status_of_phase("c", CachePhase.EXPIRED, fresh_for=float("inf"), stored=True),
            "c; fwd=stale; ttl=999999999999999; stored",
        ),
        (
            status_of_phase("c", CachePhase.REVALIDATED, fresh_for=float("nan")),
            "c; fwd=stale; fwd-status=304; ttl=-999999999999999",
        ),
        (
            status_of_phase("c", CachePhase.REVALIDATED_NO_CACHE, reason=_ORIGIN),
            "c; fwd=stale; fwd-status=304; detail=OriginNotCache",
        ),
        (status_of_phase("c", CachePhase.REVALIDATED_NO_CACHE), "c; fwd=stale; fwd-status=304"),
        (status_of_phase("c", CachePhase.BYPASS, stored=True), "c; fwd=bypass; stored"),
        (status_of_phase("c", CachePhase.DISABLED), "c; fwd=bypass"),
        (
            status_of_phase("c", CachePhase.DISABLED, reason=NoCacheReason.NEVER_ENABLED),
            "c; fwd=bypass",
        ),
        (
            status_of_phase("c", CachePhase.DISABLED, reason=_ORIGIN, looked_up=True),
            "c; fwd=miss; detail=OriginNotCache",
        ),
        (
            status_of_phase("c", CachePhase.DISABLED, reason=NoCacheReason.custom("logged in")),
            'c; fwd=bypass; detail="logged in"',
        ),
        (
            status_of_phase("c", CachePhase.DISABLED, reason=NoCacheReason.custom("method")),
            "c; fwd=method",
        ),
        (status_of_phase("c", CachePhase.UNINIT, waited=True), "c"),
        (status_of_phase("c", CachePhase.CACHE_KEY), "c"),
    ],
)
def test_phases(value: CacheStatusValue, text: str) -> None:
    """Each phase is told in the terms of the RFC."""
    assert str(value) == text


def test_a_request_that_has_nothing_to_do_with_the_cache() -> None:
    """A cache that was never switched on has been bypassed."""
    assert str(HttpCache().status("c")) == "c; fwd=bypass"
